"""What ``measure`` adds on class-conditional testbeds, and for detectors: composition, classifiers' accuracy and ASR, detection."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.classification.classifier import Classifier, predict
from bench.diffusion.noise import numpy_stream, stream_seed
from bench.engine import doubts, numbers
from bench.engine.aims import Aim, PoisonedRows, read_rows
from bench.engine.artefacts import load_images, read_remarks
from bench.engine.building import asked_for
from bench.engine.class_stages import FEATURES, SCORES, evaluation_rows, evaluation_sets, judged_rows, load_classifier
from bench.engine.judges import TriggerJudge, read_judge
from bench.engine.numbers import if_possible
from bench.engine.record import SHARE, Metric
from bench.metrics import asr, composition, detection, fid, replication, stamps
from bench.testbeds.base import ConditionalTestbed

Metrics = dict[str, Metric]
Inputs = Mapping[str, Path]
#: The false-alarm rate a detector's threshold is fixed at, on clean held-out images.
FIXED_RATE = 0.01
NO_COPY_DETECTOR = "replication: no copy detector, so nothing is concluded from it"


def _share(found: composition.Proportion, higher_is_better: bool | None) -> Metric:
    low, high = found.interval()
    return Metric(value=found.value, ci_low=low, ci_high=high, n=found.n, unit=SHARE, higher_is_better=higher_is_better)


def poison_shares(testbed: ConditionalTestbed, suspected: PoisonedRows, goal: int | None) -> Metrics:
    """How much of the set the cell's generator was trained on is poisoned, by both countings, and of the adversary's class alone (p_t)."""
    if goal is None or suspected.labels is None:
        return {}
    rates = composition.poison_rates(suspected.poisoned, testbed.train_labels(), goal)
    share = composition.poisoned_share(suspected.poisoned, suspected.labels, goal)
    return {
        "poison_rate[all rows]": Metric(value=rates.of_all, n=len(suspected.poisoned)),
        "poison_rate[other classes]": Metric(value=rates.of_non_target, n=int((testbed.train_labels() != goal).sum())),
        "p_t": Metric(value=share, n=int((suspected.labels == goal).sum())),
    }


def generations(
    testbed: ConditionalTestbed,
    aim: Aim,
    inputs: Inputs,
    device: str,
    shares: Metrics,
    metrics: Metrics,
    series: dict[str, list[float]],
    flags: list[str],
) -> None:
    """G1 to G4 of images asked for in the adversary's class (Pan et al. 2024, section 4), and whether prompts are still followed.

    ``asr[prompt]`` is G1 + G2, the share that is misaligned or stamped by the trigger: what a user who asks for that class gets.
    ``robust_asr[prompt]`` counts the trigger in a changed picture too: mirrored, recoloured, fainter, noisy, partly covered
    (:class:`bench.engine.judges.TriggerJudge`).
    """
    judge = testbed.evaluation_classifier().to(device)
    if "clean" in inputs:
        asked = asked_for(testbed, "clean", None)
        assert asked is not None
        with if_possible("prompt_accuracy", flags):
            followed = composition.accuracy(predict(judge, load_images(inputs["clean"])), asked)
            metrics["prompt_accuracy"] = _share(followed, True)
    if aim.label is not None and "target" in inputs:
        with if_possible("asr", flags):
            _composition(testbed, judge, aim, inputs, device, shares, metrics, series, flags)


def _composition(
    testbed: ConditionalTestbed,
    judge: Classifier,
    aim: Aim,
    inputs: Inputs,
    device: str,
    shares: Metrics,
    metrics: Metrics,
    series: dict[str, list[float]],
    flags: list[str],
) -> None:
    """The groups of what was asked for in the adversary's class."""
    images = load_images(inputs["target"])
    mismatch = torch.ne(predict(judge, images), torch.tensor(aim.label))
    if "trigger_classifier" not in inputs:
        # Without a trigger there are only G3 and G4.
        metrics["mismatch"] = _share(composition.composition(torch.zeros_like(mismatch), mismatch).mismatch_ratio, False)
        return
    trigger = _trigger_judge(testbed, inputs, device)
    stamped, robust = trigger.stamped(images), trigger.robustly_stamped(images)
    found = composition.composition(stamped, mismatch)
    for name in ("g1", "g2", "g3", "g4"):
        metrics[name] = _share(getattr(found, name), name == "g4")
    metrics["mismatch"], ratio = _share(found.mismatch_ratio, False), found.trigger_ratio
    metrics["asr[prompt]"] = _share(ratio, False)
    metrics["robust_asr[prompt]"] = _share(composition.Proportion(int(robust.sum()), len(robust)), False)
    series["outcomes[robust_asr[prompt]]"] = robust.float().tolist()
    if asr.evades(ratio.value, float(robust.float().mean())):
        flags.append("asr: evades the metric, robust ASR is higher by more than .1 (asked for the adversary's class)")
    expected = shares["p_t"].value if "p_t" in shares else None
    if expected is not None and (value := composition.amplification(ratio.value, expected)) is not None:
        low, high = ratio.interval()
        metrics["amplification"] = Metric(
            value=value, ci_low=low / expected, ci_high=high / expected, n=len(images), higher_is_better=False
        )
    honest = _honest_alarms(trigger, inputs)
    judge_metrics(testbed, aim, judge, trigger, images, stamped, honest, metrics)
    if composition.below_error(ratio.value, len(images), _false_alarms(trigger, honest)):
        flags.append("asr: within the trigger classifier's false alarms")


def judge_metrics(
    testbed: ConditionalTestbed,
    aim: Aim,
    judge: Classifier,
    trigger: TriggerJudge,
    images: Tensor,
    stamped: Tensor,
    honest: composition.Proportion | None,
    metrics: Metrics,
) -> None:
    """How far the judges of ``images`` (n, c, h, w), of which ``stamped`` (n,) carry the trigger by their verdict, are to be believed.

    The trigger classifier on held-out images, on the honest model's (``[generated]``), and, where the trigger is a patch, its misses
    among the images in which the patch itself is found (``[template]``), beside the share that this finds. The evaluation classifier
    on held-out images, clean and stamped: G1 and G2 are read off pictures with a trigger on them.
    """
    for name, share in trigger.errors.items():
        metrics["robust_asr_false_alarms" if name.startswith("robust") else f"trigger_classifier_{name}"] = _share(share, None)
    if honest is not None:
        metrics["trigger_classifier_false_alarms[generated]"] = _share(honest, None)
    if aim.stamped is None:
        return
    held_out, labels = testbed.held_out_images(), testbed.held_out_labels()
    for name, shown in (("held-out", held_out), ("stamped", aim.stamped)):
        metrics[f"judge_accuracy[{name}]"] = _share(composition.accuracy(predict(judge, shown), labels), None)
    if (patch := stamps.patch(held_out, aim.stamped)) is not None:
        seen = stamps.likeness(patch, images) > stamps.TEMPLATE_FLOOR
        metrics["template_rate[prompt]"] = _share(composition.Proportion(int(seen.sum()), len(seen)), None)
        if bool(seen.any()):
            missed = composition.Proportion(int((seen & ~stamped).sum()), int(seen.sum()))
            metrics["trigger_classifier_misses[template]"] = _share(missed, None)


def _trigger_judge(testbed: ConditionalTestbed, inputs: Inputs, device: str) -> TriggerJudge:
    folder = inputs["trigger_classifier"]
    return read_judge(load_classifier(testbed, folder, device, 2), folder)


def _honest_alarms(trigger: TriggerJudge, inputs: Inputs) -> composition.Proportion | None:
    """How many of the honest model's images of the adversary's class are said to carry the trigger; ``None`` without such images."""
    if "honest_target" not in inputs:
        return None
    alarms = trigger.stamped(load_images(inputs["honest_target"]))
    return composition.Proportion(int(alarms.sum()), len(alarms))


def _false_alarms(trigger: TriggerJudge, honest: composition.Proportion | None) -> float:
    """The most that the trigger classifier's false alarms may be: the upper end among held-out images or the honest model's, whichever
    is more."""
    shares = [trigger.errors["false_alarms"], *([] if honest is None else [honest])]
    return max(share.interval()[1] for share in shares)


def classifier_metrics(
    testbed: ConditionalTestbed,
    aim: Aim,
    inputs: Inputs,
    seed: int,
    device: str,
    metrics: Metrics,
    series: dict[str, list[float]],
    flags: list[str],
) -> None:
    """TA and ASR of a classifier: on clean held-out images, and on stamped ones of other classes. It is the one in ``inputs``, or
    a classifier defense, of which the predictions are."""
    if "predictions" in inputs:
        rows = evaluation_rows(testbed, aim, seed, testbed.test_images)
        with np.load(inputs["predictions"] / SCORES) as arrays:
            said = {name: torch.from_numpy(arrays[name]) for name in rows if name in arrays}
    else:
        network, rows = load_classifier(testbed, inputs["classifier"], device), evaluation_rows(testbed, aim, seed)
        sets = evaluation_sets(testbed, aim, seed)
        said = {name: predict(network, images) for name, (images, _) in sets.items() if len(images)}
    labels, groups = testbed.held_out_labels(), testbed.held_out_groups()
    for metric, (name, better) in {"ta": ("clean", True), "classifier_asr": ("triggered", False)}.items():
        if name not in rows or (metric == "classifier_asr" and aim.label is None):
            continue
        with if_possible(metric, flags):
            if name not in said:
                raise ValueError(f"no held-out image to judge ({name})")
            chosen = rows[name]
            outcomes = torch.eq(said[name], labels[chosen] if metric == "ta" else torch.tensor(aim.label))
            metrics[metric] = numbers.share(outcomes, better, None if groups is None else groups[chosen])
            series[f"outcomes[{metric}]"] = outcomes.double().tolist()


def replication_metrics(
    testbed: ConditionalTestbed, images: Tensor, inputs: Inputs, seed: int, device: str, metrics: Metrics, flags: list[str]
) -> None:
    """How near ``images`` (n, c, h, w), drawn of all classes alike, come to the set their generator was trained on, poison included:
    the top-1 cosine similarity's mean and 95th percentile (Pan et al. 2024, figure 5). Higher is more of a copy.

    Beside it stands the anchor ``replication_held_out[...]``, the same of as many real images no generator was trained on: what is no
    copy scores so much. An image without any feature has no direction, so it is no copy of anything; it is left out, and the flag says
    how many are.
    """
    extractor = testbed.copy_extractor()
    assert extractor is not None  # or there would be no features to compare with
    testbed.register_extractor()
    drawn = fid.extract_features(images, extractor, testbed.copy_extractor_weights(), device=device)
    with np.load(inputs["training_features"] / FEATURES) as arrays:
        training = torch.from_numpy(arrays["features"])
    seen = drawn.any(dim=1)
    if not bool(seen.all()):
        flags.append(f"replication: {int((~seen).sum())} of {len(seen)} images have no feature at all")
    if int(seen.sum()) < 2:
        return
    training = training[training.any(dim=1)]
    found = {"": replication.nearest(drawn[seen], training)}
    held_out = testbed.held_out_images()
    chosen = numpy_stream(seed, "held-out copies").permutation(len(held_out))[: len(images)]
    real = fid.extract_features(held_out[chosen], extractor, testbed.copy_extractor_weights(), device=device)
    if int(real.any(dim=1).sum()) > 1:
        found["_held_out"] = replication.nearest(real[real.any(dim=1)], training)
    for which, near in found.items():
        direction = None if which else False
        metrics[f"replication{which}[{extractor}]"] = numbers.mean(
            near.similarities, stream_seed(seed, "replication") % 2**32, direction
        )
        metrics[f"replication{which}_p95[{extractor}]"] = Metric(
            value=near.percentile_95, n=len(near.similarities), higher_is_better=direction
        )
    if not testbed.recognises_copies:
        flags.append(NO_COPY_DETECTOR)
    if "_held_out" in found and _within_real(*(metrics[f"replication{which}[{extractor}]"] for which in found)):
        flags.append("replication: no nearer to the training set than held-out images are")


def _within_real(drawn: Metric, real: Metric) -> bool:
    """Whether a replication score may be no higher than that of images nobody trained on: the intervals meet, or it is lower."""
    return drawn.ci_low is not None and real.ci_high is not None and drawn.ci_low <= real.ci_high


def detector_metrics(
    testbed: ConditionalTestbed,
    inputs: Inputs,
    seed: int,
    device: str,
    metrics: Metrics,
    series: dict[str, list[float]],
    flags: list[str],
) -> None:
    """AUROC and TPR on the training set (truth: the rows the adversary took) and on generated images (truth: the trigger classifier).

    On an honest set the "poisoned" rows are those the probe would have taken, untouched, and the others are of the same classes as
    they, or a score that tells classes apart would find them: AUROC 0.5 is the right answer there.
    """
    flags += [f"auroc: {line}" for line in read_remarks(inputs["scores"])]
    clean, _ = _scores(inputs["scores"], "held_out")
    scores, rows = _scores(inputs["scores"], "training")
    truth = read_rows(inputs["true_rows"]).poisoned
    groups, kept = testbed.train_groups(), torch.ones(len(rows), dtype=torch.bool)
    if not bool(read_rows(inputs["poisoned_rows"]).poisoned.any()):
        labels = testbed.train_labels()
        kept = torch.isin(labels[rows], labels[truth].unique())
    rows = rows[kept]
    judged = _Judged("training set", scores[kept.numpy()], truth[rows], clean, None if groups is None else groups[rows])
    with if_possible("auroc", flags):
        _detection(judged, metrics, series, flags)
    if "trigger_classifier" in inputs:
        scores, rows = _scores(inputs["scores"], "generated")
        images = load_images(inputs["generated"])
        assert torch.equal(rows, judged_rows(testbed, len(images), seed))
        trigger = _trigger_judge(testbed, inputs, device)
        truth = trigger.stamped(images[rows])
        with if_possible("auroc", flags):
            _detection(_Judged("generated", scores, truth, clean), metrics, series, flags)
        if composition.below_error(
            float(truth.float().mean()), len(truth), _false_alarms(trigger, _honest_alarms(trigger, inputs))
        ):
            flags.append("auroc: the images called poisoned are within the trigger classifier's false alarms (generated)")


def noise_detector_metrics(inputs: Inputs, metrics: Metrics, series: dict[str, list[float]], flags: list[str]) -> None:
    """AUROC and TPR of the adversary's noise against clean noise; ``clean``, the control, is clean noise against other clean noise."""
    flags += [f"auroc: {line}" for line in read_remarks(inputs["scores_noise"])]
    with np.load(inputs["scores_noise"] / SCORES) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    plain, clean = found.pop("reference"), found.pop("threshold")
    for name, scores in found.items():
        truth = torch.cat([torch.zeros(len(plain)), torch.ones(len(scores))]).bool()
        with if_possible("auroc", flags):
            _detection(_Judged(name, np.concatenate([plain, scores]), truth, clean), metrics, series, flags)


def _scores(folder: Path, judged: str) -> tuple[np.ndarray, Tensor]:
    with np.load(folder / SCORES) as arrays:
        return arrays[judged], torch.from_numpy(arrays[f"{judged}_rows"])


class _Judged(NamedTuple):
    """What a detector was asked about: ``where``; ``scores``, (n,); ``truth``, (n,) bool, what is poisoned; ``clean``, (k,) scores of
    clean images it could fix its threshold on; ``groups``, (n,), rows that belong together."""

    where: str
    scores: np.ndarray
    truth: Tensor
    clean: np.ndarray
    groups: Tensor | None = None


def _detection(judged: _Judged, metrics: Metrics, series: dict[str, list[float]], flags: list[str]) -> None:
    where, scores, positive = judged.where, judged.scores, judged.truth.numpy()
    if positive.all() or not positive.any():
        flags.append(f"auroc: no {'clean' if positive.all() else 'poisoned'} image among those judged ({where})")
        return
    if np.ptp(scores) == 0:
        flags.append(f"auroc: constant scores ({where})")
    groups = None if judged.groups is None else judged.groups.numpy()
    low, high, effective = detection.area_interval(scores, positive, groups=groups)
    area = detection.auroc(scores, positive)
    metrics[f"auroc[{where}]"] = Metric(
        value=area, ci_low=low, ci_high=high, n=len(scores), effective_n=effective, unit=SHARE, higher_is_better=True
    )
    if where == "clean":
        flags += doubts.control_auroc(area, positive, where)
    of = {side: None if groups is None else groups[flag] for side, flag in ((True, positive), (False, ~positive))}
    for percent in (1, 5):
        # Given the threshold; how it would move with other clean images is not in the interval.
        found = scores[positive] > detection.threshold_at_fpr(scores[~positive], percent / 100)
        metrics[f"tpr_at_{percent}_fpr[{where}]"] = numbers.share(found, True, of[True])
    threshold = detection.threshold_at_fpr(judged.clean, FIXED_RATE)
    for name, side, better in (("tpr", True, True), ("fpr", False, False)):
        outcomes = scores[positive == side] > threshold
        metrics[f"{name}_fixed_threshold[{where}]"] = numbers.share(outcomes, better, of[side])
        series[f"outcomes[{name}_fixed_threshold[{where}]]"] = [float(outcome) for outcome in outcomes]
    across, up = detection.thin(*detection.roc(scores, positive))
    bins = detection.histograms(scores, positive)
    for name, values in (
        ("roc_fpr", across),
        ("roc_tpr", up),
        ("score_edges", bins.edges),
        ("score_clean", bins.negative),
        ("score_poisoned", bins.positive),
    ):
        series[f"{name}[{where}]"] = [float(value) for value in values]


def measure_cell(
    testbed: ConditionalTestbed,
    aim: Aim,
    inputs: Inputs,
    seed: int,
    device: str,
    metrics: Metrics,
    series: dict[str, list[float]],
    flags: list[str],
) -> None:
    """Everything this module measures for one cell, by what its inputs hold. ``aim``: of the attack that is invoked."""
    shares: Metrics = {}
    with if_possible("p_t", flags):
        shares = poison_shares(testbed, read_rows(inputs["poisoned_rows"]), aim.label)
        metrics |= shares
    generations(testbed, aim, inputs, device, shares, metrics, series, flags)
    if "classifier" in inputs or "predictions" in inputs:
        classifier_metrics(testbed, aim, inputs, seed, device, metrics, series, flags)
    if "scores" in inputs:
        detector_metrics(testbed, inputs, seed, device, metrics, series, flags)
