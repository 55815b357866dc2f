"""The stages by name. Every stage is a pure function of its parameters and inputs: randomness comes
from named streams of the cell's seed, so neither the order of stages, nor the number of workers,
nor an interruption changes a bit. Images travel as uint8 arrays, the same as 8-bit PNGs.

Each says which parts of the testbed it uses: it is handed these, with those that the cards of its
plugins ask for, and they are in its key. A measurement says so itself.
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
    "aim": StageKind(run=aim.run, parts=("data",), seconds=1.0),
    "poisoned_rows": StageKind(run=poisoned_rows.run, parts=("data",), seconds=1.0),
    "reference": StageKind(run=reference.run, parts=("data", "features")),
    "training_features": StageKind(run=training_features.run, parts=("copies",)),
    "suspected": StageKind(run=suspected.run, parts=("data",), seconds=1.0),
    "implant": StageKind(run=implant.run, parts=("data", "generator"), charge="attack_seconds"),
    "train": StageKind(
        run=train.run, parts=("data", "generator"), charge="attack_seconds", distributed=True
    ),
    "sample": StageKind(run=sample.run, parts=("data", "generator", "sampler", "counts")),
    "features": StageKind(run=features.run, parts=("features",), seconds=1.0),
    "repair": StageKind(run=repair.run, parts=("data", "generator")),
    "invert": StageKind(run=invert.run, parts=("data", "generator", "sampler")),
    "classifier": StageKind(run=classifier.run, parts=("data", "classifiers"), version=2),
    "trigger_classifier": StageKind(
        run=trigger_classifier.run, parts=("data", "classifiers"), version=2
    ),
    "judged_images": StageKind(run=judged_images.run, parts=("data", "counts"), seconds=1.0),
    "judged_noise": StageKind(
        run=judged_noise.run, parts=("data", "generator", "counts"), seconds=1.0
    ),
    "judged_prompts": StageKind(run=judged_prompts.run, parts=("data", "generator"), seconds=1.0),
    "call": StageKind(run=call.run, parts=("data", "generator", "counts"), seconds=1.0),
    "evaluation_images": StageKind(
        run=evaluation_images.run, parts=("data", "counts"), seconds=1.0
    ),
    "pool": StageKind(run=pool.run, seconds=1.0),
    "by_set": StageKind(run=by_set.run, seconds=1.0),
    "score": StageKind(run=score.run, parts=("data", "generator")),
    "classify": StageKind(run=classify.run, parts=("data", "generator", "sampler")),
    "measure": StageKind(run=measure.run, seconds=1.0),
    "record": StageKind(run=record.run, seconds=1.0),
}
