"""The global state of a process that a plugin could leave changed for later code: torch's
switches, the working folder, the environment.

A worker restores it before each stage, including the global random generators, so that no result
depends on what ran before. After a third-party plugin it is compared: a plugin that changes a
switch changes what the harness computes around it.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Prefixes of variables that accelerate, which runs our training, and other libraries set.
LIBRARIES = (
    "ACCELERATE_",
    "FSDP_",
    "KMP_",
    "TORCHINDUCTOR_",
    "TRITON_",
    "PYTEST_",
    "COV_",
    "COVERAGE_",
)
#: Python uses the same processor flags as torch on this thread: half of the smallest normal number
#: is 0 if denormal numbers are flushed.
_SMALLEST = sys.float_info.min


class Surroundings:
    """A snapshot of this process's global state, taken on construction."""

    def __init__(self) -> None:
        self.switches = {name: get() for name, (get, _) in _switches().items()}
        self.folder = _folder()
        self.environment = dict(os.environ)

    def restore(self) -> None:
        """Restores everything, and sets the global random generators to one fixed state."""
        for name, (get, put) in _switches().items():
            if name in self.switches and get() != self.switches[name]:
                with suppress(RuntimeError, ValueError):
                    put(self.switches[name])
        if self.folder is not None and _folder() != self.folder:
            with suppress(OSError):
                os.chdir(self.folder)
        for name in set(os.environ) - set(self.environment):
            del os.environ[name]
        os.environ.update(self.environment)
        random.seed(0)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(0)

    def changes(self) -> str:
        """What has changed since the snapshot, with the values, in words; empty if nothing. Random
        generators do not count: :meth:`restore` resets them.
        """
        changed = [
            f"{name} ({self.switches[name]} -> {now})"
            for name, (get, _) in _switches().items()
            if name in self.switches and (now := get()) != self.switches[name]
        ]
        if _folder() != self.folder:
            changed.append(f"working folder ({self.folder} -> {_folder() or 'one that is gone'})")
        names = {
            name
            for name in {*os.environ, *self.environment}
            if os.environ.get(name) != self.environment.get(name) and not name.startswith(LIBRARIES)
        }
        if names:
            changed.append(
                f"environment ({', '.join(sorted(names)[:5])}{', ...' if len(names) > 5 else ''})"
            )
        return ", ".join(changed)


def _folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None


_Switch = tuple[Callable[[], Any], Callable[[Any], Any]]


def _switches() -> Mapping[str, _Switch]:
    """Name -> (getter, setter); empty in a process that has not loaded torch."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is None or numpy is None:
        return {}
    kernels = torch.backends.cuda

    def attribute(owner: Any, name: str) -> _Switch:
        return (lambda: getattr(owner, name)), (lambda value: setattr(owner, name, value))

    def set_deterministic(value: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(value[0], warn_only=value[1])

    switches: dict[str, _Switch] = {
        "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "default device": (
            lambda: str(torch.get_default_device()),
            lambda value: torch.set_default_device(None if value == "cpu" else value),
        ),
        "grad mode": (torch.is_grad_enabled, torch._C._set_grad_enabled),
        "inference mode": (torch.is_inference_mode_enabled, lambda value: None),
        "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        "deterministic algorithms": (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            set_deterministic,
        ),
        "matmul precision": (
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        "threads": (torch.get_num_threads, torch.set_num_threads),
        "denormal numbers flushed": (lambda: _SMALLEST / 2 == 0.0, torch.set_flush_denormal),
        "oneDNN": (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
        "flash attention": (kernels.flash_sdp_enabled, kernels.enable_flash_sdp),
        "memory-efficient attention": (
            kernels.mem_efficient_sdp_enabled,
            kernels.enable_mem_efficient_sdp,
        ),
        "plain attention": (kernels.math_sdp_enabled, kernels.enable_math_sdp),
        "numpy's errors": (lambda: dict(numpy.geterr()), lambda value: numpy.seterr(**value)),
    }
    switches |= _hidden_switches(torch, attribute)
    return {name: switch for name, switch in switches.items() if _readable(switch[0])}


def _hidden_switches(torch: Any, attribute: Callable[[Any, str], _Switch]) -> dict[str, _Switch]:
    """The switches that torch documents little or not at all."""
    modules, cores, paths = torch.nn.modules.module, torch._C, torch.backends
    switches: dict[str, _Switch] = {
        # Hooks on every network and modes around every torch call stay active after the plugin's
        # own call has returned.
        "hooks on all modules": (
            lambda: sum(len(getattr(modules, name)) for name in _HOOKS),
            lambda value: _clear(modules),
        ),
        "torch's function modes": (cores._len_torch_function_stack, lambda value: None),
        "torch's dispatch modes": (cores._len_torch_dispatch_stack, lambda value: None),
        "fresh memory filled": attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
        "oneDNN deterministic": attribute(paths.mkldnn, "deterministic"),
        "NNPACK": (cores._get_nnpack_enabled, cores._set_nnpack_enabled),
        "einsum's path": attribute(paths.opt_einsum, "enabled"),
    }
    for dtype in ("fp16", "bf16"):
        name = f"allow_{dtype}_reduced_precision_reduction"
        switches[f"{dtype} sums"] = attribute(torch.backends.cuda.matmul, name)
    for device in ("cpu", "cuda"):
        switches[f"autocast on {device}"] = (
            lambda device=device: (
                torch.is_autocast_enabled(device),
                str(torch.get_autocast_dtype(device)),
            ),  # type: ignore[misc]
            lambda value, device=device: torch.set_autocast_enabled(device, value[0]),  # type: ignore[misc]
        )
    for name in ("enabled", "benchmark", "deterministic", "allow_tf32"):
        switches[f"cuDNN {name}"] = attribute(torch.backends.cudnn, name)
    switches["TF32"] = attribute(torch.backends.cuda.matmul, "allow_tf32")
    return switches


#: Of ``torch.nn.modules.module``: hooks that run around every network's calls.
_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def _clear(modules: Any) -> None:
    for name in _HOOKS:
        getattr(modules, name).clear()


def _readable(get: Callable[[], Any]) -> bool:
    """Whether this version of torch has the switch and can read it in its current state."""
    try:
        get()
    except (AttributeError, RuntimeError):
        return False
    return True
