"""Whether a detector finds the adversary's starting noise."""

from __future__ import annotations

import numpy as np
import torch

from bench.artefacts.arrays import load_scores
from bench.artefacts.images import read_remarks
from bench.measurements.detections import Judged, declared, rates
from bench.measurements.families import judges_other
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible
from bench.record import REMARK, Flag


def why_not(situation: Situation) -> str:
    """Of other columns."""
    return judges_other(situation, "scores_noise")


def measure(materials: Materials) -> Measured:
    """AUROC and TPR of the adversary's noise against clean noise; ``clean``, the control, is clean
    noise against other clean noise.
    """
    measured = Measured()
    measured.flags += [
        Flag(REMARK, "auroc", line) for line in read_remarks(materials.inputs["scores_noise"])
    ]
    arrays = load_scores(materials.inputs["scores_noise"])
    plain, clean = arrays.pop("reference"), arrays.pop("threshold")
    for name, scores in arrays.items():
        truth = torch.cat([torch.zeros(len(plain)), torch.ones(len(scores))]).bool()
        with if_possible("auroc", measured.flags):
            rates(Judged(name, np.concatenate([plain, scores]), truth, clean), measured)
    return measured


MEASUREMENT = Measurement(
    name="noise_detection",
    metrics=(
        *declared("noise", "starting noise with the trigger against clean noise", headline=14),
        *declared(
            "image",
            "starting noise plus a real image with the trigger against clean noise",
        ),
        *declared("*", "noise, or prompts, as the adversary calls by {}, against clean ones"),
        *declared("clean", "clean noise, or prompts, against other clean ones: the control"),
    ),
    needs=("scores_noise",),
    why_not=why_not,
    parts=(),
    run=measure,
)
