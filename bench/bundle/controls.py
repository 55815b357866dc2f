"""Whether a bundle's controls are those that were published: the same cells, whose numbers a
submitter has no part in.

Another machine trains another model, so that numbers differ by more than their intervals within a
seed. Two sides agree in a number of a row if the means over their seeds differ by no more than
chance explains: Student's t, whose variance is that over the *published* seeds plus that within
them, for both sides, so that nobody widens it by what he submits; its degrees of freedom are
Satterthwaite's. The error is :data:`ERROR` for all comparisons of a bundle together (Bonferroni's).
With three seeds this is lenient; how many numbers are exactly equal is said beside it. A row with
one seed has no spread, and is not judged.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.bundle.layout import cell_words, identity, row_of
from bench.record import RANKED, SHARE, Metric, Record

#: The chance that any control of an honest bundle is refused.
ERROR = 0.01
#: Half of a 95 % interval, in standard errors.
_REACH = 1.96
_RANKED = tuple(re.compile(names) for names, *_ in RANKED)

Pairs = list[tuple[Metric, Metric]]


@dataclass(kw_only=True)
class Agreement:
    """``cells``: controls that were published under the same protocol; ``exact``, ``compared``: how
    many of their ranked numbers are the same to the last digit, of how many; ``faults``: those that
    no chance explains, a line each.
    """

    cells: int = 0
    exact: int = 0
    compared: int = 0
    faults: list[str] = field(default_factory=list)


def agreement(controls: Iterable[Record], published: Iterable[Record]) -> Agreement:
    """Holds every control against the published record of its cell, if there is one."""
    known = {(identity(one), one.protocol): one for one in published if one.status == "ok"}
    result, rows = Agreement(), dict[tuple[str, str], Pairs]()
    words: dict[tuple[str, str], str] = {}
    by_row: defaultdict[tuple[str, str], Pairs] = defaultdict(list)
    for mine in controls:
        theirs = known.get((identity(mine), mine.protocol))
        if theirs is None or mine.status != "ok":
            continue
        result.cells += 1
        for name in sorted(theirs.metrics):
            if ranked(name):
                row = row_of(mine), name
                words[row] = cell_words(mine).rpartition(", seed")[0]
                by_row[row].append(
                    (mine.metrics.get(name, Metric(value=None)), theirs.metrics[name])
                )
    rows = dict(by_row)
    for row, pairs in rows.items():
        _compare(f"{words[row]}: {row[1]}", pairs, len(rows), result)
    return result


def ranked(name: str) -> bool:
    """Whether a metric is one that the board ranks by or draws."""
    return any(one.fullmatch(name.partition("[")[0]) for one in _RANKED)


def _compare(what: str, pairs: Pairs, comparisons: int, result: Agreement) -> None:
    values = [(one.value, other.value) for one, other in pairs]
    result.compared += len(values)
    result.exact += sum(one == other for one, other in values)
    if all(one == other for one, other in values):
        return
    mine = [one for one, _ in values if one is not None]
    theirs = [other for _, other in values if other is not None]
    if len(mine) < len(values) or len(theirs) < len(values):
        result.faults.append(f"{what} is absent on one side and published on the other")
        return
    if len(values) < 2:
        return
    apart = abs(_average(mine) - _average(theirs))
    limit = _limit([other for _, other in pairs], comparisons)
    if apart > limit:
        result.faults.append(
            f"{what} must be within {limit:.3g} of the published {_average(theirs):.4g}, got "
            f"{_average(mine):.4g} over {len(mine)} seeds"
        )


def _limit(published: list[Metric], comparisons: int) -> float:
    """How far apart the means over seeds may be."""
    from scipy import stats  # a second, which level 1 does not need

    count = len(published)
    values = [metric.value or 0.0 for metric in published]
    middle = _average(values)
    between = sum((value - middle) ** 2 for value in values) / (count - 1) / count
    within = _average([standard_error(metric) ** 2 for metric in published]) / count
    freedom = (count - 1) * ((between + within) / between) ** 2 if between else math.inf
    reach = float(stats.t.ppf(1 - ERROR / (2 * max(comparisons, 1)), min(freedom, 1e6)))
    return reach * math.sqrt(2 * (between + within))


def standard_error(metric: Metric) -> float:
    """The standard error within a seed, from the interval."""
    if metric.ci_low is None or metric.ci_high is None:
        return 1 / math.sqrt(metric.n) / 2 if metric.unit == SHARE and metric.n else 0.0
    return (metric.ci_high - metric.ci_low) / 2 / _REACH


def _average(values: list[float]) -> float:
    return sum(values) / len(values)
