"""What a plugin declares about itself. :mod:`bench.plugin` offers these names; plugins import them
from there.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Literal, get_args

TestbedKind = Literal["unconditional", "class", "text"]
Alteration = Literal["nothing", "data", "objective", "sampling", "weights", "text encoder"]
#: What the harness can hand a plugin. What it cannot, nobody may declare: the plugin would run
#: without it and nobody would say so.
Need = Literal["weights", "base weights", "queries", "clean data", "training data", "classifier"]
#: All of them.
NEEDS: frozenset[Need] = frozenset(get_args(Need))
NAME_LETTERS = 64
SUMMARY_LETTERS = 200


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a method comes from. ``bibtex`` is copied verbatim to the board."""

    title: str
    authors: str
    year: int
    arxiv: str = ""
    bibtex: str = ""


#: What ``castlewalls new`` writes where its author has to write.
FILL_IN = "FILL IN"


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Parameters whose values were chosen by looking at results, and at which. A number measured
    there is optimistic.

    ``parameters``: their names; ``testbed``, ``attacks``: names; ``seeds``: those looked at.
    """

    parameters: tuple[str, ...]
    testbed: str
    attacks: tuple[str, ...]
    seeds: tuple[int, ...]

    def saw(self, testbed: str, attack: str, seed: int) -> bool:
        """Whether what is measured there had a part in the choice."""
        return testbed == self.testbed and attack in self.attacks and seed in self.seeds


@dataclass(frozen=True, kw_only=True)
class Card:
    """A plugin's declaration; the planner reads nothing else to decide which pairs make sense.

    ``applies_to``: kinds of testbed. ``alters`` (attacks): what the adversary touches. ``needs``
    (defenses): what the defender must own; the harness hands over nothing that is not listed.
    ``tuned``: what of the defaults was chosen by looking at results; ``()``: nothing, they are the
    paper's or were fixed beforehand; ``None``: not declared. ``files``: files or folders the plugin
    reads, below its own file's folder (weights, tables): their content is a part of every result's
    key.
    """

    name: str
    summary: str
    paper: Paper | None = None
    applies_to: frozenset[TestbedKind] = frozenset({"unconditional"})
    alters: frozenset[Alteration] = frozenset()
    needs: frozenset[Need] = frozenset()
    tuned: tuple[Tuning, ...] | None = None
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = self.name
        if not (
            isinstance(name, str)
            and name.isidentifier()
            and name.isascii()
            and len(name) <= NAME_LETTERS
        ):
            raise ValueError(
                f"a plugin's name must be a Python identifier of at most {NAME_LETTERS} ASCII "
                f"letters, got {reprlib.repr(name)}"
            )
        if not (
            isinstance(self.summary, str)
            and self.summary.isprintable()
            and len(self.summary) <= SUMMARY_LETTERS
        ):
            raise ValueError(
                f"card {name!r}: summary must be one line of at most {SUMMARY_LETTERS} letters, "
                f"got {reprlib.repr(self.summary)}"
            )
        for field, kind in (("tuned", Tuning), ("files", str)):
            values = getattr(self, field)
            if values is None and field == "tuned":
                continue
            if not isinstance(values, tuple) or not all(isinstance(one, kind) for one in values):
                raise ValueError(
                    f"card {name!r}: {field} must be a tuple of {kind.__name__}, as (one,), got "
                    f"{reprlib.repr(values)}"
                )
        if self.paper is not None and not isinstance(self.paper, Paper):
            raise ValueError(
                f"card {name!r}: paper must be a Paper, or None, got {reprlib.repr(self.paper)}"
            )
        for field, allowed in (
            ("applies_to", TestbedKind),
            ("alters", Alteration),
            ("needs", Need),
        ):
            if not isinstance(getattr(self, field), (set, frozenset)):
                got = reprlib.repr(getattr(self, field))
                raise ValueError(
                    f"card {name!r}: {field} must be a frozenset, as frozenset({{...}}), got {got}"
                )
            unknown = sorted(getattr(self, field) - set(get_args(allowed)), key=str)
            if unknown:
                raise ValueError(
                    f"card {name!r}: {field} must be among {get_args(allowed)}, got {unknown}"
                )


def unwritten(card: Card) -> list[str]:
    """Which texts of the card still hold what ``castlewalls new`` wrote in their place."""
    texts = {"summary": card.summary}
    if card.paper is not None:
        paper = {name: str(value) for name, value in vars(card.paper).items()}
        texts |= {f"paper's {name}": text for name, text in paper.items()}
    return [name for name, text in texts.items() if FILL_IN in text]
