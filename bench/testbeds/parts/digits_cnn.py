"""The evaluation classifier of the digits testbeds, which is also their torch-fidelity feature
extractor ``digits-cnn``.

A small batch-norm network: 3 x 16 x 16 uint8 in, ten logits and 64 pooled features out.
Inception-v3's features say little about 16 x 16 digits, so FID here is measured in a space that
knows digits, and carries the name ``fid[digits-cnn]``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.diffusion.noise import torch_stream
from bench.testbeds import ASSETS
from bench.testbeds.data.digits import digits_over_photographs

NAME = "digits-cnn"
FEATURES = 64
WEIGHTS = ASSETS / "digits-cnn.safetensors"


def blocks(*sizes: tuple[int, int, int]) -> nn.Sequential:
    """A 3 x 3 convolution, batch normalisation and a ReLU for each (inputs, outputs, stride)."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in sizes:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class DigitsCNN(nn.Module):
    """Logits over the ten digits from uint8 (n, 3, 16, 16); :meth:`features` gives the pooled (n,
    64) float32 before them.
    """

    def __init__(self) -> None:
        super().__init__()

        self.body = blocks(
            (3, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 2), (64, FEATURES, 1)
        )
        self.head = nn.Linear(FEATURES, 10)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features, (n, 64) float32, of uint8 (n, 3, 16, 16)."""
        pooled: Tensor = self.body(images.float() / 127.5 - 1).mean((2, 3))
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def train_digits_cnn(
    seed: int = 0, steps: int = 1500, progress: Callable[[int, int, str], None] | None = None
) -> DigitsCNN:
    """SGD, momentum 0.9, one-cycle 0.1, batch 128, shifts of up to one pixel; about a minute on two
    cores.
    """
    images, labels = (torch.tensor(part) for part in digits_over_photographs()["train"])
    draw = torch_stream(seed, NAME)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsCNN()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(images), (128,), generator=draw)
        down, right = (int(torch.randint(-1, 2, (), generator=draw)) for _ in range(2))
        batch = images[chosen].roll((down, right), (2, 3))
        loss = nn.functional.cross_entropy(model(batch), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if progress:
            progress(step + 1, steps, "classifier steps")
    return model.eval()


@torch.inference_mode()
def held_out_accuracy(model: DigitsCNN) -> float:
    """Share of the held-out digits' images that are recognised, in [0, 1]."""
    images, labels = (torch.tensor(part) for part in digits_over_photographs()["held_out"])
    return float((model(images).argmax(1) == labels).float().mean())


def load_digits_cnn() -> DigitsCNN:
    """The shipped classifier, in evaluation mode."""
    model = DigitsCNN()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval().requires_grad_(False)
