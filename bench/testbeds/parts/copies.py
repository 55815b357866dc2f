"""SSCD, the copy detector of the paper testbeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench.testbeds.data.images import faults_of
from bench.testbeds.parts import sscd as copy_detector
from bench.testbeds.parts.part import Composition, Copies


@dataclass(frozen=True, kw_only=True)
class SSCD(Copies):
    """``sscd``: the copy detector's TorchScript file, with ``sscd_sha256``, the hash of the file
    that was meant; ``None``: data replication is not measured.
    """

    locations: ClassVar[frozenset[str]] = frozenset({"sscd"})
    recognises: ClassVar[bool] = True

    sscd: str | None = None
    sscd_sha256: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        sha256 = self.sscd_sha256
        if self.sscd is None:
            self.require(sha256 is None, "sscd_sha256", "null without sscd")
        else:
            valid = sha256 is not None and copy_detector.SHA256.fullmatch(sha256) is not None
            self.require(
                valid,
                "sscd_sha256",
                "the sha256 of the file sscd, 64 hexadecimal digits in lower case",
            )

    @property
    def extractor(self) -> str | None:
        return None if self.sscd is None else copy_detector.NAME

    def register(self) -> None:
        if self.sscd_sha256 is not None:
            copy_detector.register(self.sscd_sha256)

    def weights(self) -> str | None:
        if self.sscd is None or self.sscd_sha256 is None:
            return None
        return str(copy_detector.checked_file(self.name, self.sscd, self.sscd_sha256))

    def fingerprint(self) -> str:
        self.weights()  # or a run would fail at its very end; the file's hash is a parameter
        return ""

    def missing(self) -> list[str]:
        return faults_of([self.weights])

    def faults(self, testbed: Composition) -> list[str]:
        return self.missing()
