"""Witnesses: what a cell's numbers can be calculated from without its plugin, taken from what its
stages left, and read again from a bundle.

A cell's arrays are one safetensors file; images are lossless pictures of the first few of them.

| array | shape | what it holds |
|---|---|---|
| ``noise:SET``, ``prompts:SET`` | (n,) | a detector's scores of one set that it judged |
| ``training``, ``generated`` | (n,) | its scores of training rows compared, and of images |
| ``training:truth``, ``generated:truth`` | (n,) bool | which of them are poisoned |
| ``training:groups`` | (n,) int64 | rows that belong together |
| ``held_out`` | (k,) | its scores of clean images, which fix its threshold |
| ``model`` | (1,) | its score of the model |
| ``prompt:stamped``, ``prompt:mismatch`` | (n,) bool | which images of the adversary's class carry
  the trigger, and which show another class |
| ``mse:ROLE``, ``ssim:ROLE`` | (n,) | a sample's distance and likeness to the target |
| ``targets``, ``triggers`` | (epochs, k) | the MSE of what an inversion recovered to the true one |

Outcomes sample by sample (is the target recognised, is the class reached) are the series
``outcomes[METRIC]`` of the records themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.artefacts.aims import read_rows
from bench.artefacts.arrays import load_scores
from bench.artefacts.images import load_images
from bench.artefacts.judges import load_judge
from bench.artefacts.roles import CLEAN, TARGET, UNDEFENDED, samples, short
from bench.bundle import grids, tensors
from bench.bundle.bag import sha256
from bench.bundle.layout import INDEX, WITNESS, cell_name, read_json, to_json
from bench.bundle.tensors import Array
from bench.classification.classifier import predict
from bench.measurements.measurement import Materials
from bench.metrics import target
from bench.record import Record

#: The series a subject's scores are called by, by the role of the stage's result.
SUBJECTS = {"scores_noise": "noise", "scores_prompts": "prompts"}
#: How many samples of a set are pictured.
SAMPLES = 64
#: What an inversion recovers, and the part of the aim that it is held against.
RECOVERED = {"targets": "target", "triggers": "trigger"}


@dataclass(kw_only=True)
class Witness:
    """Of one cell, ``cell`` in words. ``arrays``: see the module; ``images``: role -> the first of
    them, uint8 (k, c, h, w); ``aim``: ``target`` and ``trigger``, (c, h, w) in [-1, 1], of the
    attack, if it has them.
    """

    cell: str = ""
    arrays: dict[str, Array] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    aim: dict[str, Tensor] = field(default_factory=dict)


def unit(image: Tensor) -> Tensor:
    """From [-1, 1] to [0, 1]."""
    return (image / 2 + 0.5).clamp(0, 1)


# --- from a store ---------------------------------------------------------------------------------


def collect(materials: Materials) -> Witness:
    """The witness of a cell, from the folders of its artefacts."""
    witness, inputs = Witness(), materials.inputs
    if "aim" in inputs:
        aims = {"target": materials.aim.target, "trigger": materials.aim.trigger}
        witness.aim = {name: image for name, image in aims.items() if image is not None}
    for role, subject in SUBJECTS.items():
        if role in inputs:
            scores = load_scores(inputs[role])
            witness.arrays |= {f"{subject}:{name}": array for name, array in scores.items()}
    if "scores_model" in inputs:
        witness.arrays["model"] = load_scores(inputs["scores_model"])["model"]
    if "scores" in inputs:
        witness.arrays |= _judged_rows(materials)
    if "recovered" in inputs:
        _add_recovered(witness, materials)
    for role in () if "scores" in inputs else samples(inputs):
        images = load_images(inputs[role])
        _add_distances(witness, short(role), images)
        witness.images[role] = _first(images, SAMPLES)
    if TARGET in inputs and materials.testbed.has_classes():
        witness.arrays |= _composition(materials)
    return witness


def _first(images: Tensor, most: int) -> Tensor:
    return images[: grids.fitting(min(len(images), most), *images.shape[2:])]


def _add_distances(witness: Witness, where: str, images: Tensor) -> None:
    if "target" not in witness.aim:
        return
    goal = unit(witness.aim["target"])
    with suppress(ValueError):  # images too small for a likeness have none in their record either
        witness.arrays[f"mse:{where}"] = target.mse(images, goal)
        witness.arrays[f"ssim:{where}"] = target.ssim(images, goal)


def _add_recovered(witness: Witness, materials: Materials) -> None:
    folder = materials.inputs["recovered"]
    for name, part in RECOVERED.items():
        if part not in witness.aim or not (folder / f"{name}.npz").is_file():
            continue
        by_epoch, goal = load_images(folder, name), unit(witness.aim[part])
        errors = [target.mse(images, goal) for images in by_epoch]
        witness.arrays[name] = np.stack(errors)
        witness.images[name] = _first(by_epoch.flatten(0, 1), grids.MAX_IMAGES)
    if "target" in witness.aim and UNDEFENDED + CLEAN in materials.inputs:
        images = load_images(materials.inputs[UNDEFENDED + CLEAN])
        witness.arrays["mse:clean"] = target.mse(images, unit(witness.aim["target"]))


def _composition(materials: Materials) -> dict[str, Array]:
    """The verdicts that sort what was drawn for the adversary's class into groups."""
    judge = materials.testbed.evaluation_classifier().to(materials.device)
    images = load_images(materials.inputs[TARGET])
    arrays: dict[str, Array] = {}
    if materials.aim.label is not None:
        goal = torch.tensor(materials.aim.label)
        arrays["prompt:mismatch"] = torch.ne(predict(judge, images), goal).numpy()
    if "trigger_classifier" in materials.inputs:
        folder = materials.inputs["trigger_classifier"]
        trigger = load_judge(materials.testbed, folder, materials.device)
        arrays["prompt:stamped"] = trigger.stamped(images).numpy()
    return arrays


def _judged_rows(materials: Materials) -> dict[str, Array]:
    """A detector's scores of rows and images with the truth, as ``row_detection`` takes them: on an
    honest set only rows of the classes that would have been poisoned are compared.
    """
    scores, data = load_scores(materials.inputs["scores"]), materials.testbed.data
    rows = torch.from_numpy(scores["training_rows"])
    truth = read_rows(materials.inputs["true_rows"]).poisoned
    comparable, groups = torch.ones(len(rows), dtype=torch.bool), data.train_groups()
    if not bool(read_rows(materials.inputs["poisoned_rows"]).poisoned.any()):
        labels = data.train_labels()
        comparable = torch.isin(labels[rows], labels[truth].unique())
    arrays: dict[str, Array] = {
        "training": scores["training"][comparable.numpy()],
        "training:truth": truth[rows[comparable]].numpy(),
        "held_out": scores["held_out"],
    }
    if groups is not None:
        arrays["training:groups"] = groups[rows[comparable]].long().numpy()
    if "trigger_classifier" in materials.inputs:
        folder = materials.inputs["trigger_classifier"]
        judge = load_judge(materials.testbed, folder, materials.device)
        drawn = load_images(materials.inputs["generated"])
        chosen = drawn[torch.from_numpy(scores["generated_rows"])]
        arrays["generated"] = scores["generated"]
        arrays["generated:truth"] = judge.stamped(chosen).numpy()
    return arrays


# --- to a bundle and back -------------------------------------------------------------------------


def files_of(witnesses: Mapping[str, Witness]) -> dict[str, bytes]:
    """Path below ``data/`` -> bytes, of witnesses by their cell's name. Equal pictures and aims are
    kept once.
    """
    files: dict[str, bytes] = {}
    index: dict[str, Any] = {}
    for cell, witness in sorted(witnesses.items()):
        entry: dict[str, Any] = {"cell": witness.cell, "arrays": "", "aim": "", "pictures": {}}
        if witness.arrays:
            entry["arrays"] = f"{WITNESS}{cell}.safetensors"
            files[entry["arrays"]] = tensors.write(witness.arrays)
        if witness.aim:
            data = tensors.write({name: image.numpy() for name, image in witness.aim.items()})
            entry["aim"] = f"{WITNESS}aim-{sha256(data)[:24]}.safetensors"
            files[entry["aim"]] = data
        for role, images in witness.images.items():
            if len(images) and images.shape[1] in (1, 3):
                data = grids.draw(images)
                path = f"{WITNESS}{sha256(data)[:24]}.png"
                files[path] = data
                entry["pictures"][role] = {"file": path, "shape": list(images.shape)}
        index[cell] = entry
    return {INDEX: to_json(index), **dict(sorted(files.items()))}


class Witnesses:
    """Those of a bundle, by cell. ``faults``: what is wrong with the files, a line each."""

    def __init__(self, payload: Mapping[str, bytes]) -> None:
        self.payload, self.faults = payload, list[str]()
        self.index: dict[str, Any] = {}
        self._images: dict[str, Tensor] = {}
        self._arrays: dict[str, dict[str, Array]] = {}
        if INDEX not in payload:
            self.faults.append(f"{INDEX} must be there, and is missing")
            return
        try:
            index = read_json(payload[INDEX], INDEX)
            if not isinstance(index, dict) or not all(map(_is_entry, index.values())):
                raise ValueError(f"{INDEX} must have cell, arrays, aim and pictures for each cell")
            self.index = index
            shapes: dict[str, set[tuple[int, ...]]] = {}
            for one in self._pictures():
                shapes.setdefault(one["file"], set()).add(tuple(one["shape"]))
            listed = {entry[name] for entry in index.values() for name in ("arrays", "aim")}
            for path in sorted(name for name in payload if name.startswith(WITNESS)):
                self._read(path, path in listed, shapes.get(path, set()))
        except ValueError as error:
            self.faults.append(str(error))

    def _read(self, path: str, arrays: bool, shapes: set[tuple[int, ...]]) -> None:
        try:
            if arrays:
                self._arrays[path] = tensors.read(self.payload[path])
            elif len(shapes) == 1:
                self._images[path] = grids.read(self.payload[path], *shapes)
            else:
                raise ValueError(f"must be listed in {INDEX} with one shape, and is not")
        except ValueError as error:
            self.faults.append(f"{path} {error}")

    def _pictures(self) -> Iterator[dict[str, Any]]:
        return (one for entry in self.index.values() for one in entry["pictures"].values())

    def of(self, record: Record) -> Witness | None:
        """The witness of a record's cell; ``None`` without one. Raises ``ValueError`` for a file
        that the index names and that is not there.
        """
        entry = self.index.get(cell_name(record))
        if entry is None:
            return None
        try:
            aim = self._arrays[entry["aim"]] if entry["aim"] else {}
            return Witness(
                arrays=self._arrays[entry["arrays"]] if entry["arrays"] else {},
                images={role: self._images[one["file"]] for role, one in entry["pictures"].items()},
                aim={name: torch.from_numpy(image) for name, image in aim.items()},
            )
        except KeyError as error:
            raise ValueError(f"its witness {error.args[0]} is missing") from None


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"cell", "arrays", "aim", "pictures"}
        and all(isinstance(value[name], str) for name in ("cell", "arrays", "aim"))
        and isinstance(value["pictures"], dict)
        and all(map(_is_picture, value["pictures"].values()))
    )


def _is_picture(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"file", "shape"}
        and isinstance(value["file"], str)
        and isinstance(value["shape"], list)
        and len(value["shape"]) == 4
        and all(type(side) is int and 0 < side < 2**20 for side in value["shape"])
    )
