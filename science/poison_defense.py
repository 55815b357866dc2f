"""What Pan et al. 2024 say of defenders: detection on generated images, training on them, and the diffusion classifier."""

from __future__ import annotations

import math

from science.findings import ABOVE, BELOW, Claim, Line, Part, against, compare, honest
from science.poisoned import IN_POISON, PATTERNS, SAME_SHARE, by_parameter, curve, draw, level, of, with_honest
from science.table import Found, Section, defended, percent, table

#: Detector -> the AUROC that it should reach on the patch, training set: a little below what its authors' code reached on this data.
BARS = {"strip": 0.95, "cognitive_distillation": 0.9, "fct": 0.85}
TRAINING, GENERATED = "auroc[training set]", "auroc[generated]"
#: What the paper still calls a slight drop of TA: Table 4 has up to 11 points, Table 5 up to 4.
SLIGHT, LITTLE = 0.1, 0.05
FILTERS = (0.0, 0.01, 0.05, 0.1)
JUDGED = ("classifier_asr", "ta")


def gained(name: str, line: Line | None) -> Part:
    """A detector's AUROC on generated images against that on the training set."""
    return compare(f"AUROC, generated − training set: {name}", (line, GENERATED), (line, TRAINING), ABOVE)


def nothing_to_find(name: str, control: Line | None) -> Part:
    """The AUROC of a detector on an honest training set against 0.5."""
    return against(f"AUROC − 0.5, honest model, {name}", (control, TRAINING), 0.5, SAME_SHARE)


def detectors(found: Found) -> Section:
    """Section 5, Table 3."""
    cells = found["poison"]
    at = {(name, detector): of(cells, name, detector) for name in IN_POISON for detector in BARS}
    named = [(f"`{name}`, `{detector}`", line) for (name, detector), line in at.items()]
    metrics = (TRAINING, GENERATED, "tpr_at_5_fpr[training set]", "tpr_at_5_fpr[generated]")
    columns, body = table("attack, detector", with_honest(cells, named), metrics)

    def easier(text: str, names: tuple[str, ...], ours: bool = False) -> Claim:
        parts = tuple(gained(f"{name}, {detector}", at[name, detector]) for name in names for detector in BARS)
        return Claim(text, parts, ours)

    claims = (
        easier("Detection is easier on generated images than on the training set", PATTERNS),
        easier("The same for WaNet, which the paper does not try", ("wanet",), ours=True),
        Claim(
            "On the training set, each detector reaches its bar on the patch",
            tuple(
                against(f"AUROC − {bar:g}, {detector}", (at["badnets1", detector], TRAINING), bar, ABOVE)
                for detector, bar in BARS.items()
            ),
            ours=True,
        ),
        Claim(
            "In an honest training set there is nothing to find (AUROC 0.5)",
            tuple(nothing_to_find(detector, honest(cells, at["badnets1", detector])) for detector in BARS),
            ours=True,
        ),
    )
    return Section(
        "5. Detectors on generated images",
        "Since the generator amplifies the trigger, detectors that know nothing of generators do better on what it draws than on its "
        "training set: AUROC rises for STRIP, Cognitive Distillation and FCT, by 0.001 to 0.25 (section 5, Table 3).",
        ("poison",),
        columns,
        body,
        claims,
        notes=(
            "On the training set the truth is which rows the adversary took; on generated images it is the trigger classifier's word. For "
            "the honest model the rows are those that the adversary would have taken, untouched.",
        ),
    )


def generated(found: Found) -> Section:
    """Section 5, Table 4."""
    suites = ("science-poison-generated", "science-poison-rates", "poison")
    cells = [line for suite in suites for line in found[suite]]
    by_rate = by_parameter(cells, "badnets1", "poison_rate", "train_on_generated")
    at = {rate: by_rate.get(rate) for rate in (0.01, 0.05, 0.1)} | by_rate
    others = {name: of(cells, name, "train_on_generated") for name in ("badnets2", "wanet", "relabel_only")}
    named = [(f"`badnets1`, {percent(rate)}", at[rate]) for rate in sorted(at)]
    named += [(f"`{name}`, 10 %", line) for name, line in others.items()]
    rows: list[tuple[str, Line | None]] = []
    for name, line in named:
        rows += [(f"{name}: trained on the poisoned set", _undefended(cells, line)), ("… on generated images", line)]
        if (control := honest(cells, line)) is not None:
            rows.append(("… on an honest model's images", control))
    columns, body = table("attack, classifier", rows, JUDGED)

    def change(name: str, line: Line | None, metric: str) -> tuple[str, tuple[Line | None, str], tuple[Line | None, str]]:
        what = "TA" if metric == "ta" else "ASR"
        return f"{what}, generated − poisoned set: {name}", (line, metric), (_undefended(cells, line), metric)

    low = [(f"badnets1, {percent(rate)}", at[rate]) for rate in (0.01, 0.05)]
    high = [("badnets1, 10 %", at[0.1]), ("badnets2, 10 %", others["badnets2"]), ("wanet, 10 %", others["wanet"])]
    claims = (
        Claim(
            "A classifier trained on the poisoned generator's images has a lower ASR",
            tuple(compare(*change(name, line, "classifier_asr"), BELOW) for name, line in low),
        ),
        Claim(
            "At 1 % its ASR is under 2 %",
            (against("ASR − 0.02 at 1 %", (at[0.01], "classifier_asr"), 0.02, BELOW),),
        ),
        Claim(
            "Training on generated images protects less at a higher rate",
            (
                compare(
                    "ASR on generated images, 5 % − 1 %",
                    (at[0.05], "classifier_asr"),
                    (at[0.01], "classifier_asr"),
                    ABOVE,
                ),
            ),
        ),
        Claim(
            f"TA drops slightly (by less than {SLIGHT:g})",
            tuple(compare(*change(name, line, "ta"), (-SLIGHT, math.inf)) for name, line in low),
        ),
        Claim(
            "A classifier trained on generated images has a lower ASR at 10 % too, which the paper does not report",
            tuple(compare(*change(name, line, "classifier_asr"), BELOW) for name, line in high),
            ours=True,
        ),
    )
    return Section(
        "6. Training on generated images",
        "At a low rate the generator turns mislabelled images into well labelled ones: a classifier trained on as many of its images "
        "has a far lower ASR (BadNets-1 on ImageNette: 0.88 to 0.01 at 1 %, 1.00 to 0.52 at 5 %) and a slightly lower TA (section 5, "
        "Table 4; 1, 2 and 5 %).",
        suites,
        columns,
        body,
        claims,
    )


def diffusion_classifier(found: Found) -> Section:
    """Section 5, Table 5."""
    suites = ("poison", "science-poison-filter")
    cells = [line for suite in suites for line in found[suite]]
    by_filter = {name: by_parameter(cells, name, "p_filter", "diffusion_classifier") for name in IN_POISON}
    ordinary = {name: of(cells, name) for name in IN_POISON}
    rows: list[tuple[str, Line | None]] = []
    for name in IN_POISON:
        at = {p: by_filter[name].get(p) for p in (FILTERS if name == "badnets1" else FILTERS[::2])} | by_filter[name]
        rows.append((f"`{name}`: ordinary classifier", ordinary[name]))
        rows += [(f"`{name}`: diffusion classifier, {percent(p)} filtered", at[p]) for p in sorted(at)]
        rows += [
            (f"… honest model, {percent(p)} filtered", control)
            for p in sorted(at)
            if name == "badnets1" and (control := honest(cells, at[p]))
        ]
    columns, body = table("attack, classifier", rows, JUDGED)
    patch = {p: by_filter["badnets1"].get(p) for p in FILTERS}

    def step(low: float, high: float, metric: str) -> tuple[str, tuple[Line | None, str], tuple[Line | None, str]]:
        what = "TA" if metric == "ta" else "ASR"
        return f"{what}, {percent(high)} − {percent(low)} filtered", (patch[high], metric), (patch[low], metric)

    claims = (
        Claim(
            "The diffusion classifier has a lower ASR than an ordinary classifier, nothing filtered",
            (
                compare(
                    "ASR, diffusion − ordinary classifier, badnets1",
                    (patch[0.0], "classifier_asr"),
                    (ordinary["badnets1"], "classifier_asr"),
                    BELOW,
                ),
            ),
        ),
        Claim(
            "Its ASR falls when the largest errors are left out",
            tuple(compare(*step(0.0, p, "classifier_asr"), BELOW) for p in FILTERS[1:]),
        ),
        Claim(
            "Its ASR falls further with every step of the filter",
            tuple(
                compare(*step(low, high, "classifier_asr"), BELOW) for low, high in zip(FILTERS[1:], FILTERS[2:], strict=False)
            ),
        ),
        Claim(
            f"TA drops only a little (by less than {LITTLE:g})",
            tuple(compare(*step(0.0, p, "ta"), (-LITTLE, math.inf)) for p in FILTERS[1:]),
        ),
        Claim(
            "Filtering lowers the ASR of triggers that cover the whole image too",
            tuple(
                compare(
                    f"ASR, 5 % − 0 % filtered, {name}",
                    (by_filter[name].get(0.05), "classifier_asr"),
                    (by_filter[name].get(0.0), "classifier_asr"),
                    BELOW,
                )
                for name in ("badnets2", "wanet")
            ),
            ours=True,
        ),
    )
    title = "ASR and TA of the diffusion classifier against the share that is filtered"
    shown = {name: {100 * p: line for p, line in by_filter[name].items()} for name in PATTERNS}
    curves = [curve(f"ASR, {name}", index, shown[name], "classifier_asr") for index, name in enumerate(PATTERNS)]
    curves += [curve(f"TA, {name}", index + 2, shown[name], "ta", dashed=True) for index, name in enumerate(PATTERNS)]
    levels = level("ASR of an ordinary classifier, badnets1", ordinary["badnets1"], "classifier_asr")
    return Section(
        "7. The diffusion classifier",
        "A poisoned generator used as a classifier is fooled less than an ordinary classifier, and less still if the largest shares of its "
        "errors, which sit where the trigger is, are filtered out: ASR falls, TA hardly (section 5, Table 5; BadNets-1 on CIFAR-10, 10 %: "
        "0.99, 0.76, 0.53, 0.46 at 0, 1, 5, 10 %).",
        suites,
        columns,
        body,
        claims,
        tuple(draw("filter", title, curves, ("share of errors filtered out, in %", "share"), "ta", levels)),
        ("The patch covers 3.5 % of the image's values here, so that 1 % cannot cover it.",),
    )


def _undefended(cells: list[Line], line: Line | None) -> Line | None:
    """The same attack's control column, which holds the classifier trained on the poisoned set."""
    return defended(cells, line, "none")
