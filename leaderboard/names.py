"""What a metric's name means to a reader, as the measurements of the runs declare it.

The board knows no metric but those it ranks by. One that nobody declares is shown under its own
name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from bench.record import RANKED, SLACK, Run
from bench.words import (
    COST,
    COSTS,
    GROUPS,
    IMAGES,
    LAST,
    SHARE,
    SQUARED_ERROR,
    MetricWords,
    declaration_of,
    split,
)

__all__ = ["RATE", "SECONDS", "UNKNOWN", "Vocabulary", "Words", "anchor", "split"]

#: What a detector judges, in reading order; anything else comes last.
SUBJECTS = ("training set", "generated", "noise", "image", "clean")
#: Units that are not written behind a number.
_SILENT = ("", SHARE, SQUARED_ERROR, IMAGES)
_ANY = MetricWords(name="any", title="any")
_ANY_RATE = MetricWords(
    name="any", title="any", low=0.0, high=1.0, unit=SHARE, decimals=2, scale="unit"
)
_ANY_COST = MetricWords(name="cost[*]", title="{}", group=COST, higher_is_better=False, low=0.0)


@dataclass(frozen=True)
class Words:
    """``name``: in the records; ``label``: unique within its group only, so the name stands beside
    it; ``declared``: by its measurement, or what is taken of an unknown one (``known`` is false).
    """

    name: str
    label: str
    sentence: str
    declared: MetricWords
    known: bool = True

    @property
    def group(self) -> str:
        """Its heading."""
        return self.declared.group

    @property
    def bounded(self) -> bool:
        """Whether its colours and axes run from 0 to 1, whatever the values at hand."""
        return self.declared.scale == "unit"

    def number(self, value: float, decimals: int | None = None) -> str:
        """As a reader sees it: as many decimals as declared, else three significant digits; memory
        in MiB.
        """
        unit = self.declared.unit
        if unit == "B":
            return f"{value / 2**20:,.0f} MiB"
        if unit == "s":
            return (f"{value:.1f} s" if value < 100 else f"{value:,.0f} s").replace("-", "−")
        text = f"{value:,.{self.decimals_for(value) if decimals is None else decimals}f}"
        if text.startswith("-"):
            # What is rounded to nothing has no sign.
            text = f"−{text[1:]}" if text.strip("-0.,") else text[1:]
        return text if unit in _SILENT else f"{text} {unit}"

    def decimals_for(self, *values: float) -> int:
        """As declared, else as many as give the largest of ``values`` three significant digits."""
        if self.declared.decimals is not None:
            return self.declared.decimals
        largest = max(abs(value) for value in values)
        return 3 if largest == 0 else min(6, max(0, 2 - math.floor(math.log10(largest))))


class Vocabulary:
    """The words of a page. ``declared``: an earlier one counts before a later one."""

    def __init__(self, declared: Iterable[MetricWords] = ()) -> None:
        first: dict[str, MetricWords] = {}
        for one in (*COSTS, *declared):
            first.setdefault(one.name, one)
        self._declared = tuple(first.values())
        self._known: dict[tuple[str, str], Words] = {}
        self._orders: dict[str, tuple[int, bool, str, int, str]] = {}

    def words(self, name: str, unit: str = "") -> Words:
        """Total: a metric that nobody declares is shown under its own name. ``unit``: as the
        records have it.
        """
        known = self._known.get((name, unit))
        if known is None:
            known = self._known[name, unit] = self._words(name, unit)
        return known

    def _words(self, name: str, unit: str) -> Words:
        (family, argument), declared = split(name), declaration_of(self._declared, name)
        if declared is not None:
            label, sentence = (
                text.replace("{}", argument) if declared.name != name else text
                for text in (declared.title, declared.sentence)
            )
            return Words(name, label, sentence, declared)
        if family == "cost" and argument:
            return Words(name, argument.replace("_", " "), "", _ANY_COST)
        rate = unit == SHARE or _law(name)[:2] == (0.0, 1.0)
        return Words(name, name, "", _ANY_RATE if rate else _ANY, known=False)

    def order(self, name: str) -> tuple[int, bool, str, int, str]:
        """A total order: by group, a stranger's before the costs, then as declared, then by
        name.
        """
        if name not in self._orders:
            words = self.words(name)
            ours = words.group in GROUPS
            group_index = GROUPS.index(words.group if ours else COST)
            order = words.declared.order if words.known else LAST + 1
            self._orders[name] = (group_index, ours, words.group, order, name)
        return self._orders[name]

    def flag_family(self, name: str) -> str:
        """Beside its own, the family whose flags are about this metric too."""
        return self.words(name).declared.flags_of

    def rule(self, name: str) -> tuple[float, float, bool | None]:
        """Where a metric's values can lie, but for rounding, and its direction if that is its own
        and not a record's. What the board ranks by has a law that no declaration changes.
        """
        low, high, direction = _law(name)
        words = self.words(name)
        if words.known:
            low, high = max(low, words.declared.low), min(high, words.declared.high)
            direction = words.declared.higher_is_better if direction is None else direction
        return low - SLACK, high + SLACK, direction

    def heading(self, name: str) -> str:
        """As a column's head; ``name`` may be a whole family's."""
        words = self.words(name)
        declared = words.declared if words.known else declaration_of(self._declared, f"{name}[*]")
        if declared is not None and declared.heading:
            return declared.heading
        family, argument = split(name)
        return f"{family.upper()}[{argument}]" if argument else family.upper()


#: Of a page whose runs declare nothing.
UNKNOWN = Vocabulary()
#: A share of something, whatever it is of.
RATE = Words("rate", "rate", "", _ANY_RATE)
#: A run time.
SECONDS = Words("seconds", "time", "", next(one for one in COSTS if one.name == "cost[seconds]"))


def vocabulary(runs: Iterable[Run]) -> Vocabulary:
    """What these runs declare; where they differ, the source named first is right, and in it what
    finished last.
    """
    ordered = sorted(
        runs, key=lambda run: (run.precedence, run.finished or "", run.started, run.suite)
    )
    return Vocabulary(one for run in reversed(ordered) for one in run.metrics)


def anchor(name: str) -> str:
    """What a reference line of a testbed is called."""
    return {"real_images": "real images", "base_model": "clean base model"}.get(name, name)


@lru_cache(maxsize=4096)
def ranked(name: str) -> bool:
    """Whether the board ranks by this metric's family, or draws it by name."""
    return any(re.fullmatch(families, split(name)[0]) for families, *_ in RANKED)


@lru_cache(maxsize=4096)
def _law(name: str) -> tuple[float, float, bool | None]:
    families = (law[1:] for law in RANKED if re.fullmatch(law[0], split(name)[0]))
    return next(families, (-math.inf, math.inf, None))
