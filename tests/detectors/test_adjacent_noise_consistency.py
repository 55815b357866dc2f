"""Adjacent noise consistency: the cosines are of one trajectory's neighbours, and a drop is
measured in the widths of clean noise's band.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.checking import planted
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.diffusion.generator import Generator
from bench.metrics.detection import auroc
from detectors import adjacent_noise_consistency as module
from detectors.adjacent_noise_consistency import AdjacentNoiseConsistency, consistency

#: Of data whose pixels vary more at the top of the picture than at the bottom: (16, 1).
VARIANCE = torch.linspace(4, 0.05, tiny.SHAPE[1]).reshape(-1, 1)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are padded, and there are few rows here."""
    monkeypatch.setattr(module, "NETWORK_BATCH", 16)


def access(generator: Any, seed: int = 0) -> Access:
    return Access(rng=np.random.default_rng(seed), generator=generator)


def known(variance: Tensor) -> Generator:
    """The network that data of N(0, variance) would have: s x / (A^2 variance + s^2)."""
    model = tiny.generator()
    schedule = model.schedule

    def answer(x: Tensor, t: Tensor, _: object = None) -> Tensor:
        signal, noise = (float(values[int(t[0])]) for values in (schedule.signal, schedule.noise))
        return noise * x / (signal**2 * variance + noise**2)

    model.predict_noise = answer  # type: ignore[method-assign]
    return model


def test_it_is_the_cosine_of_neighbours_along_ddims_own_trajectory() -> None:
    """Step by step in float64: x_0 = (x - s e) / A, then A' x_0 + s' e (Song et al., eq. 12)."""
    model, x = known(VARIANCE), tiny.floats(3, 0).double().numpy()
    signal, noise = model.schedule.signal, model.schedule.noise
    before, expected = None, []
    for at in range(900, -1, -100):  # ten steps of 1000, counted up from 0
        e = noise[at] * x / (signal[at] ** 2 * VARIANCE.double().numpy() + noise[at] ** 2)
        if before is not None:
            dot, one, other = (
                (a * b).sum((1, 2, 3)) for a, b in ((before, e), (before,) * 2, (e,) * 2)
            )
            expected.append(dot / np.sqrt(one * other))
        a, s = (signal[at - 100], noise[at - 100]) if at else (1.0, 0.0)
        before, x = e, a * (x - noise[at] * e) / signal[at] + s * e
    u = consistency(model, tiny.floats(3, 0), 10)
    assert u.shape == (3, 9)
    np.testing.assert_allclose(u.numpy(), np.stack(expected, 1), atol=1e-5)
    assert u.min() < 0.98  # neighbours are not one and the same


def test_predictions_that_keep_their_direction_agree_entirely() -> None:
    """Of N(0, I) the network answers a multiple of the start at every step."""
    u = consistency(known(torch.ones(())), tiny.floats(3, 0), 10)
    torch.testing.assert_close(u, torch.ones_like(u), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("side", "high"), [("drop", 6.0), ("both", 20.0)])
def test_the_score_is_the_largest_drop_in_widths_of_the_band(
    side: str, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A band of mean .9, .8 and width .01, .02 at two steps; of one row, the second drops by 6
    widths and the first rises by 20 beyond it.
    """
    spread = torch.tensor([-1.0, 1.0], dtype=torch.float64) / 2**0.5
    band = torch.stack([0.9 + 0.01 * spread, 0.8 + 0.02 * spread], 1)
    row = torch.tensor([[0.9 + 20 * 0.01, 0.8 - 6 * 0.02]], dtype=torch.float64)
    answers = iter([band, row])
    monkeypatch.setattr(module, "consistency", lambda *_: next(answers))
    detector = AdjacentNoiseConsistency(side=side, references=2)  # type: ignore[arg-type]
    score = detector.score(tiny.floats(1, 0), access(tiny.generator()))
    assert score.dtype == torch.float32 and score.item() == pytest.approx(high, rel=1e-4)


def test_it_finds_the_planted_backdoor_and_not_an_honest_models() -> None:
    x = torch.cat([tiny.floats(8, 0), tiny.floats(8, 1) + planted.trigger()])
    detector = AdjacentNoiseConsistency(steps=planted.STEPS, references=16)
    scores = detector.score(x, access(planted.generator("planted", False)))
    assert auroc(scores.numpy(), np.arange(16) >= 8) == 1
    assert scores[8:].min() > 10 * scores[:8].max()


def test_what_it_costs_is_one_generation_a_row() -> None:
    model = tiny.generator()
    AdjacentNoiseConsistency(steps=3, references=16).score(tiny.floats(32, 0), access(model))
    assert model.calls == (32 + 16) * 3


def test_no_rows_have_no_scores() -> None:
    detector = AdjacentNoiseConsistency(steps=2, references=2)
    assert detector.score(tiny.floats(3, 0)[:0], access(tiny.generator())).shape == (0,)


@pytest.mark.parametrize(("field", "value"), [("side", "rise"), ("steps", 1), ("references", 1)])
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    expected = f"adjacent_noise_consistency: {field} must be .*, got {value!r}"
    with pytest.raises(ValueError, match=expected):
        AdjacentNoiseConsistency(**{field: value})  # type: ignore[arg-type]
