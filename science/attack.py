"""What BadDiffusion (Chou et al. 2023) says of the attack itself: poison rate, scheme, samplers, trigger size."""

from __future__ import annotations

from science.findings import ABOVE, BELOW, Claim, Line, anchor, attacked, compare, honest, not_above, pick, within
from science.table import (
    ATTACK_METRICS,
    Found,
    Section,
    base,
    fid_part,
    over_parameter,
    percent,
    references,
    sample_note,
    shown,
    steps,
    table,
)

#: What ``trigger_size: null`` comes to on 16 x 16 pixels: the paper's 14 of 32.
DEFAULT_SIZE = 7
#: FID of Grey Box and Hat on CIFAR-10 (Table 7), Inception features: for orientation, not comparable with ours.
PAPER_FID = {0.05: 8.53, 0.1: 8.81, 0.2: 8.89, 0.3: 9.14, 0.5: 10.25, 0.7: 11.97, 0.9: 19.09}
PAPER_CLEAN_FID = 14.83


def rates(found: Found) -> Section:
    """Section 4.3, Table 7."""
    cells = found["science-rates"]
    by_rate = {
        line.cell.attack.params["poison_rate"]: line for line in attacked(cells) if "poison_rate" in line.cell.attack.params
    }
    at = {rate: by_rate.get(rate) for rate in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)} | by_rate
    control = next((other for rate in sorted(by_rate) if (other := honest(cells, by_rate[rate]))), None)
    base_model = anchor(cells, "base_model")
    low = [0.05, 0.1, 0.2, 0.3]
    rows = [*references(cells, control), *((percent(rate), at[rate]) for rate in sorted(at))]
    columns, body = table("poison rate", rows, ATTACK_METRICS)
    paper = {"clean base model": f"{PAPER_CLEAN_FID}"} | {percent(rate): f"{fid:.2f}" for rate, fid in PAPER_FID.items()}
    body = tuple((*row, paper.get(row[0], "–")) for row in body)
    enough = shown(at[0.05], "asr[noise]")
    claims = (
        Claim(
            f"5 % is enough for a low MSE: below the best constant image's (ASR[noise] at 5 %: {enough})",
            (
                compare(
                    "MSE[noise] at 5 % − MSE of the best constant image",
                    (at[0.05], "mse[noise]"),
                    (at[0.05], "mse[constant]"),
                    BELOW,
                ),
            ),
        ),
        Claim(
            "MSE falls as the rate grows",
            (compare("MSE[noise] at 90 % − at 5 %", (at[0.9], "mse[noise]"), (at[0.05], "mse[noise]"), BELOW),),
        ),
        Claim(
            "FID stays near the clean model's, or below, up to 30 %",
            tuple(
                fid_part(f"{percent(rate)} − honest fine-tuning", at[rate], control, not_above(control, "fid")) for rate in low
            ),
        ),
        Claim(
            "FID is better than the clean model's under 30 %, the clean model not fine-tuned (the paper's comparison)",
            tuple(fid_part(f"{percent(rate)} − clean base model", at[rate], base_model, BELOW) for rate in low[:3]),
        ),
        Claim(
            "The same against honest fine-tuning: is it the poison that helps, or the training?",
            tuple(fid_part(f"{percent(rate)} − honest fine-tuning", at[rate], control, BELOW) for rate in low[:3]),
            ours=True,
        ),
        Claim(
            "FID grows at 70 % and 90 % (Grey Box)",
            tuple(fid_part(f"{percent(rate)} − at 30 %", at[rate], at[0.3], ABOVE) for rate in (0.7, 0.9)),
        ),
    )
    in_percent = {100 * rate: line for rate, line in by_rate.items()}
    axis = "poison rate in %"
    plots = [
        over_parameter("rates-mse", "MSE[noise] against the poison rate", axis, in_percent, "mse[noise]", control),
        over_parameter("rates-asr", "ASR[noise] against the poison rate", axis, in_percent, "asr[noise]", control),
        over_parameter("rates-fid", "FID against the poison rate", axis, in_percent, "fid", control, base_model),
    ]
    return Section(
        "1. Poison rate",
        "Poisoning 5 % is mostly enough for a low MSE, which falls quickly with the rate; FID stays stable up to 30 %, is even better "
        "than the clean model's below that, and grows at 70 and 90 % for the trigger Grey Box (section 4.3, Table 7).",
        ("science-rates",),
        (*columns, "FID in the paper (CIFAR-10)"),
        body,
        claims,
        tuple(plot for plot in plots if plot),
    )


def schemes(found: Found) -> Section:
    """Section 4.4, Fig. 3, Table 4."""
    cells = found["science-schemes"]
    tuned, scratch = pick(cells, {"scheme": "finetune"}), pick(cells, {"scheme": "scratch"})
    control = honest(cells, tuned)
    columns, body = table(
        "scheme",
        [*references(cells, control), (f"fine-tuning{steps(tuned)}", tuned), (f"from scratch{steps(scratch)}", scratch)],
        ATTACK_METRICS,
    )
    claims = (
        Claim("Fine-tuning reaches a lower FID", (fid_part("fine-tuning − from scratch", tuned, scratch, BELOW),)),
        Claim(
            "Their MSE is comparable",
            (
                compare(
                    "MSE[noise] fine-tuning − from scratch",
                    (tuned, "mse[noise]"),
                    (scratch, "mse[noise]"),
                    within(control, "mse[noise]"),
                ),
            ),
        ),
    )
    return Section(
        "2. Fine-tuning and training from scratch",
        "Both trained till convergence (50 and 400 epochs), fine-tuning attains significantly lower FID at comparable MSE (section 4.4). "
        "Here training from scratch gets 2.4 times the default steps, not eight times the epochs.",
        ("science-schemes",),
        columns,
        body,
        claims,
    )


def samplers(found: Found) -> Section:
    """Appendix E, Table 3."""
    cells = found["science-samplers"]
    settings = (("ddpm", 1000), ("ddpm", 50), ("ddim", 50), ("dpm_solver", 20), ("dpm_solver++", 20))
    rows: list[tuple[str, Line | None]] = []
    at = {}
    for sampler, count in settings:
        testbed = {"sampler": sampler, "num_inference_steps": count}
        line = at[sampler, count] = pick(cells, {}, testbed=testbed)
        rows.append((f"`{sampler}`, {count} steps", line))
        if line is not None:
            rows += [("… honest model", honest(cells, line)), ("… clean base model", anchor(cells, "base_model", line.board))]
    full, strided = at["ddpm", 1000], at["ddpm", 50]
    control = honest(cells, full)
    others = [(f"`{sampler}`, {count} steps", at[sampler, count]) for sampler, count in settings[2:]]

    def less_effective(name: str, line: Line | None, reference: Line | None, what: str, ours: bool = False) -> Claim:
        parts = (
            compare("MSE[noise] − that of DDPM", (line, "mse[noise]"), (reference, "mse[noise]"), ABOVE, across=True),
            compare("ASR[noise] − that of DDPM", (line, "asr[noise]"), (reference, "asr[noise]"), BELOW, across=True),
        )
        return Claim(f"The attack is less effective under {name} than under {what}", parts, ours)

    claims = (
        Claim(
            "DDPM with 50 strided steps stands in for all 1000",
            (
                compare(
                    "MSE[noise], 50 − 1000 steps",
                    (strided, "mse[noise]"),
                    (full, "mse[noise]"),
                    within(control, "mse[noise]"),
                    True,
                ),
                compare("ASR[noise], 50 − 1000 steps", (strided, "asr[noise]"), (full, "asr[noise]"), (-0.1, 0.1), True),
                compare("FID, 50 − 1000 steps", (strided, "fid"), (full, "fid"), within(full, "fid"), True),
            ),
            ours=True,
        ),
        *(less_effective(name, line, full, "DDPM with 1000 steps") for name, line in others),
        less_effective(*others[0], strided, "DDPM with as many steps", ours=True),
        Claim(
            "The backdoored model keeps a better FID than the clean model under these samplers",
            tuple(fid_part(f"{name}: backdoored − clean base model", line, base(cells, line), BELOW) for name, line in others),
        ),
    )
    columns, body = table("sampler", rows, ATTACK_METRICS)
    return Section(
        "4. Samplers",
        "Under DDIM (50 steps), DPM-Solver and DPM-Solver++ (20 steps, second order) the attack is less effective, because they give up "
        "the Markov chain of DDPM; FID stays better than the clean model's (appendix E, Table 3).",
        ("science-samplers",),
        columns,
        body,
        claims,
        notes=(sample_note(strided or full),),
    )


def sizes(found: Found) -> Section:
    """Appendix H, Table 11."""
    cells = found["science-triggers"]
    by_size = {
        float(DEFAULT_SIZE if (size := line.cell.attack.params["trigger_size"]) is None else size): line
        for line in attacked(cells)
        if "trigger_size" in line.cell.attack.params
    }
    order = sorted(by_size)
    control = honest(cells, by_size[order[0]]) if order else None
    rows = [*references(cells, control), *((f"{size:g} of 16 pixels", by_size[size]) for size in order)]
    ends = (by_size[order[0]], by_size[order[-1]]) if len(order) > 1 else (None, None)
    wording = f"{order[0]:g} − at {order[-1]:g} pixels" if len(order) > 1 else "the smallest − at the largest"
    claims = [
        Claim(
            "MSE is higher for the smallest trigger than for the largest",
            (compare(f"MSE[noise] at {wording}", (ends[0], "mse[noise]"), (ends[1], "mse[noise]"), ABOVE),),
        )
    ]
    if len(order) > 2:
        steps = tuple(
            compare(
                f"MSE[noise] at {small:g} − at {large:g} pixels",
                (by_size[small], "mse[noise]"),
                (by_size[large], "mse[noise]"),
                ABOVE,
            )
            for small, large in zip(order, order[1:], strict=False)
        )
        claims.append(Claim("MSE grows with every step down in size", steps))
    plot = over_parameter(
        "triggers-mse",
        "MSE[noise] against the trigger's size",
        "side of the grey box in pixels",
        by_size,
        "mse[noise]",
        control,
    )
    columns, body = table("trigger size", rows, ATTACK_METRICS)
    return Section(
        "5. Trigger size",
        "For the trigger Grey Box the MSE becomes higher when the trigger is smaller; for the Stop Sign it stays (appendix H, Table 11; "
        "4 to 18 of 32 pixels). Only the grey box is tried here.",
        ("science-triggers",),
        columns,
        body,
        tuple(claims),
        (plot,) if plot else (),
    )
