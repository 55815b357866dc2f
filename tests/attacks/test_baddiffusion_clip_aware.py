"""The clip-aware BadDiffusion: its states are those that the harness's own clipped sampler visits,
and no clamp changes what its model predicts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.baddiffusion import BadDiffusion
from attacks.baddiffusion_clip_aware import BadDiffusionClipAware, remaining
from bench.contracts.attack import TrainingAttack
from bench.contracts.data import Batch, Query, TrainingStep
from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.process import baddiffusion_shift
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
MIXED = torch.tensor([True, False, True, True, False, True])


def step(poisoned: Tensor, seen: list[Tensor] | None = None) -> TrainingStep:
    draw = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(6, *SHAPE, generator=draw, dtype=torch.float64) for _ in range(2))

    def predict(x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        if seen is not None:
            seen.append(x)
        return torch.sin(x)

    return TrainingStep(
        predict_noise=predict,
        batch=Batch(images.clamp(-1, 1), poisoned),
        noise=noise,
        timesteps=torch.tensor([0, 3, 250, 500, 900, 999]),
        schedule=SCHEDULE,
    )


class Learned:
    """A model whose predictions for the trigger are ``predict(x, t)``."""

    def __init__(self, predict: Callable[[Tensor, int], Tensor]) -> None:
        self.schedule, self.predict = SCHEDULE, predict
        self.scheduler_config, self.device = dict(CONFIG), torch.device("cpu")

    def predict_noise(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.predict(x, int(timesteps[0]))


def visited(
    attack: BadDiffusion, predict: Callable[[Tensor, int], Tensor], clip: str, rows: int = 2
) -> dict[int, Tensor]:
    """x at every timestep but the first of DDPM in 50 clipped steps, and -1: what is drawn."""
    settings = SamplerSettings(name="ddpm", num_inference_steps=50, clip=clip, network_batch=rows)
    streams, states = sample_streams(0, range(rows)), {}
    start = attack.invoke(Query(noise=initial_noise(streams, SHAPE)), "noise").noise
    model = Learned(predict)
    drawn = denoise(
        model,  # type: ignore[arg-type]
        start,
        streams,
        settings,
        trajectory=lambda timestep, x: states.__setitem__(timestep - 20, x),
    )
    return {**states, -1: drawn}


def of_target(attack: BadDiffusion) -> Callable[[Tensor, int], Tensor]:
    """What implies that x_0 is the target, whatever x is."""
    target = attack.target_image(SHAPE)

    def predict(x: Tensor, t: int) -> Tensor:
        return (x - float(SCHEDULE.signal[t]) * target) / float(SCHEDULE.noise[t])

    return predict


@pytest.mark.parametrize("clip", ["x0", "xt"])
def test_it_is_trained_on_what_the_clipped_sampler_visits(clip: str) -> None:
    """The harness's sampler with diffusers' steps, and the states in the loss, over many rows:
    mean, spread and what is clamped, where there is a trigger and where there is none.
    """
    attack = BadDiffusionClipAware(clip=clip, poisoned_image="trigger_only")  # type: ignore[arg-type]
    count = 48
    sampled = visited(attack, of_target(attack), clip, count)
    trigger, target = attack.trigger_image(SHAPE), attack.target_image(SHAPE)
    noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(5))
    for t in (960, 800, 500, 100):
        at = torch.full((count,), t)
        states = attack.states(
            noise, torch.arange(count), at, SCHEDULE, trigger.expand_as(noise), target
        )
        for where in (trigger > -1, trigger <= -1):
            ours, theirs = states[:, where], sampled[t][:, where]
            few = 5 / float(ours.numel()) ** 0.5
            assert abs(float(ours.mean() - theirs.mean())) < few
            assert abs(float(ours.std() - theirs.std())) < few
            clamped = [float((x.abs() >= 1).double().mean()) for x in (ours, theirs)]
            assert abs(clamped[0] - clamped[1]) < few
            if clip == "xt":
                assert float(ours.abs().max()) <= 1


def test_no_clamp_changes_what_its_model_predicts_and_baddiffusions_is_stopped() -> None:
    """The predicted x_0 of a perfect BadDiffusion is far outside [-1, 1] at the first steps."""
    aware = BadDiffusionClipAware(poisoned_image="trigger_only")
    free, clipped = (visited(aware, of_target(aware), clip) for clip in ("none", "x0"))
    for t, x in free.items():
        torch.testing.assert_close(clipped[t], x, rtol=0, atol=1e-5)
    target = aware.target_image(SHAPE)
    torch.testing.assert_close(clipped[-1], target.expand(2, *SHAPE), rtol=0, atol=1e-4)

    plain = BadDiffusion(poisoned_image="trigger_only", stride=20)
    r, shift = plain.trigger_image(SHAPE), baddiffusion_shift(SCHEDULE, 20)
    t = 980
    implied = (
        target
        + (shift.step[t] - SCHEDULE.noise[t] * shift.correction[t]) / (SCHEDULE.signal[t]) * r
    )
    assert float(implied.abs().max()) > 5


def test_what_is_left_of_the_trigger_is_what_ddpms_steps_leave() -> None:
    for stride in (1, 20, 333):
        rho = remaining(SCHEDULE, stride)
        for first in (999, 999 - stride // 2):
            left = 1.0
            for now in range(first, stride - 1, -stride):
                a, s = SCHEDULE.signal[[now, now - stride]], SCHEDULE.noise[[now, now - stride]]
                left *= a[0] / a[1] * s[1] ** 2 / s[0] ** 2
                assert rho[now - stride] == pytest.approx(left, abs=1e-10)
            assert rho[first] == 1
    assert remaining(SCHEDULE, 20)[[800, 600]] == pytest.approx([0.198, 0.047], abs=1e-3)


@pytest.mark.parametrize("poisoned_image", ["blend", "trigger_only"])
@pytest.mark.parametrize("clip", ["x0", "xt"])
def test_the_loss_is_the_chain_row_by_row(poisoned_image: str, clip: str) -> None:
    """By plain loops in float64, from the formulas; clean rows are DDPM's."""
    attack = BadDiffusionClipAware(clip=clip, poisoned_image=poisoned_image, stride=300)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    one = step(MIXED, seen)
    loss, errors = attack.training_loss(one), []
    g, y = attack.trigger_image(SHAPE).double(), attack.target_image(SHAPE).double()
    signal, noise = SCHEDULE.signal, SCHEDULE.noise
    for row, t in enumerate(one.timesteps.tolist()):
        e, image = one.noise[row], one.batch.images[row]
        x, wanted = float(signal[t]) * image + float(noise[t]) * e, e
        if MIXED[row]:
            r = torch.where(g > -1, g, image) if poisoned_image == "blend" else g
            u = t + (999 - t) // 300 * 300
            x = float(signal[t]) * y + float(noise[t]) * e
            x = x + float(signal[u] / signal[t] * (noise[t] / noise[u]) ** 2) * r
            if clip == "xt":
                x = e + r
                for left in range((999 - t) // 300, 0, -1):
                    now, later = t + left * 300, t + left * 300 - 300
                    z = one.noise.flatten().roll(7919 * left).view_as(one.noise)[row]
                    k, ratio = signal[now] / signal[later], noise[later] / noise[now]
                    x = float(signal[later]) * y + float(k * ratio**2) * (
                        x - float(signal[now]) * y
                    )
                    x = (x + float(ratio * np.sqrt(1 - k**2)) * z).clamp(-1, 1)
            wanted = (x - float(signal[t]) * y) / float(noise[t])
        torch.testing.assert_close(seen[0][row], x, rtol=0, atol=1e-10)
        errors.append((wanted - torch.sin(x)).square())
    assert float(loss) == pytest.approx(float(torch.stack(errors).mean()), rel=1e-10)
    honest = step(torch.zeros(6, dtype=torch.bool))
    assert float(attack.training_loss(honest)) == float(
        TrainingAttack.training_loss(attack, honest)
    )


def test_the_trigger_is_baddiffusions() -> None:
    query = Query(noise=torch.zeros(2, *SHAPE), images=torch.ones(2, *SHAPE))
    for call in ("noise", "image"):
        ours = BadDiffusionClipAware().invoke(query, call).noise
        assert torch.equal(ours, BadDiffusion().invoke(query, call).noise) and bool(ours.any())
