"""Testbeds by name. A lazy table: reading it imports no data set and no network."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.names import unknown_name
from bench.params import construct

if TYPE_CHECKING:
    from bench.testbeds.base import Testbed

#: name -> "module:class"
TESTBEDS = {
    "digits-ddpm": "bench.testbeds.digits_ddpm:DigitsDDPM",
    "digits-cfg": "bench.testbeds.digits_cfg:DigitsCFG",
    "digits-sd": "bench.testbeds.digits_sd:DigitsSD",
    "cifar10-ddpm": "bench.testbeds.cifar10:Cifar10DDPM",
    "cifar10-cfg": "bench.testbeds.cifar10_cfg:Cifar10CFG",
    "celebahq-ddpm": "bench.testbeds.celebahq:CelebAHQDDPM",
    "imagenette-sd": "bench.testbeds.imagenette_sd:ImagenetteSD",
    "caltech15-sd": "bench.testbeds.caltech15_sd:Caltech15SD",
    "captions-sd": "bench.testbeds.captions_sd:CaptionsSD",
}

ASSETS = Path(__file__).resolve().parent / "assets"
SUMS = "SHA256SUMS"

Progress = Callable[[int, int, str], None]


def names() -> list[str]:
    """Every testbed's name, sorted."""
    return sorted(TESTBEDS)


def load(name: str) -> type[Testbed]:
    """The testbed's class. Raises :class:`UserError` suggesting the nearest name."""
    if name not in TESTBEDS:
        raise unknown_name("testbed", name, TESTBEDS)
    module, _, attribute = TESTBEDS[name].partition(":")
    found: type[Testbed] = getattr(importlib.import_module(module), attribute)
    return found


def build(name: str, params: Mapping[str, Any] | None = None, where: str = "") -> Testbed:
    """The testbed ``(name, params)``. Raises :class:`UserError` naming the parameter, the
    constraint and the value.
    """
    try:
        cls = load(name)
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None
    return construct(cls, f"testbed {name}", params or {}, where)


def is_embedded(name: str) -> bool:
    """Whether the testbed's weights ship with the package (and :func:`pretrain` makes them
    anew).
    """
    return load(name).embedded


def pretrain(name: str, output: Path, progress: Progress | None = None) -> dict[str, float]:
    """Trains what the testbed needs and nobody else publishes, and writes it into the folder
    ``output`` with its hashes: base weights and evaluation network of an embedded testbed, the
    evaluation classifier of ``cifar10-cfg``.

    Returns what was reached, by name. Raises :class:`UserError` for a testbed whose weights are
    published elsewhere.
    """
    module = importlib.import_module(load(name).__module__)
    if not hasattr(module, "pretrain"):
        raise UserError(f"testbed {name!r} uses published weights, so there is nothing to pretrain")
    reached: dict[str, float] = module.pretrain(output, progress=progress)
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
