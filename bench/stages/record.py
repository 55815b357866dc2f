"""The record of a cell: what its measurements gave, what it cost, and its pictures. It computes no
number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from bench.artefacts.aims import read_aim
from bench.artefacts.images import load_images
from bench.artefacts.recovered import labels_of
from bench.artefacts.roles import MEASURED_BY, UNDEFENDED, samples
from bench.diffusion.images import to_uint8
from bench.engine.context import Inputs, Params, StageContext
from bench.measurements.measurement import Measured
from bench.record import Flag, Picture, PluginSpec, Record
from bench.stages.measure import MEASURED
from bench.text import one_line

#: Images in a picture.
STRIP = 8
SCALE = 3
#: Stamped held-out images are shown so far apart, since neighbours are crops of one digit.
APART = 20


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes ``record.json`` and the pictures of one cell."""
    total = Measured(
        flags=[Flag(**flag) for flag in params["tuned"]], absent=dict(params["absent"])
    )
    for role in (role for role in inputs if role.startswith(MEASURED_BY)):
        measured = Measured.from_json(json.loads((inputs[role] / MEASURED).read_text()))
        total.metrics |= measured.metrics
        total.series |= measured.series
        total.flags += measured.flags
        total.absent |= measured.absent
    pictures = {}
    for index, (role, treatment, images) in enumerate(_strips(params, inputs)):
        picture = pictures[role, treatment] = Picture(role, treatment, f"strip-{index}.png")
        _write_strip(images, out / picture.path)
    record = Record(
        testbed=PluginSpec(**params["testbed"]),
        attack=PluginSpec(**params["attack"]),
        defense=PluginSpec(**params["defense"]),
        probe=PluginSpec(**params["probe"]) if params["probe"] else None,
        sampler=PluginSpec(**params["sampler"]) if params["sampler"] else None,
        seed=params["seed"],
        seeds=tuple(params.get("seeds", ())),
        kind=params["kind"],
        status="ok",
        protocol=params["protocol"],
        metrics=total.metrics,
        series=total.series,
        flags=tuple(total.flags),
        absent=total.absent,
        cost=context.charged,
        provenance=context.provenance,
        pictures=tuple(pictures.values()),
    )
    (out / "record.json").write_text(record.to_json())
    return {}


def _strips(params: Params, inputs: Inputs) -> Iterator[tuple[str, str, Tensor]]:
    """What a reader sees of the cell, by role and treatment: (n > 0, c, h, w) uint8 each."""
    aim = read_aim(inputs["aim"]) if "aim" in inputs else None
    if aim is not None and aim.stamped is not None:
        yield "stamped", "", aim.stamped[: STRIP * APART : APART]
    wanted = None if aim is None else aim.examples
    if aim is not None and aim.target is not None:
        wanted = to_uint8(aim.target)[None]
    if aim is not None and wanted is not None:
        yield "target_image", "", wanted[:STRIP]
    if aim is not None and aim.trigger is not None:
        yield "trigger_image", "", to_uint8(aim.trigger)[None]
    if "recovered" in inputs:
        yield from _recovered(inputs["recovered"])
    defended = params["defense"]["name"] if params["kind"] in ("sampler", "model") else ""
    present = {role.removeprefix(UNDEFENDED) for role in inputs}
    for role in samples(present):
        if UNDEFENDED + role in inputs:
            yield role, "", load_images(inputs[UNDEFENDED + role])[:STRIP]
        if role in inputs:
            yield role, defended, load_images(inputs[role])[:STRIP]


def _recovered(folder: Path) -> Iterator[tuple[str, str, Tensor]]:
    """What an inversion recovered, by epoch."""
    for name, what in (("targets", "recovered"), ("triggers", "recovered_trigger")):
        if (folder / f"{name}.npz").is_file():
            labels = labels_of(folder)
            for label, images in zip(labels, load_images(folder, name), strict=True):
                yield f"{what}:{one_line(label, 200)}", "", images[:STRIP]


def _write_strip(images: Tensor, path: Path) -> None:
    """One row of images side by side, enlarged without smoothing so that every pixel can be
    seen.
    """
    row = np.concatenate(list(images.numpy()), axis=2).transpose(1, 2, 0)
    picture = Image.fromarray(row if row.shape[2] == 3 else row[:, :, 0])
    scale = SCALE if images.shape[-1] <= 64 else 1
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(
        path, optimize=True
    )
