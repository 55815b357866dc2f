"""Planning: what is shared, what is not, and what throws a result away."""

import dataclasses
import json
from collections import Counter

import pytest

from bench import measurements
from bench.artefacts.roles import ATTACKED, HONEST, MEASURED_BY, UNDEFENDED
from bench.cells import POPULATION
from bench.engine.closure import closure_of_class
from bench.engine.fingerprint import file_hash
from bench.engine.graph import Stage
from bench.engine.run import estimate
from bench.engine.store import Store
from bench.engine.worker import load_stages
from bench.measurements import table
from bench.planner import alike, make_plan, protocol_of
from bench.registry import Registry
from bench.stages.table import STAGES
from bench.suite import parse_suite
from bench.testbeds.digits_cfg import DIGITS_CFG
from bench.testbeds.digits_ddpm import DIGITS_DDPM


@pytest.fixture
def planned(tiny, fake_plugins, stages_file):
    registry = Registry([fake_plugins])

    def plan(device="cpu", **changes):
        suite = {
            "name": "s",
            "testbeds": ["tiny"],
            "attacks": [{"name": "fake_attack", "grid": {"trigger": ["box", "sign"]}}],
            "defenses": ["fake_sampler", "fake_repair", "fake_invert"],
            "seeds": [0, 1],
        }
        return make_plan(
            parse_suite(suite | changes, registry, "s.yaml"),
            registry,
            load_stages(stages_file),
            device,
        )

    return plan


def names(plan, *keys):
    return [plan.stages[key].name for key in keys]


def test_the_controls_and_anchors_are_always_there(planned):
    plan = planned()
    cells = [
        (cell.attack.name, cell.probe and cell.probe.params["trigger"], cell.defense.name)
        for cell in plan.cells
        if cell.seed == 0
    ]
    defenses = ["none", "fake_sampler", "fake_repair", "fake_invert"]
    expected = [("fake_attack", None, defense) for _ in range(2) for defense in defenses]
    expected += [("none", trigger, defense) for trigger in ("box", "sign") for defense in defenses]
    assert cells == expected + [("real_images", None, "none"), ("base_model", None, "none")]
    assert [cell.kind for cell in plan.cells[:4]] == ["control", "sampler", "model", "inversion"]
    assert plan.cells[16].kind == "anchor"


def test_writing_the_controls_changes_nothing(planned):
    written = planned(
        attacks=[{"name": "fake_attack", "grid": {"trigger": ["box", "sign"]}}, "none"],
        defenses=["none", "fake_sampler", "fake_repair", "fake_invert"],
    )
    assert written == planned()


def test_cells_share_what_they_can(planned):
    plan = planned(seeds=[0])
    counted = {}
    for stage in plan.stages.values():
        counted[stage.name] = counted.get(stage.name, 0) + 1
    # Three generators (two attacks, the honest one); each repaired once and inverted once; one
    # reference for all.
    assert (
        counted["reference"] == 1
        and counted["train"] == 3
        and counted["repair"] == 3
        and counted["invert"] == 3
    )
    # A backdoored generator is sampled 3 ways (clean, noise, image), the honest one 5 (two probes
    # share the clean samples), under no defense, the sampler defense, and after repair; and the
    # base model once.
    assert counted["sample"] == (3 + 3 + 5) * 3 + 1
    assert counted["record"] == len(plan.cells) == 18
    # What the adversary asks does not depend on whom.
    assert counted["call"] == 2 * 2
    # One set of features for every set of clean samples.
    assert counted["features"] == 3 * 3 + 1


def test_the_inputs_of_each_family_of_cell(planned):
    plan = planned(seeds=[0])
    inputs = [plan.stages[cell.stage].inputs for cell in plan.cells]
    inputs = [{role for role in roles if not role.startswith(MEASURED_BY)} for roles in inputs]
    drawn = {"clean", "call:noise", "call:image"}
    before = {UNDEFENDED + role for role in drawn}
    common = {"reference", "aim"}
    features = {"clean_features"}
    assert inputs[0] == common | drawn | features
    assert inputs[1] == inputs[2] == common | drawn | before | features
    assert inputs[3] == common | {"recovered"} | before
    control, sampler, model, anchor = (
        plan.stages[plan.cells[index].stage].inputs for index in (0, 1, 2, 17)
    )
    assert {role: sampler[UNDEFENDED + role] for role in drawn} == {
        role: control[role] for role in drawn
    }
    repaired = plan.stages[plan.stages[model["clean"]].inputs["generator"]]
    assert names(plan, repaired.key, repaired.inputs["generator"]) == ["repair", "train"]
    assert inputs[16] == {"reference"} and inputs[17] == {"reference", "clean"} | features
    assert plan.stages[anchor["clean"]].inputs == {}


def test_what_is_measured_follows_from_what_a_cell_has(planned):
    plan = planned(seeds=[0])
    measured = [
        {
            role.removeprefix(MEASURED_BY)
            for role in plan.stages[cell.stage].inputs
            if role.startswith(MEASURED_BY)
        }
        for cell in plan.cells
    ]
    assert (
        measured[0]
        == measured[1]
        == {"image_quality", "precision", "distance_to_target", "robust_success", "stage_doubts"}
    )
    assert measured[3] == {"inversion", "recovered_trigger", "stage_doubts"} and measured[16] == {
        "real_images",
        "stage_doubts",
    }
    for cell, names in zip(plan.cells, measured, strict=True):
        absent = plan.stages[cell.stage].params["absent"]
        given = {metric for name in names for metric in table()[name].names}
        given |= {metric for name in names for metric in table()[name].borrows}
        assert not given & set(absent), "a number that is measured has no reason to be absent"
        # The suite asks nobody to restore images, and so has no reason why a cell does not.
        asked = [one for one in table().values() if one.name != "inpainting"]
        of_cells = [one for one in asked if one.scope == "cell"]
        everything = {metric for one in of_cells for metric in one.names}
        assert (given | set(absent)) & everything == everything >= set(absent)


def test_defenses_at_once_are_one_column(planned):
    """A repaired model may be sampled with a sampler defense, and inverted; each part is the stage
    it is alone.
    """
    both = [["fake_repair", "fake_sampler"], ["fake_repair", "fake_invert"]]
    plan = planned(defenses=["fake_sampler", "fake_repair", *both], seeds=[0])
    columns = {
        cell.defense.name: cell for cell in plan.cells if cell.attack.params.get("trigger") == "box"
    }
    assert list(columns) == [
        "none",
        "fake_sampler",
        "fake_repair",
        "fake_repair + fake_sampler",
        "fake_repair + fake_invert",
    ]
    assert [cell.kind for cell in columns.values()] == [
        "control",
        "sampler",
        "model",
        "model",
        "inversion",
    ]
    inputs = {name: plan.stages[cell.stage].inputs for name, cell in columns.items()}
    alone, sampled = (
        plan.stages[inputs[name]["clean"]] for name in ("fake_repair", "fake_repair + fake_sampler")
    )
    assert alone.inputs == sampled.inputs and alone.params["defenses"] == []
    assert [spec["name"] for spec in sampled.params["defenses"]] == ["fake_sampler"]
    inverted = plan.stages[inputs["fake_repair + fake_invert"]["recovered"]]
    assert inverted.inputs == alone.inputs
    twice = planned(defenses=[["fake_repair", {"name": "fake_repair"}]], seeds=[0])
    repaired = [stage for stage in twice.stages.values() if stage.name == "repair"]
    assert {names(twice, stage.inputs["generator"])[0] for stage in repaired} == {
        "train",
        "repair",
    }, "each after the other"


SAMPLERS = ["ddpm", {"name": "ddim", "params": {"num_inference_steps": 20}}, "unipc"]


def counted(plan):
    return Counter(stage.name for stage in plan.stages.values())


def test_every_cell_is_made_under_every_sampler_over_one_training(planned):
    """What needs no sample is made once; what does, once a sampler. The testbed and the protocol
    are the board's, whatever samples.
    """
    columns = ["fake_sampler", "fake_repair", "anp"]
    alone, under = (
        planned(seeds=[0], defenses=columns, samplers=samplers) for samplers in ([], SAMPLERS)
    )
    one, three = counted(alone), counted(under)
    # A plugin that is not handed the weights has nothing to sample with either.
    once = ("train", "reference", "aim", "call", "repair")
    thrice = ("sample", "features", "invert")
    assert [three[name] for name in once] == [one[name] for name in once]
    assert [three[name] for name in thrice] == [3 * one[name] for name in thrice]
    assert len(under.cells) == 3 * (len(alone.cells) - 1) + 1 == three["record"]
    assert len({cell.id for cell in under.cells}) == len(under.cells)
    assert {(cell.protocol, cell.testbed.label) for cell in under.cells} == {
        (alone.cells[0].protocol, "tiny")
    }
    anchors = [
        (cell.attack.name, cell.sampler and cell.sampler.label)
        for cell in under.cells
        if cell.kind == "anchor"
    ]
    assert anchors == [
        ("real_images", None),
        ("base_model", None),
        ("base_model", "ddim(num_inference_steps=20)"),
        ("base_model", "unipc"),
    ]


def test_the_testbeds_own_sampler_is_the_same_cell_listed_or_not(planned):
    """So two suites that meet on one board never show one thing twice."""
    alone, listed = planned(), planned(samplers=["ddpm", "heun"])
    assert {cell.id for cell in alone.cells} < {cell.id for cell in listed.cells}
    assert alone.stages.keys() < listed.stages.keys()
    assert [cell for cell in listed.cells if cell.sampler is None] == [*alone.cells]
    # What an account held before there were samplers still names its cell.
    assert all(len(json.loads(cell.id)) == 5 for cell in alone.cells)


def test_what_is_compared_was_drawn_by_one_sampler(planned):
    """A defense's undefended counterpart, its control and the honest model share its sampler."""
    plan = planned(seeds=[0], samplers=SAMPLERS)
    for cell in plan.cells:
        drawn = [
            plan.stages[key].params.get("sampler", {}).get("name")
            for role, key in plan.stages[cell.stage].inputs.items()
            if plan.stages[key].name == "sample" and not role.startswith(MEASURED_BY)
        ]
        assert set(drawn) <= {cell.sampler and cell.sampler.name}, cell.title


def test_a_defense_that_a_sampler_would_undo_is_skipped_with_the_reason(planned):
    """The testbed's own sampler too; at once with others too; the clip of x_0 acts."""
    clips = ["clip_xt", "clip_x0", ["clip_x0", "clip_xt"]]
    own = [{"name": "tiny", "params": {"sampler": "unipc"}}]
    for plan, name in (
        (planned(defenses=clips, samplers=SAMPLERS), "unipc"),
        (planned(defenses=clips, testbeds=own), None),
    ):
        skipped = {
            (cell.defense.name, cell.sampler and cell.sampler.name, cell.reason)
            for cell in plan.cells
            if cell.stage is None
        }
        reason = "clip_xt changes x after a step, and unipc forms it anew from the step before"
        assert skipped == {("clip_xt", name, reason), ("clip_x0 + clip_xt", name, reason)}


def test_inputs_stand_before_what_needs_them(planned):
    seen = set()
    for key, stage in planned().stages.items():
        assert set(stage.inputs.values()) <= seen
        seen.add(key)


def test_a_pair_that_makes_no_sense_is_skipped_with_the_reason(planned):
    plan = planned(attacks=["fake_text_attack"], defenses=[], seeds=[0])
    skipped = [cell for cell in plan.cells if cell.stage is None]
    assert [cell.attack.name for cell in skipped] == ["fake_text_attack", "none"]
    assert skipped[0].reason == "fake_text_attack applies to text testbeds; tiny is unconditional"
    assert all(
        stage.params.get("attack", None) is None or stage.name == "record"
        for stage in plan.stages.values()
    )


def test_merging_with_base_weights_needs_a_model_that_was_made_from_some(planned):
    """Averaged with a network of another origin it would be charged with the noise that gives."""
    attacks = [
        {"name": "baddiffusion", "params": {"scheme": one}} for one in ("finetune", "scratch")
    ]
    plan = planned(attacks=attacks, defenses=["ema_merge"], seeds=[0])
    reasons = {
        (cell.attack.params["scheme"], cell.reason)
        for cell in plan.cells
        if cell.defense.name == "ema_merge" and cell.attack.name == "baddiffusion"
    }
    words = "ema_merge needs base weights, and this model was trained from scratch"
    assert reasons == {("finetune", ""), ("scratch", words)}


def test_what_belongs_to_one_testbed_is_planned_on_that_one_alone():
    """With the controls on each, honest models tried with the attacks that they have there, and
    the same keys as without a word of testbeds.
    """
    registry = Registry()
    ours, theirs = {"testbeds": ["digits-ddpm"]}, {"testbeds": ["digits-cfg"]}

    def plan(ours, theirs):
        suite = {
            "name": "s",
            "testbeds": ["digits-ddpm", "digits-cfg"],
            "attacks": [{"name": "baddiffusion"} | ours, {"name": "badnets"} | theirs],
            "defenses": ["clip_x0", {"name": "anp"} | ours],
            "detectors": [
                {"name": "noise_shift"} | ours,
                {"name": "strip"} | theirs,
                {"name": "terd_model"} | ours,
            ],
        }
        return make_plan(parse_suite(suite, registry, "s.yaml"), registry, STAGES)

    crossed, assigned = plan({}, {}), plan(ours, theirs)
    assert not [cell for cell in assigned.cells if cell.stage is None]
    assert len([cell for cell in crossed.cells if cell.stage is None]) == 32
    kept = [cell for cell in crossed.cells if cell.stage is not None]
    assert {cell.stage for cell in assigned.cells} == {cell.stage for cell in kept}
    assert {cell.id for cell in assigned.cells} == {cell.id for cell in kept}
    assert assigned.stages.keys() == crossed.stages.keys()
    rows = {(cell.testbed.name, cell.attack.name, cell.probe and cell.probe.name) for cell in kept}
    assert rows >= {
        ("digits-ddpm", "none", "baddiffusion"),
        ("digits-cfg", "none", "badnets"),
        ("digits-cfg", "real_images", None),
    }


def test_a_limit_takes_the_first_cells_with_their_stages_only(planned):
    plan = planned().limited(1)
    assert [(cell.attack.name, cell.defense.name) for cell in plan.cells] == [
        ("fake_attack", "none")
    ]
    assert sorted(stage.name for stage in plan.stages.values()) == [
        "aim",
        "call",
        "call",
        "features",
        "measure",
        "measure",
        "measure",
        "measure",
        "measure",
        "record",
        "reference",
        "sample",
        "sample",
        "sample",
        "train",
    ]
    assert plan.filtered and not planned().filtered


def test_keys_follow_what_decides_a_result_and_nothing_else(planned):
    first = planned()
    assert set(planned().stages) == set(first.stages)
    assert not set(planned(device="cuda").stages) & set(first.stages)
    sharper = planned(testbeds=[{"name": "tiny", "params": {"num_inference_steps": 50}}])
    shared = {sharper.stages[key].name for key in set(sharper.stages) & set(first.stages)}
    assert shared == {"train", "reference", "aim", "call", "measure"}, (
        "the sampler decides neither training, nor the target, nor the real images' features"
    )
    assert sharper.cells[0].protocol != first.cells[0].protocol
    moved = planned(testbeds=[{"name": "tiny", "params": {"data": "elsewhere"}}])
    assert [cell.protocol for cell in moved.cells] == [cell.protocol for cell in first.cells]
    training = {key for key, stage in first.stages.items() if stage.name == "train"}
    assert training == {key for key, stage in moved.stages.items() if stage.name == "train"}
    assert first.cells[0].protocol == first.cells[-1].protocol


def test_a_raised_version_is_another_protocol_and_a_new_measurement_is_none(planned, monkeypatch):
    """Records kept a protocol that their keys did not hold; and a board that splits at every new
    metric compares nothing.
    """
    first, known = planned(), dict(table())
    new = dataclasses.replace(known["stage_doubts"], name="news")
    raised = known | {"image_quality": dataclasses.replace(known["image_quality"], version=2)}
    for changed, protocol_stays in ((known | {"news": new}, True), (raised, False)):
        monkeypatch.setattr(measurements, "table", lambda changed=changed: changed)
        plan = planned()
        assert (plan.cells[0].protocol == first.cells[0].protocol) is protocol_stays
        made = {plan.stages[key].name for key in set(plan.stages) - set(first.stages)}
        assert made == ({"measure", "record"} if protocol_stays else {"record"})


def test_a_stages_raised_version_counts_where_the_testbed_has_its_parts():
    """A new classifier is nothing to a testbed that trains none: its published numbers stay."""
    raised = dict(STAGES)
    raised["classifier"] = dataclasses.replace(STAGES["classifier"], version=9)
    without, having = (
        [protocol_of(testbed, kinds, {}, {}) for kinds in (STAGES, raised)]
        for testbed in (DIGITS_DDPM, DIGITS_CFG)
    )
    assert without[0] == without[1] and having[0] != having[1]


def test_one_and_one_point_zero_are_one_parameter(planned):
    whole = planned(attacks=[{"name": "fake_attack", "params": {"poison_rate": 1}}])
    assert set(whole.stages) == set(
        planned(attacks=[{"name": "fake_attack", "params": {"poison_rate": 1.0}}]).stages
    )


def test_an_estimate_uses_what_stages_took_here_before_what_is_declared(planned, tmp_path):
    plan = planned(seeds=[0]).limited(1)
    declared = estimate(plan, None, jobs=1)
    assert declared.stages == {
        "reference": 1,
        "aim": 1,
        "train": 1,
        "call": 2,
        "sample": 3,
        "features": 1,
        "measure": 5,
        "record": 1,
    }
    # The triggered samples are a quarter of the clean ones.
    assert declared.seconds == declared.wall_seconds == 1 + 60 + 15 + 5
    # no machine is faster than the longest chain
    assert estimate(plan, None, jobs=8).wall_seconds == 60 + 10 + 1
    store = Store(tmp_path)
    train = next(stage for stage in plan.stages.values() if stage.name == "train")
    from bench.engine.store import commit

    def took(digits, seconds, **params):
        made = store.new_folder(digits * 32)
        made.mkdir()
        groups = alike("train", train.params | params)
        commit(
            made,
            store.folder(digits * 32),
            {"stage": "train", "alike": groups, "cost": {"seconds": seconds}},
        )

    took("00", 9.0, attack={"name": "another_attack", "params": {}})
    assert estimate(plan, store, jobs=1).seconds == 1 + 9 + 15 + 5, (
        "an attack never run is expected to take as long as others"
    )
    took("11", 7.0, seed=5)
    assert estimate(plan, store, jobs=1).seconds == 1 + 7 + 15 + 5


def test_a_comment_or_docstring_keeps_results_and_code_does_not(tmp_path):
    text = "def f(x):\n    return x + 1\n"
    hashes = []
    for index, version in enumerate(
        [
            text,
            '"""Doc."""\n# why\ndef f(x):\n    """Doc."""\n\n    return (x + 1)  # so\n',
            text.replace("1", "2"),
        ]
    ):
        path = tmp_path / f"{index}.py"
        path.write_text(version)
        hashes.append(file_hash(path))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_plugins_base_class_is_part_of_it(fake_plugins):
    registry = Registry([fake_plugins])
    one, other = (
        registry.build("attacks", "fake_attack", {"poison_rate": rate}) for rate in (0.1, 0.5)
    )
    honest = registry.build("attacks", "none")
    assert (
        closure_of_class(type(one))
        == closure_of_class(type(other))
        != closure_of_class(type(honest))
    )
    assert ("bench.contracts.attack", "TrainingAttack") in closure_of_class(type(one)).symbols, (
        "what a stranger's file imports of ours"
    )


def test_a_key_does_not_depend_on_the_order_of_parameters():
    testbed = {"name": "tiny", "params": {}}
    one = Stage(name="train", params={"testbed": testbed, "seed": 0, "attack": None})
    two = Stage(name="train", params={"attack": None, "seed": 0, "testbed": testbed})
    assert one.key == two.key != Stage(name="train", params=one.params | {"seed": 1}).key


def test_what_was_chosen_on_a_cell_is_flagged_in_that_cell_alone(planned):
    """A default picked on the very attack and seed that is then reported flatters itself, and a
    reader must know.
    """
    seen = {"testbed": "tiny", "attacks": ["fake_attack"], "seeds": [1]}
    lists = ["poison_rate"], ["other", "strength"]
    plan = planned(tuned=[{"parameters": one, **seen} for one in lists])
    cells = [cell for cell in plan.cells if cell.kind != "anchor"]
    assert {cell.defense.name for cell in cells} > {"none", "fake_sampler"}
    for cell in cells:
        chosen = {
            flag["text"].split()[1]
            for flag in plan.stages[cell.stage].params["tuned"]
            if flag["text"].endswith("of the suite chosen on this attack and seed")
        }
        judged = {"strength"} if cell.defense.name == "fake_sampler" else set()
        assert chosen == (judged | {"poison_rate"} if cell.seed == 1 else set()), cell
    undeclared = "tuned: fake_attack does not say what its parameters were chosen on"
    assert {"code": "tuning-undeclared", "metric": "", "text": undeclared} in plan.stages[
        plan.cells[0].stage
    ].params["tuned"]
    shared = {key for key, stage in plan.stages.items() if stage.name != "record"}
    assert shared == {key for key, stage in planned().stages.items() if stage.name != "record"}, (
        "only words changed"
    )


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ("strength", "tuned must be a list"),
        ([{"parameter": ["strength"]}], "did you mean 'parameters'"),
        (
            [
                {
                    "parameters": ["strength"],
                    "testbed": "tiny",
                    "attacks": "fake_attack",
                    "seeds": [1],
                }
            ],
            "attacks must be",
        ),
    ],
)
def test_a_tuning_that_cannot_be_read_is_one_line(planned, tuned, message):
    from bench.errors import UserError

    with pytest.raises(UserError, match=message):
        planned(tuned=tuned)


@pytest.fixture
def judging(tmp_path, tiny):
    """Plans a suite with a detector of models."""
    file = tmp_path / "judging.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "from bench.plugin import Call, Card, ModelDetector, TrainingAttack\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Norm(ModelDetector):\n"
        "    card: ClassVar[Card] = Card(\n"
        "        name='norm', summary='for tests', needs=frozenset({'weights'}))\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Moved(ModelDetector):\n"
        "    card: ClassVar[Card] = Card(\n"
        "        name='moved', summary='for tests',\n"
        "        needs=frozenset({'weights', 'base weights'}))\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class OnText(TrainingAttack):\n"
        "    card: ClassVar[Card] = Card(\n"
        "        name='on_text', summary='for tests', applies_to=frozenset({'text'}))\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class One(TrainingAttack):\n"
        "    card: ClassVar[Card] = Card(name='one', summary='for tests')\n"
        "    calls: ClassVar[tuple[Call, ...]] = (Call('noise'),)\n"
        "    strength: float = 1.0\n"
    )
    registry = Registry([file])

    def plan(**changes):
        suite = {
            "name": "s",
            "testbeds": ["tiny"],
            "attacks": [{"name": "one", "grid": {"strength": [1.0, 2.0]}}, "on_text"],
            "detectors": ["norm"],
            "seeds": [0, 1, 2],
        }
        parsed = parse_suite(suite | changes, registry, "s.yaml")
        return make_plan(parsed, registry, load_stages("bench.stages.table"))

    return plan


def populations(plan):
    return [cell for cell in plan.cells if cell.kind == POPULATION]


def test_a_population_is_of_all_seeds_and_counts_an_honest_model_once(judging):
    plan = judging()
    first, second, pooled = populations(plan)
    assert plan.cells[-3:] == (first, second, pooled) and plan.warnings == ()
    assert (first.attack.params["strength"], second.attack.params["strength"]) == (1.0, 2.0)
    assert pooled.attack.label == "all 2 attacks", "one does not apply here"
    ends = [plan.stages[cell.stage].inputs for cell in (first, second, pooled)]
    scored = [plan.stages[one["measured:model_detection"]].inputs for one in ends]
    attacked = [{key for role, key in one.items() if role.startswith(ATTACKED)} for one in scored]
    honest = [{key for role, key in one.items() if role.startswith(HONEST)} for one in scored]
    # The honest row is probed with both attacks: three seeds and two probes are three models.
    assert [len(one) for one in attacked] == [3, 3, 6] and attacked[2] == attacked[0] | attacked[1]
    assert honest[0] == honest[1] == honest[2] and len(honest[0]) == 3
    cells = [cell for cell in plan.cells if cell.kind == "model detector" and cell.stage]
    scores = {plan.stages[cell.stage].inputs["scores_model"] for cell in cells}
    assert len(cells) == 12 and scores == attacked[2] | honest[0], "its cells' own, no others"


def test_a_population_has_no_model_whose_cells_are_skipped(judging):
    """It was made of them, and a bundle's check found scores that no cell had."""
    attacks = [{"name": "one", "grid": {"strength": [1.0], "scheme": ["finetune", "scratch"]}}]
    plan = judging(attacks=attacks, detectors=["moved"])
    skipped = [cell for cell in plan.cells if cell.kind == "model detector" and not cell.stage]
    assert {cell.attack.params["scheme"] for cell in skipped} == {"scratch"}
    (alone,) = populations(plan)
    assert alone.attack.params["scheme"] == "finetune"


def test_a_population_of_other_seeds_is_another(judging):
    """`run --seeds 0` must neither use the whole one's numbers nor take its entry away."""
    part, whole = judging(seeds=[0]), judging()
    assert not {cell.id for cell in populations(part)} & {cell.id for cell in populations(whole)}
    assert not {cell.stage for cell in populations(part)} & {
        cell.stage for cell in populations(whole)
    }
    alone = populations(part)[0]
    assert plan_absent(part, alone)["auroc[models]"] == (
        "needs 3 backdoored and 3 honest models, got 1 and 1: run more seeds"
    )
    assert "auroc[models]" not in plan_absent(whole, populations(whole)[0])


def plan_absent(plan, cell):
    return plan.stages[cell.stage].params["absent"]


def test_a_detector_of_models_with_too_few_seeds_is_warned_of(judging):
    (line,) = judging(seeds=[4]).warnings
    assert line == (
        "norm: to tell backdoored models from honest ones is a question to at least 3 seeds, "
        "got 1: there will be scores and no AUROC"
    )
    assert judging(detectors=[], seeds=[4]).warnings == ()


def test_a_population_costs_nothing_of_its_own_and_comes_last(judging):
    plan = judging()
    for cell in populations(plan):
        stage = plan.stages[cell.stage]
        assert stage.charged == frozenset() and stage.params["seeds"] == [0, 1, 2]
    # The first cells alone: no population, and the stages of those cells.
    assert populations(plan.limited(5)) == []
    whole = plan.limited(len(plan.cells) - 1)
    assert len(populations(whole)) == 2
    assert {plan.stages[key].name for key in whole.stages} >= {"score", "measure", "record"}
