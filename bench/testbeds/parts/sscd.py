"""``sscd-disc-mixup``: the copy detector in whose features replicas of training images are looked
for, as a torch-fidelity extractor.

Pizzi et al. 2022, "A Self-Supervised Descriptor for Image Copy Detection", arXiv 2202.10261; used
for diffusion models by Somepalli et al. 2023 (arXiv 2305.20086) and Pan et al. 2024 (arXiv
2311.02373, section 6). Its network is published as TorchScript, at
``https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt``, without a
hash of its own, so the person who downloads it says which file is meant. A cosine of 0.3 already
looks like a copy.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.errors import UserError
from bench.testbeds.data.images import content_hash, expanded

NAME = "sscd-disc-mixup"
FILE = "sscd_disc_mixup.torchscript.pt"
SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_file(testbed: str, sscd: str, sha256: str) -> Path:
    """The TorchScript file at ``sscd``. Raises ``UserError`` if it is missing or its SHA-256 is not
    ``sha256``.
    """
    path = expanded(sscd)
    if not path.is_file():
        raise UserError(
            f"{testbed}: no SSCD network at {sscd!r}; put {FILE} there, or set sscd to null to "
            f"look for no copies"
        )
    if (actual := content_hash(path)) != sha256:
        raise UserError(
            f"{testbed}: {path} must have the sha256 given as sscd_sha256, {sha256}, got "
            f"{actual}; it is not opened"
        )
    return path


def register(sha256: str) -> None:
    """Makes ``sscd-disc-mixup`` known to torch-fidelity, for the file with this hash and no other;
    the last call counts.
    """
    # torch-fidelity imports torchvision, which takes seconds that planning does not need.
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    from bench.testbeds.parts.sscd_extractor import extractor_for

    FEATURE_EXTRACTORS_REGISTRY.pop(NAME, None)
    register_feature_extractor(NAME, extractor_for(sha256))
