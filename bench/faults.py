"""The faults of a suite's testbeds, and of its attacks on them, checked before anything is planned
or run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bench.contracts.attack import Attack, TrainingAttack
from bench.contracts.data import TrainingSet
from bench.contracts.goals import label_of
from bench.diffusion.restoring import FROM_THE_END
from bench.diffusion.sampling import SPACED, SamplerSettings
from bench.errors import UserError
from bench.samplers import Sampler, spec_of
from bench.suite import Suite
from bench.testbeds import testbed as composition
from bench.testbeds.testbed import Testbed


def suite_faults(suite: Suite, attacks: list[Attack]) -> list[str]:
    """One line for each fault, in the suite's order, without repeats. ``attacks``: all rows, the
    control among them.
    """
    lines: list[str] = []
    for testbed in suite.testbeds:
        faults = composition.faults(testbed)
        met = [attack for attack in attacks if suite.meets(attack, testbed.name)]
        lines += faults or _on(
            testbed, [attack for attack in met if testbed.kind in attack.card.applies_to]
        )
        lines += [] if faults else _sampled(testbed, suite.samplers)
        lines += _restored(testbed, suite)
    return list(dict.fromkeys(lines))


def _sampled(testbed: Testbed, samplers: Sequence[Sampler]) -> list[str]:
    """Of the listed samplers on a testbed that is in order by itself. Whether a number of steps
    fits the schedule is asked of the testbed as it is with them for its own.
    """
    own = testbed.sampler.settings()
    lines: list[str] = []
    known: set[str] = set()
    for sampler in samplers:
        try:
            settings = sampler.settings(testbed)
            steps, other = (
                (one.num_inference_steps, one.spacing, one.name in SPACED)
                for one in (settings, own)
            )
            faults = [] if steps == other else composition.faults(_with_its_own(testbed, settings))
            if (label := repr(spec_of(sampler, testbed))) in known:
                faults.append("it is listed twice")
            known.add(label)
        except ValueError as error:
            faults = [str(error)]
        lines += [
            f"sampler {sampler.name} on {testbed.name}: {line.removeprefix(f'{testbed.name}: ')}"
            for line in faults
        ]
    return lines


def _restored(testbed: Testbed, suite: Suite) -> list[str]:
    """Of images that the models of a testbed shall restore."""
    if not suite.inpainting:
        return []
    lines: list[str] = []
    if testbed.kind != "unconditional":
        # Which class, or prompt, a user would ask for beside the image is nowhere declared.
        lines.append(f"the testbed must be unconditional, got one of kind {testbed.kind}")
    names = [sampler.name for sampler in suite.samplers] or [testbed.sampler.settings().name]
    lines += [
        f"the sampler must not be one of {', '.join(FROM_THE_END)}, got {name}"
        for name in names
        if name in FROM_THE_END
    ]
    steps = testbed.generator.schedule_steps()
    for task in suite.inpainting:
        if steps is not None and task.start >= steps:
            lines.append(f"start must be below the schedule's {steps} steps, got {task.start}")
    return [f"inpainting on {testbed.name}: {line}" for line in lines]


def _with_its_own(testbed: Testbed, settings: SamplerSettings) -> Testbed:
    fields: dict[str, Any] = {
        name: getattr(settings, name) for name in ("num_inference_steps", "spacing", "clip")
    }
    return testbed.changed(sampler=settings.name, **fields)


def _on(testbed: Testbed, attacks: list[Attack]) -> list[str]:
    """Of attacks on a testbed that is in order by itself."""
    train_set = testbed.data.outline()
    lines: list[str] = []
    for attack in attacks:
        faults = _scheme(testbed, attack)
        if train_set is not None:
            faults += _poisoning(testbed, attack, train_set)
        lines += [
            f"{attack.card.name} on {testbed.name}: {line.removeprefix(f'{attack.card.name}: ')}"
            for line in faults
        ]
    return lines


def _scheme(testbed: Testbed, attack: Attack) -> list[str]:
    """Of how the generator is trained."""
    if not isinstance(attack, TrainingAttack):
        return [] if testbed.generator.has_weights else ["there are no base weights to edit"]
    if attack.scheme == "finetune" and not testbed.generator.has_weights:
        return ["scheme must be 'scratch' without base weights (weights is null), got 'finetune'"]
    return _refusals(lambda: testbed.training_settings(attack.scheme))


def _poisoning(testbed: Testbed, attack: Attack, train_set: TrainingSet) -> list[str]:
    """Of the rows that are poisoned, and of what they say afterwards."""
    if faults := attack.faults(train_set):
        return faults
    label = label_of(attack.goal(), testbed.prompts())
    classes = len(testbed.data.class_names)
    if label is None or not classes:
        return []
    if not 0 <= label < classes:
        return [f"the target class must be from 0 to {classes - 1}, got {label}"]
    if testbed.kind == "text" and "data" in attack.card.alters and train_set.labels is not None:
        relabelled = torch.full_like(train_set.labels, label)
        return _refusals(lambda: testbed.data.captions(relabelled))
    return []


def _refusals(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except (UserError, ValueError) as error:
        return str(error).splitlines()
    return []
