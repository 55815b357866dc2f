"""What the testbeds over Stable Diffusion v1-4 share: weights, training, sampling, classifiers, and
pictures of any size on disk.

Pan et al. 2024, arXiv 2311.02373, appendix A: ``CompVis/stable-diffusion-v1-4``, of which the U-Net
alone is fine-tuned, for 50 epochs at 1e-4 with batches of 4 on each of 4 GPUs; 1,000 samples of the
target class by DDIM in 50 steps at guidance 5 (theirs is this project's e_u + w (e_c - e_u)). From
the authors' code, where the text is silent: AdamW with torch's weight decay of 0.01, a constant
learning rate, an average of the weights with decay 0.9999, which is what they sample from; captions
are never dropped, and nothing is flipped or cropped at random. Their classifiers are ResNet-50s
with ImageNet's weights: SGD, weight decay 5e-4, batches of 25, flips.

Deviations: the gradient's norm is clipped at 1, which neither their code nor their configuration
does; mixed float16 in training, where they name no precision; one-cycle learning rates for
classifiers instead of a cosine; rows held out of Caltech and of captioned sets; and images are
cropped, never squeezed (ImageNette's are squeezed to a square there).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from bench.classification.architectures import Architecture, torchvision_classifier
from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.contracts.data import TrainingSet
from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings
from bench.errors import UserError
from bench.testbeds._images import (
    Encoded,
    content_hash,
    damaged_images,
    decode_all,
    decoding_faults,
    expanded,
    faults_of,
    files_fingerprint,
    memory_mapped,
    refuse_shut,
)
from bench.testbeds._paper import GUIDE
from bench.testbeds._paper_conditional import PaperConditionalTestbed
from bench.testbeds.base import TextTestbed, outline
from bench.testbeds.judge import train_judge

HUB_ID = "CompVis/stable-diffusion-v1-4"
#: The snapshot of ``main`` in the hub caches that much public code names, and which some pins. That
#: it holds safetensors of every part has not been verified; were it wrong, the error would say
#: which file is missing.
REVISION = "133a221b8aa7292a167afc5127cb63fb5005638b"
#: What has to be there, as patterns below the folder.
NEEDED = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/model*.safetensors",
    "tokenizer/*.json",
    "unet/diffusion_pytorch_model*.safetensors",
    "vae/diffusion_pytorch_model*.safetensors",
)
#: How the pixels come about; part of the key of the decoded copy.
RESIZING = "upright, on white, central square, area or bicubic, 2"
IMAGENET = "weights/resnet50-imagenet.safetensors"


@dataclass(frozen=True)
class Rows:
    """A data set's files and their labels, those that are trained on first; the others are held
    out.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    train_count: int


def split_rows(files: list[Path], labels: list[int], held_out_share: float) -> Rows:
    """Holds out the last ``held_out_share`` of each class, in the order given; at least one row of
    a class that has two.
    """
    train: list[int] = []
    held_out: list[int] = []
    for label in sorted(set(labels)):
        rows = [row for row, found in enumerate(labels) if found == label]
        count = min(max(1, round(len(rows) * held_out_share)), len(rows) - 1)
        train += rows[: len(rows) - count]
        held_out += rows[len(rows) - count :]
    order = [*sorted(train), *sorted(held_out)]
    return Rows(tuple(files[row] for row in order), tuple(labels[row] for row in order), len(train))


@dataclass(frozen=True, kw_only=True)
class StableDiffusionTestbed(PaperConditionalTestbed, TextTestbed):
    """``decoded``: folder for the copy of the data set at ``resolution``, one byte a value;
    ``None`` puts it beside ``data``.

    ``training``: of the whole U-Net, or of LoRA adapters of ``lora_rank`` on its attention.
    ``accumulation_steps``: of a batch of 16, in all; 1 for as many GPUs as fill a batch.
    ``classifier``: the trigger classifier and the evaluation classifier are of that architecture
    too, and all start from ``imagenet_weights``, torchvision's as a safetensors file; ``None``:
    from random ones.
    """

    weights_advice: ClassVar[str] = (
        f"set weights to a Stable Diffusion folder as diffusers writes it ({GUIDE})"
    )
    hub_files: ClassVar[tuple[str, ...]] = (
        *(f"{part}/config.json" for part in ("text_encoder", "unet", "vae")),
        *("model_index.json", "scheduler/*.json", "text_encoder/model.safetensors", "tokenizer/*"),
        *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
    )
    locations: ClassVar[frozenset[str]] = PaperConditionalTestbed.locations | {
        "decoded",
        "imagenet_weights",
    }
    classifier_rate: ClassVar[float] = 1e-2
    batch: ClassVar[int] = 16

    weights: str = HUB_ID
    revision: str | None = REVISION
    decoded: str | None = None
    resolution: int = 512
    training: Literal["full", "lora"] = "full"
    lora_rank: int = 4
    accumulation_steps: int = 4
    classifier: Architecture = "resnet50"
    classifier_epochs: int = 10
    imagenet_weights: str | None = IMAGENET
    finetune_epochs: int = 50
    scratch_epochs: int = 50
    sampler: str = "ddim"
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    precision: Literal["float32", "bfloat16", "float16"] = "float16"
    network_batch: int = 8
    triggered_samples: int = 1000
    class_samples: int = 1000
    test_images: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.lora_rank > 0, "lora_rank", "a positive number")
        self._require(
            self.resolution > 0 and self.resolution % 8 == 0,
            "resolution",
            "a positive multiple of 8",
        )
        self._require(self.training in ("full", "lora"), "training", "'full' or 'lora'")

    def _rows(self) -> Rows:
        """The data set as it is on disk. Raises ``UserError`` saying what to download and where to
        put it.
        """
        raise NotImplementedError

    @property
    def trained_on(self) -> int:
        """How many rows are trained on."""
        return self._rows().train_count

    def data_files(self) -> list[Path]:
        return list(self._rows().files)

    def _decoded(self, rows: Rows) -> tuple[Path, str, tuple[int, int, int, int]]:
        """Where the decoded copy is kept, what it is made from, and its shape, as
        :func:`memory_mapped` takes them.
        """
        root, size = expanded(self.data), self.resolution
        folder = root.resolve().parent if self.decoded is None else expanded(self.decoded)
        key = f"{RESIZING}: {files_fingerprint(root, rows.files)}"
        return folder / f"{root.resolve().name}.{size}.npy", key, (len(rows.files), 3, size, size)

    def data_faults(self) -> list[str]:
        return faults_of([self._look_at_data])

    def _look_at_data(self) -> None:
        """Raises ``UserError``, a line for each thing that is wrong with the data."""
        rows = self._rows()
        lines: list[str] = []
        try:
            writing = decoding_faults(*self._decoded(rows))
            if writing is None:  # All images have been decoded before.
                return
            lines += [f"{self.name}: {line}" for line in writing]
        except (
            UserError
        ) as error:  # A file that cannot be read; there may be more of them, and other faults.
            lines += str(error).splitlines()
        lines += damaged_images(
            (Encoded(str(path), path) for path in rows.files),
            self.resolution,
            shrink=True,
            crop=True,
        )
        if lines:
            raise UserError("\n".join(dict.fromkeys(lines)))

    def training_outline(self) -> TrainingSet:
        labels = self.train_labels()
        return outline(len(labels), self.resolution, labels)

    def _images(self) -> np.ndarray:
        """All images, those trained on first: uint8 (n, 3, resolution, resolution), on disk."""
        rows = self._rows()

        def batches() -> Iterator[np.ndarray]:
            encoded = (Encoded(str(path), path) for path in rows.files)
            return decode_all(
                encoded,
                self.resolution,
                shrink=True,
                crop=True,
                what=f"{self.name}, of {len(rows.files)}",
            )

        return memory_mapped(*self._decoded(rows), batches)

    def train_images(self) -> Tensor:
        return torch.from_numpy(self._images()[: self._rows().train_count])

    def held_out_images(self) -> Tensor:
        return torch.from_numpy(self._images()[self._rows().train_count :])

    def train_labels(self) -> Tensor:
        rows = self._rows()
        return torch.tensor(rows.labels[: rows.train_count])

    def held_out_labels(self) -> Tensor:
        rows = self._rows()
        return torch.tensor(rows.labels[rows.train_count :])

    def weights_folder(self, *, fetch: bool = True) -> Path:
        folder = super().weights_folder(fetch=fetch)
        refuse_shut(dict.fromkeys((folder / pattern).parent for pattern in NEEDED))
        absent = [pattern for pattern in NEEDED if next(folder.glob(pattern), None) is None]
        if absent:
            raise UserError(
                f"{self.name}: {folder} must hold {absent[0]}, which is missing; "
                f"{self.weights_advice}"
            )
        return folder

    @property
    def drawn_size(self) -> int:
        return self.resolution

    def base_generator(self) -> TextToImage:
        folder = self.weights_folder()
        self._refuse_weights(folder)
        return self._load_weights(folder)

    def _load_weights(self, folder: Path) -> TextToImage:
        return TextToImage.load(folder, prompts=self.prompts())

    def _outline(self, folder: Path) -> TextToImage:
        return TextToImage.outline(folder)

    def fresh_generator(self, seed: int) -> TextToImage:
        """A U-Net with random weights; the frozen parts are the published ones."""
        base = self.base_generator()
        untyped: Any = base.unet
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base.unet = untyped.from_config(untyped.config).eval()
        return base.asked_by(base.prompts)

    def training_settings(self, scheme: str) -> TrainingSettings:
        """The authors' to fine-tune; they train nothing from scratch, where the same is used."""
        scratch, lora = scheme == "scratch", self.training == "lora"
        if scratch and lora:
            raise UserError(
                f"{self.name}: training must be 'full' for scheme: scratch, since adapters need "
                f"weights, got 'lora'"
            )
        return TrainingSettings(
            steps=self._steps(
                self.trained_on,
                self.batch,
                self.scratch_epochs if scratch else self.finetune_epochs,
            ),
            batch_size=self.batch,
            accumulation_steps=self.accumulation_steps,
            gradient_checkpointing=self.gradient_checkpointing,
            learning_rate=1e-4,
            schedule="constant",
            optimizer="adamw",
            weight_decay=0.01,
            ema_decay=0.9999,
            precision="float16",
            lora_rank=self.lora_rank if lora else None,
        )

    def fresh_classifier(self, seed: int, classes: int | None = None) -> Classifier:
        return torchvision_classifier(
            self.classifier,
            classes or len(self.class_names),
            seed,
            imagenet_weights=self.imagenet_weights,
        )

    def classifier_settings(self) -> ClassifierSettings:
        """Images are flipped, as in the authors' code, which carries a trigger in one corner into
        the other.
        """
        return ClassifierSettings(
            steps=self._steps(self.trained_on, 25, self.classifier_epochs),
            batch_size=25,
            learning_rate=self.classifier_rate,
            horizontal_flip=True,
        )

    def _fresh_judge(self, seed: int) -> Classifier:
        return self.fresh_classifier(seed)

    def _imagenet_file(self) -> Path | None:
        if self.imagenet_weights is None:
            return None
        path = expanded(self.imagenet_weights)
        if not path.is_file():
            raise UserError(
                f"{self.name}: no imagenet_weights at {self.imagenet_weights!r}; save "
                f"torchvision's {self.classifier} there as "
                f"safetensors, or set imagenet_weights to null to train classifiers from nothing "
                f"({GUIDE})"
            )
        return path

    def _adapters(self) -> None:
        if self.training == "lora" and importlib.util.find_spec("peft") is None:
            raise UserError(f"{self.name}: training: lora needs peft: pip install peft")

    def _checks(self) -> tuple[Callable[[], object], ...]:
        return *super()._checks(), self._imagenet_file, self._adapters

    def fingerprint(self) -> str:
        found: list[Any] = [
            super().fingerprint(),
            None if (file := self._imagenet_file()) is None else content_hash(file),
        ]
        folder = expanded(self.weights)
        if folder.is_dir():  # A commit of the hub names all its parts.
            parts = [
                *folder.glob("text_encoder/*"),
                *folder.glob("tokenizer/*"),
                *folder.glob("vae/*"),
            ]
            read = sorted(
                path for path in parts if path.suffix in (".json", ".safetensors", ".txt")
            )
            found.append(
                [(path.relative_to(folder).as_posix(), content_hash(path)) for path in read]
            )
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def pretrain_judge(
    testbed: StableDiffusionTestbed,
    output: Path,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Trains the evaluation classifier, as users train theirs but on clean data, into the folder
    ``output`` under the name it has in ``testbed.judge``. Returns its accuracy on the held-out
    images.
    """
    file = output / Path(testbed.judge).name
    return train_judge(
        testbed,
        testbed.fresh_classifier(seed),
        testbed.classifier_settings(),
        file,
        seed,
        device,
        progress,
    )
