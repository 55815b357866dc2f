"""What has to be downloaded for a testbed, part by part, and where each file goes.

Every file is named with what it must be: a SHA-256, or a commit of the hub. What has neither, or
what its owners hand out by hand only, is a step that a person takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

from bench.testbeds import celebahq_ddpm
from bench.testbeds.data.caltech15 import Caltech15
from bench.testbeds.data.captioned import Captioned
from bench.testbeds.data.celebahq import CelebAHQ
from bench.testbeds.data.cifar10 import Cifar10
from bench.testbeds.data.fashion import ADVICE as FASHION_ADVICE
from bench.testbeds.data.fashion import PLACES as FASHION_FOLDERS
from bench.testbeds.data.fashion import FashionMNIST
from bench.testbeds.data.imagenette import Imagenette
from bench.testbeds.data.images import expanded
from bench.testbeds.parts.copies import SSCD
from bench.testbeds.parts.inception import INCEPTION_FILE, INCEPTION_SHA256, Inception
from bench.testbeds.parts.judge import TrainedJudge
from bench.testbeds.parts.part import GUIDE, Part
from bench.testbeds.parts.published import PublishedWeights
from bench.testbeds.parts.sscd import FILE as SSCD_FILE
from bench.testbeds.parts.torchvision_classifiers import ImagenetClassifiers


@dataclass(frozen=True, kw_only=True)
class Step:
    """``what`` goes to ``target``. ``size``: of the download, in bytes, if it is known; ``terms``:
    whose it is, and what for.
    """

    what: str
    target: Path
    size: int | None = None
    terms: str = ""


@dataclass(frozen=True, kw_only=True)
class Archive(Step):
    """The tar archive at ``url``, unpacked into the folder ``target``; ``holds``: the name of the
    folder in it.
    """

    url: str
    sha256: str
    holds: str


@dataclass(frozen=True, kw_only=True)
class File(Step):
    """The file at ``url``. ``sha256``: all of it, or the beginning that its publisher gives;
    ``converted``: a pickle, of which the tensors are kept, as safetensors.
    """

    url: str
    sha256: str
    converted: bool = False


@dataclass(frozen=True, kw_only=True)
class Repository(Step):
    """``files`` (patterns) of a repository of the hub at one commit, in its local cache; with
    ``converted``, into ``target``, pickles' tensors as safetensors.
    """

    repository: str
    revision: str
    files: tuple[str, ...]
    converted: bool = False


@dataclass(frozen=True, kw_only=True)
class ByHand(Step):
    """What a person must do. ``remedy``: in one sentence."""

    remedy: str


@singledispatch
def steps_of(part: Part) -> list[Step]:
    """What ``part`` needs from elsewhere, whether it is there or not."""
    return []


_CIFAR10 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
_IMAGENETTE = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz"
_IMAGENETTE_SHA256 = "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd"
_CALTECH = "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar?download=1"
_CALTECH_SHA256 = "08ff01b03c65566014ae88eb0490dbe4419fc7ac4de726ee1163e39fd809543e"


@steps_of.register
def _(part: Cifar10) -> list[Step]:
    return [
        Archive(
            what="CIFAR-10, binary version",
            target=expanded(part.data),
            url=_CIFAR10,
            sha256=_CIFAR10_SHA256,
            holds="cifar-10-batches-bin",
            size=170_052_171,
        )
    ]


@steps_of.register
def _(part: Imagenette) -> list[Step]:
    return [
        Archive(
            what="ImageNette, full size",
            target=expanded(part.data),
            url=_IMAGENETTE,
            sha256=_IMAGENETTE_SHA256,
            holds="imagenette2",
            size=1_557_161_267,
            terms="ImageNet's images: for research that is not commercial",
        )
    ]


@steps_of.register
def _(part: Caltech15) -> list[Step]:
    archive = Archive(
        what="Caltech-256",
        target=expanded(part.data),
        url=_CALTECH,
        sha256=_CALTECH_SHA256,
        holds="256_ObjectCategories",
        size=1_183_006_720,
        terms="see its page, data.caltech.edu/records/nyy15-4j048",
    )
    if part.classes is not None:
        return [archive]
    remedy = f"name {part.class_count} of its classes in the parameter classes ({GUIDE})"
    return [archive, ByHand(what="the classes", target=archive.target, remedy=remedy)]


@steps_of.register
def _(part: CelebAHQ) -> list[Step]:
    remedy = (
        f"put {part.image_count:,} images of 256 x 256 pixels or more, or a parquet export, there; "
        f"its owners publish no archive with a hash ({GUIDE})"
    )
    terms = "for research that is not commercial"
    return [ByHand(what="CelebA-HQ", target=expanded(part.data), remedy=remedy, terms=terms)]


@steps_of.register
def _(part: FashionMNIST) -> list[Step]:
    target = expanded(part.data or FASHION_FOLDERS[0])
    return [ByHand(what="Fashion-MNIST", target=target, remedy=FASHION_ADVICE)]


@steps_of.register
def _(part: Captioned) -> list[Step]:
    remedy = f"put {part.image_count} images with captions there ({GUIDE})"
    return [ByHand(what="images with captions", target=expanded(part.data), remedy=remedy)]


@steps_of.register
def _(part: PublishedWeights) -> list[Step]:
    if part.weights is None:
        return []
    if part.from_hub() and part.revision is not None:
        return [
            Repository(
                what=part.weights,
                target=Path("the hub's cache"),
                repository=part.weights,
                revision=part.revision,
                files=part.hub_files,
            )
        ]
    if Path(part.weights).name != celebahq_ddpm.HUB_ID.partition("/")[2]:
        return [ByHand(what="weights", target=expanded(part.weights), remedy=part.advice)]
    return [
        Repository(
            what=celebahq_ddpm.HUB_ID,
            target=expanded(part.weights),
            repository=celebahq_ddpm.HUB_ID,
            revision=celebahq_ddpm.REVISION,
            files=("*.json", "*.bin"),
            converted=True,
        )
    ]


@steps_of.register
def _(part: Inception) -> list[Step]:
    import torch.hub
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    cached = Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
    target = cached if part.inception_weights is None else expanded(part.inception_weights)
    return [
        File(
            what="Inception's weights",
            target=target,
            url=URL_INCEPTION_V3,
            sha256=INCEPTION_SHA256,
        )
    ]


@steps_of.register
def _(part: ImagenetClassifiers) -> list[Step]:
    """Of torchvision's files the name holds the beginning of the SHA-256."""
    if part.imagenet_weights is None:
        return []
    import torchvision.models

    names: dict[str, Any] = {
        weights.__name__.removesuffix("_Weights").lower(): weights
        for weights in vars(torchvision.models).values()
        if isinstance(weights, type) and weights.__name__.endswith("_Weights")
    }
    url = str(names[part.classifier].IMAGENET1K_V1.url)
    return [
        File(
            what=f"torchvision's {part.classifier} with ImageNet's weights",
            target=expanded(part.imagenet_weights),
            url=url,
            sha256=url.rpartition("-")[2].partition(".")[0],
            converted=True,
        )
    ]


@steps_of.register
def _(part: SSCD) -> list[Step]:
    if part.sscd is None:
        return []
    remedy = f"put {SSCD_FILE} there: no hash of it is published, so you say which file you mean"
    return [ByHand(what="SSCD", target=expanded(part.sscd), remedy=remedy)]


@steps_of.register
def _(part: TrainedJudge) -> list[Step]:
    target = expanded(part.judge)
    remedy = f"castlewalls pretrain {part.name} --output {Path(part.judge).parent}"
    return [ByHand(what="the evaluation classifier", target=target, remedy=remedy)]
