"""The pages that hold the papers' claims against the shipped science suites, and how they are written.

Each page is a pure function of the records (and of which figures of other scripts lie beside it): the same store gives the same bytes.
Plots are files in a folder beside the page that bears its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.engine.record import read_runs
from bench.errors import UserError
from science import attack, clipping, defense, poison
from science import poison_defense as castle
from science import poison_rates as phases
from science import poison_text as text
from science import poison_training as training
from science import poison_triggers as others
from science.page import Page, render

BADDIFFUSION = Page(
    name="science",
    title="BadDiffusion's claims, at a small scale",
    introduction=(
        "The paper is Chou, Chen, Ho: *How to Backdoor Diffusion Models?*, CVPR 2023, arXiv 2212.05400. Its experiments are on",
        "CIFAR-10 and CelebA-HQ with 10,000 samples; these run on a small embedded testbed. A claim that shows here holds *here*;",
        "one that does not is no refutation of the paper. FIDs are in the features of the testbed's own extractor: compare them",
        "on this page only.",
    ),
    reading=(
        "`[noise]`: samples drawn from noise plus trigger, the paper's invocation; `[image]`: from noise plus an image that carries "
        "the trigger; `[clean]`: from clean noise, the control. MSE is to the target, pixels in 0 to 1; ASR counts samples closer "
        "to the target than clean data or a flat image is."
    ),
    suites=(
        "science-rates",
        "science-schemes",
        "digits",
        "science-longer",
        "science-samplers",
        "science-triggers",
        "science-anp",
    ),
    sections=lambda found: [
        attack.rates(found),
        attack.schemes(found),
        defense.clipping(found),
        attack.samplers(found),
        attack.sizes(found),
        defense.anp(found),
        defense.longer(found),
    ],
    plots=("rates-mse.svg", "rates-asr.svg", "rates-fid.svg", "triggers-mse.svg", "anp.svg"),
)

_COMPOSITION = (
    "G1 to G4 divide the images drawn when the adversary's class is asked for: G1 carry the trigger and show another class, G2 carry it "
    "and show the class asked for, G3 show another class without it, G4 are as they should be. G1 + G2 is the trigger's share of what is "
    "drawn, p_t its share of the training rows under that label. Two classifiers decide, and the trigger classifier errs too: the honest "
    "model's G1 + G2 is what it takes for a trigger where there is none. FID and prompt accuracy are over all classes. For accuracies "
    "the margin is named in the claim; for G1 + G2 and AUROC it is that of an ASR. Guidance w is that of e_u + w (e_c − e_u). "
)

POISON = Page(
    name="poison",
    title="Poisoned training data: Pan et al.'s claims, at a small scale",
    introduction=(
        "The paper is Pan, Yao, Liu, Shen, Zhao, Kompella, Liu: *From Trojan Horses to Castle Walls: Unveiling Bilateral Data Poisoning",
        "Effects in Diffusion Models*, NeurIPS 2024, arXiv 2311.02373. The adversary touches nothing but the training data: images of",
        "other classes are stamped and put under the target's label. Its experiments are on CIFAR-10, ImageNette and Caltech-15; these",
        "run on small embedded testbeds with drawings of our own for triggers. A claim that shows here holds *here*; one that does not",
        "is no refutation of the paper. FIDs and replication are in the features of the testbed's own extractor: compare them on this",
        "page only. Sampling does not clip; what clipping changes has [a page of its own](clipping-and-poison.md).",
    ),
    reading=(
        _COMPOSITION + "ASR of the classifier: stamped held-out images of other classes that "
        "are taken for the target; TA: accuracy on clean ones. AUROC: 0.5 tells nothing, 1 finds all."
    ),
    suites=(
        "poison",
        "science-poison-rates",
        "science-clipping",
        "science-poison-samplers",
        "science-poison-generated",
        "science-poison-filter",
        "science-poison-replication",
        "science-poison-schemes",
        "sd",
        "science-poison-triggers",
    ),
    sections=lambda found: [
        poison.amplification(found),
        phases.rates(found),
        poison.guidance(found),
        poison.samplers(found),
        castle.detectors(found),
        castle.generated(found),
        castle.diffusion_classifier(found),
        training.replication(found),
        training.schemes(found),
        text.stable_diffusion(found),
        others.triggers(found),
    ],
    plots=(
        "composition.svg",
        "rates-w2.svg",
        "rates-w5.svg",
        "guidance.svg",
        "samplers.svg",
        "filter.svg",
        "replication.svg",
        "triggers.svg",
    ),
)

CLIPPING = Page(
    name="clipping-and-poison",
    title="Does inference-time clipping, the first paper's defense, stop the second paper's attack?",
    introduction=(
        "Chou et al. (arXiv 2212.05400) propose to clip at inference: every step's values are held to [−1, 1], which their backdoor does",
        "not survive. Pan et al. (arXiv 2311.02373) poison the training data alone, and do not try clipping. Neither paper asks whether",
        "the one stops the other, so every claim here is ours. They were written down after a prototype with one seed had shown them, and",
        "before these suites were run; but the prototype had clipped as diffusers' DDIM does, and `clip_x0_ddim` became an entry of its",
        "own only after a first run of these suites had shown `clip_x0` to leave the patch alone, and the last claim of section 4 was",
        "written down after its run. The patch is opaque black and white in a corner, the blended trigger covers the whole image faintly.",
        "What is poisoned and what is drawn else is on [its own page](poison.md).",
        "",
        "diffusers' DDPM and DDIM schedulers clip the predicted x_0 unless told not to: whoever samples that way has a defense switched on",
        "unawares, and whoever measures that way may miss the attack. Its DDIM goes on with the unclipped noise beside the clipped x_0,",
        "unless told otherwise (`clip_x0_ddim`); `clip_x0` lets the noise follow from the clipped x_0. Under DDPM the two are one.",
    ),
    reading=_COMPOSITION
    + "All attacks poison 10 %. `clip_x0` and `clip_x0_ddim` clip the predicted clean image at every step, `clip_xt` the image itself.",
    suites=("science-clipping", "science-poison-samplers"),
    sections=lambda found: [
        clipping.patch(found),
        clipping.blended(found),
        clipping.cost(found),
        clipping.samplers(found),
        clipping.trajectories(found),
    ],
    plots=(
        "patch.svg",
        "patch-composition.svg",
        "blended.svg",
        "blended-composition.svg",
        "fid.svg",
        "samplers.svg",
        "samples.png",
    ),
    lead="The question",
)

PAGES = (BADDIFFUSION, POISON, CLIPPING)


def build(store: Path, output: Path, pages: Sequence[Page] = PAGES) -> list[Path]:
    """Writes the pages and, in a folder named like each, its plots; removes plots that are no longer drawn. Raises ``UserError`` for a
    store without runs or a place that cannot be written."""
    if not (store / "runs").is_dir():
        raise UserError(f"{store} holds no runs yet; `castlewalls run science-rates --store {store}` makes the first")
    runs = read_runs(store)
    return [_write(page, *render(page, runs, _beside(output / page.name)), output) for page in pages]


def _beside(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _write(page: Page, text: str, plots: dict[str, str | bytes], output: Path) -> Path:
    file, folder = output / f"{page.name}.md", output / page.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in page.plots:
            if name not in plots:
                (folder / name).unlink(missing_ok=True)
        for name, content in plots.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        file.write_bytes(text.encode())
    except OSError as error:
        raise UserError(f"cannot write the page to {file}: {error.strerror}") from error
    return file
