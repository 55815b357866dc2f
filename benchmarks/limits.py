"""Where a unit's time goes, beside what the machine can do: the share of its CPU time in the
network's arithmetic, and the rate of that arithmetic beside the rate of a large matrix product.

By torch's own profiler and counter of floating-point operations, in runs of their own: watching
costs time. A product of two matrices of side n is 2 n^3 operations; convolutions and linear layers
are counted alike, forward and backward. The rate of a unit is all that it computes over all of its
CPU seconds, so what it lacks to the machine's is small feature maps, memory, and everything that is
no product.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Row

SIDE, TIMES = 2048, 5
#: What torch calls the operations that are matrix products, convolutions among them.
PRODUCTS = ("convolution", "conv2d", "addmm", "::mm", "bmm", "baddbmm", "linear", "matmul")
NORMALISATION = ("group_norm", "batch_norm", "layer_norm")


@dataclass(frozen=True)
class Limits:
    """Operations a CPU second of a product of 2048 x 2048, in this process and its threads."""

    float32: tuple[float, ...]
    bfloat16: tuple[float, ...]

    @classmethod
    def measured(cls, quick: bool = False) -> Limits:
        """On this machine, now."""
        side = SIDE // 4 if quick else SIDE
        return cls(_rates(torch.float32, side), _rates(torch.bfloat16, side))

    def rows(self) -> list[Row]:
        """Both, in GFLOP/s."""
        return [
            Row(
                quantity=f"the machine's matrix product, {name}",
                unit="GFLOP/s of CPU",
                values=tuple(rate / 1e9 for rate in rates),
            )
            for name, rates in (("float32", self.float32), ("bfloat16", self.bfloat16))
        ]


def _rates(kind: torch.dtype, side: int) -> tuple[float, ...]:
    left, right = (torch.randn(side, side).to(kind) for _ in range(2))
    left @ right
    rates = []
    for _ in range(TIMES):
        before = time.process_time()
        left @ right
        rates.append(2 * side**3 / (time.process_time() - before))
    return tuple(rates)


def spent(run: Callable[[], torch.Tensor], seconds: float, limits: Limits) -> list[Row]:
    """Where the CPU time of ``run`` goes, as shares, and its rate over the machine's in float32.
    ``seconds``: of CPU that it takes unwatched.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as watched:
        run()
    times = {event.key: event.self_cpu_time_total for event in watched.key_averages()}
    whole = sum(times.values())

    def share(names: tuple[str, ...]) -> float:
        chosen = [key for key in times if any(name in key.lower() for name in names)]
        return float(sum(times[key] for key in chosen) / whole)

    products, norms = share(PRODUCTS), share(NORMALISATION)
    rate = counter.get_total_flops() / seconds
    limit = max(limits.float32)
    return [
        Row(quantity=f"ours: {what}", unit=unit, values=(value,))
        for what, unit, value in (
            ("convolutions and matrix products", "of CPU", products),
            ("normalisation", "of CPU", norms),
            ("everything else", "of CPU", 1 - products - norms),
            ("its arithmetic / the machine's", "ratio", rate / limit),
        )
    ]
