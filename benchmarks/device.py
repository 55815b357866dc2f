"""The device that :mod:`benchmarks.gpu` measures on: what only CUDA has is asked here."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Why a row has no number.
NO_CUDA = "no CUDA device"


@dataclass(frozen=True)
class Device:
    """``name``: ``cuda`` or ``cpu``, as torch and ``--device`` have it."""

    name: str

    @classmethod
    def here(cls) -> Device:
        """The GPU, if torch sees one."""
        return cls("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.name == "cuda"

    @property
    def torch(self) -> torch.device:
        """As torch has it."""
        return torch.device(self.name)

    def describe(self) -> str:
        """For people."""
        if not self.cuda:
            return "CPU: there is no CUDA device, so all sizes are tiny and GPU rows have no number"
        one = torch.cuda.get_device_properties(0)
        return f"{one.name}, {one.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"

    def synchronize(self) -> None:
        """Waits until the device has done what it was given; a CPU has."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object]) -> float:
        """Wall time of ``run``, all its work done."""
        self.synchronize()
        before = time.perf_counter()
        run()
        self.synchronize()
        return time.perf_counter() - before

    def forget_peak(self) -> None:
        """Begins to measure the peak anew, where that can be done."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> tuple[float, str]:
        """The most memory in use since, in GiB, and what of: a GPU's tensors, or else the whole
        process since it began.
        """
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**30, "of the GPU's tensors"
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kibibytes / 2**20, "of the process since it began"

    def captured(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """``run`` as one CUDA graph, whose replay writes into the same tensor each time. Raises
        ``RuntimeError`` without CUDA.
        """
        if not self.cuda:
            raise RuntimeError(NO_CUDA)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # as torch asks for: a few runs before the capture
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = run()

        def replay() -> Tensor:
            graph.replay()
            return answer

        return replay
