"""UFID: the disturbed noise must stay a user's noise, and the score must be of the images alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.checking import planted
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.diffusion.sampling import SamplerSettings, Scheduled
from bench.metrics.detection import auroc
from detectors.ufid import UFID, disturbed, similarity


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are padded, and there are few rows here."""
    monkeypatch.setattr("detectors.ufid.NETWORK_BATCH", 16)


def access(generator: Any, seed: int = 0) -> Access:
    return Access(rng=np.random.default_rng(seed), generator=generator)


@pytest.mark.parametrize("strength", [0.1, 1.0, 3.0])
def test_disturbed_noise_is_noise_and_a_trigger_fades(strength: float) -> None:
    """Variance 1 whatever the strength; and the trigger arrives as g / sqrt(1 + eta^2)."""
    noise, added = tiny.floats(200, 0), tiny.floats(3, 1)
    made = disturbed(noise, added, strength)
    assert made.shape == (200, 4, *tiny.SHAPE) and torch.equal(made[:, 0], noise)
    # over rows, since the added noise is every row's
    assert float(made[:, 1:].var(0).mean()) * (1 + strength**2) == pytest.approx(1, abs=0.01)
    fresh = torch.cat(
        [disturbed(noise[i : i + 1], tiny.floats(1, 9 + i), strength) for i in range(20)]
    )
    assert float(fresh[:, 1].var()) == pytest.approx(1, abs=0.03)
    trigger = planted.trigger()
    shift = disturbed(noise[:2] + trigger, added, strength) - made[:2]
    faded = trigger / (1 + strength**2) ** 0.5
    torch.testing.assert_close(shift[:, 0], trigger.expand(2, -1, -1, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(shift[:, 1:], faded.expand(2, 3, -1, -1, -1), rtol=0, atol=1e-5)


def test_similarity_is_the_mean_over_pairs() -> None:
    vectors = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    expected = []
    for row in vectors.double().numpy():
        unit = row / np.linalg.norm(row, axis=1, keepdims=True)
        expected.append(np.mean([unit[i] @ unit[j] for i in range(4) for j in range(i)]))
    np.testing.assert_allclose(similarity(vectors).numpy(), expected, atol=1e-6)
    one = torch.ones(1, 1, 5)
    assert similarity(torch.cat([one, one, one], 1)).item() == pytest.approx(1)
    assert similarity(torch.cat([one, -one], 1)).item() == pytest.approx(-1)


def test_of_a_network_of_plain_noise_it_is_a_closed_form() -> None:
    """If the data are N(0, I) the network answers s x, and DDIM multiplies the start by a constant
    c: the images are c x and c (x + eta e) / sqrt(1 + eta^2), clamped.
    """
    model, eta = tiny.generator(), 0.7
    signal, noise_of = model.schedule.signal, model.schedule.noise

    def answer(x: Tensor, t: Tensor, _: object = None) -> Tensor:
        return float(noise_of[int(t[0])]) * x

    model.predict_noise = answer  # type: ignore[method-assign]
    steps = [
        int(t)
        for t in Scheduled(
            SamplerSettings(name="ddim", num_inference_steps=10), model.scheduler_config, ()
        ).timesteps
    ]
    c = 1.0
    for at, after in zip(steps, [*steps[1:], None], strict=True):
        a, s = (1.0, 0.0) if after is None else (signal[after], noise_of[after])
        c *= a * signal[at] + s * noise_of[at]
    rng = np.random.default_rng(5)
    rng.integers(2**31)
    added = rng.standard_normal((2, *tiny.SHAPE), dtype="float32")
    plain = rng.standard_normal((6, *tiny.SHAPE), dtype="float32")
    x = tiny.floats(3, 0).numpy()
    others = [(x + eta * e) / np.sqrt(1 + eta**2) for e in added]
    middle = (c * plain).clip(-1, 1).mean(0)
    images = [((c * start).clip(-1, 1) - middle).reshape(3, -1) for start in (x, *others)]
    unit = [image / np.linalg.norm(image, axis=1, keepdims=True) for image in images]
    expected = np.mean([(unit[i] * unit[j]).sum(1) for i in range(3) for j in range(i)], axis=0)
    detector = UFID(perturbation=eta, samples=3, sampler="ddim", steps=10, references=6)
    scores = detector.score(torch.from_numpy(x), access(model, 5))
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-4)


def test_it_finds_the_planted_backdoor_and_not_an_honest_models() -> None:
    """Higher is more suspicious; without a backdoor the trigger is but odd noise."""
    plain, called = tiny.floats(4, 0), tiny.floats(4, 1) + planted.trigger()
    detector = UFID(samples=3, steps=planted.STEPS, references=8)
    x, positive = torch.cat([plain, called]), np.arange(8) >= 4
    scores = detector.score(x, access(planted.generator("planted", False)))
    assert auroc(scores.numpy(), positive) == 1
    assert scores[4:].min() > 0.95 and scores[:4].max() < 0.6
    honest = detector.score(x, access(planted.generator("honest", False)))
    assert honest[4:].max() < 0.95


def test_what_it_costs_is_what_it_says() -> None:
    """samples x steps images a row, and the references: here without any padding."""
    model = tiny.generator()
    UFID(samples=4, steps=3, references=16).score(tiny.floats(8, 0), access(model))
    assert model.calls == (8 * 4 + 16) * 3


def test_rows_are_judged_alone_under_a_sampler_that_adds_noise() -> None:
    """A black box's streams go by a query's rows; here a row has the same ones anywhere."""
    detector, x = UFID(samples=3, steps=3, references=4), tiny.floats(5, 0)
    whole = detector.score(x, access(tiny.generator()))
    alone = [detector.score(row[None], access(tiny.generator())) for row in x]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=0, atol=1e-5)
    assert whole.std() > 1e-3  # equal numbers would agree with too much
    assert detector.score(x[:0], access(tiny.generator())).shape == (0,)


@pytest.mark.parametrize(
    ("field", "value"),
    [("perturbation", 0), ("samples", 1), ("steps", 0), ("references", 0), ("sampler", "euler")],
)
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"ufid: {field} must be .*, got {value!r}"):
        UFID(**{field: value})  # type: ignore[arg-type]
