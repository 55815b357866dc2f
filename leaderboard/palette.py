"""The colour scale: eleven steps from bad (orange) over neutral to good (blue) for the defender,
mixed in OKLab.

Blue against orange survives all common colour blindness; the neutral middle marks the turning point
without either hue. Every step keeps the theme's text at a contrast of at least 7 (WCAG AAA), which
a test computes.
"""

from __future__ import annotations

from collections.abc import Sequence

STEPS = 11
Rgb = tuple[int, int, int]

#: (bad, middle, good) and the text on them.
SCALES: dict[str, tuple[str, str, str]] = {
    "light": ("#f4a261", "#f6f4ef", "#74b3e8"),
    "dark": ("#80400f", "#25272b", "#14548b"),
}
TEXT: dict[str, str] = {"light": "#16181d", "dark": "#f4f4f2"}
#: Series colours for plots: Okabe and Ito's set, its yellow left out (too faint on white), black
#: replaced by the theme's text.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def scale(theme: str) -> list[str]:
    """The steps as ``#rrggbb``, index 0 the worst for the defender."""
    bad, middle, good = (_to_oklab(_parse(colour)) for colour in SCALES[theme])
    half = STEPS // 2
    left = [_mix(bad, middle, step / half) for step in range(half)]
    right = [_mix(middle, good, step / half) for step in range(half + 1)]
    return [_hex(_from_oklab(colour)) for colour in left + right]


def step(value: float, low: float, high: float, higher_is_better: bool | None) -> int | None:
    """The step of ``value`` on a scale from ``low`` to ``high``; ``None`` without a direction or
    without a range.
    """
    if higher_is_better is None or not high > low:
        return None
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return round((share if higher_is_better else 1 - share) * (STEPS - 1))


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio, 1 to 21."""
    light, dark = sorted((_luminance(_parse(first)), _luminance(_parse(second))), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _parse(colour: str) -> Rgb:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _hex(rgb: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _linear(channel: int) -> float:
    share = channel / 255
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)


def _luminance(rgb: Rgb) -> float:
    red, green, blue = (_linear(channel) for channel in rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _apply(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [
        sum(weight * entry for weight, entry in zip(row, vector, strict=True)) for row in matrix
    ]


# Björn Ottosson's OKLab (2020): linear sRGB -> cone responses -> cube root -> Lab, and back.
_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_FROM_LAB = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_FROM_LMS = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


def _to_oklab(rgb: Rgb) -> list[float]:
    return _apply(
        _TO_LAB,
        [
            max(0.0, cone) ** (1 / 3)
            for cone in _apply(_TO_LMS, [_linear(channel) for channel in rgb])
        ],
    )


def _from_oklab(lab: Sequence[float]) -> Rgb:
    linear = _apply(_FROM_LMS, [cone**3 for cone in _apply(_FROM_LAB, lab)])
    shares = [
        12.92 * max(0.0, value) if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
        for value in linear
    ]
    red, green, blue = (round(255 * min(1.0, share)) for share in shares)
    return red, green, blue


def _mix(first: Sequence[float], second: Sequence[float], share: float) -> list[float]:
    return [(1 - share) * one + share * other for one, other in zip(first, second, strict=True)]
