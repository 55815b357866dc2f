"""What ``castlewalls fetch`` does: downloads what a testbed needs, checks it, converts it."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch.hub

from bench.errors import UserError
from bench.importing.hub import fetched
from bench.importing.needed import Archive, ByHand, File, Repository, Step, steps_of
from bench.importing.pickles import ENDINGS, to_safetensors
from bench.testbeds.testbed import Testbed
from bench.text import one_line

State = Literal["here", "to fetch", "fetched", "by hand", "failed"]


@dataclass
class Fetched:
    """One step, and what came of it. ``detail``: of a failure, or what a person has to do."""

    step: Step
    state: State
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        values = {key: value for key, value in asdict(self.step).items() if value not in (None, "")}
        return values | {
            "target": str(self.step.target),
            "state": self.state,
            "detail": self.detail,
        }


def fetch(
    testbed: Testbed, *, dry_run: bool = False, tell: Callable[[Fetched], None] = lambda step: None
) -> list[Fetched]:
    """Takes every step that ``testbed`` still needs; what is here is left alone. A step that fails
    does not keep the others from being taken. ``tell``: called before a download and after each
    step.
    """
    results = []
    for part in testbed.parts().values():
        needed = part.missing()
        steps = steps_of(part)
        by_hand = any(isinstance(step, ByHand) for step in steps)
        for step in steps:
            # What is missing may be what a person has to do, of an archive that is there.
            unpacked = by_hand and isinstance(step, Archive) and _unpacked(step).exists()
            result = Fetched(step, "to fetch" if needed and not unpacked else "here")
            if needed and isinstance(step, ByHand):
                result = Fetched(step, "by hand", step.remedy)
            if result.state == "to fetch" and not dry_run:
                tell(result)
                result = _taken(step)
            tell(result)
            results.append(result)
    return results


def _taken(step: Step) -> Fetched:
    try:
        if isinstance(step, Archive):
            _unpack(step)
        elif isinstance(step, File):
            _file(step)
        elif isinstance(step, Repository):
            _repository(step)
    except UserError as error:
        return Fetched(step, "failed", str(error))
    return Fetched(step, "fetched")


def _download(url: str, sha256: str, target: Path) -> None:
    """To ``target``, whole and with that hash, or not at all."""
    try:
        torch.hub.download_url_to_file(url, str(target), hash_prefix=sha256)
    except RuntimeError as error:
        raise UserError(f"{url}: {error}; nothing of it is kept") from error
    except (OSError, ValueError) as error:  # no network, no such file, no space
        raise UserError(
            f"{url} could not be fetched ({getattr(error, 'reason', error)}); fetch it elsewhere "
            f"and put it where docs/paper-scale.md says"
        ) from error


def _unpack(step: Archive) -> None:
    """Beside the target first, so that an archive that breaks off leaves nothing there. What was
    unpacked before, and is not what the testbed takes, is in the way: said before the download.
    """
    _refuse(_unpacked(step))
    step.target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=step.target, prefix=".fetch-") as folder:
        archive = Path(folder, "archive")
        _download(step.url, step.sha256, archive)
        if not hasattr(tarfile, "data_filter"):  # the first releases of 3.10 and 3.11
            raise UserError(f"this Python cannot unpack {step.what} safely; a newer 3.x can")
        inside = Path(folder, "inside")
        try:
            with tarfile.open(archive) as opened:
                opened.extractall(inside, filter="data")  # no link or path leads out of it
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            why = one_line(str(error))
            raise UserError(f"{step.what} could not be unpacked: {why}") from error
        for path in inside.iterdir():
            _refuse(step.target / path.name)
            shutil.move(str(path), str(step.target / path.name))


def _unpacked(step: Archive) -> Path:
    return step.target / step.holds


def _refuse(target: Path) -> None:
    if target.exists():
        raise UserError(f"{target} is there already; move it away")


def _file(step: File) -> None:
    step.target.parent.mkdir(parents=True, exist_ok=True)
    if not step.converted:
        _download(step.url, step.sha256, step.target)
        return
    with tempfile.TemporaryDirectory(dir=step.target.parent, prefix=".fetch-") as folder:
        pickled = Path(folder, "weights.pth")
        _download(step.url, step.sha256, pickled)
        to_safetensors(pickled, step.target)


def _repository(step: Repository) -> None:
    repository = fetched(step.repository, step.revision, step.files)
    if not step.converted:
        return
    step.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=step.target.parent, prefix=".fetch-") as folder:
        made = Path(folder, "made")
        made.mkdir()
        for path in sorted(repository.rglob("*")):
            if path.suffix in ENDINGS:
                to_safetensors(path, made / path.with_suffix(".safetensors").name)
            elif path.suffix == ".json":
                shutil.copyfile(path, made / path.name)
        _refuse(step.target)
        os.replace(made, step.target)
