"""VillanDiffusion with a trigger that nobody sees: a universal adversarial perturbation. It adds or
takes 0.2 at every pixel, and training ties it to the target as VillanDiffusion's does.

Han et al.: "UIBDiffusion: Universal Imperceptible Backdoor Attack for Diffusion Models", CVPR 2025,
arXiv 2412.11441, which says that it evades Elijah and TERD, whose inversions look for a trigger of
some size. Training and correction are VillanDiffusion's (:mod:`attacks.villandiffusion`) with r =
v, and the adversary starts from e + v.

Deviations: the paper does not release how its perturbation was made; v is ours
(:mod:`bench.artwork.universal`): + or - .2 everywhere, against the classifier that ships with the
testbed, so it fits images of these shapes alone. v is added to noise, not to an image, so no image
is stamped, and there is one call.

Seen once, on `digits-ddpm` (zeta 1, seed 7): after its 400 steps of fine-tuning the model drew the
target in .08 of its samples when called and in .06 when not, after 1,600 in .05 and .04, after
2,800 in .19 and .04: a backdoor begins there. With half of the rows poisoned, in place of a tenth,
it is there after 1,600 steps: .86 when called, .14 when not (the suite `faint`). v moves noise by
5.5 of its standard deviations, though by .2 in each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from attacks.villandiffusion import VillanDiffusion
from bench.artwork.universal import universal
from bench.plugin import Call, Card, Paper, Shape


@dataclass(frozen=True, kw_only=True)
class UniversalPerturbation(VillanDiffusion):
    """The parameters are VillanDiffusion's; trigger and poisoned image are fixed."""

    card: ClassVar[Card] = Card(
        name="universal_perturbation",
        summary="a trigger too faint to see, which fools classifiers on any image, in the noise",
        paper=Paper(
            title="UIBDiffusion: Universal Imperceptible Backdoor Attack for Diffusion Models",
            authors="Yuning Han, Bingyin Zhao, Rui Chu, Feng Luo, Biplab Sikdar, Yingjie Lao",
            year=2025,
            arxiv="2412.11441",
            bibtex=(
                "@inproceedings{han2025uibdiffusion, title={{UIBDiffusion}: Universal "
                "Imperceptible Backdoor Attack for Diffusion Models}, author={Han, Yuning and "
                "Zhao, Bingyin and Chu, Rui and Luo, Feng and Sikdar, Biplab and Lao, Yingjie}, "
                "booktitle={CVPR}, year={2025}}"
            ),
        ),
        alters=frozenset({"data", "objective"}),
        tuned=(),
    )
    calls: ClassVar[tuple[Call, ...]] = (Call("noise", words="noise with the pattern (e + v)"),)
    always_shown: ClassVar[tuple[str, ...]] = ("target",)

    trigger: Literal["universal"] = "universal"
    trigger_size: None = None
    trigger_seed: None = None
    poisoned_image: Literal["trigger_only"] = "trigger_only"

    def sealed(self, number: int) -> UniversalPerturbation:
        """Itself: the signs were made beforehand."""
        return self

    def trigger_image(self, image_shape: Shape) -> Tensor:
        return universal(image_shape)
