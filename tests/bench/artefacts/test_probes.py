"""What a generator is asked to draw follows from who asks for it, and from no list of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bench import registry, testbeds
from bench.artefacts.probes import CLEAN_PROBE, Probe, probes, requested_count
from bench.artefacts.roles import samples
from bench.plugin import Call, Card, ReachClass, TrainingAttack

DDPM, CFG = testbeds.load("digits-ddpm"), testbeds.load("digits-cfg")


@dataclass(frozen=True, kw_only=True)
class Many(TrainingAttack):
    card: ClassVar[Card] = Card(name="many", summary="for tests")
    calls: ClassVar[tuple[Call, ...]] = (Call("zebra"), Call("ape", through="mask"))

    def goal(self) -> ReachClass:
        return ReachClass(3)


def roles(testbed: Any, attack: Any) -> list[str]:
    return [probe.role for probe in probes(testbed, attack)]


def test_the_testbed_the_goal_and_the_calls_ask() -> None:
    build = registry.use().attack
    assert roles(DDPM, build("none")) == roles(CFG, build("none")) == ["clean"]
    assert roles(DDPM, build("baddiffusion")) == ["clean", "call:noise", "call:image"]
    assert roles(CFG, build("badnets")) == ["clean", "target"]
    # Of a class where there are classes; calls in the order in which they are declared.
    assert roles(CFG, Many()) == ["clean", "target", "call:zebra", "call:ape"]
    assert roles(DDPM, Many()) == ["clean", "call:zebra", "call:ape"]
    assert samples(roles(CFG, Many())) == ["clean", "call:zebra", "call:ape", "target"]


def test_a_probe_survives_json_and_says_how_many() -> None:
    for probe in probes(CFG, Many()):
        assert Probe(**probe.params()) == probe
    assert requested_count(CFG, CLEAN_PROBE) == CFG.counts.clean_samples
    whole = Probe(role="generated", count="generated_samples", stream="generated")
    assert requested_count(CFG, whole) == CFG.data.rows
