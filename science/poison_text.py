"""What Pan et al. 2024 say, held against a text-to-image generator: one section for the suite ``sd``."""

from __future__ import annotations

from science.findings import BELOW, Claim, Line, compare, honest
from science.poison_defense import BARS, GENERATED, JUDGED, TRAINING, gained
from science.poisoned import DRAWN, above_honest, amplified, doubts, of
from science.table import Found, Section, percent, table

SUITE = "sd"


def stable_diffusion(found: Found) -> Section:
    """Sections 4 and 5: Fig. 2 and 3, Tables 3 to 5, on prompts instead of labels."""
    cells = found[SUITE]
    plain, generated = of(cells, "badnets1"), of(cells, "badnets1", "train_on_generated")
    filtered = {p: of(cells, "badnets1", "diffusion_classifier", defense_params={"p_filter": p}) for p in (0.0, 0.05)}
    detected = {detector: of(cells, "badnets1", detector) for detector in BARS}
    control = honest(cells, plain)
    rows: list[tuple[str, Line | None]] = [
        ("poisoned model; ordinary classifier", plain),
        ("… honest model", control),
        ("`train_on_generated`", generated),
        *((f"`diffusion_classifier`, {percent(p)} filtered", line) for p, line in filtered.items()),
        *((f"`{detector}`", line) for detector, line in detected.items()),
    ]
    columns, body = table("`badnets1`, 10 %", rows, (*DRAWN, *JUDGED, TRAINING, GENERATED))

    def lower(text: str, first: Line | None, second: Line | None) -> Claim:
        return Claim(f"With prompts: {text}", (compare("ASR", (first, "classifier_asr"), (second, "classifier_asr"), BELOW),))

    claims = (
        Claim("With prompts: the trigger is drawn more often than it was trained on", (amplified("G1 + G2 − p_t", plain),)),
        Claim(
            "With prompts: both kinds of tainted image are drawn, more than the honest model's false alarms",
            tuple(above_honest(group, "badnets1", plain, control) for group in ("g1", "g2")),
        ),
        Claim(
            "With prompts: detection is easier on generated images than on the training set",
            tuple(gained(detector, line) for detector, line in detected.items()),
        ),
        lower("a classifier trained on generated images has a lower ASR", generated, plain),
        lower("the diffusion classifier, nothing filtered, has a lower ASR than an ordinary one", filtered[0.0], plain),
        lower("filtering 5 % of its errors lowers its ASR", filtered[0.05], filtered[0.0]),
    )
    return Section(
        "10. A small Stable Diffusion",
        "The same on Stable Diffusion, fine-tuned on poisoned images and captions, of which the U-Net alone learns (sections 4 and 5; G1 + "
        'G2, detectors and classifiers as above). Here it is a complete but small one, asked "A photo of a [class name]" at guidance 2.',
        (SUITE,),
        columns,
        body,
        claims,
        notes=(
            *doubts(rows),
            "Its diffusion classifier adds its noise to latents, of which one stands for many pixels: leaving out the largest errors of "
            "latents need not leave out a patch of the image.",
        ),
    )
