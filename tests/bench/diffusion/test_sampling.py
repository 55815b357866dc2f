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
from bench.diffusion.inpainting import Known
from bench.diffusion.noise import initial_noise, sample_streams, stream_seed
from bench.diffusion.sampling import (
    CLIPS,
    CORRECTING,
    SAMPLERS,
    SPACED,
    SPACINGS,
    STOCHASTIC,
    SamplerSettings,
    Scheduled,
    build_scheduler,
    check_steps,
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


#: Every sampler with every way to clip that it knows.
CLIPPED = [
    (name, clip) for name in SAMPLERS for clip in CLIPS if clip != "xt" or name not in CORRECTING
]
DETERMINISTIC = [name for name in SAMPLERS if name not in STOCHASTIC]


@pytest.mark.parametrize(("name", "clip"), CLIPPED)
def test_exact_predictor_is_followed_to_its_image(name: str, clip: str) -> None:
    """Every sampler, clipped or not, ends in the only image there is, when that image is inside the
    range.
    """
    image = torch.linspace(-0.9, 0.9, 3 * 8 * 8).reshape(3, 8, 8)
    oracle = Oracle(image)
    steps = 100 if clip == "xt" else 25
    images = sample(oracle, 3, 0, SamplerSettings(name=name, num_inference_steps=steps, clip=clip))
    tolerance = {"dpm_solver": 0.05, "deis": 0.05}.get(name, 0.02)
    assert (images - image).abs().max() < tolerance


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("clip", "escapes"), [("none", True), ("x0", False)])
def test_nothing_clips_by_default(name: str, clip: str, escapes: bool) -> None:
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
    within = 1.05 if name in ("dpm_solver", "deis") else 1.001  # they end at the first timestep
    assert bool((images <= within).all()) is not escapes


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


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in CORRECTING])
def test_xt_clipping_clamps_after_every_step(generator: Generator, name: str) -> None:
    """What the network is asked about next never left the range, a trial point neither."""
    settings = SamplerSettings(name=name, num_inference_steps=10, clip="xt")
    streams = sample_streams(0, range(2))
    seen: list[float] = []
    inputs: list[float] = []

    class Listening(Generator):
        def predict_noise(self, x, timesteps, labels=None):
            inputs.append(float(x[:2].abs().max()))
            return super().predict_noise(x, timesteps, labels)

    denoise(
        Listening(generator.unet, generator.scheduler_config),
        initial_noise(streams, (3, 8, 8)),
        streams,
        settings,
        trajectory=lambda timestep, x: seen.append(float(x.abs().max())),
    )
    assert len(seen) == settings.network_calls == {"heun": 19, "pndm": 11}.get(name, 10)
    assert max(seen) <= 1 and len(inputs) == len(seen) and max(inputs[1:]) <= 1


def test_a_guard_of_the_step_is_refused_where_the_corrector_would_undo_it(
    generator: Generator,
) -> None:
    """UniPC's next prediction replaces x by one formed from the step before: a clamp in between
    would be in the record and nowhere else.
    """
    streams = sample_streams(0, range(2))
    start = 3 * initial_noise(streams, (3, 8, 8))
    settings = SamplerSettings(name="unipc", num_inference_steps=4, network_batch=2)
    with pytest.raises(ValueError, match="unipc forms x anew .* at timestep 999"):
        denoise(generator, start, streams, settings, [use().defense("clip_xt")])
    clipped = denoise(generator, start, streams, settings, [use().defense("clip_x0")])
    assert not torch.equal(clipped, denoise(generator, start, streams, settings))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_known_part_is_at_its_share_of_noise_whenever_the_network_is_asked(name: str) -> None:
    """At the trial points too, and there to the last bit at the end; not at all under a sampler
    that would undo it.
    """
    picture = torch.linspace(-0.9, 0.9, 3 * 8 * 8).reshape(1, 3, 8, 8).expand(2, -1, -1, -1)
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :4] = True
    settings = SamplerSettings(name=name, num_inference_steps=10, network_batch=2)
    streams = sample_streams(0, range(2))
    start = initial_noise(streams, (3, 8, 8))
    oracle, deviations = Oracle(torch.zeros(3, 8, 8)), []
    predict = oracle.predict_noise
    alphas = oracle.alphas_cumprod.double()

    def listening(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        alpha = float(alphas[timesteps[0]])
        deviations.append(
            (x - (alpha**0.5 * picture + (1 - alpha) ** 0.5 * start))[:, :, :4].abs().max()
        )
        return predict(x, timesteps)

    oracle.predict_noise = listening  # type: ignore[method-assign]
    known = Known(picture, start, mask)
    if name in CORRECTING:
        with pytest.raises(ValueError, match="no part of the picture can be put back"):
            denoise(oracle, start, streams, settings, known=known)  # type: ignore[arg-type]
        return
    images = denoise(oracle, start, streams, settings, known=known)  # type: ignore[arg-type]
    assert len(deviations) == settings.network_calls and max(deviations) < 1e-5
    assert torch.equal(images[:, :, :4], picture[:, :, :4])


class Normal(Oracle):
    """The exact noise predictor of pixels that are independent normal numbers."""

    mean, deviation = 0.3, 0.4

    def __init__(self, config: dict) -> None:
        super().__init__(torch.zeros(3, 8, 8))
        self.scheduler_config = dict(config)
        self.alphas_cumprod = DDPMScheduler.from_config(config).alphas_cumprod.double()

    def predict_noise(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        alpha = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        centred = x.double() - alpha.sqrt() * self.mean
        return ((1 - alpha).sqrt() * centred / (alpha * self.deviation**2 + 1 - alpha)).float()

    def end_of(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
        """Where the probability flow leads from ``x``: it keeps each pixel's quantile."""
        alpha = self.alphas_cumprod[timestep]
        spread = (alpha * self.deviation**2 + 1 - alpha).sqrt()
        return self.mean + self.deviation * (x.double() - alpha.sqrt() * self.mean) / spread

    def drawn(self, settings: SamplerSettings, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples, and where the flow leads from the same noise."""
        streams = sample_streams(0, range(count))
        start = initial_noise(streams, (3, 8, 8))
        first = int(build_scheduler(settings, self.scheduler_config).timesteps[0])
        images = denoise(self, start, streams, settings)  # type: ignore[arg-type]
        return images.double(), self.end_of(start, first)


#: Largest error of a pixel (of deviation 0.4) after 20 steps: first order, second, and higher.
AFTER_20 = {"ddim": 0.3, "dpm_solver": 0.3, "dpm_solver++": 0.2, "unipc": 0.2, "deis": 0.1}
AFTER_20 |= {"heun": 0.15, "pndm": 0.02}


@pytest.mark.parametrize("table", ["linear", "scaled_linear"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_deterministic_sampler_follows_the_models_own_flow(name: str, table: str) -> None:
    """On normal data the flow has a closed form. The error shrinks as the steps grow, to nothing
    but rounding and, for those that end there, the first timestep's noise; under another table of
    betas, which a sampler that kept its own would miss.
    """
    config = CONFIG | ({} if table == "linear" else {"beta_end": 0.012, "beta_schedule": table})
    spacing = "trailing" if name in SPACED else "leading"
    errors = []
    for steps in (10, 20, 100, 500):
        settings = SamplerSettings(name=name, num_inference_steps=steps, spacing=spacing)
        images, exact = Normal(config).drawn(settings, 4)
        errors.append(float((images - exact).abs().max()))
    assert min(errors[:2]) > errors[2] > 0 and errors[0] > 2 * errors[2]
    assert errors[1] < AFTER_20[name]
    assert errors[3] < (0.012 if name == "ddim" else 0.003)


@pytest.mark.parametrize(
    ("name", "eta"), [("ddpm", 0.0), ("sde_dpm_solver++", 0.0), ("ddim", 0.5), ("ddim", 1.0)]
)
def test_every_stochastic_sampler_draws_the_models_own_spread(name: str, eta: float) -> None:
    """Mean and deviation of 64 x 192 normal pixels: the standard error is .6 % of the deviation."""
    bias = []
    for steps in (10, 40, 500):
        settings = SamplerSettings(name=name, num_inference_steps=steps, eta=eta)
        images, flowed = Normal(CONFIG).drawn(settings, 64)
        assert float((images - flowed).abs().mean()) > 0.1, "no noise was added"
        assert float(images.mean()) == pytest.approx(Normal.mean, abs=0.015)
        bias.append(abs(float(images.std()) / Normal.deviation - 1))
    assert bias[0] > bias[1] > bias[2] and bias[2] < 0.03


def test_ddim_with_all_the_noise_is_ddpm_and_without_is_as_it_was(generator: Generator) -> None:
    """Song et al. 2021, section 4.1: eta 1 is DDPM with the smaller variance."""
    ddim = SamplerSettings(name="ddim", num_inference_steps=8)
    full = sample(Normal(CONFIG), 4, 0, replace(ddim, eta=1.0))
    ddpm = sample(Normal(CONFIG), 4, 0, SamplerSettings(name="ddpm", num_inference_steps=8))
    torch.testing.assert_close(full, ddpm, rtol=0, atol=1e-4)
    plain, again = (sample(generator, 4, 0, one) for one in (ddim, replace(ddim, eta=0.0)))
    some = sample(generator, 4, 0, replace(ddim, eta=0.2))
    assert torch.equal(plain, again) and float((some - plain).abs().amax((1, 2, 3)).min()) > 0.01


@pytest.mark.parametrize("consistent", [False, True], ids=["clip_x0_ddim", "clip_x0"])
def test_clipping_under_noisy_ddim_is_diffusers_own(generator: Generator, consistent: bool) -> None:
    settings = SamplerSettings(name="ddim", num_inference_steps=8, network_batch=4, eta=0.6)
    start = 3 * torch.randn(4, *generator.noise_shape, generator=torch.Generator().manual_seed(0))
    guard = use().defense("clip_x0" if consistent else "clip_x0_ddim")
    images = denoise(generator, start, sample_streams(1, range(4)), settings, [guard])
    options = {"clip_sample": True, "set_alpha_to_one": True, "timestep_spacing": "leading"}
    scheduler = DDIMScheduler.from_config({**generator.scheduler_config, **options})
    scheduler.set_timesteps(8)
    x, streams = start, sample_streams(1, range(4))
    with torch.no_grad():
        for step in scheduler.timesteps:
            predicted = generator.predict_noise(
                x.contiguous(memory_format=torch.channels_last), torch.full((4,), int(step))
            )
            x = scheduler.step(
                predicted, step, x, 0.6, use_clipped_model_output=consistent, generator=streams
            ).prev_sample
    torch.testing.assert_close(images, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_gives_the_same_bits_again(generator: Generator, name: str) -> None:
    settings = SamplerSettings(name=name, num_inference_steps=5, eta=0.5 * (name == "ddim"))
    first, again = (sample(generator, 3, 2, settings) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize(("name", "eta"), [*((name, 0.0) for name in SAMPLERS), ("ddim", 0.7)])
def test_batch_size_changes_nothing(generator: Generator, name: str, eta: float) -> None:
    """The same seed gives the same images for batches of 1, 7 and 64: every sample has its own
    stream.
    """
    settings = SamplerSettings(name=name, num_inference_steps=6, eta=eta)
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

    way = Scheduled(SamplerSettings(num_inference_steps=1000), dict(CONFIG), [])
    call = way.timesteps.index(timestep)
    changed, beyond = guarded_prediction(way, noise, x, call, [Half()])  # type: ignore[list-item]
    assert beyond is None
    implied = (x - (1 - alphas[timestep]).sqrt() * changed) / alphas[timestep].sqrt()
    torch.testing.assert_close(implied, clean / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "euler"}, "sampler must be one of"),
        ({"name": "ddim", "eta": 1.5}, "eta must be in .0, 1., got 1.5"),
        ({"name": "ddim", "eta": float("nan")}, "eta must be in"),
        ({"name": "heun", "eta": 0.5}, "eta must be 0 for any sampler but ddim, got 0.5"),
        ({"name": "unipc", "clip": "xt"}, "clip must be none or x0 for unipc"),
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


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in SPACED])
def test_a_solver_takes_fewer_steps_than_the_schedule_has(name: str) -> None:
    """Two of its timesteps would be one, and diffusers would divide by the distance between."""
    with pytest.raises(ValueError, match="must be below the schedule's 1000 steps .* got 1000"):
        build_scheduler(SamplerSettings(name=name, num_inference_steps=1000), CONFIG)
    build_scheduler(SamplerSettings(name=name, num_inference_steps=999), CONFIG)


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
    images = denoise(generator, start, [], settings, [guard])
    options = {"clip_sample": True, "set_alpha_to_one": True, "timestep_spacing": "leading"}
    scheduler = DDIMScheduler.from_config({**generator.scheduler_config, **options})
    scheduler.set_timesteps(8)
    x = start
    with torch.no_grad():
        for step in scheduler.timesteps:
            prediction = generator.predict_noise(
                x.contiguous(memory_format=torch.channels_last), torch.full((4,), int(step))
            )
            x = scheduler.step(prediction, step, x, use_clipped_model_output=consistent).prev_sample
    torch.testing.assert_close(images, x, rtol=1e-4, atol=1e-4)
    other = denoise(
        generator, start, [], settings, [use().defense("clip_x0_ddim" if consistent else "clip_x0")]
    )
    assert float((other - images).abs().max()) > 0.05


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
    x, prediction = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.3)
    for step in (981, 501, 1):
        assert torch.equal(
            ours.step(prediction, step, x).prev_sample, theirs.step(prediction, step, x).prev_sample
        )


def test_a_model_that_says_nothing_of_its_ends_runs_from_first_timestep_to_whole_image() -> None:
    ours = build_scheduler(SamplerSettings(name="ddim", num_inference_steps=50), CONFIG)
    assert (int(ours.timesteps[0]), int(ours.timesteps[-1]), float(ours.final_alpha_cumprod)) == (
        980,
        0,
        1.0,
    )


@given(
    name=st.sampled_from(SPACED),
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
    if spacing == "leading" and (steps == 1 or 100 % steps > 10):
        with pytest.raises(ValueError, match="for leading spacing"):
            build_scheduler(settings, config)
        return
    scheduler = build_scheduler(settings, config)
    called = scheduler.timesteps.tolist()
    timesteps = sorted(set(called), reverse=True)
    assert len(timesteps) == steps and called == sorted(called, reverse=True)
    assert len(called) == settings.network_calls and all(step == int(step) for step in called)
    assert 0 <= timesteps[-1] and timesteps[0] <= 99
    assert spacing != "trailing" or timesteps[0] == 99


@pytest.mark.parametrize("name", SPACED)
@pytest.mark.parametrize(("steps", "first"), [(334, 666), (400, 798), (501, 500), (600, 599)])
def test_leading_steps_that_leave_out_the_noisy_end_are_refused(
    name: str, steps: int, first: int
) -> None:
    """Diffusers begins so far below, with plain noise; it draws blurred, alike images."""
    settings = SamplerSettings(name=name, num_inference_steps=steps, spacing="leading")
    with pytest.raises(ValueError, match=rf"\(at timestep {first}\), got {steps}"):
        check_steps(settings, 1000)
    for fine in (2, 3, 7, 20, 30, 50, 100, 250, 300, 500, 999, 1000):
        check_steps(SamplerSettings(name=name, num_inference_steps=fine, spacing="leading"), 1000)


@pytest.mark.parametrize("name", SPACED)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_either_spacing_follows_the_exact_predictor(name: str, spacing: str) -> None:
    """Trailing steps that led elsewhere would draw something else than the model learnt."""
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = SamplerSettings(name=name, num_inference_steps=20, spacing=spacing, network_batch=2)
    images = sample(Oracle(image), 2, 0, settings)
    torch.testing.assert_close(images, image.expand(2, -1, -1, -1), atol=1e-3, rtol=0)
