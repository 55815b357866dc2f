"""The border between the harness and a plugin: what is handed over is a copy, what comes back is
checked (:mod:`bench.diffusion.returned`).

A stage calls a plugin through here and nowhere else, so that an in-place write, a forgotten
``return`` or a row too many harms that plugin's own cells, in one line that its author understands,
and no number of anybody else's. Every function raises :class:`~bench.errors.ContractError` for what
breaks the contract in :mod:`bench.plugin`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.diffusion import returned
from bench.diffusion.generator import Generator
from bench.diffusion.returned import described, owner, tensor
from bench.errors import ContractError
from bench.plugin import (
    Attack,
    Batch,
    DataDefense,
    Detector,
    ModelDefense,
    PredictNoise,
    Query,
    Recovered,
    TrainingSet,
)
from bench.stages.again import ROWS

#: How far beyond [-1, 1] a picture may lie: rounding, not another range.
RANGE_TOLERANCE = 1e-3
_COMPARED_AT_ONCE = 1024
#: Weights this much nearer to another model's than before are that model's, rounding aside.
_HARDLY = 0.01


def poisoned(
    attack: Attack,
    honest: TrainingSet,
    handed: TrainingSet,
    rng: np.random.Generator,
    classes: int | None = None,
) -> TrainingSet:
    """What ``attack`` makes of ``handed``, which holds the same rows as ``honest`` in memory of its
    own: large sets are mapped from disk twice, never copied. ``classes``: how many labels there
    are, ``None`` for a set without.
    """
    who = owner(attack, "poison")
    given = TrainingSet(handed.images, handed.poisoned, handed.labels)
    found: object = attack.poison(given, rng)
    if not _same(handed, honest):
        raise ContractError(
            f"{who} must not modify train_set, but wrote into it: work on train_set.images.clone()"
        )
    made = _training_set(found, who, honest, classes)
    if len(made.images) != len(honest.images):
        raise ContractError(
            f"{who} must return as many rows as train_set has, {len(honest.images)}, got "
            f"{len(made.images)}: replace rows"
        )
    if (
        made.poisoned.any()
        or made.images.data_ptr() == handed.images.data_ptr()
        and made.labels is None
    ):
        return made
    changed = int(altered(made, honest).sum())
    if changed:
        raise ContractError(
            f"{who} must mark the rows it alters in `poisoned`, but altered {changed} and marked "
            f"none"
        )
    return made


def altered(made: TrainingSet, honest: TrainingSet) -> Tensor:
    """(n,) bool: the rows of ``made`` whose image or label is not that of ``honest``."""
    pieces = zip(
        made.images.split(_COMPARED_AT_ONCE), honest.images.split(_COMPARED_AT_ONCE), strict=True
    )
    changed = torch.cat([(one != other).flatten(1).any(1) for one, other in pieces])
    if made.labels is not None and honest.labels is not None:
        changed |= made.labels != honest.labels
    return changed


def stamped(attack: Attack, images: Tensor) -> Tensor | None:
    """``images`` (n, c, h, w) uint8 as ``attack`` stamps them; ``None`` if it has no image
    trigger.
    """
    who, handed = owner(attack, "stamp"), images.clone()
    found: object = attack.stamp(handed)
    if not torch.equal(handed, images):
        raise ContractError(
            f"{who} must not modify images, but wrote into them: work on images.clone()"
        )
    if found is None:
        return None
    made = tensor(found, who, images.shape, torch.uint8, what="a new tensor like images,")
    few = torch.arange(min(ROWS, len(images))).flip(0)
    if len(few) and not torch.equal(
        tensor(attack.stamp(images[few]), who, made[few].shape, torch.uint8), made[few]
    ):
        raise ContractError(
            f"{who} must stamp every row alone and without randomness, but the same rows in "
            f"another order differ"
        )
    return made


def invoked(attack: Attack, query: Query, invocation: str) -> Tensor:
    """The starting noise (n, c, h, w) with which ``attack`` calls its backdoor."""
    who = owner(attack, "invoke")
    images = None if query.images is None else query.images.clone()
    handed = replace(query, noise=query.noise.clone(), images=images)
    noise, held = handed.noise, handed.images
    found: object = attack.invoke(handed, invocation)
    untouched = torch.equal(noise, query.noise)
    if held is not None and query.images is not None:
        untouched &= torch.equal(held, query.images)
    if not untouched:
        raise ContractError(
            f"{who} must not modify query, but wrote into it: work on query.noise.clone()"
        )
    if not isinstance(found, Query):
        raise ContractError(f"{who} must return a Query, got {described(found)}")
    return tensor(
        found.noise, f"{who}, in noise,", query.noise.shape, query.noise.dtype, query.noise.device
    )


def training_loss(
    attack: Attack,
    predict: PredictNoise,
    rows: Mapping[str, Tensor],
    noise: Tensor,
    timesteps: Tensor,
    schedule: Any,
) -> Tensor:
    """The loss of one batch: one number with a gradient. What the network is told beside it is not
    within the plugin's reach.
    """
    batch = Batch(**{name: values.clone() for name, values in rows.items()})
    value: object = attack.training_loss(predict, batch, noise, timesteps, schedule)
    who = owner(attack, "training_loss")
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        raise ContractError(
            f"{who} must return one number, a tensor of shape (), got {described(value)}"
        )
    if not value.requires_grad:
        raise ContractError(
            f"{who} must return a loss with a gradient, got one that does not depend on "
            f"predict_noise"
        )
    return value


def unmarked(made: TrainingSet, honest: TrainingSet) -> list[str]:
    """A doubt, if rows that no honest set holds are not marked as poisoned: every share of poison
    and every AUROC rests on the marks.
    """
    doubtful = altered(made, honest) & ~made.poisoned
    if not doubtful.any():
        return []
    known = set(_rows(honest))
    labels = None if made.labels is None else made.labels[doubtful]
    count = sum(
        row not in known
        for row in _rows(TrainingSet(made.images[doubtful], made.poisoned[doubtful], labels))
    )
    return (
        [
            f"poisoned rows are not all marked: {count} of {len(made.images)} were altered and "
            f"are not"
        ]
        if count
        else []
    )


def repaired(
    defense: ModelDefense, value: object, kept: Generator, base: Generator | None
) -> list[str]:
    """Puts the weights of what ``defense`` returned into ``kept``, the harness's own copy of the
    generator it was handed, so that nothing else of it is kept, neither a ``save`` of its own nor a
    hook. Returns what is doubtful: weights unchanged, or those of ``base``.
    """
    who = owner(defense, "repair")
    if not isinstance(value, Generator):
        raise ContractError(f"{who} must return a Generator, got {described(value)}")
    config = [_public(generator.scheduler_config) for generator in (kept, value)]
    _require_same(f"{who} must keep the noise schedule", *config)
    before = {name: tensor.clone() for name, tensor in kept.unet.state_dict().items()}
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(kept, part, None), getattr(value, part, None)
        if ours is None:
            continue
        if not isinstance(theirs, torch.nn.Module):
            raise ContractError(
                f"{who} must return a generator whose {part} is a network, got {described(theirs)}"
            )
        _take_weights(f"{who}, in {part},", ours, theirs)
    after = kept.unet.state_dict()
    moved = _distance(after, before)
    if moved == 0:
        return ["changes nothing: the repaired weights are those before"]
    if base is not None:
        weights = {
            name: value.to(after[name].device) for name, value in base.unet.state_dict().items()
        }
        if _distance(after, weights) <= _HARDLY * _distance(before, weights):
            return [
                "the repaired weights are the base model's, which no defender of this model has"
            ]
    return []


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
    defense: DataDefense, generated: TrainingSet, rng: np.random.Generator, classes: int
) -> TrainingSet:
    """The rows of ``generated`` that ``defense`` wants a classifier trained on."""
    who = owner(defense, "clean")
    found = _training_set(defense.clean(_copy(generated), rng), who, generated, classes)
    if not len(found.images):
        raise ContractError(
            f"{who} must return at least one row of the {len(generated.images)}, got none"
        )
    known = set(_rows(generated))
    foreign = sum(row not in known for row in _rows(found))
    if foreign:
        raise ContractError(
            f"{who} must return rows of `generated`, an image with its label each, but {foreign} "
            f"of {len(found.images)} are none"
        )
    return found


def scores(detector: Detector, value: object, count: int) -> Tensor:
    """A detector's scores, (count,) float32 on the CPU."""
    who = owner(detector, "score")
    wanted = f"({count},) real numbers"
    found = returned.plain(value, who, wanted)
    if tuple(found.shape) != (count,) or found.is_complex():
        raise ContractError(f"{who} must return {wanted}, got {described(value)}")
    made = found.cpu().float()
    returned.require_finite(made, who)
    return made


def class_scores(defense: object, value: object, count: int, classes: int) -> Tensor:
    """A classifier defense's scores, (count, classes) float32 on the CPU."""
    who = owner(defense, "classify")
    wanted = f"({count}, {classes}) scores, one a class"
    found = returned.plain(value, who, wanted)
    if tuple(found.shape) != (count, classes) or found.is_complex():
        raise ContractError(f"{who} must return {wanted}, got {described(value)}")
    made = found.cpu().float()
    returned.require_finite(made, who)
    return made


def recovered(defense: object, value: object, image_shape: tuple[int, int, int]) -> Recovered:
    """What an inversion found, its pictures float32 on the CPU."""
    who = owner(defense, "invert")
    if not isinstance(value, Recovered):
        raise ContractError(f"{who} must return a Recovered, got {described(value)}")
    found = {
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
    for role, entries in found.items():
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
        labels=list(labels), targets=found["targets"], triggers=found["triggers"], notes=numbers
    )


def picture(attack: Attack, method: str, image_shape: tuple[int, int, int]) -> Tensor | None:
    """What an attack shows, its ``target_image`` or its ``trigger_image``: (c, h, w) float32 in
    [-1, 1], or ``None``.
    """
    value: object = getattr(attack, method)(image_shape)
    if value is None:
        return None
    who = owner(attack, method)
    return _in_range(tensor(value, who, image_shape, what="an image"), who)


def target_label(attack: Attack, classes: int | None) -> int | None:
    """The class an attack aims at, one of ``classes`` where there are any."""
    value: object = attack.target_label()
    who = owner(attack, "target_label")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ContractError(f"{who} must return a whole number or None, got {described(value)}")
    if value is not None and classes is not None and not 0 <= value < classes:
        raise ContractError(f"{who} must return a class from 0 to {classes - 1}, got {value}")
    return value


def _pictures(value: object, who: str, image_shape: tuple[int, int, int]) -> list[Tensor]:
    if isinstance(value, Tensor) or not isinstance(value, Sequence):
        raise ContractError(
            f"{who} must return a list of tensors (n, c, h, w), one an epoch, got "
            f"{described(value)}"
        )
    found = []
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
        found.append(_in_range(images.cpu().float(), who))
    if len({len(images) for images in found}) > 1:
        raise ContractError(
            f"{who} must return as many candidates in each entry, got "
            f"{[len(images) for images in found]}"
        )
    return found


def _in_range(images: Tensor, who: str) -> Tensor:
    low, high = float(images.min()), float(images.max())
    if low < -1 - RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ContractError(
            f"{who} must return images in [-1, 1], got values from {low:g} to {high:g}"
        )
    return images


def _training_set(value: object, who: str, like: TrainingSet, classes: int | None) -> TrainingSet:
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


def _same(one: TrainingSet, other: TrainingSet) -> bool:
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


def _rows(rows: TrainingSet) -> list[tuple[bytes, int]]:
    labels = [0] * len(rows.images) if rows.labels is None else rows.labels.tolist()
    return [
        (image.tobytes(), label) for image, label in zip(rows.images.numpy(), labels, strict=True)
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
