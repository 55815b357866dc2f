"""``castlewalls submit``: one column of a suite out of a store, with its controls, as a bundle that
others can check without running anything.

The cells are those that the plugin's present code makes: a store's keys follow the code, so what is
in the bundle was made by the source in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.bundle import bag, statement
from bench.bundle.column import Column, read_column
from bench.bundle.crate import Description, crate
from bench.bundle.layout import BUNDLE, COLUMN, CRATE, PLUGIN, SUITE, VERSION, to_json
from bench.bundle.source import PluginSource, plugin_source
from bench.bundle.witnesses import files_of
from bench.contracts.card import FILL_IN, unwritten
from bench.errors import UserError
from bench.export import results_of
from bench.suite import find_suite
from bench.version import VERSION as CASTLEWALLS


@dataclass(frozen=True, kw_only=True)
class Submission:
    """``folder``: the bundle, which exists unless it was a dry run; ``cells``: records in it, by
    status; ``missing``: those that are not; ``size``: bytes of its payload; ``sha256``: of its
    manifest, by which it is known, empty in a dry run; ``signature``: the file with it, if there is
    one.
    """

    folder: Path
    name: str
    suite: str
    cells: dict[str, int]
    missing: int
    size: int
    sha256: str = ""
    signature: str = ""


def submit(
    name: str,
    suite: str,
    store: Path,
    *,
    plugins: Sequence[str | Path] = (),
    output: Path | None = None,
    description: Description | None = None,
    incomplete: bool = False,
    dirty: bool = False,
    dry_run: bool = False,
    sign: Path | None = None,
) -> Submission:
    """Writes the bundle of column ``name`` (a defense, an inversion, a detector) of ``suite``.

    ``incomplete``: also if cells are missing or failed, or texts of the card; ``dirty``: also if
    code had changes that no git commit holds; ``sign``: a private key. Raises :class:`UserError` in
    one line, which says what to do.
    """
    if sign is not None:
        statement.signer_of(sign)  # before anything is written
    column = read_column(name, suite, store, plugins)
    if not incomplete:
        _refuse_unwritten(column)  # first: the card is code, so what it still lacks moves every key
        if lacks := column.lacks():
            command = column.command(suite, plugins)
            raise UserError(f"{lacks}; `{command}` makes them, --allow-incomplete leaves them out")
    source = plugin_source(column.plugins, column.registry)
    if not dirty and (why := source.dirty or column.dirty()):
        raise UserError(
            f"{why}: nobody could see what made these numbers; commit it and run again, or say "
            f"--allow-dirty"
        )
    folder = output or Path(f"{name.replace(' ', '')}-{column.plan.suite}")
    payload, tags, info = contents(column, source, description or Description())
    counted = Counter(record.status for record in column.records)
    digest = signature = ""
    if not dry_run:
        bag.write_bag(folder, payload, tags, info)
        digest = bag.sha256((folder / bag.MANIFEST).read_bytes())
        if sign is not None:
            signature = str(_sign(folder, digest, suite, column, bool(source.dirty), sign))
    return Submission(
        folder=folder,
        name=name,
        suite=column.plan.suite,
        cells={status: counted[status] for status in ("ok", "failed", "skipped")},
        missing=len(column.plan.cells) - len(column.entries),
        size=sum(map(len, payload.values())),
        sha256=digest,
        signature=signature,
    )


def _refuse_unwritten(column: Column) -> None:
    for plugin in column.plugins:
        if left := unwritten(plugin.card):
            raise UserError(
                f"the card of {plugin.card.name} still says {FILL_IN} as its {', '.join(left)}; "
                f"write it (paper=None: there is none) and run it, or say --allow-incomplete"
            )


def _sign(folder: Path, digest: str, suite: str, column: Column, dirty: bool, key: Path) -> Path:
    """The submitter's signed statement of the bundle, as a Test Result of the suite."""
    file = find_suite(suite).read_bytes()
    result = "WARNED" if dirty or column.dirty() or column.lacks() else "PASSED"
    configuration = {"name": f"suite {column.plan.suite}", "digest": {"sha256": bag.sha256(file)}}
    predicate = {"result": result, "configuration": [configuration]}
    value = statement.statement(folder.resolve().name, digest, statement.TEST_RESULT, predicate)
    return statement.write_beside(folder, statement.SUBMITTER, value, key)


def contents(
    column: Column, source: PluginSource, description: Description
) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, str]]:
    """The payload below ``data/``, the tag files, and the lines of ``bag-info.txt``."""
    run = column.run()
    payload = results_of(run) | source.files | files_of(column.witnesses())
    payload[PLUGIN] = to_json(_about(column, source))
    title = f"{column.name} on the suite {run.suite}"
    text = (
        f"One column of the castlewalls suite {run.suite}: {column.name} against every attack, at "
        f"every seed, with the controls, the plugin's source and witnesses of its numbers."
    )
    date = run.finished or run.started
    papers = [plugin.card.paper for plugin in column.plugins if plugin.card.paper]
    tags = {CRATE: crate(title, text, date, payload, description, papers, column.records)}
    info = {
        "Bag-Software-Agent": f"castlewalls {CASTLEWALLS}",
        "Bagging-Date": date[:10],
        "External-Description": title,
        BUNDLE: str(VERSION),
        SUITE: run.suite,
        COLUMN: column.name,
    }
    return payload, tags, info


def _about(column: Column, source: PluginSource) -> dict[str, Any]:
    """What ``plugin.json`` says: what the plugin declares, and its files."""
    plugins = [
        {
            "name": plugin.card.name,
            "file": source.modules[plugin.card.name],
            "summary": plugin.card.summary,
            "params": plugin.params(),
            "needs": sorted(plugin.card.needs),
            "applies_to": sorted(plugin.card.applies_to),
            "tuned": None if plugin.card.tuned is None else [asdict(t) for t in plugin.card.tuned],
        }
        for plugin in column.plugins
    ]
    return {
        "bundle": VERSION,
        "castlewalls": CASTLEWALLS,
        "column": column.name,
        "group": column.group,
        "plugins": plugins,
        "files": source.listed,
        "commit": source.commit,
        "uncommitted": source.dirty,
    }
