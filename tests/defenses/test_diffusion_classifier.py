"""The diffusion classifier: with other noise for each class, or another filter, its TA and ASR
would be another method's.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import registry
from bench.contracts.access import Access
from bench.diffusion.images import to_unit_range
from bench.diffusion.schedule import Schedule
from defenses.diffusion_classifier import DiffusionClassifier, _trimmed_mean

SHAPE = (3, 6, 6)
SIZE = 3 * 6 * 6


class Templates:
    """A class-conditional generator in closed form: it takes every image of class y to be
    ``templates[y]``, so the noise it predicts, (x_t - A template) / s, is exact for the right class
    and wrong by A / s (x_0 - template) for another. ``bend`` makes the error depend on the noise
    too, as a network's does.
    """

    def __init__(self, templates: Tensor, bend: float = 0.0) -> None:
        self.templates, self.bend = templates, bend
        self.classes: int | None = len(templates)
        self.schedule = Schedule.linear()
        self.device = torch.device("cpu")
        self.calls, self.largest_batch = 0, 0
        self.requested: dict[int, set[int]] = {}
        self.noise_shape = SHAPE

    def encode(self, images: Tensor) -> Tensor:
        return images

    def predict_noise(self, x: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None and x.dtype == torch.float32
        assert len(x) == len(timesteps) == len(labels) and x.is_contiguous(
            memory_format=torch.channels_last
        )
        self.calls += len(x)
        self.largest_batch = max(self.largest_batch, len(x))
        for timestep, label in zip(timesteps.tolist(), labels.tolist(), strict=True):
            self.requested.setdefault(timestep, set()).add(label)
        schedule = self.schedule
        clean = schedule.at(schedule.signal, timesteps, x) * self.templates[labels]
        bent = self.bend * torch.sin((3 + labels.float()).reshape(-1, 1, 1, 1) * x)
        return (x - clean) / schedule.at(schedule.noise, timesteps, x) + bent


def templates(count: int = 5, seed: int = 0) -> Tensor:
    """(count, *SHAPE) uint8."""
    return torch.randint(
        0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def noisy(images: Tensor, seed: int = 1) -> Tensor:
    """8-bit images with a little noise."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) * 20
    return (images.float() + noise).clamp(0, 255).round().to(torch.uint8)


def access(model: Templates, seed: int = 0) -> Access:
    return Access(
        generator=model,
        rng=np.random.default_rng(seed),
        sample=lambda generator, count: torch.empty(0),
    )  # type: ignore[arg-type]


def scores(defense: DiffusionClassifier, images: Tensor, model: Templates, seed: int = 0) -> Tensor:
    return defense.classify(images, access(model, seed))


def test_it_names_the_class_the_model_denoises_best() -> None:
    """And the direction: the highest score, not the lowest, is the prediction."""
    prints = templates()
    labels = torch.arange(20) % 5
    result = scores(
        DiffusionClassifier(timesteps=5), noisy(prints[labels]), Templates(to_unit_range(prints))
    )
    assert result.shape == (20, 5) and result.dtype == torch.float32 and result.device.type == "cpu"
    assert torch.equal(result.argmax(1), labels)


def test_scores_are_minus_the_mean_error_in_closed_form() -> None:
    """For templates the error does not depend on the noise: (A/s)^2 |x_0 - template|^2 / d at t =
    50, 150, ..., 950.
    """
    prints, images = to_unit_range(templates()), noisy(templates(7, seed=3))
    model = Templates(prints)
    result = scores(DiffusionClassifier(timesteps=10), images, model)
    assert sorted(model.requested) == list(range(50, 1000, 100))
    ratio = (model.schedule.signal / model.schedule.noise)[50::100] ** 2
    distance = (to_unit_range(images)[:, None] - prints).square().mean((2, 3, 4))
    torch.testing.assert_close(result, -distance * float(ratio.mean()), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("count", "first", "step"), [(1, 500, 1000), (30, 16, 33), (1000, 0, 1)])
def test_even_timesteps_start_half_a_step_in(count: int, first: int, step: int) -> None:
    """Li et al.: T // n // 2, then every T // n."""
    model = Templates(to_unit_range(templates(2)))
    scores(DiffusionClassifier(timesteps=count), templates(1, seed=2), model)
    assert sorted(model.requested) == [first + step * index for index in range(count)]


@pytest.mark.parametrize("count", [334, 400, 501, 999])
def test_even_timesteps_that_leave_out_the_noisiest_are_refused(count: int) -> None:
    """501 draws a step of one apart would all lie in the lower half of the levels."""
    defense, model = DiffusionClassifier(timesteps=count), Templates(to_unit_range(templates(2)))
    if count == 999:
        scores(defense, templates(1, seed=2), model)
        assert max(model.requested) == 998
        return
    with pytest.raises(ValueError, match=f"timesteps must be nearly a divisor .* got {count}"):
        scores(defense, templates(1, seed=2), model)


def literally(
    defense: DiffusionClassifier, images: Tensor, model: Templates, seed: int
) -> np.ndarray:
    """The definition, an image, a class and a draw at a time, in float64 wherever the network is
    not asked.
    """
    rng, schedule = np.random.default_rng(seed), model.schedule
    sigmas = np.sqrt(1 - schedule.alphas_cumprod) / np.sqrt(schedule.alphas_cumprod)
    if defense.noise_levels == "even":
        step = 1000 // defense.timesteps
        draws = [(step // 2 + step * index, 1.0) for index in range(defense.timesteps)]
    else:
        draws = []
        for normal in rng.standard_normal(defense.timesteps):
            timestep = min(range(1000), key=lambda t: abs(np.log(sigmas[t]) - (1.2 * normal - 1.2)))
            # EDM's weight (sigma^2 + .25) / (.5 sigma)^2 is for errors in the image, which are
            # sigma^2 times those in the noise.
            draws.append(
                (
                    timestep,
                    (sigmas[timestep] ** 2 + 0.25)
                    / (0.5 * sigmas[timestep]) ** 2
                    * sigmas[timestep] ** 2,
                )
            )
    noises = rng.standard_normal((defense.timesteps, *SHAPE), dtype=np.float32)
    count = int((1 - defense.p_filter) * SIZE)
    expected = np.zeros((len(images), len(model.templates)))
    for row, image in enumerate(images.numpy()):
        for label in range(len(model.templates)):
            errors = []
            for (timestep, weight), noise in zip(draws, noises, strict=True):
                kept_signal = schedule.alphas_cumprod[timestep]
                x = np.sqrt(kept_signal) * (image / 127.5 - 1) + np.sqrt(1 - kept_signal) * noise
                x = torch.from_numpy(x).float()[None].contiguous(memory_format=torch.channels_last)
                predicted = (
                    model.predict_noise(x, torch.tensor([timestep]), torch.tensor([label]))[0]
                    .double()
                    .numpy()
                )
                error = np.abs(predicted - noise).ravel() ** (2 if defense.error == "l2" else 1)
                errors.append(weight * np.sort(error)[:count].mean())
            expected[row, label] = -np.mean(errors)
    return expected


@pytest.mark.parametrize("noise_levels", ["even", "lognormal"])
@pytest.mark.parametrize("error", ["l1", "l2"])
@pytest.mark.parametrize("p_filter", [0.0, 0.07])
def test_it_is_its_literal_definition(noise_levels: str, error: str, p_filter: float) -> None:
    """With errors that depend on the noise, so that fresh noise for a class, an image or a chunk
    would show.
    """
    defense = DiffusionClassifier(
        timesteps=6, noise_levels=noise_levels, error=error, p_filter=p_filter, batch_size=7
    )  # type: ignore[arg-type]
    # Templates near the images: errors stay of the order of 1, and 1e-5 means something.
    model = Templates(0.01 * to_unit_range(templates(4)), bend=0.5)
    images = (127.5 + 2 * to_unit_range(templates(5, seed=4))).round().to(torch.uint8)
    slow = literally(defense, images, model, seed=3)
    assert np.ptp(slow, axis=1).min() > 0.01
    np.testing.assert_allclose(
        scores(defense, images, model, seed=3).numpy(), slow, rtol=1e-5, atol=1e-5
    )


def test_the_filter_trims_what_it_says() -> None:
    """An image of class 1 with a bright trigger of 6 values, on a model that knows the trigger from
    class 0 only, as BadNets leaves it.

    The trigger's error outweighs all else, so the plain classifier obeys the adversary; a filter of
    6 values frees it, of 5 does not.
    """
    prints = torch.zeros(2, *SHAPE)
    prints[0] = 0.1  # everywhere a little different, and
    prints[0, :, :2, 0] = 1.0  # the trigger
    image = torch.full(SHAPE, 127.5)
    image[:, :2, 0] = 255
    images = image.round().to(torch.uint8)[None]

    def predicted(trimmed: float) -> int:
        defense = DiffusionClassifier(timesteps=4, p_filter=trimmed / SIZE)
        return int(scores(defense, images, Templates(prints)).argmax())

    assert [predicted(values) for values in (0, 5, 6, 20)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("p_filter", "count"), [(0.0, 10), (0.1, 9), (0.12, 8), (0.8, 2), (0.999, 1)]
)
def test_the_share_is_rounded_in_favour_of_trimming_and_never_trims_all(
    p_filter: float, count: int
) -> None:
    """int((1 - p) d) values; (1 - 0.8) * 10 is 1.99... in floating point, and a mean of nothing
    would be NaN.
    """
    values = torch.tensor([[9.0, 0, 7, 1, 8, 2, 6, 3, 5, 4], [0.0, 1, 2, 3, 4, 5, 6, 7, 8, 100]])
    expected = values.sort(dim=1).values[:, :count].mean(dim=1)
    torch.testing.assert_close(_trimmed_mean(values, p_filter), expected)


def test_one_huge_error_leaves_no_trace_in_the_rest() -> None:
    """Subtracting the trimmed part from the whole would cancel the kept part away in float32."""
    values = torch.full((1, 10), 1e-3)
    values[0, 4] = 1e8
    torch.testing.assert_close(_trimmed_mean(values, 0.1), torch.tensor([1e-3]))


STAGES = ((3, 4), (2, 10))


def test_pruning_predicts_the_same_with_fewer_calls() -> None:
    prints = templates(8)
    labels = torch.arange(24) % 8
    images, full, fast = (
        noisy(prints[labels]),
        Templates(to_unit_range(prints), 0.2),
        Templates(to_unit_range(prints), 0.2),
    )
    defense = DiffusionClassifier(timesteps=20)
    whole = scores(defense, images, full)
    pruned = scores(dataclasses.replace(defense, keep=STAGES), images, fast)
    assert torch.equal(pruned.argmax(1), whole.argmax(1)) and torch.equal(pruned.argmax(1), labels)
    assert full.calls == 24 * 8 * 20
    assert fast.calls == 24 * (8 * 4 + 3 * 6 + 2 * 10)
    # Classes that stay to the end see every draw, so their scores are the unpruned ones, up to the
    # order of the sum.
    best = whole.topk(2).indices
    torch.testing.assert_close(pruned.gather(1, best), whole.gather(1, best), rtol=1e-5, atol=1e-6)


def test_pruned_classes_follow_below_in_the_order_they_left() -> None:
    """A pruned class has seen other draws: its bare mean could overtake a class that was kept."""
    prints, model = templates(8), Templates(to_unit_range(templates(8)), bend=2.0)
    for seed in range(3):
        images = templates(16, seed=seed)  # of no class: close races
        pruned = scores(DiffusionClassifier(timesteps=20, keep=STAGES), images, model, seed)
        assert torch.isfinite(pruned).all()
        # The classes of each image by stage, found from what the network was asked for.
        for row in range(len(images)):
            watched = Templates(to_unit_range(prints), bend=2.0)
            alone = scores(
                DiffusionClassifier(timesteps=20, keep=STAGES), images[row : row + 1], watched, seed
            )
            times_requested = torch.tensor(
                [
                    sum(label in requested for requested in watched.requested.values())
                    for label in range(8)
                ]
            )
            assert sorted(times_requested.tolist()) == [4] * 5 + [10] + [20] * 2
            ranked = times_requested[alone[0].argsort(descending=True)]
            assert torch.equal(ranked, times_requested.sort(descending=True).values)
            assert len(alone.unique()) == 8
            torch.testing.assert_close(alone[0], pruned[row], rtol=1e-5, atol=1e-6)


def test_pruning_to_one_class_ends_there() -> None:
    """And a pruned class is as far behind as its mean error was: where no draw follows, that gives
    every class its mean error.
    """
    prints = to_unit_range(templates(4))
    model, images = Templates(prints), noisy(templates(4))
    result = scores(DiffusionClassifier(timesteps=50, keep=((1, 3),)), images, model)
    assert torch.equal(result.argmax(1), torch.arange(4)) and model.calls == 4 * 4 * 3
    ratio = (model.schedule.signal / model.schedule.noise)[sorted(model.requested)] ** 2
    distance = (to_unit_range(images)[:, None] - prints).square().mean((2, 3, 4))
    torch.testing.assert_close(result, -distance * float(ratio.mean()), rtol=1e-4, atol=0)


def test_stages_spread_over_all_noise_levels() -> None:
    """The first ten draws of a hundred in order of t would judge by the lowest noise alone."""
    model = Templates(to_unit_range(templates(4)))
    scores(DiffusionClassifier(timesteps=100, keep=((1, 10),)), templates(1), model)
    assert sorted(model.requested) == [55 + 100 * index for index in range(10)]


@pytest.mark.parametrize("keep", [None, STAGES])
def test_batches_and_neighbours_change_nothing(keep: tuple[tuple[int, int], ...] | None) -> None:
    images, prints = templates(9, seed=5), to_unit_range(templates(5))
    defense = DiffusionClassifier(timesteps=12, p_filter=0.05, keep=keep)
    whole = scores(defense, images, Templates(prints, 0.3))
    for size in (1, 4, 1000):
        model = Templates(prints, 0.3)
        pieces = scores(dataclasses.replace(defense, batch_size=size), images, model)
        torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=1e-6)
        assert model.largest_batch == min(size, 9 * 5)
    alone = torch.cat(
        [scores(defense, image[None], Templates(prints, 0.3)) for image in images.flip(0)]
    ).flip(0)
    torch.testing.assert_close(alone, whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("noise_levels", ["even", "lognormal"])
def test_the_seed_is_the_only_chance(noise_levels: str) -> None:
    images, model = (
        templates(3, seed=6),
        Templates(to_unit_range(templates(4)).requires_grad_(), bend=0.5),
    )
    before = images.clone()
    defense = DiffusionClassifier(timesteps=5, noise_levels=noise_levels)  # type: ignore[arg-type]
    torch.manual_seed(0)
    first = scores(defense, images, model, seed=1)
    torch.manual_seed(99)
    assert torch.equal(first, scores(defense, images, model, seed=1))
    assert not torch.equal(first, scores(defense, images, model, seed=2))
    assert torch.equal(images, before) and not first.requires_grad


def test_parameters_from_a_suite_build_the_same_plugin() -> None:
    """YAML and JSON know lists only."""
    plugin = DiffusionClassifier(p_filter=0.1, keep=STAGES)
    params = json.loads(json.dumps(plugin.params()))
    assert params["keep"] == [[3, 4], [2, 10]]
    assert registry.build("defenses", "diffusion_classifier", params) == plugin
    assert plugin.label().startswith("diffusion_classifier(p_filter=0.1")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"p_filter": 1.0}, r"p_filter must be in \[0, 1\), got 1.0"),
        ({"timesteps": 0}, "timesteps must be from 1 to 1,000, got 0"),
        ({"timesteps": 1001}, "timesteps must be from 1 to 1,000, got 1001"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"error": "l3"}, "error must be one of 'l1', 'l2', got 'l3'"),
        ({"noise_levels": "odd"}, "noise_levels must be one of 'even', 'lognormal', got 'odd'"),
        ({"keep": ((0, 5),)}, "keep must be null or stages"),
        ({"keep": ((2, 5), (3, 9))}, "keep must be null or stages"),
        ({"keep": ((3, 9), (2, 5))}, "keep must be null or stages"),
        ({"keep": ((3, 100),)}, "keep must be null or stages"),
    ],
)
def test_bad_parameters_are_refused(params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"diffusion_classifier: {message}"):
        DiffusionClassifier(**params)


def test_generators_it_cannot_work_with_are_refused() -> None:
    model = Templates(to_unit_range(templates(2)))
    model.schedule = Schedule.linear(500)
    with pytest.raises(ValueError, match="timesteps must be at most the model's 500, got 501"):
        scores(DiffusionClassifier(timesteps=501), templates(1), model)
    model.classes = None
    with pytest.raises(ValueError, match="must be class-conditional"):
        scores(DiffusionClassifier(), templates(1), model)
