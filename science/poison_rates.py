"""What Pan et al. 2024 say of the poison rate: amplification at every rate, and a phase transition."""

from __future__ import annotations

from science.findings import ABOVE, Claim, Line, compare, honest
from science.poisoned import DRAWN, TAINTED, amplified, by_parameter, curve, doubts, draw
from science.table import Found, Plot, Section, percent, table

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
#: The guidance weights at which they are compared.
RATED_AT = (2.0, 5.0)


def rates(found: Found) -> Section:
    """Section 4, Fig. 3 and 4."""
    cells = found["science-poison-rates"]
    by_rate = {w: by_parameter(cells, "badnets1", "poison_rate", guidance_scale=w) for w in RATED_AT}
    at = {w: {rate: by_rate[w].get(rate) for rate in RATES} | by_rate[w] for w in RATED_AT}
    rows = [
        row
        for w in RATED_AT
        for row in (
            *((f"w = {w:g}, {percent(rate)}", at[w][rate]) for rate in sorted(at[w])),
            (f"w = {w:g}, honest model", next((honest(cells, line) for line in by_rate[w].values()), None)),
        )
    ]
    columns, body = table("guidance, poison rate", rows, DRAWN)

    def apart(w: float, rate: float, more: str, less: str) -> tuple[str, tuple[Line | None, str], tuple[Line | None, str]]:
        return f"{more.upper()} − {less.upper()} at {percent(rate)}, w = {w:g}", (at[w][rate], more), (at[w][rate], less)

    claims = (
        Claim(
            "The trigger is amplified at every poison rate",
            tuple(amplified(f"G1 + G2 − p_t at {percent(rate)}, w = {w:g}", at[w][rate]) for w in RATED_AT for rate in RATES),
        ),
        Claim(
            "At a low rate most tainted images still show the class asked for (G2 above G1)",
            tuple(compare(*apart(w, rate, "g2", "g1"), ABOVE) for w in RATED_AT for rate in (0.01, 0.02)),
        ),
        Claim(
            "At a high rate most of them show another class (G1 above G2)",
            tuple(compare(*apart(w, rate, "g1", "g2"), ABOVE) for w in RATED_AT for rate in (0.1, 0.2)),
        ),
    )
    plots: list[Plot] = []
    for w in RATED_AT:
        shown = {100 * rate: line for rate, line in by_rate[w].items()}
        curves = (
            curve("G1", 0, shown, "g1"),
            curve("G2", 1, shown, "g2"),
            curve("G1 + G2", 2, shown, TAINTED),
            curve("p_t, the trigger's share of the training rows", 3, shown, "p_t", dashed=True),
        )
        title = f"What is drawn for the target class, against the poison rate, at guidance {w:g}"
        plots += draw(f"rates-w{w:g}", title, curves, ("poison rate in %", "share of the images"), TAINTED)
    return Section(
        "2. Poison rate and the phase transition",
        "Whatever the rate, the trigger is amplified. At low rates (1 %, below 5 %) it is so by images that still show the class asked "
        "for (G2), at high ones (10 %) by images of other classes (G1): a phase transition (section 4, Fig. 3 and 4). The paper's rates "
        "are 1 to 10 %; 20 % is the end of the range that it names. Its Stable Diffusion is asked at guidance 5; so are the "
        "models here, beside the testbed's own 2.",
        ("science-poison-rates",),
        columns,
        body,
        claims,
        tuple(plots),
        doubts(rows),
    )
