"""Testbeds by name. A lazy table: reading it imports no data set and no network."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.names import shortened, unknown_name
from bench.params import coerced

if TYPE_CHECKING:
    from bench.testbeds.testbed import Testbed

#: name -> "module:declaration"
TESTBEDS = {
    "digits-ddpm": "bench.testbeds.digits_ddpm:DIGITS_DDPM",
    "digits-cfg": "bench.testbeds.digits_cfg:DIGITS_CFG",
    "fashion-ddpm": "bench.testbeds.fashion_ddpm:FASHION_DDPM",
    "fashion-cfg": "bench.testbeds.fashion_cfg:FASHION_CFG",
    "digits-sd": "bench.testbeds.digits_sd:DIGITS_SD",
    "cifar10-ddpm": "bench.testbeds.cifar10_ddpm:CIFAR10_DDPM",
    "cifar10-cfg": "bench.testbeds.cifar10_cfg:CIFAR10_CFG",
    "celebahq-ddpm": "bench.testbeds.celebahq_ddpm:CELEBAHQ_DDPM",
    "imagenette-sd": "bench.testbeds.imagenette_sd:IMAGENETTE_SD",
    "caltech15-sd": "bench.testbeds.caltech15_sd:CALTECH15_SD",
    "captions-sd": "bench.testbeds.captions_sd:CAPTIONS_SD",
}

ASSETS = Path(__file__).resolve().parent / "assets"
SUMS = "SHA256SUMS"

Progress = Callable[[int, int, str], None]


def names() -> list[str]:
    """Every testbed's name, sorted."""
    return sorted(TESTBEDS)


def load(name: str) -> Testbed:
    """The testbed as it is declared. Raises :class:`UserError` suggesting the nearest name."""
    if name not in TESTBEDS:
        raise unknown_name("testbed", name, TESTBEDS)
    declared: Testbed = getattr(module(name), TESTBEDS[name].partition(":")[2])
    return declared


def build(
    name: str,
    params: Mapping[str, Any] | None = None,
    where: str = "",
    parts: Collection[str] | None = None,
) -> Testbed:
    """The testbed ``(name, params)``, or of it ``parts`` alone, whose parameters these then are.
    Raises :class:`UserError` naming the parameter, the constraint and the value.
    """
    prefix = f"{where}: " if where else ""
    try:
        declared = load(name)
    except UserError as error:
        raise UserError(f"{prefix}{error}") from None
    if parts is not None:
        declared = declared.only(parts)
    values = coerced(declared.domains(), f"testbed {name}", params or {}, where)
    try:
        return declared.changed(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{prefix}{shortened(str(error))}") from error


def module(name: str) -> ModuleType:
    """The file that declares the testbed."""
    return importlib.import_module(TESTBEDS[name].partition(":")[0])


def is_embedded(name: str) -> bool:
    """Whether all that the testbed needs ships with the package: its data, and its weights, which
    :func:`pretrain` makes anew.
    """
    return load(name).embedded


def pretrain(
    name: str, output: Path, progress: Progress | None = None, device: str | None = None
) -> dict[str, float]:
    """Trains what the testbed needs and nobody else publishes, and writes it into the folder
    ``output`` with its hashes: base weights and evaluation network of an embedded testbed, the
    evaluation classifier of ``cifar10-cfg``. ``device``: ``cpu``, ``cuda``, or the testbed's own
    choice.

    Returns what was reached, by name. Raises :class:`UserError` for a testbed whose weights are
    published elsewhere.
    """
    load(name)  # or its name is no testbed's
    made_by = module(name)
    if not hasattr(made_by, "pretrain"):
        raise UserError(f"testbed {name!r} uses published weights, so there is nothing to pretrain")
    chosen = {} if device is None else {"device": device}
    reached: dict[str, float] = made_by.pretrain(output, progress=progress, **chosen)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(output).as_posix()}\n"
        for path in sorted(output.rglob("*.safetensors"))
    ]
    (output / SUMS).write_text("".join(lines))
    return reached


def damaged_files(folder: Path = ASSETS) -> list[str]:
    """The shipped weights that are missing or not the ones ``SHA256SUMS`` beside them names, one
    line each.
    """
    sums = folder / SUMS
    if not sums.is_file():
        return [f"{sums} is missing"]
    lines = []
    for line in sums.read_text().splitlines():
        expected, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file():
            lines.append(f"{file} is missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            lines.append(f"{file} is not the file that was shipped")
    return lines
