"""The border to plugins: an author's slip fails that author's cell in one clear line, and reaches
nobody else's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contracts.attack import TrainingAttack
from bench.contracts.card import Card
from bench.contracts.data import Query, Recovered, TrainingSet, TrainingStep
from bench.contracts.defense import DataDefense, ModelDefense, SamplerDefense
from bench.contracts.detector import NoiseDetector
from bench.contracts.goals import DrawFromSet, Trigger
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings, denoise
from bench.errors import ContractError
from bench.stages import border, border_attacks
from bench.testbeds.data.digits import digits_over_photographs
from bench.testbeds.digits_ddpm import DIGITS_DDPM

SHAPE = (3, 4, 4)
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}


class Network:
    """Predicts a fixed function of its input, which a guard's clipping changes."""

    scheduler_config: ClassVar[dict[str, Any]] = SCHEDULE
    device = torch.device("cpu")
    noise_shape = SHAPE

    def predict_noise(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return x.roll(1, -1) * 0.9

    def decode(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True, kw_only=True)
class Sampler(SamplerDefense):
    """A sampler defense made of a function, in one of its two places."""

    card: ClassVar[Card] = Card(name="slip", summary="for tests")
    does: Any = None
    where: str = "predicted_x0"

    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Any:
        return self.does(predicted_x0) if self.where == "predicted_x0" else predicted_x0

    def stepped(self, x: Tensor, timestep: int) -> Any:
        return self.does(x) if self.where == "stepped" else x


@dataclass(frozen=True, kw_only=True)
class Keeping(Sampler):
    """The same with DDIM's own noise."""

    keeps_noise: ClassVar[bool] = True


def drawn(guard: SamplerDefense | None, sampler: str = "ddim") -> Tensor:
    start = 2 * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    streams = [torch.Generator().manual_seed(index) for index in range(4)]
    settings = SamplerSettings(name=sampler, num_inference_steps=4, network_batch=4)
    return denoise(Network(), start, streams, settings, [guard] if guard else [])  # type: ignore[arg-type]


def through_numpy(x: Tensor) -> Tensor:
    np.clip(x.numpy(), -1, 1, out=x.numpy())
    return x


def through_a_view(x: Tensor) -> Tensor:
    x.reshape(-1).clamp_(-1, 1)
    return x


IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp_": lambda x: x.clamp_(-1, 1),
    "out=": lambda x: torch.clamp(x, -1, 1, out=x),
    "view": through_a_view,
    "numpy": through_numpy,
    "data": lambda x: x.data.clamp_(-1, 1),
}


@pytest.mark.parametrize("kind", [Sampler, Keeping])
@pytest.mark.parametrize("where", ["predicted_x0", "stepped"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_defense_written_in_place_is_the_same_defense(
    kind: type[Sampler], where: str, sampler: str
) -> None:
    """Measured as no defense, it would be published as useless, and its author could not see
    why.
    """
    wanted = drawn(kind(does=lambda x: x.clamp(-1, 1), where=where), sampler)
    assert not torch.equal(wanted, drawn(None, sampler))
    for name, clip in IN_PLACE.items():
        assert torch.equal(drawn(kind(does=clip, where=where), sampler), wanted), name


def test_a_defense_that_returns_what_it_was_handed_adds_no_rounding() -> None:
    assert torch.equal(drawn(Sampler(does=lambda x: x)), drawn(None))


class Subclass(Tensor):
    """As torchvision's images are."""


def test_what_comes_back_is_taken_for_its_values_alone() -> None:
    """A buffer that is used again, a gradient, a subclass or strides are no reason for another
    number, nor for a crash.
    """
    wanted = drawn(Sampler(does=lambda x: x / 2, where="stepped"))
    buffer = torch.empty(4, *SHAPE)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "the same storage for every call": lambda x: torch.div(x, 2, out=buffer),
        "with a gradient": lambda x: (x / 2).requires_grad_(),
        "parameter": lambda x: torch.nn.Parameter(x / 2),
        "subclass": lambda x: (x / 2).as_subclass(Subclass),
        "not contiguous": lambda x: (x / 2).transpose(2, 3).contiguous().transpose(2, 3),
    }
    for name, way in ways.items():
        result = drawn(Sampler(does=way, where="stepped"))
        assert (
            torch.equal(result, wanted) and type(result) is Tensor and not result.requires_grad
        ), name


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda x: None, "got None"),
    "numpy": (lambda x: x.numpy(), "got a ndarray"),
    "list": (lambda x: [x], "got a list"),
    "fewer rows": (lambda x: x[:2], r"got \(2, 3, 4, 4\) float32"),
    "more rows": (lambda x: x.repeat(3, 1, 1, 1), r"got \(12, 3, 4, 4\)"),
    "one channel": (lambda x: x[:, :1], r"got \(4, 1, 4, 4\)"),
    "scalar": (lambda x: x.mean(), r"got \(\) float32"),
    "float64": (lambda x: x.double(), "float64"),
    "uint8": (lambda x: x.to(torch.uint8), "uint8"),
    "bool": (lambda x: x > 0, "bool"),
    "meta": (lambda x: x.to("meta"), "on meta"),
    "sparse": (lambda x: x.to_sparse(), "sparse"),
    "resized": (lambda x: x.resize_(2, 3, 4, 4), r"got \(2, 3, 4, 4\)"),
    "NaN": (lambda x: x * float("nan"), "finite numbers, got NaN or infinity in 4 of 4 rows"),
    "infinity in one row": (
        lambda x: x.index_fill(0, torch.tensor([1]), float("inf")),
        "infinity in 1 of 4 rows",
    ),
}


@pytest.mark.parametrize("where", ["predicted_x0", "stepped"])
@pytest.mark.parametrize("name", WRONG)
def test_what_a_sampler_defense_must_not_return_is_one_line(name: str, where: str) -> None:
    """Broadcast, clamped to white or cut, each would be a number over something else than what was
    asked for.
    """
    does, message = WRONG[name]
    with pytest.raises(ContractError, match=rf"^slip: {where}\(\) must return .*{message}"):
        drawn(Sampler(does=does, where=where))


def test_a_network_that_diverges_is_not_the_guards_fault() -> None:
    class Diverged(Network):
        def predict_noise(self, x: Tensor, timesteps: Tensor) -> Tensor:
            return x * float("nan")

    with pytest.raises(FloatingPointError, match="not finite before timestep"):
        denoise(
            Diverged(),
            torch.zeros(2, *SHAPE),
            [],
            SamplerSettings(name="ddim", num_inference_steps=2),
            [Sampler(does=lambda x: x)],
        )  # type: ignore[arg-type]  # noqa: E501


def test_no_write_reaches_the_data_set_of_the_process() -> None:
    """A worker's later stages would train on it and measure against it, and their numbers would be
    kept.
    """
    data = DIGITS_DDPM.data
    for read in (data.train_images, data.train_labels, data.held_out_images):
        kept = read().clone()
        read().zero_()
        assert torch.equal(read(), kept)
    with pytest.raises(ValueError, match="read-only"):
        digits_over_photographs()["train"][0][:] = 0


# --- attacks --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Slip(TrainingAttack):
    """An attack made of functions; what it is not given it leaves honest."""

    card: ClassVar[Card] = Card(name="slip", summary="for tests", alters=frozenset({"data"}))
    poisons: Any = None
    stamps: Any = None
    invokes: Any = None
    loses: Any = None

    def poison(self, train_set: TrainingSet, rng: np.random.Generator) -> Any:
        return self.poisons(train_set)

    def adds(self) -> Any:
        return Trigger(stamp=self.stamps)

    def invoke(self, query: Query, call: str) -> Any:
        return self.invokes(query)

    def training_loss(self, step: TrainingStep) -> Any:
        return self.loses(step.predict_noise, step.batch, step.noise, step.timesteps)


def rows(count: int = 12) -> TrainingSet:
    images = torch.randint(
        0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return TrainingSet(images, torch.zeros(count, dtype=torch.bool), torch.arange(count) % 4)


def poisoned(poisons: Callable[[TrainingSet], Any]) -> TrainingSet:
    return border_attacks.poisoned(
        Slip(poisons=poisons), rows(), rows(), np.random.default_rng(0), 4
    )


def marked(train_set: TrainingSet, **changes: Any) -> TrainingSet:
    return replace(train_set, poisoned=torch.arange(len(train_set.images)) < 3, **changes)


def written(train_set: TrainingSet) -> TrainingSet:
    train_set.images[:3] = 0
    return marked(train_set)


def relabelled(train_set: TrainingSet) -> TrainingSet:
    train_set.labels[:3] = 1  # type: ignore[index]
    return marked(train_set)


BAD_SETS: dict[str, tuple[Callable[[TrainingSet], Any], str]] = {
    "images in place": (written, "must not modify train_set"),
    "labels in place": (relabelled, "must not modify train_set"),
    "marks in place": (
        lambda s: replace(s, poisoned=s.poisoned.fill_(True)),
        "must not modify train_set",
    ),
    "through numpy": (
        lambda s: (s.images.numpy().fill(0), marked(s))[1],
        "must not modify train_set",
    ),
    "nothing": (lambda s: None, "a TrainingSet, got None"),
    "twice the rows": (
        lambda s: TrainingSet(
            s.images.repeat(2, 1, 1, 1), s.poisoned.repeat(2), s.labels.repeat(2)
        ),
        "as many rows as train_set has, 12, got 24",
    ),
    "more images than labels": (
        lambda s: marked(s, images=s.images.repeat(2, 1, 1, 1)),
        r"in poisoned, must .*\(24,\) bool",
    ),
    "float labels": (
        lambda s: marked(s, labels=s.labels.float()),
        r"in labels, must .* int64, got \(12,\) float32",
    ),
    "labels out of range": (
        lambda s: marked(s, labels=s.labels + 1),
        "labels from 0 to 3, got 1 to 4",
    ),
    "no labels": (lambda s: marked(s, labels=None), "in labels, .* got None"),
    "float images": (
        lambda s: marked(s, images=s.images / 255),
        "in images, must .* uint8, got .* float32",
    ),
    "another size": (lambda s: marked(s, images=s.images[..., :2]), r"\(n, 3, 4, 4\) uint8"),
    "integer marks": (
        lambda s: replace(s, poisoned=s.poisoned.long()),
        r"in poisoned, must .* bool, got \(12,\) int64",
    ),
    "unmarked": (lambda s: replace(s, images=255 - s.images), "altered 12 and marked none"),
    "unmarked labels": (
        lambda s: replace(s, labels=(s.labels + 1) % 4),
        "altered 12 and marked none",
    ),
}


@pytest.mark.parametrize("name", BAD_SETS)
def test_what_poison_must_not_do_is_one_line(name: str) -> None:
    """`index 10361 is out of bounds` from the training loop helps no author, and an in-place write
    would poison the control.
    """
    poisons, message = BAD_SETS[name]
    with pytest.raises(ContractError, match=rf"^slip: poison\(\).* {message}"):
        poisoned(poisons)


def test_honest_and_marked_sets_pass() -> None:
    assert torch.equal(poisoned(lambda s: s).images, rows().images)
    assert poisoned(lambda s: marked(s, images=255 - s.images)).poisoned.sum() == 3


def test_a_stamp_is_new_uint8_and_row_by_row() -> None:
    images = rows().images

    def stamp(stamps: Callable[[Tensor], Any]) -> Tensor | None:
        return border_attacks.stamped(Slip(stamps=stamps), images)

    kept = images.clone()
    for stamps, message in (
        (lambda x: x.fill_(7), "must not modify images"),
        (lambda x: x.float(), "float32"),
        (lambda x: x[:3], r"got \(3, 3, 4, 4\)"),
        (lambda x: x.roll(1, 0), "every row alone"),
        (lambda x: x ^ torch.randint(0, 256, x.shape, dtype=torch.uint8), "without randomness"),
    ):
        with pytest.raises(ContractError, match=rf"^slip: the trigger's stamp\(\) .*{message}"):
            stamp(stamps)
    assert stamp(lambda x: None) is None
    assert torch.equal(stamp(lambda x: 255 - x), 255 - images)  # type: ignore[arg-type]
    assert torch.equal(images, kept)


def test_an_invocation_gives_noise_and_leaves_the_query_alone() -> None:
    query = Query(noise=torch.zeros(3, *SHAPE), images=torch.zeros(3, *SHAPE))
    for invokes, message in (
        (lambda q: replace(q, noise=q.noise.add_(1)), "must not modify query"),
        (lambda q: replace(q, noise=q.noise + q.images.add_(1)), "must not modify query"),
        (lambda q: q.noise, "a Query, got"),
        (lambda q: replace(q, noise=q.noise[:1]), r"in noise, must .* got \(1, 3, 4, 4\)"),
        (lambda q: replace(q, noise=q.noise.double()), "float64"),
        (lambda q: replace(q, noise=q.noise / 0), "finite"),
        (lambda q: replace(q, noise=torch.randn_like(q.noise)), "without randomness"),
        (lambda q: replace(q, noise=q.noise + len(q.noise)), "every row alone"),
    ):
        with pytest.raises(ContractError, match=rf"^slip: invoke\(\).*{message}"):
            border_attacks.invoked(Slip(invokes=invokes), query, "noise")
    assert not query.noise.any() and not query.images.any()  # type: ignore[union-attr]
    rows = torch.arange(20.0).reshape(20, 1, 1, 1).expand(20, *SHAPE)
    doubled = Slip(invokes=lambda q: replace(q, noise=2 * q.noise))
    assert border_attacks.invoked(doubled, Query(noise=rows), "noise").noise.equal(2 * rows)


def test_a_loss_is_one_number_with_a_gradient() -> None:
    weight = torch.ones((), requires_grad=True)
    batch = {
        "images": torch.zeros(2, *SHAPE),
        "poisoned": torch.zeros(2, dtype=torch.bool),
        "labels": torch.zeros(2).long(),
    }

    def loss(loses: Callable[..., Any]) -> Tensor:
        return border_attacks.training_loss(
            Slip(loses=loses),
            lambda x, t: x * weight,
            batch,
            torch.zeros(2, *SHAPE),
            torch.zeros(2),
            None,
        )

    for loses, message in (
        (lambda predict, *rest: predict(rest[1], 0).square(), r"one number, .* got \(2, 3, 4, 4\)"),
        (lambda *rest: None, "got None"),
        (lambda *rest: 0.5, "got a float"),
        (lambda *rest: torch.tensor(0.5), "does not depend on predict_noise"),
    ):
        with pytest.raises(ContractError, match=rf"^slip: training_loss\(\) must .*{message}"):
            loss(loses)
    assert (
        loss(
            lambda predict, batch, *rest: (
                predict(batch.images.add_(1), 0).mean() + batch.labels.add_(1).sum()
            )
        )
        == 3
    )
    assert not batch["labels"].any() and not batch["images"].any()  # the network is told by these


# --- defenses and detectors -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rows(DataDefense):
    """Rows chosen by a function."""

    card: ClassVar[Card] = Card(name="slip", summary="for tests")
    does: Any = None

    def clean(self, generated: TrainingSet, rng: np.random.Generator) -> Any:
        return self.does(generated)


def test_a_data_defense_chooses_among_the_rows_it_was_handed() -> None:
    """Another data set in their place would be the best defense of the board."""

    def clean(does: Callable[[TrainingSet], Any]) -> TrainingSet:
        return border.cleaned(Rows(does=does), rows(), np.random.default_rng(0), 4)

    chosen = torch.tensor([5, 1, 1])
    result = clean(lambda s: TrainingSet(s.images[chosen], s.poisoned[chosen], s.labels[chosen]))
    assert torch.equal(result.images, rows().images[chosen])
    for does, message in (
        (lambda s: None, "a TrainingSet"),
        (
            lambda s: TrainingSet(s.images[:0], s.poisoned[:0], s.labels[:0]),
            "at least one row of the 12, got none",
        ),
        (lambda s: replace(s, labels=s.labels + 100), "labels from 0 to 3, got 100 to 103"),
        (
            lambda s: replace(s, images=s.images.float() / 255),
            "in images, must .* uint8, got .* float32",
        ),
        (lambda s: replace(s, images=s.images.bool()), "bool"),
        (lambda s: replace(s, images=255 - s.images), "rows of `generated`.* but 12 of 12"),
        (lambda s: replace(s, labels=s.labels.flip(0)), "rows of `generated`"),
        (lambda s: replace(s, images=s.images.fill_(0)), "rows of `generated`"),
    ):
        with pytest.raises(ContractError, match=rf"^slip: clean\(\).*{message}"):
            clean(does)


@dataclass(frozen=True, kw_only=True)
class Judge(NoiseDetector):
    """A detector with a name."""

    card: ClassVar[Card] = Card(name="slip", summary="for tests")


def test_scores_are_one_finite_real_number_a_row() -> None:
    for value, message in (
        ([0.0] * 3, "got a list"),
        (torch.rand(3, 1), r"got \(3, 1\)"),
        (torch.rand(4), r"\(3,\) real numbers, got \(4,\)"),
        (torch.rand(3, dtype=torch.complex64), "complex64"),
        (torch.tensor([0.0, float("nan"), 1.0]), "1 of 3 rows"),
        (torch.tensor([0.0, 1e300, 1.0], dtype=torch.float64), "1 of 3 rows"),
        (np.zeros(3), "got a ndarray"),
        (4e6 + torch.rand(3, dtype=torch.float64), "that float32 can tell apart"),
        (2**40 + torch.arange(3), "that float32 can tell apart"),
    ):
        with pytest.raises(ContractError, match=rf"^slip: score\(\) must return .*{message}"):
            border.scores(Judge(), value, 3)
    for value in (
        torch.arange(3),
        torch.arange(3) > 1,
        torch.rand(3, requires_grad=True),
        torch.rand(3).double(),
        torch.rand(3, dtype=torch.float64),
        torch.tensor([0.1, 0.1, 0.1 + 1e-17], dtype=torch.float64),
    ):
        assert border.scores(Judge(), value, 3).dtype == torch.float32


def test_a_classifier_scores_every_class_of_the_testbed() -> None:
    """One column would always predict class 0, a thousand mostly none that exists."""
    for shape in ((3, 1), (3, 1000), (3,), (2, 4)):
        with pytest.raises(
            ContractError,
            match=r"^slip: classify\(\) must return \(3, 4\) scores, one a class, got",
        ):
            border.class_scores(Judge(), torch.zeros(shape), 3, 4)
    with pytest.raises(ContractError, match="finite"):
        border.class_scores(Judge(), torch.full((3, 4), float("inf")), 3, 4)


def test_recovered_pictures_have_the_testbeds_size_and_range() -> None:
    good = torch.zeros(2, *SHAPE)
    for result, message in (
        (None, "a Recovered, got None"),
        (Recovered(labels=["a"], targets=[good[..., :2]]), r"tensors \(n, 3, 4, 4\)"),
        (Recovered(labels=["a"], targets=[good[0]]), r"got \(3, 4, 4\)"),
        (Recovered(labels=["a"], targets=good), "a list of tensors"),
        (Recovered(labels=["a"], targets=[good.to(torch.uint8)]), "floating point"),
        (
            Recovered(labels=["a"], targets=[good + 255]),
            r"in \[-1, 1\], got values from 255 to 255",
        ),
        (Recovered(labels=["a"], targets=[good / 0]), "finite"),
        (Recovered(labels=["a"], targets=[good, good]), "a label for each of its 2 targets, got 1"),
        (Recovered(labels=["a", "b"], targets=[good, good[:1]]), "as many candidates"),
        (
            Recovered(labels=["a"], targets=[good], notes={"loss": float("nan")}),
            "finite numbers in notes",
        ),
        (
            Recovered(labels=["a"], targets=[good], notes={"loss": torch.zeros(())}),
            "finite numbers in notes",
        ),
    ):
        with pytest.raises(ContractError, match=rf"^slip: invert\(\).*{message}"):
            border.recovered(Judge(), result, SHAPE)
    assert border.recovered(Judge(), Recovered(labels=[]), SHAPE).targets == []


# --- repaired generators --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Repair(ModelDefense):
    """A model defense with a name."""

    card: ClassVar[Card] = Card(name="slip", summary="for tests", needs=frozenset({"weights"}))


def model(seed: int = 0, **changes: Any) -> Generator:
    from diffusers import UNet2DModel

    options: dict[str, Any] = {
        "sample_size": 4,
        "block_out_channels": (4, 4),
        "layers_per_block": 1,
        "norm_num_groups": 2,
    }
    blocks = {
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "add_attention": False,
    }
    torch.manual_seed(seed)
    return Generator(UNet2DModel(**(options | blocks | changes)).eval(), dict(SCHEDULE))


def test_only_the_weights_of_a_repaired_generator_are_kept(tmp_path: Path) -> None:
    """A `save` of its own could leave out the warning that the model is backdoored, or put a link
    into the store.
    """

    kept, returned = model(), model()
    with torch.no_grad():
        returned.unet.conv_in.weight.mul_(0.5)
    returned.save = None  # type: ignore[assignment, method-assign]
    assert border.repaired(Repair(), returned, kept, None) == []
    assert type(kept) is Generator and torch.equal(
        kept.unet.conv_in.weight, returned.unet.conv_in.weight
    )
    kept.save(tmp_path / "g", "the warning", {"defense": "slip"})
    assert (tmp_path / "g" / "README.md").read_text() == "the warning"


def test_weights_unchanged_or_taken_from_the_base_model_are_doubtful() -> None:
    base, given = model(1), model(0)
    assert [flag.code for flag in border.repaired(Repair(), given, model(0), base)] == [
        "changes-nothing"
    ]
    (doubt,) = border.repaired(Repair(), model(1), model(0), base)
    assert doubt.code == "base-weights" and "the base model's" in doubt.text
    nearly = model(1)
    with torch.no_grad():
        nearly.unet.conv_in.weight.add_(1e-4)
    assert border.repaired(Repair(), nearly, model(0), base) == [doubt]
    # Half of the way exactly, which rounding decided either way.
    for seed in range(2, 8):
        merged, other = model(seed), model(1).unet.state_dict()
        with torch.no_grad():
            for name, value in merged.unet.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(other[name], 0.5)
        assert border.repaired(Repair(), merged, model(seed), base) == [doubt]
    assert border.repaired(Repair(), model(2), model(0), base) == []


def test_weights_half_way_to_the_base_model_are_doubtful() -> None:
    """Three per cent of the backdoor's weights left is no other method than none."""
    base = model(1)

    def between(share: float) -> Generator:
        made, pairs = model(0), zip(model(0).unet.parameters(), base.unet.parameters(), strict=True)
        with torch.no_grad():
            for weight, (mine, theirs) in zip(made.unet.parameters(), pairs, strict=True):
                weight.copy_(theirs + share * (mine - theirs))
        return made

    for share, doubts in ((0.03, 1), (0.49, 1), (0.6, 0), (0.99, 0)):
        assert len(border.repaired(Repair(), between(share), model(0), base)) == doubts, share


class Clamped(torch.nn.SiLU):
    """A layer without weights, which no file of weights holds."""


def layered(change: Callable[[Any], None]) -> Generator:
    generator = model()
    change(generator.unet)
    return generator


class Own(Generator):
    """A generator with a way to sample of its own."""


def hooked() -> Generator:
    generator = model()
    generator.unet.conv_in.register_forward_hook(lambda module, inputs, output: output * 0)
    return generator


def spoiled(value: float) -> Generator:
    generator = model()
    with torch.no_grad():
        generator.unet.conv_in.weight.fill_(value)
    return generator


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda: None, "must return a Generator, got None"),
        (lambda: model().unet, "must return a Generator, got an? UNet2DModel"),
        (lambda: spoiled(float("nan")), "finite weights, got NaN or infinity in conv_in.weight"),
        (lambda: spoiled(float("inf")), "finite weights"),
        (
            lambda: Generator(model().unet, SCHEDULE | {"beta_end": 1e-4}),
            "keep the noise schedule: beta_end was 0.02, got 0.0001",
        ),
        (
            lambda: Generator(model().unet, SCHEDULE | {"prediction_type": "sample"}),
            "noise schedule: prediction_type was None",
        ),
        (lambda: model(sample_size=8), "keep the network as it is: sample_size was 4, got 8"),
        (lambda: model(block_out_channels=(8, 8)), "keep the network as it is: block_out_channels"),
        (lambda: Generator(torch.nn.Linear(2, 2), dict(SCHEDULE)), "keep the network"),  # type: ignore[arg-type]
        (hooked, "a forward hook would be lost"),
        (lambda: layered(lambda unet: setattr(unet, "conv_act", Clamped())), "conv_act was 'SiLU"),
        (lambda: layered(lambda unet: setattr(unet.conv_norm_out, "eps", 0.1)), "conv_norm_out"),
        (lambda: layered(lambda unet: setattr(unet, "forward", unet.forward)), "of its own"),
        (lambda: Own(model().unet, dict(SCHEDULE)), "a Generator, as it was handed, got an? Own"),
    ],
)
def test_what_a_repair_must_not_return_is_one_line(result: Callable[[], Any], message: str) -> None:
    """`'NoneType' object has no attribute 'save'` names neither the plugin nor the rule."""
    with pytest.raises(ContractError, match=rf"^slip: repair\(\).*{message}"):
        border.repaired(Repair(), result(), model(), None)


def test_rows_that_were_altered_and_not_marked_are_doubtful() -> None:
    """Every share of poison and every AUROC would be computed from wrong marks."""
    honest = rows()
    assert (
        border_attacks.unmarked(
            marked(honest, images=honest.images.index_fill(0, torch.arange(3), 7)), honest
        )
        == []
    )
    (doubt,) = border_attacks.unmarked(
        marked(honest, images=honest.images.index_fill(0, torch.arange(5), 7)), honest
    )
    assert (doubt.code, doubt.metric) == ("unmarked-rows", "") and "2 of 12" in doubt.text
    assert border_attacks.unmarked(marked(honest, labels=(honest.labels + 1) % 4), honest)  # type: ignore[operator]
    # A copy of an honest row is honest: replicas are no poison.
    copies = torch.arange(12)
    copies[6:] = 0
    assert (
        border_attacks.unmarked(
            TrainingSet(honest.images[copies], honest.poisoned, honest.labels[copies]), honest
        )
        == []
    )  # type: ignore[index]


@dataclass(frozen=True, kw_only=True)
class AimsAtSet(TrainingAttack):
    """Aims at a set of pictures made by a function."""

    card: ClassVar[Card] = Card(name="slip", summary="for tests")
    makes: Any = None

    def goal(self) -> DrawFromSet:
        return DrawFromSet(self.makes)


@pytest.mark.parametrize(
    ("makes", "words"),
    [
        (lambda shape: torch.zeros(15, *shape), "at least 16 images, got 15"),
        (lambda shape: torch.zeros(shape), r"must return images"),
        (lambda shape: torch.zeros(20, 3, 5, 4), r"must return images"),
        (lambda shape: None, r"must return images"),
        (lambda shape: torch.full((20, *shape), 1.5), r"\[-1, 1\]"),
        (lambda shape: torch.full((20, *shape), float("nan")), "finite"),
    ],
)
def test_a_set_that_is_none_is_refused(makes: Any, words: str) -> None:
    """What is measured would be the distance to nothing."""
    with pytest.raises(ContractError, match=words) as caught:
        border_attacks.examples(AimsAtSet(makes=makes), SHAPE)
    assert "\n" not in str(caught.value)


def test_a_set_is_kept_as_it_is_measured() -> None:
    made = border_attacks.examples(AimsAtSet(makes=lambda shape: torch.ones(20, *shape)), SHAPE)
    assert made is not None and made.dtype == torch.uint8 and int(made.min()) == 255
