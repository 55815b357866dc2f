"""A testbed is a composition: what is handed to a stage, and what throws a training away."""

import dataclasses
from functools import cache
from pathlib import Path

import pytest

from bench import registry, testbeds
from bench.catalogue import describe
from bench.engine import closure
from bench.engine.fingerprint import ROOT
from bench.planner import make_plan
from bench.resources import Resources
from bench.stages import building
from bench.stages.table import STAGES
from bench.suite import parse_suite
from bench.testbeds import digits_cfg, digits_ddpm
from bench.testbeds.parts.part import Counts, Part, Sampling
from bench.testbeds.testbed import PARTS, identity, parameters, unchanged


def keys(testbed, stage):
    """The keys of the honest model's stages of one kind."""
    suite = {"name": "s", "testbeds": [testbed], "attacks": ["none"], "defenses": ["none"]}
    plugins = registry.use()
    plan = make_plan(parse_suite(suite | {"seeds": [0]}, plugins, "s.yaml"), plugins, STAGES)
    return {key for key, made in plan.stages.items() if made.name == stage}


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Has a file's code read from a copy, in which ``old`` has become ``new``; what was read of the
    other files stays read.
    """

    def edit(file, old, new):
        text = (ROOT / file).read_text()
        assert old in text
        copy = tmp_path / Path(file).name
        copy.write_text(text.replace(old, new))
        name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        files, modules = closure._file, closure._module
        read = cache(modules.__wrapped__)
        monkeypatch.setattr(closure, "_file", lambda one: copy if one == name else files(one))
        monkeypatch.setattr(closure, "_module", lambda one: (read if one == name else modules)(one))
        for cached in ("closure_of", "_reached"):
            monkeypatch.setattr(closure, cached, cache(getattr(closure, cached).__wrapped__))

    return edit


@pytest.mark.parametrize(
    ("file", "old", "new", "trained_again"),
    [
        ("bench/testbeds/parts/digits_classifiers.py", "steps=400", "steps=401", False),
        ("bench/testbeds/parts/digits_classifiers.py", ".head).eval()", ".head).train()", False),
        ("bench/testbeds/parts/digits_cnn.py", "FEATURES = 64", "FEATURES = 65", False),
        ("bench/testbeds/parts/judge.py", "network.eval()", "network.train()", False),
        ("bench/testbeds/data/cifar10.py", "CLASSES = 10", "CLASSES = 11", False),
        ("bench/testbeds/parts/published.py", "warmup_steps=500", "warmup_steps=5", False),
        (
            "bench/testbeds/parts/part.py",
            "class_samples: Positive = 256",
            "class_samples: Positive = 9",
            False,
        ),
        (
            "bench/testbeds/parts/part.py",
            "network_batch: Positive = 64",
            "network_batch: Positive = 8",
            False,
        ),
        (
            "bench/testbeds/parts/part.py",
            "clean_samples: Annotated[int, Interval(ge=4, le=MOST)] = 512",
            "clean_samples: Annotated[int, Interval(ge=4, le=MOST)] = 4",
            False,
        ),
        ("bench/classification/training.py", "label_smoothing", "smoothing_of_labels", False),
        (
            "bench/diffusion/text_to_image.py",
            "EMBEDDED_AT_ONCE = ",
            "EMBEDDED_AT_ONCE = 1 + ",
            False,
        ),
        ("bench/testbeds/__init__.py", '"captions-sd": "bench', '"other-sd": "bench', False),
        ("bench/testbeds/testbed.py", "= Resources()", "= Resources(gpu=True)", False),
        ("bench/resources.py", "gpu: bool = False", "gpu: bool = True", False),
        ("bench/diffusion/sampling.py", "def check_steps(", "def check_steps(other=1, *", False),
        ("bench/artwork/targets.py", "BACKGROUND = -0.4", "BACKGROUND = -0.5", False),
        ("bench/testbeds/data/digits.py", "HELD_OUT = 0.2", "HELD_OUT = 0.1", True),
        ("bench/testbeds/data/digits.py", '["train"][0])', '["held_out"][0])', True),
        ("bench/testbeds/parts/digits_unet.py", '"beta_end": 0.02', '"beta_end": 0.03', True),
        ("bench/testbeds/parts/digits_unet.py", "manual_seed(seed)", "manual_seed(0)", True),
        ("bench/diffusion/training.py", "clip_grad_norm_", "clip_grad_value_", True),
    ],
)
def test_a_training_is_kept_unless_its_data_or_its_network_change(
    edited, file, old, new, trained_again
):
    """Hours at paper scale were thrown away for a classifier's settings."""
    before = keys("digits-ddpm", "train")
    assert len(before) == 1
    edited(file, old, new)
    assert (keys("digits-ddpm", "train") != before) is trained_again


def test_the_classifiers_settings_decide_what_is_classified(edited):
    """The other side: numbers made by other settings may not stay."""
    before = {stage: keys("digits-cfg", stage) for stage in ("train", "classifier")}
    edited("bench/testbeds/parts/digits_classifiers.py", "steps=400", "steps=401")
    assert keys("digits-cfg", "train") == before["train"]
    assert not keys("digits-cfg", "classifier") & before["classifier"]


@pytest.mark.parametrize(
    ("changes", "trained_again"),
    [
        ({"summary": "other words"}, False),
        ({"typical_seconds": {"train": 1.0}}, False),
        ({"resources": Resources(gpu=True, memory_gb=3, gpu_memory_gb=2)}, False),
        ({"judge": None}, False),
        ({"sampler": Sampling(num_inference_steps=7)}, False),
        ({"counts": Counts(clean_samples=8)}, False),
        ({"generator": {"network": {}}}, True),
        ({"generator": {"finetuning": digits_cfg.FINETUNING}}, True),
    ],
)
def test_what_is_declared_of_other_parts_trains_nothing_again(monkeypatch, changes, trained_again):
    before, declared = keys("digits-ddpm", "train"), digits_ddpm.DIGITS_DDPM
    parts = {
        name: dataclasses.replace(getattr(declared, name), **value)
        if name == "generator"
        else value
        for name, value in changes.items()
    }
    other = dataclasses.replace(declared, **parts)
    monkeypatch.setattr(digits_ddpm, "DIGITS_DDPM", other)
    assert (keys("digits-ddpm", "train") != before) is trained_again


def test_a_stage_is_handed_the_parts_it_declares():
    """What its key does not hold could decide its result."""
    named = {"name": "digits-cfg", "params": {}, "parts": ["data", "generator"]}
    testbed = building.testbed_of({"testbed": named})
    assert len(testbed.data.class_names) == 10 and testbed.generator.has_weights
    assert testbed.classes() == 10
    for ask in (
        lambda: testbed.sampler.settings(),
        lambda: testbed.evaluation_classifier(),
        lambda: testbed.fresh_classifier(0),
        lambda: testbed.counts.clean_samples,
    ):
        with pytest.raises(LookupError, match="is not among the parts that this stage declares"):
            ask()


@pytest.mark.parametrize("name", testbeds.TESTBEDS)
def test_no_parameter_belongs_to_two_parts(name):
    """A suite sets a parameter by its name alone."""
    testbed = testbeds.load(name)
    every = [field for part in testbed.parts().values() for field in parameters(part)]
    silent = {field for part in testbed.parts().values() for field in unchanged(part)}
    assert len(every) == len(set(every)) and set(every) - silent == set(testbed.params())
    assert testbed.changed(**testbed.params()) == testbed
    assert testbeds.build(name, testbed.params()) == testbed
    assert testbed.judge is not None or name in ("cifar10-ddpm", "celebahq-ddpm")


def test_a_parameter_that_came_later_is_silent_where_it_is_as_before():
    """Results that were published without it keep their keys, their protocol and their board."""
    before = testbeds.load("digits-cfg")
    assert before.changed(classifier="cnn") == before
    assert "classifier" not in before.params() | identity(before.classifiers)
    other = before.changed(classifier="vgg")
    assert other.params() == {**before.params(), "classifier": "vgg"}
    assert identity(other.classifiers)["classifier"] == "vgg"
    assert testbeds.build("digits-cfg", other.params()) == other
    defaults = {one["name"]: one["default"] for one in describe("digits-cfg")[0]["parameters"]}
    assert defaults["classifier"] == "cnn"


@pytest.mark.parametrize("name", testbeds.TESTBEDS)
def test_a_part_has_one_line_of_ancestors(name):
    """In a diamond nobody can say which class sets a parameter."""
    for part in testbeds.load(name).parts().values():
        for cls in type(part).__mro__:
            assert not issubclass(cls, Part) or len(cls.__bases__) == 1


def test_stages_and_measurements_name_parts_that_there_are():
    from bench.measurements import table

    named = {part for kind in STAGES.values() for part in kind.parts}
    named |= {part for one in table().values() for part in one.parts}
    assert named == set(PARTS)


def test_an_unknown_parameter_is_refused():
    with pytest.raises(TypeError, match="digits-ddpm: there is no parameter guidance_scale"):
        digits_ddpm.DIGITS_DDPM.changed(guidance_scale=2.0)
