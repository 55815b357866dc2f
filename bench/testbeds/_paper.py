"""What the paper-scale testbeds share: published weights, Inception features, BadDiffusion's
sampler and counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import torch
from huggingface_hub import snapshot_download

from bench.diffusion.generator import Generator
from bench.diffusion.sampling import check_steps
from bench.errors import UserError
from bench.testbeds._images import content_hash, expanded, faults_of, files_fingerprint, refuse_shut
from bench.testbeds.base import Testbed

GUIDE = "docs/paper-scale.md"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
#: Other bytes would be another metric under the same name, and torch-fidelity's own loader would
#: unpickle them.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True, kw_only=True)
class PaperTestbed(Testbed):
    """``data``: folder of the data set. ``weights``: a diffusers folder, or a hub repository, which
    needs ``revision``, a full commit hash, of its own if it is not the declared one; a folder of
    that name wins, and then ``revision`` counts for nothing; ``None``: there are none, where a
    testbed can do without. ``inception_weights``: a local copy of torch-fidelity's Inception
    weights; ``None`` lets torch-fidelity fetch them. Paths are relative to the working directory.

    ``finetune_epochs``, ``scratch_epochs``: passes over the training set for each scheme.
    ``accumulation_steps``: pieces in which a training batch goes through the network, and
    ``gradient_checkpointing``: whether activations are computed twice instead of being kept. Both
    are for GPUs with less memory, and change the weights by rounding only.
    """

    extractor: ClassVar[str] = "inception-v3-compat"
    image_size: ClassVar[int]
    #: Images a training batch, over all pieces and GPUs.
    batch: ClassVar[int]
    #: What to do when there are no weights, in one sentence.
    weights_advice: ClassVar[str]
    #: What is fetched of a hub repository, as patterns.
    hub_files: ClassVar[tuple[str, ...]] = ("*.json", "*.safetensors")
    #: Fields that say where things are on this machine; :meth:`fingerprint` stands for what they
    #: hold.
    locations: ClassVar[frozenset[str]] = frozenset(
        {"data", "weights", "revision", "inception_weights"}
    )

    data: str
    weights: str | None
    revision: str | None = None
    inception_weights: str | None = None
    finetune_epochs: int
    scratch_epochs: int
    accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    num_inference_steps: int = 1000
    clean_samples: int = 10_000
    triggered_samples: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("finetune_epochs", "scratch_epochs"):
            self._require(getattr(self, field) > 0, field, "a positive number")
        pieces = self.accumulation_steps
        divides = type(pieces) is int and pieces > 0 and self.batch % pieces == 0
        self._require(
            divides, "accumulation_steps", f"a divisor of the training batch of {self.batch} images"
        )
        self._require(
            type(self.gradient_checkpointing) is bool, "gradient_checkpointing", "true or false"
        )
        valid = self.revision is None or _COMMIT.fullmatch(self.revision) is not None
        self._require(
            valid,
            "revision",
            "a full commit hash (40 hexadecimal digits) or null; a branch can change",
        )

    def data_files(self) -> list[Path]:
        """The files behind the data set. Raises ``UserError`` saying what to download and where to
        put it.
        """
        raise NotImplementedError

    def _steps(self, images: int, batch_size: int, epochs: int) -> int:
        return math.ceil(images / batch_size) * epochs

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
                f"without a network, {self.weights_advice}"
            ) from error

    def _from_hub(self) -> bool:
        """Whether ``weights`` is a hub repository: no folder of that name is here, and it is the
        declared one, or another with a ``revision`` of its own. Anything else is a path that was
        mistyped.
        """
        declared = {field.name: field.default for field in dataclasses.fields(self)}
        if self.weights is None or expanded(self.weights).is_dir() or self.revision is None:
            return False
        known = self.weights == declared["weights"] or self.revision != declared["revision"]
        return known and _HUB_ID.fullmatch(self.weights) is not None

    def weights_folder(self, *, fetch: bool = True) -> Path:
        """A local diffusers folder with the weights as safetensors. ``fetch=False`` stays off the
        network.
        """
        if self.weights is None:
            raise UserError(
                f"{self.name}: there are no base weights (weights is null); {self.weights_advice}"
            )
        folder = expanded(self.weights)
        if self._from_hub():
            folder = self._hub_folder(self.weights, fetch=fetch)
        elif not folder.is_dir():
            raise UserError(
                f"{self.name}: no weights folder {self.weights!r} (a hub repository would need "
                f"revision, a commit hash); "
                f"{self.weights_advice}"
            )
        refuse_shut((folder, folder / "unet", folder / "scheduler"))
        places = [place for place in (folder, folder / "unet") if place.is_dir()]
        if not any(next(place.glob(f"{_WEIGHTS}*.safetensors"), None) for place in places):
            pickled = next(
                (path for place in places for path in place.glob(f"{_WEIGHTS}*.bin")), None
            )
            found = (
                "nothing of the kind"
                if pickled is None
                else f"{pickled.name}, a pickle, which is never loaded"
            )
            raise UserError(
                f"{self.name}: {folder} must hold {_WEIGHTS}.safetensors, got {found}; "
                f"{self.weights_advice}"
            )
        return folder

    @property
    def drawn_size(self) -> int:
        """Height and width of the images the weights must draw."""
        return self.image_size

    def base_generator(self) -> Generator:
        folder = self.weights_folder()
        self._refuse_weights(folder)
        return self._load_weights(folder)

    def _load_weights(self, folder: Path) -> Generator:
        return Generator.load(folder)

    def _outline(self, folder: Path) -> Generator:
        """As :meth:`_load_weights`, without the weights: see :meth:`Generator.outline`."""
        return Generator.outline(folder)

    def _refuse_weights(self, folder: Path) -> None:
        """Raises ``UserError``, a line for each thing that is wrong with the weights in ``folder``.
        Loads none.
        """
        try:
            generator = self._outline(folder)
            self._check_weights(generator, folder)
        except UserError as error:
            raise UserError(
                "\n".join(f"{self.name}: {line}" for line in str(error).splitlines())
            ) from error

    def _check_weights(self, generator: Generator, folder: Path) -> None:
        """Raises ``UserError`` for weights that draw other images, or predict something else than
        the noise.
        """
        shape, drawn = (3, self.drawn_size, self.drawn_size), generator.image_shape
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
        if self.kind == "unconditional" and generator.classes is not None:
            held = generator.unet.config.num_class_embeds
            lines.append(
                f"weights must be of a network that is told no class, those in {folder} embed "
                f"{held}"
            )
        try:
            check_steps(self.sampler_settings(), len(generator.schedule))
        except ValueError as error:
            lines.append(str(error))
        if lines:
            raise UserError("\n".join(lines))

    def fresh_generator(self, seed: int) -> Generator:
        base = self.base_generator()
        unet: Any = base.unet
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = unet.from_config(unet.config)
        return Generator(network.eval(), base.scheduler_config)

    def extractor_weights(self) -> str | None:
        """The local Inception weights, checked; ``None`` if torch-fidelity has still to fetch
        them.
        """
        if self.inception_weights is None:
            path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
            if not path.is_file():
                return None
        else:
            path = expanded(self.inception_weights)
            if not path.is_file():
                raise UserError(
                    f"{self.name}: no inception_weights at {self.inception_weights!r}; put "
                    f"{INCEPTION_FILE} of "
                    "torch-fidelity's release v0.2.0 there"
                )
        if (found := content_hash(path)) != INCEPTION_SHA256:
            raise UserError(
                f"{self.name}: {path} must be {INCEPTION_FILE} with sha256 {INCEPTION_SHA256}, "
                f"got {found}; download it again"
            )
        return str(path)

    def fingerprint(self) -> str:
        data = files_fingerprint(expanded(self.data), self.data_files())
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
        elif self._from_hub():
            weights = [(str(self.weights), str(self.revision))]  # A commit names its content.
        else:
            raise UserError(
                f"{self.name}: no weights folder {self.weights!r}; {self.weights_advice}"
            )
        return hashlib.sha256(json.dumps([self.name, data, weights]).encode()).hexdigest()

    def missing(self) -> list[str]:
        """One line for each thing that is not on this machine yet; empty if the testbed can run
        without a network.
        """
        weights = [] if self.weights is None else [lambda: self.weights_folder(fetch=False)]
        return self._lines((self.data_files, *weights, self._inception))

    def faults(self) -> list[str]:
        return [*super().faults(), *self._lines((self._look_at_weights, self.extractor_weights))]

    def data_faults(self) -> list[str]:
        return self._lines((self.data_files,))

    def _look_at_weights(self) -> None:
        """Raises ``UserError`` for weights that cannot be used. Those on the hub are looked at once
        they are here.
        """
        if self.weights is None:
            return
        if self._from_hub() and not huggingface_hub.constants.HF_HUB_OFFLINE:
            try:
                self._hub_folder(self.weights, fetch=False)
            except UserError:
                return
        self._refuse_weights(self.weights_folder(fetch=False))

    def _inception(self) -> None:
        if self.extractor_weights() is None:
            raise UserError(
                f"{self.name}: {INCEPTION_FILE} will be fetched by torch-fidelity on first use; "
                f"without a network, "
                "download it from torch-fidelity's release v0.2.0 and set inception_weights"
            )

    def _lines(self, checks: Iterable[Callable[[], object]]) -> list[str]:
        """What those checks have to say that fail."""
        return faults_of(checks)
