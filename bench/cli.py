"""The command line; thin. Exit codes: 0 success, 1 failed cells or checks, 2 bad input, 130
interrupted.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource
from rich.console import Console

import bench
from bench.checking.limits import MEMORY_MB, SECONDS
from bench.errors import UserError
from bench.scaffold.sorts import SORTS
from bench.text import one_line, plain

if TYPE_CHECKING:
    from bench.engine.jobs import Profile
    from bench.engine.progress import Reporter
    from bench.engine.run import Outcome
    from bench.engine.store import Store
    from bench.runner import Prepared

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
#: In place of a number of GB.
DECLARED = "declared"
F = Callable[..., Any]


class Commands(click.Group):
    """A group that turns bad input into one line on standard error, and Ctrl-C into another."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click's, with our two endings."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"castlewalls: {plain(str(error))}", err=True)
            ctx.exit(BAD_INPUT)
        except click.UsageError as error:
            _refuse_usage(error, ctx)
        except OSError as error:  # a folder that may not be entered, a name that is too long
            if error.filename is None:
                raise
            named = one_line(os.fsdecode(error.filename), 300)
            click.echo(f"castlewalls: {named} cannot be used: {error.strerror}", err=True)
            ctx.exit(BAD_INPUT)
        except RuntimeError as error:
            # What pathlib raises for links that lead to each other, before Python 3.13.
            if not str(error).startswith("Symlink loop"):
                raise
            click.echo(f"castlewalls: {one_line(str(error), 300)}", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("castlewalls: interrupted", err=True)
            ctx.exit(INTERRUPTED)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, with our ending for an option that there is not."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            _refuse_usage(error, ctx)
        except UserError as error:  # --help and --version are written here
            click.echo(f"castlewalls: {plain(str(error))}", err=True)
            ctx.exit(BAD_INPUT)


def _refuse_usage(error: click.UsageError, ctx: click.Context) -> NoReturn:
    """Click takes four lines to name an option, and says whose it is in the first."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    command = (error.ctx or ctx).command_path
    line = one_line(error.format_message()).rstrip(".")
    click.echo(f"castlewalls: {line} (see {command} --help)", err=True)
    ctx.exit(BAD_INPUT)


def _split(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [item.strip() for item in value.split(",") if item.strip()]


def _split_seeds(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> list[int] | None:
    try:
        return None if value is None else [int(item) for item in value.split(",")]
    except ValueError:
        raise UserError(
            f"--seeds must be whole numbers with commas between, got {value!r}"
        ) from None


def _gigabytes(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | str | None:
    if value is None or value == DECLARED:
        return value
    try:
        return float(value)
    except ValueError:
        raise UserError(
            f"--gpu-memory must be a number of GB, or {DECLARED}, got {value!r}"
        ) from None


def _options(*options: F) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


store_option = click.option(
    "--store", default="store", show_default=True, metavar="DIR", help="Where results are kept."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on standard output, for scripts."
)
plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE",
    help="A file with more plugins; repeatable.",
)
choosing = _options(
    click.option(
        "--seeds",
        callback=_split_seeds,
        metavar="0,1",
        help="Only these seeds, in place of the suite's.",
    ),
    click.option(
        "--attacks",
        callback=_split,
        metavar="A,B",
        help="Only these of the suite's attacks (controls stay).",
    ),
    click.option(
        "--defenses",
        callback=_split,
        metavar="C,D",
        help="Only these of the suite's defenses (controls stay).",
    ),
    click.option(
        "--detectors", callback=_split, metavar="E,F", help="Only these of the suite's detectors."
    ),
    click.option(
        "--samplers",
        callback=_split,
        metavar="G,H",
        help="Only these of the suite's samplers, or these in place of the testbed's own.",
    ),
    click.option(
        "--sealed",
        metavar="FILE",
        help="Draw seeds and triggers from this secret (castlewalls seal).",
    ),
    click.option(
        "--cells",
        callback=_split,
        metavar="CODE",
        help="Only these cells; a cell on the board has the command with its code.",
    ),
    click.option("--limit", type=int, metavar="N", help="Only the first N cells."),
    click.option(
        "--jobs",
        type=int,
        metavar="N",
        help="Stages at one time (default: one per core, or per GPU).",
    ),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True),
    click.option(
        "--gpus-per-stage",
        type=int,
        default=1,
        show_default=True,
        metavar="N",
        help="GPUs that train one model.",
    ),
    click.option(
        "--gpu-memory",
        callback=_gigabytes,
        metavar="GB",
        help="What a stage takes of a GPU's memory, or 'declared', what its testbed says it does: "
        "as many run on each as fit (default: one).",
    ),
    plugin_option,
    store_option,
    json_option,
)


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(bench.__version__, prog_name="castlewalls")
def cli() -> None:
    """A security benchmark for diffusion models: attacks meet defenses in one matrix, every cell
    measured the same way.

    \b
    castlewalls run digits          run the shipped suite, offline, on two cores
    castlewalls show clip_xt        what a plugin is, and its parameters
    castlewalls doctor              whether this machine is ready
    """


def _screen() -> Console:
    """Standard output; wide if it is not a terminal, so that a log has one row per line."""
    console = Console()
    return console if console.is_terminal else Console(width=220)


class _Output(io.TextIOWrapper):
    """A standard stream that never fails on encoding or on a closed pipe: it escapes what it cannot
    encode, and is silent once nobody reads.

    ``needed``: whether the output is a result; then a full disk is an error of one line.
    """

    def __init__(self, stream: io.TextIOWrapper, needed: bool) -> None:
        # A buffer of its own: PYTHONUNBUFFERED leaves none, and then failures go unnoticed.
        buffer = io.BufferedWriter(io.FileIO(stream.fileno(), "wb", closefd=False))
        super().__init__(buffer, encoding=stream.encoding, errors="backslashreplace")
        self.needed = needed

    def write(self, text: str) -> int:
        """As any stream's."""
        try:
            super().write(text)
        except OSError as error:  # a text longer than the buffer
            self._lost(error)
        self.flush()
        return len(text)

    def flush(self) -> None:
        """As any stream's; raises :class:`UserError` if a result is lost."""
        try:
            super().flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        with suppress(OSError):  # the rest of the buffer must not fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        if self.needed and not isinstance(error, BrokenPipeError):
            raise UserError(f"standard output cannot be written: {error.strerror}") from error


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _Output(sys.stdout, needed=True)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Output(sys.stderr, needed=False)
    cli(prog_name="castlewalls")


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
    signal.signal(signal.SIGTERM, _interrupt)  # sent by a cluster at its time limit; as Ctrl-C
    reporter = reporter_for(Console(stderr=True), quiet=as_json)
    live = _LiveBoard(Path(store), reporter.note) if report else None
    outcomes = _run(prepared, Store(store), reporter, live, cluster)
    board = _write_board([Path(store)], live.path) if live else None
    if as_json:
        _print_runs([one.plan.suite for one in prepared], outcomes, board)
    else:
        for one in prepared:
            summary(Path(store), one.plan.suite, _screen())
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
        _print_json(rows[0] if len(rows) == 1 else rows)
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
    _print_json(runs[0] if len(runs) == 1 else runs)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


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
        show_stages(prepared.plan, Path(store), _screen(), as_json, len(prepared.slots))
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
        _print_json({"runs": runs, "jobs": jobs})
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


@cli.command("list")
@click.argument(
    "what",
    type=click.Choice(["attacks", "defenses", "detectors", "samplers", "testbeds", "suites"]),
    required=False,
)
@plugin_option
@json_option
def list_command(what: str | None, plugins: Sequence[str], as_json: bool) -> None:
    """List attacks, defenses, detectors, samplers, testbeds or suites; all of them without an
    argument.

    \b
    castlewalls list
    castlewalls list defenses --plugin my_defense.py
    castlewalls list suites --json
    """
    from bench.catalogue import catalogue

    summaries = catalogue(plugins, what)
    if as_json:
        _print_json(summaries)
        return
    width = max((len(name) for entries in summaries.values() for name in entries), default=0)
    for group, entries in summaries.items():
        if what is None:
            click.echo(f"{group}:")
        for name, text in entries.items():
            click.echo(plain(f"  {name:<{width}} {text}"))


@cli.command()
@click.argument("name")
@plugin_option
@json_option
def show(name: str, plugins: Sequence[str], as_json: bool) -> None:
    """Show what NAME is (a plugin, sampler, testbed or suite): its declaration, parameters with
    defaults, and paper.

    \b
    castlewalls show baddiffusion
    castlewalls show digits-ddpm --json
    """
    from bench.catalogue import describe, print_description

    descriptions = describe(name, plugins)
    if as_json:
        _print_json(descriptions)
    else:
        print_description(descriptions, _screen())


@cli.group()
def new() -> None:
    """Write a plugin to start from, which passes `castlewalls check` as it is written: a folder
    that can be installed, or with --single-file one file for --plugin.

    \b
    castlewalls new defense clip_more --family sampler
    castlewalls new detector long_words --subject prompts --output ~/plugins
    castlewalls new attack white_square --family training --single-file
    """


_new_options = _options(
    click.argument("name"),
    click.option(
        "--output", default=".", metavar="DIR", help="Where the folder is made.  [default: here]"
    ),
    click.option("--single-file", is_flag=True, help="One file, NAME.py, and nothing else."),
)


@new.command("attack")
@_new_options
@click.option("--family", type=click.Choice([*SORTS["attack"]]), required=True)
def new_attack(name: str, family: str, output: str, single_file: bool) -> None:
    """Write an attack: on the training (its data or its loss), or on the weights of a trained
    model.

    \b
    castlewalls new attack white_square --family training
    castlewalls new attack last_layer --family editing --single-file
    """
    _write_new("attack", name, family, output, single_file)


@new.command("defense")
@_new_options
@click.option(
    "--family",
    type=click.Choice([*SORTS["defense"]]),
    required=True,
    help="What it replaces; an inversion recovers the backdoor and replaces nothing.",
)
def new_defense(name: str, family: str, output: str, single_file: bool) -> None:
    """Write a defense.

    \b
    castlewalls new defense clip_more --family sampler
    castlewalls new defense brief_tuning --family model --output ~/plugins
    """
    _write_new("defense", name, family, output, single_file)


@new.command("detector")
@_new_options
@click.option(
    "--subject",
    type=click.Choice([*SORTS["detector"]]),
    required=True,
    help="What it judges; samples: training rows and generated images.",
)
def new_detector(name: str, subject: str, output: str, single_file: bool) -> None:
    """Write a detector.

    \b
    castlewalls new detector far_away --subject samples
    castlewalls new detector long_words --subject prompts --single-file
    """
    _write_new("detector", name, subject, output, single_file)


def _write_new(singular: Any, name: str, sort: str, output: str, single_file: bool) -> None:
    from bench.cards import read_cards
    from bench.registry import GROUPS
    from bench.scaffold.new import check_name, write
    from bench.testbeds.data.images import expanded

    check_name(name, ())  # before the registry is built, which takes seconds
    registry = read_cards()
    taken = [one for group in GROUPS for one in registry.names(group)]
    written = write(singular, name, sort, expanded(output), single_file=single_file, taken=taken)
    for path in written:
        click.echo(str(path))
    click.echo(f"next: castlewalls check {written[0]}", err=True)


@cli.command()
@click.argument("name_or_file", metavar="NAME_OR_FILE")
@click.option("--params", metavar="JSON", help="Parameters in place of the defaults.")
@click.option(
    "--timeout",
    type=float,
    default=SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="The whole check must end in this time.",
)
@click.option(
    "--memory",
    type=int,
    default=MEMORY_MB,
    show_default=True,
    metavar="MB",
    help="What the plugin's process may take.",
)
@json_option
def check(
    name_or_file: str, params: str | None, timeout: float, memory: int, as_json: bool
) -> None:
    """Check a plugin in less than a minute: a name, a file, or a folder that `castlewalls new`
    wrote.

    Whether it keeps its contract (same seed, same result; rows by themselves; inputs as they were;
    nothing read that is not declared; nothing global moved), and what it does to a backdoor in a
    tiny model. It runs in a process of its own, with limits. Exits with 1 if a check failed.

    \b
    castlewalls check clip_more/
    castlewalls check my_defense.py --params '{"strength": 0.5}'
    castlewalls check strip --json
    """
    from bench.checking.process import check as run_check
    from bench.checking.reporting import parameters, show_plugin, show_report, show_verdict

    silent: dict[str, Any] = {}
    spoken = {"on_plugin": show_plugin, "on_verdict": show_verdict}
    report = run_check(
        name_or_file,
        parameters(params),
        seconds=timeout,
        memory_mb=memory,
        **(silent if as_json else spoken),
    )
    if as_json:
        _print_json(report.to_json())
    else:
        show_report(report)
    sys.exit(0 if report.passed else FAILED)


@cli.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@store_option
@click.option("--published", is_flag=True, help="The results that come with castlewalls.")
@click.option(
    "--output",
    metavar="FILE",
    help="The HTML file.  [default: report.html in the store, or here if there are other sources]",
)
@click.option(
    "--statement",
    "statements",
    multiple=True,
    metavar="FILE",
    help="What `verify --rerun` wrote, by somebody you trust: raises its bundle to level 3.",
)
@click.option("--key", metavar="FILE", help="The public key that must have signed the statements.")
@click.pass_context
def report(
    ctx: click.Context,
    sources: Sequence[str],
    store: str,
    published: bool,
    output: str | None,
    statements: Sequence[str],
    key: str | None,
) -> None:
    """Write the HTML board of everything in a store, and print its path; or of every SOURCE, a
    store, a folder of results or a bundle, on one board.

    Of two sources that hold one cell, the one named first is shown, after --published, and bundles
    last; if their numbers differ, the board says so. Other protocols stand apart. Bundles are
    verified first, without importing a plugin: the board shows the level of each, and none of what
    is refused.

    \b
    castlewalls report
    castlewalls report --published
    castlewalls report results/ /data/store --output board.html
    castlewalls report --published mine-digits --statement mine-digits.svr-0123456789ab.json
    """
    from bench.results import published as published_results
    from bench.results import read_results

    paths = [published_results()] if published else []
    if published and not any(read_results(paths[0])):
        raise UserError(
            "no results come with this castlewalls yet; `castlewalls run SUITE` makes your own"
        )
    paths += [Path(source) for source in sources]
    named = ctx.get_parameter_source("store") is not ParameterSource.DEFAULT
    if not paths or named:
        paths.append(Path(store))
    if paths == [Path(store)] and not paths[0].is_dir():
        raise UserError(f"there is no store at {store}")
    alone = len(paths) == 1 and (paths[0] / "runs").is_dir()
    default = paths[0] / "report.html" if alone else Path("report.html")
    levels = _levels(paths, statements, key)
    click.echo(str(_write_board(paths, default if output is None else Path(output), levels)))


def _levels(
    paths: Sequence[Path], statements: Sequence[str], key: str | None
) -> dict[Path, int | str]:
    from bench.results import SUBMISSIONS, bundles_in, published

    bundles = [bundle for path in paths for bundle in bundles_in(path)]
    if not bundles:
        if statements:
            raise UserError("--statement is about a bundle, and none of the sources has one")
        return {}
    from bench.bundle.levels import levels_of

    public = None if key is None else Path(key)
    accepted = published() / SUBMISSIONS
    return levels_of(bundles, [Path(one) for one in statements], public, accepted)


@cli.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--output", default="site", show_default=True, metavar="DIR", help="Where it goes.")
@click.option(
    "--docs",
    metavar="DIR",
    help="Markdown files, each a page.  [default: docs/ of this checkout]",
)
def site(sources: Sequence[str], output: str, docs: str | None) -> None:
    """Write a static site: the board of the results that come with castlewalls, or of every SOURCE,
    its methods, and a page for each Markdown file.

    Every page is one file that loads nothing. The same results give the same bytes.

    \b
    castlewalls site
    castlewalls site results/ bundle/ --output public
    """
    from bench.results import published
    from leaderboard.site import build_site

    default = published().parent / "docs"
    folder = Path(docs) if docs is not None else default if default.is_dir() else None
    if folder is not None and not folder.is_dir():
        raise UserError(f"--docs {docs}: there is no such folder")
    paths = [Path(source) for source in sources] or [published()]
    for path in build_site(_read(paths, _levels(paths, (), None)), folder, Path(output)):
        click.echo(str(path))


def _read(sources: Sequence[Path], levels: dict[Path, int | str] | None = None) -> list[Any]:
    """The runs of all sources; what is wrong with them goes to standard error."""
    from leaderboard.sources import read_sources

    runs = read_sources(sources, levels)
    for problem in (problem for run in runs for problem in run.problems):
        click.echo(f"castlewalls: warning: {problem}", err=True)
    return runs


def _write_board(
    sources: Sequence[Path], output: Path, levels: dict[Path, int | str] | None = None
) -> Path:
    from leaderboard.report import build

    try:
        return build(_read(sources, levels), output)
    except OSError as error:
        raise UserError(
            f"the board cannot be written: {error.strerror or error} ({error.filename})"
        ) from error


@cli.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option(
    "--within", metavar="SOURCE", help="Where A and B are entries of.  [default: published results]"
)
@click.option("--metrics", callback=_split, metavar="M,N", help="In place of those ranked by.")
@click.option("--across-protocols", is_flag=True, help="Compare what was measured otherwise, too.")
@json_option
def compare(
    first: str,
    second: str,
    within: str | None,
    metrics: list[str] | None,
    across_protocols: bool,
    as_json: bool,
) -> None:
    """Compare B with A: paired differences of every cell that both have, with their intervals.

    A and B are stores, folders of results, or a board's JSON; SOURCE::ENTRY is one defense or
    detector of it, and of two entries each attack is compared that both met. A line begins with +
    where B is better for the defender beyond doubt, with - where it is worse, else with =.

    \b
    castlewalls compare results/ store
    castlewalls compare old/report.json store/report.json --json
    castlewalls compare clip_x0 clip_xt --metrics robust_asr,fid
    castlewalls compare results/::clip_x0 store::my_defense
    """
    from bench.results import published
    from leaderboard.compare import compare as compare_sides
    from leaderboard.compare import lines, read_side
    from leaderboard.sources import read_sources

    entries = [one for one in (first, second) if "::" not in one and not Path(one).exists()]
    # What is odd about the published results is no news to who compares two of their entries.
    read = read_sources if within is None else _read
    runs = read([published() if within is None else Path(within)]) if entries else []
    comparison = compare_sides(
        read_side(first, runs), read_side(second, runs), metrics or (), across_protocols
    )
    for line in comparison.problems:
        click.echo(f"castlewalls: {plain(one_line(line, 600))}", err=True)
    if as_json:
        _print_json(comparison.to_json())
    else:
        for line in lines(comparison):
            click.echo(plain(line))


@cli.command()
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@click.option(
    "--output",
    metavar="DIR",
    help="Where it goes.  [default: results, or the format's name]",
)
@click.option("--partial", is_flag=True, help="Also if cells are missing or failed.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["results", "every-eval-ever", "hf", "latex", "markdown", "bibtex"]),
    default="results",
    show_default=True,
    help="What is written; all but the first also from a folder of results (--store results).",
)
@click.option("--dataset", default="", metavar="OWNER/NAME", help="Of hf: the hub's data set.")
@store_option
@json_option
def export(
    suites: Sequence[str],
    output: str | None,
    partial: bool,
    form: str,
    dataset: str,
    store: str,
    as_json: bool,
) -> None:
    """Write the results of SUITE, text of up to a megabyte to commit, send or show with
    `report`; without SUITE, of all complete runs in the store. Or, with --format, the board's
    numbers for others: records of Every Eval Ever, Hugging Face's evaluation results, tables for a
    paper, BibTeX.

    The same store gives the same bytes. Pictures but a few stay in the store.

    \b
    castlewalls export digits
    castlewalls export digits --store /data/store --output results
    castlewalls export --format latex --store results --output tables
    castlewalls export --format hf --dataset me/castlewalls --store results
    """
    if form != "results":
        _export_to(form, suites, Path(store), Path(output or form), dataset, as_json)
        return
    from bench.export import export as write_results
    from bench.export import finished_suites

    chosen, left = (
        (list(dict.fromkeys(suites)), {}) if suites else finished_suites(Path(store), partial)
    )
    done = []
    for suite in chosen:
        one = write_results(Path(store), suite, Path(output or "results"), partial=partial)
        done.append(one)
        if not as_json:
            under = ", ".join(f"{testbed} {protocol}" for testbed, protocol in one.protocols)
            before = f"; in place of {one.replaced}" if one.replaced else ""
            click.echo(
                f"{one.folder}: {one.records} records, {one.size / 1000:.0f} kB, protocol of "
                f"{under or 'none'}{before}"
            )
    for suite, why in left.items():
        click.echo(f"castlewalls: {suite} is left out: {why}", err=True)
    if as_json:
        _print_json([{**vars(one), "folder": str(one.folder)} for one in done])


def _export_to(
    form: str, suites: Sequence[str], source: Path, output: Path, dataset: str, as_json: bool
) -> None:
    from leaderboard.exchange import write_format

    written = write_format(form, _read([source]), suites, output, dataset)
    if as_json:
        _print_json([str(path) for path in written])
    else:
        click.echo(f"{output}: {len(written)} file{'s' if len(written) != 1 else ''}")


@cli.command()
@click.argument("name")
@click.option("--suite", required=True, metavar="SUITE", help="A shipped suite's name, or a file.")
@store_option
@plugin_option
@click.option(
    "--output", metavar="DIR", help="The bundle's folder, which must be new.  [default: NAME-SUITE]"
)
@click.option(
    "--author",
    "authors",
    multiple=True,
    metavar="NAME",
    help="Name, Name <mail> or Name (ORCID); repeatable.",
)
@click.option("--licence", default="", metavar="SPDX", help="Of the bundle, such as Apache-2.0.")
@click.option(
    "--paper", default="", metavar="TEXT", help="An address, a DOI or a title [default: the card's]"
)
@click.option(
    "--allow-incomplete", is_flag=True, help="Also if cells failed or are missing, or card texts."
)
@click.option("--allow-dirty", is_flag=True, help="Also if no git commit holds the code that ran.")
@click.option("--sign", metavar="FILE", help="Sign it with this private key (Ed25519, PEM).")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and stop.")
@json_option
def submit(
    name: str,
    suite: str,
    store: str,
    plugins: Sequence[str],
    output: str | None,
    allow_incomplete: bool,
    allow_dirty: bool,
    sign: str | None,
    dry_run: bool,
    as_json: bool,
    **description: Any,
) -> None:
    """Write the bundle of NAME, a defense, an inversion or a detector: its column of SUITE out of a
    store, with the controls, the plugin's source and witnesses of the numbers.

    Nothing is run. The same store gives the same bytes.

    \b
    castlewalls submit my_defense --suite digits --plugin my_defense.py --author "Ada L." \\
        --licence Apache-2.0
    """
    from bench.bundle.crate import Description
    from bench.bundle.submit import submit as write_bundle

    made = write_bundle(
        name,
        suite,
        Path(store),
        plugins=plugins,
        output=None if output is None else Path(output),
        description=Description(**description),
        incomplete=allow_incomplete,
        dirty=allow_dirty,
        dry_run=dry_run,
        sign=None if sign is None else Path(sign),
    )
    if as_json:
        _print_json({**vars(made), "folder": str(made.folder)})
        return
    cells = ", ".join(f"{count} {status}" for status, count in made.cells.items() if count)
    verb = "would be" if dry_run else "is"
    lacks = f", {made.missing} missing" if made.missing else ""
    click.echo(f"{made.folder} {verb} {made.size / 1e6:.1f} MB: {cells} cells{lacks}")
    if not dry_run:
        click.echo(f"manifest {made.sha256}")
        if made.signature:
            click.echo(f"signature {made.signature}")


@cli.command()
@click.argument("bundle")
@click.option("--suite", default="", metavar="FILE", help="Of a suite that is not shipped.")
@click.option(
    "--published",
    metavar="DIR",
    help="Results whose controls it must agree with [default: those of castlewalls]",
)
@click.option(
    "--rerun",
    type=click.IntRange(min=1),
    metavar="K",
    help="Make K cells again, drawn by lot, and compare them. Needs --trust.",
)
@click.option("--trust", is_flag=True, help="Run the code in the bundle, which you have read.")
@click.option(
    "--nonce", metavar="TEXT", help="What the lot is drawn with [default: drawn at random]"
)
@click.option(
    "--store",
    metavar="DIR",
    help="Where the cells are made, to go on after an interruption [default: a folder for now]",
)
@click.option("--jobs", type=int, metavar="N", help="Stages at one time, as of `run`.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--key", metavar="FILE", help="The public key of who must have signed the bundle.")
@click.option("--sign", metavar="FILE", help="Sign the result of --rerun with this private key.")
@json_option
def verify(
    bundle: str,
    suite: str,
    published: str | None,
    key: str | None,
    sign: str | None,
    as_json: bool,
    **again: Any,
) -> None:
    """Check BUNDLE, which `submit` wrote: whether it is whole (level 1), complete and consistent
    with itself and with the published controls (level 2), and with --rerun whether cells drawn by
    lot come out the same (level 3).

    Below level 3 no model is run and the plugin is never imported. --rerun writes what it gave
    beside the bundle. Exits with 1 if a check refuses the bundle.

    \b
    castlewalls verify my_defense-digits
    castlewalls verify my_defense-digits --json
    castlewalls verify my_defense-digits --rerun 3 --trust
    """
    from bench.bundle import statement
    from bench.bundle import verify as checks

    if sign is not None and again["rerun"] is None:
        raise UserError("--sign signs the result of --rerun K, which is missing")
    private = None if sign is None else Path(sign)
    if private is not None:
        statement.signer_of(private)  # before hours of a rerun
    if published is not None and not Path(published).is_dir():
        raise UserError(f"--published {published}: must be a folder of results, and is not there")
    with tempfile.TemporaryDirectory(prefix="castlewalls-") as work:
        result = checks.verify(
            Path(bundle),
            suite,
            None if published is None else Path(published),
            (lambda verdict: None) if as_json else _show_verdict,
            _rerun(Path(work), as_json, **again),
            None if key is None else Path(key),
        )
    written = result.rerun and checks.write_result(Path(bundle), result, again["device"], private)
    if as_json:
        _print_json(result.to_json() | ({"statement": str(written)} if written else {}))
    else:
        click.echo(result.summary())
        if written:
            click.echo(str(written))
    sys.exit(0 if result.passed else FAILED)


def _rerun(
    work: Path,
    quiet: bool,
    rerun: int | None,
    trust: bool,
    nonce: str | None,
    store: str | None,
    jobs: int | None,
    device: str,
) -> Any:
    """What of a bundle is to be made again, in ``work`` unless a store is named."""
    from bench.bundle.verify import Rerun
    from bench.engine.progress import reporter_for

    if rerun is None:
        return None
    if not trust:
        raise UserError(
            "--rerun runs the code in the bundle; read its data/plugin, then add --trust"
        )
    if nonce is not None and not (nonce.isascii() and nonce.isprintable() and 0 < len(nonce) < 200):
        raise UserError(f"--nonce must be 1 to 199 plain letters, got {nonce[:40]!r}")
    signal.signal(signal.SIGTERM, _interrupt)
    return Rerun(
        count=rerun,
        nonce=secrets.token_hex(16) if nonce is None else nonce,
        store=work / "store" if store is None else Path(store),
        work=work / "bundle",
        reporter=reporter_for(Console(stderr=True), quiet),
        options={"jobs": jobs, "device": device},
    )


def _show_verdict(verdict: Any) -> None:
    for line in verdict.printed():
        click.echo(plain(line))


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="TESTBED...")
@click.option("--params", metavar="JSON", help="Parameters, such as where its files go.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, and stop.")
@json_option
def fetch(names: Sequence[str], params: str | None, dry_run: bool, as_json: bool) -> None:
    """Download what a paper's testbed needs: data sets, weights at pinned commits, Inception's
    features. Each file is checked by its SHA-256; a pickle is converted by a process of its own
    that runs nothing of it. What is here already is left alone.

    Exits with 1 if something is still missing: what only a person can fetch, or what failed.

    \b
    castlewalls fetch cifar10-ddpm --dry-run
    castlewalls fetch cifar10-ddpm
    castlewalls fetch celebahq-ddpm --params '{"data": "/data/celebahq"}'
    """
    from bench import testbeds
    from bench.checking.reporting import parameters
    from bench.importing.fetching import Fetched, fetch

    def tell(result: Fetched) -> None:
        step = result.step
        size = f", {step.size / 1e6:,.0f} MB" if step.size else ""
        terms = f" ({step.terms})" if step.terms else ""
        click.echo(f"{result.state:<9} {step.what}{size} -> {step.target}{terms}", err=as_json)
        if result.detail:
            click.echo(f"          {result.detail}", err=as_json)

    beds = [testbeds.build(name, parameters(params)) for name in names]
    results = [one for bed in beds for one in fetch(bed, dry_run=dry_run, tell=tell)]
    if as_json:
        _print_json([one.to_json() for one in results])
    elif not results:
        click.echo(f"{', '.join(names)}: nothing has to be fetched")
    left = [one for one in results if one.state in ("to fetch", "by hand", "failed")]
    sys.exit(FAILED if left else 0)


@cli.command("import")
@click.argument("model")
@click.option("--as", "what", type=click.Choice(["attack"]), required=True, help="What it becomes.")
@click.option("--testbed", default="", metavar="NAME", help="Whose networks its weights are of.")
@click.option("--params", metavar="JSON", help="Parameters of the testbed.")
@click.option("--card", "card_file", metavar="FILE", help="What is known of it (docs/import.md).")
@click.option("--name", metavar="NAME", help="Of the attack, in place of the card's.")
@click.option("--trigger-image", metavar="FILE", help="The trigger's picture.")
@click.option("--target-image", metavar="FILE", help="The target's picture.")
@click.option("--entry", default="", metavar="NAME", help="Which of the weights in a pickle.")
@click.option("--revision", metavar="COMMIT", help="Of a repository on the hub.")
@click.option(
    "--output", default=".", metavar="DIR", help="Where the folder is made.  [default: here]"
)
@json_option
def import_command(model: str, what: str, as_json: bool, **options: Any) -> None:
    """Make an attack of MODEL, weights with a backdoor that others have published: a folder or a
    file (diffusers, one safetensors, LoRA, or a pickle, which a process of its own opens without
    running it), or a repository of the hub.

    What its trigger and target are is read from a card, or from the name of a published model that
    is known. Writes a plugin, and a suite that puts it on the board beside the controls.

    \b
    castlewalls import backdoored/ --as attack --testbed digits-ddpm --card backdoored.yaml
    castlewalls import newsyctw/res_DDPM-CIFAR10-32_CIFAR10_ep50_c1.0_p0.9_SM_BOX_MED-BOX_new-set-1
        --as attack --revision COMMIT
    castlewalls import eviledit_trigger-beautifuldog_target-cat.pt --as attack
    """
    from bench.importing.command import import_attack

    made = import_attack(model, **options)
    plugin, suite = made.files[0], made.files[1]
    if as_json:
        _print_json(
            {
                "plugin": str(plugin),
                "suite": str(suite),
                "layout": made.weights.layout,
                "networks": list(made.weights.parts),
                "left_out": made.weights.left_out,
            }
        )
        return
    for path in made.files:
        click.echo(str(path))
    click.echo(f"read {made.weights.layout}: {', '.join(made.weights.parts)}", err=True)
    for name in made.weights.left_out:
        click.echo(f"left out, since it is no tensor: {name}", err=True)
    click.echo(f"next: castlewalls run {suite} --plugin {plugin}", err=True)


@cli.command()
@click.argument("testbed")
@click.option("--output", required=True, metavar="DIR", help="Where the weights are written.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="[default: cpu, and for an evaluation classifier a GPU if there is one]",
)
def pretrain(testbed: str, output: str, device: str | None) -> None:
    """Train what TESTBED needs and nobody else publishes: shipped weights anew, or a paper
    testbed's evaluation classifier.

    \b
    castlewalls pretrain digits-ddpm --output bench/testbeds/assets
    castlewalls pretrain fashion-cfg --output bench/testbeds/assets --device cuda
    """
    from bench import testbeds
    from bench.diffusion.precision import exact_float32
    from bench.engine.progress import step_progress
    from bench.engine.slots import make_slots

    if device == "cuda":
        make_slots(device)  # or one line that says why not
        exact_float32()
    with step_progress(Console(stderr=True)) as progress:
        reached = testbeds.pretrain(testbed, Path(output), progress, device)
    for name, value in reached.items():
        click.echo(f"{name} {value:.4g}")
    click.echo(output)


@cli.command()
@click.option(
    "--output",
    required=True,
    metavar="FILE",
    help="Where the secret is written; it must not exist.",
)
def seal(output: str) -> None:
    """Make a secret for `run --sealed`, and print the hash to publish before anybody submits a
    defense.

    Publish the secret itself with the results: then everybody can check the hash and repeat the
    run.

    \b
    castlewalls seal --output secret.txt
    castlewalls run poison --sealed secret.txt --defenses my_defense
    """
    from bench.sealed import commitment, new_secret

    secret, ours = new_secret(), False
    try:
        with open(output, "x", encoding="utf-8") as file:
            ours = True
            os.chmod(output, 0o600)
            file.write(secret + "\n")
    except OSError as error:
        if ours:  # an empty file would be in the way of the next secret
            Path(output).unlink(missing_ok=True)
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from error
    click.echo(commitment(secret))


@cli.command()
@store_option
@json_option
def doctor(store: str, as_json: bool) -> None:
    """Check this machine: packages, cores, memory, disk, GPUs, shipped files, and what the
    paper-scale testbeds still lack.

    Exits with 1 if something that every run needs is not right.

    \b
    castlewalls doctor
    castlewalls doctor --store /data/store --json
    """
    from bench.doctor import examine

    checks = examine(Path(store))
    if as_json:
        _print_json([vars(check) for check in checks])
    else:
        for check in checks:
            click.echo(f"{check.status:<8} {check.name:<22} {check.detail}")
    sys.exit(FAILED if any(check.status == "problem" for check in checks) else 0)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, allow_nan=False))
