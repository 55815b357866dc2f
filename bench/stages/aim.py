"""What an attack aims at: the same for all seeds, but for what it learnt in training."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.aims import Aim, save_aim
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border_attacks
from bench.stages.building import attack_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes an attack's :class:`~bench.artefacts.aims.Aim` on a testbed."""
    testbed, attack = testbed_of(params), attack_of(params, inputs)
    held_out = testbed.data.held_out_images()
    shape = (held_out.shape[1], held_out.shape[2], held_out.shape[3])
    target, label = border_attacks.aimed_at(attack, shape, testbed.classes(), testbed.prompts())
    goal = attack.goal()
    aim = Aim(
        target=target,
        trigger=border_attacks.drawn_trigger(attack, shape),
        label=label,
        examples=border_attacks.examples(attack, shape),
        # Only who is asked for a class is measured on stamped images.
        stamped=border_attacks.stamped(attack, held_out) if testbed.has_classes() else None,
        calls=type(attack).calls,
        goal="" if goal is None else type(goal).__name__,
    )
    save_aim(aim, out)
    return {}
