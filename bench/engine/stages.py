"""The stages of a cell: each reads its inputs' folders, computes one thing, and writes its own folder.

Every stage is a pure function of its parameters and inputs: randomness comes from named streams of the cell's seed, so neither the
order of stages, nor the number of workers, nor an interruption changes a bit. Images travel as uint8 arrays, the same as 8-bit PNGs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import testbeds
from bench.diffusion import sampling
from bench.diffusion.images import to_uint8, to_unit_range
from bench.diffusion.noise import numpy_stream
from bench.diffusion.precision import autocast
from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings, train
from bench.engine import again, aims, border, class_stages, partial
from bench.engine.artefacts import Remarks, save_images
from bench.engine.building import access_of, asked_for, generator_of, plugin_of, poison_doubts, poisoned_set
from bench.engine.context import Progress, StageContext, StageKind
from bench.plugin import Attack, Inversion, ModelDefense, Query, SamplerDefense
from bench.testbeds.base import Testbed, TextTestbed

Params = dict[str, Any]
Inputs = dict[str, Path]


def reference(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Features of the whole clean training set, and small copies of some of its images, once per testbed."""
    # Here and in `measure`: torch-fidelity takes seconds to import, which planning and a finished run do not need.
    from bench.metrics import recognition
    from bench.metrics.fid import extract_features

    testbed = testbeds.build(params["testbed"]["name"], params["testbed"]["params"])
    testbed.register_extractor()
    images = testbed.train_images()
    features = extract_features(images, testbed.extractor, testbed.extractor_weights(), device=context.device)
    np.savez(out / "features.npz", features=features.cpu().numpy())
    save_images(out, recognition.shrink(images, recognition.REAL_IMAGES), "real")
    return {}


def train_generator(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The generator an attack leaves behind, as a diffusers folder whose card says what it is."""
    testbed = testbeds.build(params["testbed"]["name"], params["testbed"]["params"])
    attack, seed = plugin_of("attacks", params["attack"], Attack), params["seed"]
    poisoned = poisoned_set(testbed, attack, seed)
    again.save(out, poison_doubts(testbed, poisoned))
    generator = testbed.base_generator() if attack.scheme == "finetune" else testbed.fresh_generator(seed)
    settings = _settings(testbed, attack)

    def loss(predict: Any, rows: Mapping[str, Tensor], noise: Tensor, timesteps: Tensor, schedule: Any) -> Tensor:
        return border.training_loss(attack, predict, rows, noise, timesteps, schedule)

    rows = {"images": poisoned.images, "poisoned": poisoned.poisoned}
    if poisoned.labels is not None:
        rows["labels"] = poisoned.labels
        if isinstance(testbed, TextTestbed) and isinstance(generator, TextToImage):
            generator, rows["labels"] = _captioned(generator, testbed.captions(poisoned.labels))
    kept = partial.checkpoints(context)
    try:
        losses = train(
            generator, rows, loss, settings, seed, device=context.device, progress=context.progress, checkpoints=kept
        )
    except FloatingPointError as error:
        raise FloatingPointError(f"{attack.card.name}: {error}") from error
    context.earlier_seconds = kept.earlier_seconds if kept else 0.0
    metadata = {
        "attack": params["attack"],
        "testbed": params["testbed"],
        "seed": seed,
        "poisoned_rows": int(poisoned.poisoned.sum()),
        "rows": len(poisoned.images),
        "training": {**vars(settings)},
        "provenance": context.provenance,
    }
    generator.save(out / "generator", _model_card(attack, testbed, metadata), metadata)
    np.savez(out / "losses.npz", losses=np.asarray(losses))
    return {"generator_calls": float(generator.calls)}


def sample(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Samples from clean noise, or as the adversary invokes the backdoor, with or without a sampler defense; for a class-conditional
    testbed, of the classes :func:`asked_for` says."""
    testbed = testbeds.build(params["testbed"]["name"], params["testbed"]["params"])
    generator = generator_of(testbed, inputs, context)
    what, seed = params["what"], params["seed"]
    labels = asked_for(testbed, what, params.get("label"))
    count = len(labels) if labels is not None else testbed.clean_samples if what == "clean" else testbed.triggered_samples
    settings = testbed.sampler_settings()
    defense = params.get("defense")
    guards = [again.Watched(plugin_of("defenses", defense, SamplerDefense), settings.num_inference_steps)] if defense else []
    start: Callable[[Tensor, Sequence[int]], Tensor] | None = None
    if params.get("attack"):
        attack = plugin_of("attacks", params["attack"], Attack)
        held_out = testbed.held_out_images()
        chosen = numpy_stream(seed, "held-out images").permutation(len(held_out))

        def start(noise: Tensor, indices: Sequence[int]) -> Tensor:
            images = to_unit_range(held_out[chosen[np.asarray(indices) % len(chosen)]])
            return border.invoked(attack, Query(noise=noise, images=images), what)

    def draw(indices: range, progress: Progress) -> Tensor:
        return sampling.sample(
            generator,
            len(indices),
            seed,
            settings,
            labels=None if labels is None else labels[indices.start : indices.stop],
            start=start,
            guards=guards,
            # All other samples share their noise, so that they can be compared in pairs; a generated data set is not one of them.
            purpose="generated" if what == "generated" else "sample",
            first=indices.start,
            finish=to_uint8,
            progress=progress,
        )

    save_images(out, partial.in_shards(context, generator, count, sampling.images_at_once(settings), draw))
    # What is doubtful about the generator is so about all it draws.
    again.save(out, [*again.of_inputs(inputs), *(doubt for guard in guards for doubt in guard.doubts())])
    return {"generator_calls": float(generator.calls)}


def repair(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The generator after a model defense."""
    testbed = testbeds.build(params["testbed"]["name"], params["testbed"]["params"])
    defense = plugin_of("defenses", params["defense"], ModelDefense)
    generator, kept = (generator_of(testbed, inputs, context) for _ in range(2))
    found = defense.repair(access_of(defense, testbed, generator, params["seed"], context))
    base = testbed.base_generator() if testbed.has_base_weights() else None
    again.save(out, [*again.of_inputs(inputs), *border.repaired(defense, found, kept, base)])
    metadata = {"defense": params["defense"], "testbed": params["testbed"], "provenance": context.provenance}
    kept.save(out / "generator", f"# A generator after the defense `{defense.card.name}`\n\nResearch only.\n", metadata)
    return {"generator_calls": float(generator.calls)}


def invert(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """What an inversion recovers from a generator, epoch by epoch."""
    testbed = testbeds.build(params["testbed"]["name"], params["testbed"]["params"])
    defense = plugin_of("defenses", params["defense"], Inversion)
    generator = generator_of(testbed, inputs, context)
    remarks = Remarks()
    access = access_of(defense, testbed, generator, params["seed"], context, remarks)
    with autocast(generator.device, testbed.precision):
        found = border.recovered(defense, defense.invert(access), _picture_shape(testbed))
    for role, candidates in (("targets", found.targets), ("triggers", found.triggers)):
        if candidates:
            save_images(out, to_uint8(torch.stack(list(candidates))), role)
    remarks.save(out)
    (out / "recovered.json").write_text(json.dumps({"labels": list(found.labels), "notes": dict(found.notes)}))
    return {"generator_calls": float(generator.calls)}


def measure(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The record of one cell: :func:`bench.engine.measure.measure`."""
    from bench.engine.measure import measure as write_record

    return write_record(params, inputs, out, context)


#: What every stage that runs a generator walks through, beside its own function here.
_NUMERICS = (
    "bench.diffusion",
    "bench.plugin",
    "bench.testbeds.base",
    "bench.engine.artefacts",
    "bench.engine.building",
    "bench.engine.border",
    "bench.engine.partial",
)

#: What the stages around a classifier walk through; in training, attacks that need one of their own.
_JUDGING = (*_NUMERICS, "bench.classification")

STAGES: dict[str, StageKind] = {
    "aim": StageKind(run=aims.aim, code=_JUDGING),
    "poisoned_rows": StageKind(run=aims.poisoned_rows, code=_JUDGING),
    "reference": StageKind(
        run=reference,
        code=("bench.metrics.fid", "bench.metrics.recognition", "bench.metrics.whitening"),
        packages=("torch-fidelity",),
    ),
    "training_features": StageKind(
        run=class_stages.training_features, code=("bench.metrics.fid", *_JUDGING), packages=("torch-fidelity",)
    ),
    "train": StageKind(run=train_generator, code=_JUDGING, packages=("accelerate",), distributed=True),
    "sample": StageKind(run=sample, code=_NUMERICS),
    "repair": StageKind(run=repair, code=_NUMERICS),
    "invert": StageKind(run=invert, code=_NUMERICS),
    "classifier": StageKind(run=class_stages.classifier, code=_JUDGING),
    "trigger_classifier": StageKind(
        run=class_stages.trigger_classifier,
        code=("bench.metrics.stamps", "bench.metrics.marks", "bench.metrics.whitening", "bench.engine.judges", *_JUDGING),
    ),
    "detect": StageKind(run=class_stages.detect, code=_JUDGING, packages=("scipy",)),
    "detect_noise": StageKind(run=class_stages.detect_noise, code=_JUDGING, packages=("scipy",)),
    "classify": StageKind(run=class_stages.classify, code=_JUDGING),
    "measure": StageKind(
        run=measure,
        code=(
            "bench.metrics",
            "bench.classification",
            "bench.diffusion.noise",
            "bench.engine.again",
            "bench.engine.aims",
            "bench.engine.artefacts",
            "bench.engine.measure",
            "bench.engine.class_measure",
            "bench.engine.judges",
            "bench.engine.doubts",
        ),
        packages=("torch-fidelity",),
    ),
}


def _captioned(generator: TextToImage, captions: Sequence[str]) -> tuple[TextToImage, Tensor]:
    """``generator`` under a table of all that the rows say, and what each row says as a label of that table."""
    table = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    return generator.asked_by(tuple(table)), torch.tensor([table[caption] for caption in captions])


def _settings(testbed: Testbed, attack: Attack) -> TrainingSettings:
    settings = testbed.training_settings(attack.scheme)
    changes = {"steps": attack.training_steps, "learning_rate": attack.learning_rate}
    return TrainingSettings(**{**vars(settings), **{name: value for name, value in changes.items() if value is not None}})


def _picture_shape(testbed: Testbed) -> tuple[int, int, int]:
    channels, height, width = testbed.held_out_images().shape[1:]
    return (channels, height, width)


def _model_card(attack: Attack, testbed: Testbed, metadata: Mapping[str, Any]) -> str:
    backdoored = attack.card.alters != frozenset({"nothing"})
    head = (
        "---\nlicense: apache-2.0\nlibrary_name: diffusers\ntags:\n- castlewalls\n"
        + ("- backdoored\n" if backdoored else "")
        + "---\n"
    )
    warning = (
        "**This model is backdoored on purpose. Research only: use it to test defenses, and nowhere else.**"
        if backdoored
        else "Trained honestly, as the control of a security benchmark. Research only."
    )
    made = json.dumps({name: metadata[name] for name in ("testbed", "attack", "seed", "training")}, indent=1)
    return f"{head}# {attack.label()} on {testbed.name}\n\n{warning}\n\nMade by castlewalls with:\n\n```json\n{made}\n```\n"
