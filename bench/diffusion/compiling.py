"""A network's forward pass, and in training its backward pass, compiled by ``torch.compile``: on a
GPU the published networks are faster for it (2.6 times for CIFAR-10's on an H100:
docs/performance.md), after half a minute for each new shape. It rounds differently, so it is a
declared choice of a testbed, ``compiled``.

Compiled for one shape at a time: a kernel for any shape would depend on what a process had been
asked before, and so would the numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

#: torch's name of what makes the kernels; it needs Triton on a GPU, and a C++ compiler on a CPU.
BACKEND = "inductor"


def watched(network: nn.Module) -> bool:
    """Whether somebody has a hook on a module: compiled, or recorded, it might not be called."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in network.modules()
    )


def compiled(network: nn.Module) -> Callable[..., Any]:
    """``network``'s call, compiled when it is first used; the call itself if somebody watches its
    modules.
    """
    return network if watched(network) else functools.partial(_compiled_call(), network)


def _call(network: nn.Module, *inputs: Any, **condition: Any) -> Any:
    return network(*inputs, **condition)


@functools.cache
def _compiled_call() -> Callable[..., Any]:
    """One for all networks: those of the same layers share what was compiled."""
    made: Callable[..., Any] = torch.compile(_call, dynamic=False, backend=BACKEND)
    return made
