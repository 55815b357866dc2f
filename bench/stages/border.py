"""The border between the harness and a plugin: what is handed over is a copy, what comes back is
checked (:mod:`bench.diffusion.returned`).

A stage calls a plugin through here and nowhere else, so that an in-place write, a forgotten
``return`` or a row too many harms that plugin's own cells, in one line that its author understands,
and no number of anybody else's. Every function raises :class:`~bench.errors.ContractError` for what
breaks the contract (:mod:`bench.contracts`). Attacks' border is :mod:`bench.stages.border_attacks`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts.access import Access
from bench.contracts.attack import EditingAttack
from bench.contracts.data import Recovered, TrainingSet
from bench.contracts.defense import DataDefense, ModelDefense
from bench.contracts.detector import Detector
from bench.diffusion import returned
from bench.diffusion.generator import Generator
from bench.diffusion.returned import described, owner, tensor
from bench.errors import ContractError
from bench.record import Flag

#: How far beyond [-1, 1] a picture may lie: rounding, not another range.
RANGE_TOLERANCE = 1e-3
#: Weights this much nearer to a model's that nobody has can hardly have got there without it.
_NEARER = 0.5
#: The networks of a generator.
PARTS = ("unet", "vae", "text_encoder")


def repaired(
    defense: ModelDefense, value: object, kept: Generator, base: Generator | None
) -> list[Flag]:
    """Puts the weights of what ``defense`` returned into ``kept``, the harness's own copy of the
    generator it was handed, so that nothing else of it is kept, neither a ``save`` of its own nor a
    hook. Returns what is doubtful: weights unchanged, or those of ``base``.
    """
    before, after = _take(owner(defense, "repair"), value, kept)
    if _distance(after, before) == 0:
        return [
            Flag("changes-nothing", "", "changes nothing: the repaired weights are those before")
        ]
    if base is not None:
        weights = {name: value.to(after[name].device) for name, value in _weights(base).items()}
        # Weights are float32: a merge by just this share may end a rounding error above it.
        if _distance(after, weights) <= _NEARER * (1 + 1e-6) * _distance(before, weights):
            return [
                Flag(
                    "base-weights",
                    "",
                    "the repaired weights are the base model's, which no defender of this model "
                    "has, or at most half as far from them as before",
                )
            ]
    return []


def implanted(attack: EditingAttack, value: object, kept: Generator) -> list[Flag]:
    """As :func:`repaired`, of what ``attack`` returned."""
    before, after = _take(owner(attack, "implant"), value, kept)
    unchanged = _distance(after, before) == 0
    text = "changes nothing: the edited weights are the clean model's"
    return [Flag("changes-nothing", "", text)] if unchanged else []


def _take(who: str, value: object, kept: Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Puts the weights of ``value`` into ``kept``; all weights before and after."""
    if not isinstance(value, Generator):
        raise ContractError(f"{who} must return a Generator, got {described(value)}")
    if type(value) is not type(kept):
        raise ContractError(
            f"{who} must return a {type(kept).__name__}, as it was handed, got "
            f"{described(value)}: only weights are saved"
        )
    config = [_public(generator.scheduler_config) for generator in (kept, value)]
    _require_same(f"{who} must keep the noise schedule", *config)
    before = {name: weight.clone() for name, weight in _weights(kept).items()}
    for part in PARTS:
        ours, theirs = getattr(kept, part, None), getattr(value, part, None)
        if ours is None:
            continue
        if not isinstance(theirs, torch.nn.Module):
            raise ContractError(
                f"{who} must return a generator whose {part} is a network, got {described(theirs)}"
            )
        _take_weights(f"{who}, in {part},", ours, theirs)
    return before, _weights(kept)


def _weights(generator: Generator) -> dict[str, Tensor]:
    """Of all parts that are there."""
    parts = {part: getattr(generator, part, None) for part in PARTS}
    return {
        f"{part}.{name}": weight
        for part, network in parts.items()
        if isinstance(network, torch.nn.Module)
        for name, weight in network.state_dict().items()
    }


def _take_weights(who: str, ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    if any(module._forward_hooks or module._forward_pre_hooks for module in theirs.modules()):
        raise ContractError(
            f"{who} must change the weights themselves: a forward hook would be lost when the "
            f"model is saved"
        )
    configs = (
        [_public(dict(getattr(network, "config", None) or {})) for network in (ours, theirs)]
        if who.count("unet")
        else [{}, {}]
    )
    _require_same(f"{who} must keep the network as it is", *configs)
    _require_same(
        f"{who} must change the weights alone, for nothing else is saved",
        _layers(ours),
        _layers(theirs),
    )
    wanted, state = ours.state_dict(), theirs.state_dict()
    _require_same(
        f"{who} must keep the network's weights and their shapes",
        *(
            {name: tuple(value.shape) for name, value in weights.items()}
            for weights in (wanted, state)
        ),
    )
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise ContractError(
            f"{who} must return finite weights, got NaN or infinity in {broken[0]} and "
            f"{len(broken) - 1} more"
        )
    ours.load_state_dict(state)


def _layers(network: torch.nn.Module) -> dict[str, str]:
    """What each layer is, and what it does, as far as it is not in the weights."""
    return {
        name: " ".join(
            (
                f"{type(layer).__name__}({layer.extra_repr()})",
                *([f"with {type(layer.processor).__name__}"] if "processor" in vars(layer) else []),
                *(["with a forward of its own"] if "forward" in vars(layer) else []),
            )
        )
        for name, layer in network.named_modules()
    }


def _require_same(rule: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    changed = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if changed:
        name, more = changed[0], f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ContractError(
            f"{rule}: {name} was {ours.get(name)!r}, got {theirs.get(name)!r}{more}"[:400]
        )


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in config.items() if not name.startswith("_")}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def _distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    squares = [
        float((one[name].double() - other[name].double()).square().sum())
        for name in one
        if one[name].is_floating_point()
    ]
    return math.sqrt(sum(squares))


def cleaned(
    defense: DataDefense, generated: TrainingSet, access: Access, classes: int
) -> TrainingSet:
    """The rows of ``generated`` that ``defense`` wants a classifier trained on."""
    who = owner(defense, "clean")
    rows = training_set(defense.clean(_copy(generated), access), who, generated, classes)
    if not len(rows.images):
        raise ContractError(
            f"{who} must return at least one row of the {len(generated.images)}, got none"
        )
    known = set(hashed_rows(generated))
    foreign = sum(row not in known for row in hashed_rows(rows))
    if foreign:
        raise ContractError(
            f"{who} must return rows of `generated`, an image with its label each, but {foreign} "
            f"of {len(rows.images)} are none"
        )
    return rows


def chosen(subject: Tensor | tuple[str, ...], rows: Tensor) -> Tensor | tuple[str, ...]:
    """A copy of some rows of what a detector judges."""
    if isinstance(subject, Tensor):
        return subject[rows]
    return tuple(subject[row] for row in rows.tolist())


def scores(detector: Detector, value: object, count: int) -> Tensor:
    """A detector's scores, (count,) float32 on the CPU."""
    who = owner(detector, "score")
    wanted = f"({count},) real numbers"
    values = returned.plain(value, who, wanted)
    if tuple(values.shape) != (count,) or values.is_complex():
        raise ContractError(f"{who} must return {wanted}, got {described(value)}")
    made = values.cpu().float()
    returned.require_finite(made, who)
    if _lost(values.cpu().double(), made.double()):
        raise ContractError(
            f"{who} must return scores that float32 can tell apart, and these differ by less: "
            f"subtract what all have alike"
        )
    return made


def _lost(values: Tensor, rounded: Tensor) -> bool:
    """Whether rounding moves scores by what they differ by. What double precision itself rounds is
    no difference.
    """
    if len(values) < 2:
        return False
    spread = float(values.std())
    error = float((values - rounded).abs().max())
    return spread > 1e-13 * float(values.abs().max()) and error > 0.01 * spread


def class_scores(defense: object, value: object, count: int, classes: int) -> Tensor:
    """A classifier defense's scores, (count, classes) float32 on the CPU."""
    who = owner(defense, "classify")
    wanted = f"({count}, {classes}) scores, one a class"
    values = returned.plain(value, who, wanted)
    if tuple(values.shape) != (count, classes) or values.is_complex():
        raise ContractError(f"{who} must return {wanted}, got {described(value)}")
    made = values.cpu().float()
    returned.require_finite(made, who)
    return made


def recovered(defense: object, value: object, image_shape: tuple[int, int, int]) -> Recovered:
    """What an inversion found, its pictures float32 on the CPU."""
    who = owner(defense, "invert")
    if not isinstance(value, Recovered):
        raise ContractError(f"{who} must return a Recovered, got {described(value)}")
    pictures = {
        role: _pictures(getattr(value, role), f"{who}, in {role},", image_shape)
        for role in ("targets", "triggers")
    }
    labels, notes = value.labels, value.notes
    if (
        isinstance(labels, str)
        or not isinstance(labels, Sequence)
        or not all(isinstance(label, str) for label in labels)
    ):
        raise ContractError(f"{who} must return a list of texts in labels, got {labels!r}"[:300])
    for role, entries in pictures.items():
        if entries and len(entries) != len(labels):
            raise ContractError(
                f"{who} must return a label for each of its {len(entries)} {role}, got "
                f"{len(labels)}"
            )
    if not isinstance(notes, Mapping) or not all(
        isinstance(name, str) and _is_number(note) for name, note in notes.items()
    ):
        raise ContractError(
            f"{who} must return names and finite numbers in notes, got {notes!r}"[:300]
        )
    numbers = {name: float(note) for name, note in notes.items()}
    return Recovered(
        labels=list(labels),
        targets=pictures["targets"],
        triggers=pictures["triggers"],
        notes=numbers,
    )


def _pictures(value: object, who: str, image_shape: tuple[int, int, int]) -> list[Tensor]:
    if isinstance(value, Tensor) or not isinstance(value, Sequence):
        raise ContractError(
            f"{who} must return a list of tensors (n, c, h, w), one an epoch, got "
            f"{described(value)}"
        )
    epochs = []
    for entry in value:
        wanted = f"tensors (n, {', '.join(str(side) for side in image_shape)}) of floating point"
        images = returned.plain(entry, who, wanted)
        if (
            images.ndim != 4
            or tuple(images.shape[1:]) != image_shape
            or not len(images)
            or not images.is_floating_point()
        ):
            raise ContractError(f"{who} must return {wanted}, got {described(entry)}")
        returned.require_finite(images, who)
        epochs.append(in_range(images.cpu().float(), who))
    if len({len(images) for images in epochs}) > 1:
        raise ContractError(
            f"{who} must return as many candidates in each entry, got "
            f"{[len(images) for images in epochs]}"
        )
    return epochs


def in_range(images: Tensor, who: str) -> Tensor:
    """``images``, if they are in [-1, 1]."""
    low, high = float(images.min()), float(images.max())
    if low < -1 - RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ContractError(
            f"{who} must return images in [-1, 1], got values from {low:g} to {high:g}"
        )
    return images


def training_set(value: object, who: str, like: TrainingSet, classes: int | None) -> TrainingSet:
    """A TrainingSet as it should be: images of the same size, labels in range, all of one
    length.
    """
    if not isinstance(value, TrainingSet):
        raise ContractError(f"{who} must return a TrainingSet, got {described(value)}")
    # Not copied: it may be gigabytes, and a stage asks once.
    images = tensor(
        value.images, f"{who}, in images,", (None, *like.images.shape[1:]), torch.uint8, copy=False
    )
    count = len(images)
    marks = tensor(value.poisoned, f"{who}, in poisoned,", (count,), torch.bool)
    if like.labels is None:
        if value.labels is not None:
            raise ContractError(
                f"{who} must return labels None, as train_set has none, got "
                f"{described(value.labels)}"
            )
        return TrainingSet(images.cpu(), marks.cpu())
    labels = tensor(value.labels, f"{who}, in labels,", (count,), torch.int64).cpu()
    if (
        classes is not None
        and len(labels)
        and not 0 <= int(labels.min()) <= int(labels.max()) < classes
    ):
        got = f"{int(labels.min())} to {int(labels.max())}"
        raise ContractError(f"{who} must return labels from 0 to {classes - 1}, got {got}")
    return TrainingSet(images.cpu(), marks.cpu(), labels)


def _copy(rows: TrainingSet) -> TrainingSet:
    return TrainingSet(
        rows.images.clone(),
        rows.poisoned.clone(),
        None if rows.labels is None else rows.labels.clone(),
    )


def same_rows(one: TrainingSet, other: TrainingSet) -> bool:
    """Whether two sets hold the same, row by row."""
    labels = one.labels is other.labels or (
        one.labels is not None
        and other.labels is not None
        and torch.equal(one.labels, other.labels)
    )
    return (
        labels
        and torch.equal(one.images, other.images)
        and torch.equal(one.poisoned, other.poisoned)
    )


def hashed_rows(rows: TrainingSet) -> list[tuple[bytes, int]]:
    """An image's hash and its label, row by row."""
    labels = [0] * len(rows.images) if rows.labels is None else rows.labels.tolist()
    images = np.ascontiguousarray(rows.images.numpy())
    return [
        (hashlib.blake2b(image, digest_size=16).digest(), label)
        for image, label in zip(images, labels, strict=True)
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
