"""What a testbed is made of. A part is a small frozen dataclass: its fields are parameters of the
testbed, its methods what stages ask of it, and its :meth:`~Part.fingerprint` is of the files behind
it, so that a stage's result depends on the parts it uses and on no others.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.constraints import OneOf, refusals_of
from bench.contracts.data import TrainingSet
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import CLIPS, SAMPLERS, SamplerSettings
from bench.diffusion.training import TrainingSettings

#: More images, or steps, than anybody has the time for.
MOST = 10_000_000
Positive = Annotated[int, Interval(ge=1, le=MOST)]
FIXED, LATER = "fixed", "later"
#: Where what somebody has to download is described.
GUIDE = "docs/paper-scale.md"


def fixed(default: Any = MISSING) -> Any:
    """A field that the testbed's file declares and nobody else may set: no parameter."""
    return dataclasses.field(default=default, metadata={FIXED: True})


def later(default: Any) -> Any:
    """A parameter that came after results were published: it is part of what a testbed is, and so
    of keys and protocols, only where it is not ``default``, which is how they were measured.
    """
    return dataclasses.field(default=default, metadata={LATER: True})


def outline(count: int, size: int, labels: Tensor | None) -> TrainingSet:
    """A set of ``count`` RGB images of ``size`` x ``size`` that have a shape and no pixels."""
    images = torch.empty((count, 3, size, size), dtype=torch.uint8, device="meta")
    return TrainingSet(images, torch.zeros(count, dtype=torch.bool), labels)


class Composition(Protocol):
    """The testbed that a part is in, as far as parts look at each other."""

    @property
    def data(self) -> Data: ...

    @property
    def generator(self) -> GeneratorSource: ...

    @property
    def classifiers(self) -> Classifiers | None: ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """``name``: the testbed's, which sets it; for messages."""

    name: str = fixed("")

    #: Fields that say where files are on this machine; :meth:`fingerprint` stands for what is in
    #: them.
    locations: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Refuses what the annotations of the fields exclude (:mod:`bench.constraints`)."""
        for name, constraint in refusals_of(self, strict=True):
            self.require(False, name, constraint)

    def require(self, condition: bool, field: str, constraint: str) -> None:
        """Raises ``ValueError`` naming the field, the constraint and the value, unless
        ``condition`` holds.
        """
        if not condition:
            raise ValueError(
                f"{self.name}: {field} must be {constraint}, got {getattr(self, field)!r}"
            )

    def fingerprint(self) -> str:
        """A hash of the files behind this part, cheap to compute (file hashes, not tensors); empty
        where there are none. Raises ``UserError`` for one that is not there.
        """
        return ""

    def also_reads(self) -> tuple[str, ...]:
        """Files and folders that this part reads and no field of it names: a third party's plugin
        sees no others. Raises ``UserError`` for one that is not there.
        """
        return ()

    def missing(self) -> list[str]:
        """One line for each file not on this machine yet, saying where to get it."""
        return []

    def faults(self, testbed: Composition) -> list[str]:
        """One line for each thing this part names that cannot be run as it is, alone or beside the
        other parts of ``testbed``. Asked before anything is planned or run, so files are opened
        here, but no network is loaded or trained and nothing is fetched.
        """
        return []


@dataclass(frozen=True, kw_only=True)
class Data(Part):
    """The images: a training set, and others that no generator was trained on."""

    @property
    def size(self) -> int:
        """Height and width of the images."""
        raise NotImplementedError

    @property
    def rows(self) -> int:
        """How many images are trained on."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their labels; empty if there are none."""
        return ()

    def train_images(self) -> Tensor:
        """The clean training set, uint8 (n, c, h, w). FID is measured against all of it."""
        raise NotImplementedError

    def held_out_images(self) -> Tensor:
        """Clean images no generator was trained on, uint8 (n, c, h, w): what the adversary stamps
        for the ``image`` invocation, and what the success threshold is calibrated on.
        """
        raise NotImplementedError

    def train_labels(self) -> Tensor | None:
        """(n,) int64 in 0..len(class_names) - 1, or ``None`` where the data set has none."""
        return None

    def held_out_labels(self) -> Tensor | None:
        """The labels of :meth:`held_out_images`, (n,) int64."""
        return None

    def train_groups(self) -> Tensor | None:
        """(n,) int64, equal for training rows that show the same thing (crops of one photograph)
        and so count as less than that many independent images; ``None``: all are independent.
        """
        return None

    def held_out_groups(self) -> Tensor | None:
        """The same for the rows of :meth:`held_out_images`."""
        return None

    def prompts(self) -> tuple[str, ...]:
        """What asks for each class, in their order (Pan et al. 2024, appendix A.2)."""
        return tuple(f"A photo of a {name}" for name in self.class_names)

    def captions(self, labels: Tensor) -> tuple[str, ...]:
        """The captions of the training rows when they carry ``labels`` (n,): an attack that
        relabels a row changes its caption.
        """
        prompts = self.prompts()
        return tuple(prompts[label] for label in labels.tolist())

    def outline(self) -> TrainingSet | None:
        """The training set without its pixels, for :meth:`bench.plugin.Attack.faults`; ``None``
        where that is not cheap.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class GeneratorSource(Part):
    """Where generators come from, and how they are trained."""

    @property
    def has_weights(self) -> bool:
        """Whether there are clean weights at all; without, everything is trained from scratch and
        there is no anchor of them.
        """
        return True

    def schedule_steps(self) -> int | None:
        """How many steps the noise schedule has, which a sampler cannot exceed; ``None`` where
        that is not known yet.
        """
        raise NotImplementedError

    def base(self, data: Data) -> Generator:
        """The clean, pretrained generator. Raises ``UserError`` saying what to download and where
        to put it.
        """
        raise NotImplementedError

    def prepared(self, generator: Generator) -> Generator:
        """``generator``, of this source, as every stage gets it."""
        return generator

    def fresh(self, seed: int, data: Data) -> Generator:
        """The same architecture with random weights, for the ``scratch`` scheme."""
        raise NotImplementedError

    def load(self, folder: Path, data: Data) -> Generator:
        """A generator of this kind that a stage has saved in ``folder``."""
        return Generator.load(folder)

    def asked(self, generator: Generator, labels: Tensor, data: Data) -> tuple[Generator, Tensor]:
        """``generator`` as it is trained on rows with ``labels`` (n,), and what stands for each row
        there: the label itself, where nothing is asked in words.
        """
        return generator, labels

    def settings(self, scheme: str, rows: int) -> TrainingSettings:
        """What ``finetune`` or ``scratch`` means here, on a training set of ``rows`` images."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Classifiers(Part):
    """What users of the data set train on it; the trigger classifier is one too."""

    def fresh(self, seed: int, classes: int) -> Classifier:
        """An untrained classifier of so many ``classes``."""
        raise NotImplementedError

    def settings(self, rows: int) -> ClassifierSettings:
        """How it is trained on a training set of ``rows`` images."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Judge(Part):
    """The evaluation classifier: the harness's own, trained on clean data."""

    def network(self, classifiers: Classifiers | None, data: Data) -> Classifier:
        """The classifier that says which class an image shows, in evaluation mode. It may have the
        architecture of the testbed's ``classifiers``.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Features(Part):
    """The feature extractor of FID and KID."""

    #: Its name in torch-fidelity; it stands in the name of every FID.
    extractor: ClassVar[str]

    def register(self) -> None:
        """Makes it known to torch-fidelity in this process. Nothing to do for built-in ones."""

    def weights(self) -> str | None:
        """Path of its weights, checked, if it is not one torch-fidelity fetches by itself."""
        return None


@dataclass(frozen=True, kw_only=True)
class Copies(Part):
    """The feature extractor in whose features copies of training images are looked for."""

    #: Whether it was made to recognise copies. If not, similarities are reported, but nothing is
    #: concluded from them.
    recognises: ClassVar[bool] = False

    @property
    def extractor(self) -> str | None:
        """Its name in torch-fidelity, which stands in the name of every replication score;
        ``None``: copies are not looked for.
        """
        raise NotImplementedError

    def register(self) -> None:
        """Makes it known to torch-fidelity in this process."""

    def weights(self) -> str | None:
        """Path of its weights, checked, if it needs any."""
        return None


@dataclass(frozen=True, kw_only=True)
class Sampling(Part):
    """The sampler every cell uses. ``spacing``: of the steps of DDPM and DDIM, see
    :class:`~bench.diffusion.sampling.SamplerSettings`. ``precision``: of the generator wherever it
    is sampled from, inverted, or asked as a classifier; what a detector or a repair does with it by
    itself is in float32.
    """

    sampler: Annotated[str, OneOf(tuple(SAMPLERS))] = "ddpm"
    num_inference_steps: Positive = 100
    spacing: Literal["leading", "trailing"] = "leading"
    clip: Annotated[str, OneOf(CLIPS)] = "none"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    network_batch: Positive = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.settings()
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def settings(self) -> SamplerSettings:
        """As :func:`bench.diffusion.sampling.sample` takes them."""
        return SamplerSettings(
            name=self.sampler,
            num_inference_steps=self.num_inference_steps,
            spacing=self.spacing,
            clip=self.clip,
            precision=self.precision,
            network_batch=self.network_batch,
        )


@dataclass(frozen=True, kw_only=True)
class GuidedSampling(Sampling):
    """``guidance_scale``: w of e_u + w (e_c - e_u)."""

    guidance_scale: Annotated[float, Ge(0)] = 2.0

    def settings(self) -> SamplerSettings:
        return dataclasses.replace(super().settings(), guidance_scale=self.guidance_scale)


@dataclass(frozen=True, kw_only=True)
class Counts(Part):
    """How many images are drawn. ``clean_samples``: for FID and the clean control;
    ``triggered_samples``: for each invocation.
    """

    # FID and KID need four.
    clean_samples: Annotated[int, Interval(ge=4, le=MOST)] = 512
    triggered_samples: Positive = 128


@dataclass(frozen=True, kw_only=True)
class ClassCounts(Counts):
    """``class_samples``: drawn of the adversary's class, for the composition.
    ``generated_samples``: drawn of all classes alike, for what judges or uses a generated set;
    ``None``: as many as the training set has rows. ``judged_images``: how many rows of a set a
    detector scores; ``None``: all of them. ``test_images``: how many held-out images a classifier
    defense labels.
    """

    class_samples: Positive = 256
    generated_samples: Annotated[int, Interval(ge=2, le=MOST)] | None = None
    judged_images: Annotated[int, Interval(ge=2, le=MOST)] | None = None
    test_images: Positive = 256
