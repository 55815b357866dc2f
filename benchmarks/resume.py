"""What it costs to run a finished suite again: planning, looking into the store, and writing the
board.

Two processes in turn: ``python -c "import torch, diffusers"``, and ``python -m bench run`` over a
store in which the suite is finished. The difference is ours. diffusers imports its networks only
when they are named, so their import counts as ours too.

Without a suite of your own, a tiny one is run first, in a temporary folder; its rerun is the fixed
part of the cost, and the figure for a whole board comes from that board's own store.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bench.errors import UserError
from benchmarks.timing import Row, Settings, interleaved

GOAL_SECONDS = 5.0
IMPORTS = ("-c", "import torch, diffusers")
#: Settings so small that its first run is short; what is planned, and how, is as in any other
#: suite.
TINY: dict[str, Any] = {
    "name": "tiny",
    "description": "A board in a minute, to be run twice.",
    "testbeds": [
        {
            "name": "digits-ddpm",
            "params": {"num_inference_steps": 2, "clean_samples": 64, "triggered_samples": 8},
        },
    ],
    # the control is named too, since left to the planner it trains for the testbed's full budget
    "attacks": [
        {"name": "baddiffusion", "params": {"poisoned_image": "trigger_only", "training_steps": 1}},
        {"name": "none", "params": {"training_steps": 1}},
    ],
    "defenses": ["clip_xt"],
    "seeds": [0],
}


def resume(settings: Settings, suite: str | None = None, store: Path | None = None) -> list[Row]:
    """Seconds of both processes, and their differences. ``suite`` must be finished in ``store``;
    without both, the tiny one.

    Raises ``UserError`` if the suite is not finished, since then it is not a rerun that is
    measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        if suite is None or store is None:
            path, store = Path(folder) / "tiny.yaml", Path(folder) / "store"
            path.write_text(yaml.safe_dump(TINY))
            suite = str(path)
            _run(suite, store, settings.threads)
        return _measured(suite, store, settings)


def _measured(suite: str, store: Path, settings: Settings) -> list[Row]:
    def imports() -> float:
        return _timed([sys.executable, *IMPORTS], settings.threads)[0]

    def rerun() -> float:
        seconds, output = _run(suite, store, settings.threads)
        count = json.loads(output)["stages_made"]
        if count:
            raise UserError(
                f"the suite {suite} was not finished in {store}: {count} stages had to be made"
            )
        return seconds

    imports(), rerun()  # the files both read are in the page cache from here on
    seconds = interleaved({"imports": imports, "rerun": rerun}, settings.repetitions)
    own = tuple(
        whole - start for whole, start in zip(seconds["rerun"], seconds["imports"], strict=True)
    )
    name = Path(suite).stem
    return [
        Row(quantity="importing torch and diffusers", unit="s", values=tuple(seconds["imports"])),
        Row(quantity=f"rerun of suite {name}", unit="s", values=tuple(seconds["rerun"])),
        Row(
            quantity="rerun beyond the imports",
            unit="s",
            values=own,
            goal=GOAL_SECONDS,
            at_least=False,
        ),
    ]


def _run(suite: str, store: Path, threads: int) -> tuple[float, str]:
    return _timed(
        [sys.executable, "-m", "bench", "run", suite, "--store", str(store), "--json"], threads
    )


def _timed(command: list[str], threads: int) -> tuple[float, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise UserError(
            f"{' '.join(command)} ended with {done.returncode}: "
            f"{done.stderr.strip() or done.stdout.strip()}"
        )
    return seconds, done.stdout
