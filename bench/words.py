"""Texts for people: the meaning of a metric, declared beside the measurement that makes it and
passed on to the board by the run; flags; captions. Without torch; decides no number.

A declaration may come from an untrusted package or store, so every text in it is short, printable
and on one line, and nothing in it is ever formatted or executed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, get_args

from bench.text import one_line

#: :attr:`MetricWords.unit` of a count out of n (and of AUROC, the share of pairs in order):
#: intervals over seeds treat it as one.
SHARE = "share"
#: Of an MSE: >= 0 without an upper end, so its intervals over seeds are on the logarithm's scale.
SQUARED_ERROR = "squared error"
#: Of a count of images.
IMAGES = "images"

#: Groups of metrics in the order they stand on the board. A group of another name stands after
#: these and before the last two.
GROUPS = (
    "Image quality",
    "Backdoor, by noise",
    "Backdoor, by image",
    "Backdoor, other calls",
    "Control: clean noise",
    "Inpainting",
    "Adversary's class",
    "Classifier",
    "Detection, training set",
    "Detection, generated",
    "Detection, noise",
    "Detection, image",
    "Detection, other calls",
    "Detection, clean",
    "Detection, models",
    "Inversion",
    "Cost",
    "Other",
)
(
    IMAGE_QUALITY, BY_NOISE, BY_IMAGE, BY_OTHER_CALLS, CLEAN_NOISE, RESTORED_IMAGES,
    ADVERSARYS_CLASS, CLASSIFIER, *_DETECTION, MODELS, INVERSION, COST, OTHER,
) = GROUPS  # fmt: skip
#: Letters of a declaration's texts, and what a metric's order may be at most.
LONGEST = {"name": 300, "title": 80, "sentence": 600, "group": 60, "unit": 20, "heading": 60}
LAST = 1000
#: Of what is told of a method: sentences, and letters of each.
SENTENCES, LONGEST_SENTENCE = 3, 600
#: What a method alters or needs: how many, and each as plain words; and as older accounts say it.
THINGS = 12
_THING = re.compile("[a-z]([a-z ]{0,38}[a-z])?")
_NEEDED = re.compile(r"What its user must have: (?P<things>[a-z, ]+)\.")
_ALTERED = re.compile(
    r"It alters (?P<things>[a-z, ]+)(; t(?P<calls>he adversary calls by .+))?[.…]"
)
#: :attr:`Flag.code` of a plugin's own words, and of a flag from before there were codes.
REMARK, NOTE = "remark", "note"
_CODE = re.compile("(?=.{1,60}$)[a-z0-9]+(-[a-z0-9]+)*")
Scale = Literal["", "unit", "control"]
Colour = Literal["always", "attacked", "never"]


@lru_cache(maxsize=2**14, typed=True)
def split(name: str) -> tuple[str, str]:
    """``asr[noise]`` -> (``asr``, ``noise``); a name without brackets has an empty second part."""
    family, bracket, rest = name.partition("[")
    return (family, rest[:-1]) if family and bracket and rest.endswith("]") else (name, "")


def whole_family(name: str) -> str:
    """What stands for all of a metric's family: ``asr[noise]`` -> ``asr[*]``."""
    return f"{split(name)[0]}[*]"


@dataclass(frozen=True, kw_only=True)
class MetricWords:
    """``name``: of one metric (``g1``, ``asr[noise]``), or of all of a family that have no
    declaration of their own (``asr[*]``); there ``{}`` in ``title`` and ``sentence`` stands for
    what is in the brackets. ``title``: unique within its ``group`` only, so the name stands beside
    it. ``sentence``: what a reader of the number has to know; may be empty.

    ``higher_is_better``: from the defender's side, ``None`` for a number without a direction.
    ``low``, ``high``: where values can lie; one outside is no value. ``unit``: :data:`SHARE`,
    :data:`SQUARED_ERROR`, or what is written behind the number. ``decimals``: without, three
    significant digits. ``scale``: the ends of the colours, 0 to 1 (``unit``), 0 to twice the mean
    without a defense (``control``), or the values at hand. ``colour``: ``attacked``: not in the
    rows without an attack, where there is nothing to find.

    ``order``: within the group, then by name. ``in_matrix``: whether it has a table of its own; not
    where no defense can change it. ``control``: its place in the table of controls, ``headline``:
    in what a run leaves in the terminal; 0: it has none. ``heading``: as a column's head, without
    one the name in capitals. ``flags_of``: the family whose flags are about this metric too.

    Raises ``ValueError`` in one line.
    """

    name: str
    title: str
    sentence: str = ""
    group: str = OTHER
    higher_is_better: bool | None = None
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""
    decimals: int | None = None
    scale: Scale = ""
    colour: Colour = "always"
    order: int = LAST
    in_matrix: bool = True
    control: int = 0
    headline: int = 0
    heading: str = ""
    flags_of: str = ""

    def __post_init__(self) -> None:
        for field, longest in (LONGEST | {"flags_of": LONGEST["name"]}).items():
            text = getattr(self, field)
            if not isinstance(text, str) or not text.isprintable() or len(text) > longest:
                raise ValueError(
                    f"{field} of a metric must be at most {longest} printable characters on one "
                    f"line, got {one_line(repr(text), 80)}"
                )
        if not self.name or not self.title or not self.group or split(self.name)[0] == "*":
            raise ValueError("a metric must have a name, a title and a group")
        for field in ("order", "control", "headline"):
            self._require(field, range(LAST + 1), f"a whole number from 0 to {LAST}")
        if self.decimals is not None:
            self._require("decimals", range(7), "None, or a whole number from 0 to 6")
        self._require("scale", get_args(Scale), f"one of {get_args(Scale)}")
        self._require("colour", get_args(Colour), f"one of {get_args(Colour)}")
        if not isinstance(self.higher_is_better, bool | None) or type(self.in_matrix) is not bool:
            raise ValueError(f"higher_is_better and in_matrix of {self.name} must be true or false")
        ends = (self.low, self.high)
        if not all(
            type(end) is float or (type(end) is int and abs(end) < 2**53) for end in ends
        ) or not (self.low <= self.high):
            raise ValueError(
                f"bounds of {self.name} must be numbers, low <= high, got "
                f"{one_line(f'{self.low!r} and {self.high!r}', 80)}"
            )

    def _require(self, field: str, allowed: range | tuple[str, ...], rule: str) -> None:
        value = getattr(self, field)
        if type(value) not in (int, str) or value not in allowed:
            raise ValueError(
                f"{field} of {self.name} must be {rule}, got {one_line(repr(value), 80)}"
            )

    @property
    def family(self) -> str:
        """What stands before the bracket."""
        return split(self.name)[0]

    def covers(self, name: str) -> bool:
        """Whether the declaration is of the metric ``name``."""
        return name == self.name or (
            split(self.name)[1] == "*" and split(name)[0] == self.family and bool(split(name)[1])
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, what is as usual left out; no bound is ``null``."""
        usual = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    @classmethod
    def from_json(cls, data: Any) -> MetricWords:
        """What :meth:`to_json` gave, from anywhere. Raises ``ValueError`` in one line."""
        known = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or not {"name", "title"} <= set(data) <= known:
            raise ValueError("a declared metric must have a name, a title and known fields alone")
        return cls(**data)


@dataclass(frozen=True)
class MethodWords:
    """What a plugin is, in up to three texts, as its author says; what an attack ``alters``,
    and what the user of a method ``needs`` to have, the methods that it uses included, as plain
    words in order of the alphabet. Raises ``ValueError`` in one line.
    """

    name: str
    sentences: tuple[str, ...]
    alters: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = (self.name, *self.sentences)
        if not all(isinstance(text, str) and text.isprintable() for text in texts):
            raise ValueError("a method's name and sentences must be printable, on one line each")
        if not 0 < len(self.name) <= LONGEST["name"] or len(self.sentences) > SENTENCES:
            raise ValueError(f"a method must have a name and at most {SENTENCES} sentences")
        if any(len(text) > LONGEST_SENTENCE for text in self.sentences):
            raise ValueError(f"a sentence must have at most {LONGEST_SENTENCE} characters")
        for things in (self.alters, self.needs):
            if not all(isinstance(one, str) and _THING.fullmatch(one) for one in things):
                raise ValueError("what a method alters and needs must be plain words")
            if list(things) != sorted(set(things)) or len(things) > THINGS:
                raise ValueError(f"a method alters and needs at most {THINGS} things, each once")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        lists = {name: [*getattr(self, name)] for name in ("sentences", "alters", "needs")}
        return {"name": self.name, **lists}

    @classmethod
    def from_json(cls, data: Any) -> MethodWords:
        """What :meth:`to_json` gave, from anywhere, or an older one's, whose last sentence has what
        the method alters or needs. Raises ``ValueError`` in one line.
        """
        known = {field.name for field in fields(cls)}
        older = {"name", "sentences"}
        if not isinstance(data, Mapping) or set(data) not in (known, older):
            raise ValueError("a described method must have a name, sentences, alters and needs")
        if not all(isinstance(data[field], list) for field in data if field != "name"):
            raise ValueError("a described method's sentences, alters and needs must be lists")
        lists = {field: tuple(data[field]) for field in data if field != "name"}
        if set(data) == older:
            lists = _from_prose(lists["sentences"])
        return cls(data["name"], **lists)


def _from_prose(sentences: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    """The fields of a method whose last sentence has what it alters or needs."""
    last = sentences[-1] if sentences and isinstance(sentences[-1], str) else ""
    words = {"sentences": sentences}
    if match := _NEEDED.fullmatch(last):
        words |= {"sentences": sentences[:-1], "needs": _things(match["things"])}
    elif match := _ALTERED.fullmatch(last):
        calls = (f"T{match['calls']}{last[-1]}",) if match["calls"] else ()
        alters = _things(match["things"])
        words |= {"sentences": (*sentences[:-1], *calls), "alters": alters}
    return words


def _things(text: str) -> tuple[str, ...]:
    return tuple(sorted({*re.split(", | and ", text)} - {"nothing"}))


@dataclass(frozen=True)
class Flag:
    """What a reader has to know beside a number. ``code``: what it is, in kebab-case, which is what
    a program selects by (docs/design.md lists ours); ``metric``: what it is about, a metric
    (``auroc[generated]``), a whole family (``asr``), or empty for the whole cell; ``text``: one
    line for people, the short form before its first comma or colon.
    """

    code: str
    metric: str
    text: str

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise ValueError(
                f"a flag's code must be kebab-case of at most 60 letters, got "
                f"{one_line(repr(self.code), 80)}"
            )

    @property
    def line(self) -> str:
        """As it stands alone: with what it is about, and who says so if a plugin does."""
        family, argument = split(self.metric)
        about = family or ("remark" if self.code == REMARK else "")
        text = f"{self.text} ({argument})" if argument else self.text
        return f"{about}: {text}" if about else text

    @property
    def short(self) -> str:
        """As it stands beside a number."""
        return re.split("[,:] ", self.text, maxsplit=1)[0]

    def concerns(self, metric: str, family: str = "") -> bool:
        """Whether it is about ``metric``; ``family``: whose flags it shares, if not its own's. A
        family's name stands for all of it.
        """
        (mine, argument), (its, other) = split(self.metric), split(metric)
        return not mine or (mine in (its, family) and (not argument or other in (argument, "")))


def declaration_of(declared: Iterable[MetricWords], name: str) -> MetricWords | None:
    """The declaration of the metric ``name``: its own, or else its family's."""
    covering = [one for one in declared if one.covers(name)]
    return next((one for one in covering if one.name == name), covering[0] if covering else None)


#: What a record's ``cost`` says; each is a metric ``cost[...]`` on the board.
COSTS = (
    MetricWords(
        name="cost[seconds]",
        title="time",
        sentence="Seconds of this cell alone: the defense and its samples, not the attack's "
        "training.",
        group=COST,
        higher_is_better=False,
        low=0.0,
        unit="s",
        order=1,
    ),
    MetricWords(
        name="cost[peak_memory_bytes]",
        title="memory",
        sentence="Peak memory of the process that ran this cell.",
        group=COST,
        higher_is_better=False,
        low=0.0,
        unit="B",
        order=2,
    ),
    MetricWords(
        name="cost[generator_calls]",
        title="network calls",
        sentence="Images passed through the generator's network by this cell.",
        group=COST,
        higher_is_better=False,
        low=0.0,
        unit=IMAGES,
        decimals=0,
        order=3,
    ),
    MetricWords(
        name="cost[attack_seconds]",
        title="attack time",
        sentence="Seconds the attack's training took; shared by all its cells.",
        group=COST,
        higher_is_better=False,
        low=0.0,
        unit="s",
        order=4,
    ),
)
_ROLES = {
    "clean": "clean noise",
    "call:noise": "triggered noise (e + g)",
    "call:image": "triggered image (e + r)",
    "target": "asked for the adversary's class",
    "generated": "generated data set",
    "target_image": "target",
    "trigger_image": "trigger",
    "stamped": "held-out images, stamped",
    "originals": "held-out images",
}
_PREFIXES = {
    "call": "called by",
    "restored": "restored,",
    "corrupted": "corrupted,",
    "corrupted_call": "triggered and corrupted,",
    "recovered": "recovered,",
    "recovered_trigger": "recovered trigger,",
}
#: Roles that are the same whatever the cell's defense.
_UNTREATED = ("target_image", "trigger_image", "stamped")


def role_words(role: str) -> str:
    """What an artefact or a picture of that role shows, for people; an unknown role is its own."""
    prefix, colon, rest = role.partition(":")
    return _ROLES.get(role) or (
        f"{_PREFIXES[prefix]} {rest}" if colon and prefix in _PREFIXES else role
    )


def caption(role: str, treatment: str) -> str:
    """Of a record's picture."""
    prefix = role.partition(":")[0]
    drawn = role in _ROLES or prefix == "call"
    if treatment or (drawn and role not in _UNTREATED):
        return f"{role_words(role)}, {treatment or 'no defense'}"
    return role_words(role)
