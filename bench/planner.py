"""A suite's cells, and the stages they need: a graph in which cells that share an input share the
stage that makes it.

A cell is the undefended graph of artefacts with one of them replaced (a sampler, the generator, a
classifier's training set, its answers) or one added (what an inversion recovers, a detector's
scores); a suite that lists samplers has every cell under each of them, over one training. What is
measured of it is decided by the measurements themselves, from what the cell has; what is not stands
in its record with the reason.

A detector of models gives a cell one score. Whether such scores tell backdoored models from honest
ones is a question to all seeds at once: a population, beside the cells.

Planning trains nothing and reads no data; it hashes code and small files.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from bench import measurements, testbeds
from bench.artefacts.inpainted import BY_IMAGE
from bench.artefacts.probes import CLEAN_PROBE, GENERATED_PROBE, Probe, probes
from bench.artefacts.roles import (
    ATTACKED,
    CALL,
    CLEAN,
    CORRUPTED,
    CORRUPTED_CALL,
    GENERATED,
    HONEST,
    LEARNT,
    MEASURED_BY,
    ORIGINALS,
    RESTORED,
    TARGET,
    UNDEFENDED,
    short,
)
from bench.cells import ALL, POPULATION, Cell
from bench.composed import Composed, name_of, parts_of
from bench.contracts.attack import Attack, TrainingAttack, can_stamp, learns
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
from bench.diffusion.restoring import Inpainting
from bench.diffusion.sampling import CORRECTING
from bench.durations import expected_seconds
from bench.engine.closure import Closure, closure_of_class, closure_of_function, joined
from bench.engine.context import StageKind
from bench.engine.fingerprint import PACKAGES, canonical, digest, shared_texts, versions
from bench.engine.graph import Plan, Stage
from bench.errors import UserError
from bench.measurements.inpainting import INPAINTING
from bench.measurements.measurement import REAL_IMAGES, Situation
from bench.measurements.model_detection import FEWEST
from bench.plugin_file import Source
from bench.record import Flag, PluginSpec
from bench.registry import Registry, family_of
from bench.samplers import Sampler, bare, spec_of
from bench.sentences import described
from bench.stages.building import REACHED
from bench.suite import Suite
from bench.testbeds.testbed import Testbed, fingerprints, identity
from bench.turns import turns

CONTROL = "none"
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


def spec(plugin: Plugin | Composed) -> PluginSpec:
    """What rebuilds a plugin, or several at once, and the label."""
    if isinstance(plugin, Composed):
        parts = [_bare(part) for part in plugin.parts]
        return PluginSpec(name=plugin.name, params={"defenses": parts}, label=plugin.label())
    return PluginSpec(name=plugin.card.name, params=plugin.params(), label=plugin.label())


def testbed_spec(testbed: Testbed) -> PluginSpec:
    """As :func:`spec`; the label names what differs from the declaration."""
    usual = testbeds.load(testbed.name).params()
    changed = ", ".join(
        f"{name}={value}" for name, value in testbed.params().items() if value != usual.get(name)
    )
    return PluginSpec(
        name=testbed.name,
        params=testbed.params(),
        label=testbed.name + (f"({changed})" if changed else ""),
    )


def _narrowed(tunings: Iterable[Tuning], names: Set[str]) -> list[Tuning]:
    """What they say of parameters that are among ``names``; nothing of a choice of others."""
    kept = [(one, tuple(name for name in one.parameters if name in names)) for one in tunings]
    return [dataclasses.replace(one, parameters=theirs) for one, theirs in kept if theirs]


def _bare(plugin: Plugin) -> dict[str, Any]:
    return {"name": plugin.card.name, "params": plugin.params()}


def make_plan(
    suite: Suite,
    registry: Registry,
    kinds: Mapping[str, StageKind],
    device: str = "cpu",
    processes: int = 1,
) -> Plan:
    """Every cell of ``suite`` with the controls, and the stages behind them. ``kinds``: the stage
    table; ``device``: ``cpu`` or ``cuda``; ``processes``: how many make a distributed stage
    together.

    Raises :class:`UserError` if they cannot share a training batch evenly.
    """
    collects = gc.isenabled()
    gc.disable()  # a large plan is a million objects, of which none is garbage
    try:
        with shared_texts():
            return _planned(suite, registry, kinds, device, processes)
    finally:
        if collects:
            gc.enable()


def _planned(
    suite: Suite,
    registry: Registry,
    kinds: Mapping[str, StageKind],
    device: str,
    processes: int,
) -> Plan:
    stages: dict[str, Stage] = {}
    cells: list[Cell] = []
    attacks = [*suite.attacks]
    if not any(attack.card.name == CONTROL for attack in attacks):
        attacks.append(registry.attack(CONTROL))
    defenses = [*suite.defenses]
    if not any(name_of(defense) == CONTROL for defense in defenses):
        defenses.insert(0, registry.defense(CONTROL))
    defenses.sort(key=lambda defense: name_of(defense) != CONTROL)
    treatments: list[Treatment] = [*defenses, *suite.detectors]
    backdoors = [attack for attack in attacks if attack.card.name != CONTROL]
    honest = [attack for attack in attacks if attack.card.name == CONTROL]
    for testbed in suite.testbeds:
        met = [attack for attack in backdoors if suite.meets(attack, testbed.name)]
        columns = [one for one in treatments if suite.meets(one, testbed.name)]
        detectors = [one for one in suite.detectors if suite.meets(one, testbed.name)]
        builder = _Builder(testbed, kinds, device, processes, stages, suite, registry, honest)
        under = [builder.under(sampler) for sampler in suite.samplers] or [builder]
        for seed in suite.seeds:
            cells += [
                one.cell(attack, probe, treatment, seed)
                for one in under
                for attack, probe in _rows(met, honest)
                for treatment in columns
            ]
            cells += builder.anchors(defenses[0], seed, under)
        for each in under:
            cells += each.populations(met, detectors, suite.seeds)
    stages = _needed(stages, cells)
    return Plan(
        suite=suite.name,
        cells=tuple(cells),
        stages=stages,
        description=suite.description,
        filtered=suite.filtered,
        metrics=tuple(words.to_json() for words in measurements.declared()),
        methods=tuple(words.to_json() for words in described([*backdoors, *treatments])),
        warnings=(*_few_seeds(suite), *_without_gpu(suite, device)),
        turns=turns(cells, stages),
    )


def _rows(
    backdoors: Sequence[Attack], honest: Iterable[Attack]
) -> list[tuple[Attack, Attack | None]]:
    """Every attack, and every honest model tried with each of them."""
    rows: list[tuple[Attack, Attack | None]] = [(attack, None) for attack in backdoors]
    for one in honest:
        rows += [(one, probe) for probe in backdoors] or [(one, None)]
    return rows


def _few_seeds(suite: Suite) -> tuple[str, ...]:
    """What to say of detectors of models that see too few of them."""
    names = [one.card.name for one in suite.detectors if "model" in one.subjects]
    if not names or len(suite.seeds) >= FEWEST:
        return ()
    return (
        f"{', '.join(names)}: to tell backdoored models from honest ones is a question to at least "
        f"{FEWEST} seeds, got {len(suite.seeds)}: there will be scores and no AUROC",
    )


def _without_gpu(suite: Suite, device: str) -> tuple[str, ...]:
    """What to say of testbeds that need a GPU where there is none to be used."""
    needing = [testbed.name for testbed in suite.testbeds if testbed.resources.gpu]
    if not needing or device != "cpu":
        return ()
    return (
        f"{', '.join(dict.fromkeys(needing))}: declared for a GPU, and this is planned for CPU "
        f"cores, where it may take months (--device cuda)",
    )


def _needed(stages: Mapping[str, Stage], cells: Iterable[Cell]) -> dict[str, Stage]:
    """Those that some cell's record rests on, in their order."""
    waiting = [cell.stage for cell in cells if cell.stage is not None]
    needed: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += stages[key].inputs.values()
    return {key: stage for key, stage in stages.items() if key in needed}


P = ParamSpec("P")
T = TypeVar("T")


def _once(method: Callable[Concatenate[_Builder, P], T]) -> Callable[Concatenate[_Builder, P], T]:
    """Plans the same for the same arguments once: most cells of a matrix share most stages.
    Plugins are told apart by which object they are, since not all can be hashed.
    """

    @functools.wraps(method)
    def call(self: _Builder, /, *args: P.args, **kwargs: P.kwargs) -> T:
        known = (method.__name__, *map(_which, args), *map(_which, kwargs.items()))
        if known not in self.planned:
            # The arguments are kept, or another object could take the name of one.
            self.planned[known] = (method(self, *args, **kwargs), args, kwargs)
        result: T = self.planned[known][0]
        return result

    return call


def _which(value: object) -> object:
    if isinstance(value, tuple | list):
        return tuple(map(_which, value))
    return value if isinstance(value, int | str | Probe | None) else id(value)


class _Builder:
    """Cells and stages of one testbed under one sampler, collected into a shared table."""

    sampler: PluginSpec | None = None

    def __init__(
        self,
        testbed: Testbed,
        kinds: Mapping[str, StageKind],
        device: str,
        processes: int,
        stages: dict[str, Stage],
        suite: Suite,
        registry: Registry,
        honest: list[Attack],
    ) -> None:
        self.suite_tuned, self.tasks = suite.tuned, suite.inpainting
        self.registry, self.honest = registry, honest
        self.sources: dict[type[Plugin], Source | None] = {}
        self.testbed, self.kinds, self.device, self.processes, self.stages = (
            testbed,
            kinds,
            device,
            processes,
            stages,
        )
        self.conditional = testbed.has_classes()
        self.settings = testbed.sampler.settings()
        self.spec = testbed_spec(testbed)
        parts = testbed.parts()
        self.locations = frozenset(field for part in parts.values() for field in part.locations)
        self.files = fingerprints(testbed)
        self.identities = {part_name: identity(part) for part_name, part in parts.items()}
        self.code = {part_name: closure_of_class(type(part)) for part_name, part in parts.items()}
        self.closures: dict[tuple[Any, ...], Closure] = {}
        self.fingerprints: dict[tuple[Any, ...], str] = {}
        self.handed: dict[tuple[str, ...], tuple[Any, ...]] = {}
        self.planned: dict[tuple[object, ...], tuple[Any, ...]] = {}
        # What a suite has to ask for is not missing where it does not.
        self.measurements = [
            (one, one.names)
            for one in measurements.table().values()
            if self.tasks or one.name != INPAINTING
        ]
        self.read: dict[tuple[str, frozenset[str]], frozenset[str]] = {}
        bare = without({"name": testbed.name, "params": testbed.params()}, self.locations)
        self.protocol = protocol_of(testbed, kinds, bare, self.files, self.tasks)

    def under(self, sampler: Sampler) -> _Builder:
        """The same under another sampler; what needs no sample is shared."""
        other = copy.copy(self)
        other.sampler = spec_of(sampler, self.testbed)
        other.settings, other.planned = sampler.settings(self.testbed), {}
        return other

    def _drawing(self, *plugins: Plugin) -> dict[str, Any]:
        """The sampler, as the parameter of a stage that samples; of one that runs plugins only if
        these are handed the means to.
        """
        needed = not plugins or any(
            plugin.card.needs & {"weights", "queries"} for plugin in plugins
        )
        return {"sampler": bare(self.sampler)} if self.sampler and needed else {}

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

    def _together(self, name: str) -> bool:
        """Whether several processes make this kind of stage. Each draws its own share of the noise,
        so their number changes the result.
        """
        return self.processes > 1 and self.kinds[name].distributed

    def _check_batch(self, attack: TrainingAttack) -> None:
        settings = self.testbed.training_settings(attack.scheme)
        if settings.batch_size % (settings.accumulation_steps * self.processes):
            raise UserError(
                f"--gpus-per-stage {self.processes} must divide the training batch of "
                f"{self.testbed.name}: {settings.batch_size} "
                f"images in {settings.accumulation_steps} accumulation step(s)"
            )

    def _source(self, plugin: Plugin) -> Source | None:
        if type(plugin) not in self.sources:
            self.sources[type(plugin)] = self.registry.source(plugin)
        return self.sources[type(plugin)]

    def _code(
        self, name: str, more: Closure, parts: tuple[str, ...], plugins: list[Plugin]
    ) -> Closure:
        """All that a stage of this kind can reach with these parts of the testbed and plugins."""
        known = name, more.hash, parts, *map(type, plugins)
        if known not in self.closures:
            of_plugins = [
                closure_of_class(type(plugin), () if source is None else map(Path, source.hashes))
                for plugin in plugins
                for source in [self._source(plugin)]
            ]
            of_testbed = [closure_of_class(Testbed), *(self.code[part_name] for part_name in parts)]
            self.closures[known] = joined(
                [closure_of_function(self.kinds[name].run), *of_testbed, more, *of_plugins]
            )
        return self.closures[known]

    def stage(
        self,
        name: str,
        params: dict[str, Any],
        inputs: dict[str, str],
        *plugins: Plugin | None,
        code: Closure | None = None,
        parts: tuple[str, ...] | None = None,
        notes: dict[str, Any] | None = None,
        charged: Iterable[str] = (),
    ) -> str:
        """Adds a stage unless it is there, and returns its key. ``plugins``: those it runs;
        ``code``: what else decides its result; ``parts``: of the testbed, unless the kind says it;
        ``notes``, ``charged``: see :class:`Stage`.
        """
        run = [plugin for plugin in plugins if plugin is not None]
        theirs = [source for plugin in run if (source := self._source(plugin))]
        wanted = {*(self.kinds[name].parts if parts is None else parts)}
        wanted |= {
            part_name
            for plugin in run
            for need in plugin.card.needs
            for part_name in REACHED.get(need, ())
        }
        there = tuple(part_name for part_name in self.files if part_name in wanted)
        ours = self._code(name, code or Closure(), there, run)
        handed, keyed, located = self._handed_out(there)
        whole = {"testbed": handed} | params
        if "testbed" in params:  # a record names it with all parameters
            keyed = self._keyed(whole["testbed"], there)
        made = Stage(
            name=name,
            params=whole,
            keyed=whole | {"testbed": keyed},
            inputs=inputs,
            fingerprint=self._fingerprint(name, there, ours),
            title=title(name, whole),
            alike=alike(name, whole),
            seconds=expected_seconds(self.testbed, name, params, run, self.kinds[name].seconds),
            notes=notes or {},
            charged=frozenset(charged),
            code=ours,
            plugins=tuple(theirs),
            locations=located,
            resources=self.testbed.resources,
        )
        self.stages.setdefault(made.key, made)
        return made.key

    def _fingerprint(self, name: str, parts: tuple[str, ...], code: Closure) -> str:
        known = self._together(name), parts, code.hash
        if known not in self.fingerprints:
            self.fingerprints[known] = digest(
                {
                    "code": code.hash,
                    "files": {part_name: self.files[part_name] for part_name in parts},
                    "versions": versions(sorted({*PACKAGES, *code.packages})),
                    "device": f"{self.device} x{self.processes}" if known[0] else self.device,
                }
            )
        return self.fingerprints[known]

    def _handed_out(
        self, parts: tuple[str, ...]
    ) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
        """Of these parts of the testbed: what a stage gets, what enters its key, and the paths that
        they read.
        """
        if parts not in self.handed:
            params = self.testbed.params(parts)
            handed = {"name": self.testbed.name, "params": params, "parts": [*parts]}
            paths = [params[field] for field in sorted(self.locations & params.keys())]
            paths += [path for part_name in parts for path in self._also_read(part_name)]
            located = tuple(dict.fromkeys(path for path in paths if isinstance(path, str)))
            self.handed[parts] = handed, self._keyed(handed, parts), located
        handed, keyed, located = self.handed[parts]
        return handed, keyed, located

    @_once
    def _also_read(self, part_name: str) -> tuple[str, ...]:
        """None of a part whose files are not there: whoever asks for them says so."""
        with suppress(UserError):
            return self.testbed.parts()[part_name].also_reads()
        return ()

    def _keyed(self, named: Mapping[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
        """The testbed as it enters a key: the parts that are used, with all that is declared of
        them. A record names it with all parameters and a label; a label, like a location, is in no
        key.
        """
        used = {part_name: self.identities[part_name] for part_name in parts}
        return without(named, self.locations) | {"kind": self.testbed.kind, "parts": used}

    @_once
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

    @_once
    def reference(self) -> str:
        """The key of the testbed's real-image statistics."""
        return self.stage("reference", {}, {})

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

    @_once
    def generator(self, attack: Attack, seed: int) -> str:
        """The key of the model an attack leaves behind."""
        named = {"attack": self._bare(attack), "seed": seed}
        if not isinstance(attack, TrainingAttack):
            return self.stage("implant", named, {}, attack)
        if self._together("train"):
            self._check_batch(attack)
        return self.stage("train", named, {}, attack)

    @_once
    def suspected(self, attack: Attack, seed: int) -> str:
        """The key of the training set as its owner sees it."""
        return self.stage("suspected", {"attack": self._bare(attack), "seed": seed}, {}, attack)

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

    @_once
    def repair(self, defense: ModelDefense, attack: Attack, seed: int, generator: str) -> str:
        """The key of a generator after a model defense."""
        inputs = self._handed(defense, attack, seed, generator) | {"generator": generator}
        named = {"defense": self._bare(defense), "seed": seed} | self._drawing(defense)
        return self.stage("repair", named, inputs, defense)

    @_once
    def invert(self, inversion: Inversion, attack: Attack, seed: int, generator: str) -> str:
        """The key of what an inversion recovers from a generator."""
        inputs = self._handed(inversion, attack, seed, generator) | {"generator": generator}
        named = {"defense": self._bare(inversion), "seed": seed} | self._drawing(inversion)
        return self.stage("invert", named, inputs, inversion)

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
        named = {"defense": self._bare(detector), "seed": seed} | self._drawing(detector)
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

    @_once
    def _model_score(self, detector: Detector, attack: Attack, seed: int) -> str:
        """The key of a detector's score of the model that an attack leaves."""
        generator = self.generator(attack, seed)
        inputs = self._handed(detector, attack, seed, generator) | {"generator": generator}
        named = {"defense": self._bare(detector), "seed": seed} | self._drawing(detector)
        return self.stage("score", named, inputs, detector)

    @_once
    def _samples(
        self, invoked: Attack, seed: int, generator: str, guards: tuple[Plugin, ...]
    ) -> dict[str, str]:
        """Every set of samples that a generator is judged by."""
        return {
            probe.role: self.sample(seed, probe, generator, invoked, guards)
            for probe in probes(self.testbed, invoked)
        } | self._restored(invoked, seed, generator, guards)

    @_once
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
        named = {"defense": self._bare(last), "seed": seed} | self._drawing(last)
        inputs = self._handed(last, attack, seed, generator)
        if isinstance(last, ClassifierDefense):
            inputs["generator"] = generator
            aim = {"aim": self.aim(invoked, seed)}
            sets = self.stage("evaluation_images", {"seed": seed}, aim)
            return {"predictions": self._of_pool("classify", named, inputs, sets, last)}
        inputs["generated"] = self.sample(seed, GENERATED_PROBE, generator, None, guards)
        return {"classifier": self.stage("classifier", named, inputs, last)}

    @_once
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

    @_once
    def classifier(self, attack: Attack, seed: int) -> str:
        """The key of the classifier a user trains on the suspected training set."""
        return self.stage("classifier", {"seed": seed}, {"suspected": self.suspected(attack, seed)})

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

    @_once
    def aim(self, attack: Attack, seed: int) -> str:
        """The key of what an attack aims at; one for all seeds, unless it learns."""
        return self.stage("aim", {"attack": self._bare(attack)}, self._learnt(attack, seed), attack)

    def _learnt(self, attack: Attack, seed: int) -> dict[str, str]:
        """The training that whoever calls the backdoor of ``attack`` has to wait for, if it learns
        something beside the network. An honest model is called with it, too.
        """
        return {LEARNT: self.generator(attack, seed)} if learns(attack) else {}

    @_once
    def poisoned_rows(self, attack: Attack, seed: int) -> str:
        """The key of the rows an attack poisons."""
        return self.stage("poisoned_rows", {"attack": self._bare(attack), "seed": seed}, {}, attack)

    @_once
    def trigger_classifier(self, attack: Attack) -> str:
        """The key of the harness's judge of this attack's trigger, one for all seeds."""
        return self.stage("trigger_classifier", {"attack": self._bare(attack)}, {}, attack)

    def anchors(
        self, control: Defense | Composed, seed: int, under: Iterable[_Builder]
    ) -> list[Cell]:
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

    @_once
    def _values(self, named: PluginSpec | Probe) -> dict[str, Any]:
        return dataclasses.asdict(named)

    @_once
    def _bare(self, plugin: Plugin) -> dict[str, Any]:
        return _bare(plugin)

    @_once
    def _papers(self, *plugins: Plugin | None) -> list[dict[str, Any]]:
        return _papers(plugins)

    @_once
    def _spec(self, plugin: Plugin | Composed) -> PluginSpec:
        return spec(plugin)

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


def title(name: str, params: Mapping[str, Any]) -> str:
    """A line for people: what is done to what."""
    roles = ("testbed", "attack", "probe", "sampler", "defense")
    specs = [params.get(role) for role in roles] + params.get("defenses", [])
    parts = [spec["name"] for spec in specs if spec]
    extra = [str(params["what"])] if "what" in params else []
    seed = [f"seed {params['seed']}"] if "seed" in params else []
    if "seeds" in params:
        seed = [f"seeds {', '.join(map(str, params['seeds']))}"]
    return " ".join([name, *extra, *dict.fromkeys(parts), *seed])


def alike(name: str, params: Mapping[str, Any]) -> tuple[str, str]:
    """Stages that share the first of these take about the same time; those that share the second,
    with any plugins, still roughly.
    """
    roles = ("testbed", "attack", "defense", "sampler")
    testbed, *plugins = [params.get(role) for role in roles] + params.get("defenses", [])
    roughly = [name, params.get("what"), testbed and testbed["name"]]
    return _in_groups((*roughly, *(spec and spec["name"] for spec in plugins)), len(roughly))


@functools.cache
def _in_groups(names: tuple[str | None, ...], rough: int) -> tuple[str, str]:
    return canonical([*names]), canonical([*names[:rough]])


def without(testbed: Mapping[str, Any], locations: frozenset[str]) -> dict[str, Any]:
    """A testbed's name and parameters, less those that say where its files are: its fingerprint
    stands for what is in them.
    """
    params = {name: value for name, value in testbed["params"].items() if name not in locations}
    return {"name": testbed["name"], "params": params}


def protocol_of(
    testbed: Testbed,
    kinds: Mapping[str, StageKind],
    bare: Mapping[str, Any],
    files: Mapping[str, str],
    tasks: Sequence[Inpainting] = (),
) -> str:
    """What makes two numbers comparable, as a hash: the testbed, and the versions of the stages
    that have all their parts in it, and of all that measures; and the images that models restore,
    since an adversary who hands in one has a call more.

    A version of 1 is not written down, so that a new measurement leaves the others' numbers in one
    table.
    """
    parts = testbed.parts().keys()
    raised = {
        name: kind.version
        for name, kind in kinds.items()
        if kind.version > 1 and parts >= set(kind.parts)
    }
    raised |= {
        f"{MEASURED_BY}{one.name}": one.version
        for one in measurements.table().values()
        if one.version > 1
    }
    asked = [[task.name for task in tasks]] if tasks else []
    return digest([bare, testbed.features.extractor, dict(files), raised, *asked])[:16]


def _all_of(attacks: Sequence[Attack]) -> PluginSpec:
    """Several attacks as one row of a population; which they are, with their parameters, by
    hash.
    """
    names = list(dict.fromkeys(attack.card.name for attack in attacks))
    params = {"attacks": names, "hash": digest([_bare(attack) for attack in attacks])[:16]}
    return PluginSpec(name=ALL, params=params, label=f"all {len(attacks)} attacks")


def _papers(plugins: Iterable[Plugin | None]) -> list[dict[str, Any]]:
    """What these plugins are taken from, each paper once."""
    papers = [plugin.card.paper for plugin in plugins if plugin is not None]
    return [dataclasses.asdict(paper) for paper in dict.fromkeys(papers) if paper is not None]
