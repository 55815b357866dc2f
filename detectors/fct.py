"""FCT, feature consistency towards transformations: a poisoned image's features do not survive
turning and shifting it. The score is the squared distance between a classifier's features of an
image and of a turned and shifted copy. A trigger that is moved no longer answers.

Chen, Wu, Wang: "Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples", NeurIPS
2022, equation 1: the score is the squared distance of the penultimate features f of an image and of
a turned and shifted copy,

    Delta(x) = mean_d (f(x) - f(T(x)))_d^2, T: rotation by U(-180, 180) degrees, then a shift of up
    to 20 % of each side,

**higher is more suspicious**; in [0, inf), to be read as an order only (the mean over d and the
paper's sum order alike).

Where paper and code differ, the choice is a parameter:

- the features. In the paper they are a classifier's that was trained "a few epochs" on the
  suspected set, which both codes make 2, without augmentation: ``train_epochs``, from
  re-initialised weights. The copy of FCT in Cognitive Distillation's code, the likely source of the
  tables in Pan et al. 2024, starts from the fully trained classifier instead: ``train_epochs=0``,
  our default.
- ``loss``: the code then fine-tunes the features with no cross-entropy at all. What it calls
  ``L_intra`` is the mean cosine **between** classes, ``1/C^2 sum_{j != k} u_j . u_k``, u_j being
  the normalised mean feature of class j in the batch: ``inter_class_centroids``. ``intra_class`` is
  what that name says, 1 - cosine of each row to its own class's centroid (our reading; no code does
  it). ``none`` is the equation alone. Nothing keeps the features from collapsing, so long
  fine-tuning may ruin the score.
- deviation: the code draws one T for every image. Here ``draws`` transformations are drawn once,
  shared by all images, and averaged: an image's score depends on no other image, and one lucky turn
  decides less.

Pixels are moved to the nearest neighbour and black comes in from outside, as torchvision's defaults
in the code. Every call fine-tunes its own copy of the classifier, so judging two sets in one call
halves the cost and changes no score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, radians, sin
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from bench.classification.classifier import Classifier
from bench.diffusion.images import to_unit_range
from bench.plugin import Access, Card, Note, Paper, SampleDetector

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
#: Turn in degrees, shift down and to the right in pixels.
Transformation = tuple[float, int, int]
# Images looked at in one pass: about 1,300 of 16 x 16, and never fewer than 32.
ELEMENTS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class FCT(SampleDetector):
    """``epochs``: passes over the training set with ``loss``. ``rotation`` in degrees and
    ``translation`` as a share of each side bound T. Both trainings are SGD with momentum 0.9,
    weight decay 5e-4, ``learning_rate`` and ``batch_size``.
    """

    card: ClassVar[Card] = Card(
        name="fct",
        summary="features that a rotation and a shift change much betray a trigger",
        paper=Paper(
            title="Effective Backdoor Defense by Exploiting Sensitivity of Poisoned Samples",
            authors="Weixin Chen, Baoyuan Wu, Haoqian Wang",
            year=2022,
            bibtex=(
                "@inproceedings{chen2022effective, title={Effective Backdoor Defense by "
                "Exploiting Sensitivity of Poisoned "
                "Samples}, author={Chen, Weixin and Wu, Baoyuan and Wang, Haoqian}, "
                "booktitle={NeurIPS}, year={2022}}"
            ),
        ),
        applies_to=frozenset({"class", "text"}),
        needs=frozenset({"classifier", "training data"}),
        tuned=(),
    )

    loss: Literal["inter_class_centroids", "intra_class", "none"] = "inter_class_centroids"
    train_epochs: Annotated[int, Ge(0), Note("0 keeps the given classifier")] = 0
    epochs: Annotated[int, Ge(1), Note("for no fine-tuning set loss to 'none'")] = 10
    batch_size: Annotated[int, Gt(0)] = 128
    learning_rate: Annotated[float, Gt(0)] = 0.01
    draws: Annotated[int, Gt(0)] = 10
    rotation: Annotated[float, Interval(ge=0, le=180), Note("degrees")] = 180.0
    translation: Annotated[float, Interval(ge=0, lt=1), Note("a share of each side")] = 0.2

    def score(self, images: Tensor, access: Access) -> Tensor:
        transformations = [
            self._draw(images.shape[2], images.shape[3], access) for _ in range(self.draws)
        ]
        classifier = self._sensitised(access)
        device = classifier.head.weight.device
        scores = torch.empty(len(images))
        size = max(32, ELEMENTS_AT_ONCE // images.shape[1:].numel())
        with torch.inference_mode():
            for start in range(0, len(images), size):
                rows = slice(start, start + size)
                pixels = images[rows].to(device).float() / 255
                features = classifier.features(pixels * 2 - 1)
                moved = [
                    classifier.features(transform(pixels, *chosen) * 2 - 1)
                    for chosen in transformations
                ]
                scores[rows] = (
                    torch.stack([(features - other).square().mean(1) for other in moved])
                    .mean(0)
                    .cpu()
                )
        return scores

    def _draw(self, height: int, width: int, access: Access) -> Transformation:
        angle, down, right = access.rng.uniform(-1, 1, 3)
        share = self.translation
        return (
            float(self.rotation * angle),
            round(float(share * height * down)),
            round(float(share * width * right)),
        )

    def _sensitised(self, access: Access) -> Classifier:
        """The classifier whose features are compared: a copy, trained as the parameters say, in
        evaluation mode.
        """
        # the card asks for both
        classifier = access.classifier.clone().requires_grad_(True)
        if self.train_epochs:
            _reinitialise(classifier, int(access.rng.integers(2**63)))
            self._train(classifier, _cross_entropy, self.train_epochs, access, "training steps")
        if self.loss != "none":
            of_features = LOSSES[self.loss]
            self._train(
                classifier,
                lambda classifier, images, labels: of_features(classifier.features(images), labels),
                self.epochs,
                access,
                "fine-tuning steps",
            )
        return classifier.eval()

    def _train(
        self,
        classifier: Classifier,
        loss_of: Callable[[Classifier, Tensor, Tensor], Tensor],
        epochs: int,
        access: Access,
        what: str,
    ) -> None:
        train_set = access.train_set
        if train_set is None or train_set.labels is None:
            raise ValueError(f"{self.card.name}: needs a training set with labels")
        device = classifier.head.weight.device
        optimizer = torch.optim.SGD(
            classifier.parameters(),
            lr=self.learning_rate,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
        )
        classifier.train()
        for epoch in range(epochs):
            batches = torch.from_numpy(access.rng.permutation(len(train_set.images))).split(
                self.batch_size
            )
            for step, chosen in enumerate(batches):
                batch = to_unit_range(train_set.images[chosen].to(device))
                loss = loss_of(classifier, batch, train_set.labels[chosen].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                access.progress(epoch * len(batches) + step + 1, epochs * len(batches), what)


def transform(images: Tensor, angle: float, down: int, right: int) -> Tensor:
    """Images (n, c, h, w) in [0, 1] turned about their centre by ``angle`` degrees, then shifted by
    whole pixels; a new tensor.

    What the turn carries outside the frame is gone, even if the shift would bring it back.
    ``angle`` > 0 turns counter-clockwise.
    """
    height, width = images.shape[2:]
    cosine, sine = cos(radians(angle)), sin(radians(angle))
    # From where each pixel comes, in coordinates that run from -1 to 1 over either side.
    source = torch.tensor(
        [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
    ).to(images)
    grid = F.affine_grid(source.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return F.pad(turned, (right, -right, down, -down))


def inter_class_centroids(features: Tensor, labels: Tensor) -> Tensor:
    """``1/C^2 sum_{j != k} u_j . u_k`` over the C classes present; features (n, d), labels (n,). 0
    if there is one class.
    """
    centroids = _centroids(features, labels)[0]
    return 2 * (centroids @ centroids.T).triu(1).sum() / len(centroids) ** 2


def intra_class(features: Tensor, labels: Tensor) -> Tensor:
    """Mean of 1 - cosine between a row's features (n, d) and the centroid of the class ``labels``
    (n,) puts it in.
    """
    centroids, own = _centroids(features, labels)
    return (1 - (F.normalize(features, dim=1) * centroids[own]).sum(1)).mean()


LOSSES = {"inter_class_centroids": inter_class_centroids, "intra_class": intra_class}


def _centroids(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised mean features (C, d) of the classes present, and which of them each row belongs
    to.
    """
    _, own = labels.unique(return_inverse=True)
    means = [features[own == index].mean(0) for index in range(int(own.max()) + 1)]
    return F.normalize(torch.stack(means), dim=1), own


def _cross_entropy(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(classifier(images), labels)


def _reinitialise(classifier: nn.Module, seed: int) -> None:
    """Fresh weights wherever a module knows how to draw them, leaving the global random states, of
    its own device too, as they were.
    """
    devices = {one.device for one in classifier.parameters() if one.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        for module in classifier.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
