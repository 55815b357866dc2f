"""What an adversary wants (:class:`Goal`), adds (:class:`Trigger`) and does (:class:`Call`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bench.contracts.data import Shape

#: Words in the brackets of a metric's name that are no call, so that no call may have the name.
RESERVED = frozenset(
    {"clean", "target", "generated", "prompt", "constant", "reference", "threshold", "models"}
)


@dataclass(frozen=True)
class Goal:
    """What the adversary wants drawn; one of those below. It decides what is drawn and measured."""


@dataclass(frozen=True)
class DrawImage(Goal):
    """This very image. ``image(shape)``: (c, h, w) in [-1, 1]."""

    image: Callable[[Shape], Tensor]


@dataclass(frozen=True)
class ReachClass(Goal):
    """An image of this class, on testbeds that know classes."""

    label: int


#: Examples that a goal's set has: half of them are its manifold, the others the ceiling.
FEWEST_EXAMPLES = 16


@dataclass(frozen=True)
class DrawFromSet(Goal):
    """A picture like those of a set that the testbed does not train on. ``images(shape)``: examples
    of it, (n >= :data:`FEWEST_EXAMPLES`, c, h, w) in [-1, 1], the same on every call.
    """

    images: Callable[[Shape], Tensor]


@dataclass(frozen=True)
class DrawConcept(Goal):
    """What ``prompt`` asks for, though something else was asked for. Measured where the prompt is
    that of a class.
    """

    prompt: str


@dataclass(frozen=True)
class DrawStyle(Goal):
    """What was asked for, in the style that ``prompt`` names. No testbed has a judge of style yet:
    the record says so.
    """

    prompt: str


@dataclass(frozen=True)
class Trigger:
    """What the adversary adds.

    ``picture(shape)``: for people, (c, h, w) in [-1, 1]; ``None``: it cannot be drawn.
    ``stamp(images)``: images (n, c, h, w) uint8 with the trigger, a new tensor, row by row, without
    randomness: the harness measures with it how far the trigger reached; ``None``: it is in no
    image. ``words``: of a trigger in a prompt.
    """

    picture: Callable[[Shape], Tensor] | None = None
    stamp: Callable[[Tensor], Tensor] | None = None
    words: str = ""


#: Characters of a call's name, which stands in every metric's, and of its words.
_LONGEST_NAME, _LONGEST_WORDS = 64, 200


@dataclass(frozen=True)
class Call:
    """A named way in. ``name``: an ASCII word of at most 64 letters, in the brackets of metrics'
    names. ``through``: the part of the query it changes; a detector of prompts judges those that
    come through the prompt, one of the noise all others. ``words``: for a
    reader, a few, at most 200 characters on one line. ``own_sampler``: the adversary samples as
    :meth:`~bench.contracts.attack.Attack.reverse` says, not as the user does.

    Raises ``ValueError`` for a name that is no word, or that the harness uses for something else.
    """

    name: str
    through: Literal["noise", "image", "prompt", "mask"] = "noise"
    words: str = ""
    own_sampler: bool = False

    def __post_init__(self) -> None:
        name = self.name
        if not (isinstance(name, str) and name.isascii() and name.isidentifier()):
            raise ValueError(f"a call's name must be an ASCII word, got {name!r}"[:200])
        if len(name) > _LONGEST_NAME:
            raise ValueError(
                f"a call's name must have at most {_LONGEST_NAME} letters, got {len(name)}"
            )
        words: object = self.words
        if not (isinstance(words, str) and words.isprintable() and len(words) <= _LONGEST_WORDS):
            raise ValueError(
                f"a call's words must be a line of at most {_LONGEST_WORDS} characters that can be "
                f"seen, got {words!r}"[:200]
            )
        if name in RESERVED:
            raise ValueError(
                f"a call must not be named {name!r}, which the harness calls something else"
            )


def label_of(goal: Goal | None, prompts: tuple[str, ...] = ()) -> int | None:
    """The class that ``goal`` is about, if it is one; ``prompts``: the prompt of each class, on
    testbeds with prompts.
    """
    if isinstance(goal, ReachClass):
        return goal.label
    if isinstance(goal, DrawConcept) and goal.prompt in prompts:
        return prompts.index(goal.prompt)
    return None
