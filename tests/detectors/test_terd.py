"""TERD's rules: against the densities' own definition, and their direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from bench.artwork import triggers
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.contracts.data import Recovered
from bench.metrics.detection import auroc
from defenses.terd import TERD
from detectors.terd import TERDInput, TERDModel, divergence, log_ratio

TRIGGER = triggers.trigger("grey_box", tiny.SHAPE)


def knowing(trigger: torch.Tensor, scale: float = 1.0) -> Access:
    recovered = Recovered(labels=["true"], triggers=[trigger[None]], notes={"scale": scale})
    return Access(rng=np.random.default_rng(0), recovered=recovered)


@pytest.mark.parametrize("scale", [1.0, 0.6, 0.05])
def test_the_ratio_is_of_two_normal_densities(scale: float) -> None:
    noise, mean = tiny.floats(5, 0).double(), TRIGGER.double()
    called = Independent(Normal(mean, scale), 3).log_prob(noise)
    plain = Independent(Normal(torch.zeros_like(mean), 1.0), 3).log_prob(noise)
    expected = (called - plain).float()
    torch.testing.assert_close(
        log_ratio(noise.float(), TRIGGER, scale), expected, rtol=1e-5, atol=1e-2
    )


def test_without_a_scale_the_sign_says_which_is_nearer() -> None:
    noise = torch.cat(
        [tiny.floats(8, 0), tiny.floats(8, 1) + TRIGGER, tiny.floats(8, 2) + TRIGGER / 2]
    )
    nearer = (noise - TRIGGER).flatten(1).norm(dim=1) < noise.flatten(1).norm(dim=1)
    assert torch.equal(log_ratio(noise, TRIGGER, 1.0) > 0, nearer)


def test_called_noise_scores_higher() -> None:
    noise = torch.cat([tiny.floats(16, 0), tiny.floats(16, 1) + TRIGGER])
    scores = TERDInput().score(noise, knowing(0.3 * TRIGGER))
    assert auroc(scores.numpy(), np.arange(32) >= 16) == 1.0


def test_noise_of_a_smaller_scale_scores_higher_where_that_was_recovered() -> None:
    noise = torch.cat([tiny.floats(16, 0), 0.6 * tiny.floats(16, 1)])
    scores = TERDInput(family="trojdiff").score(noise, knowing(torch.zeros(tiny.SHAPE), 0.6))
    assert auroc(scores.numpy(), np.arange(32) >= 16) == 1.0


@pytest.mark.parametrize("scale", [1.0, 0.6, 0.05])
def test_the_divergence_is_kullback_and_leiblers(scale: float) -> None:
    mean = TRIGGER.double()
    known = kl_divergence(
        Normal(mean, scale), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    )
    torch.testing.assert_close(divergence(TRIGGER, scale), known)


def test_a_model_with_a_stronger_trigger_scores_higher() -> None:
    for statistic in ("mean", "variance"):
        detector = TERDModel(statistic=statistic)  # type: ignore[arg-type]
        strong, weak = (float(detector.score(None, knowing(f * TRIGGER))) for f in (1.0, 0.2))
        assert strong > weak > 0


def test_they_start_from_the_inversion_of_their_parameters() -> None:
    own = {"family": "trojdiff", "surrogate_steps": 7, "steps": 3, "batch_size": 5}
    assert TERDInput(**own).uses() == TERD(**own)  # type: ignore[arg-type]
    assert TERDModel(**own, statistic="variance").uses() == TERD(**own)  # type: ignore[arg-type]
    assert replace(TERD(), learning_rate=0.1) == TERDInput(learning_rate=0.1).uses()
