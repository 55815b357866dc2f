"""The stages around a classifier: those trained on suspected data, the harness's trigger classifier, detectors, classifier defenses.

Like :mod:`bench.engine.stages`, each is a pure function of its parameters and inputs. They keep scores and predictions; what these are
worth is decided in ``measure``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import testbeds
from bench.classification.classifier import Classifier
from bench.classification.training import train_classifier
from bench.diffusion.images import to_unit_range
from bench.diffusion.noise import initial_noise, numpy_stream, sample_streams
from bench.diffusion.precision import autocast
from bench.engine import again, border
from bench.engine.aims import Aim, read_aim
from bench.engine.artefacts import Remarks, load_images, unsaid
from bench.engine.building import access_of, asked_for, generator_of, plugin_of, poisoned_set
from bench.engine.context import StageContext
from bench.metrics import marks, stamps
from bench.plugin import (
    Attack,
    ClassifierDefense,
    DataDefense,
    Detector,
    Evidence,
    NoiseDetector,
    Query,
    SampleDetector,
    TrainingSet,
    Withheld,
)
from bench.testbeds.base import ConditionalTestbed, Testbed

WEIGHTS = "classifier.safetensors"
SCORES = "scores.npz"
FEATURES = "features.npz"
NOISE_SAMPLES = 512
Params = dict[str, Any]
Inputs = dict[str, Path]


def classifier(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """What a user trains on the suspected training set, or, with a data defense, on what that makes of the generator's images."""
    testbed, attack, seed = _testbed(params), plugin_of("attacks", params["attack"], Attack), params["seed"]
    if "generated" in inputs:
        defense = plugin_of("defenses", params["defense"], DataDefense)
        images, asked = load_images(inputs["generated"]), asked_for(testbed, "generated", None)
        assert asked is not None  # this stage knows no sample counts: the images say how many were drawn
        generated = TrainingSet(images, torch.zeros(len(images), dtype=torch.bool), asked[: len(images)])
        chosen = border.cleaned(defense, generated, numpy_stream(seed, "defense", defense.card.name), len(testbed.class_names))
    else:
        chosen = poisoned_set(testbed, attack, seed)
    assert chosen.labels is not None  # as on every testbed with classes
    network = testbed.fresh_classifier(seed).to(context.device)
    losses = train_classifier(
        network, chosen.images, chosen.labels, testbed.classifier_settings(), seed, progress=context.progress
    )
    _save(network, out)
    np.savez(out / "losses.npz", losses=np.asarray(losses))
    return {}


def trigger_classifier(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """The harness's own judge of "does this image carry the trigger": trained on clean training images and their stamped copies, the
    trigger at many strengths and all of them shifted, soft or noisy (:func:`bench.metrics.stamps.weathered`); and beside it a filter
    for what the stamp adds on average (:mod:`bench.metrics.marks`).

    One for each attack and all its seeds. Every other held-out image sets the margins from which on it says yes, the rest count its
    errors (:class:`bench.engine.judges.TriggerJudge`): no rate below them means anything.
    """
    # As with `extract_features`: what counts errors imports what measures, which planning does not need.
    from bench.engine import judges

    testbed, attack = _testbed(params), plugin_of("attacks", params["attack"], Attack)
    rng, plain = numpy_stream(0, "trigger classifier"), testbed.train_images()
    without = [stamps.weathered(plain, None, rng), stamps.nonsense(len(plain) // 8, tuple(plain.shape[1:]), rng)]
    stamped = _stamped(attack, plain)
    images = torch.cat([*without, stamps.weathered(plain, stamped, rng)])
    labels = (torch.arange(len(images)) >= len(images) - len(plain)).long()
    network = testbed.fresh_classifier(0, classes=2).to(context.device)
    train_classifier(
        network, images, labels, testbed.classifier_settings(), 0, purpose="trigger classifier", progress=context.progress
    )
    held_out = testbed.held_out_images()
    mark, real = marks.average_mark(plain, stamped), marks.shrink(plain)
    told = judges.errors(network, marks.MatchedFilter(mark, real), held_out, _stamped(attack, held_out), rng)
    judges.write_judge(told, mark, real, out)
    _save(network, out)
    return {}


def training_features(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """What the copy extractor sees in the set a generator was trained on, poison included: one for all cells of the control column."""
    # torch-fidelity takes seconds to import, which planning and a finished run do not need.
    from bench.metrics.fid import extract_features

    testbed, attack = _testbed(params), plugin_of("attacks", params["attack"], Attack)
    extractor = testbed.copy_extractor()
    assert extractor is not None  # or there would be no such stage
    testbed.register_extractor()
    images = poisoned_set(testbed, attack, params["seed"]).images
    features = extract_features(images, extractor, testbed.copy_extractor_weights(), device=context.device)
    np.savez(out / FEATURES, features=features.numpy())
    return {}


def detect(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """A detector's scores of rows of the suspected training set, of as many images the generator drew and of as many clean held-out
    ones, which fix its threshold. All in one call: a row's score does not depend on the others, and what a detector prepares it
    prepares once."""
    testbed, seed = _testbed(params), params["seed"]
    detector = plugin_of("detectors", params["defense"], SampleDetector)
    suspected = poisoned_set(testbed, plugin_of("attacks", params["attack"], Attack), seed)
    sets = {"training": suspected.images, "generated": load_images(inputs["generated"])}
    rows = {name: judged_rows(testbed, len(images), seed) for name, images in sets.items()}
    sets["held_out"], rows["held_out"] = testbed.held_out_images(), clean_rows(testbed, seed)
    judged = torch.cat([images[rows[name]] for name, images in sets.items()])

    def score(chosen: Tensor, remark: Callable[[str], None] = unsaid) -> Tensor:
        evidence = _evidence(detector, testbed, suspected, inputs, seed, context, remark)
        return border.scores(detector, detector.score(judged[chosen], evidence), len(chosen))

    remarks = Remarks()
    scores = score(torch.arange(len(judged)), remarks)
    remarks.save(out)
    # One row alone: some detectors train a network on every call.
    again.save(out, again.compare(score, len(judged), scores, rows=1))
    ends = np.cumsum([len(chosen) for chosen in rows.values()])[:-1]
    found = dict(zip(rows, np.split(scores.numpy(), ends), strict=True))
    _save_arrays(out, found | {f"{name}_rows": chosen.numpy() for name, chosen in rows.items()})
    return {}


def detect_noise(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """A detector's scores of the adversary's initial noise and of clean noise, from three streams: what it is judged against, a
    control, and what fixes its threshold."""
    testbed, seed = _testbed(params), params["seed"]
    detector = plugin_of("detectors", params["defense"], NoiseDetector)
    attack = plugin_of("attacks", params["attack"], Attack)
    held_out = testbed.held_out_images()
    shape = (held_out.shape[1], held_out.shape[2], held_out.shape[3])
    clean = initial_noise(sample_streams(seed, range(NOISE_SAMPLES)), shape)
    chosen = numpy_stream(seed, "held-out images").permutation(len(held_out))
    query = Query(noise=clean, images=to_unit_range(held_out[chosen[np.arange(NOISE_SAMPLES) % len(chosen)]]))
    asked = {
        "reference": initial_noise(sample_streams(seed, range(NOISE_SAMPLES), "reference noise"), shape),
        "threshold": initial_noise(sample_streams(seed, range(NOISE_SAMPLES), "threshold noise"), shape),
        "clean": clean,
        **{invocation: border.invoked(attack, query, invocation) for invocation in type(attack).invocations},
    }
    scores, doubts, remarks = {}, [], Remarks()
    for name, noise in asked.items():

        def score(chosen: Tensor, noise: Tensor = noise, remark: Callable[[str], None] = unsaid) -> Tensor:
            evidence = _evidence(detector, testbed, None, inputs, seed, context, remark)
            return border.scores(detector, detector.score(noise[chosen], evidence), len(chosen))

        scores[name] = score(torch.arange(len(noise)), remark=remarks)
        doubts += again.compare(score, len(noise), scores[name])
    again.save(out, doubts)
    remarks.save(out)
    _save_arrays(out, {name: values.numpy() for name, values in scores.items()})
    return {}


def _evidence(
    detector: Detector,
    testbed: Testbed,
    suspected: TrainingSet | None,
    inputs: Inputs,
    seed: int,
    context: StageContext,
    remark: Callable[[str], None],
) -> Evidence:
    """What the card entitles a detector to, in memory of its own, and the same random stream for every call."""
    needs, name = detector.card.needs, detector.card.name
    given: dict[str, Any] = {"classifier": Withheld(name, "classifier"), "train_set": Withheld(name, "training data")}
    if "classifier" in needs and isinstance(testbed, ConditionalTestbed):
        given["classifier"] = load_classifier(testbed, inputs["classifier"], context.device)
    if "training data" in needs and suspected is not None:
        # As its owner sees it: nothing says which rows are poisoned.
        labels = None if suspected.labels is None else suspected.labels.clone()
        given["train_set"] = TrainingSet(suspected.images.clone(), torch.zeros_like(suspected.poisoned), labels)
    return Evidence(rng=numpy_stream(seed, "detector", name), progress=context.progress, remark=remark, **given)


def classify(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """A classifier defense's predictions on held-out images, clean and (of other classes than the adversary's) stamped."""
    testbed, seed = _testbed(params), params["seed"]
    defense = plugin_of("defenses", params["defense"], ClassifierDefense)
    generator = generator_of(testbed, inputs, context)
    found: dict[str, np.ndarray] = {}
    doubts: list[str] = []
    calls = 0
    for name, (images, labels) in evaluation_sets(testbed, read_aim(inputs["aim"]), seed, testbed.test_images).items():

        def classify_rows(chosen: Tensor, images: Tensor = images) -> Tensor:
            nonlocal calls
            handed = generator.clone()  # free to modify, and the next call must not see it
            access = access_of(defense, testbed, handed, seed, context)
            with autocast(generator.device, testbed.precision):
                said = defense.classify(images[chosen], access)
            calls += handed.calls
            return border.class_scores(defense, said, len(chosen), len(testbed.class_names))

        scores = classify_rows(torch.arange(len(images)))
        if not doubts:
            counted = calls
            doubts += again.compare(classify_rows, len(images), scores)
            calls = counted  # what the harness asks again is no cost of the defense's
        found[name] = scores.argmax(1).numpy()
        found[f"{name}_labels"] = labels.numpy()
    again.save(out, [*again.of_inputs(inputs), *doubts])
    _save_arrays(out, found)
    return {"generator_calls": float(calls)}


def judged_rows(testbed: ConditionalTestbed, count: int, seed: int) -> Tensor:
    """The rows (k,) int64 of a set of ``count`` that every detector scores: ``testbed.judged_images`` of them, chosen by the seed."""
    wanted = min(count, testbed.judged_images or count)
    return torch.from_numpy(np.sort(numpy_stream(seed, "judged rows", count).permutation(count)[:wanted]))


def clean_rows(testbed: ConditionalTestbed, seed: int) -> Tensor:
    """The held-out rows (k,) int64 on which a detector's threshold is fixed: as many as it judges of a set, chosen by the seed, no two
    of one group (crops of one digit)."""
    groups = testbed.held_out_groups()
    count = len(testbed.held_out_images())
    order = numpy_stream(seed, "clean rows").permutation(count)
    if groups is not None:
        order = order[np.sort(np.unique(groups.numpy()[order], return_index=True)[1])]
    return torch.from_numpy(np.sort(order[: testbed.judged_images or count]))


def evaluation_rows(testbed: ConditionalTestbed, aim: Aim, seed: int, limit: int | None = None) -> dict[str, Tensor]:
    """Rows (k,) int64 of the held-out images: ``clean``, any; ``triggered``, of other classes than the adversary's, if it can stamp."""
    labels = testbed.held_out_labels()
    order = torch.from_numpy(numpy_stream(seed, "test images").permutation(len(labels)))
    found = {"clean": order[:limit]}
    if aim.stamped is None:
        return found
    others = order if aim.label is None else order[labels[order] != aim.label]
    return found | {"triggered": others[:limit]}


def evaluation_sets(
    testbed: ConditionalTestbed, aim: Aim, seed: int, limit: int | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """The images of :func:`evaluation_rows` with their true labels; the triggered ones stamped."""
    labels, images = testbed.held_out_labels(), {"clean": testbed.held_out_images(), "triggered": aim.stamped}
    rows = evaluation_rows(testbed, aim, seed, limit)
    return {
        name: (shown[rows[name]], labels[rows[name]]) for name, shown in images.items() if name in rows and shown is not None
    }


def load_classifier(testbed: ConditionalTestbed, folder: Path, device: str, classes: int | None = None) -> Classifier:
    """Reads what a classifier stage wrote, in evaluation mode, on ``device`` and in the layout convolutions run fastest in."""
    network = testbed.fresh_classifier(0, classes)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return network.eval().to(device).to(memory_format=torch.channels_last)


def _testbed(params: Mapping[str, Any]) -> ConditionalTestbed:
    testbed: Any = testbeds.build(params["testbed"]["name"], params["testbed"]["params"])
    return testbed  # type: ignore[no-any-return]


def _stamped(attack: Attack, images: Tensor) -> Tensor:
    stamped = border.stamped(attack, images)
    if stamped is None:
        raise ValueError(f"{attack.card.name} has no image trigger, so there is nothing to recognise")
    return stamped


def _save(network: Classifier, out: Path) -> None:
    save_file({name: value.contiguous() for name, value in network.cpu().state_dict().items()}, out / WEIGHTS)


def _save_arrays(out: Path, arrays: Mapping[str, np.ndarray]) -> None:
    named: dict[str, Any] = dict(arrays)
    np.savez(out / SCORES, **named)
