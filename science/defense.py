"""What BadDiffusion (Chou et al. 2023) says of defenses, clipping and ANP, and what longer training changes."""

from __future__ import annotations

from leaderboard import names
from leaderboard.board import label
from science.drawing import Curve, chart
from science.findings import ABOVE, BELOW, Claim, Line, attacked, compare, honest, not_below, pick, series_by_epoch, within
from science.table import (
    ATTACK_METRICS,
    Found,
    Section,
    defended,
    fid_part,
    interval_cell,
    md,
    references,
    seeds,
    shown,
    steps,
    table,
)


def clipping(found: Found) -> Section:
    """Section 4.6.2, appendix D, Table 6."""
    groups = (("digits", "clip_x0"), ("digits", "clip_xt"), ("science-longer", "clip_x0"))
    rows: list[tuple[str, Line | None]] = []
    claims = []
    for suite in ("digits", "science-longer"):
        cells = found[suite]
        for line in attacked(cells):
            rows.append((_place(suite, line), line))
            rows += [(f"… with `{mode}`", other) for mode in ("clip_x0", "clip_xt") if (other := defended(cells, line, mode))]
            if (control := honest(cells, line)) is not None:
                rows.append(("… honest model", control))
                rows += [
                    (f"… honest model with `{mode}`", other)
                    for mode in ("clip_x0", "clip_xt")
                    if (other := honest(cells, defended(cells, line, mode)))
                ]
    for suite, mode in groups:
        cells = found[suite]
        pairs: list[tuple[str, Line | None, Line | None]] = [
            (_place(suite, line), line, defended(cells, line, mode)) for line in attacked(cells)
        ]
        whole = pairs or [("", None, None)]
        where = f"`{mode}`, suite {suite}"
        for metric, region, words in (("mse[noise]", ABOVE, "raises the MSE"), ("asr[noise]", BELOW, "lowers the ASR")):
            parts = tuple(
                compare(
                    f"{names.words(metric).label}[noise] with − without{_of(name)}", (clipped, metric), (line, metric), region
                )
                for name, line, clipped in whole
            )
            claims.append(Claim(f"Clipping {words} ({where})", parts))
        claims.append(
            Claim(
                f"Clipping keeps a similar FID ({where})",
                tuple(
                    fid_part(f"with − without{_of(name)}", clipped, line, within(line, "fid")) for name, line, clipped in whole
                ),
            )
        )
    columns, body = table("cell", rows, ATTACK_METRICS)
    return Section(
        "3. Inference-time clipping",
        "Clipping to [−1, 1] at every step induces a large MSE under the trigger and keeps a similar FID (section 4.6.2, Table 6). The "
        "paper's words clip the image x_t (`clip_xt`), its formula and code the predicted x_0 (`clip_x0`): both, apart.",
        ("digits", "science-longer"),
        columns,
        body,
        tuple(claims),
    )


def anp(found: Found) -> Section:
    """Section 4.6.1, appendix B, Tables 8 and 9."""
    cells = found["science-anp"]
    by_rate = {
        float(line.cell.defense.params["learning_rate"]): line
        for line in attacked(cells, "anp")
        if "learning_rate" in line.cell.defense.params
    }
    order = sorted(by_rate)
    first = by_rate[order[0]] if order else None
    epochs = max((len(series_by_epoch(line, "inversion_mse")) for line in by_rate.values()), default=0)
    rows: list[tuple[str, ...]] = []
    for rate in order:
        for name, line in ((f"{rate:g}", by_rate[rate]), (f"{rate:g}, honest model", honest(cells, by_rate[rate]))):
            values = [interval for _, interval in series_by_epoch(line, "inversion_mse")] if line else []
            curve = [interval_cell("mse", values[place]) if place < len(values) else "–" for place in range(epochs)]
            rows.append((name, shown(line, "inversion_mse_best"), shown(line, "inversion_mse_last"), *curve, seeds(line)))
    baselines = (
        ("constant black", "inversion_mse_black"),
        ("best constant image", "mse[constant]"),
        ("plain clean samples", "mse[clean]"),
    )
    if first is not None:
        rows += [(f"*{name}*", *[shown(first, metric)] * 2, *["–"] * epochs, seeds(first)) for name, metric in baselines]
    high, middle = by_rate[order[-1]] if len(order) > 1 else None, by_rate.get(1e-4)
    claims = [
        Claim(
            "A higher learning rate makes the reconstruction worse (last epoch)",
            (
                compare(
                    f"last epoch, {f'rate {order[-1]:g}' if order else 'highest rate'} − 0.0001",
                    (high, "inversion_mse_last"),
                    (middle, "inversion_mse_last"),
                    ABOVE,
                ),
            ),
        ),
        Claim(
            "ANP collapses to a black image at the highest rate (last epoch as far from the target as black is)",
            (
                compare(
                    "last epoch − constant black",
                    (high, "inversion_mse_last"),
                    (high, "inversion_mse_black"),
                    within(high, "inversion_mse_black"),
                ),
            ),
        ),
        Claim(
            "At its best epoch, chosen with the target in hand, ANP comes closer than the best constant image",
            tuple(
                compare(
                    f"rate {rate:g}: best epoch − best constant image",
                    (by_rate[rate], "inversion_mse_best"),
                    (by_rate[rate], "mse[constant]"),
                    BELOW,
                )
                for rate in order
            ),
            ours=True,
        ),
        Claim(
            "ANP is unreliable: what a defender holds (last epoch) is farther from the target than the best constant image",
            tuple(
                compare(
                    f"rate {rate:g}: last epoch − best constant image",
                    (by_rate[rate], "inversion_mse_last"),
                    (by_rate[rate], "mse[constant]"),
                    ABOVE,
                )
                for rate in order
            ),
        ),
        Claim(
            "ANP is unreliable: it comes no closer to the target in a backdoored model than in an honest one (last epoch)",
            tuple(
                compare(
                    f"rate {rate:g}: backdoored − honest",
                    (by_rate[rate], "inversion_mse_last"),
                    (honest(cells, by_rate[rate]), "inversion_mse_last"),
                    not_below(by_rate[rate], "inversion_mse_black"),
                )
                for rate in order
            ),
            ours=True,
        ),
    ]
    curves = [
        Curve(f"learning rate {rate:g}", place, series_by_epoch(by_rate[rate], "inversion_mse"))
        for place, rate in enumerate(order)
    ]
    for place, rate in enumerate(order):
        if other := honest(cells, by_rate[rate]):
            curves.append(
                Curve(f"learning rate {rate:g}, honest model", place, series_by_epoch(other, "inversion_mse"), dashed=True)
            )
    curves = [curve for curve in curves if curve.points]
    levels = [(name, interval.mean) for name, metric in baselines if first and (interval := first.interval(metric))]
    title = "Reconstruction MSE of ANP by epoch and learning rate"
    return Section(
        "6. ANP",
        "ANP is very sensitive to its learning rate (the MSE explodes from 1e-4 to 2e-4), may collapse to a black image, and so is "
        "unreliable (section 4.6.1, appendix B, Tables 8 and 9).",
        ("science-anp",),
        ("learning rate", "best epoch", "last epoch", *(f"epoch {epoch + 1}" for epoch in range(epochs)), "seeds"),
        tuple(rows),
        tuple(claims),
        (("anp", title, chart(curves, levels, "epoch", "MSE to the target", title)),) if curves else (),
        (
            "Reconstruction MSE to the true target, which no defender has: the best epoch is chosen with it in hand, an optimistic bound. "
            "The honest model hides nothing, so whatever ANP comes close to there is chance. The perturbation budget "
            "(Table 8) is not varied.",
        ),
    )


def longer(found: Found) -> Section:
    """Appendix A, and what the bench's choice of poisoned image changes."""
    cells, board = found["science-longer"], found["digits"]
    ours, blend = pick(cells, {"poisoned_image": "trigger_only"}), pick(cells, {"poisoned_image": "blend"})
    wanted = (
        {name: ours.cell.attack.params.get(name) for name in ("trigger", "target", "poison_rate", "poisoned_image")}
        if ours
        else {}
    )
    short = pick(board, wanted | {"training_steps": None}) if ours else None
    rows: list[tuple[str, Line | None]] = [*references(cells, honest(cells, ours))]
    rows.append(("`trigger_only`, default steps (suite digits)", short))
    for name, line in (("trigger_only", ours), ("blend", blend)):
        rows += [(f"`{name}`{steps(line)}", line), ("… with `clip_x0`", defended(cells, line, "clip_x0"))]
    control = honest(cells, blend)
    claims = (
        Claim(
            "Longer fine-tuning gives a lower FID (appendix A, Table 5)",
            (fid_part("2.4 times the steps − default steps", ours, short, BELOW),),
        ),
        Claim(
            "A patient adversary gets further: longer training raises the ASR",
            (
                compare("ASR[noise], 2.4 times the steps − default steps", (ours, "asr[noise]"), (short, "asr[noise]"), ABOVE),
                compare("ASR[image], 2.4 times the steps − default steps", (ours, "asr[image]"), (short, "asr[image]"), ABOVE),
            ),
            ours=True,
        ),
        Claim(
            "The paper's blended poisoned images, invoked by noise as in the paper, work after longer training",
            (compare("ASR[noise], blend − honest model", (blend, "asr[noise]"), (control, "asr[noise]"), ABOVE),),
        ),
        Claim(
            "Invoked by an image that carries the trigger, they work",
            (compare("ASR[image], blend − honest model", (blend, "asr[image]"), (control, "asr[image]"), ABOVE),),
            ours=True,
        ),
        Claim(
            "Invoked by noise, `trigger_only` works better than `blend`, at the same steps",
            (compare("ASR[noise], trigger_only − blend", (ours, "asr[noise]"), (blend, "asr[noise]"), ABOVE),),
            ours=True,
        ),
        Claim(
            "Invoked by an image, `blend` works better than `trigger_only`, at the same steps",
            (compare("ASR[image], blend − trigger_only", (blend, "asr[image]"), (ours, "asr[image]"), ABOVE),),
            ours=True,
        ),
    )
    columns, body = table("attack", rows, ("asr[noise]", "asr[image]", "mse[noise]", "mse[image]", "fid", "asr[clean]"))
    return Section(
        "7. Longer training, and what the poisoned process ends in",
        "The paper trains on the trigger blended into images and invokes with noise plus trigger; more epochs lower FID, and 10 epochs "
        "can be enough for the hat (appendix A, Table 5).",
        ("science-longer", "digits"),
        columns,
        body,
        claims,
    )


def _place(suite: str, line: Line) -> str:
    """Which attack of which suite."""
    return f"{md(label(line.cell.attack))}, {suite}"


def _of(name: str) -> str:
    return f": {name}" if name else ""
