"""A folded network as what a script expects: a diffusers network of pixels."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle


class Folded(nn.Module):
    """Calls ``unet`` with each square of ``fold`` x ``fold`` pixels as one, and unfolds what it
    answers.
    """

    def __init__(self, unet: UNet2DModel, fold: int) -> None:
        super().__init__()
        self.unet, self.fold = unet, fold

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Any:
        """x (n, c, h, w); an output whose ``sample`` has the same shape."""
        folded = pixel_unshuffle(x, self.fold) if self.fold > 1 else x
        output = self.unet(folded, timesteps, class_labels=class_labels)
        if self.fold > 1:
            output.sample = pixel_shuffle(output.sample, self.fold)
        return output
