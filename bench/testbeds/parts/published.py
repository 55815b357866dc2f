"""Generators whose weights somebody has published as a diffusers folder: on the hub, or on this
machine; and BadDiffusion's way of training on them.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import huggingface_hub
import torch
from annotated_types import Ge, Gt
from huggingface_hub import snapshot_download

from bench.diffusion.generator import Generator
from bench.diffusion.training import TrainingSettings
from bench.errors import UserError
from bench.testbeds.data.images import content_hash, expanded, faults_of, refuse_shut
from bench.testbeds.parts.part import Composition, Data, GeneratorSource, fixed, later

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = "diffusion_pytorch_model"


def steps_of(rows: int, batch_size: int, epochs: int) -> int:
    """Training steps of so many passes over ``rows`` images."""
    return math.ceil(rows / batch_size) * epochs


@dataclass(frozen=True, kw_only=True)
class PublishedWeights(GeneratorSource):
    """``weights``: a diffusers folder, or a hub repository, which needs ``revision``, a full commit
    hash, of its own if it is not the declared one; a folder of that name wins, and then
    ``revision`` counts for nothing; ``None``: there are none, where a testbed can do without. Paths
    are relative to the working directory.

    ``finetune_epochs``, ``scratch_epochs``: passes over the training set for each scheme.
    ``accumulation_steps``: pieces in which a training batch goes through the network, and
    ``gradient_checkpointing``: whether activations are computed twice instead of being kept. Both
    are for GPUs with less memory, and change the weights by rounding only. ``compiled``: whether
    the network is compiled where it is trained and where samples are drawn
    (:mod:`bench.diffusion.compiling`), which changes weights and samples by rounding.
    """

    #: What is fetched of a hub repository, as patterns.
    hub_files: ClassVar[tuple[str, ...]] = ("*.json", "*.safetensors")
    locations: ClassVar[frozenset[str]] = frozenset({"weights", "revision"})

    #: Images a training batch, over all pieces and GPUs.
    batch: int = fixed()
    #: The declared hub repository and its commit.
    published: tuple[str, str] | None = fixed(None)
    #: What to do when there are no weights, in one sentence.
    advice: str = fixed()
    weights: str | None
    revision: str | None = None
    finetune_epochs: Annotated[int, Gt(0)]
    scratch_epochs: Annotated[int, Gt(0)]
    accumulation_steps: Annotated[int, Ge(1)] = 1
    gradient_checkpointing: bool = False
    compiled: bool = later(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.batch % self.accumulation_steps == 0,
            "accumulation_steps",
            f"a divisor of the training batch of {self.batch} images",
        )
        valid = self.revision is None or _COMMIT.fullmatch(self.revision) is not None
        self.require(
            valid,
            "revision",
            "a full commit hash (40 hexadecimal digits) or null; a branch can change",
        )

    def _hub_folder(self, weights: str, *, fetch: bool) -> Path:
        """The weights' snapshot in the hub's local cache; downloaded first if ``fetch``. No code
        and no pickle is asked for.
        """
        try:
            return Path(
                snapshot_download(
                    weights,
                    revision=self.revision,
                    allow_patterns=list(self.hub_files),
                    local_files_only=not fetch,
                )
            )
        # The hub client raises its own, httpx's or requests' errors, depending on its release.
        except Exception as error:
            tried = (
                f"could not be fetched from the hub ({type(error).__name__})"
                if fetch
                else "will be fetched on first use"
            )
            raise UserError(
                f"{self.name}: weights {weights}, revision {self.revision}, are not on this "
                f"machine and {tried}; "
                f"without a network, {self.advice}"
            ) from error

    def from_hub(self) -> bool:
        """Whether ``weights`` is a hub repository: no folder of that name is here, and it is the
        declared one, or another with a ``revision`` of its own. Anything else is a path that was
        mistyped.
        """
        if self.weights is None or expanded(self.weights).is_dir() or self.revision is None:
            return False
        declared, commit = self.published or (None, None)
        known = self.weights == declared or self.revision != commit
        return known and _HUB_ID.fullmatch(self.weights) is not None

    def weights_folder(self, *, fetch: bool = True) -> Path:
        """A local diffusers folder with the weights as safetensors. ``fetch=False`` stays off the
        network.
        """
        if self.weights is None:
            raise UserError(
                f"{self.name}: there are no base weights (weights is null); {self.advice}"
            )
        folder = expanded(self.weights)
        if self.from_hub():
            folder = self._hub_folder(self.weights, fetch=fetch)
        elif not folder.is_dir():
            raise UserError(
                f"{self.name}: no weights folder {self.weights!r} (a hub repository would need "
                f"revision, a commit hash); "
                f"{self.advice}"
            )
        refuse_shut((folder, folder / "unet", folder / "scheduler"))
        parents = [parent for parent in (folder, folder / "unet") if parent.is_dir()]
        if not any(next(parent.glob(f"{_WEIGHTS}*.safetensors"), None) for parent in parents):
            pickled = next(
                (path for parent in parents for path in parent.glob(f"{_WEIGHTS}*.bin")), None
            )
            got = (
                "nothing of the kind"
                if pickled is None
                else f"{pickled.name}, a pickle, which is never loaded"
            )
            raise UserError(
                f"{self.name}: {folder} must hold {_WEIGHTS}.safetensors, got {got}; {self.advice}"
            )
        return folder

    @property
    def has_weights(self) -> bool:
        return self.weights is not None

    def prepared(self, generator: Generator) -> Generator:
        generator.compiled = self.compiled
        return generator

    def base(self, data: Data) -> Generator:
        folder = self.weights_folder()
        self._refuse_weights(folder, data)
        return self._load_weights(folder, data)

    def _load_weights(self, folder: Path, data: Data) -> Generator:
        return Generator.load(folder)

    def _outline(self, folder: Path) -> Generator:
        """As :meth:`_load_weights`, without the weights: see :meth:`Generator.outline`."""
        return Generator.outline(folder)

    def _refuse_weights(self, folder: Path, data: Data) -> None:
        """Raises ``UserError``, a line for each thing that is wrong with the weights in ``folder``
        beside ``data``. Loads none.
        """
        try:
            lines = self._wrong_with(self._outline(folder), folder, data)
        except UserError as error:
            lines = str(error).splitlines()
        if lines:
            raise UserError("\n".join(f"{self.name}: {line}" for line in lines))

    def _wrong_with(self, generator: Generator, folder: Path, data: Data) -> list[str]:
        """A line each for weights that draw other images, or predict something else than the
        noise.
        """
        shape, drawn = (3, data.size, data.size), generator.image_shape
        lines = []
        if drawn != shape:
            lines.append(
                f"weights must draw images of shape {shape}, those in {folder} draw {drawn}"
            )
        predicts = generator.scheduler_config.get("prediction_type") or "epsilon"
        if predicts != "epsilon":
            lines.append(
                f"weights must predict the noise (epsilon), those in {folder} predict {predicts!r}"
            )
        return lines

    def fresh(self, seed: int, data: Data) -> Generator:
        base = self.base(data)
        unet: Any = base.unet
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = unet.from_config(unet.config)
        return Generator(network.eval(), base.scheduler_config)

    def fingerprint(self) -> str:
        if self.weights is None:
            weights = []
        elif expanded(self.weights).is_dir():
            folder = self.weights_folder(fetch=False)
            files = [
                path
                for pattern in ("*", "unet/*", "scheduler/*")
                for path in sorted(folder.glob(pattern))
            ]
            configs = ("config.json", "scheduler_config.json")
            read = [path for path in files if path.name in configs or path.suffix == ".safetensors"]
            weights = [(path.relative_to(folder).as_posix(), content_hash(path)) for path in read]
        elif self.from_hub():
            weights = [(str(self.weights), str(self.revision))]  # A commit names its content.
        else:
            raise UserError(f"{self.name}: no weights folder {self.weights!r}; {self.advice}")
        return hashlib.sha256(json.dumps(weights).encode()).hexdigest()

    def missing(self) -> list[str]:
        return [] if self.weights is None else faults_of([lambda: self.weights_folder(fetch=False)])

    def faults(self, testbed: Composition) -> list[str]:
        return faults_of([lambda: self._look_at_weights(testbed)])

    def _look_at_weights(self, testbed: Composition) -> None:
        """Raises ``UserError`` for weights that cannot be used. Those on the hub are looked at once
        they are here.
        """
        if self._is_here():
            self._refuse_weights(self.weights_folder(fetch=False), testbed.data)

    def _is_here(self) -> bool:
        """Whether there are weights, and not only on the hub."""
        if self.weights is None:
            return False
        if self.from_hub() and not huggingface_hub.constants.HF_HUB_OFFLINE:
            try:
                self._hub_folder(self.weights, fetch=False)
            except UserError:
                return False
        return True

    def schedule_steps(self) -> int | None:
        try:
            if self._is_here():
                return len(self._outline(self.weights_folder(fetch=False)).schedule)
        except UserError:
            pass  # which faults() names
        return None


@dataclass(frozen=True, kw_only=True)
class BadDiffusionUNet(PublishedWeights):
    """Unconditional weights, trained on as BadDiffusion does (Chou et al. 2023, section 4.1 and the
    authors' code): the same for both schemes but for the length and the learning rate.
    """

    finetune_rate: float = fixed()
    scratch_rate: float = fixed()

    def _wrong_with(self, generator: Generator, folder: Path, data: Data) -> list[str]:
        lines = super()._wrong_with(generator, folder, data)
        if generator.classes is not None:
            classes = generator.unet.config.num_class_embeds
            lines.append(
                f"weights must be of a network without class labels, those in {folder} embed "
                f"{classes}"
            )
        return lines

    def settings(self, scheme: str, rows: int) -> TrainingSettings:
        scratch = scheme == "scratch"
        epochs = self.scratch_epochs if scratch else self.finetune_epochs
        return TrainingSettings(
            steps=steps_of(rows, self.batch, epochs),
            batch_size=self.batch,
            accumulation_steps=self.accumulation_steps,
            gradient_checkpointing=self.gradient_checkpointing,
            learning_rate=self.scratch_rate if scratch else self.finetune_rate,
            warmup_steps=500,
            schedule="cosine",
            optimizer="adam",
            gradient_clip=1.0,
            precision="float16",
            horizontal_flip=True,
        )
