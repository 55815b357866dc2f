"""torch-fidelity's view of the classifier of garments, apart from it because torch-fidelity is slow
to import.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from bench.diffusion.images import to_unit_range
from bench.testbeds.data.fashion import CHANNELS, SIZE
from bench.testbeds.parts.fashion_cnn import FEATURES, NAME, load_fashion_cnn


class FashionCNNExtractor(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity ships no types
    """The pooled features (n, 64) float32 of uint8 (n, 1, 32, 32); the one layer is ``64``."""

    def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
        super().__init__(name, features_list)
        self.network = load_fashion_cnn()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.network.features(to_unit_range(images)),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (str(FEATURES),)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return str(FEATURES)

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, CHANNELS, SIZE, SIZE, dtype=torch.uint8)


def register() -> None:
    """Makes ``fashion-cnn`` known to torch-fidelity; safe to call twice."""
    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(NAME, FashionCNNExtractor)
