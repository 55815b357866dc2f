"""``castlewalls verify``: whether a bundle is whole (level 1), complete and consistent in itself
and with what was published (level 2), and, if asked, whether cells drawn by lot come out the same
when they are made again (level 3).

Below level 3 no model is run and the plugin is never imported. A bundle whose numbers, witnesses
and hashes were all invented together passes both: only making cells again can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from bench.bundle import bag, statement
from bench.bundle.integrity import Contents, read_contents
from bench.bundle.statement import TOP
from bench.engine.progress import Reporter
from bench.errors import UserError
from bench.names import brief
from bench.text import one_line
from bench.version import VERSION

Status = Literal["ok", "refused", "doubtful", "not checked"]
#: Lines of one check that are written out.
LINES = 5


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``level``: the level the check belongs to; ``lines``: what was seen, or each refusal."""

    level: int
    check: str
    title: str
    status: Status = "ok"
    lines: tuple[str, ...] = ()

    def printed(self) -> list[str]:
        """For a terminal: one line, and one for each refusal."""
        head = f"{self.status.upper() if self.status == 'refused' else self.status:<12}"
        first = f"{head} {self.level} {self.title}"
        if self.status == "ok" and len(self.lines) < 2:
            return [": ".join([first, *self.lines])]
        return [first, *(f"{'':<12}   {line}" for line in self.lines)]


@dataclass(kw_only=True)
class Verification:
    """``level``: the highest that is reached whole, 0 for none; ``sha256``: of the bundle's
    manifest, by which it is known; ``rerun``: what was drawn and made again, and how it compares,
    as JSON values, if that was asked for and the bundle got so far.
    """

    bundle: str
    sha256: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    rerun: dict[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> int:
        """Every check of it and of those below passed."""
        missing = {one.level for one in self.verdicts if one.status in ("refused", "not checked")}
        missing |= set() if self.rerun else {TOP}
        return min([*missing, TOP + 1]) - 1

    @property
    def passed(self) -> bool:
        """Whether no check refuses the bundle."""
        return not any(one.status == "refused" for one in self.verdicts)

    def summary(self) -> str:
        """The last line."""
        refused = sum(one.status == "refused" for one in self.verdicts)
        if refused:
            checks = "1 check refuses" if refused == 1 else f"{refused} checks refuse"
            return f"{checks} {self.bundle}; level {self.level} of {TOP}"
        return f"level {self.level} of {TOP} is reached: {self.sha256}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        verdicts = [asdict(one) for one in self.verdicts]
        return {
            "bundle": self.bundle,
            "sha256": self.sha256,
            "level": self.level,
            "passed": self.passed,
            "checks": verdicts,
            "rerun": self.rerun,
        }


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """``count``: how many cells; ``nonce``: drawn after the manifest was fixed; ``store``: where
    they are made; ``work``: an empty folder for the plugin's source; ``options``: ``jobs`` and
    ``device``, as of a run.
    """

    count: int
    nonce: str
    store: Path
    work: Path
    reporter: Reporter
    options: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Verdict], None]


def verify(
    folder: Path,
    suite: str = "",
    published: Path | None = None,
    on_verdict: Listener = lambda verdict: None,
    rerun: Rerun | None = None,
    key: Path | None = None,
) -> Verification:
    """Every check of a bundle, level by level; a level only of what no check below it refuses.

    ``suite``: the file of a suite that does not come with castlewalls; ``published``: the results
    whose controls it must agree with, of castlewalls itself unless named; ``rerun``: which imports
    the plugin and runs it; ``key``: the public key of who must have signed it. Raises
    :class:`~bench.errors.UserError` for what is no bundle at all, or no public key.
    """
    if key is not None:
        statement.public_key(key)
    read = bag.read_bag(folder)
    result = Verification(bundle=str(folder))
    if bag.MANIFEST in read.files:
        result.sha256 = bag.sha256(read.files[bag.MANIFEST])

    def note(verdict: Verdict) -> None:
        result.verdicts.append(verdict)
        on_verdict(verdict)

    files = f"{len(read.files)} files, {sum(map(len, read.files.values())) / 1000:.0f} kB"
    note(_verdict(1, "files", "plain files below the folder", read.faults["files"], files))
    if read.faults["files"]:
        return result
    note(_verdict(1, "hashes", "BagIt manifests", read.faults["hashes"], "every file is listed"))
    if read.faults["hashes"]:
        return result
    if key is not None:
        title = f"signed with the key {statement.named(key)}"
        note(_verdict(1, "signature", title, _signature(folder, key, result)))
    contents = read_contents(read, suite)
    for check, title in LEVEL_1:
        if check != "json" and contents.faults["json"]:  # nothing after it was looked at
            note(Verdict(level=1, check=check, title=title, status="not checked"))
        else:
            note(_verdict(1, check, title, contents.faults[check], contents.seen.get(check, "")))
    if not result.passed:
        return result
    _level_2(contents, published, note)
    if rerun and result.passed:
        _level_3(contents, read.files[bag.MANIFEST], suite or contents.suite, rerun, result, note)
    return result


def _signature(folder: Path, key: Path, result: Verification) -> list[str]:
    """What is wrong with the submitter's signature of the manifest."""
    try:
        signed = statement.read(statement.beside(folder, statement.SUBMITTER, True), key)
    except UserError as error:
        return [one_line(str(error), 300)]
    if (about := statement.subject_of(signed)) != result.sha256:
        return [f"the signature must be of the manifest {result.sha256}, got {brief(about)}"]
    return []


LEVEL_1 = (
    ("json", "well-formed JSON"),
    ("records", "records of this schema"),
    ("plugin", "the plugin's source"),
    ("witnesses", "witnesses, readable"),
    ("protocol", "the protocol of the suite"),
)


def _level_2(contents: Contents, published: Path | None, note: Listener) -> None:
    from bench.bundle import consistency

    for check in consistency.CHECKS:
        faults, seen = check.run(contents)
        note(_verdict(2, check.name, check.title, faults, seen))
    status, lines = consistency.held_against(contents, published)
    note(
        Verdict(
            level=2, check="controls", title="controls as published", status=status, lines=lines
        )
    )
    if doubts := consistency.doubts(contents):
        title = "what to know of it"
        note(Verdict(level=2, check="doubts", title=title, status="doubtful", lines=doubts))


def _level_3(
    contents: Contents,
    manifest: bytes,
    suite: str,
    asked: Rerun,
    result: Verification,
    note: Listener,
) -> None:
    from bench.bundle import rerun

    drawn = rerun.draw(manifest, asked.nonce, contents, asked.count)
    words = f"{len(drawn.cells)} of {drawn.total} cells drawn with the nonce {asked.nonce}"
    if not drawn.cells:
        note(_verdict(3, "draw", words, ["a column must have a measured cell, and has none"]))
        return
    note(_verdict(3, "draw", words, []))
    try:
        remade = rerun.make_again(
            contents, drawn, suite, asked.work, asked.store, asked.reporter, asked.options
        )
    except UserError as error:
        note(_verdict(3, "rerun", "cells made again", [one_line(str(error), 300)]))
        return
    for one in remade:
        status: Status = "refused" if one.faults else "ok"
        title = f"made again: {one.cell}"
        note(Verdict(level=3, check="rerun", title=title, status=status, lines=one.lines()))
    result.rerun = {
        "nonce": drawn.nonce,
        "draw": drawn.sha256,
        "of": drawn.total,
        "cells": [one.to_json() for one in remade],
    }


def write_result(folder: Path, result: Verification, device: str, key: Path | None = None) -> Path:
    """Writes what a re-run gave beside the bundle, as a Simple Verification Result, signed if there
    is a private ``key``; returns its path.
    """
    from bench.engine.provenance import provenance

    cells = result.rerun["cells"]
    properties = [f"{statement.LEVEL}{level}" for level in range(1, result.level + 1)]
    if not any(one["faults"] for one in cells):
        exact = all(one["rule"] == "exact" for one in cells)
        rule = "EXACT" if exact else "PAIRED"
        properties.append(f"CASTLEWALLS_RERUN_{len(cells)}_OF_{result.rerun['of']}_{rule}")
    predicate = {
        "verifier": {"id": f"urn:castlewalls:verify:{VERSION}", "policies": []},
        "timeCreated": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "properties": properties,
        "castlewalls_rerun": result.rerun,
        "castlewalls_machine": provenance() | {"device": device},
    }
    name = f"{statement.VERIFIER}-{result.rerun['draw'][:12]}"
    value = statement.statement(folder.resolve().name, result.sha256, statement.SVR, predicate)
    return statement.write_beside(folder, name, value, key)


def _verdict(level: int, check: str, title: str, faults: Sequence[str], seen: str = "") -> Verdict:
    if not faults:
        return Verdict(level=level, check=check, title=title, lines=(seen,) if seen else ())
    lines = [*faults[:LINES]]
    if len(faults) > LINES:
        lines.append(f"{len(faults) - LINES} more like these")
    return Verdict(level=level, check=check, title=title, status="refused", lines=tuple(lines))
