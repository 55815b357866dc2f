"""The stages by name. Every stage is a pure function of its parameters and inputs: randomness comes
from named streams of the cell's seed, so neither the order of stages, nor the number of workers,
nor an interruption changes a bit. Images travel as uint8 arrays, the same as 8-bit PNGs.

Each says which parts of the testbed it uses: it is handed these, with those that the cards of its
plugins ask for, and they are in its key. A measurement says so itself.
"""

from __future__ import annotations

from bench.engine.context import StageKind
from bench.stages import (
    admitted,
    admitted_images,
    aim,
    by_set,
    call,
    classifier,
    classify,
    corrupted,
    evaluation_images,
    features,
    implant,
    invert,
    judged_images,
    judged_noise,
    judged_prompts,
    measure,
    originals,
    poisoned_rows,
    pool,
    record,
    reference,
    repair,
    restored_images,
    restored_record,
    sample,
    score,
    suspected,
    train,
    training_features,
    trigger_classifier,
    triggered_images,
)

STAGES: dict[str, StageKind] = {
    "aim": StageKind(run=aim.run, admit=admitted.aim, parts=("data",), seconds=1.0),
    "poisoned_rows": StageKind(
        run=poisoned_rows.run, admit=admitted.poisoned_rows, parts=("data",), seconds=1.0
    ),
    "reference": StageKind(run=reference.run, parts=("data", "features")),
    "training_features": StageKind(run=training_features.run, parts=("copies",)),
    "suspected": StageKind(
        run=suspected.run, admit=admitted.suspected, parts=("data",), seconds=1.0
    ),
    "implant": StageKind(
        run=implant.run,
        admit=admitted.implant,
        parts=("data", "generator"),
        charge="attack_seconds",
    ),
    "train": StageKind(
        run=train.run,
        admit=admitted.train,
        parts=("data", "generator"),
        charge="attack_seconds",
        distributed=True,
    ),
    "sample": StageKind(
        run=sample.run, admit=admitted.sample, parts=("data", "generator", "sampler", "counts")
    ),
    "features": StageKind(run=features.run, parts=("features",), seconds=1.0),
    "repair": StageKind(run=repair.run, admit=admitted.repair, parts=("data", "generator")),
    "invert": StageKind(
        run=invert.run, admit=admitted.invert, parts=("data", "generator", "sampler")
    ),
    "classifier": StageKind(
        run=classifier.run, admit=admitted.classifier, parts=("data", "classifiers"), version=2
    ),
    "trigger_classifier": StageKind(
        run=trigger_classifier.run,
        admit=admitted.trigger_classifier,
        parts=("data", "classifiers"),
        version=2,
    ),
    "judged_images": StageKind(run=judged_images.run, parts=("data", "counts"), seconds=1.0),
    "judged_noise": StageKind(
        run=judged_noise.run,
        admit=admitted.judged_noise,
        parts=("data", "generator", "counts"),
        seconds=1.0,
    ),
    "judged_prompts": StageKind(
        run=judged_prompts.run,
        admit=admitted.judged_prompts,
        parts=("data", "generator"),
        seconds=1.0,
    ),
    "call": StageKind(
        run=call.run, admit=admitted.call, parts=("data", "generator", "counts"), seconds=1.0
    ),
    "evaluation_images": StageKind(
        run=evaluation_images.run, parts=("data", "counts"), seconds=1.0
    ),
    "pool": StageKind(run=pool.run, seconds=1.0),
    "by_set": StageKind(run=by_set.run, seconds=1.0),
    "score": StageKind(run=score.run, admit=admitted.score, parts=("data", "generator")),
    "classify": StageKind(
        run=classify.run, admit=admitted.classify, parts=("data", "generator", "sampler")
    ),
    "originals": StageKind(run=originals.run, parts=("data", "counts"), seconds=1.0),
    "triggered_images": StageKind(
        run=triggered_images.run,
        admit=admitted_images.triggered_images,
        parts=("data",),
        seconds=1.0,
    ),
    "corrupted": StageKind(run=corrupted.run, seconds=1.0),
    "restored_images": StageKind(
        run=restored_images.run,
        admit=admitted_images.restored_images,
        parts=("data", "generator", "sampler"),
    ),
    "measure": StageKind(run=measure.run, seconds=1.0),
    "record": StageKind(run=record.run, seconds=1.0),
    "restored_record": StageKind(run=restored_record.run, seconds=1.0),
}
