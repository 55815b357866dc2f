"""Restoring corrupted images: what a reader of "it recovers the original" would read wrongly if the
corruption, the place where denoising begins, or its noise level were another.
"""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.restoring import (
    BLUR,
    CORRUPTIONS,
    FROM_THE_END,
    Inpainting,
    Later,
    missing,
    restore,
)
from bench.diffusion.sampling import SAMPLERS, STOCHASTIC, SamplerSettings, Scheduled, denoise
from bench.registry import use

CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
}
SHAPE = (3, 8, 8)
ABLE = [name for name in SAMPLERS if name not in FROM_THE_END]


class Normal:
    """The exact predictor of pixels that are normal with :attr:`mean` and :attr:`deviation`;
    deviation 0 is one image.
    """

    device = torch.device("cpu")

    def __init__(self, mean: float = 0.3, deviation: float = 0.4) -> None:
        self.mean, self.deviation, self.scheduler_config = mean, deviation, dict(CONFIG)
        self.alphas_cumprod = DDPMScheduler.from_config(CONFIG).alphas_cumprod.double()
        self.asked: list[int] = []

    def predict_noise(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self.asked.append(int(timesteps[0]))
        alpha = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        centred = x.double() - alpha.sqrt() * self.mean
        return ((1 - alpha).sqrt() * centred / (alpha * self.deviation**2 + 1 - alpha)).float()

    def end_of(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
        """Where the probability flow leads from ``x``: it keeps each pixel's quantile."""
        alpha = self.alphas_cumprod[timestep]
        spread = (alpha * self.deviation**2 + 1 - alpha).sqrt()
        return self.mean + self.deviation * (x.double() - alpha.sqrt() * self.mean) / spread


def noise(count: int, purpose: str = "here") -> torch.Tensor:
    return initial_noise(sample_streams(0, range(count), purpose), SHAPE)


@pytest.mark.parametrize(
    ("corruption", "side", "rows", "columns"),
    [
        ("line", 16, (0, 16), (7, 8)),  # the formula gives none
        ("line", 32, (0, 32), (15, 16)),
        ("line", 256, (0, 256), (116, 134)),
        ("box", 16, (6, 10), (6, 10)),
        ("box", 32, (11, 21), (11, 21)),
        ("box", 256, (86, 170), (86, 170)),
    ],
)
def test_what_is_missing_is_what_the_released_code_crops(corruption, side, rows, columns) -> None:
    """VillanDiffusion's numbers: a line of 1 pixel of 32 and 18 of 256, boxes of 10 and 84."""
    slow = [
        [rows[0] <= row < rows[1] and columns[0] <= column < columns[1] for column in range(side)]
        for row in range(side)
    ]
    assert torch.equal(missing(corruption, side, side), torch.tensor(slow))


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_image_is_a_new_one_and_differs_where_it_should(corruption: str) -> None:
    images, added = torch.linspace(-0.9, 1, 192).reshape(1, *SHAPE), noise(1)
    before = images.clone()
    corrupted = Inpainting(corruption=corruption).corrupted(images, added)
    assert torch.equal(images, before)
    if corruption == "blur":
        assert torch.equal(corrupted, images + BLUR * added)
    else:
        hole = missing(corruption, 8, 8).expand_as(images)
        assert hole.any() and not hole.all()
        assert bool((corrupted[hole] == -1).all())
        assert torch.equal(corrupted[~hole], images[~hole])


def test_the_two_readings_begin_where_they_say() -> None:
    """One with the image, the other with what the forward process makes of it."""
    image, added = torch.full((1, *SHAPE), 0.5), noise(1)
    plain, matched = (
        Inpainting(corruption="box", reading=reading).begins(image, added, 0.36)
        for reading in ("as_released", "variance_matched")
    )
    assert torch.equal(plain, image)
    torch.testing.assert_close(matched, 0.6 * image + 0.8 * added)


def _end(settings: SamplerSettings, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes of x_t that the model holds for likely, and where the flow leads from there."""
    normal, streams = Normal(), sample_streams(0, range(count))
    later = Later(settings, CONFIG, streams, start)
    alpha = float(normal.alphas_cumprod[later.timesteps[0]])
    spread = math.sqrt(alpha * normal.deviation**2 + 1 - alpha)
    x = alpha**0.5 * normal.mean + spread * initial_noise(streams, SHAPE)
    exact = normal.end_of(x, later.timesteps[0])
    images = denoise(normal, x, streams, settings, reverse=later)  # type: ignore[arg-type]
    assert normal.asked == later.timesteps and max(normal.asked) <= start
    return images.double(), exact


@pytest.mark.parametrize("name", [name for name in ABLE if name not in STOCHASTIC])
def test_a_sampler_that_begins_later_follows_the_flow_from_there(name: str) -> None:
    """On normal data the flow has a closed form. The multistep solvers begin without a history, and
    must look their first step up; one that integrated from the schedule's end would be off by the
    whole spread.
    """
    errors = []
    for steps in (20, 100, 500):
        settings = SamplerSettings(name=name, num_inference_steps=steps)
        images, exact = _end(settings, 399, 4)
        errors.append(float((images - exact).abs().max()))
    assert errors[0] > max(errors[1:]) and errors[1] < 0.1 and errors[2] < 0.02


@pytest.mark.parametrize(("name", "eta"), [("ddpm", 0.0), ("sde_dpm_solver++", 0.0), ("ddim", 1.0)])
def test_a_stochastic_one_draws_the_models_own_spread(name: str, eta: float) -> None:
    settings = SamplerSettings(name=name, num_inference_steps=500, eta=eta)
    images, exact = _end(settings, 399, 64)
    assert float((images - exact).abs().mean()) > 0.1, "no noise was added"
    assert float(images.mean()) == pytest.approx(Normal().mean, abs=0.015)
    assert float(images.std()) == pytest.approx(Normal().deviation, rel=0.04)


@pytest.mark.parametrize("clip", ["none", "x0", "xt"])
def test_the_rest_of_the_way_is_the_whole_ways(clip: str) -> None:
    """Under DDIM, step by step: from where the whole sampler is at the 12th call the later one goes
    on to the same bits, clipped or not; and a defense that keeps the noise acts alike.
    """
    settings = SamplerSettings(name="ddim", num_inference_steps=20, clip=clip)
    guards = [use().build("defenses", "clip_x0_ddim")]
    visited: dict[int, torch.Tensor] = {}

    def keep(timestep: int, x: torch.Tensor) -> None:
        visited[timestep] = x

    x, normal = 2 * noise(2), Normal(mean=1.5)
    end = denoise(normal, x, [], settings, guards, trajectory=keep)  # type: ignore[arg-type]
    timesteps = Scheduled(settings, CONFIG, []).timesteps
    later = Later(settings, CONFIG, [], timesteps[12])
    assert later.timesteps == timesteps[12:]
    same = denoise(normal, visited[timesteps[11]], [], settings, guards, reverse=later)  # type: ignore[arg-type]
    assert torch.equal(end, same)


@pytest.mark.parametrize("name", FROM_THE_END)
def test_samplers_that_cannot_begin_between_their_steps_are_refused(name: str) -> None:
    """Their first step is unlike the others: the result would follow no flow."""
    with pytest.raises(ValueError, match=f"must be one of ddpm, .*, got {name}"):
        Later(SamplerSettings(name=name, num_inference_steps=20), CONFIG, [], 399)


def test_a_start_below_every_step_is_refused() -> None:
    settings = SamplerSettings(name="ddim", num_inference_steps=10, spacing="trailing")
    with pytest.raises(ValueError, match="start must be at or above .* last step, got 98"):
        Later(settings, CONFIG, [], 98)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("corruption", "smear", "corruption must be .*blur.*, got 'smear'"),
        ("reading", "other", "reading must be .*as_released.*, got 'other'"),
        ("start", -1, "start must be .*0.*, got -1"),
    ],
)
def test_a_bad_task_is_one_line(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Inpainting(**{"corruption": "box", field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("reading", ["as_released", "variance_matched"])
def test_an_exact_predictor_restores_the_only_image_there_is(reading: str) -> None:
    one, task = Normal(mean=0.4, deviation=0), Inpainting(corruption="box", reading=reading)
    corrupted = task.corrupted(torch.full((3, *SHAPE), 0.4), noise(3))
    settings = SamplerSettings(name="ddim", num_inference_steps=25)
    restored = restore(one, corrupted, 0, settings, task)  # type: ignore[arg-type]
    assert float((restored - 0.4).abs().max()) < 0.01
    assert set(one.asked) == set(range(0, 400, 40))


def test_a_row_depends_on_its_own_index_alone() -> None:
    """Or a resumed set would not be the same set."""
    task, settings = (
        Inpainting(corruption="blur", reading="variance_matched"),
        SamplerSettings(name="ddpm", num_inference_steps=10, network_batch=2),
    )
    corrupted = task.corrupted(torch.zeros(5, *SHAPE), noise(5))
    whole = restore(Normal(), corrupted, 3, settings, task)  # type: ignore[arg-type]
    part = restore(Normal(), corrupted[3:], 3, settings, task, first=3)  # type: ignore[arg-type]
    assert torch.equal(whole[3:], part)
    other = restore(Normal(), corrupted, 4, settings, task)  # type: ignore[arg-type]
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("defense", ["clip_x0", "clip_xt"])
def test_a_sampler_defense_acts_at_every_step(defense: str) -> None:
    """A picture that lies outside the range is not reached by who clips, and is by who does not."""
    guards = [use().build("defenses", defense)]
    task, settings = Inpainting(corruption="box"), SamplerSettings(num_inference_steps=50)
    far, seen = Normal(mean=3.0, deviation=0), []
    later = Later(settings, CONFIG, sample_streams(0, range(2)), task.start)
    for those in ([], guards):
        x = denoise(
            far,  # type: ignore[arg-type]
            torch.zeros(2, *SHAPE),
            sample_streams(0, range(2)),
            settings,
            those,
            reverse=Later(settings, CONFIG, sample_streams(0, range(2)), task.start),
            trajectory=lambda timestep, x: seen.append(timestep),
        )
        assert bool((x > 2.5).all()) is not bool(those)
    assert seen == later.timesteps * 2
