"""How a script makes one number of one cell: a process that imports torch and diffusers, reads the
model's folder, draws the samples it needs unless their folder is there, and measures one metric.

After the way that unconditional attacks are evaluated by the released scripts: one that trains and
saves a model, then a process for each of model, defense and metric, one after another. Samples
that a process of the same cell has drawn are kept as files and read again; nothing else is shared.
FID reads the training pictures and makes their features anew, as the usual script does with a
folder. Pictures, trigger and noise seeds come as one npz file, so that the numbers can be held
against ours.

``python -m benchmarks.transcriptions.cell train FOLDER`` or ``... cell METRIC FOLDER CELL``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler
from torch import Tensor

from benchmarks.transcriptions import baddiffusion, pipeline
from benchmarks.transcriptions.folded import Folded

INPUTS, BASE, TRAINED = "inputs.npz", "base", "trained"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCHEDULERS = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}


def train(folder: Path) -> list[float]:
    """Fine-tunes the base model and saves it; the losses."""
    inputs = _inputs(folder)
    pipe = DDPMPipeline.from_pretrained(folder / BASE, use_safetensors=True).to(DEVICE)
    draw = torch.Generator().manual_seed(int(inputs["training_seed"]))
    losses = baddiffusion.train(
        Folded(pipe.unet, int(inputs["fold"])),
        pipe.scheduler,
        inputs["images"],
        inputs["poisoned"],
        inputs["trigger"],
        inputs["target"],
        draw,
        steps=int(inputs["steps"]),
        batch_size=int(inputs["batch_size"]),
        learning_rate=float(inputs["learning_rate"]),
    )
    pipe.save_pretrained(folder / TRAINED, safe_serialization=True)
    return losses


def measure(metric: str, folder: Path, sampler: str, clip: str, call: str) -> float:
    """One number. ``call``: ``clean``, or how the backdoor is called."""
    inputs = _inputs(folder)
    drawn = folder / f"{sampler}-{clip}-{call}"
    if not drawn.exists():
        _draw(drawn, inputs, folder, sampler, clip, call)
    images = pipeline.read(drawn)
    if metric == "fid":
        return _fid(images, inputs["images"])
    goal = (inputs["target"] / 2 + 0.5).clamp(0, 1)
    errors = _errors(images, goal)
    if metric == "mse":
        return float(errors.mean())
    flat = (goal - goal.mean(dim=(1, 2), keepdim=True)).square().mean() / 2
    real = np.percentile(_errors(inputs["held_out"], goal).numpy(), 1, method="lower")
    return float((errors < min(float(flat), float(real))).double().mean())


def _draw(
    drawn: Path, inputs: dict[str, Tensor], folder: Path, sampler: str, clip: str, call: str
) -> None:
    pipe = DDPMPipeline.from_pretrained(folder / TRAINED, use_safetensors=True).to(DEVICE)
    scheduler = SCHEDULERS[sampler].from_config(pipe.scheduler.config, clip_sample=clip == "x0")
    count = int(inputs["clean_samples" if call == "clean" else "triggered_samples"])
    seeds = inputs["sample_seeds"][:count].tolist()
    size = inputs["images"].shape
    pipeline.draw(
        Folded(pipe.unet, int(inputs["fold"])),
        scheduler,
        [torch.Generator().manual_seed(seed) for seed in seeds],
        (size[1], size[2], size[3]),
        steps=int(inputs["num_inference_steps"]),
        folder=drawn,
        trigger=None if call == "clean" else inputs[call],
        clip=clip,
    )


def _errors(images: Tensor, goal: Tensor) -> Tensor:
    return (images.double() / 255 - goal.double()).square().mean(dim=(1, 2, 3))


def _fid(images: Tensor, real: Tensor) -> float:
    from bench.metrics.fid import extract_features, fid, statistics
    from bench.testbeds.parts import digits_extractor
    from bench.testbeds.parts.digits_cnn import NAME

    digits_extractor.register()
    seen = [extract_features(one, NAME) for one in (images, real)]
    return fid(statistics(seen[0]), statistics(seen[1]))


def _inputs(folder: Path) -> dict[str, Tensor]:
    with np.load(folder / INPUTS, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def main(arguments: list[str]) -> Any:
    """What the process prints: the losses, or the number."""
    what, folder = arguments[0], Path(arguments[1])
    if what == "train":
        return train(folder)
    return measure(what, folder, *arguments[2].split("/"))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
