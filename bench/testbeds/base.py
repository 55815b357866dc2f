"""What a testbed declares: data, generator, sampler, extractor and sample counts. One file per
testbed; nothing else knows which it is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.contracts.card import TestbedKind
from bench.contracts.data import TrainingSet
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings
from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings

#: More images, or steps, than anybody has the time for.
MOST = 10_000_000


def outline(count: int, size: int, labels: Tensor | None) -> TrainingSet:
    """A set of ``count`` RGB images of ``size`` x ``size`` that have a shape and no pixels."""
    images = torch.empty((count, 3, size, size), dtype=torch.uint8, device="meta")
    return TrainingSet(images, torch.zeros(count, dtype=torch.bool), labels)


@cache
def _usual_params(testbed: Any) -> dict[str, Any]:
    usual: dict[str, Any] = testbed().params()
    return usual


@dataclass(frozen=True, kw_only=True)
class Testbed:
    """A frozen dataclass like a plugin: its fields are its parameters, so ``(name, params)``
    rebuilds it.

    ``spacing``: of the steps of DDPM and DDIM, see
    :class:`~bench.diffusion.sampling.SamplerSettings`. ``clean_samples`` are drawn for FID and the
    clean control; ``triggered_samples`` for each invocation.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    kind: ClassVar[TestbedKind] = "unconditional"
    #: Name of a torch-fidelity feature extractor; it stands in the name of every FID.
    extractor: ClassVar[str]
    #: Whether the weights ship with the package, so that nothing has to be fetched or made.
    embedded: ClassVar[bool] = False
    #: Rough seconds of (train, sample, invert, measure) on two CPU cores or one GPU, for
    #: ``--dry-run`` before anything was run.
    typical_seconds: ClassVar[dict[str, float]] = {}

    #: Parameters that only decide how and how much is sampled: a generator is trained once for all
    #: their values.
    sampling_parameters: ClassVar[frozenset[str]] = frozenset(
        {
            "sampler",
            "num_inference_steps",
            "spacing",
            "clip",
            "precision",
            "network_batch",
            "clean_samples",
            "triggered_samples",
        }
    )

    #: Parameters that only decide how results are judged: what is trained and sampled is kept for
    #: all their values.
    judging_parameters: ClassVar[frozenset[str]] = frozenset()

    sampler: str = "ddpm"
    num_inference_steps: int = 100
    spacing: Literal["leading", "trailing"] = "leading"
    clip: str = "none"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    network_batch: int = 64
    clean_samples: int = 512
    triggered_samples: int = 128

    #: The fewest that can be measured, by field; each class adds its own. FID and KID need four
    #: images.
    lowest_counts: ClassVar[dict[str, int]] = {
        "num_inference_steps": 1,
        "network_batch": 1,
        "clean_samples": 4,
        "triggered_samples": 1,
    }

    def __post_init__(self) -> None:
        for field, lowest in (
            item
            for cls in type(self).__mro__
            for item in vars(cls).get("lowest_counts", {}).items()
        ):
            value = getattr(self, field)
            self._require(
                value is None or lowest <= value <= MOST, field, f"from {lowest} to {MOST:,}"
            )
        try:
            self.sampler_settings()
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def _require(self, condition: bool, field: str, constraint: str) -> None:
        if not condition:
            raise ValueError(
                f"{self.name}: {field} must be {constraint}, got {getattr(self, field)!r}"
            )

    def params(self) -> dict[str, Any]:
        """JSON-ready parameters; ``type(self)(**self.params()) == self``."""
        return dataclasses.asdict(self)

    def params_for(self, stage: str) -> dict[str, Any]:
        """:meth:`params`, with those at their defaults that do not decide the result of this kind
        of stage.
        """
        ignored: frozenset[str] = frozenset()
        if stage in (
            "reference",
            "features",
            "train",
            "training_features",
            "classifier",
            "trigger_classifier",
        ):
            ignored |= self.sampling_parameters
        if stage in ("reference", "features", "train", "sample", "repair", "invert"):
            ignored |= self.judging_parameters
        kind: Any = type(self)
        usual = _usual_params(kind)
        return self.params() | {field: usual[field] for field in ignored}

    def sampler_settings(self) -> SamplerSettings:
        """The sampler every cell uses."""
        return SamplerSettings(
            name=self.sampler,
            num_inference_steps=self.num_inference_steps,
            spacing=self.spacing,
            clip=self.clip,
            precision=self.precision,
            network_batch=self.network_batch,
        )

    def train_images(self) -> Tensor:
        """The clean training set, uint8 (n, c, h, w). FID is measured against all of it."""
        raise NotImplementedError

    def held_out_images(self) -> Tensor:
        """Clean images no generator was trained on, uint8 (n, c, h, w): what the adversary stamps
        for the ``image`` invocation, and what the success threshold is calibrated on.
        """
        raise NotImplementedError

    def train_labels(self) -> Tensor | None:
        """(n,) int64, or ``None`` where the data set has none."""
        return None

    def train_groups(self) -> Tensor | None:
        """(n,) int64, equal for training rows that show the same thing (crops of one photograph)
        and so count as less than that many independent images; ``None``: all are independent.
        """
        return None

    def held_out_groups(self) -> Tensor | None:
        """The same for the rows of :meth:`held_out_images`."""
        return None

    def base_generator(self) -> Generator:
        """The clean, pretrained generator. Raises ``UserError`` saying what to download and where
        to put it.
        """
        raise NotImplementedError

    def has_base_weights(self) -> bool:
        """Whether there are such weights at all; without, everything is trained from scratch and
        there is no anchor of them.
        """
        return True

    def fresh_generator(self, seed: int) -> Generator:
        """The same architecture with random weights, for the ``scratch`` scheme."""
        raise NotImplementedError

    def load_generator(self, folder: Path) -> Generator:
        """A generator of this testbed that a stage has saved in ``folder``."""
        return Generator.load(folder)

    def training_settings(self, scheme: str) -> TrainingSettings:
        """What ``finetune`` or ``scratch`` means here."""
        raise NotImplementedError

    def register_extractor(self) -> None:
        """Makes :attr:`extractor`, and the copy extractor where there is one, known to
        torch-fidelity in this process. Nothing to do for its built-in ones.
        """

    def extractor_weights(self) -> str | None:
        """Path of the extractor's weights, if it is not one torch-fidelity fetches by itself."""
        return None

    def missing(self) -> list[str]:
        """One line for each file not on this machine yet, saying where to get it; empty if the
        testbed can run offline.
        """
        return []

    def faults(self) -> list[str]:
        """One line for each thing this testbed names that cannot be run as it is; empty if all is
        well. Asked before anything is planned or run, so files are opened here, but no network is
        loaded or trained and nothing is fetched.
        """
        return self.data_faults()

    def data_faults(self) -> list[str]:
        """One line for each thing that is wrong with the data set: every file is opened, and no
        image decoded that seems whole.
        """
        return []

    def training_outline(self) -> TrainingSet | None:
        """The training set without its pixels, for :meth:`bench.plugin.Attack.faults`; ``None``
        where it cannot be told cheaply.
        """
        return None

    def fingerprint(self) -> str:
        """A hash of the data and weights behind this testbed, cheap to compute (file hashes, not
        tensors).
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ConditionalTestbed(Testbed):
    """A testbed whose generator is asked for a class.

    ``guidance_scale``: w of e_u + w (e_c - e_u). ``class_samples``: drawn of the adversary's class,
    for the composition. ``generated_samples``: drawn of all classes alike, for what judges or uses
    a generated set; ``None``: as many as the training set has rows. ``judged_images``: how many
    rows of a set a detector scores; ``None``: all of them. ``test_images``: how many held-out
    images a classifier defense labels.
    """

    guidance_scale: float = 2.0
    class_samples: int = 256
    generated_samples: int | None = None
    judged_images: int | None = None
    test_images: int = 256

    kind: ClassVar[TestbedKind] = "class"
    class_names: ClassVar[tuple[str, ...]]
    sampling_parameters: ClassVar[frozenset[str]] = Testbed.sampling_parameters | {
        "guidance_scale",
        "class_samples",
        "generated_samples",
        "judged_images",
        "test_images",
    }
    lowest_counts: ClassVar[dict[str, int]] = {
        "class_samples": 1,
        "generated_samples": 2,
        "judged_images": 2,
        "test_images": 1,
    }

    def sampler_settings(self) -> SamplerSettings:
        return replace(super().sampler_settings(), guidance_scale=self.guidance_scale)

    def train_labels(self) -> Tensor:
        """(n,) int64 in 0..len(class_names) - 1."""
        raise NotImplementedError

    def held_out_labels(self) -> Tensor:
        """The labels of :meth:`held_out_images`, (n,) int64."""
        raise NotImplementedError

    def fresh_classifier(self, seed: int, classes: int | None = None) -> Classifier:
        """An untrained classifier as users of this data set train one; ``classes``: outputs, by
        default one a class.
        """
        raise NotImplementedError

    def classifier_settings(self) -> ClassifierSettings:
        """How such a classifier is trained."""
        raise NotImplementedError

    def evaluation_classifier(self) -> Classifier:
        """The harness's own, trained on clean data: it says which class a generated image shows."""
        raise NotImplementedError

    #: Whether the copy extractor was made to tell copies. If not, similarities are shown, but
    #: nothing is concluded from them.
    recognises_copies: ClassVar[bool] = False

    def copy_extractor(self) -> str | None:
        """Name of the torch-fidelity feature extractor in whose features copies of training images
        are looked for; it stands in the name of every replication score. ``None``: none are looked
        for.
        """
        return None

    def copy_extractor_weights(self) -> str | None:
        """Path of that extractor's weights, checked, if it needs any."""
        return None


@dataclass(frozen=True, kw_only=True)
class TextTestbed(ConditionalTestbed):
    """A testbed whose generator is asked by a prompt: Stable Diffusion. A class is asked for by its
    own prompt, :meth:`prompts`.
    """

    kind: ClassVar[TestbedKind] = "text"

    def prompts(self) -> tuple[str, ...]:
        """What asks for each class, in their order (Pan et al. 2024, appendix A.2)."""
        return tuple(f"A photo of a {name}" for name in self.class_names)

    def captions(self, labels: Tensor) -> tuple[str, ...]:
        """The captions of the training rows when they carry ``labels`` (n,): an attack that
        relabels a row changes its caption.
        """
        prompts = self.prompts()
        return tuple(prompts[label] for label in labels.tolist())

    def base_generator(self) -> TextToImage:
        raise NotImplementedError

    def load_generator(self, folder: Path) -> TextToImage:
        return TextToImage.load(folder, prompts=self.prompts())
