"""The record of a cell whose model restored images, with pictures of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from bench.artefacts.images import load_images
from bench.artefacts.inpainted import load_inputs
from bench.artefacts.roles import (
    CORRUPTED,
    CORRUPTED_CALL,
    ORIGINALS,
    RESTORED,
    UNDEFENDED,
)
from bench.diffusion.images import to_uint8
from bench.engine.context import Inputs, Params, StageContext
from bench.record import Picture, Record
from bench.stages import record


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """As :mod:`bench.stages.record`, which knows of no originals."""
    costs = record.run(params, inputs, out, context)
    path = out / "record.json"
    made = Record.from_json(path.read_text())
    pictures = list(made.pictures)
    for role, treatment, images in _strips(params, inputs):
        pictures.append(Picture(role, treatment, f"strip-{len(pictures)}.png"))
        record._write_strip(images[: record.STRIP], out / pictures[-1].path)
    path.write_text(replace(made, pictures=tuple(pictures)).to_json())
    return costs


def _strips(params: Params, inputs: Inputs) -> Iterator[tuple[str, str, Tensor]]:
    yield ORIGINALS, "", load_images(inputs[ORIGINALS])
    for role, folder in inputs.items():
        if role.startswith((CORRUPTED, CORRUPTED_CALL)):
            yield role, "", to_uint8(load_inputs(folder))
    defended = params["defense"]["name"] if params["kind"] in ("sampler", "model") else ""
    for role in dict.fromkeys(name.removeprefix(UNDEFENDED) for name in inputs):
        if role.startswith(RESTORED):
            for name, treatment in ((UNDEFENDED + role, ""), (role, defended)):
                if name in inputs:
                    yield role, treatment, load_images(inputs[name])
