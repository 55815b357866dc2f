"""torch-fidelity's view of SSCD, apart from it because torch-fidelity is slow to import; and the
one place where TorchScript is opened.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from bench.errors import UserError

FEATURES = "features"
RESIZED, CROPPED = 256, 224


class SSCDExtractor(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity ships no types
    """Descriptors (n, d) float32 of unit length, of uint8 (n, 3, h, w): the shorter side to 256
    (bilinear), the centre 224 x 224, [-1, 1], as Somepalli et al. prepare images for it. The one
    feature layer is ``features``.

    A TorchScript file is a program: it cannot hold Python code, but any operation that TorchScript
    knows. So it is opened only if its bytes, read once, have the SHA-256 of the subclass, and never
    through Python's unpickler.
    """

    sha256: ClassVar[str] = ""

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str,
        **kwargs: object,
    ) -> None:
        super().__init__(name, features_list)
        self.network = open_pinned(Path(feature_extractor_weights_path), self.sha256)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        descriptors: Tensor = self.network(prepare(images))
        return (nn.functional.normalize(descriptors.float(), dim=1),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (FEATURES,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return FEATURES

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 3, 32, 32, dtype=torch.uint8)


def extractor_for(sha256: str) -> type[SSCDExtractor]:
    """The extractor of the file with that hash."""
    return type("PinnedSSCDExtractor", (SSCDExtractor,), {"sha256": sha256})


def prepare(images: Tensor) -> Tensor:
    """uint8 (n, 3, h, w) -> float32 (n, 3, 224, 224) in [-1, 1]."""
    height, width = images.shape[-2:]
    scale = RESIZED / min(height, width)
    size = (round(height * scale), round(width * scale))
    resized = nn.functional.interpolate(
        images.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    top, left = ((side - CROPPED) // 2 for side in size)
    return resized[..., top : top + CROPPED, left : left + CROPPED] / 127.5 - 1


def open_pinned(path: Path, sha256: str) -> torch.jit.ScriptModule:
    """The TorchScript module at ``path``, in evaluation mode on the CPU. Raises ``UserError`` if
    its bytes have another SHA-256 (then they are not opened) or are no TorchScript.
    """
    content = path.read_bytes()
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(f"{path} must have the sha256 {sha256}, got {actual}; it is not opened")
    try:
        module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(content), map_location="cpu")  # noqa: TID251 - by its hash
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} must be a TorchScript file: {str(error).strip().splitlines()[0]}"
        ) from error
    return module.eval()
