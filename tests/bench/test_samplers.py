"""The samplers that a suite lists: what they take from the testbed, and what they are called."""

import pytest

from bench import testbeds
from bench.diffusion.sampling import SAMPLERS, SamplerSettings
from bench.faults import suite_faults
from bench.record import PluginSpec
from bench.registry import use
from bench.samplers import SUMMARIES, Sampler, bare, settings_of, spec_of
from bench.suite import parse_suite

DDPM, CFG = testbeds.build("digits-ddpm", {}), testbeds.build("digits-cfg", {})


def test_every_sampler_can_be_listed():
    assert SUMMARIES.keys() == SAMPLERS.keys()


def test_what_is_not_given_is_the_testbeds_own():
    """The machine's part never changes: precision and the network's batch."""
    testbed = testbeds.build(
        "digits-cfg", {"precision": "bfloat16", "network_batch": 32, "guidance_scale": 3.0}
    )
    assert Sampler(name="heun").settings(testbed) == SamplerSettings(
        name="heun", num_inference_steps=15, precision="bfloat16", network_batch=32,
        guidance_scale=3.0,
    )  # fmt: skip
    changed = Sampler(name="ddim", num_inference_steps=9, clip="x0", guidance_scale=0.0, eta=0.5)
    assert changed.settings(testbed) == SamplerSettings(
        name="ddim", num_inference_steps=9, clip="x0", precision="bfloat16", network_batch=32,
        guidance_scale=0.0, eta=0.5,
    )  # fmt: skip


def test_a_record_names_every_setting_and_a_label_those_that_differ():
    assert spec_of(Sampler(name="unipc"), DDPM) == PluginSpec(
        name="unipc", params={"num_inference_steps": 50, "clip": "none"}, label="unipc"
    )
    spec = spec_of(Sampler(name="ddim", eta=1, spacing="trailing"), CFG)
    assert spec == PluginSpec(
        name="ddim",
        params={
            "num_inference_steps": 15,
            "clip": "none",
            "spacing": "trailing",
            "eta": 1,
            "guidance_scale": 2.0,
        },
        label="ddim(spacing=trailing, eta=1)",
    )
    assert spec_of(Sampler(name="ddim"), DDPM).label == "ddim"


def test_the_testbeds_own_sampler_needs_no_name():
    for listed in ({}, {"num_inference_steps": 15}, {"eta": 0.0}, {"guidance_scale": 2.0}):
        assert spec_of(Sampler(name="ddim", **listed), CFG) is None
    assert spec_of(Sampler(name="ddim", num_inference_steps=14), CFG) is not None
    # Where the solvers' steps lie is their own.
    solving = testbeds.build("digits-ddpm", {"sampler": "deis", "spacing": "trailing"})
    assert spec_of(Sampler(name="deis"), solving) is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_stage_samples_as_the_record_says(name):
    for testbed in (DDPM, CFG):
        for listed in (Sampler(name=name), Sampler(name=name, num_inference_steps=7)):
            spec = spec_of(listed, testbed)
            params = {} if spec is None else {"sampler": bare(spec)}
            assert settings_of(testbed, params) == listed.settings(testbed)


def faults(*samplers, testbed="digits-ddpm"):
    suite = {"name": "s", "testbeds": [testbed], "samplers": list(samplers)}
    registry = use()
    return suite_faults(parse_suite(suite, registry, "s.yaml"), [registry.attack("none")])


def test_what_does_not_go_with_the_testbed_is_refused_before_anything_runs():
    assert faults(*SAMPLERS) == []
    many = {"name": "ddim", "params": {"num_inference_steps": 1001}}
    uneven = {"name": "heun", "params": {"num_inference_steps": 30, "spacing": "trailing"}}
    guided = {"name": "ddpm", "params": {"guidance_scale": 2.0}}
    assert faults(many, uneven, guided, "deis") == [
        "sampler ddim on digits-ddpm: num_inference_steps must be at most the schedule's 1000 "
        "steps, got 1001",
        "sampler heun on digits-ddpm: num_inference_steps must divide the schedule's 1000 steps "
        "for trailing spacing, got 30",
        "sampler ddpm on digits-ddpm: guidance_scale must not be given where no class is asked "
        "for, got 2.0",
    ]
    clipped = {"name": "digits-ddpm", "params": {"clip": "xt"}}
    assert faults("unipc", "ddim", testbed=clipped) == [
        "sampler unipc on digits-ddpm: clip must be none or x0 for unipc, which forms x anew from "
        "the step before, got 'xt'"
    ]
    whole = {"name": "digits-ddpm", "params": {"num_inference_steps": 1000}}
    assert faults("deis", "ddim", testbed=whole) == [
        "sampler deis on digits-ddpm: num_inference_steps must be below the schedule's 1000 steps "
        "for deis, whose steps would meet, got 1000"
    ]


def test_two_entries_that_are_one_sampler_are_refused():
    same = {"name": "ddim", "params": {"eta": 0}}
    assert faults("ddim", same) == ["sampler ddim on digits-ddpm: it is listed twice"]
