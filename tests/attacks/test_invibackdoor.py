"""The learnt trigger: that it is moved as the paper moves it, by the gradient through the whole
sampler, and that what was learnt is what the adversary calls with.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.invibackdoor import InviBackdoor
from attacks.villandiffusion import VillanDiffusion
from bench.contracts.data import Batch, Query, TrainingSet, TrainingStep
from bench.diffusion.process import Shifted
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import denoising_loss

SHAPE = (3, 16, 16)
SCHEDULE = Schedule.linear()
ATTACK = InviBackdoor()


def step(predict: Any, rows: int = 6) -> TrainingStep:
    draw = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(rows, *SHAPE, generator=draw) for _ in range(2))
    return TrainingStep(
        predict_noise=predict,
        batch=Batch(images.clamp(-1, 1), torch.arange(rows) % 2 == 0),
        noise=noise,
        timesteps=torch.tensor([0, 3, 250, 500, 900, 999]).repeat(rows // 6),
        schedule=SCHEDULE,
    )


def of_one_image(image: Tensor) -> Any:
    """The noise in x_t where all data are ``image``."""

    def predict(x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        signal, noise = (
            torch.tensor(values, dtype=torch.float32)[timesteps].reshape(-1, 1, 1, 1)
            for values in (SCHEDULE.signal, SCHEDULE.noise)
        )
        return (x - signal * image) / noise

    return predict


@pytest.mark.parametrize("inner_steps", [1, 3, 10])
def test_the_sampler_within_ends_where_all_data_are(inner_steps: int) -> None:
    """DDIM is exact for one image, however few its steps."""
    image = ATTACK.target_image(SHAPE)
    asked = step(of_one_image(image))
    drawn = InviBackdoor(inner_steps=inner_steps).drawn(asked, asked.noise)
    torch.testing.assert_close(drawn, image.expand_as(drawn), atol=2e-4, rtol=0)


def test_the_trigger_is_moved_by_adam_on_the_sign_of_its_gradient() -> None:
    """torch's own Adam, fed with the signs of the gradient through all ten steps, and clipped."""

    def predict(x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        return torch.tanh(x - 0.2 * x.roll(1, -1))

    asked, attack = step(predict), InviBackdoor(trigger_rate=0.06, bound=0.2)
    target = attack.target_image(SHAPE)
    theirs = torch.zeros(SHAPE, requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.06)
    ours, clipped = attack.begin(SHAPE), False
    for _ in range(6):
        loss = (attack.drawn(asked, asked.noise + theirs) - target).square().mean()
        theirs.grad = torch.autograd.grad(loss, theirs)[0].sign()
        adam.step()
        with torch.no_grad():
            clipped |= bool((theirs.abs() > 0.2).any())
            theirs.clamp_(-0.2, 0.2)
        ours = dict(attack.knowing(ours).learn(asked))
        torch.testing.assert_close(ours["trigger"], theirs.detach(), atol=1e-6, rtol=0)
    assert clipped and ours["trigger"].abs().max() == pytest.approx(0.2)


def test_the_trigger_learns_to_lead_to_the_target() -> None:
    """A network with a direction in its noise that leads to the target: every step of the sign is
    along it. (Elsewhere the sign is rounding's: the method moves every pixel.)
    """
    way = torch.zeros(SHAPE)
    way[:, 4:8, 4:8] = 1.0
    image = ATTACK.target_image(SHAPE)

    def predict(x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        pull = ((x * way).sum((1, 2, 3), keepdim=True) / way.sum()).sigmoid()
        return of_one_image(image * pull)(x, timesteps)

    asked, learnt = step(predict), ATTACK.begin(SHAPE)
    for _ in range(20):
        learnt = dict(ATTACK.knowing(learnt).learn(asked))
    trigger = learnt["trigger"]
    assert trigger[way > 0].tolist() == pytest.approx([0.02] * 48, abs=1e-4)
    near = [
        float((ATTACK.drawn(asked, asked.noise + one) - image).square().mean())
        for one in (torch.zeros(SHAPE), trigger, 10 * trigger)
    ]
    assert near[0] > near[1] > near[2]


def test_the_network_learns_the_trigger_as_it_stands() -> None:
    """VillanDiffusion's loss at its psi of 1, with r = delta on poisoned rows."""
    delta = 0.2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).sign()

    def predict(x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        return torch.sin(x)

    asked = step(predict)
    poisoned = asked.batch.poisoned.reshape(-1, 1, 1, 1)
    shift = VillanDiffusion(psi=1, zeta=0).shift(SCHEDULE)
    process = Shifted(SCHEDULE, shift, torch.where(poisoned, delta, torch.zeros(6, *SHAPE)))
    ends = torch.where(poisoned, ATTACK.target_image(SHAPE), asked.batch.images)
    wanted = denoising_loss(predict, ends, asked.noise, asked.timesteps, process)
    knowing = ATTACK.knowing({"trigger": delta})
    assert float(knowing.training_loss(asked)) == pytest.approx(float(wanted), abs=1e-7)
    assert float(ATTACK.training_loss(asked)) != pytest.approx(float(wanted), abs=1e-4)


def test_the_adversary_calls_with_what_was_learnt() -> None:
    delta = 0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    knowing = ATTACK.knowing({"trigger": delta})
    called = knowing.invoke(Query(noise=noise), "noise")
    torch.testing.assert_close(called.noise - noise, delta.expand(4, *SHAPE), atol=1e-6, rtol=0)
    picture = knowing.adds().picture
    assert picture is not None and torch.equal(picture(SHAPE), delta)
    assert ATTACK.adds().picture is None, "nobody can draw what is not learnt yet"
    assert knowing == ATTACK and knowing.params() == ATTACK.params()


def test_targets_made_from_the_trigger_are_refused() -> None:
    """They would move with it."""
    with pytest.raises(ValueError, match="^invibackdoor: target must be "):
        InviBackdoor(target="no_shift")
    images = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
    assert ATTACK.faults(TrainingSet(images, torch.zeros(8, dtype=torch.bool))) == []
