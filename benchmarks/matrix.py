"""A matrix of 4 x 6 cells, by ``castlewalls run`` and as scripts make it: a process for each cell
and metric, one after another.

Rows: BadDiffusion with four triggers and targets. Columns: no defense, clipping of x_0 and of x_t,
under DDPM and under DDIM. A cell has five numbers: FID of clean samples, MSE and attack success
rate by either call. The scripts' way trains a model once an attack and saves it, and a cell's
samples, once drawn, are read again by its next metric (:mod:`benchmarks.transcriptions.cell`), so
it shares what such scripts share. It runs on all cores, ours in as many workers of one thread.

Of the scripts' processes those of one attack's training and first two cells are timed and
multiplied (``--quick``: one cell): all attacks and all cells are the same work. Ours is the whole
command, with everything else that it makes: the honest model and its cells, intervals, further
metrics; no board is written. The numbers of the cells that both made are compared.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from attacks.baddiffusion import BadDiffusion
from bench.diffusion.noise import initial_noise, sample_streams, stream_seed
from bench.engine.slots import available_cores
from bench.errors import UserError
from bench.record import Record, read_runs
from bench.runner import prepare
from bench.stages.building import poisoned_set
from bench.stages.queries import Users
from bench.testbeds import build
from bench.testbeds.testbed import Testbed
from benchmarks.timing import Moment, Row, Settings
from benchmarks.transcriptions import cell

GOAL = 10.0
ATTACKS = (("grey_box", "hat"), ("grey_box", "cat"), ("stop_sign", "shoe"), ("eyeglasses", "cat"))
SAMPLERS, CLIPS = ("ddpm", "ddim"), ("none", "x0", "xt")
METRICS = (
    ("fid", "clean"),
    ("mse", "noise"),
    ("asr", "noise"),
    ("mse", "image"),
    ("asr", "image"),
)
CELLS = len(ATTACKS) * len(SAMPLERS) * len(CLIPS)
SEED, RATE = 0, 0.1
#: What a stage of it is said to take of a GPU's memory.
GPU_GIGABYTES = 4
#: How far the numbers of one cell may be apart: FID, as a share of it, and the others.
TOLERANCES = {"fid": 0.01, "mse": 1e-3, "asr": 0.04}


@dataclass(frozen=True)
class Scale:
    """How much is trained and drawn, and how many cells of one attack the scripts' way makes."""

    training_steps: int = 20
    num_inference_steps: int = 10
    clean_samples: int = 64
    triggered_samples: int = 64
    measured: int = 2


FULL = Scale()
QUICK = Scale(2, 2, 64, 8, 1)


def suite(scale: Scale) -> dict[str, Any]:
    """As a YAML file would have it."""
    counts = ("num_inference_steps", "clean_samples", "triggered_samples")
    shared = {"training_steps": scale.training_steps}
    return {
        "name": "peers",
        "description": "Four attacks in six columns.",
        "testbeds": [{"name": "digits-ddpm", "params": {n: getattr(scale, n) for n in counts}}],
        "samplers": list(SAMPLERS),
        "attacks": [
            *(
                {"name": "baddiffusion", "params": {**attack_params(*pair), **shared}}
                for pair in ATTACKS
            ),
            {"name": "none", "params": shared},
        ],
        "defenses": ["clip_x0", "clip_xt"],
        "seeds": [SEED],
    }


def attack_params(trigger: str, target: str) -> dict[str, Any]:
    """Of one row."""
    return {
        "trigger": trigger,
        "target": target,
        "poison_rate": RATE,
        "poisoned_image": "trigger_only",
    }


@dataclass
class Spent:
    """Seconds of processes, by what they are: (wall, CPU) each."""

    by_kind: dict[str, list[Moment]] = field(default_factory=dict)
    device: str = "cpu"

    def run(self, kind: str, command: list[str], threads: int) -> str:
        """Times ``python COMMAND``; what it printed. Raises ``UserError`` if it fails."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        # Threads that wait for work would otherwise count as work.
        environment = {**os.environ, **dict.fromkeys(names, str(threads))}
        environment["OMP_WAIT_POLICY"] = "passive"
        if self.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        before, cpu = Moment.now(), _children()
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True
        )
        spent = Moment((Moment.now() - before).wall, _children() - cpu)
        if done.returncode:
            raise UserError(
                f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr.strip()}"
            )
        self.by_kind.setdefault(kind, []).append(spent)
        return done.stdout

    def of(self, kind: str, times: float = 1.0) -> Moment:
        """All of a kind, ``times`` as often."""
        taken = self.by_kind[kind]
        return Moment(times * sum(one.wall for one in taken), times * sum(one.cpu for one in taken))


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def matrix(settings: Settings) -> list[Row]:
    """Seconds of both, their ratio, and what each made. Raises ``UserError`` if numbers differ."""
    scale = QUICK if settings.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        spent, store = Spent(device=settings.device), Path(folder) / "store"
        file = Path(folder) / "peers.yaml"
        file.write_text(yaml.safe_dump(suite(scale)))
        command = ["-m", "bench", "run", str(file), "--store", str(store), "--no-report", "--json"]
        if settings.device == "cuda":
            command += ["--device", "cuda", "--gpu-memory", f"{GPU_GIGABYTES}"]
        spent.run("ours", command, 1)
        (made,) = read_runs(store)
        numbers = scripts(Path(folder), scale, spent)
        records = [record for _, record in made.records]
        apart = [
            _difference(records, where, metric, call, value)
            for (where, metric, call), value in numbers.items()
            if settings.device == "cpu"  # a GPU's noise is not the script's
        ]
        stages = [stage.name for stage in prepare(str(file), device="cpu").plan.stages.values()]
    return _rows(spent, stages, scale, max(apart, default=None))


def scripts(folder: Path, scale: Scale, spent: Spent) -> dict[tuple[str, str, str], float]:
    """Trains the first attack's model and makes its first cells, a process each; the numbers by
    (cell, metric, call).
    """
    testbed = build("digits-ddpm", suite(scale)["testbeds"][0]["params"])
    attack = BadDiffusion(**attack_params(*ATTACKS[0]))
    here = folder / "scripts"
    write_inputs(here, testbed, attack, scale)
    program, threads = ["-m", "benchmarks.transcriptions.cell"], available_cores()
    spent.run("training", [*program, "train", str(here)], threads)
    numbers = {}
    columns = [(sampler, clip) for sampler in SAMPLERS for clip in CLIPS]
    for sampler, clip in columns[: scale.measured]:
        for metric, call in METRICS:
            where = f"{sampler}/{clip}/{call}"
            printed = spent.run("cells", [*program, metric, str(here), where], threads)
            numbers[f"{sampler}/{clip}", metric, call] = float(json.loads(printed))
    return numbers


def write_inputs(here: Path, testbed: Testbed, attack: BadDiffusion, scale: Scale) -> None:
    """What the scripts read: the base model's folder, and one npz."""
    here.mkdir()
    generator = testbed.base_generator()
    generator.save(here / cell.BASE, "")
    poisoned = poisoned_set(testbed, attack, SEED)
    rows = range(scale.triggered_samples)
    noise = initial_noise(sample_streams(SEED, rows), generator.noise_shape)
    query = Users(testbed, SEED).query(noise, rows)
    training = testbed.training_settings(attack.scheme)
    added = {call: attack.invoke(query, call).noise - noise for call in ("noise", "image")}
    count = max(scale.clean_samples, scale.triggered_samples)
    arrays: dict[str, Any] = dict(
        images=poisoned.images.numpy(),
        poisoned=poisoned.poisoned.numpy(),
        held_out=testbed.data.held_out_images().numpy(),
        trigger=attack.trigger_image(generator.image_shape).numpy(),
        target=attack.target_image(generator.image_shape).numpy(),
        sample_seeds=np.array([stream_seed(SEED, "sample", index) for index in range(count)]),
        training_seed=np.array(stream_seed(SEED, "training", 0)),
        fold=np.array(generator.fold),
        steps=np.array(scale.training_steps),
        batch_size=np.array(training.batch_size),
        learning_rate=np.array(training.learning_rate),
        num_inference_steps=np.array(scale.num_inference_steps),
        clean_samples=np.array(scale.clean_samples),
        triggered_samples=np.array(scale.triggered_samples),
        **{call: value.numpy() for call, value in added.items()},
    )
    np.savez(here / cell.INPUTS, **arrays)


def _difference(records: list[Record], where: str, metric: str, call: str, value: float) -> float:
    """How far a number is from ours, as a share of the tolerance; ``UserError`` beyond it."""
    sampler, clip = where.split("/")
    name = "none" if clip == "none" else f"clip_{clip}"
    trigger, target = ATTACKS[0]
    chosen = [
        record
        for record in records
        if record.attack.name == "baddiffusion"
        and (record.attack.params["trigger"], record.attack.params["target"]) == (trigger, target)
        and record.defense.name == name
        and (record.sampler.name if record.sampler else "ddpm") == sampler
    ]
    if len(chosen) != 1 or chosen[0].status != "ok":
        raise UserError(f"{where}: one finished cell was expected, got {len(chosen)}")
    key = "fid[digits-cnn]" if metric == "fid" else f"{metric}[{call}]"
    ours = chosen[0].metrics[key].value
    assert ours is not None
    allowed = TOLERANCES[metric] * (max(1.0, abs(ours)) if metric == "fid" else 1.0)
    if not abs(value - ours) <= allowed:
        raise UserError(
            f"{where}: the scripts' {key} must be ours up to {allowed:.3g}, got {value:.6g} and "
            f"{ours:.6g}"
        )
    return abs(value - ours) / allowed


def _rows(spent: Spent, stages: list[str], scale: Scale, apart: float | None) -> list[Row]:
    """The quantities that are shown."""
    columns = len(SAMPLERS) * len(CLIPS)
    ours = spent.of("ours")
    training = spent.of("training", len(ATTACKS))
    cells = spent.of("cells", len(ATTACKS) * columns / scale.measured)
    theirs = Moment(training.wall + cells.wall, training.cpu + cells.cpu)
    processes = len(spent.by_kind["training"]) + len(spent.by_kind["cells"])
    whole = len(ATTACKS) * (1 + columns * len(METRICS))
    calls = {call for _, call in METRICS}

    def row(quantity: str, unit: str, value: float, goal: float | None = None) -> Row:
        return Row(quantity=quantity, unit=unit, values=(value,), goal=goal)

    return [
        row(f"matrix of {CELLS} cells: castlewalls run", "s", ours.wall),
        row(f"scripts, {whole} processes ({processes} timed)", "s", theirs.wall),
        row("scripts / castlewalls run", "ratio, wall", theirs.wall / ours.wall, GOAL),
        row("scripts / castlewalls run", "ratio, CPU", theirs.cpu / ours.cpu, GOAL),
        row("a script's process", "s of CPU", cells.cpu / (CELLS * len(METRICS))),
        row("trainings, scripts", "", len(ATTACKS)),
        row("trainings, castlewalls run (one honest)", "", stages.count("train")),
        row("sets of samples, scripts", "", CELLS * len(calls)),
        row("sets of samples, castlewalls run (with controls)", "", stages.count("sample")),
    ] + [
        Row(
            quantity="numbers' largest difference / tolerance",
            unit="",
            values=(value,),
            goal=1.0,
            at_least=False,
        )
        for value in ([] if apart is None else [apart])
    ]
