"""The border to attacks: see :mod:`bench.stages.border`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts.attack import Attack, TrainingAttack
from bench.contracts.checks import rows_of, same_query
from bench.contracts.data import Batch, PredictNoise, Query, Shape, TrainingSet, TrainingStep
from bench.contracts.entitled import Withheld
from bench.contracts.goals import (
    FEWEST_EXAMPLES,
    DrawFromSet,
    DrawImage,
    Goal,
    ReachClass,
    Trigger,
    label_of,
)
from bench.diffusion.images import to_uint8
from bench.diffusion.returned import described, owner, tensor
from bench.diffusion.reverse import Reverse
from bench.diffusion.schedule import Schedule
from bench.errors import ContractError
from bench.record import Flag
from bench.stages.again import ROWS
from bench.stages.border import hashed_rows, in_range, same_rows, training_set

_COMPARED_AT_ONCE = 1024


def poisoned(
    attack: TrainingAttack,
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
    train_set = TrainingSet(handed.images, handed.poisoned, handed.labels)
    value: object = attack.poison(train_set, rng)
    if not same_rows(handed, honest):
        raise ContractError(
            f"{who} must not modify train_set, but wrote into it: work on train_set.images.clone()"
        )
    made = training_set(value, who, honest, classes)
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
    trigger = added(attack)
    if trigger is None or trigger.stamp is None:
        return None
    who, handed, stamp = f"{attack.card.name}: the trigger's stamp()", images.clone(), trigger.stamp
    value: object = stamp(handed)
    if not torch.equal(handed, images):
        raise ContractError(
            f"{who} must not modify images, but wrote into them: work on images.clone()"
        )
    if value is None:
        return None
    made = tensor(value, who, images.shape, torch.uint8, what="a new tensor like images,")
    few = _few(len(images))
    if len(few) and not torch.equal(
        tensor(stamp(images[few]), who, made[few].shape, torch.uint8), made[few]
    ):
        raise ContractError(
            f"{who} must stamp every row alone and without randomness, but the same rows in "
            f"another order differ"
        )
    return made


def invoked(attack: Attack, query: Query, call: str, classes: int | None = None) -> Query:
    """The query with which ``attack`` calls its backdoor; ``classes``: how many there are."""
    who = owner(attack, "invoke")
    copies: dict[str, Any] = {
        name: value.clone() for name, value in vars(query).items() if isinstance(value, Tensor)
    }
    handed = replace(query, **copies)
    value: object = attack.invoke(handed, call)
    if not all(torch.equal(copies[name], getattr(query, name)) for name in copies):
        raise ContractError(
            f"{who} must not modify query, but wrote into it: work on query.noise.clone()"
        )
    if not isinstance(value, Query):
        raise ContractError(f"{who} must return a Query, got {described(value)}")
    noise = query.noise
    changes: dict[str, Any] = {
        "noise": tensor(value.noise, f"{who}, in noise,", noise.shape, noise.dtype, noise.device),
        "labels": _labels(value.labels, who, len(noise), classes),
        "prompts": _prompts(value.prompts, who, query),
    }
    made = replace(query, **changes, **_known_part(value, who, query))
    if few := _few(len(noise)).tolist():
        again: object = attack.invoke(rows_of(query, few), call)
        alike = isinstance(again, Query) and same_query(again, rows_of(made, few))
    if few and not alike:
        raise ContractError(
            f"{who} must change every row alone and without randomness, but the same rows in "
            f"another order differ"
        )
    return made


def _few(count: int) -> Tensor:
    """The last of some rows first; fewer than there are, where there are two."""
    return torch.arange(min(ROWS, count - 1 if count > 1 else count)).flip(0)


class CheckedReverse:
    """An adversary's way back: what it returns is checked at every step."""

    def __init__(self, attack: Attack, call: str, schedule: Schedule, usual: Reverse) -> None:
        self.attack = attack
        self.way = attack.reverse(call, schedule, usual)
        if self.way is usual:
            raise ContractError(
                f"{owner(attack, 'reverse')} must return a sampler of its own for call {call!r}, "
                f"got the user's"
            )
        self.timesteps = [int(step) for step in self.way.timesteps]

    def clean(self, prediction: Tensor, x: Tensor, call: int) -> Tensor:
        return self._like("clean", self.way.clean(prediction, x, call), x)

    def prediction(self, clean: Tensor, x: Tensor, call: int) -> Tensor:
        return self._like("prediction", self.way.prediction(clean, x, call), x)

    def step(self, prediction: Tensor, x: Tensor, call: int, noise: Callable[[], Tensor]) -> Tensor:
        return self._like("step", self.way.step(prediction, x, call, noise), x)

    def _like(self, method: str, value: object, x: Tensor) -> Tensor:
        who = f"{self.attack.card.name}: its sampler's {method}()"
        return tensor(value, who, x.shape, x.dtype, x.device)


def _labels(value: object, who: str, rows: int, classes: int | None) -> Tensor | None:
    if value is None:
        return None
    labels = tensor(value, f"{who}, in labels,", (rows,), torch.int64)
    highest = 0 if classes is None else classes
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < highest):
        raise ContractError(f"{who}, in labels, must return classes from 0 to {highest - 1}")
    return labels


def _prompts(value: object, who: str, query: Query) -> tuple[str, ...] | None:
    if value is None:
        return None
    rows = len(query.noise)
    texts = isinstance(value, tuple) and all(isinstance(text, str) for text in value)
    if query.prompts is None or not texts or len(value) != rows:  # type: ignore[arg-type]
        wanted = "None" if query.prompts is None else f"a tuple of {rows} texts"
        raise ContractError(f"{who}, in prompts, must return {wanted}, got {described(value)}")
    return value  # type: ignore[return-value]


def _known_part(value: Query, who: str, query: Query) -> dict[str, Any]:
    """The part of a picture that stays, if the call asks for one."""
    if value.known is None and value.mask is None:
        return {}
    if value.known is None or value.mask is None or query.images is None:
        raise ContractError(f"{who} must return known and mask together, or neither")
    images = query.images
    known = in_range(tensor(value.known, f"{who}, in known,", images.shape, images.dtype), who)
    shape = (len(images), 1, *images.shape[2:])
    return {"known": known, "mask": tensor(value.mask, f"{who}, in mask,", shape, torch.bool)}


def training_loss(
    attack: TrainingAttack,
    predict: PredictNoise,
    rows: Mapping[str, Tensor],
    noise: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    teacher: PredictNoise | None = None,
) -> Tensor:
    """The loss of one batch: one number with a gradient. The rows' own condition is not within the
    plugin's reach.
    """
    step = _training_step(attack, predict, rows, noise, timesteps, schedule, teacher)
    value: object = attack.training_loss(step)
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


def _training_step(
    attack: TrainingAttack,
    predict: PredictNoise,
    rows: Mapping[str, Tensor],
    noise: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    teacher: PredictNoise | None = None,
) -> TrainingStep:
    frozen: Any = Withheld(attack.card.name, "has_teacher", "a teacher")
    return TrainingStep(
        predict_noise=predict,
        batch=Batch(**{name: values.clone() for name, values in rows.items()}),
        noise=noise.clone(),
        timesteps=timesteps.clone(),
        schedule=schedule,
        teacher=frozen if teacher is None else teacher,
    )


class Learning:
    """What ``attack`` learns beside a network that starts from noise of ``shape``, and the attack
    that knows it; see :class:`bench.diffusion.training.Beside`.
    """

    def __init__(self, attack: TrainingAttack, shape: Shape) -> None:
        self.attack = attack
        self.tensors = learnt(attack.begin(shape), owner(attack, "begin"))

    def learn(self, *drawn: Any) -> None:
        """Once before every step of the network's optimiser, with what :func:`training_loss` takes
        of a batch.
        """
        attack = self.knowing()
        made = attack.learn(_training_step(attack, *drawn))
        self.tensors = learnt(made, owner(attack, "learn"), self.tensors)

    def knowing(self) -> TrainingAttack:
        """The attack with what it has learnt so far, in memory of its own."""
        return self.attack.knowing({name: one.clone() for name, one in self.tensors.items()})


#: Letters of the name of a tensor that is learnt, and how many numbers there may be in all.
_LEARNT_NAME, _LEARNT_NUMBERS = 64, 10_000_000


def learnt(value: object, who: str, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Finite float32 tensors by name; as those of ``like``, where there are some already."""
    if not isinstance(value, Mapping) or not value:
        raise ContractError(f"{who} must return tensors by name, got {described(value)}")
    if like is not None and set(value) != set(like):
        raise ContractError(f"{who} must return {sorted(like)}, got {sorted(map(str, value))}")
    made = dict[str, Tensor]()
    for name, one in value.items():
        if not (isinstance(name, str) and name.isidentifier() and len(name) <= _LEARNT_NAME):
            raise ContractError(
                f"{who} must name a tensor by a word of at most {_LEARNT_NAME} letters, got "
                f"{name!r}"[:200]
            )
        shape = getattr(one, "shape", ()) if like is None else like[name].shape
        device = None if like is None else like[name].device
        made[name] = tensor(one, f"{who}, in {name},", shape, device=device)
    if sum(one.numel() for one in made.values()) > _LEARNT_NUMBERS:
        raise ContractError(f"{who} must return at most {_LEARNT_NUMBERS:,} numbers in all")
    return made


def unmarked(made: TrainingSet, honest: TrainingSet) -> list[Flag]:
    """A doubt, if rows that no honest set holds are not marked as poisoned: every share of poison
    and every AUROC rests on the marks.
    """
    doubtful = altered(made, honest) & ~made.poisoned
    if not doubtful.any():
        return []
    known = set(hashed_rows(honest))
    labels = None if made.labels is None else made.labels[doubtful]
    count = sum(
        row not in known
        for row in hashed_rows(TrainingSet(made.images[doubtful], made.poisoned[doubtful], labels))
    )
    return (
        [
            Flag(
                "unmarked-rows",
                "",
                f"poisoned rows are not all marked: {count} of {len(made.images)} were altered and "
                f"are not",
            )
        ]
        if count
        else []
    )


def aimed_at(
    attack: Attack, shape: Shape, classes: int | None, prompts: tuple[str, ...]
) -> tuple[Tensor | None, int | None]:
    """The image (c, h, w) and the class that are the goal of ``attack``, where it has one."""
    goal: object = attack.goal()
    who = owner(attack, "goal")
    if goal is not None and not isinstance(goal, Goal):
        raise ContractError(f"{who} must return a Goal or None, got {described(goal)}")
    if isinstance(goal, DrawImage):
        where = f"{attack.card.name}: the goal's image()"
        return in_range(tensor(goal.image(shape), where, shape, what="an image"), where), None
    if isinstance(goal, ReachClass):
        label: object = goal.label
        if isinstance(label, bool) or not isinstance(label, int):
            raise ContractError(f"{who} must name a class by its number, got {described(label)}")
        if classes is not None and not 0 <= label < classes:
            raise ContractError(f"{who} must name a class from 0 to {classes - 1}, got {label}")
    return None, label_of(goal, prompts)


def examples(attack: Attack, shape: Shape) -> Tensor | None:
    """The pictures (n, c, h, w) uint8 of the set that is the goal of ``attack``, if one is."""
    goal, who = attack.goal(), f"{attack.card.name}: the goal's images()"
    if not isinstance(goal, DrawFromSet):
        return None
    value: object = goal.images(shape)
    count = len(value) if isinstance(value, Tensor) and value.ndim else 0
    made = tensor(value, who, (count, *shape), what="images")
    if count < FEWEST_EXAMPLES:
        raise ContractError(f"{who} must return at least {FEWEST_EXAMPLES} images, got {count}")
    return to_uint8(in_range(made, who))


def added(attack: Attack) -> Trigger | None:
    """What ``attack`` adds to an input."""
    trigger: object = attack.adds()
    if trigger is not None and not isinstance(trigger, Trigger):
        raise ContractError(
            f"{owner(attack, 'adds')} must return a Trigger or None, got {described(trigger)}"
        )
    return trigger


def drawn_trigger(attack: Attack, shape: Shape) -> Tensor | None:
    """The trigger for people: (c, h, w) float32 in [-1, 1]."""
    trigger = added(attack)
    if trigger is None or trigger.picture is None:
        return None
    image, who = trigger.picture(shape), f"{attack.card.name}: the trigger's picture()"
    return in_range(tensor(image, who, shape, what="an image"), who)
