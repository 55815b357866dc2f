"""``cifar10-ddpm``: BadDiffusion's first testbed, at paper scale (Chou et al. 2023, arXiv
2212.05400): Google's published weights, trained on as BadDiffusion does. Needs a GPU.

Deviation: the authors' code trains on the 50,000 training and the 10,000 test images together, the
paper says 50K; here the test images are held out: the adversary stamps those, and the success
threshold is calibrated on them.
"""

from __future__ import annotations

from bench.resources import Resources
from bench.testbeds.data.cifar10 import Cifar10
from bench.testbeds.parts.inception import Inception
from bench.testbeds.parts.part import GUIDE, Counts, Sampling
from bench.testbeds.parts.published import BadDiffusionUNet
from bench.testbeds.testbed import Testbed

HUB_ID = "google/ddpm-cifar10-32"
#: ``main`` of the repository since August 2023, when the safetensors were added.
REVISION = "267b167dc01f0e4e61923ea244e8b988f84deb80"
CIFAR10_DDPM = Testbed(
    name="cifar10-ddpm",
    summary=(
        "google/ddpm-cifar10-32 on CIFAR-10, 32 x 32, at paper scale; needs downloads and a GPU"
    ),
    kind="unconditional",
    data=Cifar10(),
    generator=BadDiffusionUNet(
        published=(HUB_ID, REVISION),
        weights=HUB_ID,
        revision=REVISION,
        advice=f"download the safetensors and set weights to their folder ({GUIDE})",
        batch=128,
        finetune_rate=2e-4,
        scratch_rate=2e-4,
        finetune_epochs=50,
        scratch_epochs=400,
    ),
    features=Inception(),
    sampler=Sampling(num_inference_steps=1000),
    counts=Counts(clean_samples=10_000, triggered_samples=10_000),
    # Calculated, on one H100: docs/paper-scale.md, "Cost".
    typical_seconds={"train": 1_500, "sample": 6_900},
    # docs/paper-scale.md, "What a stage is declared to need": measured 7.0 GiB on the GPU.
    resources=Resources(gpu=True, memory_gb=8, gpu_memory_gb=8),
)
