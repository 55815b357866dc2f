"""The machine-readable twins of the board: a tidy CSV (one row per cell, seed and metric) and the
records as JSON.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

from bench.record import Metric, PluginSpec, Record, Run
from leaderboard import beside, methods
from leaderboard.board import numbers
from leaderboard.names import Vocabulary, vocabulary
from leaderboard.red_flags import DEFINITIONS
from leaderboard.sound import display, visible

#: What the rows of one record have alike, and what each has for itself.
CELL_COLUMNS = (
    "suite", "testbed", "testbed_params", "protocol", "attack", "attack_label", "attack_params",
    "probe", "probe_label", "probe_params", "sampler", "sampler_label", "sampler_params",
    "defense", "defense_label", "defense_params", "kind", "seed", "seeds", "status",
    "reason", "flags", "attack_alters", "defense_needs",
)  # fmt: skip
METRIC_COLUMNS = (
    *("metric", "value", "ci_low", "ci_high", "n", "unit", "higher_is_better"),
    "published",
)
COLUMNS = [*CELL_COLUMNS, *METRIC_COLUMNS]


#: How every JSON file begins.
JSON_START = '{\n"flags": '

#: What a cell is of.
ROLES = ("testbed", "attack", "probe", "sampler", "defense")
#: What the JSON has of a paper's number.
SOURCE = (
    *("metric", "name", "value", "printed", "deviation", "unit"),
    *("table", "page", "section"),
)
#: What a spreadsheet takes for a formula at the start of a text (OWASP, "CSV injection"), the
#: full-width forms among them.
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")
_WITHIN = re.compile(f'(?s)(?<=.)([;\t\n]"*)(?=[{re.escape("".join(_FORMULA))}])')
#: Longer parameters are in the JSON file and are named by their hash in every row of the CSV.
_PARAMS = 1000


def to_csv(runs: Sequence[Run]) -> str:
    """One row per record and metric; without metrics one row with an empty ``metric``, so failures
    stay countable.

    ``ci_low`` and ``ci_high`` are within the seed; intervals over seeds follow from the rows.
    ``published``: what papers printed for this metric, as text that nothing takes for a number of
    ours. A population of models has ``seeds`` in place of a seed. Parameters are JSON, or their
    hash if they are long. A text that a spreadsheet would run as a formula begins with an
    apostrophe.
    """
    ordered = sorted(runs, key=lambda run: (run.suite, run.started, run.finished or ""))
    names = vocabulary(runs)
    rows = [
        row
        for run in ordered
        for words in [methods.described([run])]
        for record in _in_order(run)
        for row in _rows(run, record, names, words)
    ]
    return "".join([_line(COLUMNS), *rows])


def to_json(runs: Sequence[Run]) -> str:
    """The runs with every record as :meth:`Record.to_json` has it;
    ``Record.from_json(json.dumps(...))`` gives each back. ``flags``: what raises those that a
    program may want to leave out, by code. Beside them, under ``published``, what papers printed
    for the same cells, once for all seeds. ``methods`` of a run: what its plugins are.
    """
    ordered = sorted(runs, key=lambda run: (run.suite, run.started, run.finished or ""))
    parts = {
        "flags": _text(_defined(runs)),
        "published": _list(map(_text, _published(ordered))),
        "runs": _list(map(_run_text, ordered)),
        "schema": "1",
    }
    text = "{\n" + ",\n".join(f'"{name}": {text}' for name, text in parts.items()) + "\n}\n"
    assert text.startswith(JSON_START)
    return text


def packed(name: str, text: str) -> bytes:
    """A zip archive with the text as its one file, ``name``: the same bytes from the same text.
    What reads tables reads it as it is (``pandas.read_csv("board.csv.zip")``).
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        # Of no time: zip has none before 1980.
        archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _run_text(run: Run) -> str:
    names = ("description", "finished", "methods", "started", "suite")
    described = _text({name: getattr(run, name) for name in names})
    return f'{described[:-1]}, "records": {_list(map(_text, _in_order(run)))}}}'


def _list(texts: Iterable[str]) -> str:
    """A line each: a large board has thousands of records, which are written in one piece each."""
    return "[\n" + ",\n".join(texts) + "\n]"


def _text(value: object) -> str:
    """JSON of what may hold dataclasses."""
    return json.dumps(value, default=_fields, sort_keys=True, allow_nan=False, ensure_ascii=False)


def _fields(value: object) -> dict[str, object]:
    if isinstance(value, PluginSpec):  # which remembers more than its fields
        return {"name": value.name, "params": value.params, "label": value.label}
    return vars(value)


def _in_order(run: Run) -> list[Record]:
    """By what they are of, whatever the order they were read in."""
    alike: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for _, record in run.records:
        specs = (spec and spec.identity for role in ROLES for spec in [getattr(record, role)])
        cell = tuple(one or ("", "") for one in specs)
        alike[cell, record.protocol, record.seed, record.seeds].append(record)
    return [
        record
        for _, records in sorted(alike.items())
        for record in (records if len(records) == 1 else sorted(records, key=Record.to_json))
    ]


def _defined(runs: Sequence[Run]) -> dict[str, str]:
    codes = {flag.code for run in runs for _, record in run.records for flag in record.flags}
    return {code: text for code, text in DEFINITIONS.items() if code in codes}


def _published(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Of each cell, whatever its seeds, what stands beside it."""
    lines: dict[str, dict[str, object]] = {}
    for run in runs:
        for _, record in run.records:
            specs = {role: getattr(record, role) for role in ROLES}
            cell = {
                role: spec and {"name": spec.name, "params": spec.params}
                for role, spec in specs.items()
            }
            for item in beside.of_record(record):
                one = item.published
                line = {
                    **{name: getattr(one, name) for name in SOURCE},
                    "paper": dataclasses.asdict(one.paper),
                    "setting": one.setting.text(),
                    "own_testbed": item.own,
                    "differences": item.differences,
                    "beside": cell,
                }
                lines.setdefault(json.dumps(line, sort_keys=True), line)
    return [line for _, line in sorted(lines.items())]


@lru_cache(maxsize=2**14)
def _no_formula(text: str) -> str:
    # A carriage return, which the CSV's writer does not quote, would begin a row.
    # Where a spreadsheet's language separates columns by semicolons, one begins after each.
    cleaned = _WITHIN.sub(r"\1'", visible(text))
    return f"'{cleaned}" if cleaned.startswith(_FORMULA) else cleaned


def _params(spec: PluginSpec) -> str:
    _, text = spec.identity
    return text if len(text) <= _PARAMS else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _rows(run: Run, record: Record, names: Vocabulary, words: methods.Described) -> list[str]:
    # What all rows have alike is written once: most of a row is that.
    of_all = _cell_texts(run, record, words)
    alike = _line([of_all.get(name) for name in CELL_COLUMNS])[:-1]
    items = beside.of_record(record)
    metrics = sorted(numbers(record).items(), key=lambda pair: names.order(pair[0]))
    return [f"{alike},{_line(_metric(name, one, items))}" for name, one in metrics] or [
        f"{alike}{',' * len(METRIC_COLUMNS)}\n"
    ]


def _cell_texts(run: Run, record: Record, words: methods.Described) -> dict[str, str | int | None]:
    texts = {
        "suite": run.suite, "protocol": record.protocol, "kind": record.kind,
        "seeds": ", ".join(map(str, record.seeds)), "status": record.status,
        "reason": record.reason, "flags": "; ".join(flag.line for flag in record.flags),
        "testbed": record.testbed.name, "testbed_params": _params(record.testbed),
        "attack_alters": methods.alters(record.attack.name, words),
        "defense_needs": methods.needs(record.defense.name, words),
    }  # fmt: skip
    for role in ROLES[1:]:
        spec = getattr(record, role)
        if spec is not None:
            texts |= {
                role: spec.name,
                f"{role}_label": display(spec),
                f"{role}_params": _params(spec),
            }
    seed = None if record.seeds else record.seed
    return {"seed": seed, **{name: _no_formula(text) for name, text in texts.items()}}


def _metric(name: str, metric: Metric, items: Sequence[beside.Beside]) -> list[object]:
    """In the order of :data:`METRIC_COLUMNS`."""
    published = "; ".join(item.text for item in beside.of_metric(items, name))
    ends = (metric.value, metric.ci_low, metric.ci_high)
    return [
        _no_formula(name),
        *(None if end is None else float(end) for end in ends),
        metric.n,
        _no_formula(metric.unit),
        metric.higher_is_better,
        _no_formula(published),
    ]


class _Passed:
    """A file whose ``write``, and so a CSV writer's ``writerow``, returns what was written."""

    def write(self, text: str) -> str:
        return text


_WRITER = csv.writer(_Passed(), lineterminator="\n")


def _line(values: Sequence[object]) -> str:
    line: str = _WRITER.writerow(values)
    return line
