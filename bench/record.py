"""The record of one cell: every number on the board, with its provenance. Without torch.

A record is one JSON object. Absent is ``null``, never 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar, get_args

from bench.manifest import MANIFEST, fault, read_file
from bench.text import one_line, plain_values, tail
from bench.words import NOTE as NOTE
from bench.words import REMARK as REMARK
from bench.words import SHARE as SHARE
from bench.words import SQUARED_ERROR as SQUARED_ERROR
from bench.words import Flag as Flag
from bench.words import MethodWords as MethodWords
from bench.words import MetricWords as MetricWords

SCHEMA = 1
Status = Literal["ok", "failed", "skipped"]
#: What a record may hold at most: characters of its file, of a name and of a plugin's parameters,
#: and entries of a table.
MAX_FILE, MAX_NAME, MAX_PARAMS, MAX_ENTRIES = 64 * 2**20, 300, 20_000, 2_000
#: What the board ranks by and draws, which it looks up by name: (families, lowest, highest, which
#: direction is good for the defender, if one is). No declaration can change these; all else is as
#: its measurement declares.
RANKED: tuple[tuple[str, float, float, bool | None], ...] = (
    (r"asr|robust_asr|asr_class|asr_set|classifier_asr|fpr_.*", 0.0, 1.0, False),
    (r"auroc|tpr_.*|ta", 0.0, 1.0, True),
    (r"g[1-4]|mismatch|p_t", 0.0, 1.0, None),
    (r"fid", -1e-3, math.inf, False),
    (r"mse", 0.0, math.inf, True),
    (r"inversion_mse_.*|trigger_mse_(best|last)", 0.0, math.inf, False),
)
#: The largest number that is a number here: sums and squares of it are still numbers.
LARGEST = 1e100
#: The largest n that is exact as a float.
_MOST = 2**53
#: What rounding may add to a limit.
SLACK = 1e-6
#: One encoder: ``json.dumps`` makes one a call.
_SORTED = json.JSONEncoder(sort_keys=True)
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number. ``ci_low``/``ci_high``: 95 % interval within the seed, ``None`` if none was
    computed: how much the number would move had other samples been drawn from the same generator.
    Of a share it is Wilson's, of AUROC DeLong's (on the logit scale, Obuchowski's where images come
    in groups), of a FID the infinitesimal jackknife's (FID at this n), of a mean the bootstrap's
    (BCa); of the real images' FID the range of the repeated splits. ``n``: samples behind it.
    ``effective_n``: the equivalent number of independent samples, n over the design effect, where
    samples come in groups (crops of one digit); for AUROC of independent pairs; ``None`` elsewhere.
    ``unit``: :data:`SHARE`, :data:`SQUARED_ERROR`, or the unit written after the number.

    ``higher_is_better`` is from the **defender's** side; ``None`` for a number without a direction.
    """

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    effective_n: float | None = None
    unit: str = ""
    higher_is_better: bool | None = None

    def __post_init__(self) -> None:
        for name in ("value", "ci_low", "ci_high", "effective_n"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(f"a metric's {name} must be finite or None, got {number!r}")


@dataclass(frozen=True)
class Picture:
    """A picture beside a record. ``role``: what it shows (``clean``, ``call:noise``, ``target``,
    ``target_image``, ``recovered:epoch 1``); ``treatment``: under what it was drawn, the column's
    name, or empty for no defense; ``path``: relative to the record's folder.
    """

    role: str
    treatment: str
    path: str


@dataclass(frozen=True, kw_only=True)
class PluginSpec:
    """``(name, params)`` rebuilds the plugin; ``label`` is what a reader sees."""

    name: str
    params: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @cached_property
    def identity(self) -> tuple[str, str]:
        """Name and parameters; two with equal ones are the same, whatever their labels."""
        return self.name, _SORTED.encode(self.params)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One (testbed, attack, sampler, defense, seed), or a population of models: one (testbed,
    attack, sampler, detector) over ``seeds``, whose first is ``seed``; elsewhere ``seeds`` is
    empty.

    ``probe``: for the no-attack row, the attack whose invocation and target the clean generator was
    tried with; ``None`` elsewhere. ``sampler``: name and settings of the sampler that a suite
    listed; ``None`` for the testbed's own. ``kind``: the defense's family, which decides the
    metrics (``control``, ``sampler``, ``model``, ``inversion``). ``absent``: what this cell does
    not measure, with the reason: a metric's name, or ``family[*]`` for all of a family that have no
    reason of their own. ``series``: named sequences for plots, e.g. ``{"inversion_mse": [...],
    "epoch": [...]}``. ``cost``: ``seconds``, ``peak_memory_bytes``, ``generator_calls`` (images
    through the network), each of this cell alone, and ``attack_seconds``. ``reason``: why it failed
    or was skipped, one line. ``trace``: the traceback of a failure, for the plugin's author.
    """

    testbed: PluginSpec
    attack: PluginSpec
    defense: PluginSpec
    seed: int
    status: Status
    kind: str = ""
    probe: PluginSpec | None = None
    sampler: PluginSpec | None = None
    seeds: tuple[int, ...] = ()
    protocol: str = ""
    metrics: dict[str, Metric] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    absent: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    reason: str = ""
    trace: str = ""
    schema: int = SCHEMA

    def picture(self, role: str, treatment: str = "") -> str | None:
        """The path of a picture; ``None`` if there is none."""
        paths = (
            picture.path
            for picture in self.pictures
            if (picture.role, picture.treatment) == (role, treatment)
        )
        return next(paths, None)

    def to_json(self) -> str:
        """Canonical: sorted keys, no NaN."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The inverse of :meth:`to_json`, for untrusted text: the result has the types, ranges and
        directions that the board relies on, and no text in it can harm a terminal or a page.

        Raises ``ValueError`` with one line that names the field, also for another schema.
        """
        return cls.from_values(_parsed(text))

    @classmethod
    def from_values(cls, data: Any) -> Record:
        """As :meth:`from_json`, of values that JSON was read into; what is as usual may be left
        out.
        """
        return _record(_object(data, "a record"))


def cell_code(
    specs: Sequence[PluginSpec | None], sampler: PluginSpec | None, *, population: bool
) -> str:
    """Eight hexadecimal digits for a cell over all its seeds, whatever its protocol: what
    ``castlewalls run SUITE --cells CODE`` takes. ``specs``: testbed, attack, probe and defense;
    ``sampler``: ``None`` for the testbed's own.
    """
    parts: list[Any] = [None if spec is None else spec.identity for spec in (*specs, sampler)]
    text = json.dumps([*parts, population])
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The last run of a suite. ``started``, ``finished``: ISO 8601 in UTC; ``finished`` is ``None``
    while it goes on or if it was ended.

    ``counts``: cells by status, ``pending`` among them, and ``missing``, those whose record is gone
    from the store, if there are any. ``records``: the cells that have a result, in the suite's
    order, each with the folder its pictures are in (a failed or skipped cell has no pictures; its
    folder is the store). ``metrics``: what its numbers mean, as their measurements declare them;
    none in an older run. ``methods``: what its plugins are, in their authors' words; likewise.
    ``problems``: what could not be read, a line each. ``note``: what a reader
    has to know of how the run was kept. Of several sources, ``source`` says which, and where two
    hold one cell, the one of the higher ``precedence`` is shown.
    """

    suite: str
    description: str
    started: str
    finished: str | None
    counts: dict[str, int]
    records: list[tuple[Path, Record]]
    metrics: tuple[MetricWords, ...] = ()
    methods: tuple[MethodWords, ...] = ()
    problems: tuple[str, ...] = ()
    note: str = ""
    source: str = ""
    precedence: int = 0

    @classmethod
    def unreadable(cls, suite: str, problem: str) -> Run:
        """A run of which nothing is known but why, in one line."""
        return cls(
            suite=suite,
            description="",
            started="",
            finished=None,
            counts={},
            records=[],
            problems=(problem,),
        )


def read_runs(store: Path) -> list[Run]:
    """Every suite that was run into ``store``, in the order of their names.

    A record that is damaged, of another version or of another cell becomes a ``failed`` one with
    the reason, and an unreadable account becomes a run without records, with its problem: neither
    affects the other runs. Missing records are counted.
    """
    return [_run(store, path) for path in sorted((store / "runs").glob("[!.]*.json"))]


def read_account(path: Path) -> dict[str, Any]:
    """The checked fields of one ``runs/<suite>.json``. Raises ``ValueError`` in one line, without
    the file's name, or ``OSError``.
    """
    data = plain_values(_object(_parsed(read_file(path)), "an account"))
    cells = [dict(_object(cell, "a cell")) for cell in _typed(data, "cells", list)]
    finished = data.get("finished")
    if not isinstance(finished, str | None):
        raise ValueError(f"finished must be text or null, got {type(finished).__name__}")
    return {
        "suite": _typed(data, "suite", str)[:MAX_NAME],
        "description": _typed(data, "description", str, ""),
        "started": _typed(data, "started", str),
        "finished": finished,
        "cells": cells,
        "metrics": [
            one
            for one in _typed(data, "metrics", list, [])
            if isinstance(one, dict) and isinstance(one.get("name"), str)
        ][:MAX_ENTRIES],
        "methods": _typed(data, "methods", list, [])[:MAX_ENTRIES],
    }


def _run(store: Path, path: Path) -> Run:
    try:
        data = read_account(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problem = f"runs/{path.name} cannot be read: {one_line(str(reason))}; run the suite again"
        return Run.unreadable(path.stem, problem)
    counts = {"ok": 0, "failed": 0, "skipped": 0, "pending": 0}
    records: list[tuple[Path, Record]] = []
    metrics, problems = _declared(path.name, data.pop("metrics"))
    methods = methods_of(data.pop("methods"))
    for cell in data.pop("cells"):
        folder, outcome = _cell(store, cell)
        if isinstance(outcome, Record):
            records.append((folder, outcome))
            outcome = outcome.status
        elif outcome not in ("pending", "missing"):
            problems.append(f"{path.name}: {outcome}")
            outcome = "failed"
        counts[outcome] = counts.get(outcome, 0) + 1
    if "missing" in counts:
        problems.append(
            f"{path.name}: {counts['missing']} records are missing from the store; run the suite "
            f"again"
        )
    return Run(
        **data,
        counts=counts,
        records=records,
        metrics=metrics,
        methods=methods,
        problems=tuple(problems),
    )


def methods_of(listed: Any) -> tuple[MethodWords, ...]:
    """The descriptions that can be shown, the first of each name. One that cannot is left out: no
    number depends on it.
    """
    methods: dict[str, MethodWords] = {}
    for one in listed[:MAX_ENTRIES] if isinstance(listed, list) else []:
        with contextlib.suppress(ValueError, TypeError):
            words = MethodWords.from_json(one)
            methods.setdefault(words.name, words)
    return tuple(methods.values())


def _declared(file: str, declarations: list[Any]) -> tuple[tuple[MetricWords, ...], list[str]]:
    """The usable declarations, the first of each name, and a line about those that are not."""
    metrics: dict[str, MetricWords] = {}
    wrong: list[str] = []
    for declaration in declarations:
        try:
            words = MetricWords.from_json(declaration)
            metrics.setdefault(words.name, words)
        except ValueError as error:
            wrong.append(str(error))
    lines = (
        [f"{file}: {len(wrong)} metrics cannot be used as declared: {wrong[0]}"] if wrong else []
    )
    return tuple(metrics.values()), lines


def _cell(store: Path, cell: Mapping[str, Any]) -> tuple[Path, Record | str]:
    """An entry's folder and its record, or ``pending``, ``missing``, or what is wrong with it."""
    folder = store
    try:
        if "record" in cell:
            folder = _inside(store, cell["record"])
            if not (folder / "record.json").exists():
                return folder, "missing"
            wrong = fault(folder, contents=True) if (folder / MANIFEST).exists() else ""
            if wrong:
                raise ValueError(wrong)
            record = Record.from_json(read_file(folder / "record.json"))
        elif "inline" in cell:
            record = _record(_object(cell["inline"], "a record"))
        else:
            return store, "pending"
        _check_identity(cell, record)
        return folder, record
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        return store, _unreadable(cell, one_line(reason))


def _inside(store: Path, name: Any) -> Path:
    """The folder of a record, from its path below the store in an account."""
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
    if path.is_absolute() or ".." in path.parts or path.name != "record.json":
        raise ValueError(
            f"its path must be a record.json below the store, got {one_line(repr(name), 100)}"
        )
    return store / path.parent


def _identity_of(cell: Mapping[str, Any]) -> list[Any] | None:
    """``[testbed, attack, probe, defense, sampler, seed]``, all but the last as ``[name, params]``
    or ``None``; a population has a list of seeds. ``None`` if the account has no valid id. An id
    omits the testbed's own sampler.
    """
    try:
        identity = json.loads(cell["id"])
        if not isinstance(identity, list) or len(identity) not in (5, 6):
            return None
        return identity if len(identity) == 6 else [*identity[:4], None, identity[4]]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _check_identity(cell: Mapping[str, Any], record: Record) -> None:
    wanted = _identity_of(cell)
    specs = (record.testbed, record.attack, record.probe, record.defense, record.sampler)
    identity = [
        *(None if spec is None else [spec.name, spec.params] for spec in specs),
        list(record.seeds) or record.seed,
    ]
    # The record's texts were made plain when it was read, the account's were escaped.
    if wanted is not None and json.dumps(plain_values(wanted), sort_keys=True) != json.dumps(
        plain_values(identity), sort_keys=True
    ):
        raise ValueError("it is of another cell than the account says")


def _which_seeds(seeds: Any) -> dict[str, Any]:
    """A record's ``seed``, and for a population ``seeds``, from the last entry of an id."""
    if not isinstance(seeds, list):
        return {"seed": _seed(seeds)}
    return {"seed": _seed(seeds[0]), "seeds": _seeds(seeds)}


def _unreadable(cell: Mapping[str, Any], reason: str) -> Record | str:
    """A failed record in place of an unusable one; only the reason if the cell is unknown."""
    identity = _identity_of(cell)
    text = f"its record cannot be used: {reason}"
    try:
        if identity is None:
            raise ValueError
        labels = [*(cell.get("labels") or [""] * 4), ""][:5]
        specs = [
            None
            if part is None
            else _spec({"name": part[0], "params": part[1], "label": label or ""}, "its id")
            for part, label in zip(identity[:5], labels, strict=True)
        ]
        testbed, attack, probe, defense, sampler = specs
        if testbed is None or attack is None or defense is None:
            raise ValueError
        fields = {
            "testbed": testbed,
            "attack": attack,
            "probe": probe,
            "defense": defense,
            "sampler": sampler,
        } | _which_seeds(identity[5])
        about = {name: _typed(cell, name, str, "")[:MAX_NAME] for name in ("kind", "protocol")}
        return Record(**fields, **about, status="failed", reason=text)  # type: ignore[arg-type]
    except (ValueError, TypeError, IndexError, KeyError):
        return text


# --- reading, checked -----------------------------------------------------------------------------


def _parsed(text: str) -> Any:
    if len(text) > MAX_FILE:
        raise ValueError(f"it has {len(text)} characters, more than {MAX_FILE}")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be an object, got {type(value).__name__}")
    return value


def _typed(data: Mapping[str, Any], name: str, required: type[R], default: R | None = None) -> R:
    value = data.get(name, default)
    if not isinstance(value, required):
        raise ValueError(f"{name} must be {required.__name__}, got {one_line(repr(value), 80)}")
    return value


def _record(data: Mapping[str, Any]) -> Record:
    if data.get("schema") != SCHEMA:
        raise ValueError(
            f"of another version: a record's schema must be {SCHEMA}, got "
            f"{one_line(repr(data.get('schema')), 40)}"
        )
    unknown = sorted(set(data) - _FIELDS)
    if unknown:
        raise ValueError(f"of another version: unknown field {one_line(repr(unknown[0]), 80)}")
    series = {name: _curve(name, values) for name, values in _table(data, "series").items()}
    data = plain_values({name: value for name, value in data.items() if name != "series"})
    _plain_json(data.get("provenance"), "provenance")
    status: Any = data.get("status")
    if status not in get_args(Status):
        raise ValueError(
            f"status must be one of {', '.join(get_args(Status))}, got {one_line(repr(status), 80)}"
        )
    flags, absent = _typed(data, "flags", list, []), _table(data, "absent")
    if len(flags) > MAX_ENTRIES or not all(isinstance(text, str) for text in absent.values()):
        raise ValueError(f"flags and reasons must be at most {MAX_ENTRIES}, reasons of text")
    return Record(
        testbed=_spec(data.get("testbed"), "testbed"),
        attack=_spec(data.get("attack"), "attack"),
        defense=_spec(data.get("defense"), "defense"),
        probe=None if data.get("probe") is None else _spec(data["probe"], "probe"),
        sampler=None if data.get("sampler") is None else _spec(data["sampler"], "sampler"),
        seed=_seed(data.get("seed")),
        seeds=_seeds(data.get("seeds", [])),
        status=status,
        kind=_typed(data, "kind", str, "")[:MAX_NAME],
        protocol=_typed(data, "protocol", str, "")[:MAX_NAME],
        metrics={name: _metric(name, metric) for name, metric in _table(data, "metrics").items()},
        series=series,
        flags=tuple(_flag(flag) for flag in flags),
        absent={name: one_line(reason) for name, reason in absent.items()},
        cost={name: _finite(value, f"cost {name}") for name, value in _table(data, "cost").items()},
        provenance=_typed(data, "provenance", dict, {}),
        pictures=_pictures(data.get("pictures", [])),
        reason=one_line(_typed(data, "reason", str, "")),
        trace=tail(_typed(data, "trace", str, "")),
    )


def _flag(value: Any) -> Flag:
    """A flag; in old records, from before there were codes, it is a line of text."""
    if isinstance(value, str):
        return Flag(NOTE, "", one_line(value))
    texts = _texts(value, ("code", "metric", "text"), "a flag")
    return Flag(texts["code"], texts["metric"], one_line(texts["text"]))


def _pictures(value: Any) -> tuple[Picture, ...]:
    """Pictures with distinct roles and treatments; in old records it is caption -> path."""
    if isinstance(value, dict):
        value = [{"role": name, "treatment": "", "path": path} for name, path in value.items()]
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise ValueError(f"pictures must be a list of at most {MAX_ENTRIES}")
    names = ("role", "treatment", "path")
    pictures = tuple(Picture(**_texts(picture, names, "a picture")) for picture in value)
    if len({(picture.role, picture.treatment) for picture in pictures}) < len(pictures):
        raise ValueError("pictures must have a role and a treatment of their own each")
    return pictures


def _texts(value: Any, names: tuple[str, ...], what: str) -> dict[str, str]:
    """The texts of an object with exactly these ``names``, of at most :data:`MAX_NAME` letters."""
    texts = _object(value, what)
    if set(texts) != set(names) or not all(
        isinstance(text, str) and (name == "text" or len(text) <= MAX_NAME)
        for name, text in texts.items()
    ):
        raise ValueError(
            f"{what} must have {', '.join(names)}, text of at most {MAX_NAME} characters each"
        )
    return dict(texts)


def _table(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = _typed(data, name, dict, {})
    if len(table) > MAX_ENTRIES or any(len(key) > MAX_NAME for key in table):
        raise ValueError(
            f"{name} must have at most {MAX_ENTRIES} entries, with names of at most {MAX_NAME} "
            f"characters"
        )
    return table


def _seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"seed must be a whole number from 0 up, got {one_line(repr(value), 80)}")
    return value


def _seeds(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_ENTRIES:
        raise ValueError(f"seeds must be a list of at most {MAX_ENTRIES}")
    seeds = tuple(_seed(one) for one in value)
    if len(set(seeds)) < len(seeds):
        raise ValueError("seeds must be different")
    return seeds


def _spec(value: Any, what: str) -> PluginSpec:
    fields = _object(value, what)
    name, label, params = (
        _typed(fields, "name", str),
        _typed(fields, "label", str, ""),
        _typed(fields, "params", dict, {}),
    )
    if set(fields) - {"name", "params", "label"} or not name or len(name) > MAX_NAME:
        raise ValueError(
            f"{what} must have a name of at most {MAX_NAME} characters, params and a label"
        )
    if len(_plain_json(params, f"{what}'s params")) > MAX_PARAMS:
        raise ValueError(f"{what}'s params must have at most {MAX_PARAMS} characters")
    return PluginSpec(name=name, params=params, label=one_line(label))


def _plain_json(value: Any, what: str) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
        json.loads(text, parse_int=_held_by_a_float)
    except ValueError:
        raise ValueError(f"{what} must hold finite numbers") from None
    return text


def _held_by_a_float(digits: str) -> None:
    if len(digits) > 300:
        raise ValueError


def _finite(value: Any, what: str) -> float:
    # Not `< math.inf`, which a whole number of 400 digits is, and then no float can hold it.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise ValueError(f"{what} must be a finite number, got {one_line(repr(value), 80)}")
    return value


def _curve(name: str, values: Any) -> list[float]:
    if not isinstance(values, list) or not _are_finite(values):
        raise ValueError(f"series {one_line(name, 80)} must be a list of finite numbers")
    return values


def _are_finite(values: list[Any]) -> bool:
    return set(map(type, values)) <= {float, int} and all(abs(one) <= LARGEST for one in values)


def _metric(name: str, value: Any) -> Metric:
    fields = dict(_object(value, f"metric {name}"))
    unknown = sorted(set(fields) - _METRIC_FIELDS)
    if unknown:
        raise ValueError(f"of another version: metric {name} has an unknown field {unknown[0]!r}")
    numbers = {
        field: _finite(number, f"{field} of {name}")
        for field, number in fields.items()
        if field not in _NO_NUMBERS and number is not None
    }
    if "value" not in fields:
        raise ValueError(f"metric {name} must have a value, null if it is absent")
    _typed(fields, "unit", str, "")
    better = fields.get("higher_is_better")
    if not isinstance(better, bool | None):
        raise ValueError(f"higher_is_better of {name} must be true, false or null")
    count = fields.get("n")
    if count is not None and (type(count) is not int or not 0 <= count <= _MOST):
        raise ValueError(
            f"n of {name} must be a whole number from 0 to 2^53, got {one_line(repr(count), 40)}"
        )
    if numbers.get("effective_n", 0) < 0:
        raise ValueError(f"effective_n of {name} must not be below 0")
    if numbers.get("ci_low", -math.inf) > numbers.get("ci_high", math.inf):
        raise ValueError(f"the interval of {name} must not end below where it begins")
    _check_family(name, numbers.get("value"), better)
    return Metric(**fields)


_FIELDS = frozenset(field.name for field in dataclasses.fields(Record))
_METRIC_FIELDS = frozenset(field.name for field in dataclasses.fields(Metric))
_NO_NUMBERS = ("unit", "higher_is_better")


def _check_family(name: str, value: float | None, better: bool | None) -> None:
    """Refuses a value out of range or a reversed direction, which would lead every ranking."""
    for low, high, good in _ranges_of(name.partition("[")[0]):
        if value is not None and not low - SLACK <= value <= high + SLACK:
            raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {value:g}")
        if good is not None and better is not None and better is not good:
            raise ValueError(f"{name}: higher_is_better must be {str(good).lower()}")


@lru_cache(maxsize=256)
def _ranges_of(family: str) -> tuple[tuple[float, float, bool | None], ...]:
    return tuple(row[1:] for row in RANKED if re.fullmatch(row[0], family))
