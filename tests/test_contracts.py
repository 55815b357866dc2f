"""The contracts, run over every plugin the registry finds: what a third party's plugin must keep so that its numbers mean something."""

import dataclasses
import json
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from bench import registry
from bench.classification.classifier import Classifier
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings, sample
from bench.errors import UserError
from bench.plugin import (
    Access,
    Attack,
    Batch,
    ClassifierDefense,
    DataDefense,
    Detector,
    Evidence,
    Inversion,
    ModelDefense,
    NoiseDetector,
    Plugin,
    Query,
    SampleDetector,
    SamplerDefense,
    TrainingSet,
    Withheld,
)

SHAPE = (3, 16, 16)
ATTACKS = sorted(registry.use().names("attacks"))
DEFENSES = sorted(registry.use().names("defenses"))
DETECTORS = sorted(registry.use().names("detectors"))
EVERY = [(kind, name) for kind, names in zip(registry.KINDS, (ATTACKS, DEFENSES, DETECTORS), strict=True) for name in names]


def of_family(family: type) -> list[str]:
    kind = "detectors" if issubclass(family, Detector) else "defenses"
    return [name for name in registry.use().names(kind) if issubclass(registry.use().get(kind, name), family)]


def attack(name: str) -> Attack:
    return registry.use().attack(name)


def small(plugin: Plugin) -> Plugin:
    """The same method with the least work: one epoch, one step, few samples."""
    least = {"epochs": 1, "steps_per_epoch": 1, "samples": 4, "batch_size": 4, "training_steps": 1, "steps": 2, "timesteps": 2}
    least |= {"overlays": 3, "draws": 1, "surrogate_steps": 2, "pgd_steps": 1}
    return dataclasses.replace(plugin, **{name: value for name, value in least.items() if hasattr(plugin, name)})


@cache
def network() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    ).eval()


def generator() -> Generator:
    return Generator(
        network(), {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    ).clone()


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def honest(count: int = 200) -> TrainingSet:
    return TrainingSet(pixels(count), torch.zeros(count, dtype=torch.bool), torch.arange(count) % 10)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_card_is_complete(kind: str, name: str) -> None:
    card = registry.use().get(kind, name).card
    assert card.name == name
    assert 10 < len(card.summary) < 140
    assert card.applies_to
    if name != "none":
        assert card.paper is not None and card.paper.title and card.paper.year > 1900
    if kind == "attacks":
        assert card.alters


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_parameters_survive_json_and_rebuild_the_plugin(kind: str, name: str) -> None:
    plugin = registry.build(kind, name)
    params = json.loads(json.dumps(plugin.params()))
    assert registry.build(kind, name, params) == plugin
    assert type(plugin)(**params) == plugin


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_plugins_are_frozen_and_refuse_unknown_parameters(kind: str, name: str) -> None:
    plugin = registry.build(kind, name)
    with pytest.raises(UserError, match="unknown parameter"):
        registry.build(kind, name, {"no_such_parameter": 1})
    for field in dataclasses.fields(plugin):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(plugin, field.name, None)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_numbers_out_of_range_are_refused_by_name(kind: str, name: str) -> None:
    """No shipped method has a numeric parameter for which -1 makes sense."""
    plugin = registry.build(kind, name)
    for field in dataclasses.fields(plugin):
        if isinstance(getattr(plugin, field.name), (int, float)) and not isinstance(getattr(plugin, field.name), bool):
            with pytest.raises(ValueError, match=rf"{field.name} must be .*, got -1"):
                dataclasses.replace(plugin, **{field.name: -1})


@pytest.mark.parametrize("name", ATTACKS)
def test_poisoning_is_a_function_of_the_seed_and_leaves_its_input_alone(name: str) -> None:
    train_set = honest()
    images = train_set.images.clone()
    labels = train_set.labels.clone()
    first, again, other = (small(attack(name)).poison(train_set, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images) and torch.equal(first.poisoned, again.poisoned)
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(train_set.images, images) and torch.equal(train_set.labels, labels) and not train_set.poisoned.any()
    assert first.images.dtype == torch.uint8 and len(first.images) == len(first.labels) == len(first.poisoned)
    touched = bool(first.poisoned.any())
    assert touched is ("data" in attack(name).card.alters)
    assert not touched or not torch.equal(first.poisoned, other.poisoned)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_stamp_is_the_same_for_every_row_alone(name: str) -> None:
    """The harness stamps test images with it: a stamp that depended on the batch would make every rate depend on it."""
    plugin, images = attack(name), pixels(5)
    kept = images.clone()
    stamped = plugin.stamp(images)
    assert torch.equal(images, kept)
    assert (stamped is not None) is (type(plugin).stamp is not Attack.stamp), (
        "override stamp() only if there is an image trigger"
    )
    if stamped is not None:
        assert stamped.dtype == torch.uint8 and stamped.shape == images.shape and not torch.equal(stamped, images)
        assert torch.equal(plugin.stamp(images[2:3]), stamped[2:3])


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_classes_says_which_one_it_aims_at(name: str) -> None:
    plugin = attack(name)
    assert (plugin.target_label() is not None) is (name != "none" and "class" in plugin.card.applies_to)


@pytest.mark.parametrize("name", ATTACKS)
def test_training_loss_is_one_finite_number_with_a_gradient(name: str) -> None:
    model = generator()
    batch = Batch(torch.rand(4, *SHAPE) * 2 - 1, torch.tensor([True, False, True, False]))
    before = batch.images.clone()
    noise, timesteps = torch.randn(4, *SHAPE), torch.tensor([0, 10, 500, 999])
    losses = [attack(name).training_loss(model.predict_noise, batch, noise, timesteps, model.schedule) for _ in range(2)]
    assert losses[0].ndim == 0 and torch.isfinite(losses[0])
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(batch.images, before)
    losses[0].backward()
    assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in model.unet.parameters())


@pytest.mark.parametrize("name", ATTACKS)
def test_invocations_change_the_query_row_by_row_and_not_in_place(name: str) -> None:
    plugin = attack(name)
    query = Query(noise=torch.randn(5, *SHAPE), images=torch.rand(5, *SHAPE) * 2 - 1)
    kept = query.noise.clone()
    for invocation in plugin.invocations:
        whole = plugin.invoke(query, invocation).noise
        alone = plugin.invoke(Query(noise=query.noise[2:3], images=query.images[2:3]), invocation).noise
        assert whole.shape == kept.shape and not torch.equal(whole, kept)
        torch.testing.assert_close(alone[0], whole[2], rtol=0, atol=0)
    assert torch.equal(query.noise, kept)
    with pytest.raises(ValueError, match="no invocation"):
        plugin.invoke(query, "by letter")
    assert bool(plugin.invocations) is (plugin.target_image(SHAPE) is not None)


@pytest.mark.parametrize("name", of_family(SamplerDefense))
def test_sampler_defenses_treat_every_row_alone(name: str) -> None:
    """Otherwise the number would depend on who else is in the batch."""
    defense = registry.use().defense(name)
    x = torch.randn(6, *SHAPE) * 2
    kept = x.clone()
    for method in (defense.predicted_x0, defense.stepped):
        whole = method(x, 500)
        assert whole.shape == x.shape and torch.equal(x, kept)
        torch.testing.assert_close(torch.cat([method(row[None], 500) for row in x]), whole, rtol=0, atol=1e-6)
    settings = SamplerSettings(num_inference_steps=4)
    one, all_at_once = (sample(generator(), 5, 0, settings, guards=[defense], batch_size=size) for size in (1, 64))
    torch.testing.assert_close(one, all_at_once, rtol=0, atol=1e-5)
    if name != "none":
        assert not torch.equal(all_at_once, sample(generator(), 5, 0, settings))


def access(needs: frozenset, seed: int, model: Generator | None = None) -> Access:
    """As a stage hands it over: what the card does not ask for cannot be read."""
    return Access(
        generator=(model or generator()) if "weights" in needs else Withheld("the plugin", "weights"),
        rng=np.random.default_rng(seed),
        sample=(lambda model, count: sample(model, count, 0, SamplerSettings(num_inference_steps=2)))
        if "weights" in needs
        else Withheld("the plugin", "weights"),
        clean_images=pixels(8) if "clean data" in needs else Withheld("the plugin", "clean data"),
    )


@pytest.mark.parametrize("name", of_family(Inversion))
def test_inversions_are_functions_of_the_seed_and_return_pictures(name: str) -> None:
    defense = small(registry.use().defense(name))
    first, again = (defense.invert(access(defense.card.needs, 3)) for _ in range(2))
    assert first.targets or first.triggers
    for one, two in zip([*first.targets, *first.triggers], [*again.targets, *again.triggers], strict=True):
        assert one.shape[1:] == SHAPE and one.min() >= -1 and one.max() <= 1
        assert torch.equal(one, two)
    assert len(first.labels) == max(len(first.targets), len(first.triggers))


@pytest.mark.parametrize(
    "name", of_family(ModelDefense) or [pytest.param("", marks=pytest.mark.skip("no model defense is shipped yet"))]
)
def test_model_defenses_are_functions_of_the_seed(name: str) -> None:
    defense = small(registry.use().defense(name))
    first, again = (defense.repair(access(defense.card.needs, 3)).unet.state_dict() for _ in range(2))
    assert all(torch.equal(value, again[key]) for key, value in first.items())


@pytest.mark.parametrize("name", of_family(DataDefense))
def test_data_defenses_are_functions_of_the_seed_and_leave_their_input_alone(name: str) -> None:
    defense, generated = registry.use().defense(name), honest(40)
    kept = generated.images.clone()
    first, again = (defense.clean(generated, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    assert torch.equal(generated.images, kept) and 0 < len(first.images) == len(first.labels)


def conditional() -> Generator:
    config = {**dict(network().config), "num_class_embeds": 4}
    torch.manual_seed(0)
    unet = UNet2DModel(**config)
    return Generator(unet.eval(), dict(generator().scheduler_config))


@pytest.mark.parametrize("name", of_family(ClassifierDefense))
def test_classifier_defenses_score_every_image_alone(name: str) -> None:
    defense, images = small(registry.use().defense(name)), pixels(6)
    kept = images.clone()

    def scores(of: torch.Tensor) -> torch.Tensor:
        return defense.classify(of, access(defense.card.needs, 3, conditional()))

    whole = scores(images)
    assert whole.shape == (6, 3) and torch.isfinite(whole).all() and torch.equal(images, kept)
    torch.testing.assert_close(scores(images), whole, rtol=0, atol=0)
    torch.testing.assert_close(scores(images[3:5]), whole[3:5], rtol=0, atol=1e-4)


def evidence(needs: frozenset) -> Evidence:
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    return Evidence(
        rng=np.random.default_rng(3),
        classifier=Classifier(body, torch.nn.Linear(8, 10)).eval() if "classifier" in needs else Withheld("it", "classifier"),
        train_set=honest(60) if "training data" in needs else Withheld("it", "training data"),
    )


@pytest.mark.parametrize("name", of_family(SampleDetector) + of_family(NoiseDetector))
def test_detectors_score_every_row_alone_and_by_the_seed(name: str) -> None:
    """A score that depends on who else is judged cannot be compared between a training set and a generated one."""
    detector = small(registry.use().detector(name))
    judged = torch.randn(7, *SHAPE) if isinstance(detector, NoiseDetector) else pixels(7)
    kept, needs = judged.clone(), detector.card.needs
    whole = detector.score(judged, evidence(needs))
    assert whole.shape == (7,) and torch.isfinite(whole).all() and torch.equal(judged, kept)
    torch.testing.assert_close(detector.score(judged, evidence(needs)), whole, rtol=0, atol=0)
    order = torch.tensor([4, 0, 6])
    torch.testing.assert_close(detector.score(judged[order], evidence(needs)), whole[order], rtol=1e-4, atol=1e-4)


def test_every_shipped_plugin_says_what_its_defaults_were_chosen_on() -> None:
    """Nobody can tell an honest number from a flattered one otherwise."""
    shipped = registry.Registry()
    for kind in registry.KINDS:
        for name in shipped.names(kind):
            plugin = shipped.build(kind, name)
            assert plugin.card.tuned is not None, name
            parameters = {parameter for tuning in plugin.card.tuned for parameter in tuning.parameters}
            assert parameters <= set(plugin.params()), name
