"""A suite's cells, and the stages they need: a graph in which cells that share an input share the stage that makes it.

Planning trains nothing and reads no data; it hashes code and small files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.engine.context import StageKind
from bench.engine.fingerprint import PACKAGES, code_files, digest, file_hash, function_hash, object_hash, versions
from bench.engine.graph import Cell, Plan, Stage, without
from bench.engine.record import PluginSpec
from bench.errors import UserError
from bench.plugin import Attack, Defense, Detector, Plugin, Tuning
from bench.plugin_file import Source
from bench.registry import Registry, family_of
from bench.suite import Suite
from bench.testbeds.base import ConditionalTestbed, Testbed

CONTROL = "none"
#: Kinds of stage that decide whether two numbers can be compared (the protocol), not what was attacked or defended.
MEASURING = (
    "reference aim poisoned_rows training_features sample measure classifier trigger_classifier detect detect_noise classify"
).split()
#: What a column of the matrix is.
Treatment = Defense | Detector


def spec(plugin: Plugin) -> PluginSpec:
    """What rebuilds a plugin, and its label."""
    return PluginSpec(name=plugin.card.name, params=plugin.params(), label=plugin.label())


def testbed_spec(testbed: Testbed) -> PluginSpec:
    """As :func:`spec`; the label names what differs from the declaration."""
    usual = type(testbed)().params()
    changed = ", ".join(f"{name}={value}" for name, value in testbed.params().items() if value != usual.get(name))
    return PluginSpec(name=testbed.name, params=testbed.params(), label=testbed.name + (f"({changed})" if changed else ""))


def _bare(plugin: Plugin) -> dict[str, Any]:
    return {"name": plugin.card.name, "params": plugin.params()}


def _full(chosen: PluginSpec) -> dict[str, Any]:
    return {"name": chosen.name, "params": chosen.params, "label": chosen.label}


def make_plan(
    suite: Suite, registry: Registry, kinds: Mapping[str, StageKind], device: str = "cpu", processes: int = 1
) -> Plan:
    """Every cell of ``suite`` with the controls, and the stages behind them. ``kinds``: the stage table; ``device``: ``cpu`` or
    ``cuda``; ``processes``: how many make a distributed stage together.

    Raises :class:`UserError` if they cannot share a training batch evenly.
    """
    stages: dict[str, Stage] = {}
    cells: list[Cell] = []
    attacks = [*suite.attacks]
    if not any(attack.card.name == CONTROL for attack in attacks):
        attacks.append(registry.attack(CONTROL))
    defenses = [*suite.defenses]
    if not any(defense.card.name == CONTROL for defense in defenses):
        defenses.insert(0, registry.defense(CONTROL))
    defenses.sort(key=lambda defense: defense.card.name != CONTROL)
    treatments: list[Treatment] = [*defenses, *suite.detectors]
    backdoors = [attack for attack in attacks if attack.card.name != CONTROL]
    rows: list[tuple[Attack, Attack | None]] = [(attack, None) for attack in backdoors]
    honest = [attack for attack in attacks if attack.card.name == CONTROL]
    for one in honest:
        rows += [(one, probe) for probe in backdoors] or [(one, None)]
    for testbed in suite.testbeds:
        builder = _Builder(testbed, kinds, device, processes, stages, suite.tuned, registry, honest)
        for seed in suite.seeds:
            cells += [builder.cell(attack, probe, treatment, seed) for attack, probe in rows for treatment in treatments]
            cells += builder.anchors(defenses[0], seed)
    return Plan(
        suite=suite.name,
        cells=tuple(cells),
        stages=stages,
        description=suite.description,
        filtered=suite.filtered,
    )


class _Builder:
    """Cells and stages of one testbed, collected into a shared table."""

    def __init__(
        self,
        testbed: Testbed,
        kinds: Mapping[str, StageKind],
        device: str,
        processes: int,
        stages: dict[str, Stage],
        suite_tuned: tuple[Tuning, ...],
        registry: Registry,
        honest: list[Attack],
    ) -> None:
        self.suite_tuned, self.registry, self.honest = suite_tuned, registry, honest
        self.sources: dict[type[Plugin], Source | None] = {}
        self.testbed, self.kinds, self.device, self.processes, self.stages = testbed, kinds, device, processes, stages
        self.conditional = isinstance(testbed, ConditionalTestbed)
        self.spec = testbed_spec(testbed)
        self.bare = {"name": self.spec.name, "params": self.spec.params}
        self.locations = frozenset[str](getattr(testbed, "locations", ()))
        self.data = testbed.fingerprint()
        self.code = object_hash(testbed)
        self.kind_hashes = {
            name: digest([function_hash(kind.run), [file_hash(path) for path in code_files(kind.code)]])
            for name, kind in kinds.items()
        }
        measuring = {name: self.kind_hashes[name] for name in MEASURING if name in kinds}
        # Sample counts and sampler are among the testbed's parameters.
        self.protocol = digest([without(self.bare, self.locations), testbed.extractor, self.data, measuring])[:16]

    def _together(self, name: str) -> bool:
        """Whether several processes make this kind of stage. Each draws its own share of the noise, so their number changes
        the result."""
        return self.processes > 1 and self.kinds[name].distributed

    def _check_batch(self, attack: Attack) -> None:
        settings = self.testbed.training_settings(attack.scheme)
        if settings.batch_size % (settings.accumulation_steps * self.processes):
            raise UserError(
                f"--gpus-per-stage {self.processes} must divide the training batch of {self.testbed.name}: {settings.batch_size} "
                f"images in {settings.accumulation_steps} accumulation step(s)"
            )

    def _source(self, plugin: Plugin) -> Source | None:
        if type(plugin) not in self.sources:
            self.sources[type(plugin)] = self.registry.source(plugin)
        return self.sources[type(plugin)]

    def stage(
        self,
        name: str,
        params: dict[str, Any],
        inputs: dict[str, str],
        *plugins: Plugin | None,
        notes: dict[str, Any] | None = None,
    ) -> str:
        """Adds a stage unless it is there, and returns its key. ``plugins``: those it runs; ``notes``: see :class:`Stage`."""
        theirs = [source for plugin in plugins if plugin is not None and (source := self._source(plugin))]
        fingerprint = digest(
            {
                "kind": self.kind_hashes[name],
                "testbed": [self.code, self.data],
                "plugins": [object_hash(plugin) for plugin in plugins if plugin is not None],
                "read by them": [file_hash(Path(name)) for source in theirs for name in source.hashes],
                "versions": versions((*PACKAGES, *self.kinds[name].packages)),
                "device": f"{self.device} x{self.processes}" if self._together(name) else self.device,
            }
        )
        made = Stage(
            name=name,
            params={"testbed": {"name": self.testbed.name, "params": self.testbed.params_for(name)}} | params,
            inputs=inputs,
            fingerprint=fingerprint,
            seconds=self.testbed.typical_seconds.get(name),
            protocol=self.protocol,
            locations=self.locations,
            notes=notes or {},
            plugins=tuple(theirs),
        )
        self.stages.setdefault(made.key, made)
        return made.key

    def sample(
        self,
        seed: int,
        what: str,
        generator: str | None,
        attack: Attack | None,
        defense: Plugin | None,
        label: int | None = None,
    ) -> str:
        """The key of one set of samples; ``generator`` ``None`` for the testbed's own weights, ``attack`` for an invocation, ``label``
        for the one class that is asked for."""
        params = {
            "seed": seed,
            "what": what,
            "attack": None if attack is None else _bare(attack),
            "defense": None if defense is None else _bare(defense),
        }
        if label is not None:
            params["label"] = label
        return self.stage("sample", params, {} if generator is None else {"generator": generator}, attack, defense)

    def reference(self) -> str:
        """The key of the testbed's real-image statistics."""
        return self.stage("reference", {}, {})

    def cell(self, attack: Attack, probe: Attack | None, defense: Treatment, seed: int) -> Cell:
        """One cell with its stages, or the reason why there is none."""
        family = family_of(defense)
        common: dict[str, Any] = {
            "testbed": self.spec,
            "attack": spec(attack),
            "defense": spec(defense),
            "probe": None if probe is None else spec(probe),
            "seed": seed,
            "kind": family,
            "protocol": self.protocol,
        }
        for plugin in (attack, defense, *([] if probe is None else [probe])):
            if self.testbed.kind not in plugin.card.applies_to:
                kinds = " and ".join(sorted(plugin.card.applies_to))
                reason = f"{plugin.card.name} applies to {kinds} testbeds; {self.testbed.name} is {self.testbed.kind}"
                return Cell(**common, reason=reason)
        reason = self._senseless(probe or attack, defense, family)
        if reason:
            return Cell(**common, reason=reason)
        return Cell(**common, stage=self._measure(common, attack, probe, defense, seed, family))

    def _senseless(self, invoked: Attack, defense: Treatment, family: str) -> str:
        """Why this pair makes no cell, beyond the kind of testbed; empty if it does."""
        if family == "noise detector" and not type(invoked).invocations:
            return f"{defense.card.name} judges the starting noise, and {invoked.card.name} leaves that alone"
        return ""

    def _measure(
        self, common: dict[str, Any], attack: Attack, probe: Attack | None, defense: Treatment, seed: int, family: str
    ) -> str:
        invoked = attack if probe is None else probe
        inputs = {"reference": self.reference(), "aim": self.aim(invoked)}
        if self.conditional:
            inputs["poisoned_rows"] = self.poisoned_rows(attack, seed)
        treatment = {"defense": _bare(defense), "seed": seed}
        if family == "noise detector":
            inputs["scores_noise"] = self.stage("detect_noise", treatment | {"attack": _bare(invoked)}, {}, defense, invoked)
            return self._finish(common, inputs, attack, probe, defense)
        if self._together("train"):
            self._check_batch(attack)
        trained = self.stage("train", {"attack": _bare(attack), "seed": seed}, {}, attack)
        if family in ("data", "classifier", "sample detector"):
            inputs |= self._judged(attack, invoked, defense, seed, family, trained)
            return self._finish(common, inputs, attack, probe, defense)

        def samples(generator: str, sampler: Plugin | None) -> dict[str, str]:
            drawn = {"clean": self.sample(seed, "clean", generator, None, sampler)}
            if self.conditional and (label := invoked.target_label()) is not None:
                drawn["target"] = self.sample(seed, "target", generator, None, sampler, label)
            return drawn | {what: self.sample(seed, what, generator, invoked, sampler) for what in type(invoked).invocations}

        undefended = samples(trained, None)
        if self.conditional and self._has_trigger(invoked):
            inputs |= self._trigger_judged(invoked, seed)
        if family == "control":
            inputs |= undefended
            if isinstance(self.testbed, ConditionalTestbed):
                inputs["classifier"] = self.classifier(attack, seed)
                if self.testbed.copy_extractor() is not None:
                    named = {"attack": _bare(attack), "seed": seed}
                    inputs["training_features"] = self.stage("training_features", named, {}, attack)
        else:
            inputs |= {f"undefended_{role}": key for role, key in undefended.items()}
            if family == "sampler":
                inputs |= samples(trained, defense)
            elif family == "model":
                inputs |= samples(self.stage("repair", treatment, {"generator": trained}, defense), None)
            else:
                inputs["recovered"] = self.stage("invert", treatment, {"generator": trained}, defense)
        return self._finish(common, inputs, attack, probe, defense)

    def _judged(
        self, attack: Attack, invoked: Attack, defense: Treatment, seed: int, family: str, trained: str
    ) -> dict[str, str]:
        """The inputs of a cell around a classifier: what it is trained on, what it says, what a detector sees through it."""
        treatment = {"attack": _bare(attack), "defense": _bare(defense), "seed": seed}
        if family == "classifier":
            named = {"defense": _bare(defense), "seed": seed}
            seen = {"generator": trained, "aim": self.aim(invoked)}
            return {"predictions": self.stage("classify", named, seen, defense)}
        generated = self.sample(seed, "generated", trained, None, None)
        if family == "data":
            return {"classifier": self.stage("classifier", treatment, {"generated": generated}, attack, defense)}
        seen = {"classifier": self.classifier(attack, seed), "generated": generated}
        inputs = {
            "scores": self.stage("detect", treatment, seen, attack, defense),
            "generated": generated,
            "true_rows": self.poisoned_rows(invoked, seed),
        }
        return inputs | (self._trigger_judged(invoked, seed) if self._has_trigger(invoked) else {})

    def _trigger_judged(self, attack: Attack, seed: int) -> dict[str, str]:
        """The judge of an attack's trigger, and what the honest model draws for the adversary's class: its false alarms there are
        what any rate is to be held against."""
        judged = {"trigger_classifier": self.trigger_classifier(attack)}
        if (label := attack.target_label()) is not None:
            # Trained as the attack was, if the suite has such a one.
            honest = next((one for one in self.honest if one.scheme == attack.scheme), self.honest[0])
            trained = self.stage("train", {"attack": _bare(honest), "seed": seed}, {}, honest)
            judged["honest_target"] = self.sample(seed, "target", trained, None, None, label)
        return judged

    def classifier(self, attack: Attack, seed: int) -> str:
        """The key of the classifier a user trains on the suspected training set."""
        return self.stage("classifier", {"attack": _bare(attack), "seed": seed}, {}, attack)

    def _tuned(self, cell: Mapping[str, Any], plugins: Iterable[Plugin | None]) -> list[str]:
        """A flag for each choice in which this very cell, its testbed, attack and seed, had a part."""
        attack = (cell["probe"] or cell["attack"])["name"]
        declared: list[tuple[str, Iterable[Tuning] | None]] = [
            ("the suite", self.suite_tuned),
            *((plugin.card.name, plugin.card.tuned) for plugin in plugins if plugin is not None),
        ]
        flags = []
        for who, tunings in dict(declared).items():
            if tunings is None:
                flags.append(f"tuned: {who} does not say what its parameters were chosen on")
            for tuning in tunings or ():
                if tuning.saw(self.testbed.name, attack, cell["seed"]):
                    flags.append(f"tuned: {', '.join(tuning.parameters)} of {who} chosen on this attack and seed")
        return flags

    def aim(self, attack: Attack) -> str:
        """The key of what an attack aims at."""
        return self.stage("aim", {"attack": _bare(attack)}, {}, attack)

    def poisoned_rows(self, attack: Attack, seed: int) -> str:
        """The key of the rows an attack poisons."""
        return self.stage("poisoned_rows", {"attack": _bare(attack), "seed": seed}, {}, attack)

    def trigger_classifier(self, attack: Attack) -> str:
        """The key of the harness's judge of this attack's trigger, one for all seeds."""
        return self.stage("trigger_classifier", {"attack": _bare(attack)}, {}, attack)

    def _has_trigger(self, attack: Attack) -> bool:
        return type(attack).stamp is not Attack.stamp

    def anchors(self, control: Defense, seed: int) -> list[Cell]:
        """The reference lines: real images against real images, and the testbed's own clean weights."""
        cells = []
        for name in ("real_images", *(("base_model",) if self.testbed.has_base_weights() else ())):
            common: dict[str, Any] = {
                "testbed": self.spec,
                "attack": PluginSpec(name=name, label=name),
                "defense": spec(control),
                "probe": None,
                "seed": seed,
                "kind": "anchor",
                "protocol": self.protocol,
            }
            inputs = {"reference": self.reference()}
            if name == "base_model":
                inputs["clean"] = self.sample(seed, "clean", None, None, None)
            cells.append(Cell(**common, stage=self._finish(common, inputs)))
        return cells

    def _finish(self, common: dict[str, Any], inputs: dict[str, str], *plugins: Plugin | None) -> str:
        params: dict[str, Any] = {
            role: _full(value) if isinstance(value := common[role], PluginSpec) else value
            for role in ("testbed", "attack", "probe", "defense", "seed", "kind")
        }
        params["tuned"] = self._tuned(params, plugins)
        # It runs no plugin: what it measures is what their stages left.
        return self.stage("measure", params, inputs, notes={"papers": _papers(plugins)})


def _papers(plugins: Iterable[Plugin | None]) -> list[dict[str, Any]]:
    """What these plugins are taken from, each paper once."""
    papers = [plugin.card.paper for plugin in plugins if plugin is not None]
    return [dataclasses.asdict(paper) for paper in dict.fromkeys(papers) if paper is not None]
