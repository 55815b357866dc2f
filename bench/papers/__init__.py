"""What the papers measured: their tables, as data, so that a published number has one source. The
board shows it beside ours, the science pages quote it, and neither computes with it.

``papers.yaml`` has the papers, ``<paper>-<table>.yaml`` one table each, with what it was measured
on and its rows and columns in the words of our registry. Numbers stand as printed. Without torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.node import Node
from bench.yaml_reader import read_yaml

FOLDER = Path(__file__).parent
PAPERS = "papers.yaml"
#: What a condition may be about; the first three also have parameters, as ``attack.poison_rate``.
ROLES, SUBJECTS = ("attack", "defense", "sampler", "testbed"), ("anchor", "metric")
#: A number as printed, perhaps with a standard deviation; ``-`` for none.
_PRINTED = re.compile(r"(\d+(?:\.\d+)?)(?:±(\d+(?:\.\d+)?))?")
NOTHING = "-"
Conditions = Mapping[str, Any]


@dataclass(frozen=True)
class Paper:
    """``cite``: authors and year, as in running text."""

    cite: str
    title: str
    venue: str
    arxiv: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a table was measured on, in a few words each. ``features``: of the FID's network;
    ``repeats``: what the number is the mean of.
    """

    data: str
    model: str
    sampling: str
    samples: str
    features: str = ""
    repeats: str = ""

    def text(self) -> str:
        """One line."""
        parts = (self.data, self.model, self.sampling, self.samples, self.features, self.repeats)
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One number of a paper. ``file``: its table's, without the suffix; ``page`` is ``None`` where
    the text at hand has no pages, and ``section`` says where instead.

    ``metric``: ours, a name or a family (``fid`` for ``fid[...]``); ``name``: the paper's word for
    it; ``printed``: the number as it stands there, in ``unit`` (``%`` or none); ``deviation``: the
    standard deviation behind it, or empty. ``own``: the testbeds that are the paper's;
    ``mirrors``: those that do the same on other data and networks. ``where``: what a cell must be
    (a list: one of these), but for what it says of the testbed, which is of the paper's own;
    ``mirrored``: what a mirror must be, with ``None`` for a parameter that its records do not name;
    ``also``: what else the paper did, which a cell may do otherwise. ``differs``: where the paper's
    definition is not ours.
    """

    file: str
    paper: Paper
    table: str
    page: int | None
    section: str
    setting: Setting
    metric: str
    name: str
    printed: str
    deviation: str
    unit: str
    own: tuple[str, ...]
    mirrors: tuple[str, ...]
    where: Conditions
    mirrored: Conditions
    also: Conditions
    differs: str

    @property
    def value(self) -> float:
        """The number, in ``unit``."""
        return float(self.printed)

    @property
    def citation(self) -> str:
        """``Chou et al. 2023, Table 7, appendix F.4``."""
        at = f"page {self.page}" if self.page is not None else self.section
        return f"{self.paper.cite}, Table {self.table}, {at}"

    @property
    def number(self) -> str:
        """``97.070 ± 0.184 %``."""
        deviation = f" ± {self.deviation}" if self.deviation else ""
        return f"{self.printed}{deviation}{f' {self.unit}' if self.unit else ''}"

    @property
    def text(self) -> str:
        """``TA 97.070 ± 0.184 %``."""
        return f"{self.name} {self.number}"


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Every number of every table. Raises :class:`UserError`: one line with the file, the entry and
    the fault.
    """
    return read_tables(FOLDER)


def read_tables(folder: Path) -> tuple[Published, ...]:
    """As :func:`published`, of the tables in ``folder``."""
    papers = {name: _paper(node) for name, node in _read(folder / PAPERS).entries().items()}
    files = sorted(path for path in folder.glob("*.yaml") if path.name != PAPERS)
    return tuple(one for path in files for one in _table(path.stem, _read(path), papers))


def lookup(file: str, conditions: Conditions) -> Published | None:
    """The number of a table that ``conditions`` name, which may be fewer than it has; ``None`` if
    they name none, or several.
    """
    numbers = [
        one
        for one in published()
        if one.file == file
        and all(
            name in one.where and agrees(value, one.where[name])
            for name, value in conditions.items()
        )
    ]
    return numbers[0] if len(numbers) == 1 else None


def agrees(value: Any, wanted: Any) -> bool:
    """Whether a value is the one that a condition wants, or one of those."""
    choices = wanted if isinstance(wanted, list) else [wanted]
    return any(
        value == choice and isinstance(value, bool) == isinstance(choice, bool)
        for choice in choices
    )


def _read(path: Path) -> Node:
    return Node(read_yaml(path), path.name)


def _paper(node: Node) -> Paper:
    entries = node.fields((), ("cite", "title", "venue", "arxiv"))
    return Paper(**{name: entry.text() for name, entry in entries.items()})


def _table(file: str, node: Node, papers: Mapping[str, Paper]) -> list[Published]:
    entries = node.fields(("page", "section"), ("paper", "table", "setting", "blocks"))
    name, table = entries["paper"].text(), entries["table"].text()
    if name not in papers:
        raise entries["paper"].fault(f"must be one of {', '.join(sorted(papers))}, got {name!r}")
    if file != f"{name}-{table.lower()}":
        raise node.fault(f"must be named {name}-{table.lower()}.yaml, after its paper and table")
    if "page" not in entries and "section" not in entries:
        raise node.fault("needs page, or section where the text has no pages")
    page = entries["page"].number() if "page" in entries else None
    if page is not None and (page != int(page) or page < 1):
        raise entries["page"].fault(f"must be a page's number, got {page!r}")
    source = {
        "file": file,
        "paper": papers[name],
        "table": table,
        "page": None if page is None else int(page),
        "section": entries["section"].text() if "section" in entries else "",
    }
    setting = _texts(entries["setting"])
    return [one for block in entries["blocks"].items() for one in _block(block, source, setting)]


def _texts(node: Node) -> dict[str, str]:
    known = ("data", "model", "sampling", "samples", "features", "repeats")
    return {name: entry.text() for name, entry in node.fields(known).items()}


def _block(node: Node, source: Mapping[str, Any], setting: Mapping[str, str]) -> list[Published]:
    """``rows`` and ``columns``: the conditions of each, which ``values`` has a line and a number
    for.
    """
    entries = node.fields(
        ("unit", "setting", "mirrors", "mirrored", "also", "differs"),
        ("name", "own", "where", "rows", "columns", "values"),
    )
    rows, columns = (
        [_conditions(one) for one in entries[of].items()] for of in ("rows", "columns")
    )
    lines = [line.split() for line in entries["values"].text().splitlines() if line.strip()]
    if [len(line) for line in lines] != [len(columns)] * len(rows):
        raise entries["values"].fault(
            f"must have {len(rows)} lines of {len(columns)}, got lines of "
            f"{', '.join(str(len(line)) for line in lines)}"
        )
    try:
        whole = Setting(
            **{**setting, **(_texts(entries["setting"]) if "setting" in entries else {})}
        )
    except TypeError as error:
        raise node.fault("the setting needs data, model, sampling and samples") from error
    shared = {
        **source,
        "setting": whole,
        "name": entries["name"].text(),
        "unit": entries["unit"].text() if "unit" in entries else "",
        "own": entries["own"].texts(),
        "mirrors": entries["mirrors"].texts() if "mirrors" in entries else (),
        "mirrored": _conditions(entries["mirrored"]) if "mirrored" in entries else {},
        "also": _conditions(entries["also"]) if "also" in entries else {},
        "differs": entries["differs"].text().strip() if "differs" in entries else "",
    }
    common, numbers = _conditions(entries["where"]), []
    for row, line in zip(rows, lines, strict=True):
        for column, printed in zip(columns, line, strict=True):
            if printed != NOTHING:
                where = {**common, **row, **column}
                numbers.append(_number(entries["values"], printed, where, shared))
    return numbers


def _number(node: Node, printed: str, where: Conditions, shared: Mapping[str, Any]) -> Published:
    parts = _PRINTED.fullmatch(printed)
    if not parts:
        raise node.fault(f"must be numbers as printed, or {NOTHING}, got {printed!r}")
    rest = {name: value for name, value in where.items() if name != "metric"}
    if "metric" not in where or not {"attack", "anchor"} & set(rest):
        raise node.fault("needs a metric, and an attack or an anchor, for every number")
    return Published(
        **shared, metric=where["metric"], printed=parts[1], deviation=parts[2] or "", where=rest
    )


def _conditions(node: Node) -> dict[str, Any]:
    """``attack``, ``attack.poison_rate`` and so on, each with a value or a list of them."""
    entries = node.entries()
    for name, entry in entries.items():
        role, dot, parameter = name.partition(".")
        if not (name in SUBJECTS or (role in ROLES and bool(dot) == bool(parameter))):
            known = ", ".join((*SUBJECTS, *ROLES, *(f"{role}.NAME" for role in ROLES)))
            raise entry.fault(f"is no condition; known: {known}")
        if isinstance(entry.value, dict):
            raise entry.fault("must be a value or a list of values")
    return {name: entry.value for name, entry in entries.items()}
