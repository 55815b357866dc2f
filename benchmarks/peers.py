"""Our code beside the way the reference scripts work, on the same work, in one run, in turn.

Two scales. A unit of work (:mod:`benchmarks.units`): so many training steps, samples, judged
images, ours and as :mod:`benchmarks.transcriptions` have it, A B A B; and a matrix of 4 x 6 cells
(:mod:`benchmarks.matrix`), by ``castlewalls run`` and by a process for each cell and metric. Ratios
are the scripts' way over ours, of neighbours in time, so above 1 ours is faster. The numbers of
both are compared before anything is timed, and a difference beyond rounding ends the benchmark.
Beside each unit stands where our time goes (:mod:`benchmarks.limits`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from bench.diffusion.precision import exact_float32
from bench.errors import UserError
from benchmarks.limits import Limits, spent
from benchmarks.matrix import matrix
from benchmarks.timing import Moment, Row, Settings, interleaved, ratios
from benchmarks.units import FULL, LARGE, QUICK, Unit, units

GOAL = 3.0


def peers(settings: Settings) -> list[Row]:
    """The units, then the matrix. Raises ``UserError`` if two sides' numbers differ."""
    on_gpu = settings.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here")
    if on_gpu:
        exact_float32()  # as the workers of a run have it
    limits = None if on_gpu else Limits.measured(settings.quick)
    rows = limits.rows() if limits else []
    sizes = QUICK if settings.quick else LARGE if on_gpu else FULL
    for unit in units(settings, sizes):
        rows += compared(unit, settings.repetitions, limits)
    return rows + matrix(settings)


def compared(unit: Unit, repetitions: int, limits: Limits | None) -> list[Row]:
    """One unit: seconds of each side, their ratios, the numbers' largest difference, and where our
    time goes. Without limits, on a GPU, wall time alone.
    """
    apart = difference(unit)
    runs = {"ours": unit.ours, "transcription": unit.transcription, **unit.beside}
    moments = interleaved({name: _timed(run) for name, run in runs.items()}, repetitions)
    rows = [
        Row(
            quantity=f"{unit.name}: {name}",
            unit="s",
            values=tuple(moment.wall for moment in taken),
        )
        for name, taken in moments.items()
    ]
    for name, taken in moments.items():
        if name == "ours":
            continue
        goal = GOAL if name == "transcription" else None
        for clock in ("wall", "cpu") if limits else ("wall",):
            values = ratios(
                [getattr(moment, clock) for moment in taken],
                [getattr(moment, clock) for moment in moments["ours"]],
            )
            unit_of = f"ratio, {'CPU' if clock == 'cpu' else clock}"
            rows.append(Row(quantity=f"{name} / ours", unit=unit_of, values=values, goal=goal))
    seconds = statistics.median(moment.cpu for moment in moments["ours"])
    return [*rows, apart, *(spent(unit.ours, seconds, limits) if limits else [])]


def difference(unit: Unit) -> Row:
    """The largest difference of two numbers. Raises ``UserError`` if it is beyond rounding."""
    ours, theirs = unit.check() if unit.check else (unit.ours(), unit.transcription())
    if ours.shape != theirs.shape:
        raise UserError(
            f"{unit.name}: the transcription hands back {tuple(theirs.shape)} numbers, ours "
            f"{tuple(ours.shape)}"
        )
    largest = float((ours.double() - theirs.double()).abs().max())
    if not largest <= unit.tolerance:
        raise UserError(
            f"{unit.name}: the transcription's numbers must be ours up to {unit.tolerance:g} "
            f"({unit.numbers}), got a difference of {largest:.3g}"
        )
    return Row(
        quantity=f"largest difference of {unit.numbers}",
        unit="",
        values=(largest,),
        goal=unit.tolerance,
        at_least=False,
    )


def _timed(run: Callable[[], torch.Tensor]) -> Callable[[], Moment]:
    def clocked() -> Moment:
        before = Moment.now()
        run()
        return Moment.now() - before

    return clocked
