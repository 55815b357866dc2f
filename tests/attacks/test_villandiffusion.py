"""VillanDiffusion against its formulas: a wrong schedule or correction would be another attack
under the same name.
"""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import ScoreSdeVeScheduler
from torch import Tensor

from attacks.baddiffusion import BadDiffusion
from attacks.villandiffusion import VillanDiffusion
from bench.contracts.attack import TrainingAttack
from bench.contracts.data import Batch, Query, TrainingStep
from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.sampling import SamplerSettings, denoise
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


def step(poisoned: list[bool], seen: list[Tensor] | None = None) -> TrainingStep:
    draw = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(6, *SHAPE, generator=draw, dtype=torch.float64) for _ in range(2))

    def predict(x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        if seen is not None:
            seen.append(x)
        return torch.sin(x)

    return TrainingStep(
        predict_noise=predict,
        batch=Batch(images.clamp(-1, 1), torch.tensor(poisoned)),
        noise=noise,
        timesteps=torch.tensor([0, 3, 250, 500, 900, 999]),
        schedule=SCHEDULE,
    )


MIXED = [True, False, True, True, False, True]


@pytest.mark.parametrize("stride", [1, 20, 999])
@pytest.mark.parametrize("poisoned_image", ["blend", "trigger_only"])
def test_at_its_point_it_is_baddiffusion(stride: int, poisoned_image: str) -> None:
    params = {"stride": stride, "poisoned_image": poisoned_image, "trigger": "stop_sign"}
    general, special = VillanDiffusion(psi=1, zeta=1, **params), BadDiffusion(**params)  # type: ignore[arg-type]
    assert float(general.training_loss(step(MIXED))) == pytest.approx(
        float(special.training_loss(step(MIXED))), abs=1e-10
    )
    query = Query(noise=torch.zeros(2, *SHAPE), images=torch.zeros(2, *SHAPE))
    for call in ("noise", "image"):
        assert torch.equal(general.invoke(query, call).noise, special.invoke(query, call).noise)


@pytest.mark.parametrize(
    ("timestep", "ends", "correction"),
    [(0, 5.0e-5, 0.005), (100, 0.053881, 0.161994), (500, 0.721079, 0.481371)]
    + [(999, 0.993647, 0.502515)],
)
def test_constants_of_the_papers_sde(timestep: int, ends: float, correction: float) -> None:
    for kind in ("exact", "paper"):
        shift = VillanDiffusion(psi=1, zeta=1, correction=kind).shift(SCHEDULE)  # type: ignore[arg-type]
        assert shift.step[timestep] == pytest.approx(ends, abs=1e-6)
        assert shift.correction[timestep] == pytest.approx(correction, abs=1e-6)


@pytest.mark.parametrize("psi", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("zeta", [0.0, 1.0])
def test_the_papers_correction_is_the_released_recursion(psi: float, zeta: float) -> None:
    """Number by number, with h by its recursion: k_t = s_t - sum of what earlier ones became."""
    shift = VillanDiffusion(psi=psi, zeta=zeta, correction="paper").shift(SCHEDULE)
    added: list[float] = []
    for t, alpha in enumerate(SCHEDULE.alphas[:60].tolist()):
        faded = sum(
            one * math.sqrt(math.prod(SCHEDULE.alphas[i + 1 : t + 1].tolist()))
            for i, one in enumerate(added)
        )
        s, cumulative = math.sqrt(1 - SCHEDULE.alphas_cumprod[t]), SCHEDULE.alphas_cumprod[t]
        added.append(s - faded)
        first = (1 - math.sqrt(alpha)) * s
        of_noise = first + added[t] * (alpha - cumulative) / (1 - alpha)
        expected = 2 / (1 + zeta) * (psi * first / (1 - alpha) + (1 - psi) * of_noise)
        assert shift.correction[t] == pytest.approx(expected, abs=1e-10)
        assert shift.step[t] == pytest.approx(
            psi * (1 - math.sqrt(cumulative)) + (1 - psi) * s, abs=1e-12
        )


def test_where_the_papers_correction_falls_short_of_exact() -> None:
    """What is written of it: exact at the paper's psi of 1, hardly there at small t for 0."""
    exact, paper = (
        VillanDiffusion(psi=0, zeta=1, correction=kind).shift(SCHEDULE).correction  # type: ignore[arg-type]
        for kind in ("exact", "paper")
    )
    ratios = [paper[t] / exact[t] for t in (10, 100, 250, 500, 999)]
    assert ratios == pytest.approx([0.040, 0.318, 0.688, 0.959, 1.0], abs=1e-3)
    ode, twice = (
        VillanDiffusion(stride=stride, correction=kind).shift(SCHEDULE).correction  # type: ignore[arg-type]
        for stride, kind in ((50, "exact"), (1, "paper"))
    )
    assert ode[100] == pytest.approx(0.250, abs=1e-3)
    assert twice[100] == pytest.approx(0.324, abs=1e-3)


@pytest.mark.parametrize("psi", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("stride", [1, 20, 400])
def test_the_exact_correction_is_the_posterior_mean_of_the_chain(psi: float, stride: int) -> None:
    """For an SDE, by the joint normal distribution of x_t and x_p; DDPM's step takes x_0 and e from
    the prediction.
    """
    shift = VillanDiffusion(psi=psi, zeta=1, stride=stride).shift(SCHEDULE)
    y, r, e = 0.3, -0.8, 1.7
    for t in range(stride, 1000, 123):
        p = t - stride
        a_t, s_t, a_p, s_p = (
            float(values[at]) for at in (t, p) for values in (SCHEDULE.signal, SCHEDULE.noise)
        )
        k, rho_p = a_t / a_p, float(shift.step[p])
        x = a_t * y + s_t * e + float(shift.step[t]) * r
        prior, covariance = a_p * y + rho_p * r, k * s_p**2
        posterior = prior + covariance / s_t**2 * (x - a_t * y - float(shift.step[t]) * r)
        prediction = e + float(shift.correction[t]) * r
        implied = (x - s_t * prediction) / a_t
        weights = a_p * (1 - k**2) / s_t**2, k * s_p**2 / s_t**2
        assert weights[0] * implied + weights[1] * x == pytest.approx(posterior, abs=1e-10)


@pytest.mark.parametrize("psi", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("zeta", [0.0, 0.5, 1.0])
def test_the_exact_correction_keeps_ddim_on_the_process(psi: float, zeta: float) -> None:
    """Song et al., eq. 12: the shift at p is rho_p, for steps of any length."""
    for stride in (1, 50, 700):
        shift = VillanDiffusion(psi=psi, zeta=zeta, stride=stride).shift(SCHEDULE)
        for t in (stride, 800, 999):
            p = t - stride
            product_t, product_p = SCHEDULE.alphas_cumprod[t], SCHEDULE.alphas_cumprod[p]
            sigma = zeta * math.sqrt((1 - product_p) / (1 - product_t))
            sigma *= math.sqrt(1 - product_t / product_p)
            c = shift.correction[t]
            clean = (shift.step[t] - math.sqrt(1 - product_t) * c) / math.sqrt(product_t)
            there = math.sqrt(product_p) * clean + math.sqrt(1 - product_p - sigma**2) * c
            assert there == pytest.approx(shift.step[p], abs=1e-10)


def test_between_vp_and_ve_an_ode_needs_the_trigger_itself() -> None:
    """With rho = s the picture fades as the noise does, and x_t is A y + s (e + r)."""
    for stride in (1, 33):
        correction = VillanDiffusion(psi=0, zeta=0, stride=stride).shift(SCHEDULE).correction
        assert abs(correction - 1).max() < 1e-10


def test_the_papers_score_models_are_its_sde_without_psi() -> None:
    """On their own levels of noise (.01 to 380 in 2,000): rho = sigma, C = sigma / (sigma +
    sigma_p), and diffusers' ancestral step for them leads from mean to mean.
    """
    levels = ScoreSdeVeScheduler(num_train_timesteps=2000, sigma_min=0.01, sigma_max=380.0)
    levels.set_sigmas(2000)
    sigmas = torch.logspace(-2, math.log10(380), 2000, dtype=torch.float64)
    torch.testing.assert_close(levels.discrete_sigmas.double(), sigmas, rtol=1e-4, atol=0)
    levels.discrete_sigmas = sigmas
    signal = 1 / (1 + sigmas.square()).sqrt()
    alphas = (signal / torch.cat([torch.ones(1), signal[:-1]])).square()
    schedule = Schedule(tuple((1 - alphas).tolist()))
    shift = VillanDiffusion(psi=0, zeta=1).shift(schedule)
    before = torch.cat([torch.zeros(1), sigmas[:-1]])
    assert abs(shift.step / schedule.signal - sigmas.numpy()).max() < 1e-10 * 380
    assert abs(shift.correction - (sigmas / (sigmas + before)).numpy()).max() < 1e-10
    y, r, e = 0.3, -0.8, 1.7
    for at in (1, 700, 1999):
        sigma, sigma_p = float(sigmas[at]), float(sigmas[at - 1])
        x = torch.full((1, 1, 1, 1), y + sigma * (e + r), dtype=torch.float64)
        score = -(e + float(shift.correction[at]) * r) / sigma
        # A whole number of levels, a little above which its own rounding cannot fall.
        time = torch.tensor((at + 0.5) / 1999, dtype=torch.float64)
        mean = levels.step_pred(torch.full_like(x, score), time, x).prev_sample_mean
        posterior = y + sigma_p * r + sigma_p**2 / sigma**2 * (float(x) - y - sigma * r)
        assert float(mean) == pytest.approx(posterior, abs=1e-10)


class Learned:
    """A model that has learned the poisoned process to its target perfectly, and nothing else."""

    def __init__(self, attack: VillanDiffusion) -> None:
        self.schedule, self.shift = SCHEDULE, attack.shift(SCHEDULE)
        self.target, self.trigger = attack.target_image(SHAPE), attack.trigger_image(SHAPE)
        self.scheduler_config, self.device = dict(CONFIG), torch.device("cpu")

    def predict_noise(self, x: Tensor, timesteps: Tensor) -> Tensor:
        t = int(timesteps[0])
        signal, noise = float(self.schedule.signal[t]), float(self.schedule.noise[t])
        without = x - signal * self.target - float(self.shift.step[t]) * self.trigger
        return without / noise + float(self.shift.correction[t]) * self.trigger


def off(attack: VillanDiffusion, sampler: str) -> float:
    """How far the user's own sampler is off the process at most, in shares of the trigger: of the
    noise that x_p must hold, what points along r. And it ends in the target.
    """
    settings = SamplerSettings(name=sampler, num_inference_steps=20)
    streams = sample_streams(0, range(2))
    start = attack.invoke(Query(noise=initial_noise(streams, SHAPE)), "noise").noise
    model, shares = Learned(attack), []
    target, r, rho = model.target, model.trigger, model.shift.step

    def watch(timestep: int, x: Tensor) -> None:
        if (p := timestep - 50) >= 0:
            noise = x - float(SCHEDULE.signal[p]) * target - float(rho[p]) * r
            shares.append(
                float((noise / float(SCHEDULE.noise[p]) * r).sum() / r.square().sum() / 2)
            )

    drawn = denoise(model, start, streams, settings, trajectory=watch)  # type: ignore[arg-type]
    torch.testing.assert_close(drawn, target.expand_as(drawn), rtol=0, atol=1e-4)
    return max(map(abs, shares))


@pytest.mark.parametrize("psi", [0.0, 0.5, 1.0])
def test_the_users_sampler_follows_a_perfect_model_to_the_target(psi: float) -> None:
    """The one it was trained for stays on the process; another leaves it."""
    for zeta, right, wrong in ((0.0, "ddim", "ddpm"), (1.0, "ddpm", "ddim")):
        attack = VillanDiffusion(psi=psi, zeta=zeta, stride=50)
        assert off(attack, right) < 0.1
        assert off(attack, wrong) > 0.5


def test_the_loss_is_the_papers_row_by_row_and_clean_rows_are_ddpms() -> None:
    attack, seen = VillanDiffusion(psi=0.25, zeta=0, poisoned_image="trigger_only"), []
    one = step(MIXED, seen)
    loss, shift = attack.training_loss(one), attack.shift(SCHEDULE)
    r, y = attack.trigger_image(SHAPE).double(), attack.target_image(SHAPE).double()
    errors = []
    for row, t in enumerate(one.timesteps.tolist()):
        a, s = float(SCHEDULE.signal[t]), float(SCHEDULE.noise[t])
        x = a * one.batch.images[row] + s * one.noise[row]
        wanted = one.noise[row]
        if MIXED[row]:
            rho = 0.25 * (1 - a) + 0.75 * s
            x = a * y + s * one.noise[row] + rho * r
            wanted = one.noise[row] + float(shift.correction[t]) * r
        torch.testing.assert_close(seen[0][row], x, rtol=0, atol=1e-10)
        errors.append((wanted - torch.sin(x)).square())
    assert float(loss) == pytest.approx(float(torch.stack(errors).mean()), abs=1e-10)
    honest = step([False] * 6)
    expected = TrainingAttack.training_loss(attack, honest)
    assert float(attack.training_loss(honest)) == pytest.approx(float(expected), abs=1e-12)
