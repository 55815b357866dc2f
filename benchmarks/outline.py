"""What a network costs, from its shape alone: operations, and bytes at their peak, of passes on the
``meta`` device, where tensors have a size and no content. Nothing is measured here.

Operations are torch's own count (:mod:`torch.utils.flop_counter`: a multiplication and an addition
are two). Bytes are those of all tensors that are alive at once, as torch's autograd keeps and frees
them. On a GPU come the CUDA context, the workspace of convolutions, and what its allocator cannot
reuse; none of it is in these numbers, so a card needs a margin (:data:`MARGIN`).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from bench.diffusion.lora import add_adapters
from bench.diffusion.noise import CounterStreams
from bench.diffusion.precision import DTYPES
from bench.diffusion.training import TrainingSettings
from benchmarks.architectures import Architecture, Networks

#: The share of a card's memory that is left to what is not counted.
MARGIN = 0.1
GIB = 2**30
FUSED, PLAIN, SLICED = ATTENTIONS = ("fused", "plain", "sliced")
_HALF = (
    torch.conv2d,
    torch.conv_transpose2d,
    torch.nn.functional.linear,
    torch.matmul,
    torch.bmm,
    torch.baddbmm,
    torch.nn.functional.scaled_dot_product_attention,
)
_FULL = (
    torch.nn.functional.group_norm,
    torch.nn.functional.layer_norm,
    torch.nn.functional.softmax,
    torch.softmax,
    Tensor.softmax,
    Tensor.pow,
)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations inside this context make: ``live`` now and at
    the ``peak``, and ``moved``, read and written by all of them. Views are not counted twice.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = self.moved = 0
        self._known: dict[int, object] = {}

    def add(self, tensor: Tensor) -> None:
        """Counts ``tensor`` from now on until it is freed."""
        storage = tensor.untyped_storage()
        identity, size = storage._cdata, storage.nbytes()
        if identity in self._known:
            return

        def freed() -> None:
            self.live -= size
            del self._known[identity]

        self._known[identity] = weakref.finalize(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        there = {value.untyped_storage()._cdata for value in read}
        made = [value for value in tree_iter(result) if isinstance(value, Tensor)]
        new = [value for value in made if value.untyped_storage()._cdata not in there]
        for value in new:
            self.add(value)
        if new or func._schema.is_mutable:
            written = new or made
            self.moved += sum(value.numel() * value.element_size() for value in [*read, *written])
        return result


class MixedPrecision(TorchFunctionMode):
    """What ``torch.autocast("cuda", dtype)`` does, on ``meta``, which has no autocast: products in
    ``dtype``, normalisation and softmax in float32, the rest in whatever arrives. ``None``: nothing
    is cast. A weight is cast once, and kept until the context ends (1.7 GiB of Stable Diffusion's,
    as measured on an H100). Attention is that of a GPU, which keeps no matrix of attention weights.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self._kept: dict[int, Tensor] = {}

    def __exit__(self, *rest: Any) -> None:
        self._kept.clear()
        super().__exit__(*rest)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if self.dtype is not None and func in _HALF:
            args, named = _cast((args, named), self.dtype, self._kept)
        elif self.dtype is not None and func in _FULL:
            args, named = _cast((args, named), torch.float32, {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _attention(*args, **named)
        return func(*args, **named)


def _cast(values: Any, dtype: torch.dtype, kept: dict[int, Tensor]) -> Any:
    def one(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if value.is_leaf and value.requires_grad and value.dtype == torch.float32:
            if id(value) not in kept:
                kept[id(value)] = value.to(dtype)
            return kept[id(value)]
        return value.to(dtype)

    return tree_map(one, values)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    """The memory-efficient kernel, whose output and row sums are kept beside its inputs."""
    attend = torch.ops.aten._scaled_dot_product_efficient_attention.default
    needed = torch.is_grad_enabled()
    result: Tensor = attend(query, key, value, attn_mask, needed, dropout_p, is_causal)[0]
    return result


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """``operations``: of one image in one step, in FLOP, and ``decoding``, once an image.

    Bytes: ``standing``, of all that is there between two steps (weights; in training also the
    optimiser's two moments and the average of the weights); ``kept``, for the backward pass, of all
    the images that are in the network at once; ``peak``, of everything.
    """

    operations: float
    standing: int
    kept: int
    peak: int
    decoding: float = 0.0

    def fits(self, gibibytes: float) -> bool:
        """Whether a card of so much memory has room for it beside :data:`MARGIN`."""
        return self.peak <= (1 - MARGIN) * gibibytes * GIB


@cache
def training(architecture: Architecture, settings: TrainingSettings) -> Estimate:
    """Of a training as :func:`bench.diffusion.training.train` does it on one GPU: a step with the
    optimiser's moments in place and, of several pieces, the gradients of the earlier ones.
    """
    pieces = settings.accumulation_steps
    images = settings.batch_size // pieces
    dtype = None if settings.precision == "float32" else DTYPES[settings.precision]
    live = LiveBytes()
    with live:
        networks = architecture.build()
        network = _to_train(networks, settings, dtype)
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        average = [weight.detach().clone() for weight in trained if settings.ema_decay]
        optimizer = torch.optim.Adam(trained, foreach=True)
        _make_moments(optimizer, trained)
        standing = live.live
        if pieces > 1:
            for weight in trained:
                weight.grad = torch.zeros_like(weight)
        with FlopCounterMode(display=False) as counter:
            kept = _passes(networks, images, dtype, live)
        optimizer.step()
        optimizer.zero_grad()
        if average:
            torch._foreach_lerp_(average, [weight.detach() for weight in trained], 0.1)
    operations = counter.get_total_flops() / images
    return Estimate(operations=operations, standing=standing, kept=kept, peak=live.peak)


def _make_moments(optimizer: torch.optim.Optimizer, trained: list[torch.nn.Parameter]) -> None:
    """The optimiser makes its moments at its first step."""
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()


def _to_train(networks: Networks, settings: TrainingSettings, dtype: torch.dtype | None) -> Any:
    network = networks.unet
    if settings.lora_rank is not None:
        add_adapters(network, settings.lora_rank, 0)
        network.to("meta")  # where adapters are made depends on peft
    if settings.gradient_checkpointing:
        again = partial(
            checkpoint,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), MixedPrecision(dtype)),
        )
        network.enable_gradient_checkpointing(again)
    return network.train()


def _passes(networks: Networks, images: int, dtype: torch.dtype | None, live: LiveBytes) -> int:
    """Forward and backward of ``images`` at once; the bytes kept between the two."""
    with MixedPrecision(dtype):
        if networks.vae is not None:
            with torch.no_grad():
                networks.encode(images)
        before = live.live
        loss = networks.predict(images).float().square().mean()
        kept = live.live - before
    torch.autograd.backward([loss])
    return kept


@cache
def sampling(
    architecture: Architecture,
    precision: str,
    images: int,
    *,
    at_once: int = 0,
    attention: str = FUSED,
    decoded: bool = True,
) -> Estimate:
    """Of drawing: ``images`` go through the network at once, which belong to a batch of
    ``at_once`` with the noise of a step. ``attention``: one of :data:`ATTENTIONS`. ``decoded``:
    latents to images, too, as many at once.
    """
    dtype = None if precision == "float32" else DTYPES[precision]
    live = LiveBytes()
    with live, torch.no_grad():
        networks = architecture.build()
        set_attention(networks.unet, attention)
        standing = live.live
        batch = torch.empty((max(images, at_once), *networks.drawn), device="meta")
        with MixedPrecision(dtype), FlopCounterMode(display=False) as counter:
            prediction = networks.predict(images).float()
        operations = counter.get_total_flops()
        noise = CounterStreams(0, range(len(batch)), "sample", torch.device("meta"))
        batch = batch + noise.normal(networks.drawn)
        del prediction
        decoding = 0.0
        if decoded and networks.vae is not None:
            with MixedPrecision(dtype), FlopCounterMode(display=False) as counter:
                networks.decode(images)
            decoding = counter.get_total_flops() / images
    return Estimate(
        operations=operations / images,
        standing=standing,
        kept=0,
        peak=live.peak,
        decoding=decoding,
    )


def set_attention(network: Any, attention: str) -> None:
    """One of :data:`ATTENTIONS`. ``sliced`` is diffusers' own attention slicing in its automatic
    size, half of the heads at a time: of the plain kernel, since slices have no fused one. Fused is
    what a network comes with.
    """
    from diffusers.models.attention_processor import AttnProcessor

    if attention == SLICED:
        network.set_attention_slice("auto")
    elif attention == PLAIN:
        network.set_attn_processor(AttnProcessor())


@cache
def noise_bytes(shape: tuple[int, ...], images: int = 8) -> float:
    """Bytes read and written on the device for the noise of one image and step
    (:class:`bench.diffusion.noise.CounterStreams`).
    """
    with LiveBytes() as live:
        CounterStreams(0, range(images), "sample", torch.device("meta")).normal(shape)
    return float(live.moved) / images
