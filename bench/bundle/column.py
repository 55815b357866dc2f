"""One column of a suite in a store, with its controls: what of it is there, and what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import testbeds
from bench.artefacts.roles import MEASURED_BY
from bench.bundle.layout import cell_name, cell_words
from bench.bundle.witnesses import Witness, collect
from bench.cards import read_cards
from bench.cells import POPULATION, Cell
from bench.composed import Composed, name_of, parts_of
from bench.contracts.plugin import Plugin
from bench.engine.graph import Plan
from bench.engine.store import Store
from bench.errors import UserError
from bench.measurements.measurement import Materials
from bench.names import unknown_name
from bench.record import MetricWords, Record, Run, read_account, read_runs
from bench.registry import Registry
from bench.runner import prepare
from bench.suite import load_suite

#: What is in the store of a cell: the folder of its record, and the record.
Entry = tuple[Cell, Path, Record]


@dataclass(frozen=True, kw_only=True)
class Column:
    """``plugins``: what stands in the column, several if a defense is composed or listed with
    several settings; ``entries``: the cells that have a record; ``lacking``: why the others have
    none (``missing``, ``failed``), by their id.
    """

    name: str
    group: str
    plan: Plan
    store: Store
    registry: Registry
    plugins: tuple[Plugin, ...]
    entries: list[Entry]
    lacking: dict[str, str]

    @property
    def records(self) -> list[Record]:
        """Those of all cells that have one."""
        return [record for _, _, record in self.entries]

    def lacks(self) -> str:
        """How many cells have no result, in words; empty if all have one."""
        counted = Counter(self.lacking.values())
        words = [f"{counted[why]} {why}" for why in ("missing", "failed") if counted[why]]
        cells = f"of {len(self.plan.cells)} cells of its column and the controls"
        return f"{self.name}: {cells}, {' and '.join(words)}" if words else ""

    def command(self, suite: str, plugins: Sequence[str | Path]) -> str:
        """What makes the cells that are lacking."""
        names = {"defenses": "none", "detectors": "none", self.group: self.name}
        chosen = "".join(
            f" --{group} {f'{name!r}' if ' ' in name else name}" for group, name in names.items()
        )
        files = "".join(f" --plugin {path}" for path in plugins)
        return f"castlewalls run {suite}{chosen}{files} --store {self.store.root}"

    def dirty(self) -> str:
        """Which cell castlewalls made while it had changes, in words; empty if none."""
        for cell, _, record in self.entries:
            git = record.provenance.get("git")
            if record.status == "ok" and isinstance(git, dict) and git.get("dirty"):
                return f"castlewalls had changes that no git commit holds when it made {cell.title}"
        return ""

    def run(self) -> Run:
        """The column as a run."""
        account = _account(self.store.root, self.plan.suite)
        pending = len(self.plan.cells) - len(self.entries)
        return Run(
            suite=self.plan.suite,
            description=self.plan.description,
            started=account.get("started", ""),
            finished=account.get("finished"),
            counts={"ok": len(self.entries), "pending": pending},
            records=[(folder, record) for _, folder, record in self.entries],
            metrics=tuple(MetricWords.from_json(one) for one in self.plan.metrics),
        )

    def witnesses(self) -> dict[str, Witness]:
        """What the numbers of every measured cell rest on, by the cell's name. Raises
        :class:`UserError` for a stage that is damaged.
        """
        witnesses: dict[str, Witness] = {}
        for cell, _, record in self.entries:
            if record.status != "ok" or record.kind == POPULATION or cell.stage is None:
                continue
            inputs = {}
            for role, key in self.plan.stages[cell.stage].inputs.items():
                if role.startswith(MEASURED_BY):
                    continue
                if wrong := self.store.fault(key):
                    raise UserError(f"{cell.title}: its {role} cannot be used: {wrong}")
                inputs[role] = self.store.folder(key)
            testbed = testbeds.build(cell.testbed.name, cell.testbed.params)
            materials = Materials(testbed=testbed, seed=cell.seed, inputs=inputs)
            witness = collect(materials)
            witness.cell = cell_words(record)
            witnesses[cell_name(record)] = witness
        return witnesses


def read_column(name: str, suite: str, store: Path, plugins: Sequence[str | Path]) -> Column:
    """The cells of a suite's column ``name`` as the present code makes them, in a store that is not
    written. Raises :class:`UserError` for an unknown name, and for a damaged record.
    """
    if not (store / "runs").is_dir():
        raise UserError(f"there is no store at {store}, or nothing was run into it yet")
    registry = read_cards(plugins)
    try:
        group = "detectors" if name in registry.names("detectors") else "defenses"
        columns = _columns(name, suite, registry, group)
        chosen: dict[str, Any] = {"defenses": [], "detectors": [], group: [name]}
        plan = prepare(suite, plugins=plugins, **chosen).plan
    finally:
        registry.close()
    opened = Store(store, read_only=True)
    entries, lacking = _gather(plan, opened)
    return Column(
        name=name,
        group=group,
        plan=plan,
        store=opened,
        registry=registry,
        plugins=tuple(dict.fromkeys(part for one in columns for part in parts_of(one))),
        entries=entries,
        lacking=lacking,
    )


def _columns(name: str, suite: str, registry: Registry, group: str) -> list[Plugin | Composed]:
    """What stands in the column, as the suite lists it or with its defaults."""
    chosen = load_suite(suite, registry)
    known = {
        *registry.names("defenses"),
        *registry.names("detectors"),
        *map(name_of, chosen.defenses),
    }
    if name not in known - {"none"}:
        raise unknown_name("defense or detector", name, known - {"none"})
    only = chosen.only(registry, **{group: [name]})  # type: ignore[arg-type]
    return [one for one in (*only.defenses, *only.detectors) if name_of(one) == name]


def _gather(plan: Plan, store: Store) -> tuple[list[Entry], dict[str, str]]:
    """What the store has of a plan's cells, in the plan's order, and the titles of those that it
    lacks, with why.
    """
    failed = _failures(store.root, plan.suite)
    entries: list[Entry] = []
    lacking: dict[str, str] = {}
    for cell in plan.cells:
        assert isinstance(cell, Cell)
        if cell.stage is None:
            entries.append((cell, store.root, cell.without_result("skipped", cell.reason)))
        elif store.finished(cell.stage):
            folder = store.folder(cell.stage)
            wrong = store.fault(cell.stage)
            try:
                if wrong:
                    raise ValueError(wrong)
                text = (folder / "record.json").read_text(encoding="utf-8")
                entries.append((cell, folder, Record.from_json(text)))
            except (OSError, ValueError) as error:
                raise UserError(f"{cell.title}: its record cannot be used: {error}") from error
        else:
            lacking[cell.id] = "failed" if cell.id in failed else "missing"
            if cell.id in failed:
                entries.append((cell, store.root, failed[cell.id]))
    return entries, lacking


def _failures(store: Path, suite: str) -> dict[str, Record]:
    """The failed records of the suite's last run, by the id of their cell."""
    cells = _account(store, suite).get("cells", [])
    ids = {cell.get("id") for cell in cells if cell.get("status") == "failed"}
    failed: dict[str, Record] = {}
    if ids:
        for run in read_runs(store):
            if run.suite == suite:
                failed = {_id(record): record for _, record in run.records}
    return {name: record for name, record in failed.items() if name in ids}


def _id(record: Record) -> str:
    fields = ("testbed", "attack", "probe", "defense", "sampler", "seed", "seeds", "kind")
    return Cell(**{name: getattr(record, name) for name in fields}).id


def _account(store: Path, suite: str) -> dict[str, Any]:
    try:
        return read_account(store / "runs" / f"{suite}.json")
    except (OSError, ValueError):
        return {}
