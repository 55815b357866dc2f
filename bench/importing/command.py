"""What ``castlewalls import`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import testbeds
from bench.cards import read_cards
from bench.checking.reporting import parameters
from bench.contracts.defense import SamplerDefense
from bench.errors import UserError
from bench.importing.attack import Imported, write_attack
from bench.importing.card import BACKDOORDM, PublishedBackdoor, card_by_name, read_card
from bench.importing.hub import local_copy
from bench.importing.pictures import read_name
from bench.planner import CONTROL
from bench.registry import GROUPS, Registry
from bench.testbeds.testbed import Testbed

#: The testbeds whose networks published models have.
_BY_DATA = {"CIFAR10": "cifar10-ddpm", "CELEBA-HQ": "celebahq-ddpm"}


def import_attack(
    model: str,
    *,
    testbed: str,
    params: str | None,
    card_file: str | None,
    name: str | None,
    trigger_image: str | None,
    target_image: str | None,
    entry: str,
    revision: str | None,
    output: str,
) -> Imported:
    """Writes the attack. Raises :class:`UserError`, one line, for whatever cannot be."""
    given = {"name": name, "trigger_image": trigger_image, "target_image": target_image}
    changes = {key: value for key, value in given.items() if value is not None}
    card = _card(model, card_file, changes)
    values = parameters(params)
    bed = testbeds.build(testbed or _testbed(model), values)
    registry = read_cards()
    samplers = [name for name in registry.names("defenses") if _is_of_samplers(registry, name, bed)]
    return write_attack(
        local_copy(model, revision),
        card,
        bed,
        Path(output).expanduser(),
        params=values,
        defenses=samplers,
        entry=entry,
        taken=[one for group in GROUPS for one in registry.names(group)],
    )


def _is_of_samplers(registry: Registry, name: str, bed: Testbed) -> bool:
    """Whether it needs nothing but a sampler's steps, and applies: what any model can meet."""
    defense = registry.get("defenses", name)
    return (
        name != CONTROL
        and issubclass(defense, SamplerDefense)
        and not defense.card.needs
        and bed.kind in defense.card.applies_to
    )


def _card(model: str, card_file: str | None, changes: dict[str, Any]) -> PublishedBackdoor:
    if card_file is not None:
        return read_card(Path(card_file).expanduser(), changes)
    card = card_by_name(model, changes)
    if card is None:
        known = ", ".join(BACKDOORDM)
        raise UserError(
            f"{model}: what its trigger and target are must be said by --card FILE (docs/import.md)"
            f"; known by name are VillanDiffusion's folders (res_DDPM-...) and BackdoorDM's {known}"
        )
    return card


def _testbed(model: str) -> str:
    names = read_name(model.rstrip("/").rpartition("/")[2])
    if names is None or names["data"] not in _BY_DATA:
        raise UserError(f"{model}: --testbed must be given: whose networks are its weights of?")
    return _BY_DATA[names["data"]]
