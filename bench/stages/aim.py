"""What an attack aims at: the same for all seeds."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.aims import Aim, save_aim
from bench.contracts.attack import Attack
from bench.engine.context import Inputs, Params, StageContext
from bench.stages import border_attacks
from bench.stages.building import plugin_of, testbed_of


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes an attack's :class:`~bench.artefacts.aims.Aim` on a testbed."""
    testbed, attack = testbed_of(params), plugin_of("attacks", params["attack"], Attack)
    held_out = testbed.data.held_out_images()
    shape = (held_out.shape[1], held_out.shape[2], held_out.shape[3])
    target, label = border_attacks.aimed_at(attack, shape, testbed.classes(), testbed.prompts())
    goal = attack.goal()
    aim = Aim(
        target=target,
        trigger=border_attacks.drawn_trigger(attack, shape),
        label=label,
        # Only who is asked for a class is measured on stamped images.
        stamped=border_attacks.stamped(attack, held_out) if testbed.has_classes() else None,
        calls=type(attack).calls,
        goal="" if goal is None else type(goal).__name__,
    )
    save_aim(aim, out)
    return {}
