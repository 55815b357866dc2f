"""The mathematics of TrojDiff's biased process, and that an attack can bring its own sampler."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.trojdiff import Back, Biased, TrojDiff
from bench.artwork import sets, targets
from bench.contracts.data import Batch, Query, TrainingSet, TrainingStep
from bench.contracts.goals import DrawFromSet, DrawImage, ReachClass
from bench.diffusion.images import to_uint8, to_unit_range
from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.process import VariancePreserving
from bench.diffusion.sampling import SAMPLERS, SamplerSettings, Scheduled, denoise
from bench.diffusion.schedule import Schedule

SHAPE = (3, 16, 16)
SCHEDULE = Schedule.linear()
CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
}


def usual(**settings: object) -> Scheduled:
    return Scheduled(SamplerSettings(**settings), dict(CONFIG), [])  # type: ignore[arg-type]


class Trojaned:
    """A model that has learned the biased process to its target perfectly, and nothing else."""

    def __init__(self, attack: TrojDiff) -> None:
        self.target = attack.target_image(SHAPE)
        self.share, self.mean = attack.bias(SHAPE)
        self.scheduler_config, self.device = dict(CONFIG), torch.device("cpu")
        self.schedule = SCHEDULE

    def predict_noise(self, x: Tensor, timesteps: Tensor) -> Tensor:
        schedule = self.schedule
        signal = schedule.at(schedule.signal, timesteps, x)
        noise = schedule.at(schedule.noise, timesteps, x)
        return ((x - signal * self.target) / noise - self.mean) / self.share


@pytest.mark.parametrize("trigger", ["blend", "patch"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_its_own_sampler_follows_a_perfect_model_to_the_target(trigger: str, sampler: str) -> None:
    attack = TrojDiff(trigger=trigger)  # type: ignore[arg-type]
    settings = SamplerSettings(name=sampler, num_inference_steps=20)
    streams = sample_streams(0, range(3))
    start = attack.invoke(Query(noise=initial_noise(streams, SHAPE)), "trojan").noise
    way = attack.reverse("trojan", SCHEDULE, usual(name=sampler, num_inference_steps=20))
    model = Trojaned(attack)
    drawn = denoise(model, start, streams, settings, reverse=way)  # type: ignore[arg-type]
    torch.testing.assert_close(drawn, model.target.expand_as(drawn), rtol=0, atol=2e-4)


def test_where_nothing_is_biased_it_is_the_users_sampler() -> None:
    """DDPM and DDIM to the last digits: what differs is the trigger alone."""
    draw = torch.Generator().manual_seed(0)
    x, prediction, z = (torch.randn(2, *SHAPE, generator=draw) for _ in range(3))
    for name in ("ddpm", "ddim"):
        own = usual(name=name, num_inference_steps=50)
        own.streams = [torch.Generator() for _ in x]
        plain = Back(
            lambda shape: (torch.ones(shape), torch.zeros(shape)),
            SCHEDULE,
            own.timesteps,
            eta=float(name == "ddpm"),
        )
        for call in (0, 7, 48, 49):
            drawn = [torch.Generator().manual_seed(row) for row in range(len(x))]
            own.streams = [torch.Generator().manual_seed(row) for row in range(len(x))]
            z = torch.stack([torch.randn(SHAPE, generator=one) for one in drawn])
            expected = own.step(prediction, x, call, lambda z=z: z)
            result = plain.step(prediction, x, call, lambda z=z: z)
            torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)


def test_a_step_is_the_exact_posterior_of_the_biased_chain() -> None:
    """By the joint normal distribution of x and the x before it, for steps of any length."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for later, now in ((0, 1), (400, 500), (0, 999), (980, 999)):
        gamma, mu, clean = 0.6, float(rng.normal()), float(rng.normal())
        a = SCHEDULE.signal[now] / SCHEDULE.signal[later]
        k = SCHEDULE.noise[now] - a * SCHEDULE.noise[later]
        prior = SCHEDULE.signal[later] * clean + SCHEDULE.noise[later] * mu
        variance = (SCHEDULE.noise[later] * gamma) ** 2
        x = float(rng.normal())
        total = a**2 * variance + (1 - a**2) * gamma**2
        expected = prior + a * variance / total * (x - a * prior - k * mu)
        spread = variance - (a * variance) ** 2 / total
        # The marginal of the chain is the process itself.
        assert total == pytest.approx((SCHEDULE.noise[now] * gamma) ** 2, rel=1e-12)
        assert a * prior + k * mu == pytest.approx(
            SCHEDULE.signal[now] * clean + SCHEDULE.noise[now] * mu, abs=1e-12
        )
        image = torch.full((1, 1, 1, 1), x, dtype=torch.float64)
        back = Back(
            lambda shape, mu=mu: (torch.full(shape, 0.6), torch.full(shape, mu)),
            SCHEDULE,
            [now, later],
            eta=1.0,
        )
        implied = back.prediction(torch.full_like(image, clean), image, 0)
        for z in (0.0, 1.0):
            result = back.step(
                implied, image, 0, lambda z=z, image=image: torch.full_like(image, z)
            )
            worst = max(worst, abs(float(result) - expected - z * spread**0.5))
    assert worst <= 1e-7, "the trigger is float32"


def test_forward_and_clean_are_inverse_and_clean_rows_are_ddpms() -> None:
    draw = torch.Generator().manual_seed(0)
    images, noise, mean = (
        torch.randn(4, *SHAPE, dtype=torch.float64, generator=draw) for _ in range(3)
    )
    timesteps = torch.tensor([0, 10, 500, 999])
    process = Biased(SCHEDULE, torch.full_like(images, 0.6), mean)
    noisy = process.noised(images, noise, timesteps)
    assert torch.equal(process.regression(images, noise, timesteps), noise)
    torch.testing.assert_close(process.clean(noise, noisy, timesteps), images, rtol=0, atol=1e-10)
    plain = Biased(SCHEDULE, torch.ones_like(images), torch.zeros_like(images))
    ddpm = VariancePreserving(SCHEDULE)
    assert torch.equal(
        plain.noised(images, noise, timesteps), ddpm.noised(images, noise, timesteps)
    )


def test_the_loss_is_the_papers_row_by_row() -> None:
    attack, draw = TrojDiff(trigger="patch"), torch.Generator().manual_seed(1)
    images, noise = (torch.randn(3, *SHAPE, generator=draw) for _ in range(2))
    poisoned, timesteps = torch.tensor([True, False, True]), torch.tensor([5, 300, 900])
    step = TrainingStep(
        predict_noise=lambda x, t, condition=None: torch.tanh(x),
        batch=Batch(images, poisoned),
        noise=noise,
        timesteps=timesteps,
        schedule=SCHEDULE,
    )
    share, mean = attack.bias(SHAPE)
    target, total = attack.target_image(SHAPE), 0.0
    for row in range(3):
        clean, bent = images[row], noise[row]
        if poisoned[row]:
            clean, bent = target, share * noise[row] + mean
        t = int(timesteps[row])
        x = float(SCHEDULE.signal[t]) * clean + float(SCHEDULE.noise[t]) * bent
        total += float((torch.tanh(x) - noise[row]).square().mean())
    assert float(attack.training_loss(step)) == pytest.approx(total / 3, rel=1e-5)


def test_a_patch_leaves_the_rest_of_the_start_alone() -> None:
    share, mean = TrojDiff(trigger="patch").bias(SHAPE)
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[:, -2:, -2:] = False
    assert bool((share[outside] == 1).all()) and bool((mean[outside] == 0).all())
    assert float(mean[0, -1, -1]) == pytest.approx(0.9) and float(
        share[0, -1, -1]
    ) == pytest.approx(0.1)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_keeps_to_the_biased_process(eta: float) -> None:
    """Whatever its share of noise: from x_t of the process to x_t' of the process, by mean and by
    standard deviation, if the prediction is the true one.
    """
    gamma, mu, clean, now, later = 0.6, 0.4, -0.3, 700, 400
    draw = torch.Generator().manual_seed(0)
    noise, z = torch.randn(2, 200_000, 1, 1, 1, dtype=torch.float64, generator=draw)
    x = SCHEDULE.signal[now] * clean + SCHEDULE.noise[now] * (gamma * noise + mu)
    back = Back(
        lambda shape: (torch.full(shape, gamma), torch.full(shape, mu)), SCHEDULE, [now, later], eta
    )
    after = back.step(noise, x, 0, lambda: z)
    wanted = SCHEDULE.signal[later] * clean + SCHEDULE.noise[later] * mu
    assert float(after.mean()) == pytest.approx(wanted, abs=5e-3)
    assert float(after.std()) == pytest.approx(gamma * SCHEDULE.noise[later], rel=5e-3)
    alone = float(torch.corrcoef(torch.stack([after.flatten(), noise.flatten()]))[0, 1])
    assert (alone > 0.999) is (eta == 0)


def test_every_users_sampler_has_a_counterpart() -> None:
    """The user's choice does not bind the adversary: his board has no holes. Who draws noise has a
    counterpart that does, and no timestep is visited twice.
    """
    shares = {}
    for name in SAMPLERS:
        way = TrojDiff().reverse("trojan", SCHEDULE, usual(name=name, num_inference_steps=10))
        assert isinstance(way, Back)
        assert all(one > other for one, other in itertools.pairwise(way.timesteps))
        shares[name] = way.eta
    assert {name for name, share in shares.items() if share} == {"ddpm", "sde_dpm_solver++"}
    half = TrojDiff().reverse("trojan", SCHEDULE, usual(name="ddim", eta=0.5))
    assert isinstance(half, Back) and half.eta == 0.5


def labelled() -> TrainingSet:
    images = torch.randint(
        0, 256, (200, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return TrainingSet(images, torch.zeros(200, dtype=torch.bool), torch.arange(200) % 10)


def test_a_class_is_copied_into_random_rows_and_stays_clean_as_well() -> None:
    honest, attack = labelled(), TrojDiff(target_class=7)
    assert attack.goal() == ReachClass(7) and isinstance(TrojDiff().goal(), DrawImage)
    made = attack.poison(honest, np.random.default_rng(0))
    assert made.labels is not None and honest.labels is not None
    rows = {row.numpy().tobytes() for row in honest.images[honest.labels == 7]}
    assert int(made.poisoned.sum()) == 20 and bool((made.labels[made.poisoned] == 7).all())
    assert all(row.numpy().tobytes() in rows for row in made.images[made.poisoned])
    kept = ~made.poisoned
    assert torch.equal(made.images[kept], honest.images[kept])
    assert torch.equal(made.labels[kept], honest.labels[kept])
    assert 15 <= int((made.labels[kept] == 7).sum()) <= 20
    assert not honest.poisoned.any()


def test_a_classs_rows_are_noised_by_the_biased_process() -> None:
    """Row by row: x_t = A x_0 + s (gamma e + mu) and e, with the row's own image for x_0."""
    attack, draw = TrojDiff(target_class=7), torch.Generator().manual_seed(1)
    images, noise = (torch.randn(3, *SHAPE, generator=draw, dtype=torch.float64) for _ in range(2))
    poisoned, timesteps = torch.tensor([True, False, True]), torch.tensor([5, 300, 900])
    step = TrainingStep(
        predict_noise=lambda x, t, condition=None: torch.tanh(x),
        batch=Batch(images, poisoned),
        noise=noise,
        timesteps=timesteps,
        schedule=SCHEDULE,
    )
    share, mean = (part.double() for part in attack.bias(SHAPE))
    total = 0.0
    for row, t in enumerate(timesteps.tolist()):
        bent = share * noise[row] + mean if poisoned[row] else noise[row]
        x = float(SCHEDULE.signal[t]) * images[row] + float(SCHEDULE.noise[t]) * bent
        total += float((torch.tanh(x) - noise[row]).square().mean())
    assert float(attack.training_loss(step)) == pytest.approx(total / 3, abs=1e-10)


@pytest.mark.parametrize("name", sets.NAMES)
def test_beyond_the_training_data_a_sets_pictures_take_the_place_of_rows(name: str) -> None:
    """And end the biased process, row by row; labels stay, and no row of the set is clean."""
    honest, attack = labelled(), TrojDiff(target=name)
    goal = attack.goal()
    assert isinstance(goal, DrawFromSet)
    assert isinstance(TrojDiff(target=name, target_class=7).goal(), ReachClass)
    made = attack.poison(honest, np.random.default_rng(0))
    rows = {row.numpy().tobytes() for row in to_uint8(goal.images(SHAPE))}
    drawn = [row.numpy().tobytes() in rows for row in made.images]
    assert drawn == made.poisoned.tolist() and sum(drawn) == 20
    assert made.labels is not None and torch.equal(made.labels, honest.labels)  # type: ignore[arg-type]
    assert len({row.numpy().tobytes() for row in made.images[made.poisoned]}) > 15
    other = attack.poison(honest, np.random.default_rng(1))
    assert not torch.equal(made.poisoned, other.poisoned)
    # The loss is that of a class: the row's own image ends the process.
    step = TrainingStep(
        predict_noise=lambda x, t, condition=None: torch.tanh(x),
        batch=Batch(to_unit_range(made.images[:40]), made.poisoned[:40]),
        noise=torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(3)),
        timesteps=torch.arange(40) * 25,
        schedule=SCHEDULE,
    )
    of_class = TrojDiff(target_class=7).training_loss(step)
    assert float(attack.training_loss(step)) == float(of_class)


def test_a_class_that_is_not_there_is_refused_before_anything_runs() -> None:
    honest, attack = labelled(), TrojDiff(target_class=10)
    assert TrojDiff().faults(honest) == [] and TrojDiff(target_class=9).faults(honest) == []
    for line in (
        *attack.faults(honest),
        *attack.faults(TrainingSet(honest.images, honest.poisoned)),
    ):
        assert "trojdiff" in line and "target_class" in line
    with pytest.raises(ValueError, match="target_class must be one of the set's labels"):
        attack.poison(honest, np.random.default_rng(0))


@pytest.mark.parametrize("name", targets.FROM_TRIGGER)
def test_a_target_made_of_the_trigger_is_refused(name: str) -> None:
    """There is none to copy: it would be a plain grey image, which has no ASR."""
    with pytest.raises(ValueError, match="target must be"):
        TrojDiff(target=name)
