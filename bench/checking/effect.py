"""What a plugin does to the planted backdoors, beside nothing at all: one line of numbers.

They say that a method does something, and in which direction. They are not results: the models are
tiny, the backdoors easy, and there is one of each.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from bench.checking import planted
from bench.checking.question import Doubtful, NotMeasured
from bench.checking.use import (
    MODEST,
    access,
    conditional,
    drawn,
    drawn_of,
    generator_for,
    implanted_in_copy,
    lowered,
    poisoned,
    prompts,
    query,
)
from bench.contracts.attack import Attack, EditingAttack, TrainingAttack
from bench.contracts.checks import Broken
from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Inversion,
    ModelDefense,
    SamplerDefense,
)
from bench.contracts.detector import Detector
from bench.contracts.goals import DrawImage
from bench.contracts.plugin import Plugin
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.metrics.detection import auroc
from bench.stages import again, border, border_attacks

SAMPLES = 32
#: The mean variance of a pixel over samples below which they are one image.
COLLAPSED = 1e-4
#: An area under the curve that, reversed, would be a good detector's.
REVERSED = 0.2


def effect_is_measured(plugin: Plugin) -> str:
    """Of a defense or an attack. Raises :class:`NotMeasured` where no planted backdoor fits."""
    quick = lowered(plugin, MODEST)
    if plugin.card.applies_to == {"text"}:
        raise NotMeasured("the planted models are asked by classes or by nothing, not by text")
    if isinstance(quick, SamplerDefense):
        return _of_samples(quick, generator_for(quick), [quick])
    if isinstance(quick, ModelDefense):
        model = generator_for(quick)
        border.repaired(quick, quick.repair(access(quick)), model, None)
        return _of_samples(quick, model, [])
    if isinstance(quick, Inversion):
        return _of_inversion(quick)
    if isinstance(quick, DataDefense):
        return _of_rows(quick)
    if isinstance(quick, ClassifierDefense):
        return _of_answers(quick)
    if isinstance(quick, Attack):
        return _of_attack(quick)
    raise NotMeasured("its family has no effect of its own")


def scores_point_the_right_way(detector: Detector) -> str:
    """AUROC of what is poisoned against what is clean, by subject; a model's score is reported, for
    two models are no population.

    Raises :class:`Broken` for a detector of noise or prompts that would find the backdoor with its
    sign reversed. Images are another matter: STRIP and Cognitive Distillation, as published, are
    below 0.5 on one of the two patches here, since what a tiny classifier goes by is not what they
    expect. So one that is reversed on both is only :class:`Doubtful`, as is one with a single score
    for all.
    """
    quick, areas, words = lowered(detector, MODEST), {}, []
    images = " and ".join(one for one in type(detector).subjects if one in ("rows", "images"))
    if images:
        for patch, name in planted.PATCHES.items():
            areas[f"{images}, {name}"] = _area(quick, images, patch)
    for subject in type(detector).subjects:
        if subject == "model":
            words.append(_of_models(quick))
        elif subject in ("noise", "prompts"):
            areas[subject] = _area(quick, subject)
    words += [f"{what}: AUROC {area:.2f}" for what, area in areas.items()]
    text = "; ".join(words) + (" (0.5 is chance)" if areas else "")
    if areas and all(area < REVERSED for area in areas.values()):
        if "noise" in areas or "prompts" in areas:
            raise Broken(
                f"expected poisoned ones to score higher than clean ones, got {text}: with its "
                f"sign reversed the detector would find them"
            )
        raise Doubtful(
            f"{text}: with its sign reversed the detector would find them; is higher more "
            f"suspicious?"
        )
    if areas and all(area == 0.5 for area in areas.values()):
        raise Doubtful(f"{text}: nothing is told apart; is there one score for all?")
    return text


def _area(detector: Detector, subject: str, patch: str = "badnets1") -> float:
    judged, positive = _judged(subject, patch)
    own = access(detector, patch=patch)
    scores = border.scores(detector, detector.score(judged, own), len(positive))
    return auroc(scores.numpy(), positive.numpy())


# --- defenses -------------------------------------------------------------------------------------


def _of_samples(plugin: Plugin, model: Generator, guards: list[Any]) -> str:
    """Raises :class:`Doubtful` if clean samples are one image, whatever the noise."""
    texts, varied = [], True
    for name, triggered in (
        ("MSE of triggered samples to the target", True),
        ("MSE of clean samples to the nearest training image", False),
    ):
        plain = _undefended(conditional(plugin), triggered)
        defended = planted.drawn(model, SAMPLES, triggered=triggered, guards=guards)
        measure = _to_target if triggered else _to_data
        texts.append(f"{name} {measure(plain):.3f} -> {measure(defended):.3f}")
        varied = triggered or float(defended.var(0).mean()) > COLLAPSED
    text = "; ".join(texts) + " (none -> this)"
    if not varied:
        raise Doubtful(f"{text}; all clean samples are nearly one image: is that intended?")
    return text


@cache
def _undefended(classes: bool, triggered: bool) -> Tensor:
    """The same for every defense."""
    of = planted.generator("planted", classes)
    return planted.drawn(of, SAMPLES, triggered=triggered)


def _to_target(images: Tensor) -> float:
    return float((images - planted.target()).square().mean())


def _to_data(images: Tensor) -> float:
    rows = to_unit_range(planted.discs(planted.ROWS, 0).images).flatten(1)
    squares = torch.cdist(images.flatten(1), rows).square() / rows.shape[1]
    return float(squares.min(1).values.mean())


def _of_inversion(inversion: Inversion) -> str:
    recovered = border.recovered(inversion, inversion.invert(access(inversion)), planted.SHAPE)
    texts = []
    for name, entries, truth in (
        ("target", recovered.targets, planted.target()),
        ("trigger", recovered.triggers, planted.trigger()),
    ):
        if entries:
            best = min(float((one - truth).square().mean((1, 2, 3)).min()) for one in entries)
            constant = float((truth - truth.mean()).square().mean())
            texts.append(f"best {name}'s MSE {best:.3f}, the best constant image's {constant:.3f}")
    return "; ".join(texts)


def _of_rows(defense: DataDefense) -> str:
    """What a generator would draw that repeats its poison: a fifth of the rows is stamped."""
    rows = planted.discs(100, 8)
    assert rows.labels is not None
    poison = (rows.labels != planted.TARGET_CLASS).nonzero().flatten()[::4][:20]
    images, labels = rows.images.clone(), rows.labels.clone()
    images[poison], labels[poison] = planted.stamped(images[poison]), planted.TARGET_CLASS
    generated = replace(rows, images=images, labels=labels)
    kept = border.cleaned(defense, generated, access(defense), planted.CLASSES)
    known = {row.numpy().tobytes() for row in images[poison]}
    stamped = sum(row.numpy().tobytes() in known for row in kept.images)
    return (
        f"stamped rows {len(poison)} of {len(images)} -> {stamped} of {len(kept.images)} (none -> "
        f"this)"
    )


def _of_answers(defense: ClassifierDefense) -> str:
    """Raises :class:`Doubtful` if the answers stay when the model is one that knows nothing."""
    held_out = planted.discs(20, 8)
    assert held_out.labels is not None
    images = torch.cat([held_out.images, planted.stamped(held_out.images)])
    with torch.no_grad():
        before = planted.classifier()(to_unit_range(images)).argmax(1)
    scores = defense.classify(images.clone(), access(defense))
    after = border.class_scores(defense, scores, len(images), planted.CLASSES).argmax(1)
    others = held_out.labels != planted.TARGET_CLASS
    texts = []
    for answers in (before, after):
        clean, called = answers[:20], answers[20:][others]
        accuracy = float((clean == held_out.labels).float().mean())
        texts.append((accuracy, float((called == planted.TARGET_CLASS).float().mean())))
    text = (
        f"accuracy on clean images {texts[0][0]:.2f} -> {texts[1][0]:.2f}; stamped images called "
        f"the target {texts[0][1]:.2f} -> {texts[1][1]:.2f} (none -> this)"
    )
    nonsense = access(defense, again.shuffled(generator_for(defense)))
    if again.without_the_model(
        lambda rows: defense.classify(images[rows], nonsense), 20, scores[:20], again.ROWS
    ):
        raise Doubtful(f"{text}; the classes stay when the model's weights are shuffled")
    return text


# --- detectors ------------------------------------------------------------------------------------


def _judged(subject: str, patch: str) -> tuple[Any, Tensor]:
    """64 clean and 64 poisoned ones of a subject, mixed, and which is which."""
    order = torch.randperm(128, generator=torch.Generator().manual_seed(3))
    positive = torch.arange(128)[order] >= 64
    if subject == "prompts":
        clean = enumerate(prompts(128))
        texts = [f"mignneko {text}" if row >= 64 else text for row, text in clean]
        return tuple(texts[row] for row in order.tolist()), positive
    if subject == "noise":
        noise = torch.randn((128, *planted.SHAPE), generator=torch.Generator().manual_seed(4))
        noise[64:] += planted.trigger()
        return noise[order], positive
    rows = planted.discs(160, 9)
    assert rows.labels is not None
    others = (rows.labels != planted.TARGET_CLASS).nonzero().flatten()[:128]
    images = rows.images[others].clone()
    images[64:] = planted.stamped(images[64:], patch)
    return images[order], positive


def _of_models(detector: Detector) -> str:
    scores = {}
    for which in ("planted", "honest"):
        model = generator_for(detector, which)
        own = access(detector, model)
        subject = model if "weights" in detector.card.needs else None
        scores[which] = float(border.scores(detector, detector.score(subject, own), 1))
    return f"model: {scores['planted']:.4g} of the planted one, {scores['honest']:.4g} of an honest"


# --- attacks --------------------------------------------------------------------------------------


def _of_attack(attack: Attack) -> str:
    honest, texts = generator_for(attack, "honest"), []
    rows = poisoned(attack) if isinstance(attack, TrainingAttack) else None
    if rows is not None:
        texts.append(f"{int(rows.poisoned.sum())} of {len(rows.images)} rows poisoned")
    goal = attack.goal()
    if not isinstance(goal, DrawImage) or not type(attack).calls:
        return "; ".join([*texts, "no picture is drawn by a call, so nothing more is measured"])
    model, attack = _attacked(attack, rows)
    wanted = goal.image(planted.SHAPE)
    for call in type(attack).calls:
        if call.own_sampler:
            continue
        asked = border_attacks.invoked(attack, query(attack, SAMPLES), call.name, planted.CLASSES)
        before, after = (
            float((drawn_of(of, asked) - wanted).square().mean()) for of in (honest, model)
        )
        texts.append(f"called by {call.name}, MSE to the goal {before:.3f} -> {after:.3f}")
    made = "edited" if rows is None else "briefly trained"
    return "; ".join(texts) + f" (honest model -> {made}; a sampler of {planted.STEPS} steps)"


def _attacked(attack: Attack, rows: Any) -> tuple[Generator, Attack]:
    """The model, and the attack with what it learnt in its training."""
    if isinstance(attack, EditingAttack):
        return implanted_in_copy(attack, attack.implant(access(attack))), attack
    assert isinstance(attack, TrainingAttack)
    model = generator_for(attack, "honest")
    optimizer = torch.optim.Adam(model.unet.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(5)
    poison = rows.poisoned.nonzero().flatten()
    model.unet.train()
    learning = border_attacks.Learning(attack, planted.SHAPE) if type(attack).learns else None
    for _ in range(attack.training_steps or MODEST["training_steps"]):
        chosen = torch.randint(len(rows.images), (32,), generator=draw)
        if len(poison):  # as much of it as of the rest, so that a few steps are enough
            chosen[::2] = poison[torch.randint(len(poison), (16,), generator=draw)]
        noise = torch.randn((32, *planted.SHAPE), generator=draw)
        timesteps = torch.randint(1000, (32,), generator=draw)
        batch = drawn(attack, model, rows, chosen, noise, timesteps)
        if learning is not None:
            learning.learn(*batch)
            attack = learning.knowing()
        loss = border_attacks.training_loss(attack, *batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.unet.eval()
    return model, attack
