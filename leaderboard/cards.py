"""The definitions of a page, each written once, behind all the heads that open it."""

from __future__ import annotations

from collections.abc import Mapping

from bench.record import SHARE, SQUARED_ERROR
from leaderboard.definitions import Definition, metric_anchor
from leaderboard.matrix import AMPLIFICATION, DIRECTIONS
from leaderboard.names import Words, split

_COUNTED = "Seeds × the samples behind the number of one seed, the fewest if seeds differ."
_T, _LOG = "95 % over seeds, Student’s t", "on the logarithm, which an error has"
_INTERVALS = {
    SHARE: "95 % over seeds, Korn and Graubard’s for shares: never of no width.",
    SQUARED_ERROR: f"{_T} {_LOG}. None where every seed has the same.",
}
_ANY_INTERVAL = f"{_T}. None where every seed has the same, and none of one seed."
_OF_AMPLIFICATION = "That of G1 + G2, divided by p_t, which is known exactly."
#: A detector of models has one number for all seeds.
_OF_MODELS = "95 %, had other models been trained: DeLong’s, the models of one seed as one draw."
#: What stands behind heads that are no metric and no column of the first screen.
TERMS = {
    "over-seeds": (
        "Over seeds",
        (
            ("What it is", "The mean of the seeds that have this number."),
            (
                "Interval",
                "95 %: from the counts where the number is a share, of the logarithm where it is a "
                "squared error, Student’s t otherwise. None of one seed.",
            ),
            ("n", f"{_COUNTED} Where they do, each seed has its own."),
        ),
    ),
    "by-seed": (
        "Each seed",
        (
            ("What it is", "The number of one seed: its own training, noise and samples."),
            ("Interval", "95 % within the seed, over its samples, as the measurement made it."),
            ("n", "The samples behind it, where seeds differ; else it stands under “over seeds”."),
        ),
    ),
    "command": (
        "The command",
        (
            ("What it is", "It measures this cell again, with every seed of it, in a new store."),
            (
                "Your own",
                "A suite of your own is named by its file, and a plugin by --plugin FILE.",
            ),
        ),
    ),
    "auroc": (
        "AUROC",
        (
            (
                "What it is",
                "The chance that a poisoned one scores above a clean one, of what is judged: 1 "
                "tells all apart, 0.5 is a guess, and right where nothing is poisoned.",
            ),
            ("Direction", DIRECTIONS[True]),
            ("Interval", _INTERVALS[SHARE]),
            ("n", _COUNTED),
        ),
    ),
    "tpr": (
        "TPR at a share of false alarms",
        (
            (
                "What it is",
                "The share of the poisoned that is found while at most this share of the clean is "
                "flagged; the threshold is chosen on the very data that is judged.",
            ),
            ("Direction", DIRECTIONS[True]),
            ("Interval", _INTERVALS[SHARE]),
            ("n", _COUNTED),
        ),
    ),
    "composition": (
        "G1 to G4",
        (
            ("What it is", "The four shares as one bar, means over seeds; together they are 1."),
            ("The tick", "p_t, the poisoned share of what was trained on under that label."),
        ),
    ),
    "class-n": (
        "n",
        (
            ("What it is", "Images asked for in the adversary’s class, behind G1 to G4."),
            ("n", _COUNTED),
        ),
    ),
    "seeds": ("Seeds", (("What it is", "The seeds to which this happened."),)),
}


class Cards:
    """``asked``: the definitions of each question's columns, by its title. What nothing opens is
    not written.
    """

    def __init__(self, asked: Mapping[str, Mapping[str, Definition]]) -> None:
        self._asked = asked
        self._used: dict[str, Definition] = {}

    def id(self, definition: Definition) -> str:
        """The HTML id of what a head opens."""
        return self._used.setdefault(definition.id, definition).id

    def used(self) -> list[Definition]:
        """All that something opens."""
        return list(self._used.values())

    def question(self, title: str) -> Mapping[str, Definition]:
        """Of the columns of one question's rankings, by the column's key."""
        return self._asked[title]

    def term(self, key: str) -> Definition:
        """Of :data:`TERMS`."""
        return Definition(f"def-{key}", *TERMS[key])

    def metric(self, words: Words) -> Definition:
        """Of a metric's number in any table."""
        lines = [
            ("What it is", words.sentence or f"{words.label}: its measurement says no more."),
            ("Direction", DIRECTIONS[words.declared.higher_is_better]),
            ("Interval", _interval(words)),
            ("n", _COUNTED),
        ]
        title = words.label if words.label == words.name else f"{words.label}: {words.name}"
        return Definition(f"def-{metric_anchor(words.name)}", title, tuple(lines))


def _interval(words: Words) -> str:
    if split(words.name)[1] == "models":
        return _OF_MODELS
    if words.name == AMPLIFICATION:
        return _OF_AMPLIFICATION
    return _INTERVALS.get(words.declared.unit, _ANY_INTERVAL)
