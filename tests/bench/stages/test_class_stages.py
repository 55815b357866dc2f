"""The stages of a class-conditional testbed, on the real one made tiny: what every number of the
poisoning board rests on.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from bench import registry
from bench.artefacts.aims import Aim, read_aim, read_rows
from bench.artefacts.arrays import SCORES
from bench.artefacts.images import load_images, save_images
from bench.artefacts.judged import STRANGERS
from bench.artefacts.judges import load_judge
from bench.artefacts.probes import CLEAN_PROBE, GENERATED_PROBE, Probe, requested_labels
from bench.artefacts.rows import clean_rows, evaluation_sets
from bench.classification.classifier import predict
from bench.diffusion.noise import numpy_stream
from bench.engine.context import StageContext
from bench.errors import ContractError
from bench.measurements import named, replication
from bench.measurements.measurement import Materials
from bench.metrics.composition import Proportion
from bench.metrics.uncertainty import proportion_interval
from bench.plugin import Card, SampleDetector
from bench.record import Record
from bench.stages import by_set, judged_noise, pool, score
from bench.stages.building import access_of, honest_set, poisoned_set
from bench.stages.judged_images import altered, blended, patched
from bench.testbeds.digits_cfg import DIGITS_CFG

SMALL = {
    "clean_samples": 20,
    "class_samples": 12,
    "generated_samples": 30,
    "judged_images": 60,
    "test_images": 6,
    "num_inference_steps": 2,
    "precision": "float32",
}
SUITE = {
    "name": "tiny",
    "testbeds": [{"name": "digits-cfg", "params": SMALL}],
    "attacks": [
        {"name": "none", "params": {"training_steps": 1}},
        {"name": "badnets", "params": {"training_steps": 1}},
        {"name": "relabel_only", "params": {"training_steps": 1}},
    ],
    "defenses": [
        "clip_x0",
        "train_on_generated",
        {"name": "diffusion_classifier", "params": {"timesteps": 2}},
    ],
    "detectors": [
        {"name": "strip", "params": {"overlays": 3}},
        {"name": "cognitive_distillation", "params": {"steps": 2}},
        {"name": "fct", "params": {"epochs": 1, "draws": 1}},
        "noise_shift",
    ],
    "seeds": [0],
}
MEASURED = {
    "none": {
        "g1",
        "g4",
        "asr[prompt]",
        "amplification",
        "p_t",
        "ta",
        "classifier_asr",
        "fid[digits-cnn]",
        "prompt_accuracy",
    }
    | {
        "replication[digits-cnn]",
        "replication_p95[digits-cnn]",
        "replication_held_out[digits-cnn]",
    },
    "clip_x0": {
        "g1",
        "g4",
        "asr[prompt]",
        "amplification",
        "fid[digits-cnn]",
        "fid_other_classes[digits-cnn]",
    },
    "train_on_generated": {"ta", "classifier_asr"},
    "diffusion_classifier": {"ta", "classifier_asr"},
    "strip": {"auroc[training set]", "tpr_at_1_fpr[training set]", "tpr_at_5_fpr[training set]"}
    | {"tpr_fixed_threshold[training set]", "fpr_fixed_threshold[training set]"},
}


@pytest.fixture(scope="module")
def walked(walk, tmp_path_factory):
    """Every stage of the tiny suite; classifiers learn for one step only, after which the judge of
    triggers takes some generated images for stamped ones: detectors have something to tell apart.
    """
    return walk(SUITE, tmp_path_factory.mktemp("walk"), classifier_steps=1)


@pytest.fixture(scope="module")
def records(walked) -> dict[tuple[str, str, str], Record]:
    return walked.records()


def test_cells_share_what_they_have_in_common(walked) -> None:
    """One classifier for each training set, one generated set for each generator, one trigger
    classifier for each trigger.
    """
    plan = walked.plan
    names = [stage.name for stage in plan.stages.values()]
    assert (names.count("train"), names.count("trigger_classifier")) == (3, 1)
    # of three training sets, and of what three generators drew
    assert names.count("classifier") == 3 + 3
    assert sum(stage.params.get("what") == "generated" for stage in plan.stages.values()) == 3
    assert names.count("training_features") == 3
    # Scores do not depend on which attack an honest set is probed with.
    assert names.count("score") == 3 * 3


def test_pairs_that_make_no_sense_say_why(walked) -> None:
    plan = walked.plan
    reasons = {
        (cell.attack.name, cell.defense.name): cell.reason
        for cell in plan.cells
        if cell.stage is None
    }
    assert (
        reasons["badnets", "noise_shift"]
        == "noise_shift judges the starting noise, and badnets leaves that alone"
    )


@pytest.mark.parametrize("defense", MEASURED)
def test_every_column_has_its_numbers(records, defense: str) -> None:
    for key in (("badnets", "", defense), ("none", "badnets", defense)):
        missing = MEASURED[defense] - set(records[key].metrics)
        # An honest set has p_t = 0, so nothing to be amplified.
        assert missing <= ({"amplification"} if key[0] == "none" else set()), key


def test_the_four_groups_sum_to_one_and_asr_is_two_of_them(records) -> None:
    values = {name: metric.value for name, metric in records["badnets", "", "none"].metrics.items()}
    assert sum(values[name] for name in ("g1", "g2", "g3", "g4")) == pytest.approx(1)
    assert values["asr[prompt]"] == pytest.approx(values["g1"] + values["g2"])
    assert values["mismatch"] == pytest.approx(values["g1"] + values["g3"])


def test_poison_shares_are_those_of_the_set_that_was_trained_on(records) -> None:
    metrics = records["badnets", "", "none"].metrics
    labels = DIGITS_CFG.data.train_labels()
    poisoned = int(0.1 * len(labels))
    assert metrics["poison_rate[all rows]"].value == pytest.approx(poisoned / len(labels))
    assert metrics["poison_rate[other classes]"].value == pytest.approx(
        poisoned / int((labels != 6).sum())
    )
    assert metrics["p_t"].value == pytest.approx(poisoned / (poisoned + int((labels == 6).sum())))
    honest = records["none", "badnets", "none"].metrics
    assert honest["p_t"].value == 0 and honest["poison_rate[all rows]"].value == 0


def test_replication_is_of_the_set_the_generator_was_trained_on(walked, records, tmp_path) -> None:
    """Poison included: a copy of a stamped row is a copy. In the control column only, with its
    interval.
    """
    plan, folders = walked.plan, walked.folders
    for key, record in records.items():
        metric = record.metrics.get("replication[digits-cnn]")
        assert (metric is not None) is (key[2] == "none" and record.kind == "control"), key
        if metric is not None:
            assert metric.ci_low <= metric.value <= metric.ci_high and 0 < metric.value <= 1
            high = record.metrics["replication_p95[digits-cnn]"]
            assert (metric.n, high.n, metric.higher_is_better, high.higher_is_better) == (
                20,
                20,
                False,
                False,
            )
    made = {
        plan.stages[stage.inputs["suspected"]].params["attack"]["name"]: folders[key]
        for key, stage in plan.stages.items()
        if stage.name == "training_features"
    }
    poisoned = poisoned_set(DIGITS_CFG.changed(**SMALL), registry.build("attacks", "badnets"), 0)
    rows = poisoned.poisoned.nonzero().flatten()[:40]
    testbed, cell = DIGITS_CFG.changed(**SMALL), walked.cell("badnets", "none")
    copied, unseen = tmp_path / "copied", tmp_path / "unseen"
    for folder, images in (
        (copied, poisoned.images[rows]),
        (unseen, testbed.data.held_out_images()[::36]),
    ):
        folder.mkdir()
        save_images(folder, images)
    by_attack = {
        name: walked.measured("replication", cell, clean=copied, training_features=made[name])
        for name in ("badnets", "none")
    }
    values = [measured.metrics["replication[digits-cnn]"].value for measured in by_attack.values()]
    assert values[0] == pytest.approx(1, abs=1e-5) and values[1] < 0.999
    # The network of FID is no copy detector.
    assert by_attack["badnets"].flags == [replication.NO_COPY_DETECTOR]
    metrics = by_attack["none"].metrics
    anchor = metrics["replication_held_out[digits-cnn]"]
    assert (anchor.n, anchor.higher_is_better) == (40, None) and 0.9 < anchor.value < 1
    assert metrics["replication_held_out_p95[digits-cnn]"].value >= anchor.value
    flags = walked.measured("replication", cell, clean=unseen, training_features=made["none"]).flags
    assert (flags[-1].code, flags[-1].metric) == ("within-held-out", "replication")


def test_an_image_without_features_is_no_copy_and_is_flagged(walked, tmp_path, monkeypatch) -> None:
    """A generator that collapsed to images nothing is seen in must not fail the cell, nor count as
    copying.
    """
    rows = torch.zeros(4, 64)
    monkeypatch.setattr(replication.fid, "extract_features", lambda *_, **__: rows)
    save_images(tmp_path, DIGITS_CFG.data.held_out_images()[:4])
    cell = walked.cell("badnets", "none")
    measured = walked.measured("replication", cell, clean=tmp_path)
    assert measured.metrics == {} and [flag.line for flag in measured.flags] == [
        "replication: 4 of 4 images have no feature at all"
    ]
    rows[:3] = 1
    measured = walked.measured("replication", cell, clean=tmp_path)
    assert measured.metrics["replication[digits-cnn]"].n == 3
    assert measured.flags[0].line == "replication: 1 of 4 images have no feature at all"


def test_an_attack_without_a_trigger_has_no_trigger_numbers(records) -> None:
    metrics = records["relabel_only", "", "none"].metrics
    assert "mismatch" in metrics and not {"g1", "asr[prompt]", "classifier_asr"} & set(metrics)
    assert not any(
        name.endswith("[generated]") for name in records["relabel_only", "", "strip"].metrics
    )


def test_a_detector_is_judged_on_the_rows_the_adversary_took(walked, records) -> None:
    plan, folders = walked.plan, walked.folders
    cell = walked.cell("badnets", "strip")
    folder = folders[plan.stages[cell.stage].inputs["scores"]]
    with np.load(folder / SCORES) as arrays:
        scores, rows = arrays["training"], arrays["training_rows"]
    truth = poisoned_set(
        DIGITS_CFG.changed(**SMALL), registry.build("attacks", "badnets"), 0
    ).poisoned.numpy()[rows]
    assert len(rows) == 60 and 0 < truth.sum() < 60
    wins = [float(a > b) + 0.5 * float(a == b) for a in scores[truth] for b in scores[~truth]]
    record = records["badnets", "", "strip"]
    assert record.metrics["auroc[training set]"].value == pytest.approx(np.mean(wins))
    assert sum(record.series["score_poisoned[training set]"]) == truth.sum()
    assert (
        record.series["roc_tpr[training set]"][0] == 0
        and record.series["roc_tpr[training set]"][-1] == 1
    )


def test_what_an_attack_aims_at_is_read_from_its_stage(walked) -> None:
    """What measures builds no plugin, so these files must say all that the attack would have
    said.
    """
    plan, folders = walked.plan, walked.folders
    attack, held_out = registry.build("attacks", "badnets"), DIGITS_CFG.data.held_out_images()
    artefacts = {
        (stage.name, stage.params["attack"]["name"]): folders[key]
        for key, stage in plan.stages.items()
        if stage.name in ("aim", "poisoned_rows")
    }
    aim = read_aim(artefacts["aim", "badnets"])
    assert aim.label == attack.target_class and aim.target is None and aim.goal == "ReachClass"
    assert torch.equal(aim.stamped, attack.stamp(held_out))
    assert torch.equal(aim.trigger, attack.trigger_image((3, 16, 16)))
    rows, expected = (
        read_rows(artefacts["poisoned_rows", "badnets"]),
        poisoned_set(DIGITS_CFG.changed(**SMALL), attack, 0),
    )
    assert torch.equal(rows.poisoned, expected.poisoned) and torch.equal(
        rows.labels, expected.labels
    )
    assert not read_rows(artefacts["poisoned_rows", "none"]).poisoned.any()
    assert read_aim(artefacts["aim", "relabel_only"]).stamped is None


def test_what_measures_builds_no_plugin(walked, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin in the process that measures could change every number."""
    plan = walked.plan

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plugin was built")

    monkeypatch.setattr(registry, "build", refuse)
    monkeypatch.setattr(registry, "use", refuse)
    monkeypatch.setattr(registry, "Registry", refuse)
    for index, (key, stage) in enumerate(plan.stages.items()):
        if stage.name in ("measure", "reference", "features", "record"):
            walked.run(key, tmp_path / str(index))


def test_a_detectors_threshold_is_fixed_on_clean_held_out_images(walked, records) -> None:
    """A threshold read off what is judged is an oracle's; the owner has clean images only, one crop
    a digit.
    """
    plan, folders = walked.plan, walked.folders
    cell = walked.cell("badnets", "strip")
    with np.load(folders[plan.stages[cell.stage].inputs["scores"]] / SCORES) as arrays:
        scores, rows, clean = arrays["training"], arrays["training_rows"], arrays["held_out"]
        digits = arrays["held_out_rows"] // 4
    assert len(clean) == 60 and len(set(digits.tolist())) == 60
    truth = poisoned_set(
        DIGITS_CFG.changed(**SMALL), registry.build("attacks", "badnets"), 0
    ).poisoned.numpy()[rows]
    record = records["badnets", "", "strip"]
    # 1 % of 60 is no false alarm at all.
    for name, side in (("tpr", truth), ("fpr", ~truth)):
        metric = record.metrics[f"{name}_fixed_threshold[training set]"]
        outcomes = scores[side] > clean.max()
        assert (
            metric.value == pytest.approx(outcomes.mean())
            and metric.n == side.sum()
            and metric.unit == "share"
        )
        assert metric.ci_low <= metric.value <= metric.ci_high and metric.ci_low < metric.ci_high
        assert record.series[f"outcomes[{name}_fixed_threshold[training set]]"] == outcomes.tolist()
    assert record.metrics["tpr_at_1_fpr[training set]"].ci_low is not None


def test_noise_detectors_have_a_threshold_of_their_own_noise(tmp_path) -> None:
    """Fixed on a third stream: neither the control nor what it is judged against."""
    params = {
        "testbed": {"name": "digits-ddpm", "params": {}, "parts": ["data", "generator", "counts"]},
        "attack": {"name": "baddiffusion", "params": {}},
        "defense": {"name": "noise_shift", "params": {}},
        "seed": 0,
    }
    context, names = StageContext(key="x"), ("judged", "pool", "answers")
    judged, together, answers = (tmp_path / name for name in names)
    for folder in (judged, together, answers):
        folder.mkdir()
    judged_noise.run(params, {}, judged, context)
    pool.run({}, {"judged": judged}, together, context)
    score.run(params, {"judged": together}, answers, context)
    by_set.run({}, {"judged": judged, "answers": answers}, tmp_path, context)
    with np.load(tmp_path / SCORES) as arrays:
        assert not np.array_equal(arrays["threshold"], arrays["reference"])
        threshold, control, plain = (
            np.sort(arrays["threshold"])[-6],
            arrays["clean"],
            arrays["reference"],
        )
    materials = Materials(testbed=None, seed=0, inputs={"scores_noise": tmp_path})
    measured = named("noise_detection").run(materials)
    metrics, series = measured.metrics, measured.series
    # 1 % of 512 are five false alarms.
    assert metrics["tpr_fixed_threshold[clean]"].value == pytest.approx(
        (control > threshold).mean()
    )
    assert (
        metrics["fpr_fixed_threshold[clean]"].value == pytest.approx((plain > threshold).mean())
        and (plain > threshold).mean() < 0.05
    )
    assert metrics["tpr_fixed_threshold[noise]"].value > 0.9
    assert series["outcomes[tpr_fixed_threshold[clean]]"] == (control > threshold).tolist()


@pytest.mark.parametrize(
    ("held_out", "strangers", "whose"),
    [
        (1.0, {"altered": 1.0, "patched": 1.0, "blended": 1.0}, "held-out"),
        (0.0, {"altered": 1.0, "patched": 1.0, "blended": 1.0}, "altered"),
        (0.0, {"patched": 1.0}, "patched"),
        (0.0, {"blended": 1.0}, "blended"),
        (0.0, {}, None),
        (0.5, {"altered": 0.5}, "held-out"),
    ],
    ids=["training", "all known", "few values", "all values a little", "nothing", "half known"],
)
def test_a_detector_that_looks_rows_up_is_flagged(
    walked, tmp_path, held_out: float, strangers: dict[str, float], whose: str | None
) -> None:
    """The data are public: whoever compares rows with them finds every altered one, and a defender
    could not.
    """
    cell = walked.cell("badnets", "strip")
    inputs = walked.inputs(cell)
    with np.load(inputs["scores"] / SCORES) as arrays:
        scores = dict(arrays)
    truth = read_rows(inputs["true_rows"]).poisoned.numpy()[scores["training_rows"]]
    scores["training"] = truth.astype(np.float32)
    scores["held_out"] = np.full(60, held_out, dtype=np.float32)
    for name in STRANGERS:
        scores[name] = np.full(32, strangers.get(name, 0.0), dtype=np.float32)
    np.savez(tmp_path / SCORES, **scores)
    flags = walked.measured("row_detection", cell, scores=tmp_path).flags
    raised = [flag.text for flag in flags if flag.code == "looks-rows-up"]
    expected = [f"looks rows up: {whose} clean images score as poisoned, AUROC 1.00"]
    assert raised == (expected if whose else [])


def test_no_honest_detector_looks_rows_up(records) -> None:
    for (_, _, defense), record in records.items():
        assert not [flag for flag in record.flags if flag.code == "looks-rows-up"], defense


def test_altered_images_are_nobodys_and_look_alike() -> None:
    """A method that knows every public image does not know these; one that looks at what they show
    sees nothing new.
    """
    images = DIGITS_CFG.data.held_out_images()[:64]
    changed = altered(images, numpy_stream(0, "altered"))
    assert changed.dtype == torch.uint8 and changed.shape == images.shape
    public = {row.tobytes() for row in DIGITS_CFG.data.held_out_images().numpy()}
    public |= {row.tobytes() for row in DIGITS_CFG.data.train_images().numpy()}
    assert not any(row.tobytes() in public for row in changed.numpy())
    correlations = [
        max(
            float(np.corrcoef(row.roll((down, right), (1, 2)).flatten(), other.flatten())[0, 1])
            for down in (-1, 1)
            for right in (-1, 1)
        )
        for row, other in zip(images, changed, strict=True)
    ]
    assert min(correlations) > 0.8
    again = altered(images, numpy_stream(0, "altered"))
    assert torch.equal(again, changed) and not torch.equal(
        altered(images, numpy_stream(1, "altered")), changed
    )


def test_patches_and_patterns_are_small_and_no_two_alike() -> None:
    """What poisoned rows have in common, these have not: only a comparison with the clean image
    tells them from it.
    """
    images = DIGITS_CFG.data.held_out_images()[:32]
    height, width = images.shape[2:]
    changes = {}
    for name, change in (("patched", patched), ("blended", blended)):
        made = change(images, numpy_stream(0, name))
        assert made.dtype == torch.uint8 and made.shape == images.shape
        assert torch.equal(made, change(images, numpy_stream(0, name)))
        changes[name] = made.int() - images.int()
    touched = (changes["patched"] != 0).any(1).flatten(1).float().mean(1)
    assert 0 < touched.max() <= (3 / 16) ** 2 + 1e-6 and len(changes["patched"].unique(dim=0)) == 32
    assert changes["blended"].abs().max() <= 0.15 * 255 + 1
    assert changes["blended"].flatten(1).float().std(1).min() > 1


@dataclass(frozen=True, kw_only=True)
class Comparing(SampleDetector):
    card: ClassVar[Card] = Card(
        name="comparing",
        summary="test",
        applies_to=frozenset({"class"}),
        needs=frozenset({"training data", "clean data"}),
    )


def test_whoever_holds_the_suspected_set_gets_no_originals_of_it(walked) -> None:
    """Beside the originals, the poisoned rows are known by comparison, and nothing is detected."""
    stage = next(s for s in walked.plan.stages.values() if s.name == "score")
    inputs = {role: walked.folders[key] for role, key in stage.inputs.items()}
    testbed, context = DIGITS_CFG.changed(**SMALL), StageContext(key="x")
    access = access_of(Comparing(), testbed, None, inputs, {"seed": 0}, context)
    held = {row.tobytes() for row in access.clean_data.images.numpy()}
    assert len(held) > 500 and access.clean_data.labels is not None
    assert not held & {row.tobytes() for row in honest_set(testbed).images.numpy()}
    assert not held & {row.tobytes() for row in access.train_set.images.numpy()}
    judged = testbed.data.held_out_images()[clean_rows(testbed, 0)]
    assert not held & {row.tobytes() for row in judged.numpy()}


def test_a_false_alarm_is_judged_among_rows_of_the_same_classes(walked, tmp_path) -> None:
    """On an honest set a score that only tells classes apart must not look like a detector that
    finds poison.
    """
    cell = walked.cell("none", "strip", "badnets")
    inputs = walked.inputs(cell)
    testbed = DIGITS_CFG.changed(**SMALL)
    goal = read_aim(inputs["aim"]).label
    with np.load(inputs["scores"] / SCORES) as arrays:
        scores = dict(arrays)
    labels = testbed.data.train_labels()[torch.from_numpy(scores["training_rows"])].numpy()
    scores["training"] = (labels != goal) + 0.0
    np.savez(tmp_path / SCORES, **scores)
    metrics = walked.measured("row_detection", cell, scores=tmp_path).metrics
    assert metrics["auroc[training set]"].value == 0.5
    assert metrics["auroc[training set]"].n == (labels != goal).sum() < len(labels)


def test_crops_of_one_digit_count_as_what_they_are_worth(records) -> None:
    """1,440 held-out crops of 360 digits are fewer than 1,440 independent images; the intervals of
    TA and ASR say so.
    """
    record = records["badnets", "", "none"]
    for name, count in (("ta", 1440), ("classifier_asr", 1296)):
        metric = record.metrics[name]
        assert (
            metric.n == count
            and 0.99 * count / 4 < metric.effective_n <= count
            and metric.unit == "share"
        )
        low, high = proportion_interval(metric.value * metric.effective_n, metric.effective_n)
        assert (metric.ci_low, metric.ci_high) == pytest.approx((low, high))
    assert len(record.series["outcomes[classifier_asr]"]) == 1296
    assert np.mean(record.series["outcomes[classifier_asr]"]) == pytest.approx(
        record.metrics["classifier_asr"].value
    )


def test_the_owner_of_the_set_does_not_know_what_is_poisoned(walked, monkeypatch) -> None:
    """A detector that could read the answer would be perfect, and worth nothing."""
    plan, folders = walked.plan, walked.folders
    seen = []
    kind = registry.use().get("detectors", "strip")
    monkeypatch.setattr(
        kind,
        "score",
        lambda self, images, access: seen.append(access) or torch.zeros(len(images)),
    )
    stage = next(
        s
        for s in plan.stages.values()
        if s.name == "score" and s.params["defense"]["name"] == "strip"
    )
    out = folders[stage.key]
    score.run(
        stage.params,
        {role: folders[key] for role, key in stage.inputs.items()},
        out,
        StageContext(key="x"),
    )
    assert not seen[0].train_set.poisoned.any()


def test_scores_that_are_not_finite_fail_the_stage(walked, monkeypatch) -> None:
    plan, folders = walked.plan, walked.folders
    kind = registry.use().get("detectors", "strip")
    monkeypatch.setattr(
        kind, "score", lambda self, images, access: torch.full((len(images),), float("nan"))
    )
    stage = next(
        s
        for s in plan.stages.values()
        if s.name == "score" and s.params["defense"]["name"] == "strip"
    )
    inputs = {role: folders[key] for role, key in stage.inputs.items()}
    with pytest.raises(ContractError, match="NaN or infinity in 246 of 246 rows"):
        score.run(stage.params, inputs, folders[stage.key], StageContext(key="x"))


def test_samples_are_of_the_classes_that_are_asked_for() -> None:
    testbed = DIGITS_CFG.changed(**SMALL)
    assert requested_labels(testbed, CLEAN_PROBE).bincount().tolist() == [2] * 10
    assert (
        requested_labels(testbed, Probe(role="target", count="class_samples", label=6)).tolist()
        == [6] * 12
    )
    assert requested_labels(testbed, GENERATED_PROBE).bincount().tolist() == [3] * 10
    assert len(requested_labels(DIGITS_CFG, GENERATED_PROBE)) == len(testbed.data.train_labels())


def test_stamped_test_images_are_of_other_classes() -> None:
    """A stamped six that is called a six is no success of the attack."""
    images = DIGITS_CFG.data.held_out_images()
    stamped = registry.build("attacks", "badnets").stamp(images)
    sets = evaluation_sets(DIGITS_CFG, Aim(label=6, stamped=stamped), 0)
    assert (sets["triggered"][1] != 6).all() and (sets["clean"][1] == 6).any()
    order = numpy_stream(0, "test images").permutation(len(images))
    assert torch.equal(
        sets["triggered"][0], stamped[order[(DIGITS_CFG.data.held_out_labels() != 6)[order]]]
    )
    plain = evaluation_sets(DIGITS_CFG, Aim(label=6), 0)
    assert set(plain) == {"clean"}
    assert torch.equal(plain["clean"][0], sets["clean"][0])


def test_the_trigger_classifier_states_its_own_errors(walked, records) -> None:
    """Counted on held-out images that set no threshold, and on what the honest model draws; in
    every record that rests on it.
    """
    plan, folders = walked.plan, walked.folders
    stage = next(stage for stage in plan.stages.values() if stage.name == "trigger_classifier")
    judge = load_judge(DIGITS_CFG, folders[stage.key], "cpu")
    held_out = DIGITS_CFG.data.held_out_images()
    alarms = judge.stamped(held_out[1::2])
    assert judge.stamped(held_out[::2]).float().mean() <= 0.005
    assert judge.errors["false_alarms"] == Proportion(int(alarms.sum()), len(alarms))
    metrics = records["badnets", "", "clip_x0"].metrics
    for name in ("false_alarms", "false_alarms[weathered]", "misses", "misses[weathered]"):
        metric = metrics[f"trigger_classifier_{name}"]
        assert (metric.value, metric.n) == (judge.errors[name].value, 720)
        assert metric.ci_low <= metric.value <= metric.ci_high
    honest = records["none", "badnets", "none"].metrics
    assert (
        metrics["trigger_classifier_false_alarms[generated]"].value == honest["asr[prompt]"].value
    )
    marked = registry.build("attacks", "badnets").stamp(held_out)
    for name, images in (("held-out", held_out), ("stamped", marked)):
        right = (
            predict(DIGITS_CFG.evaluation_classifier(), images) == DIGITS_CFG.data.held_out_labels()
        )
        assert metrics[f"judge_accuracy[{name}]"].value == pytest.approx(
            float(right.double().mean())
        )
    assert metrics["template_rate[prompt]"].n == 12


def test_robust_success_in_prompts_counts_at_least_what_the_groups_do(records) -> None:
    """G1 to G4 stay the plain verdict's; the robust one adds pictures in which the trigger is only
    changed.
    """
    for key, record in records.items():
        if "asr[prompt]" in record.metrics:
            robust = record.metrics["robust_asr[prompt]"]
            outcomes = record.series["outcomes[robust_asr[prompt]]"]
            assert set(outcomes) <= {0.0, 1.0} and (np.mean(outcomes), len(outcomes)) == (
                robust.value,
                robust.n,
            ), key
            assert robust.value >= record.metrics["asr[prompt]"].value


def test_a_rate_within_the_honest_models_false_alarms_is_flagged(walked, tmp_path) -> None:
    """The honest model's own images cannot be called poisoned; the record would say 12 of 12
    without a word.
    """
    cell = walked.cell("badnets", "none")
    measured = walked.measured("composition", cell, target=walked.inputs(cell)["honest_target"])
    assert ("within-false-alarms", "asr") in [(flag.code, flag.metric) for flag in measured.flags]


def test_no_defense_pays_for_the_judge_of_triggers(walked) -> None:
    """A classifier trained by the harness, once for all seeds, stood in the seconds of every
    defense.
    """
    for defense, charged in (("clip_x0", {"clean", "target"}), ("strip", {"scores", "generated"})):
        stage = walked.plan.stages[walked.cell("badnets", defense).stage]
        assert "trigger_classifier" in stage.inputs and stage.charged == charged


def test_generated_sets_do_not_repeat_the_evaluations_noise(walked) -> None:
    """A classifier trained on the very images FID is measured on would tie two numbers together."""
    plan, folders = walked.plan, walked.folders
    made = {
        stage.params["what"]: load_images(folders[key])
        for key, stage in plan.stages.items()
        if stage.name == "sample" and not stage.params["defenses"]
    }
    assert not torch.equal(made["generated"][:10], made["clean"][:10])


def test_a_key_holds_all_the_code_its_stage_runs(walked) -> None:
    """What decides a number and is in no key leaves old and new numbers in one matrix."""
    beyond = {key: walked.beyond_its_code(key) for key in walked.plan.stages}
    assert {
        walked.plan.stages[key].describe(): names for key, names in beyond.items() if names
    } == {}
    assert all(walked.executed.values())


def test_no_number_moves_without_a_version(walked, golden) -> None:
    """A board would show numbers of two kinds in one table, and nobody would know."""
    golden.check("class", walked)
