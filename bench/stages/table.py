"""The stages by name. Every stage is a pure function of its parameters and inputs: randomness comes
from named streams of the cell's seed, so neither the order of stages, nor the number of workers,
nor an interruption changes a bit. Images travel as uint8 arrays, the same as 8-bit PNGs.
"""

from __future__ import annotations

from bench.engine.context import StageKind
from bench.stages import (
    aim,
    by_set,
    call,
    classifier,
    classify,
    evaluation_images,
    features,
    implant,
    invert,
    judged_images,
    judged_noise,
    judged_prompts,
    measure,
    poisoned_rows,
    pool,
    record,
    reference,
    repair,
    sample,
    score,
    suspected,
    train,
    training_features,
    trigger_classifier,
)

STAGES: dict[str, StageKind] = {
    "aim": StageKind(run=aim.run, seconds=1.0),
    "poisoned_rows": StageKind(run=poisoned_rows.run, seconds=1.0),
    "reference": StageKind(run=reference.run),
    "training_features": StageKind(run=training_features.run),
    "suspected": StageKind(run=suspected.run, seconds=1.0),
    "implant": StageKind(run=implant.run, charge="attack_seconds"),
    "train": StageKind(run=train.run, charge="attack_seconds", distributed=True),
    "sample": StageKind(run=sample.run),
    "features": StageKind(run=features.run, seconds=1.0),
    "repair": StageKind(run=repair.run),
    "invert": StageKind(run=invert.run),
    "classifier": StageKind(run=classifier.run),
    "trigger_classifier": StageKind(run=trigger_classifier.run),
    "judged_images": StageKind(run=judged_images.run, seconds=1.0),
    "judged_noise": StageKind(run=judged_noise.run, seconds=1.0),
    "judged_prompts": StageKind(run=judged_prompts.run, seconds=1.0),
    "call": StageKind(run=call.run, seconds=1.0),
    "evaluation_images": StageKind(run=evaluation_images.run, seconds=1.0),
    "pool": StageKind(run=pool.run, seconds=1.0),
    "by_set": StageKind(run=by_set.run, seconds=1.0),
    "score": StageKind(run=score.run),
    "classify": StageKind(run=classify.run),
    "measure": StageKind(run=measure.run, seconds=1.0),
    "record": StageKind(run=record.run, seconds=1.0),
}
