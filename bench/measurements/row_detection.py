"""Whether a detector finds the poisoned rows of a training set, and the generated images that carry
the trigger.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.artefacts.aims import read_rows
from bench.artefacts.arrays import load_scores
from bench.artefacts.images import load_images, read_remarks
from bench.artefacts.judged import STRANGERS
from bench.artefacts.judges import false_alarms, honest_alarms, load_judge
from bench.artefacts.rows import judged_rows
from bench.measurements import doubts
from bench.measurements.detections import Judged, declared, names, rates
from bench.measurements.families import NO_TRIGGER, judges_other
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible
from bench.metrics import composition
from bench.record import REMARK, Flag


def why_not(situation: Situation) -> str:
    """Of other columns."""
    return judges_other(situation, "scores")


def measure(materials: Materials) -> Measured:
    """AUROC and TPR on the training set (truth: the rows the adversary took) and on generated
    images (truth: the trigger classifier).

    On an honest set the "poisoned" rows are those the probe would have taken, untouched, and the
    others are of the same classes as they, or a score that tells classes apart would find them:
    AUROC 0.5 is the right answer there.
    """
    measured, testbed = Measured(), materials.testbed
    measured.flags += [
        Flag(REMARK, "auroc", line) for line in read_remarks(materials.inputs["scores"])
    ]
    arrays = load_scores(materials.inputs["scores"])
    scores, rows = arrays["training"], torch.from_numpy(arrays["training_rows"])
    truth = read_rows(materials.inputs["true_rows"]).poisoned
    groups, comparable = testbed.data.train_groups(), torch.ones(len(rows), dtype=torch.bool)
    if not bool(read_rows(materials.inputs["poisoned_rows"]).poisoned.any()):
        labels = testbed.data.train_labels()
        comparable = torch.isin(labels[rows], labels[truth].unique())
    measured.flags += doubts.looks_up(
        scores[~truth[rows].numpy()],
        {
            "held-out": arrays["held_out"],
            **{name: arrays[name] for name in STRANGERS},
        },
    )
    rows = rows[comparable]
    of_rows: Tensor | None = None if groups is None else groups[rows]
    with if_possible("auroc", measured.flags):
        rates(
            Judged(
                "training set", scores[comparable.numpy()], truth[rows], arrays["held_out"], of_rows
            ),
            measured,
        )
    if "trigger_classifier" in materials.inputs:
        _generated(materials, measured)
    else:
        measured.absent |= dict.fromkeys(names("generated"), NO_TRIGGER)
    return measured


def _generated(materials: Materials, measured: Measured) -> None:
    """Of the images the generator drew; what the judge calls poisoned must be more than it calls so
    of anything.
    """
    arrays = load_scores(materials.inputs["scores"])
    scores, rows = arrays["generated"], torch.from_numpy(arrays["generated_rows"])
    images = load_images(materials.inputs["generated"])
    assert torch.equal(rows, judged_rows(materials.testbed, len(images), materials.seed))
    trigger = load_judge(
        materials.testbed, materials.inputs["trigger_classifier"], materials.device
    )
    truth = trigger.stamped(images[rows])
    with if_possible("auroc", measured.flags):
        rates(Judged("generated", scores, truth, arrays["held_out"]), measured)
    alarms = false_alarms(trigger, honest_alarms(trigger, materials.inputs))
    if composition.below_error(float(truth.float().mean()), len(truth), alarms):
        text = "the images called poisoned are within the trigger classifier's false alarms"
        measured.flags.append(Flag("within-false-alarms", "auroc[generated]", text))


MEASUREMENT = Measurement(
    name="row_detection",
    metrics=(
        *declared(
            "training set",
            "rows of the suspected training set; truth: the rows the adversary took",
            headline=12,
        ),
        *declared(
            "generated",
            "images the generator drew; truth: the trigger classifier's verdict",
            headline=13,
        ),
    ),
    needs=("scores", "poisoned_rows", "true_rows", "generated"),
    uses=("trigger_classifier", "honest_target"),
    why_not=why_not,
    parts=("data", "classifiers", "counts"),
    run=measure,
)
