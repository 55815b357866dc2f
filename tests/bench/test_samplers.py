"""The samplers that a suite lists: what they take from the testbed, what they are called, and that
each integrates the model's own schedule.
"""

from dataclasses import replace

import pytest
import torch

from bench import testbeds
from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.sampling import SAMPLERS, SamplerSettings, build_scheduler, denoise
from bench.faults import suite_faults
from bench.record import PluginSpec
from bench.registry import use
from bench.samplers import SUMMARIES, Sampler, bare, settings_of, spec_of
from bench.suite import load_suite, parse_suite

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


#: The table of betas that the shipped unconditional testbeds have, and Stable Diffusion's, which a
#: sampler that kept its own would miss.
TABLES = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"},
    "scaled_linear": {"beta_start": 8.5e-4, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
}
#: Of the suite that meets every attack with every sampler.
LISTED = load_suite("samplers-attacks", use()).samplers
NOISY = [one for one in LISTED if one.settings(DDPM).stochastic]
#: They end at the first timestep, with its share of noise.
SHORT_OF_THE_END = ("dpm_solver", "deis")


class Exact:
    """The exact noise predictor of independent normal pixels under ``table``, for a sampler that is
    handed ``handed``; a deviation of next to 0 is one known image.
    """

    device, noise_shape, mean = torch.device("cpu"), (3, 8, 8), 0.2

    def __init__(self, table, deviation, handed=None):
        self.scheduler_config = {"num_train_timesteps": 1000, **TABLES[handed or table]}
        self.deviation = deviation
        if table == "linear":
            betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        else:
            betas = torch.linspace(8.5e-4**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.alphas = (1 - betas).cumprod(0)

    def predict_noise(self, x, timesteps):
        alpha = self.alphas[timesteps].reshape(-1, 1, 1, 1)
        centred = x.double() - alpha.sqrt() * self.mean
        return ((1 - alpha).sqrt() * centred / (alpha * self.deviation**2 + 1 - alpha)).float()

    def drawn(self, settings, count):
        """Starting noise and samples, (count, 3, 8, 8) float64."""
        streams = sample_streams(0, range(count))
        start = initial_noise(streams, self.noise_shape)
        images = denoise(self, start, streams, settings)
        return start.double(), images.double()

    def spread(self, settings):
        """The deviation of samples, by DDIM's steps with the share eta of DDPM's noise (Song et al.
        2021, eq. 12 and 16), along which a normal pixel stays normal: eta 1 is DDPM.
        """
        eta = 1.0 if settings.name == "ddpm" else settings.eta
        steps = build_scheduler(settings, self.scheduler_config).timesteps.tolist()
        variance = 1.0
        for step, next_step in zip(steps, [*steps[1:], None], strict=True):
            alpha = float(self.alphas[step])
            after = 1.0 if next_step is None else float(self.alphas[next_step])
            gain = alpha**0.5 * self.deviation**2 / (alpha * self.deviation**2 + 1 - alpha)
            noise = (1 - alpha**0.5 * gain) / (1 - alpha) ** 0.5
            added = eta**2 * (1 - after) / (1 - alpha) * (1 - alpha / after)
            kept = after**0.5 * gain + (1 - after - added) ** 0.5 * noise
            variance = kept**2 * variance + added
        return variance**0.5


def label(sampler):
    return sampler.name + ("" if sampler.eta is None else f"-{sampler.eta:g}")


def test_every_sampler_is_on_the_board_of_all_attacks():
    """As in ``samplers``, so that the two can be read side by side."""
    assert {one.name for one in LISTED} == SAMPLERS.keys()
    assert load_suite("samplers", use()).samplers == LISTED


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("sampler", LISTED, ids=label)
def test_a_sampler_as_listed_ends_in_the_one_image_that_there_is(sampler, table):
    """Of one known image the noise is constant along the flow, so that no step is too long, and
    whatever noise is added is predicted. Handed another table than the model's, it ends elsewhere.
    """
    settings = sampler.settings(DDPM)
    exact = Exact(table, 1e-6)
    start, images = exact.drawn(settings, 2)
    expected = torch.full_like(images, exact.mean)
    if sampler.name in SHORT_OF_THE_END:
        first = build_scheduler(settings, exact.scheduler_config).timesteps[0]
        alpha, end = exact.alphas[first], exact.alphas[0]
        noise = (start - alpha.sqrt() * exact.mean) / (1 - alpha).sqrt()
        expected = end.sqrt() * exact.mean + (1 - end).sqrt() * noise
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-3)
    other = next(one for one in TABLES if one != table)
    _, elsewhere = Exact(table, 1e-6, handed=other).drawn(settings, 2)
    assert float((elsewhere - expected).abs().max()) > 0.02


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "sampler", [one for one in LISTED if one.name in ("ddpm", "ddim")], ids=label
)
def test_ddpm_and_ddim_as_listed_draw_the_spread_of_their_own_equations(sampler, table):
    """64 x 192 normal pixels: the standard error of the deviation is .6 % of it."""
    exact, settings = Exact(table, 0.4), sampler.settings(DDPM)
    start, images = exact.drawn(settings, 64)
    measured = float(images.std()) * (1 if settings.stochastic else 1 / float(start.std()))
    assert measured == pytest.approx(exact.spread(settings), rel=0.015)
    assert float(images.mean()) == pytest.approx(exact.mean, abs=0.015)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("sampler", NOISY, ids=label)
def test_a_sampler_that_adds_noise_draws_the_models_own_spread(sampler, table):
    """The shorter the steps, the nearer, under either table: none keeps a table of its own."""
    exact, errors = Exact(table, 0.4), []
    for steps in (20, 500):
        settings = replace(sampler.settings(DDPM), num_inference_steps=steps)
        _, images = exact.drawn(settings, 64)
        errors.append(abs(float(images.std()) / exact.deviation - 1))
        assert float(images.mean()) == pytest.approx(exact.mean, abs=0.015)
    assert errors[1] < 0.03 < errors[0]
