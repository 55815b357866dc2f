"""Clean-label poisoning: the labels stay true, the noise stays small, and it must really make the
images harder to recognise.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks.clean_label import CleanLabel, adversarial, train_surrogate
from bench.artwork import patterns
from bench.classification.classifier import Classifier, predict
from bench.contracts.data import TrainingSet
from bench.contracts.goals import ReachClass
from bench.diffusion.images import to_unit_range

QUICK = CleanLabel(surrogate_steps=40, pgd_steps=5, step_size=4.0)


@cache
def striped(count: int = 200, classes: int = 4) -> TrainingSet:
    """A class is the quarter of the image that is brighter, under noise: learnt in a few steps."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(60, 160, (count, 1, 8, 8), generator=draw)
    labels = torch.arange(count) % classes
    for label in range(classes):
        images[labels == label, :, 2 * label : 2 * label + 2] += 60
    return TrainingSet(images.to(torch.uint8), torch.zeros(count, dtype=torch.bool), labels)


@cache
def surrogate() -> Classifier:
    return train_surrogate(striped(), 40, seed=0)


def loss(classifier: Classifier, images: Tensor, label: int) -> Tensor:
    logits = classifier(to_unit_range(images))
    return nn.functional.cross_entropy(logits, torch.full((len(images),), label), reduction="none")


def test_rows_of_the_target_class_are_changed_and_keep_their_label() -> None:
    """A changed label would make it BadNets; a row of another class would need one."""
    honest = striped()
    originals = honest.images.clone(), honest.labels.clone()
    poisoned = replace(QUICK, target_class=2, poison_rate=0.1).poison(
        honest, np.random.default_rng(0)
    )
    rows = poisoned.poisoned
    assert int(rows.sum()) == 20
    assert bool((honest.labels[rows] == 2).all())
    assert torch.equal(poisoned.labels, honest.labels)
    assert torch.equal(poisoned.images[~rows], honest.images[~rows])
    assert (
        torch.equal(honest.images, originals[0])
        and torch.equal(honest.labels, originals[1])
        and not honest.poisoned.any()
    )


def test_noise_is_within_epsilon_and_under_the_trigger() -> None:
    """Outside the patch at most epsilon grey levels, and not none; in the patch exactly the
    pattern, stamped last.
    """
    honest = striped()
    attack = replace(QUICK, target_class=2, epsilon=7)
    poisoned = attack.poison(honest, np.random.default_rng(0))
    rows = poisoned.poisoned
    _, cover = patterns.overlay("badnets1", (1, 8, 8))
    patch = (cover == 1).expand(int(rows.sum()), 1, 8, 8)
    change = (poisoned.images[rows].int() - honest.images[rows].int()).abs()
    assert int(change[~patch].max()) == 7
    assert torch.equal(poisoned.images[rows][patch], attack.stamp(honest.images[rows])[patch])


@settings(deadline=None, max_examples=25)
@given(
    epsilon=st.integers(1, 60),
    step_size=st.floats(0.1, 80),
    steps=st.integers(1, 4),
    low=st.integers(0, 255),
    label=st.integers(0, 3),
)
def test_noise_never_leaves_the_ball_or_the_range(
    epsilon: int, step_size: float, steps: int, low: int, label: int
) -> None:
    """8-bit images wrap around: a pixel pushed below 0 would come back white."""
    images = torch.randint(
        low, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(epsilon)
    )
    originals = images.clone()
    changed = adversarial(surrogate(), images, label, epsilon, steps, step_size)
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    assert int((changed.int() - images.int()).abs().max()) <= epsilon
    assert torch.equal(images, originals)


def test_noise_makes_the_true_class_harder_and_random_noise_does_not() -> None:
    """The direction: descending instead of ascending would make the target class easier, and the
    trigger superfluous.
    """
    honest = striped()
    images = honest.images[honest.labels == 2]
    noisy = adversarial(surrogate(), images, 2, 30, 5, 10.0)
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, images.shape, generator=draw) * 60 - 30
    random = (images + signs).clamp(0, 255).to(torch.uint8)
    before, at_random, after = (loss(surrogate(), each, 2) for each in (images, random, noisy))
    assert bool((after > before).all())
    assert float(after.mean()) > float(at_random.mean()) + 1
    assert float((predict(surrogate(), images) == 2).float().mean()) > 0.95
    assert float((predict(surrogate(), noisy) == 2).float().mean()) < 0.2


def test_one_step_is_the_sign_of_the_gradient() -> None:
    """Literally: x + epsilon sign(d loss / d x), one image at a time."""
    images = striped().images[:4]
    changed = adversarial(surrogate(), images, 1, 5, 1, 5.0)
    for image, one in zip(images, changed, strict=True):
        x = image[None].float().requires_grad_()
        loss(surrogate(), x, 1).sum().backward()
        assert torch.equal(one[None].float(), x.detach() + 5 * x.grad.sign())


def test_poisoning_is_a_function_of_the_seed() -> None:
    """Several stages make the set anew: a global random state would give each of them another
    one.
    """
    attack = replace(QUICK, target_class=1)
    torch.manual_seed(1)
    one = attack.poison(striped(), np.random.default_rng(5))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = attack.poison(striped(), np.random.default_rng(5))
    assert torch.equal(one.images, again.images) and torch.equal(one.poisoned, again.poisoned)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state was moved"
    other = attack.poison(striped(), np.random.default_rng(6))
    assert not torch.equal(one.poisoned, other.poisoned)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (3, 20, 33), (3, 64, 64)])
def test_the_surrogate_fits_any_image(shape: tuple[int, int, int]) -> None:
    """Its last maps stay about 4 x 4, so that it sees the whole of a large image."""
    images = torch.randint(0, 256, (12, *shape), dtype=torch.uint8)
    classifier = train_surrogate(
        TrainingSet(images, torch.zeros(12, dtype=torch.bool), torch.arange(12) % 3), 1, seed=0
    )
    maps = classifier.maps(to_unit_range(images))
    assert classifier.classes == 3 and min(maps.shape[2:]) in (3, 4, 5)
    assert not classifier.training and not any(
        weight.requires_grad for weight in classifier.parameters()
    )


def test_there_is_a_trigger_and_a_target_but_nothing_to_invoke() -> None:
    attack = CleanLabel()
    images = torch.full((1, 3, 16, 16), 128, dtype=torch.uint8)
    assert torch.equal(attack.stamp(images), patterns.stamp("badnets1", images))
    assert attack.trigger_image((3, 16, 16)).shape == (3, 16, 16)
    assert attack.goal() == ReachClass(6) and attack.calls == ()
    assert attack.label() == "clean_label(pattern=badnets1)"


def test_bad_sets_are_refused_before_anything_is_trained() -> None:
    long = CleanLabel(surrogate_steps=10**9, target_class=2)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="clean_label: the training set must have labels"):
        long.poison(replace(striped(), labels=None), rng)
    with pytest.raises(
        ValueError,
        match=r"target_class must be one of the training set's labels \(0, 1, 2, 3\), got 6",
    ):
        replace(long, target_class=6).poison(striped(), rng)
    with pytest.raises(
        ValueError, match="poison_rate must be small enough .* 60 rows .* 50 .* in class 2, got 0.3"
    ):
        replace(long, poison_rate=0.3).poison(striped(), rng)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epsilon": 0}, "epsilon must be from 1 to 255 .grey levels., got 0"),
        ({"epsilon": 256}, "epsilon must be .*got 256"),
        ({"pgd_steps": 0}, "pgd_steps must be at least 1, got 0"),
        ({"step_size": 0}, "step_size must be positive .grey levels., got 0"),
        ({"surrogate_steps": -1}, "surrogate_steps must be at least 1, got -1"),
        ({"pattern": "kitty"}, "pattern must be one of 'badnets1'"),
    ],
)
def test_bad_parameters_name_field_constraint_and_value(params: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"clean_label: {message}"):
        CleanLabel(**params)
