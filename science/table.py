"""A section of the science page: its parts, and how cells become rows of a Markdown table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leaderboard import names
from leaderboard.aggregate import Interval
from leaderboard.board import identity
from leaderboard.matrix import interval_text
from science.drawing import Curve, chart
from science.findings import Claim, Line, Part, Region, anchor, attacked, compare

Found = Mapping[str, list[Line]]
Rows = Sequence[tuple[str, "Line | None"]]
Plot = tuple[str, str, "str | bytes"]
ATTACK_METRICS = ("mse[noise]", "asr[noise]", "asr[image]", "fid", "mse[clean]", "asr[clean]")
ABSENT = "–"
#: Column headings that say more than the metric's name.
_HEADINGS = {
    "asr[prompt]": "G1 + G2",
    "mismatch": "G1 + G3",
    "fid_other_classes": "FID, other classes",
    "prompt_accuracy": "prompt accuracy",
    "p_t": "p_t",
    "classifier_asr": "ASR of the classifier",
    "trigger_classifier_false_alarms": "false alarms",
    "replication": "replication",
    "replication_p95": "replication, 95th percentile",
    "tpr_at_5_fpr[training set]": "TPR at 5 % FPR[training set]",
    "tpr_at_5_fpr[generated]": "TPR at 5 % FPR[generated]",
}


@dataclass(frozen=True)
class Section:
    """All text is Markdown. ``suites``: where the cells come from; ``plots``: (file's stem, description, SVG or PNG); ``figures``: (file,
    description) of what another script draws beside the page, shown where it is there; ``whiskers``: whether plots have some."""

    title: str
    paper: str
    suites: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    claims: tuple[Claim, ...]
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    whiskers: bool = True


def md(text: str) -> str:
    """Text from a record, as Markdown that shows it and nothing else: no markup, HTML, mathematics or second line."""
    line = " ".join("".join(letter if letter.isprintable() or letter.isspace() else "�" for letter in text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def table(head: str, rows: Rows, metrics: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """(columns, rows): one row a cell, one column a metric, the number of seeds last. A cell that is absent is a row of dashes."""
    columns = (head, *(_heading(metric) for metric in metrics), "seeds")
    return columns, tuple((name, *(shown(line, metric) for metric in metrics), seeds(line)) for name, line in rows)


def shown(line: Line | None, metric: str) -> str:
    """``0.84 [0.80, 0.88]``; with its own n where not every seed has a value."""
    interval = line.interval(metric) if line else None
    if line is None or interval is None:
        return ABSENT
    own = f" (n = {interval.n})" if interval.n != len(line.cell.with_status("ok")) else ""
    return interval_cell(line.metric(metric), interval) + own


def interval_cell(metric: str, interval: Interval) -> str:
    """Mean and interval; no brackets around what is the same for every seed, or was measured once."""
    text = names.number(metric, interval.mean)
    return text if interval.low is None or interval.low == interval.high else f"{text} {interval_text(metric, interval)}"


def seeds(line: Line | None) -> str:
    """How many seeds have a result, of how many that were tried."""
    if line is None:
        return "0"
    done, tried = len(line.cell.with_status("ok")), len(line.cell.entries)
    return str(done) if done == tried else f"{done} of {tried}"


def references(cells: Sequence[Line], control: Line | None) -> list[tuple[str, Line | None]]:
    """The rows every attack is read against."""
    rows = [("real images", anchor(cells, "real_images")), ("clean base model", anchor(cells, "base_model"))]
    return [*rows, ("honest fine-tuning", control)]


def base(cells: Sequence[Line], line: Line | None) -> Line | None:
    """The testbed's clean weights, on the board of ``line``."""
    return anchor(cells, "base_model", line.board) if line else None


def defended(cells: Sequence[Line], line: Line | None, defense: str) -> Line | None:
    """The same attack on the same board, under ``defense``."""
    if line is None:
        return None
    wanted = identity(line.cell.attack)
    same = (other for other in attacked(cells, defense) if other.board.id == line.board.id)
    return next((other for other in same if identity(other.cell.attack) == wanted), None)


def fid_part(text: str, first: Line | None, second: Line | None, region: Region) -> Part:
    """A comparison of FIDs."""
    return compare(f"FID, {text}", (first, "fid"), (second, "fid"), region)


def percent(share: float) -> str:
    """``5 %``."""
    return f"{100 * share:g} %"


def steps(line: Line | None) -> str:
    """``, 960 steps`` of an attack's training, or that it is the testbed's own number."""
    count = line.cell.attack.params.get("training_steps") if line else None
    return f", {int(count)} steps" if isinstance(count, int) else ", default steps" if line else ""


def sample_note(line: Line | None) -> str:
    """How many samples stand behind a FID, which falls with their number."""
    numbers = [entry.numbers.get(line.metric("fid")) for entry in line.cell.with_status("ok")] if line else []
    counts = sorted({number.n for number in numbers if number is not None and number.n is not None})
    how_many = f", here {' or '.join(map(str, counts))}," if counts else ""
    return f"FID is biased upwards by few samples{how_many} so it compares within this section only."


def over_parameter(
    stem: str,
    title: str,
    x_name: str,
    found: Mapping[float, Line],
    metric: str,
    control: Line | None,
    model: Line | None = None,
) -> Plot | None:
    """A metric against the attack's parameter, with the controls as levels; ``None`` if nothing was measured."""
    points = [(x, interval) for x in sorted(found) if (interval := found[x].interval(metric))]
    if not points:
        return None
    lines = (("honest fine-tuning", control), ("clean base model", model))
    levels = [(name, interval.mean) for name, line in lines if line and (interval := line.interval(metric))]
    top = 1.05 if names.bounded(metric) else None
    return stem, title, chart([Curve("", 0, points)], levels, x_name, _heading(metric), title, top)


def _heading(metric: str) -> str:
    if metric in _HEADINGS:
        return _HEADINGS[metric]
    family, argument = names.split(metric)
    return f"{family.upper()}[{argument}]" if argument else family.upper()
