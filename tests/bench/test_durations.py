"""Forecasts know how many images a suite asks for; what they are is not part of any key."""

import dataclasses

import pytest

from bench import testbeds
from bench.artefacts.probes import CLEAN_PROBE, GENERATED_PROBE, Probe
from bench.durations import JUDGED_NOISES, expected_seconds
from bench.planner import make_plan
from bench.registry import use
from bench.resources import Resources
from bench.stages.judged_noise import NOISE_SAMPLES
from bench.stages.table import STAGES
from bench.suite import load_suite, parse_suite

DDPM, CFG = testbeds.load("digits-ddpm"), testbeds.load("digits-cfg")
TRIGGERED = Probe(role="call:noise", count="triggered_samples", call="noise")


def share(testbed, name, plugins=(), **params):
    """Of what the testbed declares, as it stands, for a stage of this name."""
    usual = testbeds.load(testbed.name).typical_seconds[name]
    return expected_seconds(testbed, name, params, plugins, None) / usual


def drawn(testbed, probe, **sampler):
    listed = {"sampler": {"name": sampler.pop("name"), "params": sampler}} if sampler else {}
    return share(testbed, "sample", draws=probe.params(), **listed)


def test_samples_take_as_long_as_the_images_that_the_network_sees():
    """Measured on digits-ddpm, 8.1 s for 256 by 50 steps: 20 steps of a solver took 3.1 s, Heun's
    20 took 6.2 s, 64 images took 2.0 s.
    """
    assert drawn(DDPM, CLEAN_PROBE) == drawn(CFG, CLEAN_PROBE) == 1
    assert drawn(DDPM, TRIGGERED) == 64 / 384
    cut = DDPM.changed(clean_samples=256, num_inference_steps=50)
    assert drawn(cut, CLEAN_PROBE) == pytest.approx(256 / 384)
    ratios = [
        drawn(cut, CLEAN_PROBE, name=name, num_inference_steps=20) / drawn(cut, CLEAN_PROBE)
        for name in ("dpm_solver++", "heun")
    ]
    assert ratios == pytest.approx([20 / 50, 39 / 50])
    assert ratios == pytest.approx([3.1 / 8.1, 6.2 / 8.1], rel=0.06)
    # A batch is filled, however few are asked for.
    assert drawn(DDPM.changed(triggered_samples=1), TRIGGERED) == drawn(DDPM, TRIGGERED)


def test_half_precision_is_faster_on_a_gpu():
    """Whoever sampled in bfloat16 was told four times the hours, and a cluster's limit so long."""
    testbed = testbeds.load("cifar10-ddpm")
    half = testbed.changed(precision="bfloat16", network_batch=512)
    whole = testbed.changed(network_batch=512)
    ratio = drawn(half, CLEAN_PROBE) / drawn(whole, CLEAN_PROBE)
    assert ratio == pytest.approx(17.9 / 74.4) == pytest.approx(0.48 / 1.9, rel=0.06)
    assert drawn(DDPM.changed(precision="bfloat16"), CLEAN_PROBE) == 1, "not measured on a CPU"
    drawer = testbeds.load("imagenette-sd")
    assert drawn(drawer.changed(precision="float32"), CLEAN_PROBE) == pytest.approx(74.4 / 17.9)


def test_guidance_asks_the_network_twice_and_a_whole_set_is_as_large_as_the_training_set():
    assert drawn(CFG.changed(guidance_scale=1.0), CLEAN_PROBE) == 0.5
    assert drawn(CFG.changed(guidance_scale=0.5), CLEAN_PROBE) == 1
    assert drawn(CFG, GENERATED_PROBE) == 5760 / 384
    assert drawn(CFG.changed(generated_samples=128), GENERATED_PROBE) == 128 / 384


def test_training_takes_its_steps():
    registry = use()
    trained = [
        share(DDPM, "train", [registry.build("attacks", "baddiffusion", params)])
        for params in ({}, {"training_steps": 1000}, {"scheme": "scratch"})
    ]
    scratch = DDPM.training_settings("scratch")
    assert trained == [1, 2.5, scratch.steps * scratch.batch_size / (400 * 64)]


def test_activations_that_are_computed_twice_take_time():
    """The time limit of a cluster's job starts from this: a third too short, it would be killed."""
    usual = testbeds.load("cifar10-ddpm")
    sparing = testbeds.build("cifar10-ddpm", {"gradient_checkpointing": True})
    attack = use().build("attacks", "baddiffusion", {"trigger": "grey_box", "target": "hat"})
    seconds, longer = (
        expected_seconds(one, "train", {}, [attack], None) for one in (usual, sparing)
    )
    assert longer == pytest.approx(seconds * 4 / 3)


def test_a_repair_takes_its_steps_and_one_without_data_next_to_nothing():
    """As it is 60 s on digits-ddpm that fine-tuning of 400 x 64 images takes; half as many images
    take half as long, and added noise a moment.
    """
    registry = use()

    def repaired(name, **params):
        return share(DDPM, "repair", [registry.build("defenses", name, params)])

    assert repaired("finetune", steps=400, batch_size=64) == 1
    assert repaired("finetune", steps=400, batch_size=32) == 0.5
    assert repaired("weight_noise") < 0.05 and repaired("ema_merge") < 0.05


def test_judges_take_the_images_that_they_judge():
    registry = use()
    strip, shift = (registry.build("detectors", name) for name in ("strip", "noise_shift"))
    fewer = CFG.changed(judged_images=100, test_images=32, clean_samples=96)
    assert share(fewer, "score", [strip]) == share(fewer, "classify") == 0.25
    assert share(fewer, "features") == 0.25
    assert share(fewer, "score", [shift]) == 1, "it judges the noise, of which there is as much"


def test_a_detector_that_trains_takes_its_epochs():
    """Measured on fashion-cfg: FCT's ten epochs over 60,000 images took ten minutes where STRIP
    took twenty seconds, and were forecast as those.
    """
    registry, fashion = use(), testbeds.load("fashion-cfg")
    strip, fct, once = (
        registry.build("detectors", name, params)
        for name, params in (("strip", {}), ("fct", {}), ("fct", {"epochs": 1}))
    )
    judged, seconds = fashion.typical_seconds["score"], fashion.typical_seconds["classifier"]
    settings = fashion.classifiers.settings(fashion.data.rows)
    epoch = seconds * fashion.data.rows / (settings.steps * settings.batch_size)
    for detector, epochs in ((strip, 0), (once, 1), (fct, 10)):
        forecast = expected_seconds(fashion, "score", {}, [detector], None)
        assert forecast == pytest.approx(judged + epochs * epoch)
    assert 300 < expected_seconds(fashion, "score", {}, [fct], None) < 900


def test_what_is_not_declared_stays_as_it_is():
    """A testbed that declares nothing is asked for nothing: not even for its training set."""
    paper = testbeds.load("captions-sd")
    assert expected_seconds(paper, "sample", {}, [], None) is None
    assert expected_seconds(DDPM, "aim", {}, [], 1.0) == 1.0
    assert expected_seconds(DDPM, "reference", {}, [], None) == DDPM.typical_seconds["reference"]


def test_a_forecast_and_what_is_needed_are_part_of_no_key(monkeypatch):
    def keys():
        registry = use()
        suite = {"name": "s", "testbeds": ["digits-ddpm"], "attacks": ["baddiffusion"]}
        return make_plan(parse_suite(suite, registry, "s"), registry, STAGES)

    before = keys()
    needs = Resources(gpu=True, memory_gb=99)
    forgetful = dataclasses.replace(DDPM, typical_seconds={}, resources=needs)
    monkeypatch.setattr(testbeds, "build", lambda *args, **kwargs: forgetful)
    after = keys()
    assert before.stages.keys() == after.stages.keys()
    assert [cell.id for cell in before.cells] == [cell.id for cell in after.cells]
    assert [cell.protocol for cell in before.cells] == [cell.protocol for cell in after.cells]
    assert {stage.resources for stage in after.stages.values()} == {needs}
    assert before.stages != after.stages and before.turns.keys() == after.turns.keys()


def test_a_cut_suite_is_not_forecast_like_the_whole(monkeypatch):
    """Of ``fashion-cut``, which draws 500 images where ``fashion`` draws 10,000, sampling for FID
    takes a twentieth.
    """
    from bench import planner

    monkeypatch.setattr(
        planner.stages, "fingerprints", lambda testbed: dict.fromkeys(testbed.parts(), "")
    )
    registry = use()
    longest = {}
    for name in ("fashion", "fashion-cut"):
        plan = make_plan(load_suite(name, registry), registry, STAGES)
        longest[name] = {
            stage.params["testbed"]["name"]: stage.seconds
            for stage in plan.stages.values()
            if stage.name == "sample" and stage.params["what"] == "clean"
        }
    for testbed, seconds in longest["fashion"].items():
        assert longest["fashion-cut"][testbed] == pytest.approx(seconds / 20, rel=0.05)


def test_a_detector_of_noise_that_draws_takes_its_images():
    """UFID on digits-ddpm took 340 s on one core, and was forecast at 2: a suite of 24 such cells
    at 24 minutes, not at 100. TERD's steps are its inversion's, a stage of their own.
    """
    registry = use()
    names = ("ufid", "adjacent_noise_consistency", "terd_input", "noise_shift")
    ufid, adjacent, terd, shift = (
        expected_seconds(DDPM, "score", {}, [registry.build("detectors", name)], None)
        for name in names
    )
    assert terd == shift == DDPM.typical_seconds["score"]
    assert 250 < ufid < 450 and 60 < adjacent < 130
    assert (ufid - shift) == pytest.approx(4 * (adjacent - shift)), "four samples of each"
    assert JUDGED_NOISES % NOISE_SAMPLES == 0
