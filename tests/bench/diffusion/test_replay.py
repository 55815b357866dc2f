"""What a GPU does with graphs, as far as it can be seen without one: when a graph may stand for a
call of the network, and that nothing changes where it may not. That replays give the same bits is
for ``python -m benchmarks gpu bits`` on a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import testbeds
from bench.diffusion.replay import TrainingGraph, replayable, sampling_answer
from bench.diffusion.sampling import SamplerSettings, images_of_a_batch


class Network(nn.Module):
    """Answers twice its input, and counts how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.calls = 0

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Any:
        self.calls += 1
        return SimpleNamespace(sample=self.weight * x)


class Graphed:
    """Stands in for torch's graphs: the callable itself, its calls counted."""

    def __init__(self, asked: nn.Module, examples: tuple[Tensor, ...]) -> None:
        self.asked, self.examples, self.calls = asked, examples, 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        assert [one.shape for one in inputs] == [one.shape for one in self.examples]
        self.calls += 1
        answer: Tensor = self.asked(*inputs)
        return answer


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> TrainingGraph:
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", Graphed)
    return TrainingGraph(Network())


def asked(graph: TrainingGraph, rows: int = 4, **changes: Any) -> Tensor:
    x = torch.ones(rows, 1, 2, 2, **changes)
    sample: Tensor = graph(x, torch.zeros(rows, dtype=torch.int64)).sample
    assert torch.equal(sample, 2 * x)
    return sample


def test_the_first_call_of_a_step_is_the_graph_and_all_others_are_not(
    graph: TrainingGraph,
) -> None:
    """A graph keeps the activations of one call: a second one before the backward pass would
    write over what the first needs, and the gradients would be wrong.
    """
    for _ in range(3):
        graph.begin()
        asked(graph)
        asked(graph)
    assert graph.graphed.calls == 3
    network: Any = graph.network
    assert network.calls == 3 + 3


def test_a_call_that_a_graph_does_not_cover_is_made_as_ever(graph: TrainingGraph) -> None:
    """Of other shapes, without gradients, or with gradients of its input, which an attack that
    optimises its trigger asks for.
    """
    graph.begin()
    asked(graph)
    graph.begin()
    asked(graph, rows=3)
    graph.begin()
    with torch.no_grad():
        asked(graph)
    graph.begin()
    x = torch.ones(4, 1, 2, 2, requires_grad=True)
    graph(x, torch.zeros(4, dtype=torch.int64)).sample.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.full_like(x, 2.0))
    assert graph.graphed.calls == 1


@pytest.mark.parametrize("name", ["digits-ddpm", "digits-cfg"])
def test_a_cpu_asks_the_network_itself_and_counts_it(name: str) -> None:
    generator = testbeds.load(name).base_generator()
    assert not replayable(generator)
    x, timesteps = torch.randn(2, *generator.noise_shape), torch.tensor([3, 3])
    with torch.no_grad():
        expected = generator.predict_noise(x, timesteps)
        before = generator.calls
        answer = sampling_answer(generator, "float32")(x, timesteps, None)
    assert torch.equal(answer, expected)
    assert generator.calls == before + 2


@pytest.mark.parametrize(
    ("device", "shape", "network_batch", "expected"),
    [
        ("cpu", (3, 16, 16), 64, 128),
        ("cuda", (3, 16, 16), 64, 1344),
        ("cuda", (1, 32, 32), 128, 1024),
        ("cuda", (3, 32, 32), 512, 512),
        ("cuda", (3, 256, 256), 64, 128),
    ],
)
def test_a_gpu_draws_as_many_whole_batches_as_fit_a_million_numbers(
    device: str, shape: tuple[int, int, int], network_batch: int, expected: int
) -> None:
    generator: Any = SimpleNamespace(device=torch.device(device), noise_shape=shape)
    settings = SamplerSettings(network_batch=network_batch)
    assert images_of_a_batch(settings, generator) == expected
