"""``celebahq-ddpm``: BadDiffusion's second testbed, at paper scale (Chou et al. 2023, arXiv
2212.05400). Needs a GPU.

Deviation: the paper trains on all 30,000 images; here the last tenth by file name is held out. The
published weights may have seen those; the attack's training has not.
"""

from __future__ import annotations

from bench.resources import Resources
from bench.testbeds.data.celebahq import CelebAHQ
from bench.testbeds.parts.inception import Inception
from bench.testbeds.parts.part import GUIDE, Counts, Sampling
from bench.testbeds.parts.published import BadDiffusionUNet
from bench.testbeds.testbed import Testbed

HUB_ID = "google/ddpm-ema-celebahq-256"
#: ``main`` of the repository since November 2022. It holds the weights as a pickle only.
REVISION = "4cb6117472e6e4f45c5afe606b101858c27c3802"
#: Of fine-tuning, the number of epochs is the one in the authors' code; the paper's 2,048 images of
#: 1000 steps an epoch is 16 times that. From scratch the paper trains on CIFAR-10 alone; 2e-5 is
#: the authors' code's.
CELEBAHQ_DDPM = Testbed(
    name="celebahq-ddpm",
    summary=(
        "google/ddpm-ema-celebahq-256 on CelebA-HQ, 256 x 256, at paper scale; needs downloads "
        "and a GPU"
    ),
    kind="unconditional",
    data=CelebAHQ(),
    generator=BadDiffusionUNet(
        weights="weights/ddpm-ema-celebahq-256",
        advice=(
            f"{HUB_ID} is published as a pickle, which is never loaded: turn it into safetensors "
            f"once, as {GUIDE} says, and set weights to the folder"
        ),
        batch=64,
        finetune_rate=8e-5,
        scratch_rate=2e-5,
        finetune_epochs=100,
        scratch_epochs=100,
        accumulation_steps=4,  # 16 images at once; all 64 do not fit into 80 GB
    ),
    features=Inception(),
    sampler=Sampling(num_inference_steps=1000),
    counts=Counts(clean_samples=10_000, triggered_samples=10_000),
    # docs/paper-scale.md, "What a stage is declared to need": 33.7 GiB calculated on the GPU, and
    # 16 GB for a call's noise while it is written.
    resources=Resources(gpu=True, memory_gb=24, gpu_memory_gb=37),
)
