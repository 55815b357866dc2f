"""What a cell is made of, why there is none where a combination does not fit, and what is measured
of it; and what is asked of many models at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from bench.artefacts.probes import CLEAN_PROBE
from bench.artefacts.roles import (
    ATTACKED,
    CLEAN,
    CORRUPTED,
    CORRUPTED_CALL,
    HONEST,
    MEASURED_BY,
    ORIGINALS,
    UNDEFENDED,
)
from bench.cells import ALL, POPULATION, Cell
from bench.composed import Composed, parts_of
from bench.contracts.attack import Attack, TrainingAttack, can_stamp
from bench.contracts.card import Tuning
from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Defense,
    Inversion,
    ModelDefense,
    SamplerDefense,
)
from bench.contracts.detector import Detector
from bench.contracts.plugin import Plugin
from bench.diffusion.sampling import CORRECTING
from bench.engine.closure import closure_of_function
from bench.engine.fingerprint import digest
from bench.measurements.measurement import REAL_IMAGES, Situation
from bench.planner.artefacts import Artefacts
from bench.planner.stages import bare_of, once, spec
from bench.record import Flag, PluginSpec
from bench.registry import family_of

#: The reference line of a testbed beside the real images: its own clean weights.
BASE_MODEL = "base_model"
#: What the harness makes for its own judgement: no cell is charged with it.
FREE = frozenset(
    (
        "reference aim poisoned_rows true_rows clean_features training_features trigger_classifier "
        "honest_target"
    ).split()
)
#: What a column of the matrix is.
Treatment = Defense | Detector | Composed


class Cells(Artefacts):
    """The cells of one testbed under one sampler."""

    def cell(self, attack: Attack, probe: Attack | None, defense: Treatment, seed: int) -> Cell:
        """One cell with its stages, or the reason why there is none."""
        family, parts = (
            defense.family if isinstance(defense, Composed) else family_of(defense),
            parts_of(defense),
        )
        common: dict[str, Any] = {
            "testbed": self.spec,
            "attack": self._spec(attack),
            "defense": self._spec(defense),
            "probe": None if probe is None else self._spec(probe),
            "sampler": self.sampler,
            "seed": seed,
            "kind": family,
            "protocol": self.protocol,
        }
        for plugin in (attack, *parts, *([] if probe is None else [probe])):
            if not self._fits(plugin):
                kinds = " and ".join(sorted(plugin.card.applies_to))
                reason = (
                    f"{plugin.card.name} applies to {kinds} testbeds; {self.testbed.name} "
                    f"is {self.testbed.kind}"
                )
                return Cell(**common, reason=reason)
        invoked = probe or attack
        if reason := self._why_skipped(parts, attack, invoked):
            return Cell(**common, reason=reason)
        roles = self._roles(attack, invoked, parts, seed, family)
        situation = Situation(
            testbed=self.testbed, family=family, invoked=invoked, honest=probe is not None
        )
        return Cell(**common, stage=self._record(common, roles, situation, attack, probe, *parts))

    def _fits(self, plugin: Plugin) -> bool:
        return self.testbed.kind in plugin.card.applies_to

    def _why_skipped(self, parts: Sequence[Plugin], attack: Attack, invoked: Attack) -> str:
        """Why plugins that apply here do not apply to this row; empty if they do."""
        return (
            self._undone(parts, invoked)
            or self._without_base(parts, attack)
            or self._nothing_to_judge(parts[-1], invoked)
        )

    def _undone(self, parts: Iterable[Plugin], invoked: Attack) -> str:
        """Why a sampler defense, or a call, cannot act under this sampler; empty if all can."""
        if self.settings.name not in CORRECTING:
            return ""
        changing = [
            part.card.name
            for part in parts
            if isinstance(part, SamplerDefense) and type(part).stepped is not SamplerDefense.stepped
        ]
        if any(call.through == "mask" for call in type(invoked).calls):
            changing.append(f"what {invoked.card.name}'s mask keeps")
        if not changing:
            return ""
        return (
            f"{changing[0]} changes x after a step, and {self.settings.name} forms it anew from "
            f"the step before"
        )

    def _without_base(self, parts: Iterable[Plugin], attack: Attack) -> str:
        """Why a defense that needs the weights a model was made from has none; empty if all do."""
        needing = [part.card.name for part in parts if "base weights" in part.card.needs]
        if not needing:
            return ""
        if not self.testbed.generator.has_weights:
            return f"{needing[0]} needs base weights, and {self.testbed.name} has none"
        if isinstance(attack, TrainingAttack) and attack.scheme == "scratch":
            return f"{needing[0]} needs base weights, and this model was trained from scratch"
        return ""

    def _nothing_to_judge(self, last: Plugin, invoked: Attack) -> str:
        """Why a detector has no subject in this row; empty if it has one, or is none."""
        if not isinstance(last, Detector) or "model" in last.subjects:
            return ""
        calls = type(invoked).calls
        if "noise" in last.subjects and all(call.through == "prompt" for call in calls):
            return (
                f"{last.card.name} judges the starting noise, and {invoked.card.name} leaves that "
                f"alone"
            )
        if "prompts" in last.subjects and not any(call.through == "prompt" for call in calls):
            return (
                f"{last.card.name} judges the prompt, and {invoked.card.name} calls nothing by it"
            )
        return ""

    def _roles(
        self, attack: Attack, invoked: Attack, parts: tuple[Plugin, ...], seed: int, family: str
    ) -> dict[str, str]:
        """The artefacts of a cell, role -> key. ``parts``: what its column is made of, the one that
        decides its family last.
        """
        roles, last = {"reference": self.reference(), "aim": self.aim(invoked, seed)}, parts[-1]
        if self.conditional:
            roles["poisoned_rows"] = self.poisoned_rows(attack, seed)
        generator = trained = self.generator(attack, seed)
        for part in parts:
            if isinstance(part, ModelDefense):
                generator = self.repair(part, attack, seed, generator)
        guards = tuple(part for part in parts if isinstance(part, SamplerDefense))
        if isinstance(last, Detector):
            return roles | self._scored(attack, invoked, last, seed, generator, guards)
        if isinstance(last, DataDefense | ClassifierDefense):
            return roles | self._judged(attack, invoked, last, seed, generator, guards)
        undefended = self._samples(invoked, seed, trained, ())
        roles |= self._corrupted(invoked, seed)
        if self.conditional and can_stamp(invoked):
            roles |= self._trigger_judged(invoked, seed)
        if family == "control":
            roles |= undefended
            if self.conditional:
                roles["classifier"] = self.classifier(attack, seed)
                if self.testbed.copy_extractor() is not None:
                    inputs = {"suspected": self.suspected(attack, seed)}
                    roles["training_features"] = self.stage("training_features", {}, inputs)
            return roles
        roles |= {UNDEFENDED + role: key for role, key in undefended.items()}
        if isinstance(last, Inversion):
            return roles | {"recovered": self.invert(last, attack, seed, generator)}
        return roles | self._samples(invoked, seed, generator, guards)

    def populations(
        self, attacks: Iterable[Attack], detectors: Iterable[Detector], seeds: Sequence[int]
    ) -> list[Cell]:
        """For each detector of models, whether its scores tell the models of each attack, and of
        all attacks together, from honest ones, over ``seeds``.
        """
        fitting, populations = [attack for attack in attacks if self._fits(attack)], []
        for detector in detectors:
            if "model" not in detector.subjects or not self._fits(detector):
                continue
            if any(self._why_skipped((detector,), one, one) for one in self.honest):
                continue
            met = [one for one in fitting if not self._why_skipped((detector,), one, one)]
            rows = [(spec(attack), [attack]) for attack in met]
            if len(met) > 1:
                rows.append((_all_of(met), met))
            populations += [
                self._population(named, those, detector, seeds) for named, those in rows
            ]
        return populations

    def _population(
        self, named: PluginSpec, attacks: list[Attack], detector: Detector, seeds: Sequence[int]
    ) -> Cell:
        common: dict[str, Any] = {
            "testbed": self.spec,
            "attack": named,
            "defense": spec(detector),
            "probe": None,
            "sampler": self.sampler,
            "seed": seeds[0],
            "seeds": tuple(seeds),
            "kind": POPULATION,
            "protocol": self.protocol,
        }
        # An honest model's score does not depend on the attack it is probed with.
        roles = {
            f"{side}{index}:{seed}": self._model_score(detector, attack, seed)
            for side, those in ((ATTACKED, attacks), (HONEST, self.honest))
            for index, attack in enumerate(those)
            for seed in seeds
        }
        situation = Situation(testbed=self.testbed, family=POPULATION, scope="population")
        return Cell(**common, stage=self._record(common, roles, situation, *attacks, detector))

    def anchors(self, control: Defense | Composed, seed: int, under: Iterable[Cells]) -> list[Cell]:
        """The reference lines of the testbed: its real images, and its own weights ``under`` each
        sampler.
        """
        based = list(under) if self.testbed.generator.has_weights else []
        return [
            self._anchor(REAL_IMAGES, control, seed),
            *(one._anchor(BASE_MODEL, control, seed) for one in based),
        ]

    def _anchor(self, name: str, control: Defense | Composed, seed: int) -> Cell:
        common: dict[str, Any] = {
            "testbed": self.spec,
            "attack": PluginSpec(name=name, label=name),
            "defense": spec(control),
            "probe": None,
            "sampler": self.sampler,
            "seed": seed,
            "kind": "anchor",
            "protocol": self.protocol,
        }
        roles = {"reference": self.reference()}
        if name == BASE_MODEL:
            roles[CLEAN] = self.sample(seed, CLEAN_PROBE, None)
        situation = Situation(testbed=self.testbed, family="anchor", anchor=name)
        return Cell(**common, stage=self._record(common, roles, situation))

    def _record(
        self,
        common: Mapping[str, Any],
        roles: dict[str, str],
        situation: Situation,
        *plugins: Plugin | None,
    ) -> str:
        """The key of a cell's record, and all measurements that its artefacts allow."""
        if CLEAN in roles:
            roles["clean_features"] = self.stage("features", {}, {"samples": roles[CLEAN]})
        measured, absent = self._measured(
            common["seed"], roles, dataclasses.replace(situation, roles=frozenset(roles))
        )
        specs = {
            role: common[role] and self._values(common[role])
            for role in ("testbed", "attack", "probe", "sampler", "defense")
        }
        params = specs | {
            "seed": common["seed"],
            "kind": common["kind"],
            "tuned": self._tuned_in(common, plugins),
            "absent": absent,
            "protocol": self.protocol,
        }
        free = (UNDEFENDED, ORIGINALS, CORRUPTED, CORRUPTED_CALL)
        charged = [role for role in roles if role not in FREE and not role.startswith(free)]
        if common["kind"] == POPULATION:
            params["seeds"], charged = list(common["seeds"]), []  # its cells have been charged
        notes = {"papers": self._papers(*plugins)}
        # It runs no plugin: what is measured is what their stages left.
        name = "restored_record" if any(role.startswith(CORRUPTED) for role in roles) else "record"
        return self.stage(name, params, roles | measured, notes=notes, charged=charged)

    def _measured(
        self, seed: int, roles: dict[str, str], situation: Situation
    ) -> tuple[dict[str, str], dict[str, str]]:
        """The measurements of a cell, role -> key, and why there are no others, metric ->
        reason.
        """
        measured: dict[str, str] = {}
        missing: dict[str, str] = {}
        covered: set[str] = set()
        for one, names in self.measurements:
            if one.scope != situation.scope:
                continue
            if reason := one.reason(situation):
                missing |= {name: reason for name in names if name not in missing}
                continue
            covered |= {*names, *one.borrows}
            params = {"seed": seed, "what": one.name, "options": one.options(situation)}
            code = closure_of_function(one.run)
            known = one.name, situation.roles
            if known not in self.read:
                self.read[known] = frozenset(one.taken(roles))
            inputs = {role: key for role, key in roles.items() if role in self.read[known]}
            measured[MEASURED_BY + one.name] = self.stage(
                "measure", params, inputs, code=code, parts=one.parts
            )
        return measured, {name: reason for name, reason in missing.items() if name not in covered}

    def _tuned_in(
        self, common: Mapping[str, Any], plugins: Sequence[Plugin | None]
    ) -> list[dict[str, str]]:
        """The flags of :meth:`_tuned` for a cell, or for all models of a population."""
        specs = [common[role] for role in ("testbed", "attack", "probe", "sampler", "defense")]
        theirs = {name for one in specs if one for name in one.params}
        theirs |= {one.name for each in plugins if each for one in dataclasses.fields(each)}
        if common["kind"] != POPULATION:
            attack = (common["probe"] or common["attack"]).name
            return self._tuned(attack, common["seed"], plugins, theirs)
        attacks = [plugin.card.name for plugin in plugins if isinstance(plugin, Attack)]
        flags = [
            flag
            for name in attacks
            for seed in common["seeds"]
            for flag in self._tuned(name, seed, plugins, theirs)
        ]
        return [flag for index, flag in enumerate(flags) if flag not in flags[:index]]

    def _tuned(
        self, attack: str, seed: int, plugins: Iterable[Plugin | None], theirs: Set[str]
    ) -> list[dict[str, str]]:
        """A flag for each choice in which this very cell, its testbed, attack and seed, had a part,
        of parameters that are ``theirs`` who make the cell: what a suite says of a defense's
        parameters is nothing against another defense.
        """
        declared: list[tuple[str, Iterable[Tuning] | None]] = [
            ("the suite", _narrowed(self.suite_tuned, theirs)),
            *((plugin.card.name, plugin.card.tuned) for plugin in plugins if plugin is not None),
        ]
        flags = []
        for who, tunings in dict(declared).items():
            if tunings is None:
                text = f"tuned: {who} does not say what its parameters were chosen on"
                flags.append(Flag("tuning-undeclared", "", text))
            for tuning in tunings or ():
                if tuning.saw(self.testbed.name, attack, seed):
                    what = f"{', '.join(tuning.parameters)} of {who}"
                    text = f"tuned: {what} chosen on this attack and seed"
                    flags.append(Flag("tuned", "", text))
        return [dataclasses.asdict(flag) for flag in flags]

    @once
    def _papers(self, *plugins: Plugin | None) -> list[dict[str, Any]]:
        return _papers(plugins)

    @once
    def _spec(self, plugin: Plugin | Composed) -> PluginSpec:
        return spec(plugin)


def _narrowed(tunings: Iterable[Tuning], names: Set[str]) -> list[Tuning]:
    """What they say of parameters that are among ``names``; nothing of a choice of others."""
    kept = [(one, tuple(name for name in one.parameters if name in names)) for one in tunings]
    return [dataclasses.replace(one, parameters=theirs) for one, theirs in kept if theirs]


def _all_of(attacks: Sequence[Attack]) -> PluginSpec:
    """Several attacks as one row of a population; which they are, with their parameters, by
    hash.
    """
    names = list(dict.fromkeys(attack.card.name for attack in attacks))
    params = {"attacks": names, "hash": digest([bare_of(attack) for attack in attacks])[:16]}
    return PluginSpec(name=ALL, params=params, label=f"all {len(attacks)} attacks")


def _papers(plugins: Iterable[Plugin | None]) -> list[dict[str, Any]]:
    """What these plugins are taken from, each paper once."""
    papers = [plugin.card.paper for plugin in plugins if plugin is not None]
    return [dataclasses.asdict(paper) for paper in dict.fromkeys(papers) if paper is not None]
