"""Writes a finished run's records as results (:mod:`bench.results`), from its store. Without torch.

The same store gives the same bytes, on any machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError
from bench.record import Picture, Record, Run, read_runs
from bench.results import (
    MAX_RECORDS,
    PICTURE_NAME,
    PICTURES,
    RECORDS,
    RUN,
    SCHEMA,
    pictures_of,
    read_source,
)
from bench.rows import lines_of
from bench.text import one_line

#: What pictures come along: what the adversary aims at, what is drawn when he calls and when nobody
#: does, and what a classifier must not fall for.
ROLES = re.compile(r"target_image|trigger_image|target|clean|stamped|call:.*")
_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One suite's results. ``protocols``: (testbed, protocol) of its records; ``size``: bytes of
    all its files; ``replaced``: what stood there before, in words, or empty.
    """

    folder: Path
    records: int
    size: int
    protocols: tuple[tuple[str, str], ...]
    replaced: str


def export(store: Path, suite: str, output: Path, *, partial: bool = False) -> Exported:
    """Writes ``output/<suite>/`` from the last run of a suite, in place of what an earlier export
    left there.

    In the store stay tracebacks, for they name the machine's folders, the keys of the stages that a
    record was measured from, which are its own stage's manifest's too, and all pictures but those
    of the lowest seed that show what the adversary calls (:data:`ROLES`). ``partial``: also if
    cells are missing or failed. Raises :class:`UserError` in one line.
    """
    run = _run(store, suite)
    if wrong := unfinished(run):
        if not partial:
            raise UserError(
                f"{suite} in {store} is not complete: {wrong}; finish it with `castlewalls run "
                f"{suite} --store {store}`, or say --partial to write what there is"
            )
    folder = Path(output) / suite
    replaced = _replaced(folder)
    files = results_of(run)
    try:
        _put(folder, files)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    records = [record for _, record in run.records]
    return Exported(
        folder=folder,
        records=len(records),
        size=sum(map(len, files.values())),
        protocols=_protocols(records),
        replaced=replaced,
    )


def finished_suites(store: Path, partial: bool = False) -> tuple[list[str], dict[str, str]]:
    """The suites whose runs in a store are complete, and why each of the others is not.
    ``partial``: those with any record count as complete. Raises :class:`UserError` for a store
    without any.
    """
    runs = {run.suite: "" if partial and run.records else unfinished(run) for run in _runs(store)}
    done = [suite for suite, wrong in runs.items() if not wrong]
    if not done:
        reasons = "; ".join(f"{suite}: {wrong}" for suite, wrong in runs.items())
        raise UserError(f"{store} holds no complete run{f' ({reasons})' if reasons else ''}")
    return done, {suite: wrong for suite, wrong in runs.items() if wrong}


def unfinished(run: Run) -> str:
    """What a run lacks, in words; empty if every cell has a result or a reason to have none."""
    lacks = [
        f"{run.counts[status]} cells {status}"
        for status in ("failed", "pending", "missing")
        if run.counts.get(status)
    ]
    if run.finished is None and not lacks and run.records:
        # What an earlier run gave stands beside what the last one made before it was interrupted.
        lacks = ["its last run was interrupted"]
    if not run.records and not lacks:
        lacks = [*(run.problems or ["it has no cells"])]
    return one_line(", ".join(lacks))


def _runs(store: Path) -> list[Run]:
    if not (store / "runs").is_dir():
        raise UserError(f"there is no store at {store}, or nothing was run into it yet")
    return read_runs(store)


def _run(store: Path, suite: str) -> Run:
    runs = {run.suite: run for run in _runs(store)}
    if suite not in runs:
        raise UserError(
            f"{store} holds no run of {one_line(suite, 80)}; it holds {', '.join(runs) or 'none'}"
        )
    if not _SUITE.fullmatch(suite):
        raise UserError(f"a suite whose results have a folder needs a plain name, got {suite!r}")
    return runs[suite]


def results_of(run: Run) -> dict[str, bytes]:
    """The files of a run's results: path below the suite's folder -> content. Raises
    :class:`UserError` for more records than a reader takes.
    """
    first = min((record.seed for _, record in run.records if not record.seeds), default=0)
    pictures: dict[str, bytes] = {}
    records: list[Record] = []
    for folder, record in run.records:
        kept: dict[Picture, bytes] = (
            pictures_of(folder, record, ROLES) if record.seed == first and not record.seeds else {}
        )
        pictures |= {picture.path: data for picture, data in kept.items()}
        origin = {name: one for name, one in record.provenance.items() if name != "inputs"}
        records.append(
            dataclasses.replace(record, pictures=tuple(kept), trace="", provenance=origin)
        )
    lines = lines_of(records)
    if len(lines) > MAX_RECORDS:
        raise UserError(f"{run.suite} has {len(lines)} bytes of records, more than {MAX_RECORDS}")
    note = f"Pictures: seed {first}, what the adversary calls; the others are in the store."
    account = {
        "schema": SCHEMA,
        "suite": run.suite,
        "description": run.description,
        "started": run.started,
        "finished": run.finished or "",
        "cells": max(sum(run.counts.values()), len(records)),
        "metrics": [words.to_json() for words in run.metrics],
        **({"methods": [words.to_json() for words in run.methods]} if run.methods else {}),
        "note": note if pictures else "Pictures are in the store.",
        "sha256": hashlib.sha256(lines).hexdigest(),
    }
    rows = (
        f"{json.dumps(name)}: {json.dumps(value, sort_keys=True, allow_nan=False)}"
        for name, value in sorted(account.items())
    )
    text = "{\n" + ",\n".join(rows) + "\n}\n"
    return {RUN: text.encode(), RECORDS: lines, **dict(sorted(pictures.items()))}


def _protocols(records: list[Record]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({(record.testbed.name, record.protocol) for record in records}))


def _replaced(folder: Path) -> str:
    """What an earlier export left in ``folder``, in words. Raises :class:`UserError` if anything
    else lies there, which writing would remove.
    """
    if not os.path.lexists(folder):
        return ""
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder} is not a folder of results, and is left as it is")
    ours = {RUN, RECORDS, PICTURES}
    strange = sorted(one.name for one in folder.iterdir() if one.name not in ours)
    pictures = folder / PICTURES
    if pictures.is_symlink() or os.path.lexists(pictures) and not pictures.is_dir():
        strange.append(PICTURES)
    elif pictures.is_dir():
        # Without a run.json no export wrote them.
        known = (folder / RUN).is_file()
        strange += sorted(
            one.name
            for one in pictures.iterdir()
            if one.is_dir() or not known or not PICTURE_NAME.fullmatch(one.name)
        )
    if strange:
        raise UserError(f"{folder} holds {one_line(strange[0], 80)}, which no export wrote")
    if not (folder / RUN).is_file():
        return ""
    (before,) = read_source(folder)
    records = [record for _, record in before.records]
    counts = Counter(protocol[:8] for _, protocol in _protocols(records))
    return f"{len(records)} records under {', '.join(sorted(counts)) or 'no protocol'}"


def _put(folder: Path, files: dict[str, bytes]) -> None:
    """All files beside the folder first, then in its place: nobody meets half of an export."""
    made = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        for name, data in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(data)
        if folder.exists():
            folder.rename(old)
        made.rename(folder)
    finally:
        if old.exists() and not folder.exists():  # ended between the two
            old.rename(folder)
        for left in (made, old):
            shutil.rmtree(left, ignore_errors=True)
