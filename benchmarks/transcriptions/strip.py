"""How a STRIP script spends its time: picture by picture, the overlays are blended in numpy one
after another, and the network sees one picture's blends at a time.

Gao, Xu, Wang, Chen, Ranasinghe, Nepal 2019 (arXiv 1902.06531): two pictures added and saturated,
the entropy of the prediction under each of N overlays, and their mean. The overlays are the same
for all pictures, as in ours, where the authors draw them for every picture. Left out: the
threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Pictures = npt.NDArray[np.float32]


def entropies(network: nn.Module, pictures: Pictures, overlays: Pictures) -> Pictures:
    """The mean entropy (n,), natural logarithm. pictures (n, c, h, w), overlays (m, c, h, w), both
    in [0, 1].
    """
    network.eval()
    return np.array([_entropy(network, one, overlays) for one in pictures], dtype=np.float32)


def _entropy(network: nn.Module, picture: Pictures, overlays: Pictures) -> float:
    blends = np.stack([np.clip(picture + overlay, 0, 1) for overlay in overlays])
    device = next(network.parameters()).device
    with torch.no_grad():
        answers = network(torch.from_numpy(blends).to(device) * 2 - 1)
        shares = torch.softmax(answers, dim=1).cpu().numpy()
    return float(np.nanmean(-np.nansum(shares * np.log(np.maximum(shares, 1e-30)), axis=1)))
