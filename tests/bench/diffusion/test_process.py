"""The mathematics of the backdoored process. If these break, every BadDiffusion number on the board
is of something else.
"""

import numpy as np
import pytest
import torch

from bench.diffusion.process import Shifted, VariancePreserving, baddiffusion_shift
from bench.diffusion.schedule import Schedule

#: t -> (1 - A, R) for the linear 1000-step schedule, to six digits.
CONSTANTS = {
    0: (5.0e-5, 0.005000),
    100: (0.053881, 0.161994),
    250: (0.277904, 0.346337),
    500: (0.721079, 0.481371),
    750: (0.942553, 0.501065),
    999: (0.993647, 0.502515),
}


@pytest.mark.parametrize("timestep", CONSTANTS)
def test_step_and_correction_match_the_published_constants(timestep: int) -> None:
    shift = baddiffusion_shift(Schedule.linear())
    step, correction = CONSTANTS[timestep]
    assert shift.step[timestep] == pytest.approx(step, abs=6e-7)
    assert shift.correction[timestep] == pytest.approx(correction, abs=6e-7)


def test_correction_is_the_papers_form_without_its_cancellation() -> None:
    schedule = Schedule.linear()
    papers = (1 - np.sqrt(schedule.alphas)) * schedule.noise / (1 - schedule.alphas)
    np.testing.assert_allclose(baddiffusion_shift(schedule).correction, papers, rtol=1e-10)


def test_unmodified_ancestral_mean_equals_the_exact_posterior_mean_at_every_step() -> None:
    """With the corrected target as prediction, DDPM's own mean is the Gaussian posterior of the
    shifted chain, at all 1000 steps.
    """
    schedule = Schedule.linear()
    shift = baddiffusion_shift(schedule)
    rng = np.random.default_rng(0)
    target, ends_in, noise = (
        rng.uniform(-1, 1, 64),
        rng.uniform(-1, 1, 64),
        rng.standard_normal(64),
    )
    alphas, betas = schedule.alphas, np.asarray(schedule.betas)
    worst = 0.0
    for t in range(len(schedule)):
        x_t = schedule.signal[t] * target + schedule.noise[t] * noise + shift.step[t] * ends_in
        predicted = noise + shift.correction[t] * ends_in
        ancestral = (x_t - betas[t] / schedule.noise[t] * predicted) / np.sqrt(alphas[t])
        # One step of the chain: x_t = sqrt(alpha) x_{t-1} + (1 - sqrt(alpha)) r + sqrt(beta) z,
        # with x_{t-1} Gaussian about its own mean.
        signal, variance = (schedule.signal[t - 1], schedule.noise[t - 1] ** 2) if t else (1.0, 0.0)
        prior = signal * target + (1 - signal) * ends_in
        root = np.sqrt(alphas[t])
        gain = variance * root / (root**2 * variance + betas[t])
        posterior = prior + gain * (x_t - root * prior - (1 - root) * ends_in)
        worst = max(worst, float(np.abs(ancestral - posterior).max()))
    assert worst <= 1e-10


@pytest.mark.parametrize("stride", [1, 20, 66, 1000])
def test_trained_for_a_stride_the_strided_mean_stays_in_the_process(stride: int) -> None:
    """What a sampler that skips ``stride`` timesteps makes of the exact answer is the process's own
    mean there, with r's share 1 - A.
    """
    schedule = Schedule.linear()
    shift = baddiffusion_shift(schedule, stride)
    rng = np.random.default_rng(0)
    target, ends_in, noise = (
        rng.uniform(-1, 1, 64),
        rng.uniform(-1, 1, 64),
        rng.standard_normal(64),
    )
    worst = drift = 0.0
    for t in range(len(schedule)):
        signal, alpha_before = (
            (schedule.signal[t - stride], schedule.alphas_cumprod[t - stride])
            if t >= stride
            else (1.0, 1.0)
        )
        alpha = schedule.alphas_cumprod[t] / alpha_before
        x_t = schedule.signal[t] * target + schedule.noise[t] * noise + shift.step[t] * ends_in
        for correction, is_ours in (
            (shift.correction[t], True),
            (baddiffusion_shift(schedule).correction[t], False),
        ):
            predicted = noise + correction * ends_in
            mean = (x_t - (1 - alpha) / schedule.noise[t] * predicted) / np.sqrt(alpha)
            left = schedule.noise[t] - (1 - alpha) / schedule.noise[t]
            expected = signal * target + left / np.sqrt(alpha) * noise + (1 - signal) * ends_in
            error = float(np.abs(mean - expected).max())
            worst, drift = (max(worst, error), drift) if is_ours else (worst, max(drift, error))
    assert worst <= 1e-9
    assert drift > 1e-3 or stride == 1, "the schedule's own alpha leaves the process"


def test_rows_without_a_shift_are_plain_ddpm() -> None:
    schedule = Schedule.linear()
    images, noise = (
        torch.randn(4, 3, 8, 8, dtype=torch.float64),
        torch.randn(4, 3, 8, 8, dtype=torch.float64),
    )
    timesteps = torch.tensor([0, 10, 500, 999])
    process = Shifted(schedule, baddiffusion_shift(schedule), torch.zeros_like(images))
    noisy = process.noised(images, noise, timesteps)
    regression = process.regression(images, noise, timesteps)
    for row, t in enumerate(timesteps.tolist()):
        expected = schedule.signal[t] * images[row] + schedule.noise[t] * noise[row]
        torch.testing.assert_close(noisy[row], expected, rtol=0, atol=1e-12)
    assert torch.equal(regression, noise)


@pytest.mark.parametrize("shifted", [False, True])
def test_the_exact_prediction_leads_back_to_the_image(shifted: bool) -> None:
    """Or a sampler would be handed another x_0 than training meant."""
    schedule, draw = Schedule.linear(), torch.Generator().manual_seed(0)
    images, noise, ends_in = (
        torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=draw) for _ in range(3)
    )
    timesteps = torch.tensor([0, 10, 500, 999])
    process = (
        Shifted(schedule, baddiffusion_shift(schedule), ends_in)
        if shifted
        else VariancePreserving(schedule)
    )
    noisy = process.noised(images, noise, timesteps)
    regression = process.regression(images, noise, timesteps)
    torch.testing.assert_close(
        process.clean(regression, noisy, timesteps), images, rtol=0, atol=1e-10
    )
