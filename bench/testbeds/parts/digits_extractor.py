"""torch-fidelity's view of the digits classifier, apart from it because torch-fidelity is slow to
import.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from bench.testbeds.parts.digits_cnn import FEATURES, NAME, load_digits_cnn


class DigitsCNNExtractor(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity ships no types
    """torch-fidelity's view of the classifier; the one feature layer is ``64``."""

    def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
        super().__init__(name, features_list)
        self.network = load_digits_cnn()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.network.features(images),)

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
        return torch.zeros(1, 3, 16, 16, dtype=torch.uint8)


def register() -> None:
    """Makes ``digits-cnn`` known to torch-fidelity; safe to call twice."""
    if NAME not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(NAME, DigitsCNNExtractor)
