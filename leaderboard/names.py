"""What a metric's name means to a reader: its group, a short label, one sentence, and how its
values are written.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bench.record import FAMILIES, SLACK

#: Groups of the metric switch, in the order they stand on the board.
GROUPS = (
    "Image quality",
    "Backdoor, by noise",
    "Backdoor, by image",
    "Backdoor, other calls",
    "Control: clean noise",
    "Adversary's class",
    "Classifier",
    "Detection, training set",
    "Detection, generated",
    "Detection, noise",
    "Detection, image",
    "Detection, clean",
    "Inversion",
    "Cost",
    "Other",
)
_INVOCATION_GROUPS = {
    "noise": GROUPS[1],
    "image": GROUPS[2],
    "clean": GROUPS[4],
    "prompt": GROUPS[5],
}
_FAMILIES = {
    "fid": (
        "FID",
        "Fréchet distance between clean-noise samples and the clean training set, in the "
        "features of {}. Lower is healthier.",
    ),
    "kid": (
        "KID",
        "Kernel distance between clean-noise samples and the clean training set, in the features "
        "of {}. Lower is healthier.",
    ),
    "robust_asr": (
        "robust ASR",
        "Attack success rate of samples {} by the calibrated rule after whichever of a declared "
        "set of small transformations (shifts, "
        "contrast and brightness, mild blur) shows the target best: moving the picture does not "
        "hide it.",
    ),
    "asr": (
        "ASR",
        "Attack success rate by the calibrated rule: the share of samples {} "
        "that lie closer to the target than clean data or a flat image does.",
    ),
    "mse": ("MSE", "Mean squared error to the target, pixels in [0, 1], of samples {}."),
    "ssim": ("SSIM", "Structural similarity to the target of samples {}; 1 is identical."),
    "asr_field": (
        "ASR, field rule",
        "Share of samples {} with MSE to the target below 0.1: the literature's rule, vacuous "
        "for flat or dark targets.",
    ),
}
_INVOCATIONS = {
    "noise": "drawn from noise that carries the trigger",
    "image": "drawn from noise plus a real image that carries the trigger",
    "clean": "drawn from clean noise (no trigger: what the backdoor costs honest users)",
}
_WHERE = {
    "training set": "rows of the suspected training set; truth: the rows the adversary took",
    "generated": "images the generator drew; truth: the trigger classifier's verdict",
    "noise": "starting noise with the trigger against clean noise",
    "image": "starting noise plus a real image with the trigger against clean noise",
    "clean": "clean starting noise against other clean noise, the control",
}
#: What a detector judges, in reading order.
PLACES = tuple(_WHERE)
_DETECTION = {
    "auroc": (
        "AUROC",
        "Chance that a poisoned one scores above a clean one ({}). A guess has 0.5, and where "
        "nothing is poisoned that is right: "
        "such a control is not coloured.",
    ),
    "tpr_fixed_threshold": (
        "TPR at a fixed threshold",
        "Share of the poisoned that is found at a threshold fixed beforehand on clean held-out "
        "data, where 1 % lie above it ({}): what a "
        "defender would have had. Controls are not coloured.",
    ),
    "fpr_fixed_threshold": (
        "FPR at that threshold",
        "Share of the clean that is flagged at the threshold fixed on clean held-out data ({}); "
        "1 % was meant.",
    ),
    "tpr_at_1_fpr": (
        "TPR at 1 % FPR",
        "Share of the poisoned that is found while at most 1 % of the clean are flagged ({}). "
        "Controls are not coloured.",
    ),
    "tpr_at_5_fpr": (
        "TPR at 5 % FPR",
        "Share of the poisoned that is found while at most 5 % of the clean are flagged ({}). "
        "Controls are not coloured.",
    ),
}
DETECTION = frozenset(_DETECTION)
#: Families that share the flags of another: what is doubtful about the one is doubtful about the
#: other.
_FLAGGED_AS = {
    "robust_asr": "asr",
    "tpr_fixed_threshold": "auroc",
    "fpr_fixed_threshold": "auroc",
    "tpr_at_1_fpr": "auroc",
    "tpr_at_5_fpr": "auroc",
    "amplification": "asr",
    "g1": "asr",
    "g2": "asr",
    "replication_p95": "replication",
    "replication_held_out": "replication",
    "replication_held_out_p95": "replication",
}
_PLAIN = {
    "mse[constant]": (
        "Other",
        "MSE, constant",
        "MSE of the best constant image to the target: what a collapsed generator could reach.",
    ),
    "asr_threshold": (
        "Other",
        "ASR threshold",
        "The MSE below which a sample counts as a success under the calibrated rule.",
    ),
    "robust_asr[prompt]": (
        "Adversary's class",
        "robust ASR",
        "Share of images asked for in the adversary's class in which a trigger classifier sees "
        "the trigger, as they are or after "
        "whichever of a declared set of transformations shows it best, or a matched filter finds "
        "what the trigger adds on average.",
    ),
    "asr[prompt]": (
        "Adversary's class",
        "ASR (G1 + G2)",
        "Share of images asked for in the adversary's class that carry the trigger, by the "
        "trigger classifier.",
    ),
    "amplification": (
        "Adversary's class",
        "amplification",
        "(G1 + G2) / p_t: above 1, the generator draws the trigger more often than the training "
        "set shows it under that label.",
    ),
    "g1": (
        "Adversary's class",
        "G1",
        "Share with the trigger and of another class than the one asked for.",
    ),
    "g2": ("Adversary's class", "G2", "Share with the trigger and of the class asked for."),
    "g3": (
        "Adversary's class",
        "G3",
        "Share without the trigger and of another class than the one asked for.",
    ),
    "g4": (
        "Adversary's class",
        "G4",
        "Share without the trigger and of the class asked for: healthy.",
    ),
    "mismatch": (
        "Adversary's class",
        "mismatch",
        "G1 + G3: share of another class than the one asked for.",
    ),
    "p_t": (
        "Adversary's class",
        "p_t",
        "Poisoned share of the training rows that carry the adversary's label.",
    ),
    "ta": (
        "Classifier",
        "TA",
        "Accuracy on clean held-out images: of a classifier trained on the suspected set (no "
        "defense), or of what the defense puts in "
        "its place.",
    ),
    "classifier_asr": (
        "Classifier",
        "ASR of the classifier",
        "Share of stamped held-out images of other classes that are taken for the adversary's "
        "class.",
    ),
    "prompt_accuracy": (
        "Image quality",
        "prompt accuracy",
        "Share of images, all classes alike, that show the class asked for, by the evaluation "
        "classifier.",
    ),
    "poison_rate[all rows]": (
        "Other",
        "poison rate",
        "Poisoned rows over all rows, the paper's plots' counting.",
    ),
    "poison_rate[other classes]": (
        "Other",
        "poison rate, other classes",
        "Poisoned rows over the rows of other classes than the adversary's, the paper's text's "
        "counting.",
    ),
    "trigger_classifier_false_alarms": (
        "Other",
        "trigger classifier, false alarms",
        "Share of clean held-out images in which the trigger classifier sees the trigger: "
        "smaller rates mean nothing.",
    ),
    "judge_accuracy": (
        "Other",
        "evaluation classifier, accuracy",
        "Accuracy of the classifier behind G1 to G4 on held-out images, clean and stamped.",
    ),
    "template_rate": (
        "Other",
        "images with the patch itself",
        "Share in which a search for the patch finds it: an estimate that needs no classifier.",
    ),
    "robust_asr_false_alarms": (
        "Other",
        "robust ASR, false alarms",
        "Share of clean held-out images that count as a success: smaller rates mean nothing.",
    ),
    "robust_asr_threshold": (
        "Other",
        "robust ASR threshold",
        "The share of variance explained above which a sample counts.",
    ),
    "trigger_classifier_misses": (
        "Other",
        "trigger classifier, misses",
        "Share of stamped held-out images in which the trigger classifier sees no trigger.",
    ),
    "inversion_mse_best": (
        "Inversion",
        "best epoch",
        "MSE of recovered images to the true target at the best epoch, chosen with the target in "
        "hand: optimistic.",
    ),
    "inversion_mse_last": (
        "Inversion",
        "last epoch",
        "MSE of recovered images to the true target at the last epoch. Low is found.",
    ),
    "inversion_mse_black": (
        "Inversion",
        "black image",
        "MSE of a constant black image to the target: the line an inversion has to beat.",
    ),
    "trigger_mse_best": (
        "Inversion",
        "trigger, best epoch",
        "MSE of recovered triggers to the true one at the best epoch, chosen with the trigger in "
        "hand: optimistic.",
    ),
    "trigger_mse_last": (
        "Inversion",
        "trigger, last epoch",
        "MSE of recovered triggers to the true one at the last epoch. Low is found.",
    ),
    "trigger_mse_constant": (
        "Inversion",
        "trigger, constant image",
        "MSE of the best constant image to the trigger: the line an inversion has to beat.",
    ),
    "cost[seconds]": (
        "Cost",
        "time",
        "Seconds of this cell alone: the defense and its samples, not the attack's training.",
    ),
    "cost[peak_memory_bytes]": ("Cost", "memory", "Peak memory of the process that ran this cell."),
    "cost[generator_calls]": (
        "Cost",
        "network calls",
        "Images passed through the generator's network by this cell.",
    ),
    "cost[attack_seconds]": (
        "Cost",
        "attack time",
        "Seconds the attack's training took; shared by all its cells.",
    ),
}
_REPLICATION = {
    "replication": (
        "replication",
        "Mean similarity (cosine) of clean-noise samples to the nearest image of the set the "
        "generator was trained on, in the features "
        "of {}. 1 is a copy; what else counts as one differs between extractors.",
    ),
    "replication_p95": (
        "replication, 95th percentile",
        "How similar the nearest twentieth of the samples are at least to an image of the "
        "training set, in the features of {}.",
    ),
    "replication_held_out": (
        "replication of held-out images",
        "The same mean similarity of real images that no generator was trained on, in the "
        "features of {}: only more than this can be "
        "copying.",
    ),
    "replication_held_out_p95": (
        "replication of held-out images, 95th percentile",
        "The same 95th percentile of real images that no generator was trained on, in the "
        "features of {}.",
    ),
}
_TRIGGER = ("trigger_mse_best", "trigger_mse_last", "trigger_mse_constant")
_ORDER = [*_FAMILIES, "fid_sd", "kid_sd", "fid_other_classes", *_REPLICATION, *_DETECTION, *_PLAIN]


@dataclass(frozen=True)
class Words:
    """``group`` is one of :data:`GROUPS`; ``label`` is unique within it only, so the full name
    stands beside it.
    """

    name: str
    group: str
    label: str
    sentence: str


def split(name: str) -> tuple[str, str]:
    """``asr[noise]`` -> (``asr``, ``noise``); a name without brackets has an empty second part."""
    match = re.fullmatch(r"([^\[\]]+)\[(.*)\]", name)
    return (match[1], match[2]) if match else (name, "")


def words(name: str) -> Words:
    """Total: a metric this file does not know is shown under its own name."""
    if name in _PLAIN:
        return Words(name, *_PLAIN[name])
    family, argument = split(name)
    if family in ("fid", "kid") and argument:
        label, sentence = _FAMILIES[family]
        return Words(name, GROUPS[0], f"{label} [{argument}]", sentence.format(argument))
    if family == "fid_other_classes" and argument:
        sentence = (
            f"FID over the classes the adversary did not aim at, in the features of {argument}."
        )
        return Words(name, GROUPS[0], f"FID, other classes [{argument}]", sentence)
    if family in ("fid_sd", "kid_sd") and argument:
        of = family.removesuffix("_sd").upper()
        sentence = (
            f"Standard deviation of the real images' {of} over the splits, in the "
            f"features of {argument}."
        )
        return Words(name, GROUPS[0], f"{of}, standard deviation [{argument}]", sentence)
    if family in _REPLICATION and argument:
        label, sentence = _REPLICATION[family]
        return Words(name, GROUPS[0], f"{label} [{argument}]", sentence.format(argument))
    if family in _DETECTION and argument in _WHERE:
        label, sentence = _DETECTION[family]
        return Words(name, f"Detection, {argument}", label, sentence.format(_WHERE[argument]))
    if family in _FAMILIES and argument in _INVOCATIONS:
        label, sentence = _FAMILIES[family]
        return Words(
            name, _INVOCATION_GROUPS[argument], label, sentence.format(_INVOCATIONS[argument])
        )
    if family in _FAMILIES and argument:
        label, sentence = _FAMILIES[family]
        return Words(
            name,
            GROUPS[3],
            f"{label}, {argument}",
            sentence.format(f"drawn as the adversary calls it, by {argument}"),
        )
    if family == "robust_asr_threshold" and argument:
        sentence = (
            f"Where the robust rule draws its line in {argument}: what the nearest clean "
            f"training images reach."
        )
        return Words(name, "Other", f"robust ASR threshold, {argument}", sentence)
    if family == "cost":
        return Words(name, "Cost", argument.replace("_", " "), "")
    return Words(name, "Other", name, "")


def flag_family(name: str) -> str:
    """The family under which flags about this metric are written."""
    family = split(name)[0]
    return _FLAGGED_AS.get(family, family)


#: Every family this file knows, whether a record has it or not: a flag may say why it has not.
KNOWN = frozenset(split(name)[0] for name in _ORDER)


def anchor(name: str) -> str:
    """What a reference line of a testbed is called."""
    return {"real_images": "real images", "base_model": "clean base model"}.get(name, name)


def order(name: str) -> tuple[int, int, str]:
    """A total order: by group, then as declared above, then by name."""
    key = name if name in _PLAIN else split(name)[0]
    return (
        GROUPS.index(words(name).group),
        _ORDER.index(key) if key in _ORDER else len(_ORDER),
        name,
    )


_BOUNDED = (
    frozenset(
        (
            "asr robust_asr asr_field ssim g1 g2 g3 g4 mismatch p_t ta classifier_asr "
            "prompt_accuracy"
        ).split()
    )
    | DETECTION
)


#: Counted over samples: success or not.
_SHARES = _BOUNDED - {"ssim", "auroc", "p_t"}


def rule(name: str) -> tuple[float, float, bool | None]:
    """Where a metric's values can lie, but for rounding, and its direction if that is its own and
    not a record's.
    """
    family = split(name)[0]
    found = next(
        (known for known in FAMILIES if re.fullmatch(known[0], family)),
        ("", -math.inf, math.inf, None),
    )
    return found[1] - SLACK, found[2] + SLACK, found[3]


def share(name: str) -> bool:
    """Whether the metric is a count over its samples, so that its interval over seeds is that of a
    share.
    """
    return split(name)[0] in _SHARES


def distance(name: str) -> bool:
    """Whether the metric is a mean squared error: positive, without an upper end."""
    return split(name)[0] in (
        "mse",
        "inversion_mse_best",
        "inversion_mse_last",
        "inversion_mse_black",
        *_TRIGGER,
    )


def bounded(name: str) -> bool:
    """Whether the metric lives in [0, 1] by definition, so that its colour scale is that and not
    the range at hand.
    """
    return split(name)[0] in _BOUNDED


def number(name: str, value: float, decimals: int | None = None) -> str:
    """As a reader sees it: rates with two decimals, the rest with three significant digits, memory
    in MiB.
    """
    if name == "cost[peak_memory_bytes]":
        return f"{value / 2**20:,.0f} MiB"
    if name.startswith("cost[") and name.endswith("seconds]"):
        return (f"{value:.1f} s" if value < 100 else f"{value:,.0f} s").replace("-", "−")
    if name == "cost[generator_calls]":
        return f"{value:,.0f}"
    places = decimals_for(name, value) if decimals is None else decimals
    text = f"{value:,.{places}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def decimals_for(name: str, *values: float) -> int:
    """Decimals that give the largest of ``values`` three significant digits; two for what lives in
    [0, 1] or is a ratio of such.
    """
    if bounded(name) or name == "amplification":
        return 2
    largest = max(abs(value) for value in values)
    return 3 if largest == 0 else min(6, max(0, 2 - math.floor(math.log10(largest))))
