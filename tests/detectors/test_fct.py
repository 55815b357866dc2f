"""FCT: what it fine-tunes on and how it turns an image are where its two codes and its paper part
ways.
"""

from collections.abc import Callable
from math import cos, radians, sin

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.contracts.access import Access
from bench.contracts.data import TrainingSet
from bench.metrics.detection import auroc
from detectors.fct import FCT, inter_class_centroids, intra_class, transform

MakeAccess = Callable[..., Access]
Draw = Callable[..., Tensor]
Stamp = Callable[[Tensor], Tensor]


def literal_transform(image: np.ndarray, angle: float, down: int, right: int) -> np.ndarray:
    """Every pixel asks where it comes from: first the turn, within the frame, then the shift."""
    _, height, width = image.shape
    turned, shifted = np.zeros_like(image), np.zeros_like(image)
    middle_y, middle_x, c, s = (
        (height - 1) / 2,
        (width - 1) / 2,
        cos(radians(angle)),
        sin(radians(angle)),
    )
    for y in range(height):
        for x in range(width):
            from_x = round(c * (x - middle_x) - s * (y - middle_y) + middle_x)
            from_y = round(s * (x - middle_x) + c * (y - middle_y) + middle_y)
            if 0 <= from_x < width and 0 <= from_y < height:
                turned[:, y, x] = image[:, from_y, from_x]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                shifted[:, y, x] = turned[:, y - down, x - right]
    return shifted


def literal_loss(name: str, features: list[Tensor], labels: list[int]) -> Tensor:
    classes = sorted(set(labels))
    units = {}
    for c in classes:
        members = [f for f, label in zip(features, labels, strict=True) if label == c]
        mean = sum(members[1:], members[0]) / len(members)
        units[c] = mean / mean.norm()
    if name == "inter_class_centroids":
        pairs = [(units[j] * units[k]).sum() for j in classes for k in classes if j != k]
        return torch.stack(pairs).sum() / len(classes) ** 2
    return torch.stack(
        [1 - (f @ units[c]) / f.norm() for f, c in zip(features, labels, strict=True)]
    ).mean()


def literal(
    detector: FCT, images: Tensor, classifier: Classifier, train_set: TrainingSet, seed: int
) -> list[float]:
    """The definition, one image at a time, with SGD written out."""
    rng = np.random.default_rng(seed)
    size = images.shape[2]
    moves = []
    for _ in range(detector.draws):
        angle, down, right = (float(value) for value in rng.uniform(-1, 1, 3))
        moves.append((180 * angle, round(0.2 * size * down), round(0.2 * size * right)))
    model = classifier.clone()

    def look(pixels: np.ndarray) -> Tensor:
        return model.features(2 * torch.from_numpy(pixels)[None].float() - 1)[0]

    velocity: dict[int, Tensor] = {}
    for _ in range(detector.epochs if detector.loss != "none" else 0):
        order = rng.permutation(len(train_set.images))
        for start in range(0, len(order), detector.batch_size):
            rows = order[start : start + detector.batch_size]
            features = [look(train_set.images[row].numpy() / 255) for row in rows]
            loss = literal_loss(
                detector.loss, features, [int(train_set.labels[row]) for row in rows]
            )
            parameters = list(model.body.parameters())
            for i, (value, gradient) in enumerate(
                zip(parameters, torch.autograd.grad(loss, parameters), strict=True)
            ):
                with torch.no_grad():
                    step = gradient + 5e-4 * value
                    velocity[i] = 0.9 * velocity[i] + step if i in velocity else step
                    value -= detector.learning_rate * velocity[i]
    scores = []
    with torch.no_grad():
        for image in images.numpy() / 255:
            distances = [
                ((look(image) - look(literal_transform(image, *move))) ** 2).mean()
                for move in moves
            ]
            scores.append(float(sum(distances) / len(distances)))
    return scores


@pytest.mark.parametrize("loss", ["inter_class_centroids", "intra_class", "none"])
def test_it_is_the_definition(
    loss: str,
    smooth: Classifier,
    clean: Draw,
    poison: Stamp,
    access: MakeAccess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("detectors.fct.ELEMENTS_AT_ONCE", 1)
    images = torch.cat([clean(30), poison(clean(6, 5))])
    detector = FCT(loss=loss, epochs=2, batch_size=25, learning_rate=1.0, draws=3)
    expected = literal(detector, images, smooth, access().train_set, 0)
    scores = detector.score(images, access(classifier=smooth))
    assert scores.shape == (36,) and scores.dtype == torch.float32
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=0, atol=1e-6)
    assert scores.std() > 0.01
    if loss != "none":
        untuned = FCT(loss="none", draws=3).score(images, access(classifier=smooth))
        assert (scores - untuned).abs().max() > 0.001  # else the fine-tuning was not tested


def test_it_finds_the_planted_backdoor(clean: Draw, poison: Stamp, access: MakeAccess) -> None:
    """Higher is more suspicious: turned away from its corner, the trigger is gone and the features
    are others.
    """
    images = torch.cat([clean(40), poison(clean(40, 5))])
    scores = FCT(epochs=1, learning_rate=1e-4).score(images, access())
    assert auroc(scores, np.arange(80) >= 40) > 0.9


@pytest.mark.parametrize(
    "move", [(0.0, 0, 0), (33.0, 0, 0), (-140.0, 2, -3), (77.0, -1, 8), (0.0, 2, 1)]
)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 10)])
def test_pixels_move_as_they_should(
    shape: tuple[int, int, int], move: tuple[float, int, int]
) -> None:
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    expected = np.stack([literal_transform(image, *move) for image in images.numpy()])
    torch.testing.assert_close(transform(images, *move), torch.from_numpy(expected), rtol=0, atol=0)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        transform(images, 90, 0, 0), torch.rot90(images, 1, (2, 3)), rtol=0, atol=0
    )


def test_transformations_keep_to_their_bounds(access: MakeAccess) -> None:
    handed_over = access()
    angles, downs, rights = zip(
        *(FCT(rotation=30, translation=0.25)._draw(20, 40, handed_over) for _ in range(300)),
        strict=True,
    )
    assert -30 <= min(angles) < -28 and 28 < max(angles) <= 30
    assert (min(downs), max(downs), min(rights), max(rights)) == (-5, 5, -10, 10)


def test_losses_in_closed_form() -> None:
    """Three classes whose centroids are two equal axes and one across: 2 of the 6 ordered pairs
    have cosine 1, over 3^2.
    """
    features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, 0, 5, 7])
    torch.testing.assert_close(inter_class_centroids(features, labels), torch.tensor(2 / 9))
    torch.testing.assert_close(intra_class(features, labels), torch.tensor(0.0))
    # One class of two rows at right angles: each is 45 degrees off their centroid; between classes
    # there is nothing.
    across, one = torch.eye(2), torch.tensor([3, 3])
    torch.testing.assert_close(intra_class(across, one), torch.tensor(1 - 0.5**0.5))
    assert inter_class_centroids(across, one) == 0


def test_training_from_scratch_forgets_the_given_weights(
    planted: Classifier, clean: Draw, access: MakeAccess
) -> None:
    """``train_epochs`` promises a fresh classifier; and the global random state is nobody's to
    change.
    """
    other = planted.clone()
    with torch.no_grad():
        for value in other.parameters():
            value += 1
    detector = FCT(train_epochs=2, epochs=1, learning_rate=0.001)
    state = torch.get_rng_state()
    first, second = (
        detector.score(clean(5), access(classifier=network)) for network in (planted, other)
    )
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, detector.score(clean(5), access(seed=1)))
    assert not torch.equal(first, FCT(epochs=1, learning_rate=0.001).score(clean(5), access()))


def test_a_score_does_not_depend_on_the_other_images(clean: Draw, access: MakeAccess) -> None:
    images, detector = clean(30), FCT(epochs=1, learning_rate=1e-4)
    whole = detector.score(images, access())
    alone = torch.cat([detector.score(row[None], access()) for row in images[:5]])
    torch.testing.assert_close(alone, whole[:5], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        detector.score(images.flip(0), access()).flip(0), whole, rtol=1e-5, atol=1e-5
    )
    assert detector.score(images[:0], access()).shape == (0,)


def test_scores_are_a_function_of_the_seed_and_leave_their_input_alone(
    planted: Classifier, clean: Draw, access: MakeAccess
) -> None:
    """The given classifier is fine-tuned in a copy: a detector that ran later would judge with a
    ruined one.
    """
    images, detector, handed_over = clean(5), FCT(epochs=1), access()
    before, weights = images.clone(), [value.clone() for value in planted.parameters()]
    first = detector.score(images, handed_over)
    assert torch.equal(first, detector.score(images, access()))
    assert not torch.equal(first, detector.score(images, access(seed=1)))
    assert torch.equal(images, before)
    assert all(
        torch.equal(value, other)
        for value, other in zip(planted.parameters(), weights, strict=True)
    )
    assert not planted.training


def test_a_training_set_without_labels_is_refused(planted: Classifier, clean: Draw) -> None:
    unlabelled = TrainingSet(clean(5), torch.zeros(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="fct: needs a training set with labels"):
        FCT().score(
            clean(2),
            Access(rng=np.random.default_rng(0), classifier=planted, train_set=unlabelled),
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss", "contrastive"),
        ("train_epochs", -1),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("draws", 0),
        ("rotation", 181),
        ("translation", 1),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"fct: {field} must be .*, got {value!r}"):
        FCT(**{field: value})
