"""The evaluation classifier of the testbeds on Fashion-MNIST, which is also their torch-fidelity
feature extractor ``fashion-cnn``.

A batch-norm network in two halvings: 1 x 32 x 32 in, ten logits and 64 pooled features out.
Inception-v3's features are of photographs in colour, so FID here is measured in a space that knows
garments, and carries the name ``fid[fashion-cnn]``.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import nn

from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.testbeds import ASSETS
from bench.testbeds.data.fashion import CHANNELS, CLASS_NAMES
from bench.testbeds.parts.digits_cnn import blocks

NAME = "fashion-cnn"
FEATURES = 64
WEIGHTS = ASSETS / f"{NAME}.safetensors"
#: A garment is the same seen in a mirror.
TRAINING = ClassifierSettings(steps=2400, horizontal_flip=True, label_smoothing=0.05)


def seeded(seed: int, classes: int, *sizes: tuple[int, int, int]) -> Classifier:
    """A classifier with random weights, of one block for each (inputs, outputs, stride)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(blocks(*sizes), nn.Linear(sizes[-1][1], classes))


def untrained(seed: int) -> Classifier:
    """The evaluation classifier with random weights."""
    sizes = ((CHANNELS, 32, 1), (32, 32, 2), (32, 64, 2), (64, 64, 1), (64, FEATURES, 1))
    return seeded(seed, len(CLASS_NAMES), *sizes)


def load_fashion_cnn() -> Classifier:
    """The shipped classifier, in evaluation mode."""
    network = untrained(0)
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval().requires_grad_(False)
