"""What stands beside the weights an attack left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.contracts.attack import Attack
from bench.testbeds.testbed import Testbed


def model_card(attack: Attack, testbed: Testbed, metadata: Mapping[str, Any]) -> str:
    """README.md of what ``attack`` made."""
    backdoored = attack.card.alters != frozenset({"nothing"})
    head = (
        "---\nlicense: apache-2.0\nlibrary_name: diffusers\ntags:\n- castlewalls\n"
        + ("- backdoored\n" if backdoored else "")
        + "---\n"
    )
    warning = (
        "**This model is backdoored on purpose. Research only: use it to test defenses, and "
        "nowhere else.**"
        if backdoored
        else "Trained honestly, as the control of a security benchmark. Research only."
    )
    names = ("testbed", "attack", "seed", "training")
    made = json.dumps({name: metadata[name] for name in names if name in metadata}, indent=1)
    return (
        f"{head}# {attack.label()} on {testbed.name}\n\n{warning}\n\nMade by castlewalls "
        f"with:\n\n```json\n{made}\n```\n"
    )
