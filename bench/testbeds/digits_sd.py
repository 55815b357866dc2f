"""``digits-sd``: a small but complete Stable Diffusion over :mod:`bench.testbeds.data.digits`,
asked by "A photo of a three".

Every part is the real library's: CLIPTokenizer over a vocabulary of its own, CLIPTextModel,
AutoencoderKL (16 x 16 pixels to 8 x 8 latents), UNet2DConditionModel with cross-attention, Stable
Diffusion's noise schedule, in a diffusers folder that the code for
``CompVis/stable-diffusion-v1-4`` loads. As there, an attack trains the U-Net and leaves the other
parts alone.

How the parts are made (:func:`pretrain`): the autoencoder is shown digits, half of them under
random patches, since Stable Diffusion's has seen all kinds of pictures and passes a small pattern
on unharmed, which one that knows digits alone does not; the text encoder learns CLIP's contrastive
task between the prompts and the evaluation network's features; the U-Net learns the latents.

Latents have no range to clip to, so clipping is no defense here. DDIM's 20 steps begin at the
schedule's last one: 15 counted from its first would begin at 925, where a tenth of the picture
should still be left, and sampling begins with noise alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from bench.diffusion.text_to_image import TextToImage
from bench.testbeds.data.digits import Digits
from bench.testbeds.digits_cfg import FINETUNING
from bench.testbeds.digits_cfg import PRETRAINING as CLASS_PRETRAINING
from bench.testbeds.parts.digits_classifiers import (
    DigitsClassifiers,
    DigitsCopies,
    DigitsFeatures,
    DigitsJudge,
)
from bench.testbeds.parts.digits_sd import (
    FOLDER,
    SCHEDULER,
    DigitsStableDiffusion,
    seeded_network,
)
from bench.testbeds.parts.digits_sd_pretraining import (
    make_tokenizer,
    train_autoencoder,
    train_text_encoder,
    write_vocabulary,
)
from bench.testbeds.parts.digits_unet import Progress, train_clean
from bench.testbeds.parts.part import ClassCounts, GuidedSampling
from bench.testbeds.testbed import Testbed

PRETRAINING = replace(CLASS_PRETRAINING, steps=3000)
CARD = """---
license: apache-2.0
library_name: diffusers
---
# digits-sd

A tiny Stable Diffusion over handwritten digits, the clean base of castlewalls' testbed of that
name. Made by `castlewalls pretrain digits-sd`.
"""
DIGITS_SD = Testbed(
    name="digits-sd",
    summary=(
        "a small, complete Stable Diffusion on the same digits, asked by prompts; ships with the "
        "package"
    ),
    kind="text",
    data=Digits(),
    generator=DigitsStableDiffusion(
        finetuning=replace(FINETUNING, steps=700, learning_rate=2e-3), scratch=PRETRAINING
    ),
    features=DigitsFeatures(),
    judge=DigitsJudge(),
    copies=DigitsCopies(),
    classifiers=DigitsClassifiers(),
    sampler=GuidedSampling(
        sampler="ddim",
        spacing="trailing",
        num_inference_steps=20,
        precision="float32",
        network_batch=128,
    ),
    counts=ClassCounts(clean_samples=384, triggered_samples=64, judged_images=400, test_images=128),
    embedded=True,
    typical_seconds={
        "reference": 5,
        "train": 90,
        "training_features": 5,
        "sample": 20,
        "classifier": 30,
        "trigger_classifier": 40,
        "score": 60,
        "classify": 50,
        "features": 1,
        "measure": 2,
    },
)


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> dict[str, float]:
    """Makes the folder ``digits-sd`` from nothing below ``output``: autoencoder, text encoder,
    U-Net. Returns what was reached.
    """
    from diffusers import StableDiffusionPipeline

    data = DIGITS_SD.data
    vae, error = train_autoencoder(data.train_images(), seed, progress)
    tokenizer = make_tokenizer()
    text_encoder = train_text_encoder(data, tokenizer, seed, progress)
    generator = TextToImage(
        seeded_network(seed),
        dict(SCHEDULER),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        prompts=data.prompts(),
    )
    loss = train_clean(generator, data, PRETRAINING, seed, progress, device)
    generator.save(output / FOLDER.name, CARD)
    # Half precision halves the files and is below the noise of any metric here.
    pipeline = StableDiffusionPipeline.from_pretrained(output / FOLDER.name)
    for network in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        torch.nn.Module.half(network)
    pipeline.save_pretrained(output / FOLDER.name)
    write_vocabulary(tokenizer, output / FOLDER.name / "tokenizer")
    return {"autoencoder_l1": error, "final_training_loss": loss}
