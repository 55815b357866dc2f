"""Inception-v3's features, which FID is published in, and the trunk of LPIPS beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from bench.errors import UserError
from bench.testbeds.data.images import content_hash, expanded, faults_of
from bench.testbeds.parts.part import Composition, Features

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
#: Other bytes would be another metric under the same name, and torch-fidelity's own loader would
#: unpickle them.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True, kw_only=True)
class Inception(Features):
    """``inception_weights``: a local copy of torch-fidelity's Inception weights; ``None`` lets
    torch-fidelity fetch them. ``lpips_trunk``: torchvision's AlexNet as safetensors, for LPIPS
    where models restore images; ``None``: it is not measured.
    """

    extractor: ClassVar[str] = "inception-v3-compat"
    locations: ClassVar[frozenset[str]] = frozenset({"inception_weights", "lpips_trunk"})

    inception_weights: str | None = None
    lpips_trunk: str | None = None

    def trunk(self) -> Path | None:
        """Where LPIPS's trunk is; ``None`` where LPIPS is not measured."""
        return None if self.lpips_trunk is None else expanded(self.lpips_trunk)

    def fingerprint(self) -> str:
        # No published hash is known of it as safetensors, so its own is in the key.
        trunk = self.trunk()
        return "" if trunk is None else content_hash(trunk)

    def weights(self) -> str | None:
        """The local Inception weights, checked; ``None`` if torch-fidelity has still to fetch
        them.
        """
        if self.inception_weights is None:
            path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
            if not path.is_file():
                return None
        else:
            path = expanded(self.inception_weights)
            if not path.is_file():
                raise UserError(
                    f"{self.name}: no inception_weights at {self.inception_weights!r}; put "
                    f"{INCEPTION_FILE} of "
                    "torch-fidelity's release v0.2.0 there"
                )
        if (actual := content_hash(path)) != INCEPTION_SHA256:
            raise UserError(
                f"{self.name}: {path} must be {INCEPTION_FILE} with sha256 {INCEPTION_SHA256}, "
                f"got {actual}; download it again"
            )
        return str(path)

    def missing(self) -> list[str]:
        return faults_of([self._here])

    def faults(self, testbed: Composition) -> list[str]:
        return faults_of([self.weights, self._readable])

    def _readable(self) -> None:
        trunk = self.trunk()
        if trunk is not None:
            from bench.metrics import lpips  # as planning without it needs no safetensors

            lpips.checked(trunk)

    def _here(self) -> None:
        if self.weights() is None:
            raise UserError(
                f"{self.name}: {INCEPTION_FILE} will be fetched by torch-fidelity on first use; "
                f"without a network, "
                "download it from torch-fidelity's release v0.2.0 and set inception_weights"
            )
