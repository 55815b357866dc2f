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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.text_to_image import TextToImage
from bench.diffusion.training import TrainingSettings
from bench.errors import UserError
from bench.resources import Resources
from bench.testbeds.data.images import content_hash, expanded, faults_of, refuse_shut
from bench.testbeds.parts.captioned import captioned
from bench.testbeds.parts.copies import SSCD
from bench.testbeds.parts.inception import Inception
from bench.testbeds.parts.judge import TrainedJudge, train_judge
from bench.testbeds.parts.part import (
    GUIDE,
    ClassCounts,
    Composition,
    Data,
    GuidedSampling,
    fixed,
)
from bench.testbeds.parts.published import PublishedWeights, steps_of
from bench.testbeds.parts.torchvision_classifiers import ImagenetClassifiers
from bench.testbeds.testbed import Testbed

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
IMAGENET = "weights/resnet50-imagenet.safetensors"


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(PublishedWeights):
    """``training``: of the whole U-Net, or of LoRA adapters of ``lora_rank`` on its attention.
    ``accumulation_steps``: of a batch of 16, in all; 1 for as many GPUs as fill a batch.
    """

    hub_files: ClassVar[tuple[str, ...]] = (
        *(f"{part}/config.json" for part in ("text_encoder", "unet", "vae")),
        *("model_index.json", "scheduler/*.json", "text_encoder/model.safetensors", "tokenizer/*"),
        *(f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")),
    )

    batch: int = fixed(16)
    published: tuple[str, str] | None = fixed((HUB_ID, REVISION))
    advice: str = fixed(
        f"set weights to a Stable Diffusion folder as diffusers writes it ({GUIDE})"
    )
    weights: str = HUB_ID
    revision: str | None = REVISION
    finetune_epochs: Annotated[int, Gt(0)] = 50
    scratch_epochs: Annotated[int, Gt(0)] = 50
    accumulation_steps: Annotated[int, Ge(1)] = 4
    training: Literal["full", "lora"] = "full"
    lora_rank: Annotated[int, Gt(0)] = 4

    def weights_folder(self, *, fetch: bool = True) -> Path:
        folder = super().weights_folder(fetch=fetch)
        refuse_shut(dict.fromkeys((folder / pattern).parent for pattern in NEEDED))
        absent = [pattern for pattern in NEEDED if next(folder.glob(pattern), None) is None]
        if absent:
            raise UserError(
                f"{self.name}: {folder} must hold {absent[0]}, which is missing; {self.advice}"
            )
        return folder

    def base(self, data: Data) -> TextToImage:
        folder = self.weights_folder()
        self._refuse_weights(folder, data)
        return self._load_weights(folder, data)

    def _load_weights(self, folder: Path, data: Data) -> TextToImage:
        return TextToImage.load(folder, prompts=data.prompts())

    def _outline(self, folder: Path) -> TextToImage:
        return TextToImage.outline(folder)

    def load(self, folder: Path, data: Data) -> TextToImage:
        return TextToImage.load(folder, prompts=data.prompts())

    def fresh(self, seed: int, data: Data) -> TextToImage:
        """A U-Net with random weights; the frozen parts are the published ones."""
        base = self.base(data)
        untyped: Any = base.unet
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base.unet = untyped.from_config(untyped.config).eval()
        return base.with_prompts(base.prompts)

    def asked(self, generator: Generator, labels: Tensor, data: Data) -> tuple[Generator, Tensor]:
        return captioned(generator, data.captions(labels))

    def settings(self, scheme: str, rows: int) -> TrainingSettings:
        """The authors' to fine-tune; they train nothing from scratch, where the same is used."""
        scratch, lora = scheme == "scratch", self.training == "lora"
        if scratch and lora:
            raise UserError(
                f"{self.name}: training must be 'full' for scheme: scratch, since adapters need "
                f"weights, got 'lora'"
            )
        return TrainingSettings(
            steps=steps_of(
                rows, self.batch, self.scratch_epochs if scratch else self.finetune_epochs
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

    def _adapters(self) -> None:
        if self.training == "lora" and importlib.util.find_spec("peft") is None:
            raise UserError(f"{self.name}: training: lora needs peft: pip install peft")

    def missing(self) -> list[str]:
        return [*super().missing(), *faults_of([self._adapters])]

    def faults(self, testbed: Composition) -> list[str]:
        return [*super().faults(testbed), *faults_of([self._adapters])]

    def fingerprint(self) -> str:
        self._adapters()
        hashed: list[Any] = [super().fingerprint()]
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
            hashed.append(
                [(path.relative_to(folder).as_posix(), content_hash(path)) for path in read]
            )
        return hashlib.sha256(json.dumps(hashed).encode()).hexdigest()


def stable_diffusion_testbed(
    *,
    name: str,
    summary: str,
    data: Data,
    clean_samples: int,
    judge: str,
    memory_gb: float,
    classifier_epochs: int = 10,
    classifier_rate: float = 1e-2,
    typical_seconds: Mapping[str, float] | None = None,
) -> Testbed:
    """What these testbeds have in common, over ``data``, whose training set has ``clean_samples``
    rows (table 2) and whose stages take up to ``memory_gb`` of main memory.
    """
    return Testbed(
        name=name,
        summary=summary,
        kind="text",
        data=data,
        generator=StableDiffusion(),
        features=Inception(),
        judge=TrainedJudge(judge=judge),
        copies=SSCD(),
        classifiers=ImagenetClassifiers(
            classifier="resnet50",
            classifier_epochs=classifier_epochs,
            imagenet_weights=IMAGENET,
            rate=classifier_rate,
        ),
        sampler=GuidedSampling(
            sampler="ddim",
            num_inference_steps=50,
            guidance_scale=5.0,
            precision="float16",
            network_batch=8,
        ),
        counts=ClassCounts(
            clean_samples=clean_samples,
            triggered_samples=1000,
            class_samples=1000,
            test_images=200,
        ),
        typical_seconds=typical_seconds or {},
        # docs/paper-scale.md, "What a stage is declared to need": measured 23.3 GiB on the GPU.
        resources=Resources(gpu=True, memory_gb=memory_gb, gpu_memory_gb=26),
    )


def pretrain_judge(
    testbed: Testbed,
    output: Path,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Trains the evaluation classifier, as users train theirs but on clean data, into the folder
    ``output`` under the name it has in ``testbed``. Returns its accuracy on the held-out images.
    """
    assert isinstance(testbed.judge, TrainedJudge)
    return train_judge(
        testbed.data,
        testbed.fresh_classifier(seed),
        testbed.classifier_settings(),
        output / Path(testbed.judge.judge).name,
        seed,
        device,
        progress,
    )
