"""Cognitive Distillation: masks that depend on their neighbours, a lost loss term or a turned sign
would still rank something.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.contracts.access import Access
from bench.metrics.detection import auroc
from detectors.cognitive_distillation import AUTHORS_VALUES, CognitiveDistillation, total_variation

MakeAccess = Callable[..., Access]
Draw = Callable[..., Tensor]
Stamp = Callable[[Tensor], Tensor]


def literal(
    classifier: Classifier,
    image: Tensor,
    colours: np.ndarray,
    features: str,
    gamma: float,
    beta: float,
    rate: float,
) -> float:
    """The definition for one image (3, h, w) in double precision, pixel by pixel, with Adam written
    out; the sum of the mask.
    """
    look = classifier if features == "logits" else classifier.maps
    x, (height, width) = image.double() / 255, image.shape[1:]
    wanted = look(2 * x[None] - 1)[0].detach()
    theta, first, second = (
        np.ones((height, width)),
        np.zeros((height, width)),
        np.zeros((height, width)),
    )
    for step, colour in enumerate(colours, start=1):
        variable = torch.from_numpy(theta).clone().requires_grad_(True)
        mask = (torch.tanh(variable) + 1) / 2
        c = torch.from_numpy(colour.astype(np.float64)).reshape(3, 1, 1)
        seen = look(2 * (x * mask + (1 - mask) * c)[None] - 1)[0]
        loss = (seen - wanted).abs().sum() / seen.numel()
        for row in range(height):
            for column in range(width):
                loss = loss + gamma * mask[row, column]
                if column:
                    loss = loss + beta * (mask[row, column] - mask[row, column - 1]) ** 2 / (
                        height * width
                    )
                if row:
                    loss = loss + beta * (mask[row, column] - mask[row - 1, column]) ** 2 / (
                        height * width
                    )
        (gradient,) = (value.numpy() for value in torch.autograd.grad(loss, variable))
        first, second = 0.1 * first + 0.9 * gradient, 0.1 * second + 0.9 * gradient**2
        theta = theta - rate * (first / (1 - 0.1**step)) / (
            np.sqrt(second / (1 - 0.1**step)) + 1e-8
        )
    return float(((np.tanh(theta) + 1) / 2).sum())


@pytest.mark.parametrize("features", ["logits", "maps"])
def test_it_is_the_definition(
    features: str,
    smooth: Classifier,
    clean: Draw,
    poison: Stamp,
    access: MakeAccess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("detectors.cognitive_distillation.ELEMENTS_AT_ONCE", {"cpu": 1})
    gamma, beta, rate = 0.02, 3.0, 0.08
    images = torch.cat([clean(1), poison(clean(1, 5))])
    colours = np.random.default_rng(0).random((20, 3, 1, 1), dtype=np.float32)
    exact = smooth.clone().double()
    expected = [-literal(exact, image, colours, features, gamma, beta, rate) for image in images]
    detector = CognitiveDistillation(
        features=features, gamma=gamma, beta=beta, learning_rate=rate, steps=20
    )
    scores = detector.score(images, access(classifier=smooth))
    assert scores.shape == (2,) and scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=0, atol=1e-4)
    assert scores.max() - scores.min() > 0.1


@pytest.mark.parametrize("features", ["logits", "maps"])
def test_null_takes_the_authors_values(features: str, clean: Draw, access: MakeAccess) -> None:
    """Of gamma, what weighs as theirs does at 32 x 32; the images here have 64 pixels."""
    gamma, beta, rate = AUTHORS_VALUES[features]
    gamma *= 1024 / 64
    explicit = CognitiveDistillation(
        features=features, gamma=gamma, beta=beta, learning_rate=rate, steps=5
    )
    default = CognitiveDistillation(features=features, steps=5)
    assert torch.equal(explicit.score(clean(3), access()), default.score(clean(3), access()))


@pytest.mark.parametrize("side", [16, 32, 512])
def test_a_masks_size_weighs_the_same_at_every_resolution(side: int) -> None:
    """Gamma times the sum of a full mask: at 512 x 512 the authors' own number would weigh 256
    times theirs, and empty every mask.
    """
    detector, images = CognitiveDistillation(), torch.zeros(1, 3, side, side)
    assert detector._gamma(images) * side * side == pytest.approx(0.01 * 32 * 32)
    assert CognitiveDistillation(gamma=0.5)._gamma(images) == 0.5


def test_a_detector_whose_masks_have_all_collapsed_says_so(clean: Draw, access: MakeAccess) -> None:
    """Its AUROC of 0.5, or 0.03, would look like a property of the attack."""
    for gamma, collapsed in ((1e-3, False), (5.0, True)):
        remarks: list[str] = []
        CognitiveDistillation(gamma=gamma).score(clean(12), access(remark=remarks.append))
        assert bool(remarks) == collapsed
    assert (
        remarks[0].startswith("collapsed masks, the median keeps 0.00 %")
        and "gamma 5 is too large" in remarks[0]
    )


@pytest.mark.parametrize("features", ["logits", "maps"])
def test_it_finds_the_planted_backdoor(
    features: str, clean: Draw, poison: Stamp, access: MakeAccess
) -> None:
    """Higher is more suspicious: the sign is the first thing to get wrong. Maps' own gamma is too
    weak for so few pixels.
    """
    images = torch.cat([clean(40), poison(clean(40, 5))])
    scores = CognitiveDistillation(features=features, gamma=0.02, learning_rate=0.1).score(
        images, access()
    )
    assert auroc(scores, np.arange(80) >= 40) > 0.95


def test_the_mask_keeps_the_trigger_and_gives_up_the_rest(
    planted: Classifier, clean: Draw, poison: Stamp, access: MakeAccess
) -> None:
    """A low norm alone could come from any collapse; what is left of it must be where the trigger
    is.
    """
    detector = CognitiveDistillation(gamma=0.05)
    colours = torch.rand(100, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    masks = detector.masks(planted.requires_grad_(False), poison(clean(20)).float() / 255, colours)
    assert masks.shape == (20, 1, 8, 8)
    assert masks.min() >= 0 and masks.max() <= 1
    assert masks[:, :, -3:, -3:].mean() > 0.5 > 0.3 > masks[:, :, :-3, :-3].mean()


def test_total_variation_counts_every_edge_once() -> None:
    """One pixel of height 2 inside a flat mask has four edges; in a corner it has two."""
    masks = torch.zeros(2, 1, 4, 5)
    masks[0, 0, 1, 2] = 2
    masks[1, 0, 0, 0] = 2
    torch.testing.assert_close(total_variation(masks), torch.tensor([16.0, 8.0]) / 20)


def test_a_score_does_not_depend_on_the_other_images(clean: Draw, access: MakeAccess) -> None:
    """Colours drawn image by image, or a loss averaged over the batch, would make it."""
    images, detector = clean(30), CognitiveDistillation(steps=40)
    whole = detector.score(images, access())
    alone = torch.cat([detector.score(row[None], access()) for row in images[:5]])
    torch.testing.assert_close(alone, whole[:5], rtol=0, atol=1e-3)
    torch.testing.assert_close(
        detector.score(images.flip(0), access()).flip(0), whole, rtol=0, atol=1e-3
    )
    assert detector.score(images[:0], access()).shape == (0,)


def test_scores_are_a_function_of_the_seed_and_leave_their_input_alone(
    planted: Classifier, clean: Draw, access: MakeAccess
) -> None:
    images, detector = clean(5), CognitiveDistillation(steps=5)
    before, weights = images.clone(), [value.clone() for value in planted.parameters()]
    first = detector.score(images, access())
    assert torch.equal(first, detector.score(images, access()))
    assert not torch.equal(first, detector.score(images, access(seed=1)))
    assert torch.equal(images, before)
    assert all(
        torch.equal(value, other)
        for value, other in zip(planted.parameters(), weights, strict=True)
    )
    assert all(value.requires_grad and value.grad is None for value in planted.parameters())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features", "pixels"),
        ("gamma", -1),
        ("beta", -1),
        ("learning_rate", 0),
        ("learning_rate", -1),
        ("steps", 0),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(
        ValueError, match=f"cognitive_distillation: {field} must be .*, got {value!r}"
    ):
        CognitiveDistillation(**{field: value})
