"""What a job of a cluster runs: ``python -m bench.engine.node SPEC TASK`` makes the stages that the
file ``<TASK>.json`` beside SPEC lists, with the local executor, in the store that all machines
share, and writes line by line what it made into ``<TASK>.jsonl``, for :mod:`bench.engine.jobs`.
With ``--attached`` it ends when its standard input does, which is when whoever began it is gone.

SPEC is JSON that the run wrote; nothing here is planned anew. The code on this machine must be the
run's, since the stages' keys are made of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bench.engine.executor import Executor
from bench.engine.fingerprint import ROOT, planned_code
from bench.engine.graph import Stage
from bench.engine.isolation import Limits
from bench.engine.progress import Reporter
from bench.engine.provenance import provenance
from bench.engine.scheduler import Patience
from bench.engine.slots import make_slots
from bench.engine.store import Store
from bench.engine.worker import load_stages
from bench.errors import UserError
from bench.plugin_file import Source

#: Of a stage, what a job need not know: ``code`` is in the fingerprint, and it has its machine.
_LEFT_OUT = ("code", "resources")
#: Before SPEC and TASK.
COMMAND = (sys.executable, "-m", "bench.engine.node")


def variables(paths: Sequence[str]) -> dict[str, str]:
    """What a process that runs :data:`COMMAND` needs beside the environment of its own machine."""
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def stage_values(stage: Stage) -> dict[str, Any]:
    """A stage as JSON values, for :func:`stage_of`."""
    values = {
        one.name: getattr(stage, one.name) for one in fields(stage) if one.name not in _LEFT_OUT
    }
    return values | {
        "plugins": [asdict(source) for source in stage.plugins],
        "charged": sorted(stage.charged),
    }


def stage_of(values: Mapping[str, Any]) -> Stage:
    """The stage of :func:`stage_values`; its key is the same."""
    return Stage(
        **{
            **values,
            "alike": tuple(values["alike"]),
            "charged": frozenset(values["charged"]),
            "plugins": tuple(Source(**source) for source in values["plugins"]),
            "locations": tuple(values["locations"]),
        }
    )


class _Lines(Reporter):
    """Appends each event to a file, as a line of JSON."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _write(self, **event: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def started(self, key: str, stage: Stage, slot: str) -> None:
        self._write(started=key)

    def done(self, key: str, stage: Stage, seconds: float) -> None:
        self._write(done=key, seconds=seconds)

    def failed(self, key: str, stage: Stage, reason: str, again: bool) -> None:
        self._write(failed=key, reason=reason, again=again)

    def note(self, text: str) -> None:
        self._write(note=text)

    def gave_up(self, key: str, stage: str, reason: str, trace: str) -> None:
        """A stage will not be there; ``stage``: the one that failed first."""
        self._write(gave_up=key, stage=stage, reason=reason, trace=trace)


def make(spec: Mapping[str, Any], keys: Sequence[str], events: Path) -> bool:
    """Makes stages of ``spec``; whether all of them are there. Raises :class:`UserError` if the
    code here is not the run's.
    """
    if (here := planned_code()[0]) != spec["code"]:
        raise UserError(
            f"castlewalls here ({ROOT}, {here[:8]}) is not the one that planned this run "
            f"({spec['code'][:8]}): install the same on all machines"
        )
    stages = {key: stage_of(values) for key, values in spec["stages"].items()}
    assert all(key == stage.key for key, stage in stages.items())
    reporter = _Lines(events)
    executor = Executor(
        Store(Path(spec["store"])),
        make_slots(spec["device"], spec["jobs"]),
        reporter,
        stages=spec["source"],
        kinds=dict(load_stages(spec["source"])),
        provenance={**spec["provenance"], **provenance()},  # of the machine that did it
        limits=None if spec["limits"] is None else Limits(**spec["limits"]),
    )
    patience = {key: Patience(**one) for key, one in spec["patience"].items()}
    failures = executor.run(stages, keys, patience=patience)
    for key, failure in failures.items():
        reporter.gave_up(key, failure.stage, failure.reason, failure.trace)
    return not failures


def _end(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _end_with_input() -> None:
    while sys.stdin.buffer.read(1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """0: all made; 1: something was not; 2: nothing could be begun."""
    spec, task = Path(arguments[0]), arguments[1]
    events = spec.with_name(f"{task}.jsonl")
    # At its time limit and before it makes room for another job SLURM sends one of these; what a
    # stage has saved is kept.
    for one in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(one, _end)
    if "--attached" in arguments:
        threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        planned = json.loads(spec.read_text(encoding="utf-8"))
        keys = json.loads(spec.with_name(f"{task}.json").read_text(encoding="utf-8"))
        return 0 if make(planned, keys, events) else 1
    except UserError as error:
        _Lines(events).note(str(error))
        print(f"castlewalls: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _Lines(events).note(f"stopped by a signal on {os.uname().nodename}")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
