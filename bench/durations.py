"""How long a stage may take, before any like it was timed: what its testbed declares, by how much
work the stage is.

A testbed declares the seconds of a stage at its own counts and settings (``typical_seconds``). A
suite may ask for fewer images, for another sampler, for a longer training: time is in proportion
to the images that the network sees. It decides forecasts and the order of work, no number and no
key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import testbeds
from bench.artefacts.probes import CLEAN_PROBE, Probe, requested_count
from bench.contracts.attack import TrainingAttack
from bench.contracts.detector import Detector
from bench.contracts.plugin import Plugin
from bench.diffusion.sampling import SamplerSettings
from bench.samplers import settings_of
from bench.testbeds.testbed import Testbed

#: Of the declared time, for a repair that trains nothing: the weights are read, changed, written.
UNTRAINED = 0.02
#: A frozen teacher's forward pass, beside a forward and a backward pass.
WITH_TEACHER = 4 / 3
#: Activations computed a second time: another forward pass beside a forward and a backward pass.
RECOMPUTED = 4 / 3
#: Learning a trigger beside the network, through ten steps of a sampler.
LEARNING = 5
#: Sampling in half precision on a GPU, beside float32: on one H100, cifar10-ddpm's network did 74.4
#: TFLOP/s and 17.9 (docs/paper-scale.md). On a CPU nothing was measured, and all counts as alike.
HALF_PRECISION_SPEED = 74.4 / 17.9
#: Starting noises that a detector judges: three sets of clean noise and, usually, two calls'.
JUDGED_NOISES = 5 * 512

Work = Callable[[Testbed, Testbed, Mapping[str, Any], Sequence[Plugin]], float]


def expected_seconds(
    testbed: Testbed,
    name: str,
    params: Mapping[str, Any],
    plugins: Sequence[Plugin],
    otherwise: float | None,
) -> float | None:
    """Seconds of the stage called ``name`` with these parameters, which runs ``plugins``;
    ``otherwise`` where the testbed declares none, and ``None`` if nobody knows.
    """
    if name not in testbed.typical_seconds:
        return otherwise
    typical, share = testbed.typical_seconds[name], SHARES.get(name)
    if share is None:
        return typical
    return typical * share(testbed, testbeds.load(testbed.name), params, plugins)


def images_through(testbed: Testbed, probe: Probe, settings: SamplerSettings) -> int:
    """Images through the network, those that fill its last batch and both of guidance's calls
    counted.
    """
    batches = -(-requested_count(testbed, probe) // settings.network_batch)
    guided = testbed.has_classes() and settings.guidance_scale != 1
    return batches * settings.network_batch * settings.network_calls * (2 if guided else 1)


def _sample(
    testbed: Testbed, usual: Testbed, params: Mapping[str, Any], plugins: Sequence[Plugin]
) -> float:
    settings, declared = settings_of(testbed, params), usual.sampler.settings()
    drawn = images_through(testbed, Probe(**params["draws"]), settings)
    share = drawn / images_through(usual, CLEAN_PROBE, declared)
    if not usual.resources.gpu:
        return share
    return share * _speed(declared) / _speed(settings)


def _speed(settings: SamplerSettings) -> float:
    return 1.0 if settings.precision == "float32" else HALF_PRECISION_SPEED


def _train(
    testbed: Testbed, usual: Testbed, params: Mapping[str, Any], plugins: Sequence[Plugin]
) -> float:
    attack = next(plugin for plugin in plugins if isinstance(plugin, TrainingAttack))
    settings = testbed.training_settings(attack.scheme)
    seen = (attack.training_steps or settings.steps) * settings.batch_size
    beside = (WITH_TEACHER if type(attack).has_teacher else 1) * (LEARNING if attack.learns else 1)
    return seen / _finetuning(usual) * beside * _recomputing(testbed, usual)


def _repair(
    testbed: Testbed, usual: Testbed, params: Mapping[str, Any], plugins: Sequence[Plugin]
) -> float:
    """By its steps of so many images, if it has such parameters."""
    defense = plugins[0]
    if not defense.card.needs & {"clean data", "training data", "queries"}:
        return UNTRAINED
    steps, size = (defense.params().get(field) for field in ("steps", "batch_size"))
    if isinstance(steps, int) and isinstance(size, int):
        return steps * size / _finetuning(usual)
    return 1.0


def _recomputing(testbed: Testbed, usual: Testbed) -> float:
    """What keeping fewer activations costs, beside the testbed as it declares its seconds."""
    now, declared = (
        RECOMPUTED if one.training_settings("finetune").gradient_checkpointing else 1.0
        for one in (testbed, usual)
    )
    return now / declared


def _finetuning(usual: Testbed) -> int:
    """Images that fine-tuning sees."""
    settings = usual.training_settings("finetune")
    return settings.steps * settings.batch_size


def _features(
    testbed: Testbed, usual: Testbed, params: Mapping[str, Any], plugins: Sequence[Plugin]
) -> float:
    return testbed.counts.clean_samples / usual.counts.clean_samples


def _score(
    testbed: Testbed, usual: Testbed, params: Mapping[str, Any], plugins: Sequence[Plugin]
) -> float:
    of_images = any(
        isinstance(plugin, Detector) and not {*plugin.subjects} & {"model", "noise", "prompts"}
        for plugin in plugins
    )
    judged = _judged(testbed) / _judged(usual) if of_images else 1.0
    return judged + sum(_fitted(usual, plugin) + _drawn(usual, plugin) for plugin in plugins)


def _fitted(usual: Testbed, detector: Plugin) -> float:
    """What ``epochs`` over the training set add to judging, if it has such a parameter: as long as
    training the testbed's classifier on as many images takes.
    """
    epochs = detector.params().get("epochs")
    trains = isinstance(detector, Detector) and "training data" in detector.card.needs
    if not (trains and isinstance(epochs, int) and usual.classifiers is not None):
        return 0.0
    settings = usual.classifiers.settings(usual.data.rows)
    passes = epochs * usual.data.rows / (settings.steps * settings.batch_size)
    declared = usual.typical_seconds
    return passes * declared.get("classifier", 0.0) / declared["score"]


def _drawn(usual: Testbed, detector: Plugin) -> float:
    """What a detector of noise adds that draws images of its own from each noise it judges: by its
    ``steps``, and ``samples`` of each, if it has such parameters and starts from no inversion.
    """
    if not isinstance(detector, Detector) or detector.uses() is not None:
        return 0.0
    steps, each = (detector.params().get(name) for name in ("steps", "samples"))
    draws = "noise" in detector.subjects and "weights" in detector.card.needs
    if not draws or not isinstance(steps, int):
        return 0.0
    images = JUDGED_NOISES * steps * (each if isinstance(each, int) else 1)
    declared = usual.typical_seconds
    seconds = images / images_through(usual, CLEAN_PROBE, usual.sampler.settings())
    return seconds * declared.get("sample", 0.0) / declared["score"]


def _judged(testbed: Testbed) -> int:
    count: int | None = getattr(testbed.counts, "judged_images", None)
    return testbed.data.rows if count is None else count


def _classify(
    testbed: Testbed, usual: Testbed, params: Mapping[str, Any], plugins: Sequence[Plugin]
) -> float:
    counts: list[int] = [getattr(one.counts, "test_images", 1) for one in (testbed, usual)]
    return counts[0] / counts[1]


#: Stage -> its share of the declared time: of ``sample``, that of the clean samples; of ``train``
#: and ``repair``, that of a fine-tuning.
SHARES: Mapping[str, Work] = {
    "sample": _sample,
    "train": _train,
    "repair": _repair,
    "features": _features,
    "score": _score,
    "classify": _classify,
}
