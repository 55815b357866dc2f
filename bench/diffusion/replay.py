"""A network's kernels as one CUDA graph. On a GPU the kernels of a small network are shorter than
the time that a CPU takes to launch them one by one (5 to 6 times for the embedded ones on an H100:
docs/performance.md); a graph launches them all at once. They are the same kernels, so the numbers
are the same.

Only for shapes that come again and again, and for networks of up to :data:`LARGEST` weights, since
larger ones keep the GPU busy by themselves and a graph keeps its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from bench.diffusion.compiling import compiled, watched
from bench.diffusion.generator import Generator
from bench.diffusion.precision import autocast

#: Weights of a network. The published one for CIFAR-10 has 36 million.
LARGEST = 50_000_000
#: Runs before a capture, in which libraries choose their kernels and workspaces.
WARM_UP = 3
#: Graphs that a network keeps.
MOST = 4

Answer = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def replayable(generator: Generator) -> bool:
    """Whether a graph of its network says all that a call of it does: a plain network on a GPU, not
    a large one or a compiled one, and nobody watches its modules.
    """
    if type(generator) is not Generator or generator.device.type != "cuda" or generator.compiled:
        return False
    if not torch.cuda.is_available():  # tensors that only say that they are on a GPU
        return False
    network: Any = generator.unet
    if sum(weight.numel() for weight in network.parameters()) > LARGEST:
        return False
    return not watched(network)


class Recorded:
    """``answer`` for inputs of the shapes of these, recorded once. Each call copies its inputs to
    where the graph reads them, and what the graph writes to a tensor of its own.
    """

    def __init__(self, answer: Answer, x: Tensor, timesteps: Tensor, labels: Tensor | None) -> None:
        self.inputs = [None if one is None else one.clone() for one in (x, timesteps, labels)]
        own = cast(tuple[Tensor, Tensor, Tensor | None], tuple(self.inputs))
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                answer(*own)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = answer(*own)

    def __call__(self, x: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        for own, given in zip(self.inputs, (x, timesteps, labels), strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self.graph.replay()
        return self.output.clone()


#: By network: where its weights lie, its shape of input and precision, and the graph, once the
#: same has come twice.
_RECORDED: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Recorded | None]] = (
    WeakKeyDictionary()
)


def sampling_answer(generator: Generator, precision: str) -> Answer:
    """The network's prediction, as :meth:`Generator.predict_noise`, without gradients, for inputs
    of one shape; recorded where that pays, and compiled where the generator says so.
    """

    def plain(x: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        condition = () if labels is None else (labels,)
        with autocast(x.device, precision):
            return generator.predict_noise(x, timesteps, *condition)

    if isinstance(generator, Generator) and generator.compiled:  # a stand-in has no network
        return _compiled_answer(generator, precision)
    if not replayable(generator):
        return plain

    def uncounted(x: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        # The cache of autocast would outlive the recording, and its tensors would not.
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            with autocast(x.device, precision):
                return generator.answer(generator.unet, x, timesteps, labels)
        finally:
            torch.set_autocast_cache_enabled(cached)

    weights = tuple(weight.data_ptr() for weight in generator.unet.parameters())
    mode = (precision, generator.unet.training)

    def replayed(x: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        labels = generator.labelled(x, labels)
        shapes = (x.shape, x.stride(), None if labels is None else labels.dtype)
        graphs = _RECORDED.setdefault(generator.unet, {})
        key = (weights, mode, shapes)
        generator.calls += len(x)
        if key not in graphs:  # seen for the first time: it may not come again
            if len(graphs) >= MOST:
                graphs.clear()
            graphs[key] = None
            return uncounted(x, timesteps, labels)
        recorded = graphs[key]
        if recorded is None:
            recorded = graphs[key] = Recorded(uncounted, x, timesteps, labels)
        return recorded(x, timesteps, labels)

    return replayed


def _compiled_answer(generator: Generator, precision: str) -> Answer:
    network = compiled(generator.unet)

    def answer(x: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        generator.calls += len(x)
        with autocast(x.device, precision):
            return generator.answer(network, x, timesteps, generator.labelled(x, labels))

    return answer


class _Asked(nn.Module):
    """A network whose answer is a tensor, as torch's graphed callables need it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor | None = None) -> Tensor:
        condition = {} if labels is None else {"class_labels": labels}
        answer: Tensor = self.network(x, timesteps, **condition).sample
        return answer


class TrainingGraph:
    """The forward and backward pass of the first call of each training step, as CUDA graphs
    (``torch.cuda.make_graphed_callables``), once a step has made such a call. All others run as
    ever: a graph has room for the activations of one call alone.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.shape: tuple[Any, ...] | None = None
        self.graphed: Any = None
        self.free = False

    def begin(self) -> None:
        """A step begins: what the last one kept for its backward pass is no longer needed."""
        self.free = True

    def __call__(self, x: Tensor, timesteps: Tensor, **condition: Tensor | None) -> Any:
        """As the network's own call; an object with ``sample``."""
        labels = condition.get("class_labels")
        first, self.free = self.free, False
        plain = not first or x.requires_grad or not torch.is_grad_enabled()
        shape = (x.shape, x.stride(), None if labels is None else labels.shape)
        if plain or (self.shape is not None and shape != self.shape):
            return self.network(x, timesteps, **condition)
        inputs = (x, timesteps) if labels is None else (x, timesteps, labels)
        if self.graphed is None:
            self.shape = shape
            examples = tuple(one.detach().clone() for one in inputs)
            asked: Any = _Asked(self.network)
            # The recording runs on a stream of its own, which torch remarks on at every training.
            expected = getattr(
                torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", lambda _: None
            )
            expected(False)
            self.graphed = torch.cuda.make_graphed_callables(asked, examples)
        return _Sample(self.graphed(*inputs))


class _Sample:
    """What diffusers' networks return."""

    def __init__(self, sample: Tensor) -> None:
        self.sample = sample
