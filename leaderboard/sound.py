"""Records as the board may use them: whatever stands in one, it is shown for what it is and never
as good news.

Reading (:mod:`bench.record`) sees to types. Here: a value outside its metric's range is no value, a
direction is the metric's own, a status that nobody knows is a failure, and a text is of a length
and in letters that a reader can trust.
"""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from functools import lru_cache

from bench.record import Flag, Metric, PluginSpec, Record
from leaderboard.names import UNKNOWN as UNKNOWN_WORDS
from leaderboard.names import Vocabulary, ranked

#: Letters of a reason, of a flag and of a plugin's label on the page; the records have all of it.
REASON, FLAG, LABEL = 300, 200, 160
#: Marks on one letter; no writing has more than a few.
_MARKS = 5
#: Lines of a traceback's end, and letters of one.
TRACE = 4000
#: Metrics that nobody declares, and metrics at all, that a cell shows; the CSV has them all.
UNKNOWN, MOST = 40, 300


def sound(record: Record, names: Vocabulary = UNKNOWN_WORDS) -> Record:
    """The record, with what cannot be believed taken out and named in its flags."""
    metrics, flags = _metrics(record, names)
    return dataclasses.replace(
        named(record),
        metrics=metrics,
        series={name: values for name, values in record.series.items() if _finite(values)},
        cost={
            name: value
            for name, value in record.cost.items()
            if math.isfinite(value) and value >= 0
        },
        flags=tuple(
            dict.fromkeys(
                Flag(flag.code, cut(flag.metric, LABEL), cut(flag.text, FLAG))
                for flag in (*record.flags, *flags)
            )
        ),
        trace=visible(record.trace if len(record.trace) <= TRACE else "…" + record.trace[-TRACE:]),
    )


def named(record: Record) -> Record:
    """The record with its status, its reason and its plugins' labels as the board may use them."""
    known = record.status in ("ok", "failed", "skipped")
    reason = (
        record.reason
        if known
        else f"unknown status {record.status!r}{f': {record.reason}' if record.reason else ''}"
    )
    return dataclasses.replace(
        record,
        status=record.status if known else "failed",
        testbed=_named(record.testbed),
        attack=_named(record.attack),
        defense=_named(honest_control(record).defense),
        probe=_named(record.probe) if record.probe else None,
        sampler=_named(record.sampler) if record.sampler else None,
        reason=cut(reason, REASON),
    )


def cut(text: str, length: int) -> str:
    """On one line and at most so long, with letters that are not shown, or that turn the writing
    round, spelled out.
    """
    line = visible(" ".join(text[: 4 * length].split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def visible(text: str) -> str:
    """Control and format characters, lone surrogates among them, as ``\\u202e``; line ends and tabs
    stay. Likewise marks that one letter has too many of: they are drawn over the lines around it.
    """
    if text.isascii() and text.isprintable():
        return text
    letters, marks = [], 0
    for letter in text:
        kind = unicodedata.category(letter)[0]
        marks = marks + 1 if kind == "M" else 0
        hidden = (kind == "C" and letter not in "\n\t") or marks > _MARKS
        letters.append(letter.encode("unicode_escape").decode() if hidden else letter)
    return "".join(letters)


def display(spec: PluginSpec) -> str:
    """What a reader sees of a plugin: its label if that begins with its name, as the engine's do;
    else its name, and what it calls itself. Letters beyond ASCII in a name are spelled out: some
    look like others.
    """
    return _display(spec.name, spec.label)


@lru_cache(maxsize=4096)
def _display(plugin: str, label: str) -> str:
    """Thousands of records are of a few plugins."""
    name = cut(_ascii(plugin), LABEL) or "unnamed"
    head = re.split(r"[\s(\[{<]", label, maxsplit=1)[0]
    if not label or label == plugin:
        return name
    if _plain(head) == _plain(plugin) and head.isascii():
        return cut(label, LABEL)
    return cut(f"{name} (calls itself “{_ascii(label)}”)", LABEL)


def _named(spec: PluginSpec) -> PluginSpec:
    return dataclasses.replace(spec, label=display(spec))


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def honest_control(record: Record) -> Record:
    """``none`` is the control's name; whatever else bears it is distinguished by its kind."""
    if record.defense.name != "none" or record.kind in ("control", "anchor", ""):
        return record
    defense = dataclasses.replace(record.defense, name=f"none [{record.kind}]", label="")
    return dataclasses.replace(record, defense=defense)


def _finite(values: object) -> bool:
    # No generator: a large board asks this of two million values.
    return (
        isinstance(values, list | tuple)
        and {int, float, bool}.issuperset(map(type, values))
        and (math.isfinite(sum(values)) or all(map(math.isfinite, values)))
    )


def _metrics(record: Record, names: Vocabulary) -> tuple[dict[str, Metric], list[Flag]]:
    metrics, flags = {}, list[Flag]()
    strange = sorted(
        name for name in record.metrics if not names.words(name).known and not ranked(name)
    )
    left_out = {
        *strange[UNKNOWN:],
        *sorted(record.metrics, key=lambda name: (not ranked(name), names.order(name)))[MOST:],
    }
    for name, metric in record.metrics.items():
        if name in left_out:
            continue
        low, high, direction = names.rule(name)
        if metric.value is not None and not low <= metric.value <= high:
            text = f"{name} outside its range at {metric.value:.6g} and not counted"
            flags.append(Flag("out-of-range", name, text))
            metric = dataclasses.replace(metric, value=None, ci_low=None, ci_high=None)
        if direction is not None and metric.higher_is_better not in (None, direction):
            text = f"{name} had its direction turned round"
            flags.append(Flag("direction-reversed", name, text))
            metric = dataclasses.replace(metric, higher_is_better=direction)
        metrics[name] = metric
    if left_out:
        text = f"{len(left_out)} metrics of unknown names stand in the CSV alone"
        flags.append(Flag("unknown-metrics", "", text))
    return metrics, flags
