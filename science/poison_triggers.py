"""What Pan et al. 2024 say of other triggers and of clean labels: one section for the suite ``science-poison-triggers``."""

from __future__ import annotations

from science.findings import ABOVE, Claim, compare, honest
from science.poison_defense import BARS, GENERATED, JUDGED, TRAINING, nothing_to_find
from science.poisoned import DRAWN, SAME_SHARE, TAINTED, above_honest, amplified, doubts, of, stack, with_honest
from science.table import Found, Section, table

SUITE, RATES = "science-poison-triggers", "science-poison-rates"
TRIGGERS = ("unicolor", "bomb")
CLEAN = "clean_label"


def triggers(found: Found) -> Section:
    """Appendices B.2 and B.3, Fig. A3 and A4."""
    cells = found[SUITE]
    at = {name: of(cells, name) for name in (*TRIGGERS, CLEAN)}
    control = {name: honest(cells, line) for name, line in at.items()}
    faint = of(cells, CLEAN, epsilon=1)
    named = [*((f"`{name}`", line) for name, line in at.items()), ("`clean_label`, faint noise", faint)]
    found_by = {(name, detector): of(cells, name, detector) for name in at for detector in BARS}
    wrong = of(found[RATES], "badnets1", testbed={"guidance_scale": 2.0}, poison_rate=0.05)
    rows = with_honest(cells, named)
    detected = with_honest(cells, [(f"`{name}`, `{detector}`", line) for (name, detector), line in found_by.items()])
    columns, body = table(
        "attack", [*rows, ("`badnets1`, 5 %, to compare", wrong), *detected], (*DRAWN, *JUDGED, TRAINING, GENERATED)
    )

    claims = (
        Claim(
            "Whatever the pattern: images of other classes with the trigger are drawn (G1)",
            tuple(above_honest("g1", name, at[name], control[name]) for name in TRIGGERS),
        ),
        Claim(
            "Whatever the pattern: images of the class asked for with the trigger are drawn (G2)",
            tuple(above_honest("g2", name, at[name], control[name]) for name in TRIGGERS),
        ),
        Claim(
            "Whatever the pattern: the trigger is drawn more often than it was trained on",
            tuple(amplified(f"G1 + G2 − p_t, {name}", at[name]) for name in TRIGGERS),
        ),
        Claim("A trigger with clean labels is amplified", (amplified("G1 + G2 − p_t, clean_label", at[CLEAN]),)),
        Claim(
            "Clean labels make no images of another class (within 0.1)",
            (
                compare(
                    "G1 + G3, clean_label − honest model",
                    (at[CLEAN], "mismatch"),
                    (control[CLEAN], "mismatch"),
                    SAME_SHARE,
                ),
            ),
        ),
        Claim(
            "The adversarial noise has little impact on the generator (within 0.1)",
            (compare("G1 + G2, noise of 16 − of 1 grey level", (at[CLEAN], TAINTED), (faint, TAINTED), SAME_SHARE),),
        ),
        Claim(
            "It has on a classifier: its ASR is higher with the noise (Turner et al.)",
            (compare("ASR, noise of 16 − of 1 grey level", (at[CLEAN], "classifier_asr"), (faint, "classifier_asr"), ABOVE),),
            ours=True,
        ),
        Claim(
            "In an honest training set there is nothing of these triggers to find (AUROC 0.5)",
            tuple(nothing_to_find(f"{name}, {detector}", honest(cells, line)) for (name, detector), line in found_by.items()),
            ours=True,
        ),
    )
    return Section(
        "11. Other triggers and clean labels",
        "Poisoning taints what is drawn whatever the trigger: in the paper, ImageNette at 10 %, G1 + G2 is 0.69 for a patch of one colour "
        "and 0.74 for a picture of a bomb. Clean-label poisoning, where images of the target class get adversarial noise and the trigger "
        "and keep their label, has the trigger amplified as well (G2 of 0.82 at 5 %), but no image shows another class, and the noise "
        "hardly matters (appendices B.2 and B.3, Fig. A3 and A4).",
        (SUITE, RATES),
        columns,
        body,
        claims,
        tuple(stack("triggers", "G1 to G4 of other triggers and of clean labels, beside the honest model", rows)),
        (
            *doubts(rows),
            "`clean_label` is at 5 % of all rows and puts the patch of `badnets1` on images of the target class, so that p_t is about "
            "half, as for the others. Whether its patch is missing for the clean labels or for the few rows, `badnets1` at 5 % tells. No "
            "code was released for it: it is made from the two papers' texts.",
            "In the honest model's rows of `clean_label` the images to be found are all of the target class, untouched. A detector that "
            "finds this class more or less suspicious than others is off 0.5 there, and its AUROC is to be read against that row.",
        ),
        whiskers=False,
    )
