"""Sampling: what a user would read wrongly off the board if the loop clipped, mixed streams or
swapped samplers unasked.
"""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.diffusion.generator import Generator
from bench.diffusion.noise import initial_noise, sample_streams, stream_seed
from bench.diffusion.sampling import (
    CLIPS,
    SAMPLERS,
    SPACINGS,
    SamplerSettings,
    build_scheduler,
    denoise,
    guarded_prediction,
    sample,
)
from bench.registry import use

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
}


class Oracle:
    """The exact noise predictor of a data distribution that is one image: its sampler must end in
    that image.
    """

    def __init__(self, image: torch.Tensor) -> None:
        self.image, self.scheduler_config, self.device = image, dict(CONFIG), torch.device("cpu")
        self.noise_shape = tuple(image.shape)
        self.alphas_cumprod = DDPMScheduler.from_config(CONFIG).alphas_cumprod

    def predict_noise(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        alphas = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return (x - alphas.sqrt() * self.image) / (1 - alphas).sqrt()

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )
    return Generator(unet.eval(), dict(CONFIG))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("clip", CLIPS)
def test_exact_predictor_is_followed_to_its_image(name: str, clip: str) -> None:
    """Every sampler, clipped or not, ends in the only image there is, when that image is inside the
    range.
    """
    image = torch.linspace(-0.9, 0.9, 3 * 8 * 8).reshape(3, 8, 8)
    oracle = Oracle(image)
    steps = 100 if clip == "xt" else 25
    images = sample(oracle, 3, 0, SamplerSettings(name=name, num_inference_steps=steps, clip=clip))
    tolerance = {"dpm_solver": 0.05}.get(name, 0.02)
    assert (images - image).abs().max() < tolerance


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
@pytest.mark.parametrize(("clip", "escapes"), [("none", True), ("x0", False)])
def test_nothing_clips_unless_told(name: str, clip: str, escapes: bool) -> None:
    """A target outside [-1, 1] is reached without clipping and cannot be with it: no scheduler
    default slips in.
    """
    oracle = Oracle(torch.full((3, 8, 8), 2.0))
    streams = sample_streams(0, range(2))
    images = denoise(
        oracle,
        initial_noise(streams, (3, 8, 8)),
        streams,
        SamplerSettings(name=name, num_inference_steps=20, clip=clip),
    )
    assert bool((images > 1.5).all()) is escapes
    assert bool((images <= 1.001).all()) is not escapes


@pytest.mark.parametrize(("name", "cls"), [("ddpm", DDPMScheduler), ("ddim", DDIMScheduler)])
def test_our_x0_clipping_is_diffusers_own(generator: Generator, name: str, cls: type) -> None:
    """The guard's round trip through x_0 gives what the scheduler's own clip_sample gives; for DDIM
    with use_clipped_model_output, since the direction towards x_t must follow from the same x_0.
    """
    extra = {"use_clipped_model_output": True} if name == "ddim" else {}
    settings = SamplerSettings(name=name, num_inference_steps=10, clip="x0")
    streams = sample_streams(3, range(4))
    ours = denoise(generator, initial_noise(streams, (3, 8, 8)), streams, settings)
    scheduler = cls.from_config(
        {**build_scheduler(settings, CONFIG).config, "clip_sample": True, "clip_sample_range": 1.0}
    )
    scheduler.set_timesteps(10)
    streams = sample_streams(3, range(4))
    x = initial_noise(streams, (3, 8, 8))
    with torch.no_grad():
        for step in scheduler.timesteps:
            noise = generator.predict_noise(x, torch.full((4,), int(step)))
            x = scheduler.step(
                noise, step, x, **extra, **({"generator": streams} if name == "ddpm" else {})
            ).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-4)


def test_xt_clipping_clamps_after_every_step(generator: Generator) -> None:
    streams = sample_streams(0, range(2))
    seen: list[float] = []
    denoise(
        generator,
        initial_noise(streams, (3, 8, 8)),
        streams,
        SamplerSettings(num_inference_steps=10, clip="xt"),
        trajectory=lambda timestep, x: seen.append(float(x.abs().max())),
    )
    assert len(seen) == 10
    assert max(seen) <= 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_batch_size_changes_nothing(generator: Generator, name: str) -> None:
    """The same seed gives the same images for batches of 1, 7 and 64: every sample has its own
    stream.
    """
    settings = SamplerSettings(name=name, num_inference_steps=6)
    whole = sample(generator, 15, 5, settings, batch_size=64)
    for batch_size in (1, 7):
        torch.testing.assert_close(
            sample(generator, 15, 5, settings, batch_size=batch_size), whole, rtol=0, atol=1e-5
        )


def test_seeds_and_samples_differ(generator: Generator) -> None:
    settings = SamplerSettings(num_inference_steps=4)
    first, other = sample(generator, 4, 0, settings), sample(generator, 4, 1, settings)
    assert (first - other).abs().amax((1, 2, 3)).min() > 0.05
    assert (first[0] - first[1]).abs().max() > 0.05
    torch.testing.assert_close(sample(generator, 4, 0, settings), first, rtol=0, atol=0)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_streams_of_different_identity_differ(seed: int, index: int) -> None:
    assert stream_seed(seed, "sample", index) != stream_seed(seed, "sample", index + 1)
    assert stream_seed(seed, "sample", index) != stream_seed(seed + 1, "sample", index)
    assert stream_seed(seed, "sample", index) != stream_seed(seed, "training", index)
    assert 0 <= stream_seed(seed, "sample", index) < 2**63


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 5))
def test_guard_sees_the_predicted_image_and_what_it_returns_is_used(
    timestep: int, scale: float
) -> None:
    alphas = DDPMScheduler.from_config(CONFIG).alphas_cumprod.double()
    clean, noise = (
        torch.full((2, 1, 4, 4), scale, dtype=torch.float64),
        torch.randn(2, 1, 4, 4, dtype=torch.float64),
    )
    x = alphas[timestep].sqrt() * clean + (1 - alphas[timestep]).sqrt() * noise

    class Half:
        keeps_noise = False

        def predicted_x0(self, predicted: torch.Tensor, t: int) -> torch.Tensor:
            torch.testing.assert_close(predicted, clean, rtol=0, atol=1e-6)
            return predicted / 2

    changed, beyond = guarded_prediction(noise, x, timestep, alphas, [Half()])  # type: ignore[list-item]
    assert beyond is None
    implied = (x - (1 - alphas[timestep]).sqrt() * changed) / alphas[timestep].sqrt()
    torch.testing.assert_close(implied, clean / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "pndm"}, "sampler must be one of"),
        ({"clip": "yes"}, "clip must be one of"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"network_batch": 0}, "network_batch must be at least 1"),
    ],
)
def test_bad_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SamplerSettings(), **change)


def test_more_steps_than_the_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="at most the schedule's 1000 steps, got 1001"):
        build_scheduler(SamplerSettings(num_inference_steps=1001), CONFIG)


@pytest.mark.parametrize("consistent", [False, True], ids=["clip_x0_ddim", "clip_x0"])
def test_clipping_is_diffusers_own_with_and_without_its_noise(
    generator: Generator, consistent: bool
) -> None:
    """What a user of diffusers' DDIM runs by default is one of the two, and the two are not the
    same.
    """
    settings = SamplerSettings(name="ddim", num_inference_steps=8, network_batch=4)
    start = 3 * torch.randn(4, *generator.noise_shape, generator=torch.Generator().manual_seed(0))
    guard = use().defense("clip_x0" if consistent else "clip_x0_ddim")
    found = denoise(generator, start, [], settings, [guard])
    options = {"clip_sample": True, "set_alpha_to_one": True, "timestep_spacing": "leading"}
    scheduler = DDIMScheduler.from_config({**generator.scheduler_config, **options})
    scheduler.set_timesteps(8)
    x = start
    with torch.no_grad():
        for step in scheduler.timesteps:
            said = generator.predict_noise(
                x.contiguous(memory_format=torch.channels_last), torch.full((4,), int(step))
            )
            x = scheduler.step(said, step, x, use_clipped_model_output=consistent).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    other = denoise(
        generator, start, [], settings, [use().defense("clip_x0_ddim" if consistent else "clip_x0")]
    )
    assert float((other - found).abs().max()) > 0.05


@pytest.mark.parametrize("sampler", ["ddpm", "dpm_solver++"])
def test_under_other_samplers_the_noise_always_follows(generator: Generator, sampler: str) -> None:
    settings = SamplerSettings(name=sampler, num_inference_steps=4, network_batch=2)
    start = 3 * torch.randn(2, *generator.noise_shape, generator=torch.Generator().manual_seed(0))
    one, other = (
        denoise(generator, start, sample_streams(0, range(2)), settings, [use().defense(name)])
        for name in ("clip_x0", "clip_x0_ddim")
    )
    assert torch.equal(one, other)


#: Stable Diffusion v1's, as diffusers writes it.
STABLE = CONFIG | {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}
STABLE |= {"steps_offset": 1, "set_alpha_to_one": False}


def test_stable_diffusion_keeps_its_own_ends_under_ddim() -> None:
    """Its pipeline runs timesteps 981 to 1 and ends in timestep 0's share of the image; other ends
    are another sampler.
    """
    ours = build_scheduler(SamplerSettings(name="ddim", num_inference_steps=50), STABLE)
    theirs = DDIMScheduler.from_config(STABLE)
    theirs.set_timesteps(50)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist() and int(ours.timesteps[0]) == 981
    assert (
        float(ours.final_alpha_cumprod)
        == float(theirs.final_alpha_cumprod)
        == pytest.approx(0.99915, abs=1e-5)
    )
    x, said = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.3)
    for step in (981, 501, 1):
        assert torch.equal(
            ours.step(said, step, x).prev_sample, theirs.step(said, step, x).prev_sample
        )


def test_a_model_that_says_nothing_of_its_ends_runs_from_first_timestep_to_whole_image() -> None:
    ours = build_scheduler(SamplerSettings(name="ddim", num_inference_steps=50), CONFIG)
    assert (int(ours.timesteps[0]), int(ours.timesteps[-1]), float(ours.final_alpha_cumprod)) == (
        980,
        0,
        1.0,
    )


@given(
    name=st.sampled_from(["ddpm", "ddim"]),
    steps=st.integers(1, 100),
    offset=st.integers(0, 3),
    spacing=st.sampled_from(SPACINGS),
)
def test_no_step_leaves_the_schedule_and_trailing_begins_at_its_end(
    name: str, steps: int, offset: int, spacing: str
) -> None:
    """As many steps as the schedule has, with Stable Diffusion's offset of one, would ask for a
    timestep that does not exist.
    """
    config = STABLE | {"num_train_timesteps": 100, "steps_offset": offset}
    settings = SamplerSettings(name=name, num_inference_steps=steps, spacing=spacing)
    if spacing == "trailing" and 100 % steps:
        with pytest.raises(ValueError, match="must divide the schedule's 100 steps"):
            build_scheduler(settings, config)
        return
    scheduler = build_scheduler(settings, config)
    timesteps = scheduler.timesteps.tolist()
    assert len(timesteps) == steps and timesteps == sorted(set(timesteps), reverse=True)
    assert 0 <= timesteps[-1] and timesteps[0] <= 99
    assert spacing != "trailing" or timesteps[0] == 99


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_either_spacing_follows_the_exact_predictor(name: str, spacing: str) -> None:
    """Trailing steps that led elsewhere would draw something else than the model learnt."""
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = SamplerSettings(name=name, num_inference_steps=20, spacing=spacing, network_batch=2)
    found = sample(Oracle(image), 2, 0, settings)
    torch.testing.assert_close(found, image.expand(2, -1, -1, -1), atol=1e-3, rtol=0)
