"""The checks of behaviour and of effect: each is broken by a plugin that a hurried author might
write, and kept by all that are shipped.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import bench.metrics.asr
from bench import registry
from bench.checking import conduct, effect, planted, table, use, written
from bench.checking.question import DECLARE, RETURN, Check, Doubtful, NotMeasured
from bench.contracts import checks
from bench.contracts.plugin import Plugin
from bench.plugin import (
    Call,
    Card,
    ClassifierDefense,
    DataDefense,
    DrawImage,
    EditingAttack,
    Inversion,
    ModelDefense,
    ModelDetector,
    NoiseDetector,
    Paper,
    PromptDetector,
    Recovered,
    SampleDetector,
    SamplerDefense,
    TrainingAttack,
    TrainingSet,
)
from bench.testing import CheckFailed, check_plugin, parametrize_with_checks

CARD = Card(name="slip", summary="for tests", tuned=())
WEIGHTS = {"card": replace(CARD, needs=frozenset({"weights"}))}
EVERY = [(group, name) for group in registry.GROUPS for name in registry.use().names(group)]
OURS = (
    conduct.results_are_as_declared,
    conduct.only_declared_needs_are_read,
    conduct.global_state_is_left_alone,
    conduct.it_keeps_to_itself,
    effect.scores_point_the_right_way,
    written.the_card_is_written,
    effect.effect_is_measured,
)


def made(base: type[Plugin], **members: Any) -> Any:
    """A plugin with these members, of any family."""
    return dataclass(frozen=True, kw_only=True)(type("Slip", (base,), {"card": CARD, **members}))()


QUICK = {
    "batch_size": 16,
    "draws": 2,
    "epochs": 2,
    "samples": 16,
    "steps": 8,
    "steps_per_epoch": 5,
    "surrogate_steps": 8,
    "timesteps": 3,
    "training_steps": 20,
}


@pytest.mark.parametrize(
    ("group", "name", "check"),
    [
        pytest.param(group, name, check, id=f"{name}-{check.name}")
        for group, name in EVERY
        for check in table.checks_for(registry.use().build(group, name))
        if check.run in OURS
    ],
)
def test_what_is_shipped_passes(
    monkeypatch: pytest.MonkeyPatch, group: registry.Group, name: str, check: Check
) -> None:
    """The contract's own checks are run by tests/test_contracts.py. Methods do less than for who
    asks, which took a sixth of all tests' time: the questions are the same.
    """
    for limit in QUICK:
        monkeypatch.setitem(use.MODEST, limit, QUICK[limit])
    check(registry.build(group, name))


GUESTS = sorted((Path(__file__).parents[2] / "guest" / "castlewalls_guest").glob("[ade]*.py"))
GUEST_NAMES = [
    (group, name)
    for group in registry.GROUPS
    for name in registry.Registry(GUESTS, only=()).names(group)
    if name.startswith("guest_")
]


@pytest.mark.parametrize(("group", "name"), GUEST_NAMES)
def test_a_strangers_plugins_pass(group: registry.Group, name: str) -> None:
    """One of each family, among them a defense that starts from an inversion, and plugins that know
    text-to-image generators alone.
    """
    check_plugin(registry.Registry(GUESTS, only=()).build(group, name))


# --- behaviour ------------------------------------------------------------------------------------


def steps(change: Any) -> Any:
    """A sampler defense that does ``change`` at every step and returns what it returns."""
    return made(SamplerDefense, predicted_x0=lambda self, x0, timestep: change(x0))


def first(*values: Any) -> Any:
    """The last one; for more than one thing in a lambda."""
    return values[-1]


def reads_weights(self: Any, access: Any) -> Any:
    try:
        return access.generator
    except Exception:
        return planted.generator("planted", False)


def patches(x0: Any) -> Any:
    bench.metrics.asr.success_rate = lambda *_: 1.0
    return x0


CONDUCT = [
    (conduct.results_are_as_declared, steps(lambda x0: x0.double()), "float64"),
    (conduct.results_are_as_declared, steps(lambda x0: x0 / 0 * 0), "NaN or infinity"),
    (conduct.results_are_as_declared, steps(lambda x0: None), "got None"),
    (
        conduct.results_are_as_declared,
        made(NoiseDetector, score=lambda self, noise, access: noise.flatten(1).mean(1)[1:]),
        r"\(6,\) real numbers",
    ),
    (
        conduct.results_are_as_declared,
        made(ModelDefense, repair=lambda self, access: None, **WEIGHTS),
        "a Generator, got None",
    ),
    (
        conduct.results_are_as_declared,
        made(DataDefense, clean=lambda self, rows, access: replace(rows, images=rows.images[:3])),
        r"poisoned",
    ),
    (
        conduct.results_are_as_declared,
        made(
            Inversion,
            invert=lambda *_: Recovered(labels=["one"], targets=[torch.zeros(1, 3, 8, 8)]),
        ),
        "16, 16",
    ),
    (
        conduct.results_are_as_declared,
        made(ClassifierDefense, classify=lambda *_: torch.zeros(4, 3)),
        r"\(4, 10\) scores",
    ),
    (
        conduct.results_are_as_declared,
        made(TrainingAttack, poison=lambda self, rows, rng: None),
        "a TrainingSet, got None",
    ),
    (
        conduct.results_are_as_declared,
        made(EditingAttack, implant=lambda self, access: None, **WEIGHTS),
        "a Generator, got None",
    ),
    (
        conduct.only_declared_needs_are_read,
        made(ModelDefense, repair=reads_weights),
        r"list \(nothing\), got access.generator \('weights'\)",
    ),
    (
        conduct.global_state_is_left_alone,
        steps(lambda x0: first(torch.set_default_dtype(torch.float64), x0)),
        "default dtype",
    ),
    (
        conduct.global_state_is_left_alone,
        steps(lambda x0: first(torch.use_deterministic_algorithms(True), x0)),
        "deterministic algorithms",
    ),
    (
        conduct.global_state_is_left_alone,
        steps(lambda x0: x0 + 0 * torch.randn(())),
        "global random state of torch",
    ),
    (
        conduct.global_state_is_left_alone,
        steps(lambda x0: x0 + 0 * np.random.rand()),  # noqa: NPY002
        "global random state of numpy.random",
    ),
    (
        conduct.global_state_is_left_alone,
        steps(lambda x0: x0 + 0 * random.random()),
        "global random state of random",
    ),
    (
        conduct.global_state_is_left_alone,
        steps(lambda x0: first(os.environ.update(SLIP="1"), x0)),
        "environment",
    ),
    (
        conduct.global_state_is_left_alone,
        steps(patches),
        "bench.metrics.asr.success_rate was replaced",
    ),
    (
        conduct.it_keeps_to_itself,
        steps(lambda x0: first(subprocess.run([sys.executable, "-V"], capture_output=True), x0)),
        "starts another program",
    ),
    (
        conduct.it_keeps_to_itself,
        steps(lambda x0: first(Path("slip.txt").write_text("x"), x0)),
        "writes the file",
    ),
    (
        conduct.it_keeps_to_itself,
        steps(lambda x0: first(Path("no-such-file").unlink(missing_ok=True), x0)),
        "changes the file",
    ),
]


@pytest.mark.parametrize(("check", "plugin", "message"), CONDUCT)
def test_a_check_of_behaviour_says_who_breaks_it_and_how(
    check: Any,
    plugin: Plugin,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    # Where tests run, everything is below the temporary folder, in which a plugin may write.
    monkeypatch.setattr(conduct.tempfile, "gettempdir", lambda: str(tmp_path / "none"))
    (question,) = [one for one in table.checks_for(plugin) if one.run is check]
    conduct.warm_up()  # a first optimizer replaces torch.manual_seed
    before = conduct._functions()
    verdict = question.verdict(plugin)
    assert verdict.failed and verdict.mend
    with pytest.raises(CheckFailed, match=message):
        question(plugin)
    assert verdict.message.startswith(("expected", "slip"))
    # A plugin that moves what is everybody's does so for the checks after it too.
    assert torch.get_default_dtype() == torch.float32 and "SLIP" not in os.environ
    assert not conduct._patched(before)


def test_a_file_beside_the_plugin_must_be_declared(tmp_path: Path) -> None:
    """A result would be reused though the weights it was made with have changed."""
    code = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.plugin import Card, SamplerDefense


@dataclass(frozen=True, kw_only=True)
class Scales(SamplerDefense):
    card: ClassVar[Card] = Card(name="scales", summary="for tests"{files})

    def stepped(self, x, timestep):
        return x * float(Path(__file__).with_suffix("." + "txt").read_text())
"""
    path = tmp_path / "scales.py"
    path.with_suffix(".txt").write_text("0.5")
    path.write_text(code.replace("{files}", ""))
    plugin = registry.Registry([path]).defense("scales")
    with pytest.raises(checks.Broken, match="among its card's files, got .*scales.txt"):
        conduct.it_keeps_to_itself(plugin)
    path.write_text(code.replace("{files}", ', files=("scales.txt",)'))
    conduct.it_keeps_to_itself(registry.Registry([path]).defense("scales"))


def test_what_the_scaffold_left_to_the_author_is_doubted() -> None:
    paper = Paper(title="FILL IN", authors="A. Author", year=2026)
    detector = made(NoiseDetector, card=replace(CARD, paper=paper))
    (question,) = [one for one in table.checks_for(detector) if one.name == "the_card_is_written"]
    assert question.verdict(made(NoiseDetector)).status == "ok"
    verdict = question.verdict(detector)
    assert verdict.status == "doubtful" and "FILL IN is still its paper's title" in verdict.message


# --- the planted backdoors ------------------------------------------------------------------------


def test_the_backdoors_work() -> None:
    """On a model whose backdoor does not answer, every defense would look good."""
    strength = planted.strength()
    assert strength["mse_of_triggered[planted]"] < 0.05
    assert strength["mse_of_triggered[honest]"] > 5 * strength["mse_of_triggered[planted]"]
    for patch in planted.PATCHES:
        assert strength[f"accuracy[{patch}]"] > 0.95 and strength[f"called_target[{patch}]"] > 0.9


def test_the_unconditional_model_is_the_other_asked_for_no_class() -> None:
    x, timesteps = torch.randn(2, *planted.SHAPE), torch.tensor([10, 900])
    asked = planted.generator("planted", True)
    folded = planted.generator("planted", False)
    assert folded.classes is None and asked.classes == planted.CLASSES
    torch.testing.assert_close(
        folded.predict_noise(x, timesteps), asked.predict_noise(x, timesteps), atol=1e-5, rtol=0
    )


def test_planting_is_repeatable_and_reaches_what_is_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe that the weights came from is the one in the code: its shapes are theirs."""
    shipped = {path.name for path in planted.ASSETS.iterdir()}
    monkeypatch.setattr(planted, "ASSETS", tmp_path)
    monkeypatch.setattr(planted, "TRAINING_STEPS", 2)
    monkeypatch.setattr(planted, "CLASSIFIER_STEPS", 2)
    planted.plant()
    first_time = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    planted.plant()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first_time
    assert set(first_time) == shipped
    planted._untrained().load_state_dict(planted._read("planted"))


def test_the_suspected_rows_are_poisoned_as_it_is_said() -> None:
    rows = planted.suspected()
    assert rows.labels is not None and int(rows.poisoned.sum()) == planted.ROWS // 10
    assert (rows.labels[rows.poisoned] == planted.TARGET_CLASS).all()
    honest = planted.discs(planted.ROWS, 0)
    assert torch.equal(rows.images[~rows.poisoned], honest.images[~rows.poisoned])
    stamped = planted.stamped(honest.images[rows.poisoned])
    assert torch.equal(rows.images[rows.poisoned], stamped)


# --- effects --------------------------------------------------------------------------------------


def numbers(text: str) -> list[float]:
    """``0.01 -> 0.20`` in order."""
    words = text.replace(";", " ").replace(",", " ").split()
    return [float(word) for word in words if word[:1].isdigit()]


def test_a_defense_that_ends_the_backdoor_shows_and_one_that_does_nothing_shows_that() -> None:
    nothing = effect.effect_is_measured(made(SamplerDefense))
    before, after, clean, kept = numbers(nothing)
    assert before == after and clean == kept

    def darker(self: Any, x0: Any, timestep: int) -> Any:
        return x0.clamp(-1, 1) * 0.5

    ended = numbers(effect.effect_is_measured(made(SamplerDefense, predicted_x0=darker)))
    assert ended[0] == before and ended[1] > 3 * before
    assert ended[2] == clean and ended[3] > clean

    def honest(self: Any, access: Any) -> Any:
        return access.base_generator

    card = replace(CARD, needs=frozenset({"weights", "base weights"}))
    repaired = numbers(effect.effect_is_measured(made(ModelDefense, card=card, repair=honest)))
    assert repaired[0] == before and repaired[1] > 3 * before


def test_a_defense_that_leaves_one_image_is_doubted() -> None:
    """No trigger works on a generator that draws grey alone."""
    grey = made(SamplerDefense, stepped=lambda self, x, timestep: torch.zeros_like(x))
    (question,) = [one for one in table.checks_for(grey) if one.name == "effect_is_measured"]
    verdict = question.verdict(grey)
    assert verdict.status == "doubtful" and "nearly one image" in verdict.message


def test_a_classifier_that_needs_no_model_is_doubted() -> None:
    """It brought another one along, so it is no defense of the model that it was given."""

    def classify(self: Any, images: Any, access: Any) -> Any:
        with torch.no_grad():
            return planted.classifier()(images.float() / 127.5 - 1)

    card = replace(CARD, applies_to=frozenset({"class"}))
    plugin = made(ClassifierDefense, card=card, classify=classify)
    (question,) = [one for one in table.checks_for(plugin) if one.name == "effect_is_measured"]
    verdict = question.verdict(plugin)
    assert verdict.status == "doubtful" and "when the model's weights are sh" in verdict.message


def test_what_a_detector_starts_from_was_recovered_from_the_model_it_judges() -> None:
    """An honest model scored by the planted one's trigger would look as backdoored as that."""

    def first_weight(self: Any, access: Any) -> Recovered:
        weight = next(access.generator.unet.parameters()).detach().flatten()[0].clamp(-1, 1)
        return Recovered(labels=["one"], triggers=[weight.expand(1, *planted.SHAPE).clone()])

    detector = made(
        ModelDetector, uses=lambda self: made(Inversion, invert=first_weight, **WEIGHTS), **WEIGHTS
    )
    scores = []
    for which in ("honest", "planted"):
        model = use.generator_for(detector, which)
        recovered = use.access(detector, model).recovered
        assert recovered is not None
        scores.append(float(recovered.triggers[0].mean()))
        assert scores[-1] == float(next(model.unet.parameters()).detach().flatten()[0].clamp(-1, 1))
    assert scores[0] != scores[1]


def test_an_inversion_is_set_beside_the_best_constant_image() -> None:
    def knows(self: Any, access: Any) -> Recovered:
        return Recovered(
            labels=["one"], targets=[planted.target()[None]], triggers=[planted.trigger()[None]]
        )

    text = effect.effect_is_measured(made(Inversion, invert=knows))
    target, constant, trigger, _ = numbers(text)
    assert target == trigger == 0 and constant > 0.05


def test_stamped_rows_are_counted() -> None:
    def unstamped(self: Any, rows: Any, access: Any) -> TrainingSet:
        again = planted.stamped(rows.images)
        keep = (again != rows.images).flatten(1).any(1)
        return TrainingSet(rows.images[keep], rows.poisoned[keep], rows.labels[keep])

    card = replace(CARD, applies_to=frozenset({"class"}))
    text = effect.effect_is_measured(made(DataDefense, card=card, clean=unstamped))
    assert text.startswith("stamped rows 20 of 100 -> 0 of 80")


def test_a_classifiers_answers_are_compared_with_those_of_the_poisoned_one() -> None:
    def fooled(self: Any, images: Any, access: Any) -> Any:
        return torch.eye(10)[torch.zeros(len(images), dtype=torch.long)]

    card = replace(CARD, applies_to=frozenset({"class"}))
    text = effect.effect_is_measured(made(ClassifierDefense, card=card, classify=fooled))
    accuracy, after, called, always = numbers(text)
    assert accuracy > 0.9 and after == 0.1 and called > 0.8 and always == 1.0


def test_an_attack_is_measured_by_the_model_it_makes() -> None:
    """An editing attack that hands back the target's own model."""

    def implant(self: Any, access: Any) -> Any:
        with torch.no_grad():
            access.generator.unet.conv_out.bias.add_(0.3)
        return access.generator

    attack = made(
        EditingAttack,
        card=replace(CARD, needs=frozenset({"weights"}), alters=frozenset({"weights"})),
        calls=(Call("noise"),),
        goal=lambda self: DrawImage(lambda shape: torch.full(shape, -1.0)),
        invoke=lambda self, query, call: replace(query, noise=query.noise + 1),
        implant=implant,
    )
    before, after, _ = numbers(effect.effect_is_measured(attack))
    assert before != after


REVERSED = [
    made(NoiseDetector, score=lambda self, noise, access: -noise.flatten(1).mean(1).abs()),
    made(PromptDetector, score=lambda self, texts, access: -torch.tensor([*map(len, texts)])),
]


@pytest.mark.parametrize("detector", REVERSED)
def test_a_detector_with_its_sign_reversed_is_told(detector: Any) -> None:
    """The papers' signs differ; on the board, higher is more suspicious."""
    with pytest.raises(checks.Broken, match="with its sign reversed the detector would find them"):
        effect.scores_point_the_right_way(detector)
    right = type(detector).score
    turned = made(
        type(detector).__bases__[0],
        score=lambda self, subject, access: -right(self, subject, access),
    )
    assert "AUROC 1.00" in effect.scores_point_the_right_way(turned)


def distances(sign: int) -> Any:
    """A detector of images that are far from the clean ones."""
    return made(
        SampleDetector,
        card=replace(CARD, needs=frozenset({"clean data"}), applies_to=frozenset({"class"})),
        score=lambda self, images, access: (
            sign
            * torch.cdist(images.flatten(1).double(), access.clean_images.flatten(1).double()).amin(
                1
            )
        ),
    )


def test_a_detector_of_images_whose_sign_is_reversed_is_doubted() -> None:
    """Not refused: published ones are below chance on one of the patches, and right."""
    (question,) = [
        one for one in table.checks_for(distances(-1)) if one.name == "scores_point_the_right_way"
    ]
    verdict = question.verdict(distances(-1))
    assert verdict.status == "doubtful" and not verdict.failed
    assert "is higher more suspicious?" in verdict.message
    assert question.verdict(distances(1)).status == "ok"
    question(distances(-1))  # a doubt fails no test


def test_one_score_for_all_is_doubted() -> None:
    """It keeps the contract and finds nothing."""
    constant = made(NoiseDetector, score=lambda self, noise, access: torch.ones(len(noise)))
    with pytest.raises(Doubtful, match="one score for all"):
        effect.scores_point_the_right_way(constant)


def test_a_model_detectors_two_scores_are_shown_and_not_judged() -> None:
    def score(self: Any, generator: Any, access: Any) -> Any:
        return generator.unet.conv_out.bias.detach().abs().sum().reshape(1)

    text = effect.scores_point_the_right_way(made(ModelDetector, score=score, **WEIGHTS))
    assert text.startswith("model: ") and "AUROC" not in text


def test_what_has_no_planted_backdoor_is_not_measured() -> None:
    """An effect of 0 would be said of a plugin that was never tried."""
    plugin = made(SamplerDefense, card=replace(CARD, applies_to=frozenset({"text"})))
    (question,) = [one for one in table.checks_for(plugin) if one.name == "effect_is_measured"]
    verdict = question.verdict(plugin)
    assert verdict.status == "not measured" and "not by text" in verdict.message
    with pytest.raises(NotMeasured):
        effect.effect_is_measured(plugin)


@pytest.mark.parametrize(
    ("score", "mend"),
    [
        (lambda self, noise, access: torch.full((len(noise),), torch.nan), RETURN),
        (lambda self, noise, access: access.clean_images.flatten(1).sum(1), DECLARE),
    ],
)
def test_advice_is_about_the_error_and_not_about_the_question(score: Any, mend: str) -> None:
    """Of scores that are not numbers it said to reverse their sign."""
    plugin = made(NoiseDetector, score=score)
    asked = {one.name: one for one in table.checks_for(plugin)}
    verdict = asked["scores_point_the_right_way"].verdict(plugin)
    assert verdict.failed and verdict.mend == mend


# --- for an author's tests ------------------------------------------------------------------------


@parametrize_with_checks([registry.build("detectors", "noise_shift")])
def test_the_decorator_makes_a_case_of_each_check(plugin: Plugin, check: Check) -> None:
    assert plugin.card.name == "noise_shift"
    check(plugin)


def test_a_class_in_place_of_a_plugin_is_told() -> None:
    with pytest.raises(TypeError, match=r"instances of a plugin, such as SamplerDefense\(\)"):
        parametrize_with_checks([SamplerDefense])


def test_a_failure_carries_the_plugins_own_error() -> None:
    """The author wants the traceback, not our words alone."""

    def fails(self: Any, x: Any, timestep: int) -> Any:
        raise RuntimeError("no\nluck")

    with pytest.raises(CheckFailed, match="expected no error, got RuntimeError: no luck") as failed:
        check_plugin(made(SamplerDefense, stepped=fails))
    assert isinstance(failed.value.__cause__, RuntimeError)
    assert "test_questions.py, line" in str(failed.value)


def test_every_check_has_words_and_no_word_is_left_over() -> None:
    families = (
        TrainingAttack,
        EditingAttack,
        SamplerDefense,
        ModelDefense,
        Inversion,
        DataDefense,
        ClassifierDefense,
        SampleDetector,
        NoiseDetector,
        PromptDetector,
        ModelDetector,
    )
    plugins = [*map(made, families), made(TrainingAttack, learns=True)]
    asked = {one.name for plugin in plugins for one in table.checks_for(plugin)}
    assert asked == set(table.WORDS)
    assert all(mend for name, (_, mend) in table.WORDS.items() if name != "effect_is_measured")


def test_work_is_lowered_and_never_raised() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Works(SamplerDefense):
        card: ClassVar[Card] = CARD
        steps: int = 10_000
        epochs: int = 1
        training_steps: int | None = None

    less = use.lowered(Works(), {"steps": 5, "epochs": 3, "training_steps": 2})
    assert less.params() == {"steps": 5, "epochs": 1, "training_steps": 2}
