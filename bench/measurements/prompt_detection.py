"""Whether a detector finds the adversary's prompts."""

from __future__ import annotations

import numpy as np
import torch

from bench.artefacts.arrays import load_scores
from bench.artefacts.images import read_remarks
from bench.measurements.detections import Judged, names, rates
from bench.measurements.families import judges_other
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible
from bench.record import REMARK, Flag

#: With fewer clean prompts than this no threshold can let 5 % of them pass: any rate of false
#: alarms below 1 / n is none at all.
FEW = 20


def why_not(situation: Situation) -> str:
    """Of other columns."""
    return judges_other(situation, "scores_prompts")


def measure(materials: Materials) -> Measured:
    """AUROC and TPR of the adversary's prompts against clean ones; ``clean``, the control, is clean
    prompts against other clean ones, namely those that the adversary then changed.
    """
    measured = Measured()
    measured.flags += [
        Flag(REMARK, "auroc", line) for line in read_remarks(materials.inputs["scores_prompts"])
    ]
    arrays = load_scores(materials.inputs["scores_prompts"])
    plain, clean = arrays.pop("reference"), arrays.pop("threshold")
    if len(plain) < FEW:
        text = f"few prompts, {len(plain)} clean ones to tell from"
        measured.flags.append(Flag("few-prompts", "auroc", text))
    for name, scores in arrays.items():
        truth = torch.cat([torch.zeros(len(plain)), torch.ones(len(scores))]).bool()
        with if_possible("auroc", measured.flags):
            rates(Judged(name, np.concatenate([plain, scores]), truth, clean), measured)
    return measured


MEASUREMENT = Measurement(
    name="prompt_detection",
    metrics=(),
    borrows=names("*", "clean", "noise", "image"),
    needs=("scores_prompts",),
    why_not=why_not,
    parts=(),
    run=measure,
)
