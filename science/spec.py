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

from bench.node import Node
from bench.papers import lookup
from bench.yaml_reader import read_yaml

T = TypeVar("T")
#: Regions of a difference: a number's three, and three whose margin is a share of a reference.
NUMBERS, REFERENCES = ("above", "below", "within"), ("similar", "not_above", "not_below")
#: Whose models a population has.
POPULATIONS = ("attack", "every")


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
    ``defense``, ``where`` (parameters of the attack; ``defense.NAME``, ``testbed.NAME``; where a
    suite lists samplers, ``sampler`` and ``sampler.NAME``), ``suite`` (by default the section's, in
    their order). Or ``cell``, another by its name, with other bindings ``at``. Then a relation to
    it: the ``honest`` model's, the same attack ``under`` a defense (``with`` in the file), an
    ``anchor`` of its testbed, the ``population`` of models that its detector scored: of its
    ``attack`` or of ``every`` one, beside the honest ones. ``first``: axes, of whose values the
    first cell is taken that is there.
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
    population: str = ""
    first: Each = ()


@dataclass(frozen=True)
class Operand:
    """A metric of a cell."""

    metric: str
    cell: CellRef


@dataclass(frozen=True)
class Bound:
    """``form``: one of :data:`NUMBERS` with a number, or of :data:`REFERENCES` with the operand
    that the margin is derived from.
    """

    form: str
    value: float | Operand


@dataclass(frozen=True)
class Comparison:
    """``left - right``; a ``right`` that is a number, or the name of a bound one, is called
    ``level`` in the file. ``across``: the two are deliberately measured differently (samplers).
    """

    text: str
    left: Operand
    right: Operand | float | str
    region: Bound
    across: bool


@dataclass(frozen=True)
class ClaimSpec:
    """``value``: the operand for ``{value}`` in the text."""

    text: str
    comparisons: tuple[Loop[Comparison], ...]
    over: Each
    ours: bool
    value: Operand | None


@dataclass(frozen=True)
class Row:
    """``if_found``: only if the cell exists; ``with_honest``: followed by the honest model's, if
    that exists; ``steps``: with the training steps in its name.
    """

    name: str
    cell: CellRef
    if_found: bool
    with_honest: bool
    steps: bool


@dataclass(frozen=True)
class Curve:
    """A metric over the plot's axis; ``colour``: by default its index among the curves."""

    name: str
    metric: str
    cell: CellRef
    dashed: bool
    colour: int | None


@dataclass(frozen=True)
class Level:
    """A horizontal line: the metric in the first existing cell along the plot's axis."""

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
    """``items`` (or groups of them), repeated for each combination of the axes in ``each``, the
    first axis outermost.
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
    """One section. Raises :class:`UserError`: one line with the location and the fault."""
    return _Reader(shared).section(_read(path))


def read_page(folder: Path, shared: Shared) -> PageSpec:
    """``page.yaml`` and the sections beside it, in the order of their names. Raises
    :class:`UserError`.
    """
    entries = _read(folder / "page.yaml").fields(
        ("readings", "lead"), ("name", "title", "introduction", "reading", "suites")
    )
    readings = (
        [shared.readings[name] for name in entries["readings"].texts()]
        if "readings" in entries
        else []
    )
    return PageSpec(
        name=entries["name"].text(),
        title=entries["title"].text(),
        introduction=entries["introduction"].text().rstrip(),
        reading=" ".join([*readings, entries["reading"].text().strip()]),
        suites=entries["suites"].texts(),
        lead=entries["lead"].text() if "lead" in entries else "The paper",
        sections=tuple(read_section(path, shared) for path in sorted(folder.glob("[0-9]*.yaml"))),
    )


def _read(path: Path) -> Node:
    return Node(read_yaml(path), f"{path.parent.name}/{path.name}")


def _values(node: Node | None) -> dict[str, Any]:
    return {name: entry.value for name, entry in node.entries().items()} if node else {}


def _flag(entries: Mapping[str, Node], name: str, default: bool = False) -> bool:
    return entries[name].flag() if name in entries else default


class _Reader:
    """``axes`` and ``rows`` belong to the section being read."""

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
        entries = node.fields({*known, "table"}, ("title", "says", "suites"))
        axes = entries["axes"].entries() if "axes" in entries else {}
        self.axes = {name: self.axis(name, value) for name, value in axes.items()}
        cells = entries["cells"].entries() if "cells" in entries else {}
        head, metrics, self.rows, extra = (
            self.table(entries["table"]) if "table" in entries else ("", (), (), None)
        )
        return SectionSpec(
            title=entries["title"].text(),
            says=entries["says"].text().strip(),
            suites=entries["suites"].texts(),
            axes=self.axes,
            cells={name: self.cell(value) for name, value in cells.items()},
            head=head,
            metrics=metrics,
            rows=self.rows,
            extra=extra,
            claims=self.loops(entries.get("claims"), "claims", self.claim),
            plots=self.loops(entries.get("plots"), "plots", self.plot),
            doubts=_flag(entries, "doubts"),
            sample_note=_flag(entries, "sample_note"),
            notes=tuple(text.strip() for text in entries["notes"].texts())
            if "notes" in entries
            else (),
            whiskers=_flag(entries, "whiskers", True),
            hook=entries["hook"].text() if "hook" in entries else "",
            draws=entries["draws"].texts() if "draws" in entries else (),
            figures=tuple((name, text) for name, text in _values(entries.get("figures")).items()),
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
        """Names of axes, or inline ``name: values``."""
        axes: list[Axis] = []
        for item in node.items() if node else []:
            if isinstance(item.value, dict):
                axes += [self.axis(name, values) for name, values in item.entries().items()]
            elif item.text() in self.axes:
                axes.append(self.axes[item.text()])
            else:
                raise item.fault(
                    f"is no axis of this section: {item.text()}; known: {', '.join(self.axes)}"
                )
        return tuple(axes)

    def loops(
        self, node: Node | None, plural: str, read: Callable[[Node], T]
    ) -> tuple[Loop[T], ...]:
        """Items, optionally with their own ``each``, or groups of them under the key ``plural``."""
        return tuple(self.loop(item, plural, read) for item in (node.items() if node else []))

    def loop(self, node: Node, plural: str, read: Callable[[Node], T]) -> Loop[T]:
        entries = node.entries()
        each = self.each(entries.get("each"))
        if plural in entries:
            node.fields(("each", plural))
            return Loop(each, self.loops(entries[plural], plural, read))
        rest = {key: value for key, value in node.value.items() if key != "each"}
        return Loop(each, (read(Node(rest, node.location)),))

    def cell(self, node: Node, *also: str) -> CellRef:
        """A name, or a mapping; ``also``: further keys, which the caller reads."""
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
            "population",
            "first",
        )
        entries = node.fields((*names, *also))
        if "cell" in entries and {"attack", "defense", "where"} & entries.keys():
            raise node.fault(
                "is either another cell or one of its own: not cell with attack, defense or where"
            )
        texts = {
            name: entries[name].text()
            for name in ("cell", "attack", "defense", "suite", "anchor", "population")
            if name in entries
        }
        if texts.get("population", "attack") not in POPULATIONS:
            raise entries["population"].fault(f"must be one of {', '.join(POPULATIONS)}")
        return CellRef(
            **texts,
            at=_values(entries.get("at")),
            where=_values(entries.get("where")),
            honest=_flag(entries, "honest"),
            under=entries["with"].text() if "with" in entries else "",
            first=self.each(entries.get("first")),
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
        entries = node.fields((*inline, "ours", "over", "value", "comparisons"), ("text",))
        if ("comparisons" in entries) == ("compare" in entries):
            raise node.fault(
                "needs either compare with left, right and region, or a list of comparisons"
            )
        if "comparisons" in entries:
            comparisons = self.loops(entries["comparisons"], "comparisons", self.comparison)
        else:
            own = {name: node.value[name] for name in inline if name in node.value}
            comparisons = (Loop((), (self.comparison(Node(own, node.location)),)),)
        value = self.operand(entries["value"], "") if "value" in entries else None
        return ClaimSpec(
            entries["text"].text(),
            comparisons,
            self.each(entries.get("over")),
            _flag(entries, "ours"),
            value,
        )

    def comparison(self, node: Node) -> Comparison:
        entries = node.fields(("metric", "across", "right", "level"), ("compare", "left", "region"))
        metric = entries["metric"].text() if "metric" in entries else ""
        left = self.operand(entries["left"], metric)
        if ("right" in entries) == ("level" in entries):
            raise node.fault("needs either right, a cell, or level, a number")
        right = (
            self.operand(entries["right"], metric) if "right" in entries else entries["level"].value
        )
        region = self.region(entries["region"], left.metric)
        return Comparison(entries["compare"].text(), left, right, region, _flag(entries, "across"))

    def region(self, node: Node, metric: str) -> Bound:
        entries = node.fields((*NUMBERS, *REFERENCES))
        if len(entries) != 1:
            raise node.fault(
                f"must be one of {', '.join((*NUMBERS, *REFERENCES))}, got {len(entries)} of them"
            )
        ((form, value),) = entries.items()
        return Bound(form, value.number() if form in NUMBERS else self.operand(value, metric))

    def table(
        self, node: Node
    ) -> tuple[str, tuple[str, ...], tuple[Loop[Row], ...], tuple[str, Mapping[str, str]] | None]:
        entries = node.fields(("extra",), ("head", "metrics", "rows"))
        extra = None
        if "extra" in entries:
            column = entries["extra"].fields((), ("head", "published", "rows"))
            table = column["published"].text()
            extra = (
                column["head"].text(),
                {name: self.printed(table, row) for name, row in column["rows"].entries().items()},
            )
        rows = self.loops(entries["rows"], "rows", self.row)
        return entries["head"].text(), self.metrics(entries["metrics"]), rows, extra

    def printed(self, table: str, node: Node) -> str:
        """The number of a paper's table (``bench/papers``) with these conditions, as printed."""
        number = lookup(table, _values(node))
        if number is None:
            raise node.fault(f"must name one number of bench/papers/{table}.yaml")
        return number.printed

    def metrics(self, node: Node) -> tuple[str, ...]:
        """Metrics, and names of lists of them in ``shared.yaml``."""
        return tuple(
            metric for name in node.texts() for metric in self.shared.metrics.get(name, (name,))
        )

    def row(self, node: Node) -> Row:
        entries = node.fields(("if_found", "with_honest", "steps"), ("name", "cell"))
        flags = (_flag(entries, name) for name in ("if_found", "with_honest", "steps"))
        return Row(entries["name"].text(), self.cell(entries["cell"]), *flags)

    def plot(self, node: Node) -> PlotSpec:
        entries = node.fields(
            ("bars", "over", "x", "scale", "axes", "curves", "levels"), ("file", "title")
        )
        if ("bars" in entries) == ("curves" in entries):
            raise node.fault("needs either bars or curves")
        bars: tuple[Loop[Row], ...] = ()
        if "bars" in entries:
            bars = (
                self.rows
                if entries["bars"].value is True
                else self.loops(entries["bars"], "rows", self.row)
            )
        axis: Axis = ()
        if "curves" in entries:
            node.fields(entries.keys(), ("over", "axes"))
            (axis,) = self.each(Node([entries["over"].value], entries["over"].location))
        x_name, y_name = entries["axes"].texts() if "axes" in entries else ("", "")
        return PlotSpec(
            entries["file"].text(),
            entries["title"].text(),
            bars,
            axis,
            entries["x"].text()
            if "x" in entries
            else str(entries["over"].value)
            if "over" in entries
            else "",
            entries["scale"].number() if "scale" in entries else 1,
            (x_name, y_name),
            self.loops(entries.get("curves"), "curves", self.curve),
            tuple(
                self.level(item)
                for item in (entries["levels"].items() if "levels" in entries else [])
            ),
        )

    def curve(self, node: Node) -> Curve:
        entries = node.fields(("name", "dashed", "colour"), ("metric", "cell"))
        colour = int(entries["colour"].number()) if "colour" in entries else None
        name = entries["name"].text() if "name" in entries else ""
        return Curve(
            name,
            entries["metric"].text(),
            self.cell(entries["cell"]),
            _flag(entries, "dashed"),
            colour,
        )

    def level(self, node: Node) -> Level:
        entries = node.fields((), ("name", "metric", "cell"))
        return Level(entries["name"].text(), entries["metric"].text(), self.cell(entries["cell"]))
