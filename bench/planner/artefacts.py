"""What models, classifiers and samples of one testbed are made from: the stages behind each
artefact of a cell. Two cells that ask for the same get the same stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench.artefacts.inpainted import BY_IMAGE
from bench.artefacts.probes import GENERATED_PROBE, Probe, probes
from bench.artefacts.roles import (
    CALL,
    CORRUPTED,
    CORRUPTED_CALL,
    GENERATED,
    LEARNT,
    ORIGINALS,
    RESTORED,
    TARGET,
    short,
)
from bench.contracts.attack import Attack, TrainingAttack, can_stamp, learns
from bench.contracts.defense import (
    ClassifierDefense,
    DataDefense,
    Defense,
    Inversion,
    ModelDefense,
)
from bench.contracts.detector import Detector
from bench.contracts.plugin import Plugin
from bench.planner.stages import Stages, once


class Artefacts(Stages):
    """The artefacts of one testbed under one sampler, each by the key of its stage."""

    @once
    def reference(self) -> str:
        """The key of the testbed's real-image statistics."""
        return self.stage("reference", {}, {})

    @once
    def aim(self, attack: Attack, seed: int) -> str:
        """The key of what an attack aims at; one for all seeds, unless it learns."""
        return self.stage("aim", {"attack": self._bare(attack)}, self._learnt(attack, seed), attack)

    def _learnt(self, attack: Attack, seed: int) -> dict[str, str]:
        """The training that whoever calls the backdoor of ``attack`` has to wait for, if it learns
        something beside the network. An honest model is called with it, too.
        """
        return {LEARNT: self.generator(attack, seed)} if learns(attack) else {}

    @once
    def poisoned_rows(self, attack: Attack, seed: int) -> str:
        """The key of the rows an attack poisons."""
        return self.stage("poisoned_rows", {"attack": self._bare(attack), "seed": seed}, {}, attack)

    @once
    def generator(self, attack: Attack, seed: int) -> str:
        """The key of the model an attack leaves behind."""
        named = {"attack": self._bare(attack), "seed": seed}
        if not isinstance(attack, TrainingAttack):
            return self.stage("implant", named, {}, attack)
        if self._together("train"):
            self._check_batch(attack)
        return self.stage("train", named, {}, attack)

    @once
    def suspected(self, attack: Attack, seed: int) -> str:
        """The key of the training set as its owner sees it."""
        return self.stage("suspected", {"attack": self._bare(attack), "seed": seed}, {}, attack)

    @once
    def classifier(self, attack: Attack, seed: int) -> str:
        """The key of the classifier a user trains on the suspected training set."""
        return self.stage("classifier", {"seed": seed}, {"suspected": self.suspected(attack, seed)})

    @once
    def trigger_classifier(self, attack: Attack) -> str:
        """The key of the harness's judge of this attack's trigger, one for all seeds."""
        return self.stage("trigger_classifier", {"attack": self._bare(attack)}, {}, attack)

    def _defending(self, plugin: Defense | Detector, seed: int) -> dict[str, Any]:
        """The parameters of a stage that runs a defender's plugin."""
        return {"defense": self._bare(plugin), "seed": seed} | self._drawing(plugin)

    def _handed(
        self, plugin: Defense | Detector, attack: Attack, seed: int, generator: str
    ) -> dict[str, str]:
        """The inputs of a stage that runs a defender's plugin: what its card asks for."""
        needs, handed = plugin.card.needs, dict[str, str]()
        if needs & {"weights", "queries"}:
            handed["generator"] = generator
        if "training data" in needs:
            handed["suspected"] = self.suspected(attack, seed)
        if "classifier" in needs and self.conditional:
            handed["classifier"] = self.classifier(attack, seed)
        if (inversion := plugin.uses()) is not None:
            handed["recovered"] = self.invert(inversion, attack, seed, generator)
        return handed

    @once
    def repair(self, defense: ModelDefense, attack: Attack, seed: int, generator: str) -> str:
        """The key of a generator after a model defense."""
        inputs = self._handed(defense, attack, seed, generator) | {"generator": generator}
        named = self._defending(defense, seed)
        return self.stage("repair", named, inputs, defense)

    @once
    def invert(self, inversion: Inversion, attack: Attack, seed: int, generator: str) -> str:
        """The key of what an inversion recovers from a generator."""
        inputs = self._handed(inversion, attack, seed, generator) | {"generator": generator}
        named = self._defending(inversion, seed)
        return self.stage("invert", named, inputs, inversion)

    @once
    def sample(
        self,
        seed: int,
        probe: Probe,
        generator: str | None,
        attack: Attack | None = None,
        guards: Sequence[Plugin] = (),
    ) -> str:
        """The key of one set of samples; ``generator`` ``None`` for the testbed's own weights,
        ``attack``: whose call the probe is, ``guards``: sampler defenses.
        """
        params = {
            "seed": seed,
            "what": short(probe.role),
            "draws": self._values(probe),
            "defenses": [self._bare(guard) for guard in guards],
        } | self._drawing()
        inputs = {} if generator is None else {"generator": generator}
        run: list[Plugin] = [*guards]
        if attack is not None and probe.call is not None:
            called = {"seed": seed, "what": probe.call, "attack": self._bare(attack)}
            known = self._learnt(attack, seed)
            inputs["queries"] = self.stage("call", called, known, attack)
            call = next(call for call in type(attack).calls if call.name == probe.call)
            if call.own_sampler:
                params, run = params | {"attack": self._bare(attack)}, [attack, *guards]
                inputs |= known
        return self.stage("sample", params, inputs, *run)

    @once
    def _samples(
        self, invoked: Attack, seed: int, generator: str, guards: tuple[Plugin, ...]
    ) -> dict[str, str]:
        """Every set of samples that a generator is judged by."""
        return {
            probe.role: self.sample(seed, probe, generator, invoked, guards)
            for probe in probes(self.testbed, invoked)
        } | self._restored(invoked, seed, generator, guards)

    @once
    def _corrupted(self, invoked: Attack, seed: int) -> dict[str, str]:
        """The images that every model is asked to restore: a user's, and the adversary's where he
        has a call by image.
        """
        if not self.tasks:
            return {}
        triggered: dict[str, str] = {}
        roles = originals = {ORIGINALS: self.stage("originals", {"seed": seed}, {})}
        if any(call.name == BY_IMAGE for call in type(invoked).calls):
            named = {"seed": seed, "attack": self._bare(invoked)}
            handed = originals | self._learnt(invoked, seed)
            triggered["triggered"] = self.stage("triggered_images", named, handed, invoked)
        for corruption in dict.fromkeys(task.corruption for task in self.tasks):
            what = {"seed": seed, "what": corruption}
            roles = roles | {CORRUPTED + corruption: self.stage("corrupted", what, originals)}
            if triggered:
                roles[CORRUPTED_CALL + corruption] = self.stage("corrupted", what, triggered)
        return roles

    def _restored(
        self, invoked: Attack, seed: int, generator: str, guards: tuple[Plugin, ...]
    ) -> dict[str, str]:
        """What a generator makes of these; what it makes of the adversary's is one of his calls."""
        handed, roles = self._corrupted(invoked, seed), dict[str, str]()
        for task in self.tasks:
            for corrupted, role in ((CORRUPTED, RESTORED), (CORRUPTED_CALL, CALL)):
                if corrupted + task.corruption in handed:
                    params = {
                        "seed": seed,
                        "what": task.name,
                        "task": dataclasses.asdict(task),
                        "defenses": [self._bare(guard) for guard in guards],
                    }
                    inputs = {
                        "generator": generator,
                        "corrupted": handed[corrupted + task.corruption],
                    }
                    roles[role + task.name] = self.stage(
                        "restored_images", params | self._drawing(), inputs, *guards
                    )
        return roles

    def _of_pool(
        self, name: str, named: dict[str, Any], inputs: dict[str, str], sets: str, plugin: Plugin
    ) -> str:
        """The key of what a defender's plugin makes of ``sets``, handed to it as one pool."""
        judged = {"judged": self.stage("pool", {}, {"judged": sets})}
        answers = self.stage(name, named, inputs | judged, plugin)
        return self.stage("by_set", {}, {"judged": sets, "answers": answers})

    def _scored(
        self,
        attack: Attack,
        invoked: Attack,
        detector: Detector,
        seed: int,
        generator: str,
        guards: tuple[Plugin, ...],
    ) -> dict[str, str]:
        """What a detector judges, and its scores, for each of its subjects."""
        named = self._defending(detector, seed)
        handed = self._handed(detector, attack, seed, generator)
        by_call = {"attack": self._bare(invoked), "seed": seed}
        roles: dict[str, str] = {}
        for subject in detector.subjects:
            if subject == "model":
                roles["scores_model"] = self._model_score(detector, attack, seed)
            elif subject in ("noise", "prompts"):
                known = self._learnt(invoked, seed)
                sets = self.stage(f"judged_{subject}", by_call, known, invoked)
                roles[f"scores_{subject}"] = self._of_pool("score", named, handed, sets, detector)
            else:
                generated = self.sample(seed, GENERATED_PROBE, generator, None, guards)
                pool = {"suspected": self.suspected(attack, seed), "generated": generated}
                sets = self.stage("judged_images", {"seed": seed}, pool)
                roles |= {GENERATED: generated, "true_rows": self.poisoned_rows(invoked, seed)}
                if can_stamp(invoked):
                    roles |= self._trigger_judged(invoked, seed)
                roles["scores"] = self._of_pool("score", named, handed, sets, detector)
        return roles

    @once
    def _model_score(self, detector: Detector, attack: Attack, seed: int) -> str:
        """The key of a detector's score of the model that an attack leaves."""
        generator = self.generator(attack, seed)
        inputs = self._handed(detector, attack, seed, generator) | {"generator": generator}
        named = self._defending(detector, seed)
        return self.stage("score", named, inputs, detector)

    def _judged(
        self,
        attack: Attack,
        invoked: Attack,
        last: DataDefense | ClassifierDefense,
        seed: int,
        generator: str,
        guards: tuple[Plugin, ...],
    ) -> dict[str, str]:
        """The artefacts around a classifier: what it is trained on, or what it says."""
        named = self._defending(last, seed)
        inputs = self._handed(last, attack, seed, generator)
        if isinstance(last, ClassifierDefense):
            inputs["generator"] = generator
            aim = {"aim": self.aim(invoked, seed)}
            sets = self.stage("evaluation_images", {"seed": seed}, aim)
            return {"predictions": self._of_pool("classify", named, inputs, sets, last)}
        inputs["generated"] = self.sample(seed, GENERATED_PROBE, generator, None, guards)
        return {"classifier": self.stage("classifier", named, inputs, last)}

    @once
    def _trigger_judged(self, attack: Attack, seed: int) -> dict[str, str]:
        """The judge of an attack's trigger, and what the honest model draws for the adversary's
        class: its false alarms there are what any rate is to be held against.
        """
        judged = {"trigger_classifier": self.trigger_classifier(attack)}
        aimed = [probe for probe in probes(self.testbed, attack) if probe.role == TARGET]
        if aimed:
            # Trained as the attack was, if the suite has such a one.
            scheme = attack.scheme if isinstance(attack, TrainingAttack) else "finetune"
            honest = next(
                (one for one in self.honest if getattr(one, "scheme", "") == scheme), self.honest[0]
            )
            judged["honest_target"] = self.sample(seed, aimed[0], self.generator(honest, seed))
        return judged
