"""Commands that plan suites, run them, and say how far they are."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console

from bench.cli.boards import write_board
from bench.cli.group import FAILED, INTERRUPTED, cli, interrupt
from bench.cli.options import DECLARED, choosing, json_option, store_option
from bench.cli.output import print_json, screen
from bench.errors import UserError
from bench.text import one_line, plain

if TYPE_CHECKING:
    from bench.engine.jobs import Profile
    from bench.engine.progress import Reporter
    from bench.engine.run import Outcome
    from bench.engine.store import Store
    from bench.runner import Prepared


@cli.command()
@click.argument("suites", nargs=-1, required=True, metavar="SUITE...")
@choosing
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="For each stage [default: a day, a plugin file 30 min, or 20 times the usual].",
)
@click.option(
    "--retries", type=int, metavar="N", help="How often a failed stage is tried again in this run."
)
@click.option(
    "--dry-run", is_flag=True, help="Say what would be done and how long it may take, and stop."
)
@click.option(
    "--report/--no-report", default=True, help="Write the HTML board afterwards.  [default: report]"
)
@click.option(
    "--executor",
    type=click.Choice(["local", "slurm", "ray"]),
    default="local",
    show_default=True,
    help="What makes the stages: this machine, or a cluster that shares the store's folder.",
)
@click.option("--profile", metavar="FILE", help="What the cluster wants to know (docs/cluster.md).")
def run(
    suites: Sequence[str],
    store: str,
    as_json: bool,
    timeout: float | None,
    retries: int | None,
    dry_run: bool,
    report: bool,
    executor: str,
    profile: str | None,
    **choice: Any,
) -> None:
    """Run SUITE, a shipped suite's name or a YAML file, or several together, so that each has its
    first numbers early. What is in the store is not computed again.

    Run the same command again after a crash, Ctrl-C or a failed cell: it goes on where it was.

    \b
    castlewalls run digits
    castlewalls run digits --dry-run
    castlewalls run digits --defenses clip_xt --seeds 0 --jobs 2
    castlewalls run digits poison sd
    castlewalls run mine.yaml --plugin my_defense.py --store /data/store --json
    castlewalls run digits --executor slurm --profile lab.yaml --store /shared/store
    castlewalls run digits --executor ray --store /shared/store
    """
    from bench.engine.progress import reporter_for
    from bench.engine.store import Store
    from bench.runner import check_names, prepare
    from bench.summary import summary

    cluster = _profile(executor, profile, suites)
    if cluster is not None:
        choice |= cluster.choice()
    choice |= _packing(choice, suites)
    # All of them before the first one runs, so that a fault in the last suite is reported at once.
    prepared = [
        prepare(suite, timeout=timeout, retries=retries, **choice)
        for suite in dict.fromkeys(suites)
    ]
    check_names(prepared)
    if dry_run:
        _estimate(prepared, Path(store), as_json)
        return
    signal.signal(signal.SIGTERM, interrupt)  # sent by a cluster at its time limit; as Ctrl-C
    reporter = reporter_for(Console(stderr=True), quiet=as_json)
    live = _LiveBoard(Path(store), reporter.note) if report else None
    outcomes = _run(prepared, Store(store), reporter, live, cluster)
    board = write_board([Path(store)], live.path) if live else None
    if as_json:
        _print_runs([one.plan.suite for one in prepared], outcomes, board)
    else:
        for one in prepared:
            summary(Path(store), one.plan.suite, screen())
        if board is not None:
            click.echo(str(board))
    sys.exit(0 if all(outcome.all_ok for outcome in outcomes) else FAILED)


def _profile(executor: str, file: str | None, suites: Sequence[str]) -> Profile | None:
    """Of a cluster, for the testbeds of ``suites``; ``None`` for this machine."""
    from bench.engine.ray import RayProfile
    from bench.engine.slurm import SlurmProfile
    from bench.runner import needs_of

    kinds: dict[str, type[Profile]] = {one.name: one for one in (SlurmProfile, RayProfile)}
    if executor in kinds:
        _refuse_local(f"--executor {executor}")
        return kinds[executor].read(file, needs_of(suites))
    if file is not None:
        raise UserError(f"--profile is for --executor {' or '.join(kinds)}, got {executor}")
    return None


def _packing(choice: dict[str, Any], suites: Sequence[str]) -> dict[str, Any]:
    """What stands for ``--gpu-memory declared``."""
    from bench.runner import declared_packing, needs_of

    if choice["gpu_memory"] != DECLARED:
        return {}
    return declared_packing(needs_of(suites), choice["jobs"])


#: Options that say what of this machine is used, and the field of a profile that says it of a job.
_LOCAL = {"jobs": "cpus", "device": "gpus", "gpus_per_stage": "gpus", "gpu_memory": "gpus"}


def _refuse_local(option: str) -> None:
    """Raises :class:`UserError` if a user gave, with ``option``, one that a profile decides."""
    context = click.get_current_context()
    for name, field in _LOCAL.items():
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UserError(
                f"--{name.replace('_', '-')} is for this machine; with {option} the profile's "
                f"{field} decides (docs/cluster.md)"
            )


def _estimate(prepared: Sequence[Prepared], store: Path, as_json: bool) -> None:
    from bench.summary import estimate_json, show_estimate

    if as_json:
        rows = [estimate_json(one.plan, store, len(one.slots)) for one in prepared]
        print_json(rows[0] if len(rows) == 1 else rows)
        return
    for one in prepared:
        if len(prepared) > 1:
            click.echo(f"{one.plan.suite}:")
        show_estimate(one.plan, store, len(one.slots))


class _LiveBoard:
    """The board of a store while a run goes on. ``tell``: prints a line for the user."""

    def __init__(self, store: Path, tell: Callable[[str], None]) -> None:
        self.store, self.path, self.tell = store, store / "report.html", tell
        self.written = False

    def show(self, progress: Any) -> None:
        """Writes it, and says where it is, the first time."""
        from leaderboard.report import build_live

        build_live(self.store, self.path, **vars(progress))
        if not self.written:
            self.written = True
            self.tell(f"board: {self.path} (open it now; it fills while this goes on)")

    def end(self) -> None:
        """Leaves a page that waits for nothing, of what there is."""
        from leaderboard.report import build, build_live

        if not self.written:
            return
        try:
            build(self.store, self.path)
        except UserError:  # no records yet, or no space: then nor will this be written
            with suppress(UserError):
                build_live(self.store, self.path, written=0.0, every=0.0, ended=True)


def _run(
    prepared: Sequence[Prepared],
    store: Store,
    reporter: Reporter,
    live: _LiveBoard | None,
    cluster: Profile | None,
) -> list[Outcome]:
    """Runs suites together. Whatever ends them, no page is left that waits for more."""
    from bench.runner import run_together

    try:
        return run_together(prepared, store, reporter, live.show if live else None, cluster)
    except BaseException as error:
        if live is not None:
            live.end()
        if not isinstance(error, KeyboardInterrupt):
            raise
        keys = {key: None for one in prepared for key in one.plan.stages}
        finished = sum(store.finished(key) for key in keys)
        message = f"interrupted; {finished} stages are kept; run the same command to go on"
        if cluster is not None and cluster.lasting:
            message += ", or `castlewalls cancel` to end its jobs, which are still in the queue"
        click.echo(message, err=True)
        sys.exit(INTERRUPTED)


def _print_runs(suites: Sequence[str], outcomes: Sequence[Any], board: Path | None) -> None:
    runs = [
        {
            "suite": suite,
            "cells": outcome.counts,
            "stages_made": outcome.stages_made,
            "run": str(outcome.file),
            "report": None if board is None else str(board),
        }
        for suite, outcome in zip(suites, outcomes, strict=True)
    ]
    print_json(runs[0] if len(runs) == 1 else runs)


@cli.command()
@click.argument("suite")
@choosing
@click.option(
    "--into",
    metavar="FOLDER",
    help="Write jobs that make what is missing, for Snakemake and the like (docs/cluster.md).",
)
@click.option("--profile", metavar="FILE", help="With --into: what a job may use.")
def plan(
    suite: str, store: str, as_json: bool, into: str | None, profile: str | None, **choice: Any
) -> None:
    """Show the stages SUITE needs, and about how long they take, without running any. With --json,
    one JSON object a line.

    \b
    castlewalls plan digits
    castlewalls plan digits --attacks baddiffusion --json
    castlewalls plan digits --store /shared/store --into jobs
    """
    from bench.engine.jobs import Profile
    from bench.runner import needs_of, plan_jobs, prepare
    from bench.summary import show_stages

    if into is None:
        if profile is not None:
            raise UserError("--profile goes with --into FOLDER")
        prepared = prepare(suite, **choice | _packing(choice, [suite]))
        show_stages(prepared.plan, Path(store), screen(), as_json, len(prepared.slots))
        return
    _refuse_local("--into")
    of_jobs = Profile.read(profile, needs_of([suite]))
    prepared = prepare(suite, **choice | of_jobs.choice())
    rows = plan_jobs(prepared, Path(store), Path(into), of_jobs)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        click.echo(f"{len(rows)} jobs in {Path(into) / 'jobs.json'}")


@cli.command()
@store_option
@json_option
def status(store: str, as_json: bool) -> None:
    """Show how far every run in a store is, and the jobs that runs on a cluster left at work.

    \b
    castlewalls status
    castlewalls status --store /shared/store
    castlewalls status --store /shared/store --json
    """
    from bench.engine.slurm import job_states
    from bench.summary import run_states, state_line

    jobs, runs = job_states(Path(store)), run_states(Path(store))
    if as_json:
        print_json({"runs": runs, "jobs": jobs})
        return
    for run in runs:
        click.echo(plain(one_line(state_line(run), 400)))
    for job in jobs:
        where = "in the queue" if job["queued"] else "gone"
        click.echo(f"{job['run']}: job {job['job']}, {where}, {job['left']} stages to make")
    if not jobs:
        click.echo(f"no run in {store} has jobs on a cluster")


@cli.command()
@store_option
def cancel(store: str) -> None:
    """End the jobs that runs on a cluster left at work. What they have made is kept.

    \b
    castlewalls cancel --store /shared/store
    """
    from bench.engine.slurm import cancel_jobs

    click.echo(f"{cancel_jobs(Path(store))} jobs ended")
