"""Claims as data: what a file under ``science/claims`` may hold, checked when it is read.

There are no expressions: a comparison is one metric of one cell minus another's, or minus a number,
and the region that the difference should lie in. ``{name}`` in a text or a parameter stands for
what ``each`` or ``over`` binds. CONTRIBUTING.md has an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from bench.yaml_reader import read_yaml
from science.node import Node

T = TypeVar("T")
#: Regions of a difference: a number's three, and three whose margin is a share of a reference.
NUMBERS, REFERENCES = ("above", "below", "within"), ("similar", "not_above", "not_below")


@dataclass(frozen=True)
class AttacksOf:
    """An axis over the attacks of a suite's undefended cells, whichever they are; ``name`` is what
    they are bound to.
    """

    suite: str
    name: str


#: What one axis binds, value by value.
Axis = AttacksOf | tuple[Mapping[str, Any], ...]
Each = tuple[Axis, ...]


@dataclass(frozen=True, kw_only=True)
class CellRef:
    """Which cell. Either what it is: ``attack`` (a name of ``shared.yaml`` or a plugin's),
    ``defense``, ``where`` (parameters of the attack; ``defense.NAME``, ``testbed.NAME``), ``suite``
    (by default the section's, in their order). Or ``cell``, another by its name, with other
    bindings ``at``. Then a relation to it: the ``honest`` model's, the same attack ``under`` a
    defense (``with`` in the file), an ``anchor`` of its testbed. ``first``: axes, of whose values
    the first cell is taken that is there.
    """

    cell: str = ""
    at: Mapping[str, Any] = field(default_factory=dict)
    attack: str = ""
    defense: str = "none"
    where: Mapping[str, Any] = field(default_factory=dict)
    suite: str = ""
    honest: bool = False
    under: str = ""
    anchor: str = ""
    first: Each = ()


@dataclass(frozen=True)
class Operand:
    """A metric of a cell."""

    metric: str
    cell: CellRef


@dataclass(frozen=True)
class Bound:
    """``form``: one of :data:`NUMBERS` with a number, or of :data:`REFERENCES` with what the margin
    is taken from.
    """

    form: str
    value: float | Operand


@dataclass(frozen=True)
class Comparison:
    """``left - right``; ``right``: in the file ``level``, where it is a number or the name of a
    bound one. ``across``: the two were meant to be measured differently (samplers).
    """

    text: str
    left: Operand
    right: Operand | float | str
    region: Bound
    across: bool


@dataclass(frozen=True)
class ClaimSpec:
    """``value``: what ``{value}`` in the text shows."""

    text: str
    comparisons: tuple[Loop[Comparison], ...]
    over: Each
    ours: bool
    value: Operand | None


@dataclass(frozen=True)
class Row:
    """``if_found``: only if the cell is there; ``with_honest``: and the honest model's below it, if
    that is there; ``steps``: with the steps of training in its name.
    """

    name: str
    cell: CellRef
    if_found: bool
    with_honest: bool
    steps: bool


@dataclass(frozen=True)
class Curve:
    """A metric over the plot's axis; ``colour``: by default its place among the curves."""

    name: str
    metric: str
    cell: CellRef
    dashed: bool
    colour: int | None


@dataclass(frozen=True)
class Level:
    """A horizontal line: the metric in the first cell that is there along the plot's axis."""

    name: str
    metric: str
    cell: CellRef


@dataclass(frozen=True)
class PlotSpec:
    """``bars``: G1 to G4 of these rows (``bars: true``: of the table's); without any, curves over
    ``axis``, whose variable ``x`` is drawn ``scale`` times.
    """

    file: str
    title: str
    bars: tuple[Loop[Row], ...]
    axis: Axis
    x: str
    scale: float
    axes: tuple[str, str]
    curves: tuple[Loop[Curve], ...]
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Loop(Generic[T]):
    """``items`` (or groups of them) once for each combination of what ``each`` binds, the first
    axis outermost.
    """

    each: Each
    items: tuple[T | Loop[T], ...]


@dataclass(frozen=True, kw_only=True)
class SectionSpec:
    """``says``: what the paper says, or the question. ``extra``: a last column, by the row's name.
    ``hook``: the function of ``science/hooks.py`` that replaces parts of the section; ``draws``:
    the files it draws. ``figures``: file -> description of what another script draws beside the
    page.
    """

    title: str
    says: str
    suites: tuple[str, ...]
    axes: Mapping[str, Axis]
    cells: Mapping[str, CellRef]
    head: str
    metrics: tuple[str, ...]
    rows: tuple[Loop[Row], ...]
    extra: tuple[str, Mapping[str, str]] | None
    claims: tuple[Loop[ClaimSpec], ...]
    plots: tuple[Loop[PlotSpec], ...]
    doubts: bool
    sample_note: bool
    notes: tuple[str, ...]
    whiskers: bool
    hook: str
    draws: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class PageSpec:
    """``name``: of the file, without its suffix, and of the folder with its plots.
    ``introduction``: Markdown; ``reading``: how to read its tables. ``lead``: what a section's
    first paragraph starts with.
    """

    name: str
    title: str
    introduction: str
    reading: str
    suites: tuple[str, ...]
    lead: str
    sections: tuple[SectionSpec, ...]


@dataclass(frozen=True)
class Shared:
    """``attacks``: our name -> (plugin, parameters); ``metrics``: name -> a list of them;
    ``readings``: name -> how to read them.
    """

    attacks: Mapping[str, tuple[str, Mapping[str, Any]]]
    metrics: Mapping[str, tuple[str, ...]]
    readings: Mapping[str, str]


def read_shared(path: Path) -> Shared:
    """``shared.yaml``. Raises :class:`UserError`."""
    top = _read(path).fields((), ("attacks", "metrics", "readings"))
    attacks = {
        name: node.fields(("where",), ("attack",))
        for name, node in top["attacks"].entries().items()
    }
    return Shared(
        {
            name: (entry["attack"].text(), _values(entry.get("where")))
            for name, entry in attacks.items()
        },
        {name: node.texts() for name, node in top["metrics"].entries().items()},
        {name: node.text().strip() for name, node in top["readings"].entries().items()},
    )


def read_section(path: Path, shared: Shared) -> SectionSpec:
    """One section. Raises :class:`UserError`: one line with the file, the place and what is
    wrong.
    """
    return _Reader(shared).section(_read(path))


def read_page(folder: Path, shared: Shared) -> PageSpec:
    """``page.yaml`` and, in the order of their names, the sections beside it. Raises
    :class:`UserError`.
    """
    found = _read(folder / "page.yaml").fields(
        ("readings", "lead"), ("name", "title", "introduction", "reading", "suites")
    )
    readings = (
        [shared.readings[name] for name in found["readings"].texts()] if "readings" in found else []
    )
    return PageSpec(
        name=found["name"].text(),
        title=found["title"].text(),
        introduction=found["introduction"].text().rstrip(),
        reading=" ".join([*readings, found["reading"].text().strip()]),
        suites=found["suites"].texts(),
        lead=found["lead"].text() if "lead" in found else "The paper",
        sections=tuple(read_section(path, shared) for path in sorted(folder.glob("[0-9]*.yaml"))),
    )


def _read(path: Path) -> Node:
    return Node(read_yaml(path), f"{path.parent.name}/{path.name}")


def _values(node: Node | None) -> dict[str, Any]:
    return {name: entry.value for name, entry in node.entries().items()} if node else {}


def _flag(found: Mapping[str, Node], name: str, default: bool = False) -> bool:
    return found[name].flag() if name in found else default


class _Reader:
    """``axes`` and ``rows`` are those of the section that is read."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.axes: dict[str, Axis] = {}
        self.rows: tuple[Loop[Row], ...] = ()

    def section(self, node: Node) -> SectionSpec:
        known = {entry.name for entry in dataclasses.fields(SectionSpec)} - {
            "head",
            "metrics",
            "rows",
            "extra",
        }
        found = node.fields({*known, "table"}, ("title", "says", "suites"))
        axes = found["axes"].entries() if "axes" in found else {}
        self.axes = {name: self.axis(name, value) for name, value in axes.items()}
        cells = found["cells"].entries() if "cells" in found else {}
        head, metrics, self.rows, extra = (
            self.table(found["table"]) if "table" in found else ("", (), (), None)
        )
        return SectionSpec(
            title=found["title"].text(),
            says=found["says"].text().strip(),
            suites=found["suites"].texts(),
            axes=self.axes,
            cells={name: self.cell(value) for name, value in cells.items()},
            head=head,
            metrics=metrics,
            rows=self.rows,
            extra=extra,
            claims=self.loops(found.get("claims"), "claims", self.claim),
            plots=self.loops(found.get("plots"), "plots", self.plot),
            doubts=_flag(found, "doubts"),
            sample_note=_flag(found, "sample_note"),
            notes=tuple(text.strip() for text in found["notes"].texts())
            if "notes" in found
            else (),
            whiskers=_flag(found, "whiskers", True),
            hook=found["hook"].text() if "hook" in found else "",
            draws=found["draws"].texts() if "draws" in found else (),
            figures=tuple((name, text) for name, text in _values(found.get("figures")).items()),
        )

    def axis(self, name: str, node: Node) -> Axis:
        """A list of values, or of mappings that bind several names at once, or ``{attacks_of:
        suite}``.
        """
        if isinstance(node.value, dict):
            return AttacksOf(node.fields((), ("attacks_of",))["attacks_of"].text(), name)
        return tuple(
            dict(item.value) if isinstance(item.value, dict) else {name: item.value}
            for item in node.items()
        )

    def each(self, node: Node | None) -> Each:
        """Names of axes, or ``name: values`` on the spot."""
        found: list[Axis] = []
        for item in node.items() if node else []:
            if isinstance(item.value, dict):
                found += [self.axis(name, values) for name, values in item.entries().items()]
            elif item.text() in self.axes:
                found.append(self.axes[item.text()])
            else:
                raise item.fault(
                    f"is no axis of this section: {item.text()}; known: {', '.join(self.axes)}"
                )
        return tuple(found)

    def loops(
        self, node: Node | None, plural: str, read: Callable[[Node], T]
    ) -> tuple[Loop[T], ...]:
        """Items, each with its own ``each`` perhaps, or groups of them under the key ``plural``."""
        return tuple(self.loop(item, plural, read) for item in (node.items() if node else []))

    def loop(self, node: Node, plural: str, read: Callable[[Node], T]) -> Loop[T]:
        entries = node.entries()
        each = self.each(entries.get("each"))
        if plural in entries:
            node.fields(("each", plural))
            return Loop(each, self.loops(entries[plural], plural, read))
        rest = {key: value for key, value in node.value.items() if key != "each"}
        return Loop(each, (read(Node(rest, node.place)),))

    def cell(self, node: Node, *also: str) -> CellRef:
        """A name, or a mapping; ``also``: keys that belong to somebody else."""
        if isinstance(node.value, str):
            return CellRef(cell=node.value)
        names = (
            "cell",
            "at",
            "attack",
            "defense",
            "where",
            "suite",
            "honest",
            "with",
            "anchor",
            "first",
        )
        found = node.fields((*names, *also))
        if "cell" in found and {"attack", "defense", "where"} & found.keys():
            raise node.fault(
                "is either another cell or one of its own: not cell with attack, defense or where"
            )
        texts = {
            name: found[name].text()
            for name in ("cell", "attack", "defense", "suite", "anchor")
            if name in found
        }
        return CellRef(
            **texts,
            at=_values(found.get("at")),
            where=_values(found.get("where")),
            honest=_flag(found, "honest"),
            under=found["with"].text() if "with" in found else "",
            first=self.each(found.get("first")),
        )

    def operand(self, node: Node, metric: str) -> Operand:
        """A cell, and its metric where it is not the comparison's."""
        own = isinstance(node.value, dict) and "metric" in node.value
        name = str(node.value["metric"]) if own else metric
        if not name:
            raise node.fault("needs a metric, here or beside it")
        return Operand(name, self.cell(node, "metric"))

    def claim(self, node: Node) -> ClaimSpec:
        inline = ("compare", "left", "right", "level", "metric", "region", "across")
        found = node.fields((*inline, "ours", "over", "value", "comparisons"), ("text",))
        if ("comparisons" in found) == ("compare" in found):
            raise node.fault(
                "needs either compare with left, right and region, or a list of comparisons"
            )
        if "comparisons" in found:
            comparisons = self.loops(found["comparisons"], "comparisons", self.comparison)
        else:
            own = {name: node.value[name] for name in inline if name in node.value}
            comparisons = (Loop((), (self.comparison(Node(own, node.place)),)),)
        value = self.operand(found["value"], "") if "value" in found else None
        return ClaimSpec(
            found["text"].text(),
            comparisons,
            self.each(found.get("over")),
            _flag(found, "ours"),
            value,
        )

    def comparison(self, node: Node) -> Comparison:
        found = node.fields(("metric", "across", "right", "level"), ("compare", "left", "region"))
        metric = found["metric"].text() if "metric" in found else ""
        left = self.operand(found["left"], metric)
        if ("right" in found) == ("level" in found):
            raise node.fault("needs either right, a cell, or level, a number")
        right = self.operand(found["right"], metric) if "right" in found else found["level"].value
        region = self.region(found["region"], left.metric)
        return Comparison(found["compare"].text(), left, right, region, _flag(found, "across"))

    def region(self, node: Node, metric: str) -> Bound:
        found = node.fields((*NUMBERS, *REFERENCES))
        if len(found) != 1:
            raise node.fault(
                f"must be one of {', '.join((*NUMBERS, *REFERENCES))}, got {len(found)} of them"
            )
        ((form, value),) = found.items()
        return Bound(form, value.number() if form in NUMBERS else self.operand(value, metric))

    def table(
        self, node: Node
    ) -> tuple[str, tuple[str, ...], tuple[Loop[Row], ...], tuple[str, Mapping[str, str]] | None]:
        found = node.fields(("extra",), ("head", "metrics", "rows"))
        extra = None
        if "extra" in found:
            column = found["extra"].fields((), ("head", "values"))
            extra = (
                column["head"].text(),
                {name: value.text() for name, value in column["values"].entries().items()},
            )
        rows = self.loops(found["rows"], "rows", self.row)
        return found["head"].text(), self.metrics(found["metrics"]), rows, extra

    def metrics(self, node: Node) -> tuple[str, ...]:
        """Metrics, and names of lists of them in ``shared.yaml``."""
        return tuple(
            metric for name in node.texts() for metric in self.shared.metrics.get(name, (name,))
        )

    def row(self, node: Node) -> Row:
        found = node.fields(("if_found", "with_honest", "steps"), ("name", "cell"))
        flags = (_flag(found, name) for name in ("if_found", "with_honest", "steps"))
        return Row(found["name"].text(), self.cell(found["cell"]), *flags)

    def plot(self, node: Node) -> PlotSpec:
        found = node.fields(
            ("bars", "over", "x", "scale", "axes", "curves", "levels"), ("file", "title")
        )
        if ("bars" in found) == ("curves" in found):
            raise node.fault("needs either bars or curves")
        bars: tuple[Loop[Row], ...] = ()
        if "bars" in found:
            bars = (
                self.rows
                if found["bars"].value is True
                else self.loops(found["bars"], "rows", self.row)
            )
        axis: Axis = ()
        if "curves" in found:
            node.fields(found.keys(), ("over", "axes"))
            (axis,) = self.each(Node([found["over"].value], found["over"].place))
        x_name, y_name = found["axes"].texts() if "axes" in found else ("", "")
        return PlotSpec(
            found["file"].text(),
            found["title"].text(),
            bars,
            axis,
            found["x"].text()
            if "x" in found
            else str(found["over"].value)
            if "over" in found
            else "",
            found["scale"].number() if "scale" in found else 1,
            (x_name, y_name),
            self.loops(found.get("curves"), "curves", self.curve),
            tuple(
                self.level(item) for item in (found["levels"].items() if "levels" in found else [])
            ),
        )

    def curve(self, node: Node) -> Curve:
        found = node.fields(("name", "dashed", "colour"), ("metric", "cell"))
        colour = int(found["colour"].number()) if "colour" in found else None
        name = found["name"].text() if "name" in found else ""
        return Curve(
            name, found["metric"].text(), self.cell(found["cell"]), _flag(found, "dashed"), colour
        )

    def level(self, node: Node) -> Level:
        found = node.fields((), ("name", "metric", "cell"))
        return Level(found["name"].text(), found["metric"].text(), self.cell(found["cell"]))
