"""How a classifier lies in a stage's folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.classification.classifier import Classifier
from bench.testbeds.testbed import Testbed

WEIGHTS = "classifier.safetensors"


def save_classifier(network: Classifier, folder: Path) -> None:
    """Writes the weights of ``network``."""
    weights = {name: value.contiguous() for name, value in network.cpu().state_dict().items()}
    save_file(weights, folder / WEIGHTS)


def load_classifier(
    testbed: Testbed, folder: Path, device: str, classes: int | None = None
) -> Classifier:
    """Reads what a classifier stage wrote, in evaluation mode, on ``device`` and in the layout
    convolutions run fastest in.
    """
    network = testbed.fresh_classifier(0, classes)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return network.eval().to(device).to(memory_format=torch.channels_last)
