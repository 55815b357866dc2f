"""Evaluates one section of claims on the records: finds its cells, makes its table, comparisons and
plots.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bench.errors import UserError
from leaderboard.board import Identity, identity
from leaderboard.labels import label
from leaderboard.names import UNKNOWN
from science import hooks
from science.drawing import Bar, Curve, bars, chart
from science.findings import (
    Claim,
    Line,
    Part,
    Region,
    against,
    anchor,
    attacked,
    compare,
    honest,
    not_above,
    not_below,
    population,
    under,
    within,
)
from science.spec import (
    AttacksOf,
    Axis,
    Bound,
    CellRef,
    ClaimSpec,
    Comparison,
    Each,
    Level,
    Loop,
    Operand,
    PlotSpec,
    Row,
    SectionSpec,
    Shared,
)
from science.table import (
    ABSENT,
    BySuite,
    Plot,
    Section,
    md,
    percent,
    sample_note,
    steps,
    table,
    value_text,
)

T = TypeVar("T")
Bindings = Mapping[str, Any]
Rows = list[tuple[str, "Line | None"]]
GROUPS = ("g1", "g2", "g3", "g4")
_FALSE_ALARM = ("within-false-alarms", "asr")
_SIMILARITY = {"similar": within, "not_above": not_above, "not_below": not_below}


@dataclass(frozen=True)
class Chosen:
    """An attack bound by an axis over a suite's attacks; its label when formatted in a text."""

    attack: Identity
    label: str

    def __format__(self, _: str) -> str:
        return md(self.label)


class _Texts(string.Formatter):
    """``{name}``, ``{name:g}`` and ``{name:percent}``: names only, no attributes or items."""

    def get_field(
        self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, str]:
        if field_name not in kwargs:
            raise UserError(
                f"{{{field_name}}} is bound by no each or over; bound: "
                f"{', '.join(kwargs) or 'nothing'}"
            )
        return kwargs[field_name], field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        return (
            percent(value)
            if format_spec == "percent"
            else str(super().format_field(value, format_spec))
        )


def text(template: str, bound: Bindings) -> str:
    """The template with the bound values filled in."""
    return _Texts().vformat(template, (), bound)


def fill(value: Any, bound: Bindings) -> Any:
    """The value bound to a single ``{name}``; a text with its names filled in; anything else
    unchanged.
    """
    if not isinstance(value, str):
        return value
    alone = re.fullmatch(r"\{(\w+)\}", value)
    return bound[alone[1]] if alone and alone[1] in bound else text(value, bound)


class Scene:
    """A section and the cells of its suites."""

    def __init__(self, spec: SectionSpec, shared: Shared, by_suite: BySuite) -> None:
        self.spec, self.shared, self.by_suite = spec, shared, by_suite
        every = (line.board.names for lines in by_suite.values() for line in lines)
        self.names = next(every, UNKNOWN)

    def section(self) -> Section:
        """The section, with the fields that its hook replaces. Raises :class:`UserError` for an
        unknown name.
        """
        spec, rows = self.spec, self.rows(self.spec.rows)
        columns, body = table(spec.head, rows, spec.metrics, self.names) if spec.rows else ((), ())
        if spec.extra:
            columns = (*columns, spec.extra[0])
            body = tuple((*row, spec.extra[1].get(row[0], ABSENT)) for row in body)
        notes = list(doubts(rows)) if spec.doubts else []
        if spec.sample_note:
            notes.append(sample_note(next((line for _, line in rows if line), None)))
        section = Section(
            spec.title,
            spec.says,
            spec.suites,
            columns,
            body,
            tuple(self.claim(claim, bound) for claim, bound in self.unrolled(spec.claims)),
            tuple(
                plot for one, bound in self.unrolled(spec.plots) for plot in self.plot(one, bound)
            ),
            (*notes, *spec.notes),
            spec.figures,
            spec.whiskers,
        )
        return replace(section, **hooks.HOOKS[spec.hook](self)) if spec.hook else section

    def files(self) -> tuple[str, ...]:
        """Every plot the section may draw."""
        drawn = (f"{text(plot.file, bound)}.svg" for plot, bound in self.unrolled(self.spec.plots))
        return (*drawn, *self.spec.draws)

    # --- bindings ---

    def axis(self, axis: Axis) -> Sequence[Bindings]:
        if not isinstance(axis, AttacksOf):
            return axis
        cells = [line.cell.attack for line in attacked(self.by_suite[axis.suite])]
        return [{axis.name: Chosen(identity(attack), label(attack))} for attack in cells]

    def bindings(self, each: Each, bound: Bindings) -> Iterator[Bindings]:
        """One for each combination, the first axis outermost."""
        for combination in itertools.product(*(self.axis(axis) for axis in each)):
            yield {
                **bound,
                **{name: value for values in combination for name, value in values.items()},
            }

    def unrolled(
        self, loops: Iterable[Loop[T]], bound: Bindings | None = None
    ) -> Iterator[tuple[T, Bindings]]:
        """Every item with what its loops bind."""
        for loop in loops:
            for inner in self.bindings(loop.each, bound or {}):
                for item in loop.items:
                    if isinstance(item, Loop):
                        yield from self.unrolled((item,), inner)
                    else:
                        yield item, inner

    # --- cells ---

    def line(self, ref: CellRef, bound: Bindings) -> Line | None:
        """The cell, or ``None`` if the records do not have it."""
        if ref.first:
            plain = replace(ref, first=())
            lines = (self.line(plain, inner) for inner in self.bindings(ref.first, bound))
            return next((line for line in lines if line), None)
        return self._locate(ref, bound)[0]

    def _locate(self, ref: CellRef, bound: Bindings) -> tuple[Line | None, Sequence[Line]]:
        """The cell, and the cells among which related ones are searched."""
        own = (fill(ref.suite, bound),) if ref.suite else self.spec.suites
        pool: Sequence[Line] = [line for suite in own for line in self.by_suite[suite]]
        if ref.cell:
            name, inner = (
                fill(ref.cell, bound),
                {**bound, **{key: fill(value, bound) for key, value in ref.at.items()}},
            )
            if name not in self.spec.cells:
                raise UserError(
                    f"{self.spec.title}: no cell is called {name!r}; cells: "
                    f"{', '.join(self.spec.cells)}"
                )
            reference = self.spec.cells[name]
            line, pool = (
                (self.line(reference, inner), pool)
                if reference.first
                else self._locate(reference, inner)
            )
        elif ref.anchor:
            return anchor(pool, ref.anchor), pool
        else:
            line = self._match(ref, bound, pool)
        if ref.anchor:
            return (anchor(pool, ref.anchor, line.board) if line else None), pool
        if ref.under:
            line = under(pool, line, fill(ref.under, bound))
        if ref.population:
            line = population(pool, line, ref.population == "every")
        return (honest(pool, line) if ref.honest else line), pool

    def _match(self, ref: CellRef, bound: Bindings, pool: Sequence[Line]) -> Line | None:
        """The first attacked cell that matches the reference."""
        attack = fill(ref.attack, bound)
        name, fixed = (
            self.shared.attacks.get(attack, (attack, {})) if isinstance(attack, str) else ("", {})
        )
        where = {
            **fixed,
            **{parameter: fill(value, bound) for parameter, value in ref.where.items()},
        }
        for line in attacked(pool, fill(ref.defense, bound)):
            if isinstance(attack, Chosen) and identity(line.cell.attack) != attack.attack:
                continue
            agrees = all(
                key in line.params and line.params[key] == value for key, value in where.items()
            )
            if agrees and name in ("", line.cell.attack.name):
                return line
        return None

    # --- table, claims ---

    def rows(self, loops: Iterable[Loop[Row]]) -> Rows:
        """Names and cells of the table."""
        rows: Rows = []
        for row, bound in self.unrolled(loops):
            line = self.line(row.cell, bound)
            if line is not None or not row.if_found:
                rows.append((text(row.name, bound) + (steps(line) if row.steps else ""), line))
            if row.with_honest and (control := self.line(replace(row.cell, honest=True), bound)):
                rows.append(("… honest model", control))
        return rows

    def claim(self, spec: ClaimSpec, bound: Bindings) -> Claim:
        """A claim with all its comparisons."""
        parts = [
            self.part(comparison, inner)
            for outer in self.bindings(spec.over, bound)
            for comparison, inner in self.unrolled(spec.comparisons, outer)
        ]
        value = {"value": value_text(*self.operand(spec.value, bound))} if spec.value else {}
        return Claim(text(spec.text, {**bound, **value}), tuple(parts), spec.ours)

    def part(self, spec: Comparison, bound: Bindings) -> Part:
        """One comparison."""
        words, left, region = (
            text(spec.text, bound),
            self.operand(spec.left, bound),
            self.region(spec.region, bound),
        )
        if isinstance(spec.right, Operand):
            return compare(words, left, self.operand(spec.right, bound), region, spec.across)
        return against(words, left, float(fill(spec.right, bound)), region)

    def operand(self, operand: Operand, bound: Bindings) -> tuple[Line | None, str]:
        return self.line(operand.cell, bound), text(operand.metric, bound)

    def region(self, spec: Bound, bound: Bindings) -> Region:
        if isinstance(spec.value, Operand):
            return _SIMILARITY[spec.form](*self.operand(spec.value, bound))
        size, inf = spec.value, float("inf")
        return {"above": (size, inf), "below": (-inf, size), "within": (-size, size)}[spec.form]

    # --- plots ---

    def plot(self, spec: PlotSpec, bound: Bindings) -> list[Plot]:
        """The plot; empty if there is nothing to draw."""
        file, title = text(spec.file, bound), text(spec.title, bound)
        if spec.bars:
            stacked = [
                Bar(name.replace("`", ""), *composed)
                for name, line in self.rows(spec.bars)
                if (composed := composition(line))
            ]
            return (
                [(file, title, bars(stacked, [group.upper() for group in GROUPS], "p_t", title))]
                if stacked
                else []
            )
        curves = []
        for position, (curve, inner) in enumerate(self.unrolled(spec.curves, bound)):
            points = [
                (float(at[spec.x]) * spec.scale, value)
                for at in self.bindings((spec.axis,), inner)
                if (line := self.line(curve.cell, at)) and (value := line.interval(curve.metric))
            ]
            index = position if curve.colour is None else curve.colour
            if points:
                curves.append(
                    (curve.metric, Curve(text(curve.name, inner), index, points, curve.dashed))
                )
        if not curves:
            return []
        levels = [level for one in spec.levels for level in self.level(one, spec.axis, bound)]
        top = 1.05 if self.names.words(curves[0][0]).bounded else None
        y_name = spec.axes[1] or self.names.heading(curves[0][0])
        drawn = chart([curve for _, curve in curves], levels, spec.axes[0], y_name, title, top)
        return [(file, title, drawn)]

    def level(self, spec: Level, axis: Axis, bound: Bindings) -> list[tuple[str, float]]:
        line = self.line(replace(spec.cell, first=(axis,)), bound)
        interval = line.interval(spec.metric) if line else None
        return [(text(spec.name, bound), interval.mean)] if interval else []


def composition(line: Line | None) -> tuple[list[float], float | None] | None:
    """G1 to G4 and p_t, where it is not 0; without a trigger G3 and G4 alone; ``None`` where
    nothing was drawn.
    """
    shares = [line.interval(group) for group in GROUPS] if line else []
    known = [share.mean for share in shares if share]
    mismatch, poison = (line.interval("mismatch"), line.interval("p_t")) if line else (None, None)
    if len(known) != len(GROUPS):
        if mismatch is None:
            return None
        known = [0.0, 0.0, mismatch.mean, 1 - mismatch.mean]
    return known, poison.mean if poison and poison.mean > 0 else None


def doubts(rows: Rows) -> tuple[str, ...]:
    """A note on the rows whose trigger ratio the trigger classifier's errors could explain; nothing
    if there are none.
    """
    notes = []
    for name, line in rows:
        if line is None or line.cell.attack.name == "none" or line.interval("asr[prompt]") is None:
            continue
        flagged = [n for flag, n in line.cell.flags if (flag.code, flag.metric) == _FALSE_ALARM]
        if count := sum(flagged):
            notes.append(f"{name} ({count} of {len(line.cell.with_status('ok'))} seeds)")
    if not notes:
        return ()
    return (
        f"Within the trigger classifier's false alarms, so that G1 and G2 tell nothing: "
        f"{'; '.join(notes)}.",
    )
