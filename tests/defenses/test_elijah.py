"""Elijah: another factor or another sign would be another family's objective, and a removal that
forgot a term would be fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.checking import planted
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.contracts.data import Recovered
from bench.diffusion.generator import Generator
from bench.diffusion.process import baddiffusion_shift
from bench.diffusion.schedule import Schedule
from defenses import _finetuning
from defenses.elijah import (
    OBJECTIVES,
    Elijah,
    ElijahInversion,
    descend,
    removal_loss,
    shift_loss,
)


class Backdoored(Generator):
    """Answers x with ``factor`` times the shift of its noise's mean, plus ``bias``: a model whose
    trigger is known.
    """

    factor, bias = 0.5, torch.zeros(3, 16, 16)

    def predict_noise(self, x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        assert (timesteps == 999).all(), "the last timestep alone"
        return 0 * x + self.bias


def backdoored(bias: Tensor) -> Generator:
    model = tiny.generator()
    made = Backdoored(model.unet, model.scheduler_config)
    made.bias = bias
    return made


def given(model: Generator) -> Access:
    return Access(
        rng=np.random.default_rng(0),
        generator=model,
        draw=lambda query: query.noise.clamp(-1, 1),
    )


def test_the_factor_is_baddiffusions_at_the_last_step() -> None:
    """Eq. 9 and 10 there: e + R r, R = s / (1 + sqrt(alpha))."""
    factor, _ = OBJECTIVES["baddiffusion"]
    assert baddiffusion_shift(Schedule.linear()).correction[-1] == pytest.approx(factor, abs=0.003)


def test_the_loss_by_hand() -> None:
    bias = torch.linspace(-0.4, 0.4, 768).reshape(3, 16, 16)
    shift, noise = torch.full((3, 16, 16), 0.6), tiny.floats(5, 0)
    value = shift_loss(backdoored(bias), noise, shift, 0.5)
    torch.testing.assert_close(value, (0.3 - bias).abs().mean())


@pytest.mark.parametrize("family", sorted(OBJECTIVES))
def test_it_finds_the_shift_that_the_answer_moves_with(family: str) -> None:
    """A network that always answers with ``factor`` times the trigger: the minimum is the trigger,
    and a family of another factor finds it at another scale.
    """
    trigger = planted.trigger() * 0.9
    defense = ElijahInversion(family=family, steps=150, batch_size=4, learning_rate=0.03)
    recovered = defense.invert(given(backdoored(0.5 * trigger)))
    factor, _ = OBJECTIVES[family]
    expected = (0.5 / factor * trigger).clamp(-1, 1)
    torch.testing.assert_close(recovered.triggers[0][0], expected, rtol=0, atol=0.05)
    assert recovered.notes["last_loss"] < 0.1 * recovered.notes["first_loss"]


def test_noises_in_pieces_have_the_gradient_of_all_of_them(monkeypatch) -> None:
    """A hundred images of 256 x 256 fit no GPU."""
    model, noise = tiny.generator(), tiny.floats(6, 1)
    model.unet.requires_grad_(False)
    results = []
    for pixels in (6 * 256, 2 * 256):
        monkeypatch.setattr(_finetuning, "PIXELS_AT_ONCE", pixels)
        shift = tiny.floats(1, 2)[0].requires_grad_()
        results.append((descend(model, noise, shift, 0.5), shift.grad))
    (whole, gradient), (pieces, summed) = results
    assert pieces == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(summed, gradient, rtol=1e-4, atol=1e-8)


def test_pieces_are_equal_and_as_few_as_fit() -> None:
    pieces = _finetuning.pieces_of
    assert pieces(128, (3, 32, 32)) == pieces(128, (3, 64, 64)) == pieces(16, (3, 256, 256)) == 1
    assert pieces(128, (3, 256, 256)) == 8 and pieces(100, (3, 256, 256)) == 10
    assert pieces(4, (3, 5000, 5000)) == 4


def test_what_is_drawn_starts_from_the_trigger() -> None:
    defense = ElijahInversion(steps=1, batch_size=2, samples=5)
    queries: list[Tensor] = []

    def draw(query: object) -> Tensor:
        queries.append(query.noise)  # type: ignore[attr-defined]
        return query.noise.clamp(-1, 1)  # type: ignore[attr-defined]

    own = Access(rng=np.random.default_rng(0), generator=tiny.generator(), draw=draw)
    recovered = defense.invert(own)
    (noise,) = queries
    assert noise.shape == (5, 3, 16, 16) and recovered.targets[0].shape == (5, 3, 16, 16)
    # The mean of all pixels of standard normal noise is about 0, and the shift's is the rest.
    assert float(noise.mean()) == pytest.approx(float(recovered.triggers[0].mean()), abs=0.1)


def test_removal_asks_for_the_frozen_answer_with_and_without_the_trigger() -> None:
    noise, shift = tiny.floats(4, 0), torch.full((3, 16, 16), 0.5)

    def frozen(x: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.tolist() == [999] * 4
        return 2 * x

    assert float(removal_loss(lambda x, t: 2 * noise, frozen, noise, shift, 999)) == 0
    # 2 (n + tau) instead of 2 n: a mean square of (2 * 0.5)^2 = 1, with the trigger alone.
    assert float(removal_loss(lambda x, t: 2 * x, frozen, noise, shift, 999)) == pytest.approx(1)
    # 2 n + 1 whatever the trigger: 1 in each of both terms.
    both = removal_loss(lambda x, t: 2 * noise + 1, frozen, noise, shift, 999)
    assert float(both) == pytest.approx(2)


def test_it_starts_from_the_inversion_of_its_family() -> None:
    assert Elijah(family="trojdiff").uses() == ElijahInversion(family="trojdiff")


def test_removal_takes_the_trigger_out_of_the_answer_and_weakens_the_backdoor(
    to_target: Callable[[Generator], float],
) -> None:
    """Given the true trigger: the planted model's answers to noise with it come to be those to
    noise without.
    """
    own = Access(
        rng=np.random.default_rng(0),
        generator=planted.generator("planted", False),
        clean_data=planted.discs(64, 5),
        recovered=Recovered(labels=["true"], triggers=[planted.trigger()[None]]),
    )
    frozen, noise = own.generator.clone(), tiny.floats(16, 3)
    last = torch.full((16,), 999)

    def shifted_by() -> float:
        with torch.no_grad():
            answer = own.generator.predict_noise(noise + planted.trigger(), last)
            return float((answer - frozen.predict_noise(noise, last)).square().mean())

    before = shifted_by(), to_target(own.generator)
    Elijah(steps=12, batch_size=8, learning_rate=2e-3, clean_share=1.0).repair(own)
    assert shifted_by() < before[0] / 2
    assert before[1] < 0.01 < to_target(own.generator)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="elijah: family must be"):
        Elijah(family="unknown")  # type: ignore[arg-type]
