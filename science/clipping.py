"""Whether BadDiffusion's defense, clipping at inference, stops poisoned training data: by trigger, guidance and sampler."""

from __future__ import annotations

import math

from science.findings import ABOVE, BELOW, Claim, Line, compare, honest, not_above
from science.pictures import grid
from science.poison import SAMPLED_AT, SAMPLERS
from science.poisoned import (
    DRAWN,
    PATTERNS,
    SHARE_MARGIN,
    TAINTED,
    WEIGHTS,
    by_parameter,
    curve,
    doubts,
    draw,
    level,
    of,
    stack,
)
from science.table import Found, Section, defended, sample_note, table

MODES = ("clip_x0", "clip_x0_ddim", "clip_xt")
#: Those that every sampler knows.
GENERAL = ("clip_x0", "clip_xt")
#: (sampler, steps, guidance weight). Other weights of DDIM are in the sweep.
SETTINGS = (*((*setting, SAMPLED_AT) for setting in SAMPLERS), ("ddpm", 50, 5.0), ("sde_dpm_solver++", 20, 5.0))
SWEEP, OTHERS = "science-clipping", "science-poison-samplers"
NAMES = {"badnets1": "the patch", "badnets2": "the blended trigger"}
#: By how much prompt accuracy may fall and still be kept.
KEPT = 0.05
#: What ``science/x0_trajectories.py`` draws.
FIGURES = (
    ("x0-badnets1-outside-w2.svg", "Patch, guidance 2: share of predicted x0 values outside −1 to 1, by step"),
    ("x0-badnets1-outside-w5.svg", "Patch, guidance 5: share of predicted x0 values outside −1 to 1, by step"),
    ("x0-badnets1-excess-w2.svg", "Patch, guidance 2: how far predicted x0 values lie outside −1 to 1, by step"),
    ("x0-badnets1-excess-w5.svg", "Patch, guidance 5: how far predicted x0 values lie outside −1 to 1, by step"),
    ("x0-badnets1-distance.svg", "Patch: distance of the predicted x0 in the corner to the trigger's own pixels, by step"),
    ("x0-badnets2-outside.svg", "Blended trigger: share of predicted x0 values outside −1 to 1, by step"),
    ("x0-badnets2-excess.svg", "Blended trigger: how far predicted x0 values lie outside −1 to 1, by step"),
)
Pair = tuple[str, "Line | None", "Line | None"]


def patch(found: Found) -> Section:
    """The opaque patch in the corner."""
    pairs = {mode: _by_weight(found, "badnets1", mode) for mode in MODES}
    claims = [claim for mode in MODES for claim in _stopped(pairs[mode], mode)]
    return _sweep(
        found,
        "badnets1",
        "1. The patch",
        "The patch's pixels are black and white, at the ends of the range, where a sharp prediction overshoots and clipping bites. Is it "
        "drawn less often, at every guidance?",
        claims,
    )


def blended(found: Found) -> Section:
    """The trigger that covers the whole image faintly."""
    pairs = {mode: _by_weight(found, "badnets2", mode) for mode in MODES}
    return _sweep(
        found,
        "badnets2",
        "2. The blended trigger",
        "A blended trigger lies in the middle of the range. Does it stay, that is, does G1 + G2 fall by less than 0.1?",
        [_stays(pairs[mode], mode) for mode in MODES],
    )


def cost(found: Found) -> Section:
    """What clipping does to FID and to prompts that are followed, for poisoned and honest models."""
    cells = found[SWEEP]
    rows: list[tuple[str, Line | None]] = []
    kept: dict[str, list[Pair]] = {mode: [] for mode in MODES}
    for name in (*PATTERNS, "honest model"):
        # The honest model is the same whichever attack it is probed with; its FID knows no trigger.
        for w, attacked in _plain(found, name if name in PATTERNS else "badnets1").items():
            line = attacked if name in PATTERNS else honest(cells, attacked)
            rows.append((f"{name}, w = {w:g}", line))
            for mode in MODES:
                clipped = defended(cells, attacked, mode)
                other = clipped if name in PATTERNS else honest(cells, clipped)
                rows.append((f"… with `{mode}`", other))
                kept[mode].append((f"{name}, w = {w:g}", line, other))
    columns, body = table("model", rows, ("fid", "prompt_accuracy", "fid_other_classes"))
    claims = []
    for mode in MODES:
        whole = kept[mode] or [("", None, None)]
        claims.append(
            Claim(
                f"`{mode}` does not cost quality: FID rises by less than 10 %, if at all",
                tuple(
                    compare(f"FID, with − without: {name}", (other, "fid"), (line, "fid"), not_above(line, "fid"))
                    for name, line, other in whole
                ),
            )
        )
        claims.append(
            Claim(
                f"`{mode}` keeps prompts followed: accuracy falls by less than {KEPT:g}, if at all",
                tuple(
                    compare(
                        f"prompt accuracy, with − without: {name}",
                        (other, "prompt_accuracy"),
                        (line, "prompt_accuracy"),
                        (-KEPT, math.inf),
                    )
                    for name, line, other in whole
                ),
            )
        )
    title = "FID against the guidance weight"
    curves = []
    for index, name in enumerate(PATTERNS):
        curves.append(curve(f"{name}, no defense", (1 + len(MODES)) * index, _plain(found, name), "fid"))
        curves += [
            curve(f"{name}, {mode}", (1 + len(MODES)) * index + 1 + place, _clipped(found, name, mode), "fid")
            for place, mode in enumerate(MODES)
        ]
    return Section(
        "3. What clipping costs",
        "A defense that spoils the images is none. Are FID and prompt accuracy kept, for the poisoned models and for the honest one?",
        (SWEEP,),
        columns,
        body,
        tuple(claims),
        tuple(draw("fid", title, curves, ("guidance weight w", "FID"), "fid")),
        (sample_note(next((line for _, line in rows if line), None)),),
    )


def samplers(found: Found) -> Section:
    """The same under each sampler."""
    cells = found[OTHERS]
    rows: list[tuple[str, Line | None]] = []
    pairs: dict[tuple[str, str], list[Pair]] = {(name, mode): [] for name in PATTERNS for mode in GENERAL}
    drawn = []
    for name in PATTERNS:
        for sampler, count, w in SETTINGS:
            line = of(cells, name, testbed={"sampler": sampler, "num_inference_steps": count, "guidance_scale": w})
            rows.append((f"`{name}`, `{sampler}`, {count} steps, w = {w:g}", line))
            drawn.append((f"{name}, {sampler}, {count}, w = {w:g}", line))
            for mode in GENERAL:
                other = defended(cells, line, mode)
                rows.append((f"… with `{mode}`", other))
                drawn.append((f"… {mode}", other))
                pairs[name, mode].append((f"{sampler}, {count} steps, w = {w:g}", line, other))
            # Clipping could also make a clean image look like the trigger.
            rows += [(f"… honest model, with `{mode}`", honest(cells, defended(cells, line, mode))) for mode in GENERAL]
    columns, body = table("attack, sampler", rows, DRAWN)
    claims = [_stopped(pairs["badnets1", mode], mode)[0] for mode in GENERAL]
    claims += [_stays(pairs["badnets2", mode], mode) for mode in GENERAL]
    claims.append(
        Claim(
            "`clip_xt` makes stochastic samplers draw the blended trigger more often (seen here first, and written down then)",
            tuple(
                compare(f"G1 + G2, with − without: {name}", (other, TAINTED), (line, TAINTED), ABOVE)
                for (sampler, _, _), (name, line, other) in zip(SETTINGS, pairs["badnets2", "clip_xt"], strict=True)
                if sampler != "ddim"
            ),
        )
    )
    return Section(
        "4. Other samplers",
        "Does it hold under stochastic samplers too? Under DDPM, `clip_x0` is what diffusers does by default.",
        (OTHERS,),
        columns,
        body,
        tuple(claims),
        tuple(stack("samplers", "G1 to G4 under each sampler, with and without clipping", drawn)),
        (*doubts(rows), sample_note(next((line for _, line in rows if line), None))),
        whiskers=False,
    )


def trajectories(found: Found) -> Section:
    """Pictures; nothing is judged here."""
    cells = found[SWEEP]
    pictures = []
    for name in PATTERNS:
        for w, line in _plain(found, name).items():
            pictures.append((f"{name}, w = {w:g}", [line, *(defended(cells, line, mode) for mode in MODES)]))
    sheet = grid(pictures, ("no defense", *MODES))
    title = "Samples of the adversary's class, by trigger and guidance: no defense, clip_x0, clip_x0_ddim, clip_xt"
    return Section(
        "5. A look at why",
        "What does the sampler predict where the trigger goes? The figures of one seed, 64 images of the adversary's class under DDIM, "
        "are a look and no evidence. They show the clean image that is predicted at each step, before anything clips it: how much of it "
        "leaves [−1, 1] inside the trigger's region and elsewhere, without a defense, with `clip_x0` and with `clip_x0_ddim`; and, over "
        "the images that end with the patch when nothing clips, how far the corner is from the patch. "
        "`python -m science.x0_trajectories --store DIR` draws them; the first steps, predicted from noise alone, may lie above the frame.",
        (SWEEP,),
        (),
        (),
        (),
        (("samples", title, sheet),) if sheet else (),
        figures=FIGURES,
        whiskers=False,
    )


def _plain(found: Found, name: str) -> dict[float, Line]:
    return by_parameter(found[SWEEP], name, "guidance_scale")


def _clipped(found: Found, name: str, mode: str) -> dict[float, Line]:
    return by_parameter(found[SWEEP], name, "guidance_scale", mode)


def _by_weight(found: Found, name: str, mode: str) -> list[Pair]:
    plain, clipped = _plain(found, name), _clipped(found, name, mode)
    return [(f"w = {w:g}", plain.get(w), clipped.get(w)) for w in sorted({*WEIGHTS, *plain})]


def _stopped(pairs: list[Pair], mode: str) -> tuple[Claim, ...]:
    """The trigger is drawn less often, and no more than it was trained on; healthy images take its place."""
    return (
        Claim(
            f"`{mode}` lowers G1 + G2 for the patch",
            tuple(
                compare(f"G1 + G2, with − without: {name}", (other, TAINTED), (line, TAINTED), BELOW)
                for name, line, other in pairs
            ),
        ),
        Claim(
            f"With `{mode}` the patch is no longer amplified (G1 + G2 below p_t)",
            tuple(compare(f"G1 + G2 − p_t: {name}", (other, TAINTED), (other, "p_t"), BELOW) for name, _, other in pairs),
        ),
        Claim(
            f"Healthy images take its place under `{mode}` (G4 rises)",
            tuple(compare(f"G4, with − without: {name}", (other, "g4"), (line, "g4"), ABOVE) for name, line, other in pairs),
        ),
    )


def _stays(pairs: list[Pair], mode: str) -> Claim:
    return Claim(
        f"`{mode}` does not stop the blended trigger: G1 + G2 falls by less than {SHARE_MARGIN:g}, if at all",
        tuple(
            compare(f"G1 + G2, with − without: {name}", (other, TAINTED), (line, TAINTED), (-SHARE_MARGIN, math.inf))
            for name, line, other in pairs
        ),
    )


def _sweep(found: Found, name: str, title: str, question: str, claims: list[Claim]) -> Section:
    """One trigger over the guidance, with and without clipping."""
    cells, plain = found[SWEEP], _plain(found, name)
    stem = "patch" if name == "badnets1" else "blended"
    rows: list[tuple[str, Line | None]] = []
    for w in sorted({*WEIGHTS, *plain}):
        rows.append((f"w = {w:g}", plain.get(w)))
        rows += [(f"… with `{mode}`", defended(cells, plain.get(w), mode)) for mode in MODES]
        rows.append(("… honest model", honest(cells, plain.get(w))))
    columns, body = table("guidance", rows, DRAWN)
    controls = {w: other for w, line in plain.items() if (other := honest(cells, line))}
    curves = [curve("no defense", 0, plain, TAINTED)]
    curves += [curve(mode, place + 1, _clipped(found, name, mode), TAINTED) for place, mode in enumerate(MODES)]
    curves.append(curve("honest model, no defense", len(MODES) + 1, controls, TAINTED, dashed=True))
    first = next(iter(plain.values()), None)
    plots = draw(
        stem,
        f"G1 + G2 of {NAMES[name]} against the guidance weight",
        curves,
        ("guidance weight w", "G1 + G2"),
        TAINTED,
        level("p_t", first, "p_t"),
    )
    plots += stack(f"{stem}-composition", f"G1 to G4 of {NAMES[name]}, by guidance, with and without clipping", rows)
    return Section(title, question, (SWEEP,), columns, body, tuple(claims), tuple(plots), (*doubts(rows), sample_note(first)))
