"""A compiled network answers as it does otherwise, and is compiled once. The real compiler takes
minutes on a CPU and needs one of C++, so here what it is handed is run as it is (torch's own
backends ``eager``, and ``aot_eager`` where there is a backward pass).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from bench.contracts import tiny
from bench.contracts.tiny_text import text_to_image
from bench.diffusion import compiling
from bench.diffusion.generator import Generator
from bench.diffusion.process import VariancePreserving
from bench.diffusion.sampling import SamplerSettings, sample
from bench.diffusion.training import TrainingSettings, denoising_loss, train
from bench.testbeds.celebahq_ddpm import CELEBAHQ_DDPM

SAMPLER = SamplerSettings(name="ddim", num_inference_steps=4, network_batch=4)
SETTINGS = TrainingSettings(steps=4, batch_size=8, learning_rate=1e-2, precision="float32")


@pytest.fixture(autouse=True)
def compiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the backend, and forgets what was compiled."""

    def by(backend: str) -> None:
        monkeypatch.setattr(compiling, "BACKEND", backend)
        compiling._compiled_call.cache_clear()
        torch.compiler.reset()
        counters.clear()

    by("eager")
    yield by
    monkeypatch.undo()
    compiling._compiled_call.cache_clear()
    torch.compiler.reset()


def graphs() -> int:
    """How many were compiled since."""
    return int(counters["stats"]["unique_graphs"])


def of(compiled: bool, classes: int | None = None) -> Generator:
    made = tiny.generator(classes)
    made.compiled = compiled
    return made


def drawn(generator: Generator, labels: torch.Tensor | None = None) -> torch.Tensor:
    settings = SAMPLER if labels is None else replace(SAMPLER, guidance_scale=2.0)
    return sample(generator, 6, 0, settings, labels=labels)


@pytest.mark.parametrize("classes", [None, 3])
def test_samples_are_the_same_and_a_network_is_compiled_once(classes: int | None) -> None:
    """For all steps, and for a copy, whose weights may be others."""
    labels = None if classes is None else torch.arange(6) % classes
    plain, made = of(False, classes), of(True, classes)
    assert torch.equal(drawn(made, labels), drawn(plain, labels))
    assert made.calls == plain.calls and graphs() == 1
    copy = made.clone()
    assert copy.compiled
    with torch.no_grad():
        for weight in copy.unet.parameters():
            weight.mul_(0.5)
    drawn(copy, labels)
    assert graphs() == 1 and not torch.equal(drawn(copy, labels), drawn(made, labels))


@pytest.mark.parametrize(
    "changes", [{}, {"accumulation_steps": 2, "gradient_checkpointing": True}], ids=str
)
def test_training_is_the_same_and_compiled_once(
    changes: dict[str, Any], compiles: Callable[[str], None]
) -> None:
    """``aot_eager`` traces the backward pass too, which rounds by itself."""
    compiles("aot_eager")

    def loss(predict: Any, rows: Any, noise: Any, timesteps: Any, schedule: Any) -> Any:
        return denoising_loss(
            predict, rows["images"], noise, timesteps, VariancePreserving(schedule)
        )

    losses, weights = [], []
    for compiled in (False, True):
        generator = of(compiled)
        rows = {"images": tiny.pixels(16)}
        losses.append(train(generator, rows, loss, replace(SETTINGS, **changes), 0))
        weights.append(torch.cat([one.detach().flatten() for one in generator.unet.parameters()]))
        if not compiled:
            assert graphs() == 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert torch.allclose(weights[0], weights[1], atol=1e-5) and graphs() == 1


def test_so_are_those_of_prompts() -> None:
    """A generator with another table of prompts, or a copy, is compiled where its original is."""
    plain, made = text_to_image(), text_to_image()
    made.compiled = True
    labels = torch.arange(6) % len(made.prompts)
    assert torch.equal(drawn(made, labels), drawn(plain, labels)) and graphs() == 1
    assert made.clone().compiled and made.with_prompts(("one",)).compiled


def test_whoever_watches_a_module_sees_every_call() -> None:
    """A detector reads features from a hook; compiled, the module is never called."""
    generator, seen = of(True), list[int]()
    generator.unet.conv_in.register_forward_hook(lambda *_: seen.append(1))
    drawn(generator)
    assert len(seen) == SAMPLER.num_inference_steps * 2 and graphs() == 0


def test_a_testbed_declares_it(tmp_path: Any) -> None:
    """Only where it is asked for, since published results are without."""
    tiny.generator().save(tmp_path / "weights", card="tiny")
    plain = CELEBAHQ_DDPM.changed(weights=str(tmp_path / "weights"))
    made = plain.changed(compiled=True)
    assert "compiled" not in plain.params() and made.params()["compiled"] is True
    assert not plain.load_generator(tmp_path / "weights").compiled
    assert made.load_generator(tmp_path / "weights").compiled
