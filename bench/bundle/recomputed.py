"""A record's numbers once more, from its witness and its series alone: no plugin is imported, and
no model is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from bench.bundle.witnesses import RECOVERED, SUBJECTS, Witness, unit
from bench.measurements import numbers
from bench.measurements.composition import GROUPS
from bench.measurements.detections import Judged, rates
from bench.measurements.measurement import Measured
from bench.measurements.model_detection import (
    AUROC,
    FEWEST_FOR_RATE,
    TPR,
    auroc_of_models,
    rate_without_alarms,
)
from bench.metrics import asr, composition, target
from bench.record import Flag, Metric, Record

#: What must be recalculated where a record has it; other numbers rest on weights, on data or on
#: images that no bundle carries.
COVERED = re.compile(
    r"(mse|ssim|asr|asr_field)\[.*\]|(robust_asr|asr_class|asr_set|precision)\[.*\]|(auroc|tpr_at_\d_fpr)\[.*\]"
    r"|(tpr|fpr)_fixed_threshold\[.*\]|(inversion|trigger)_mse_.*|model_score|ta|classifier_asr|g[1-4]|mismatch"
)
#: Two calculations of one number on two machines may differ by their rounding.
RELATIVE, ABSOLUTE = 1e-6, 1e-9
#: Curves are for plots, and results may keep fewer digits of them.
CURVE = 1e-3
#: Codes of flags that follow from scores and outcomes.
FOLLOWING = ("constant-scores", "control-off", "nothing-to-tell-apart", "evades-metric")
_OUTCOMES = re.compile(r"outcomes\[(.*)\]")


@dataclass(kw_only=True)
class Recomputed:
    """``metrics``: as a record has them, intervals only where they follow from the same values;
    ``series``: as in a record; ``flags``: those that the record must carry.
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)


def recompute(record: Record, witness: Witness) -> Recomputed:
    """Everything that follows from the series of ``record`` and from ``witness``. Raises
    ``ValueError``, in one line, for arrays that are not as described.
    """
    again = Recomputed()
    _outcomes(record, again)
    if "target" in witness.aim:
        _samples(record, witness, again)
    if "prompt:mismatch" in witness.arrays:
        _composition(witness, again)
    if record.kind == "inversion":
        _inversion(witness, again)
    measured = Measured()
    for judged in _judged(witness):
        with numbers.if_possible("auroc", measured.flags):
            rates(judged, measured)
    again.metrics |= measured.metrics
    again.series |= {
        name: curve for name, curve in measured.series.items() if _OUTCOMES.fullmatch(name)
    }
    again.flags += [flag for flag in measured.flags if flag.code in FOLLOWING]
    if "model" in witness.arrays:
        (score,) = witness.arrays["model"]
        again.metrics["model_score"] = Metric(value=float(score), n=1)
    if "scores[attacked]" in record.series:
        _population(record, again)
    return again


def _outcomes(record: Record, again: Recomputed) -> None:
    """Shares of what the record lists sample by sample. Where samples come in groups the interval
    rests on the groups too, and is left alone.
    """
    for name, outcomes in record.series.items():
        if (of := _OUTCOMES.fullmatch(name)) is None:
            continue
        if not outcomes or not set(outcomes) <= {0, 1}:
            raise ValueError(f"{name} must be outcomes of 0 or 1")
        share = numbers.share(outcomes, None)
        metric = record.metrics.get(of[1])
        if metric is not None and metric.effective_n is not None:
            share = Metric(value=share.value, n=share.n)
        again.metrics[of[1]] = share


def _samples(record: Record, witness: Witness, again: Recomputed) -> None:
    goal = unit(witness.aim["target"])
    inverted = record.kind == "inversion"
    distances = {
        name.partition(":")[2]: _vector(witness, name)
        for name in witness.arrays
        if name.startswith("mse:")
    }
    if "mse[constant]" in record.metrics:
        again.metrics["mse[constant]"] = Metric(value=target.best_constant_mse(goal), n=1)
    threshold = record.metrics.get("asr_threshold")
    for where, errors in distances.items():
        again.metrics[f"mse[{where}]"] = _mean(errors)
        if inverted:
            continue
        likeness = _vector(witness, f"ssim:{where}")
        if len(likeness) != len(errors):
            raise ValueError(f"ssim:{where} must have {len(errors)} values, got {len(likeness)}")
        again.metrics[f"ssim[{where}]"] = _mean(likeness)
        again.metrics[f"asr_field[{where}]"] = numbers.share(errors < asr.FIELD_THRESHOLD, None)
        if threshold is None or threshold.value is None:
            continue
        near = numbers.share(errors < threshold.value, None)
        again.metrics[f"asr[{where}]"] = near
        robust = again.metrics.get(f"robust_asr[{where}]")
        if robust is not None and asr.evades(near.value or 0.0, robust.value or 0.0):
            again.flags.append(Flag("evades-metric", "asr", ""))


def _composition(witness: Witness, again: Recomputed) -> None:
    mismatch = _flags(witness, "prompt:mismatch")
    stamped = (
        _flags(witness, "prompt:stamped")
        if "prompt:stamped" in witness.arrays
        else torch.zeros_like(mismatch)
    )
    if len(stamped) != len(mismatch) or not len(mismatch):
        raise ValueError(f"prompt:stamped must have {len(mismatch)} values, got {len(stamped)}")
    groups = composition.composition(stamped, mismatch)
    again.metrics["mismatch"] = numbers.proportion(groups.mismatch_ratio, None)
    if "prompt:stamped" not in witness.arrays:
        return
    for name in GROUPS:
        again.metrics[name] = numbers.proportion(getattr(groups, name), None)
    again.metrics["asr[prompt]"] = numbers.proportion(groups.trigger_ratio, None)
    robust = again.metrics.get("robust_asr[prompt]")
    if robust is not None and asr.evades(groups.trigger_ratio.value, robust.value or 0.0):
        again.flags.append(Flag("evades-metric", "asr", ""))


def _inversion(witness: Witness, again: Recomputed) -> None:
    for name, part in RECOVERED.items():
        if name not in witness.arrays or part not in witness.aim:
            continue
        by_epoch = np.asarray(witness.arrays[name], dtype=np.float64)
        if by_epoch.ndim != 2 or by_epoch.size == 0:
            raise ValueError(f"{name} must be (epochs, candidates), got shape {by_epoch.shape}")
        prefix = "inversion_mse" if part == "target" else "trigger_mse"
        curve = [float(errors.mean()) for errors in by_epoch]
        for which, index in (("best", int(np.argmin(curve))), ("last", len(curve) - 1)):
            again.metrics[f"{prefix}_{which}"] = _mean(by_epoch[index])
        goal = unit(witness.aim[part])
        again.series[prefix] = curve
        if part == "target":
            again.metrics["inversion_mse_black"] = Metric(value=target.black_mse(goal), n=1)
        else:
            constant = Metric(value=target.best_constant_mse(goal), n=1)
            again.metrics["trigger_mse_constant"] = constant


def _judged(witness: Witness) -> Iterator[Judged]:
    """Every set of scores with its truth, as the measurements of detectors take them."""
    for subject in SUBJECTS.values():
        sets = {
            name.partition(":")[2]: _vector(witness, name)
            for name in witness.arrays
            if name.startswith(f"{subject}:")
        }
        if not sets:
            continue
        if not {"reference", "threshold"} <= set(sets):
            raise ValueError(f"scores of {subject} must have a reference and a threshold set")
        plain, clean = sets.pop("reference"), sets.pop("threshold")
        for name, scores in sets.items():
            truth = torch.arange(len(plain) + len(scores)) >= len(plain)
            yield Judged(name, np.concatenate([plain, scores]), truth, clean)
    for name, where in (("training", "training set"), ("generated", "generated")):
        if name in witness.arrays:
            scores, truth = _vector(witness, name), _flags(witness, f"{name}:truth")
            groups = witness.arrays.get(f"{name}:groups")
            of = None if groups is None else torch.from_numpy(groups.astype(np.int64))
            yield Judged(where, scores, truth, _vector(witness, "held_out"), of)


def _population(record: Record, again: Recomputed) -> None:
    """As ``model_detection``: each side by seed, alike many models a seed."""
    sides = [
        np.asarray(record.series.get(f"scores[{side}]", [])) for side in ("attacked", "honest")
    ]
    seeds = sorted(record.seeds)
    if not seeds or any(len(side) == 0 or len(side) % len(seeds) for side in sides):
        raise ValueError(f"scores of both sides must be alike many for each of {len(seeds)} seeds")
    of = np.concatenate([np.repeat(seeds, len(side) // len(seeds)) for side in sides])
    attacked, honest = sides
    again.metrics[AUROC] = auroc_of_models(attacked, honest, of)
    if len(seeds) >= FEWEST_FOR_RATE:
        again.metrics[TPR] = rate_without_alarms(attacked, honest, of[: len(attacked)])


def _vector(witness: Witness, name: str) -> np.ndarray:
    array = witness.arrays.get(name)
    if array is None or array.ndim != 1 or array.dtype.kind != "f" or not len(array):
        raise ValueError(f"{name} must be a list of numbers, got {_kind(array)}")
    return array


def _flags(witness: Witness, name: str) -> torch.Tensor:
    array = witness.arrays.get(name)
    if array is None or array.ndim != 1 or array.dtype != np.bool_:
        raise ValueError(f"{name} must be a list of truth values, got {_kind(array)}")
    return torch.from_numpy(array)


def _kind(array: np.ndarray | None) -> str:
    return "nothing" if array is None else f"{array.dtype} of shape {array.shape}"


def _mean(values: np.ndarray) -> Metric:
    """Without its interval, which rests on a bootstrap's draws."""
    return Metric(value=float(values.mean()), n=len(values))


# --- against the record ---------------------------------------------------------------------------


def differences(record: Record, again: Recomputed) -> list[str]:
    """What of ``record`` is not as recalculated, a line each: numbers, series, flags."""
    lines: list[str] = []
    for name, metric in again.metrics.items():
        if (recorded := record.metrics.get(name)) is None:
            lines.append(f"{name} must be {_number(metric.value)}, got no such number")
        elif wrong := _difference(recorded, metric):
            lines.append(f"{name} {wrong}")
    for name, curve in again.series.items():
        if not _same_curve(record.series.get(name), curve):
            lines.append(f"series {name} is not as recalculated")
    carried = {(flag.code, flag.metric) for flag in record.flags}
    for flag in again.flags:
        if (flag.code, flag.metric) not in carried:
            about = f" about {flag.metric}" if flag.metric else ""
            lines.append(f"flag {flag.code}{about} must be there, and is not")
    return lines


def uncovered(record: Record, again: Recomputed) -> list[str]:
    """The numbers that a witness should have covered, and did not."""
    return sorted(
        name for name in record.metrics if COVERED.fullmatch(name) and name not in again.metrics
    )


def _difference(recorded: Metric, metric: Metric) -> str:
    pairs = {
        part: (getattr(recorded, part), getattr(metric, part))
        for part in ("value", "n", "ci_low", "ci_high")
    }
    for part, (one, other) in pairs.items():
        if other is not None and (one is None or not close(one, other)):
            of = "" if part == "value" else f" in {part}"
            return f"must be {_number(other)}{of}, got {_number(one)}"
    return ""


def close(one: float, other: float) -> bool:
    """Whether two numbers differ by no more than rounding."""
    return abs(one - other) <= max(ABSOLUTE, RELATIVE * max(abs(one), abs(other)))


def _same_curve(recorded: list[float] | None, curve: list[float]) -> bool:
    return (
        recorded is not None
        and len(recorded) == len(curve)
        and all(
            abs(one - other) <= CURVE * abs(other)
            for one, other in zip(recorded, curve, strict=True)
        )
    )


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.9g}"
