"""What an attack aims at: the same for all seeds."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.aims import Aim, save_aim
from bench.engine.context import Inputs, Params, StageContext
from bench.plugin import Attack
from bench.stages import border
from bench.stages.building import plugin_of, testbed_of
from bench.testbeds.base import ConditionalTestbed


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes an attack's :class:`~bench.artefacts.aims.Aim` on a testbed."""
    testbed, attack = testbed_of(params), plugin_of("attacks", params["attack"], Attack)
    held_out = testbed.held_out_images()
    shape = (held_out.shape[1], held_out.shape[2], held_out.shape[3])
    classes = len(testbed.class_names) if isinstance(testbed, ConditionalTestbed) else None
    found = Aim(
        target=border.picture(attack, "target_image", shape),
        trigger=border.picture(attack, "trigger_image", shape),
        label=border.target_label(attack, classes),
        # Only who is asked for a class is measured on stamped images.
        stamped=border.stamped(attack, held_out) if testbed.kind != "unconditional" else None,
        invocations=tuple(type(attack).invocations),
    )
    save_aim(found, out)
    return {}
