"""What the two pages about poisoned training data share: how their cells are found, shown and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leaderboard import names
from leaderboard.aggregate import Interval
from science.drawing import Bar, Curve, bars, chart
from science.findings import ABOVE, Line, Part, attacked, compare, honest, pick
from science.table import Plot

GROUPS = ("g1", "g2", "g3", "g4")
COMPOSITION = (*GROUPS, "asr[prompt]", "p_t")
DRAWN = (*COMPOSITION, "fid", "prompt_accuracy")
#: The share of what is drawn that carries the trigger.
TAINTED = "asr[prompt]"
#: Our name -> (attack, what its parameters must agree with). The first two are the ones that the paper's figures show.
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "badnets1": ("badnets", {"pattern": "badnets1"}),
    "badnets2": ("badnets", {"pattern": "badnets2"}),
    "wanet": ("wanet", {}),
    "relabel_only": ("relabel_only", {}),
    "unicolor": ("badnets", {"pattern": "unicolor"}),
    "bomb": ("badnets", {"pattern": "bomb"}),
    "clean_label": ("clean_label", {"epsilon": 16}),
}
#: The ones that the paper's figures show.
PATTERNS = ("badnets1", "badnets2")
#: The ones of the suite ``poison``.
IN_POISON = (*PATTERNS, "wanet", "relabel_only")
WEIGHTS = (1.0, 2.0, 5.0, 10.0)
#: A share or an accuracy that moves by less has not moved, by the rule that stands on the page.
SHARE_MARGIN = 0.1
#: The region in which two of them are alike.
SAME_SHARE = (-SHARE_MARGIN, SHARE_MARGIN)
_FALSE_ALARM = "asr: within the trigger classifier's false alarms"


def of(
    cells: Sequence[Line],
    attack: str,
    defense: str = "none",
    testbed: Mapping[str, Any] | None = None,
    defense_params: Mapping[str, Any] | None = None,
    **params: Any,
) -> Line | None:
    """The first cell of one of :data:`ATTACKS` whose parameters agree with all that are given."""
    name, fixed = ATTACKS[attack]
    of_attack = [line for line in cells if line.cell.attack.name == name]
    return pick(of_attack, fixed | params, defense, testbed, defense_params)


def by_parameter(cells: Sequence[Line], attack: str, parameter: str, defense: str = "none", **also: float) -> dict[float, Line]:
    """Value of a number among the attack's, the defense's or the testbed's parameters -> its cell; ``also``: what others must be."""
    name, fixed = ATTACKS[attack]
    wanted = fixed | also
    found: dict[float, Line] = {}
    for line in attacked(cells, defense):
        params = line.board.testbed.params | line.cell.defense.params | line.cell.attack.params
        agrees = line.cell.attack.name == name and all(params.get(key) == value for key, value in wanted.items())
        value = params.get(parameter)
        if agrees and isinstance(value, int | float):
            found.setdefault(float(value), line)
    return dict(sorted(found.items()))


def with_honest(cells: Sequence[Line], rows: Iterable[tuple[str, Line | None]]) -> list[tuple[str, Line | None]]:
    """Each row, and below it the honest model's, where there is one."""
    found: list[tuple[str, Line | None]] = []
    for name, line in rows:
        found.append((name, line))
        if (control := honest(cells, line)) is not None:
            found.append(("… honest model", control))
    return found


def amplified(text: str, line: Line | None) -> Part:
    """G1 + G2 against p_t, in one cell."""
    return compare(text, (line, TAINTED), (line, "p_t"), ABOVE)


def above_honest(metric: str, name: str, line: Line | None, control: Line | None) -> Part:
    """An attack's share of images, or another metric, against the honest model's."""
    return compare(f"{metric.upper()}, {name} − honest model", (line, metric), (control, metric), ABOVE)


def doubts(rows: Iterable[tuple[str, Line | None]]) -> tuple[str, ...]:
    """A note on the rows whose trigger ratio the trigger classifier's errors could explain; nothing if there are none."""
    said = []
    for name, line in rows:
        count = dict(line.cell.flags()).get(_FALSE_ALARM) if line and line.cell.attack.name != "none" else None
        if line and count:
            said.append(f"{name} ({count} of {len(line.cell.with_status('ok'))} seeds)")
    if not said:
        return ()
    return (f"Within the trigger classifier's false alarms, so that G1 and G2 tell nothing: {'; '.join(said)}.",)


def stack(stem: str, title: str, rows: Iterable[tuple[str, Line | None]]) -> list[Plot]:
    """G1 to G4 of every row that has them, with p_t across; without a trigger G3 and G4 alone. Nothing if no row has any."""
    drawn = []
    for name, line in rows:
        shares = [line.interval(group) for group in GROUPS] if line else []
        known = [share.mean for share in shares if share]
        mismatch, poison = (line.interval("mismatch"), line.interval("p_t")) if line else (None, None)
        if len(known) != len(GROUPS):
            if mismatch is None:
                continue
            known = [0.0, 0.0, mismatch.mean, 1 - mismatch.mean]
        drawn.append(Bar(name.replace("`", ""), known, poison.mean if poison and poison.mean > 0 else None))
    return [(stem, title, bars(drawn, [group.upper() for group in GROUPS], "p_t", title))] if drawn else []


def curve(name: str, index: int, found: Mapping[float, Line], metric: str, dashed: bool = False) -> Curve:
    """A metric along a parameter, over the cells that have it."""
    points: list[tuple[float, Interval]] = [(x, value) for x in sorted(found) if (value := found[x].interval(metric))]
    return Curve(name, index, points, dashed)


def draw(
    stem: str, title: str, curves: Iterable[Curve], axes: tuple[str, str], metric: str, levels: Sequence[tuple[str, float]] = ()
) -> list[Plot]:
    """The curves that have a point, ``axes`` naming x and y; nothing if none has. What lives in [0, 1] is drawn on that."""
    shown = [one for one in curves if one.points]
    top = 1.05 if names.bounded(metric) else None
    return [(stem, title, chart(shown, levels, *axes, title, top))] if shown else []


def level(name: str, line: Line | None, metric: str) -> list[tuple[str, float]]:
    """A reference line, if it was measured."""
    interval = line.interval(metric) if line else None
    return [(name, interval.mean)] if interval else []
