"""What a stage of one testbed is: what it is handed, what its key is made of, which code it can
reach and what it is called.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from bench import measurements, testbeds
from bench.artefacts.probes import Probe
from bench.artefacts.roles import MEASURED_BY
from bench.composed import Composed
from bench.contracts.attack import Attack, TrainingAttack
from bench.contracts.plugin import Plugin
from bench.diffusion.restoring import Inpainting
from bench.durations import expected_seconds
from bench.engine.closure import Closure, closure_of_class, closure_of_function, joined
from bench.engine.context import StageKind
from bench.engine.fingerprint import PACKAGES, canonical, digest, versions
from bench.engine.graph import Stage
from bench.errors import UserError
from bench.measurements.inpainting import INPAINTING
from bench.plugin_file import Source
from bench.record import PluginSpec
from bench.registry import Registry
from bench.samplers import Sampler, bare, spec_of
from bench.stages.building import REACHED
from bench.suite import Suite
from bench.testbeds.testbed import Testbed, fingerprints, identity

S = TypeVar("S", bound="Stages")
P = ParamSpec("P")
T = TypeVar("T")


def once(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Plans the same for the same arguments once: most cells of a matrix share most stages.
    Plugins are told apart by which object they are, since not all can be hashed.
    """

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
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


class Stages:
    """The stages of one testbed under one sampler, collected into a shared table."""

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

    def under(self: S, sampler: Sampler) -> S:
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

    @once
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

    @once
    def _values(self, named: PluginSpec | Probe) -> dict[str, Any]:
        return dataclasses.asdict(named)

    @once
    def _bare(self, plugin: Plugin) -> dict[str, Any]:
        return bare_of(plugin)


def spec(plugin: Plugin | Composed) -> PluginSpec:
    """What rebuilds a plugin, or several at once, and the label."""
    if isinstance(plugin, Composed):
        parts = [bare_of(part) for part in plugin.parts]
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


def bare_of(plugin: Plugin) -> dict[str, Any]:
    """What a stage is handed of a plugin, to build it again."""
    return {"name": plugin.card.name, "params": plugin.params()}


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
