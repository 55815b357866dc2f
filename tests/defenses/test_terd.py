"""TERD: a loss that the trigger does not minimise would recover something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.artwork import triggers
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.diffusion.generator import Generator
from defenses.terd import (
    DDIM_STEPS,
    TERD,
    clip_together,
    ddim_timesteps,
    differentiable_ddim,
    error_difference,
)

TRIGGER = triggers.trigger("grey_box", tiny.SHAPE)


class Backdoored(Generator):
    """Knows the noise in what is shifted by :data:`TRIGGER`, and the less of it the farther the
    batch's mean is from there: the square of its error is u^2 / (1 + u^2) at distance u.
    """

    def predict_noise(self, x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        shift = x.mean(0)
        distance = shift - TRIGGER
        return (x - shift) * (1 - distance / (1 + distance.square()).sqrt())


def given(model: Generator) -> Access:
    return Access(rng=np.random.default_rng(0), generator=model)


def test_the_loss_by_hand() -> None:
    """A network that answers half of x: the errors are (1 - s / 2) e_k - ..., and the image and the
    trigger cancel.
    """
    model = tiny.generator()
    made = type("Half", (Generator,), {"predict_noise": lambda self, x, t: x / 2})(
        model.unet, model.scheduler_config
    )
    image, one, other = (tiny.floats(4, seed) for seed in range(3))
    timesteps, scale = torch.tensor([999, 990, 500, 0]), torch.tensor(0.6)
    value = error_difference(made, image, (one, other), timesteps, TRIGGER, scale)
    spread = torch.as_tensor(made.schedule.noise)[timesteps].float().reshape(4, 1, 1, 1)
    error = (one - other) * (1 - spread * 0.6 / 2)
    torch.testing.assert_close(value, 0.5 * error.square().sum((1, 2, 3)).mean())


def test_who_adds_a_constant_to_every_answer_loses_nothing() -> None:
    """e + R r, BadDiffusion's answer: R r cancels between the two noises."""
    model, noises = tiny.generator(), (tiny.floats(2, 1), tiny.floats(2, 2))
    answers = torch.cat(noises) + 0.5 * TRIGGER
    made = type("Knows", (Generator,), {"predict_noise": lambda self, x, t: answers})(
        model.unet, model.scheduler_config
    )
    at, scale = torch.tensor([999, 998]), torch.tensor(1.0)
    value = error_difference(made, tiny.floats(2, 0), noises, at, TRIGGER, scale)
    assert float(value) == pytest.approx(0, abs=1e-8)


def test_its_sampler_is_ddim() -> None:
    """Against its definition in double precision."""
    model, noise = tiny.generator(), tiny.floats(3, 0)
    model.unet.requires_grad_(False)
    visited = ddim_timesteps(1000, quadratic=False)
    assert visited == np.linspace(999, 0, DDIM_STEPS).round().astype(int).tolist()
    drawn = differentiable_ddim(model, noise, torch.tensor(1.0), torch.zeros(tiny.SHAPE), visited)
    x = noise.double()
    for here, there in zip(visited, [*visited[1:], None], strict=True):
        signal, spread = model.schedule.signal[here], model.schedule.noise[here]
        answer = model.predict_noise(x.float(), torch.full((3,), int(here))).double()
        clean = (x - spread * answer) / signal
        if there is not None:
            x = model.schedule.signal[there] * clean + model.schedule.noise[there] * answer
    torch.testing.assert_close(drawn.double(), clean, rtol=1e-3, atol=1e-3 * float(clean.std()))


def test_a_biased_process_is_undone() -> None:
    """A network that knows the noise of one image: x_0 comes back whatever the scale and shift."""
    model, image, noise = tiny.generator(), 0.3 * tiny.floats(1, 5), tiny.floats(2, 0)
    scale, shift = torch.tensor(0.6), 0.4 * TRIGGER

    def answer(self: Generator, x: Tensor, t: Tensor) -> Tensor:
        signal = self.schedule.at(self.schedule.signal, t, x)
        return ((x - signal * image) / self.schedule.at(self.schedule.noise, t, x) - shift) / scale

    made = type("One", (Generator,), {"predict_noise": answer})(model.unet, model.scheduler_config)
    visited = ddim_timesteps(1000, quadratic=True)
    assert visited == [int(step) for step in np.linspace(np.sqrt(800), 0, 10) ** 2]
    drawn = differentiable_ddim(made, scale * noise + shift, scale, shift, visited)
    torch.testing.assert_close(drawn, image.expand(2, -1, -1, -1), rtol=0, atol=2e-3)


def test_it_descends_to_a_known_trigger() -> None:
    model = tiny.generator()
    made = Backdoored(model.unet, model.scheduler_config)
    defense = TERD(surrogate_steps=200, steps=0, batch_size=16)
    recovered = defense.invert(given(made))
    trigger = recovered.triggers[0][0]
    before = torch.from_numpy(-np.random.default_rng(0).random(tiny.SHAPE, dtype="float32"))
    start, end = (float((one - TRIGGER).square().mean()) for one in (before, trigger))
    assert end < start / 4 and list(recovered.labels) == ["surrogate"]
    assert recovered.notes["scale"] == 1.0


def test_both_stages_are_recovered_and_the_scale_is_never_zero() -> None:
    recovered = TERD(family="trojdiff", surrogate_steps=2, steps=1, batch_size=2).invert(
        given(tiny.generator())
    )
    assert list(recovered.labels) == ["surrogate", "refined"] and len(recovered.triggers) == 2
    assert not torch.equal(*recovered.triggers) and recovered.notes["scale"] >= 0.05


@pytest.mark.parametrize("side", [8, 32])
def test_the_scale_comes_to_the_networks_and_never_overshoots(side: int) -> None:
    """A network that takes x for the noise errs by (1 - s gamma)^2 a pixel: gamma must come to 1,
    whatever the number of pixels. One number at the rate of one pixel's would jump over it, and
    diverge from 32 x 32 on.
    """
    tiny_model = tiny.generator()
    made = type(
        "Whole",
        (Generator,),
        {"predict_noise": lambda self, x, t: x, "noise_shape": (3, side, side)},
    )(tiny_model.unet, tiny_model.scheduler_config)
    reached = [
        TERD(family="trojdiff", surrogate_steps=steps, steps=0, batch_size=8)
        .invert(given(made))
        .notes["scale"]
        for steps in (1, 250, 1500)
    ]
    assert 0.05 < reached[0] < 0.06 and 0.4 < reached[1] < reached[2] <= 1.01, reached
    assert reached[2] == pytest.approx(1, abs=0.1)


def test_one_scale_is_clipped_as_many_equal_ones_would_be() -> None:
    trigger, scale = torch.zeros(3, 4, 4), torch.tensor(0.5)
    trigger.grad, scale.grad = torch.full((3, 4, 4), 3.0), torch.tensor(4.0 * 48)
    each = torch.zeros(48)
    each.grad, copied = torch.full((48,), 4.0), torch.zeros(3, 4, 4)
    copied.grad = torch.full((3, 4, 4), 3.0)
    torch.nn.utils.clip_grad_norm_([copied, each], 1.0)
    clip_together(trigger, scale, 1.0)
    torch.testing.assert_close(trigger.grad, copied.grad)
    torch.testing.assert_close(scale.grad, each.grad.sum())


@pytest.mark.parametrize("field", ["surrogate_steps", "batch_size", "learning_rate"])
def test_bad_parameters_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"terd: {field} must be .*, got 0"):
        TERD(**{field: 0})
