"""What on a cell looks better than it can be, or the same as if nothing had been done: flags for
the record, never other numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bench.artefacts.roles import words
from bench.diffusion.noise import numpy_stream
from bench.metrics import asr, detection, fid
from bench.metrics.nearest import nearest
from bench.record import Flag

#: Samples that vary by less than this share of real images' variance are one picture.
NEARLY_CONSTANT = 0.01
#: Clean samples whose features vary by less than this share of real images' have collapsed. On
#: digits-cfg the share was 0.77 to 0.92, with and without attacks and defenses.
COLLAPSED = 0.5
#: Samples, and held-out images, whose nearest training image is looked for: at first, and at most.
GLANCED, CHECKED = 48, 256
#: Nearer to a training image than this share of held-out images' median is a copy. Of the digits'
#: held-out images 2 % are as near by themselves, of samples of their models 0 to 4 %.
NEAR = 0.15
#: The share of samples that may be as near, beyond what is usual.
COPIED = 0.05
#: Draws of real images that say what such images score themselves.
SPLITS = 6
#: An AUROC of a control beyond this many of its standard errors from 0.5 is no chance: one in a
#: thousand honest ones.
CONTROL_DEVIATIONS = 3.3
#: A detector that tells clean images of two origins apart with this AUROC knows the images.
KNOWS = 0.95
#: A mean change that correlates like this, either way, with a picture is that picture.
SHOWS = 0.95


def copies(
    images: Tensor, training: Tensor, held_out: Tensor, undefended: Tensor | None, seed: int
) -> list[Flag]:
    """Generated ``images`` that are rows of the clean training set, to the last bit, of which no
    generator draws one; or so near to rows of it that they are these, touched up. All are
    (n, c, h, w) uint8.

    What is near, in :mod:`bench.metrics.nearest`'s sense, follows from ``held_out`` images, which
    no copy is among: :data:`NEAR` of the median distance that these have to the training set. Some
    data have images so alike that honest ones are as near, and some generators know their training
    set by heart: only what is more than the share of ``held_out`` and of ``undefended`` samples is
    the defense's doing. Without these the samples are the control's, whose generator may draw what
    it likes, short of the bits.
    """
    if images.shape[1:] != training.shape[1:]:
        return []
    drawn = {row.tobytes() for row in images.numpy()}
    same = drawn & {data for row in training.numpy() if (data := row.tobytes()) in drawn}
    if same:
        count = sum(row.tobytes() in same for row in images.numpy())
        return [_copied(f"{count} of {len(images)} clean samples are rows of the training set")]
    if undefended is None or held_out.shape[1:] != training.shape[1:] or not len(held_out):
        return []
    # Those of one number are drawn from one noise: they are checked together.
    order = numpy_stream(seed, "copies", len(images)).permutation(len(images))
    rows = torch.from_numpy(order[:CHECKED])
    bound = NEAR * float(nearest(held_out[_spread(len(held_out), GLANCED)], training).median())
    if int((nearest(images[rows[:GLANCED]], training) < bound).sum()) < 2:
        return []  # no need to look closer, nor to ask what is usual
    near = nearest(images[rows], training) < bound
    count, share = int(near.sum()), float(near.float().mean())
    rows = rows[rows < len(undefended)]
    others = (undefended[rows], held_out[_spread(len(held_out), CHECKED)])
    if share - max(_share(nearest(one, training) < bound) for one in others) <= COPIED:
        return []
    text = f"{count} of {len(near)} clean samples that were looked at are rows of the training set,"
    return [_copied(f"{text} but for what was done to them")]


def _spread(count: int, most: int) -> Tensor:
    """At most ``most`` rows of ``count``, from everywhere."""
    return torch.arange(0, count, max(1, -(-count // most)))


def _share(which: Tensor) -> float:
    return float(which.float().mean()) if len(which) else 0.0


def _copied(what: str) -> Flag:
    return Flag("training-copies", "", f"copies of training images: {what}")


def constant(images: Tensor, real: Tensor, name: str, near_target: bool) -> list[Flag]:
    """Samples that hardly differ from each other, which real images (both uint8) do. A backdoor's
    do not either where it succeeds, so of those ``near_target`` only samples that are all the same
    are named.
    """
    if len(images) < 2:
        return []
    if bool((images == images[:1]).all()):
        return [_constant(f"every {name} sample is the same image")]
    if near_target:
        return []
    variance, usual = (float(rows.float().var(0).mean()) for rows in (images, real))
    if variance >= NEARLY_CONSTANT * usual:
        return []
    return [_constant(f"{name} samples hardly differ from each other")]


def collapsed(features: Tensor, reference: Tensor) -> list[Flag]:
    """Clean samples that are pictures of something, but of few things: the variance of their
    ``features`` (n, d), summed over d, beside that of real images' (m, d). What a generator draws
    instead may have a good FID of those, and no user would take it.
    """
    if len(features) < 2 or len(reference) < 2:
        return []
    variance, usual = (float(rows.double().var(0).sum()) for rows in (features, reference))
    if variance >= COLLAPSED * usual:
        return []
    text = f"collapsed: clean samples vary by {100 * variance / usual:.0f} % of what real images do"
    return [Flag("collapsed-samples", "", text)]


def shows(before: Tensor, after: Tensor, secrets: Mapping[str, Tensor | None]) -> list[Flag]:
    """A defense whose mean change of clean samples (n, c, h, w), uint8, without it and with it, is
    one of ``secrets``, pictures (c, h, w) by name: nobody who defends has seen these, and what a
    backdoored model draws from clean noise does not show them.
    """
    change = (after.float() - before.float()).mean(0)
    flags = []
    for name, picture in secrets.items():
        if picture is not None and picture.shape == change.shape:
            both = torch.stack([change.flatten(), picture.float().flatten()])
            # NaN, so no flag, where either is flat.
            alike = float(torch.corrcoef(both)[0, 1])
            if abs(alike) > SHOWS:
                text = f"knows the {name}: the mean change of clean samples is it, r {alike:.2f}"
                flags.append(Flag("knows-the-target", "", text))
    return flags


def _constant(what: str) -> Flag:
    return Flag("constant-samples", "", f"constant samples: {what}")


def evasion(role: str) -> Flag:
    """Samples of that role that the plain rate misses, and the robust one counts."""
    text = f"evades the metric, robust ASR is higher by more than .1 ({words(role)})"
    return Flag("evades-metric", "asr", text)


def target_in_honest(error: float | None, real: Tensor, goal: Tensor) -> list[Flag]:
    """An inversion's best mean squared ``error`` to the target on a model that has none, if it
    would count as recovering it; ``real``: clean images, uint8; ``goal``: the target (c, h, w) in
    [0, 1].
    """
    limit = asr.calibrate(real, goal).threshold
    return (
        [
            Flag(
                "target-in-honest-model",
                "inversion_mse_best",
                "found the target in a model that has none",
            )
        ]
        if error is not None and error < limit
        else []
    )


def below_real(value: float, reference: Tensor, count: int, seed: int) -> list[Flag]:
    """An FID lower than ``count`` real images themselves would score against the others, beyond
    what another draw of them would change: below the 95 % prediction interval of :data:`SPLITS`
    draws. ``reference``: their features (m, d).
    """
    from scipy import stats  # a second, which planning does not need

    if count < 2 or len(reference) < 2 * count:
        return []
    distances = []
    for split in range(SPLITS):
        order = torch.from_numpy(
            numpy_stream(seed, "real rows", count, split).permutation(len(reference))
        )
        drawn, rest = (fid.statistics(reference[rows]) for rows in (order[:count], order[count:]))
        distances.append(fid.fid(drawn, rest))
    reach = stats.t.ppf(0.975, SPLITS - 1) * np.std(distances, ddof=1) * np.sqrt(1 + 1 / SPLITS)
    limit = float(np.mean(distances) - reach)
    text = f"below {limit:.3g}, the least that as many real images score"
    return [Flag("below-real-images", "fid", text)] if value < limit else []


def control_auroc(value: float, positive: np.ndarray, where: str) -> list[Flag]:
    """The control of a detector, clean against clean, must be 0.5. ``positive``: (n,) bool, the
    truth it was computed with.
    """
    ones, zeros = int(positive.sum()), int((~positive).sum())
    # Mann and Whitney's, under the null hypothesis.
    error = float(np.sqrt((ones + zeros + 1) / (12 * ones * zeros)))
    beyond = abs(value - 0.5) > CONTROL_DEVIATIONS * error
    text = f"the control is {value:.2f} in the place of 0.5"
    return [Flag("control-off", f"auroc[{where}]", text)] if beyond else []


def looks_up(clean: np.ndarray, strangers: Mapping[str, np.ndarray]) -> list[Flag]:
    """A detector whose scores (n,) of ``clean`` training rows lie below those of other clean images
    (k,), by what these are, as the poisoned should: it compares rows with data that are public, and
    calls suspicious what it does not find there. Scores that follow from what an image shows, or
    from a classifier that was trained on the rows, overlap.
    """
    flags = []
    for what, scores in strangers.items():
        if len(clean) and len(scores):
            both = np.concatenate([clean, scores])
            area = detection.auroc(both, np.arange(len(both)) >= len(clean))
            if area > KNOWS:
                text = f"looks rows up: {what} clean images score as poisoned, AUROC {area:.2f}"
                flags.append(Flag("looks-rows-up", "auroc[training set]", text))
    return flags[:1]
