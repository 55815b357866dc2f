"""Noise by counters: what a GPU draws must be noise, each sample's own, and the same however the
samples are put together.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from scipy import stats

from bench import testbeds
from bench.diffusion import noise as noise_module
from bench.diffusion.generator import Generator
from bench.diffusion.noise import CounterStreams, initial_noise, philox, sample_streams, stream_seed
from bench.diffusion.sampling import (
    SAMPLERS,
    SamplerSettings,
    denoise,
    images_at_once,
    sample,
)

CPU = torch.device("cpu")
CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


def counters(indices: range | list[int], seed: int = 0, purpose: str = "sample") -> CounterStreams:
    return CounterStreams(seed, indices, purpose, CPU)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )
    return Generator(unet.eval(), dict(CONFIG))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_its_authors_answers(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    """Random123's known answers: a slip in a shift still looks random, and is another generator on
    every device.
    """
    result = philox(*(tuple(torch.tensor(word) for word in given) for given in (counter, key)))  # type: ignore[arg-type]
    assert tuple(int(word) for word in result) == words


def test_counters_draw_standard_normal_numbers_that_know_nothing_of_each_other() -> None:
    """Noise of another shape, or that repeats from step to step, would sample another distribution
    and say nothing.
    """
    streams = counters(range(40))
    first, second = streams.normal((3, 33, 33)), streams.normal((3, 33, 33))
    assert first.dtype == torch.float32
    assert stats.kstest(first.flatten().numpy(), "norm").pvalue > 1e-3
    flat = np.stack([first.flatten(1).numpy(), second.flatten(1).numpy()]).reshape(80, -1)
    between = np.corrcoef(flat)[np.triu_indices(80, 1)]
    assert np.abs(between).max() < 5 / np.sqrt(flat.shape[1])
    neighbours = np.corrcoef(first.flatten().numpy()[:-1], first.flatten().numpy()[1:])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(first.numel())
    assert not torch.equal(counters(range(2), seed=1).normal((4,)), counters(range(2)).normal((4,)))
    assert not torch.equal(
        counters(range(2), purpose="other").normal((4,)), counters(range(2)).normal((4,))
    )


def test_a_samples_noise_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch size, order and how much memory allows at once change nothing, to the bit."""
    whole = counters(range(6))
    draws = [whole.normal((3, 5, 7)) for _ in range(3)]
    monkeypatch.setattr(noise_module, "COUNTERS_AT_ONCE", 1)
    shuffled = [5, 0, 3]
    part = counters(shuffled)
    for draw in draws:
        assert torch.equal(part.normal((3, 5, 7)), draw[shuffled])


def test_the_cpu_keeps_torchs_generators_and_other_devices_count() -> None:
    """Numbers of finished runs on CPUs stay as they are; a GPU must not draw on the CPU, which
    costs it hours.
    """
    (stream,) = sample_streams(3, [7])
    assert isinstance(stream, torch.Generator)
    expected = torch.randn(
        (2, 2), generator=torch.Generator().manual_seed(stream_seed(3, "sample", 7))
    )
    assert torch.equal(initial_noise([stream], (2, 2))[0], expected)
    there = sample_streams(3, range(2), device=torch.device("meta"))
    assert isinstance(there, CounterStreams)
    assert initial_noise(there, (3, 4, 4)).device.type == "meta"


@pytest.mark.parametrize(("name", "eta"), [("ddpm", 0.0), ("sde_dpm_solver++", 0.0), ("ddim", 0.5)])
def test_a_sampler_takes_its_steps_noise_from_the_counters(
    name: str, eta: float, generator: Generator
) -> None:
    """The whole of a set, or any part of it in any order, is the same images; nothing comes from
    torch's own stream.
    """
    settings = SamplerSettings(name=name, num_inference_steps=5, network_batch=4, eta=eta)

    def images(indices: range | list[int]) -> torch.Tensor:
        streams = counters(indices)
        return denoise(generator, initial_noise(streams, (3, 8, 8)), streams, settings)

    torch.manual_seed(1)
    whole = images(range(6))
    torch.manual_seed(2)
    torch.testing.assert_close(images([4, 1]), whole[[4, 1]], rtol=0, atol=1e-5)
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(2)))


def test_the_counters_noise_stands_where_the_generators_would(generator: Generator) -> None:
    """Against a second way: generators that give the same numbers make the same images, step by
    step.
    """
    settings = SamplerSettings(name="ddpm", num_inference_steps=6, network_batch=4)

    class Scripted(CounterStreams):
        def __init__(self) -> None:
            super().__init__(0, range(3), "sample", CPU)
            self.inner = sample_streams(0, range(3))

        def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
            return initial_noise(self.inner, shape)

    ours, theirs = Scripted(), sample_streams(0, range(3))
    result = denoise(generator, initial_noise(ours, (3, 8, 8)), ours, settings)
    assert torch.equal(
        result, denoise(generator, initial_noise(theirs, (3, 8, 8)), theirs, settings)
    )


@pytest.mark.parametrize("testbed", ["digits-ddpm", "digits-cfg", "digits-sd"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_stays_on_its_device(
    testbed: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, which has no numbers and takes none: a tensor left on the CPU is an error
    there, as on a GPU.
    """
    # which knows no meta device
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    model = testbeds.build(testbed, {}).base_generator()
    assert len(model.schedule) == 1000
    model.to("meta")
    labels = None if model.classes is None else torch.arange(3)
    settings = SamplerSettings(
        name=name, num_inference_steps=3, network_batch=4, guidance_scale=2.0
    )
    streams = sample_streams(0, range(3), device=model.device)
    x = denoise(model, initial_noise(streams, model.noise_shape), streams, settings, labels=labels)
    assert (x.device.type, tuple(x.shape)) == ("meta", (3, *model.noise_shape))
    assert tuple(model.decode(x).shape) == (3, *model.image_shape)


def test_a_part_of_a_set_is_that_part(generator: Generator) -> None:
    """Shards put together are the set; a large network batch is filled, not padded."""
    settings = SamplerSettings(name="ddpm", num_inference_steps=3, network_batch=4)
    whole = sample(generator, 9, 2, settings, batch_size=4)
    parts = [
        sample(generator, count, 2, settings, batch_size=4, first=first)
        for first, count in ((0, 4), (4, 4), (8, 1))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert [images_at_once(SamplerSettings(network_batch=size)) for size in (64, 96, 128, 512)] == [
        128,
        192,
        128,
        512,
    ]
