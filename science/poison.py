"""What Pan et al. 2024 say of the attack: amplification, guidance, samplers."""

from __future__ import annotations

from science.findings import ABOVE, BELOW, Claim, Line, compare, honest, within
from science.poisoned import (
    COMPOSITION,
    DRAWN,
    IN_POISON,
    PATTERNS,
    SAME_SHARE,
    TAINTED,
    WEIGHTS,
    above_honest,
    amplified,
    by_parameter,
    curve,
    doubts,
    draw,
    level,
    of,
    stack,
    with_honest,
)
from science.table import Found, Section, sample_note, table

#: What a set of cells is called, and the cells by trigger.
Settings = tuple[str, "dict[str, Line | None]"]
#: (sampler, steps), the declared default first.
SAMPLERS = (("ddim", 20), ("ddim", 50), ("ddpm", 50), ("sde_dpm_solver++", 20))
#: The guidance weight at which they are compared.
SAMPLED_AT = 2.0


def amplification(found: Found) -> Section:
    """Section 4, Fig. 2, Table 2, appendix B.1."""
    cells = found["poison"]
    at = {name: of(cells, name) for name in IN_POISON}
    control = {name: honest(cells, line) for name, line in at.items()}
    rows = with_honest(cells, [(f"`{name}`", line) for name, line in at.items()])
    columns, body = table(
        "attack",
        rows,
        (*COMPOSITION, "mismatch", "trigger_classifier_false_alarms", "fid", "fid_other_classes", "prompt_accuracy"),
    )

    claims = (
        Claim(
            "Trigger amplification: the trigger is drawn more often than it was trained on (G1 + G2 above p_t)",
            tuple(amplified(f"G1 + G2 − p_t, {name}", at[name]) for name in PATTERNS),
        ),
        Claim(
            "The same for WaNet, whose composition the paper does not show",
            (amplified("G1 + G2 − p_t, wanet", at["wanet"]),),
            ours=True,
        ),
        Claim(
            "Images of other classes with the trigger are drawn (G1), more than the honest model's false alarms",
            tuple(above_honest("g1", name, at[name], control[name]) for name in PATTERNS),
        ),
        Claim(
            "So are images of the class asked for with the trigger (G2), though none was trained on",
            tuple(above_honest("g2", name, at[name], control[name]) for name in PATTERNS),
        ),
        Claim(
            "Relabelling alone makes images of another class than the one asked for (appendix B.1)",
            (
                compare(
                    "G1 + G3, relabel_only − honest model",
                    (at["relabel_only"], "mismatch"),
                    (control["relabel_only"], "mismatch"),
                    ABOVE,
                ),
            ),
        ),
        Claim(
            "For the classes nobody aimed at, FID stays like the honest model's (Table 2)",
            tuple(
                compare(
                    f"FID of the other classes, {name} − honest model",
                    (at[name], "fid_other_classes"),
                    (control[name], "fid_other_classes"),
                    within(control[name], "fid_other_classes"),
                )
                for name in PATTERNS
            ),
        ),
    )
    return Section(
        "1. Trigger amplification",
        "Asked for the target class, the poisoned generator draws images of other classes with the trigger (G1) and images of the right "
        "class with the trigger (G2), together more than the trigger's share of the training rows under that label; asked for anything "
        "else, it draws as well as an honest one (section 4, Fig. 2 and 3, Table 2; 10 % poisoned). In the paper, ImageNette at guidance "
        "5: G1 + G2 of 0.73 (`badnets1`) and 0.60 (`badnets2`) where p_t is 0.50. Relabelling without a trigger has G3 and G4 only.",
        ("poison",),
        columns,
        body,
        claims,
        tuple(stack("composition", "G1 to G4 of every attack, beside the honest model", rows)),
        doubts(rows),
        whiskers=False,
    )


def guidance(found: Found) -> Section:
    """Section 4, appendix D.1, Fig. A7."""
    cells = found["science-clipping"]
    by_weight = {name: by_parameter(cells, name, "guidance_scale") for name in PATTERNS}
    rows = with_honest(
        cells, ((f"`{name}`, w = {w:g}", by_weight[name].get(w)) for name in PATTERNS for w in WEIGHTS if by_weight[name])
    )
    columns, body = table("attack, guidance", rows, DRAWN)

    def growth(low: float, high: float, name: str) -> tuple[str, tuple[Line | None, str], tuple[Line | None, str]]:
        ends = by_weight[name].get(high), by_weight[name].get(low)
        return f"G1 + G2 at w = {high:g} − at {low:g}, {name}", (ends[0], TAINTED), (ends[1], TAINTED)

    claims = (
        Claim(
            "Amplification is stronger at the highest guidance than at the lowest",
            tuple(compare(*growth(WEIGHTS[0], WEIGHTS[-1], name), ABOVE, across=True) for name in PATTERNS),
        ),
        Claim(
            "Amplification grows with every step up in guidance",
            tuple(
                compare(*growth(low, high, name), ABOVE, across=True)
                for name in PATTERNS
                for low, high in zip(WEIGHTS, WEIGHTS[1:], strict=False)
            ),
        ),
        Claim(
            "G1 + G2 is above p_t at every guidance",
            tuple(
                amplified(f"G1 + G2 − p_t at w = {w:g}, {name}", by_weight[name].get(w)) for name in PATTERNS for w in WEIGHTS
            ),
        ),
    )
    first = next((line for lines in by_weight.values() for line in lines.values()), None)
    title = "G1 + G2 against the guidance weight"
    curves = [curve(name, index, by_weight[name], TAINTED) for index, name in enumerate(PATTERNS)]
    controls = {w: other for w, line in by_weight["badnets1"].items() if (other := honest(cells, line))}
    curves.append(curve("honest model, judged for badnets1", 0, controls, TAINTED, dashed=True))
    return Section(
        "3. Guidance",
        "A higher guidance weight exacerbates amplification, at 10 % above all, though less than the poison rate does (section 4, appendix "
        "D.1, Fig. A7; weights 1, 2, 5, 10).",
        ("science-clipping",),
        columns,
        body,
        claims,
        tuple(draw("guidance", title, curves, ("guidance weight w", "G1 + G2"), TAINTED, level("p_t", first, "p_t"))),
        (*doubts(rows), sample_note(first)),
    )


def samplers(found: Found) -> Section:
    """Appendix D.2, Fig. A8."""
    cells = found["science-poison-samplers"]
    at = {
        (name, setting): of(
            cells, name, testbed={"sampler": setting[0], "num_inference_steps": setting[1], "guidance_scale": SAMPLED_AT}
        )
        for name in PATTERNS
        for setting in SAMPLERS
    }
    rows = with_honest(
        cells, ((f"`{name}`, `{sampler}`, {count} steps", line) for (name, (sampler, count)), line in at.items())
    )
    columns, body = table("attack, sampler", rows, DRAWN)
    fast, slow, ddpm, sde = ({name: at[name, setting] for name in PATTERNS} for setting in SAMPLERS)

    def less(text: str, one: Settings, other: Settings, metric: str = TAINTED, ours: bool = False) -> Claim:
        what = "G1" if metric == "g1" else "G1 + G2"
        parts = tuple(
            compare(
                f"{what}, {one[0]} − {other[0]}, {name}", (one[1][name], metric), (other[1][name], metric), BELOW, across=True
            )
            for name in PATTERNS
        )
        return Claim(text, parts, ours)

    claims = (
        Claim(
            "The threat is there under the stochastic `sde_dpm_solver++` too (G1 + G2 above the honest model's)",
            tuple(
                compare(f"G1 + G2, {name} − honest model", (sde[name], TAINTED), (honest(cells, sde[name]), TAINTED), ABOVE)
                for name in PATTERNS
            ),
        ),
        less("`sde_dpm_solver++` draws fewer tainted images than DDPM", ("SDE", sde), ("DDPM", ddpm)),
        less(
            "`sde_dpm_solver++` draws fewer images of another class with the trigger (G1) than DDPM",
            ("SDE", sde),
            ("DDPM", ddpm),
            "g1",
        ),
        less(
            "Stochastic DDPM draws fewer tainted images than deterministic DDIM, 50 steps each",
            ("DDPM", ddpm),
            ("DDIM", slow),
            ours=True,
        ),
        less(
            "Stochastic `sde_dpm_solver++` draws fewer than deterministic DDIM, 20 steps each",
            ("SDE", sde),
            ("DDIM", fast),
            ours=True,
        ),
        Claim(
            "20 steps of DDIM stand in for the paper's 50",
            tuple(
                part
                for name in PATTERNS
                for part in (
                    compare(
                        f"G1 + G2, 20 − 50 steps, {name}",
                        (fast[name], TAINTED),
                        (slow[name], TAINTED),
                        SAME_SHARE,
                        across=True,
                    ),
                    compare(
                        f"FID, 20 − 50 steps, {name}", (fast[name], "fid"), (slow[name], "fid"), within(slow[name], "fid"), True
                    ),
                )
            ),
            ours=True,
        ),
    )
    short = [(f"{name}, {sampler}, {count}", line) for (name, (sampler, count)), line in at.items()]
    return Section(
        "4. Samplers",
        "The threat does not hang on the sampler, but stochastic SDE sampling draws fewer tainted images, G1 above all, than the paper's "
        "DDPM sampling; the added randomness is given as the reason (appendix D.2, Fig. A8: G1 of 0.70 and 0.53 on CIFAR-10). Here SDE is "
        "the stochastic DPM-Solver++ with 20 steps, all at guidance 2; randomness as the reason would show between stochastic and "
        "deterministic samplers.",
        ("science-poison-samplers",),
        columns,
        body,
        claims,
        tuple(stack("samplers", "G1 to G4 under each sampler", short)),
        (*doubts(rows), sample_note(next((line for line in at.values() if line), None))),
        whiskers=False,
    )
