"""STRIP: a wrong blend, a lost logarithm or a turned sign would all still give numbers that look
like scores.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.classification.classifier import Classifier
from bench.contracts.access import Access
from bench.metrics.detection import auroc
from detectors.strip import STRIP

MakeAccess = Callable[..., Access]
Draw = Callable[..., Tensor]
Stamp = Callable[[Tensor], Tensor]


def literal(classifier: Classifier, images: Tensor, overlays: Tensor, blend: str) -> list[float]:
    """The definition, one image and one overlay at a time, the softmax in double precision."""
    scores = []
    for image in images.double() / 255:
        entropies = []
        for overlay in overlays.double() / 255:
            if blend == "saturating_sum":
                blended = 2 * torch.minimum(image + overlay, torch.ones(())) - 1
            else:
                blended = (2 * image - 1) + (2 * overlay - 1)
            logits = classifier(blended[None].float())[0].detach().double().numpy()
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            entropies.append(-sum(value * np.log(value) for value in p if value > 0))
        scores.append(-float(np.mean(entropies)))
    return scores


@pytest.mark.parametrize("blend", ["saturating_sum", "normalised_sum"])
def test_it_is_the_definition(
    blend: str,
    smooth: Classifier,
    clean: Draw,
    access: MakeAccess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pieces of 32 pairs, which end in the middle of an image
    monkeypatch.setattr("detectors.strip.ELEMENTS_AT_ONCE", {"cpu": 1})
    images = 255 - clean(6)  # bright, so that sums leave the range and the clamp counts
    chosen = np.random.default_rng(0).choice(60, size=20, replace=False)
    expected = literal(smooth, images, access().train_set.images[torch.from_numpy(chosen)], blend)
    scores = STRIP(overlays=20, blend=blend).score(images, access(classifier=smooth))
    assert scores.shape == (6,) and scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=0, atol=1e-5)
    assert scores.std() > 0.01  # six equal numbers would agree with too much


def test_it_finds_the_planted_backdoor(clean: Draw, poison: Stamp, access: MakeAccess) -> None:
    """Higher is more suspicious: the sign is the first thing to get wrong."""
    images = torch.cat([clean(40), poison(clean(40, 5))])
    scores = STRIP().score(images, access())
    assert auroc(scores, np.arange(80) >= 40) > 0.95


def test_an_unclamped_sum_is_another_image(clean: Draw, access: MakeAccess) -> None:
    """Two parameters with the same scores would be one method on the board under two names."""
    images = 255 - clean(5)
    bounded, unbounded = (
        STRIP(blend=blend).score(images, access()) for blend in ("saturating_sum", "normalised_sum")
    )
    assert (bounded - unbounded).abs().max() > 0.01


def test_a_score_does_not_depend_on_the_other_images(clean: Draw, access: MakeAccess) -> None:
    images = clean(30)
    whole = STRIP().score(images, access())
    alone = torch.cat([STRIP().score(row[None], access()) for row in images[:5]])
    torch.testing.assert_close(alone, whole[:5], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        STRIP().score(images.flip(0), access()).flip(0), whole, rtol=0, atol=1e-5
    )
    assert STRIP().score(images[:0], access()).shape == (0,)


def test_scores_are_a_function_of_the_seed_and_leave_their_input_alone(
    clean: Draw, access: MakeAccess
) -> None:
    images, handed_over = clean(5), access()
    before, pool = images.clone(), handed_over.train_set.images.clone()
    first = STRIP(overlays=10).score(images, handed_over)
    assert torch.equal(first, STRIP(overlays=10).score(images, access()))
    assert not torch.equal(first, STRIP(overlays=10).score(images, access(seed=1)))
    assert torch.equal(images, before) and torch.equal(handed_over.train_set.images, pool)


def test_a_small_training_set_is_used_whole(clean: Draw, access: MakeAccess) -> None:
    """More overlays asked for than there are: the same scores for every seed, since nothing is left
    to chance.
    """
    first, other = (STRIP(overlays=1000).score(clean(5), access(seed)) for seed in (0, 1))
    torch.testing.assert_close(first, other, rtol=0, atol=1e-5)


def test_a_certain_classifier_scores_zero_and_not_nan(clean: Draw, access: MakeAccess) -> None:
    """p ln p at p = 0: the most suspicious images of all would fall out of the ranking."""
    certain = Classifier(nn.Conv2d(3, 2, 1), nn.Linear(2, 3))
    with torch.no_grad():
        certain.head.bias.copy_(torch.tensor([0.0, 500.0, -500.0]))
    assert torch.equal(STRIP().score(clean(3), access(classifier=certain)), torch.zeros(3))


@pytest.mark.parametrize(("field", "value"), [("overlays", 0), ("blend", "average")])
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"strip: {field} must be .*, got {value!r}"):
        STRIP(**{field: value})
