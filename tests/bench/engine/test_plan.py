"""Planning: what is shared, what is not, and what throws a result away."""

import shutil

import pytest

from bench.engine.fingerprint import ROOT, code_files, file_hash, function_hash, object_hash, with_imports
from bench.engine.graph import Stage
from bench.engine.plan import make_plan
from bench.engine.run import estimate
from bench.engine.store import Store
from bench.engine.worker import load_stages
from bench.registry import Registry
from bench.suite import parse_suite


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
        return make_plan(parse_suite(suite | changes, registry, "s.yaml"), registry, load_stages(stages_file), device)

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
    # Three generators (two attacks, the honest one); each repaired once and inverted once; one reference for all.
    assert counted["reference"] == 1 and counted["train"] == 3 and counted["repair"] == 3 and counted["invert"] == 3
    # A backdoored generator is sampled 3 ways (clean, noise, image), the honest one 5 (two probes share the clean samples),
    # under no defense, the sampler defense, and after repair; and the base model once.
    assert counted["sample"] == (3 + 3 + 5) * 3 + 1
    assert counted["measure"] == len(plan.cells) == 18


def test_the_inputs_of_each_family_of_cell(planned):
    plan = planned(seeds=[0])
    inputs = [plan.stages[cell.stage].inputs for cell in plan.cells]
    drawn = {"clean", "noise", "image"}
    before = {f"undefended_{role}" for role in drawn}
    common = {"reference", "aim"}
    assert set(inputs[0]) == common | drawn
    assert set(inputs[1]) == set(inputs[2]) == common | drawn | before
    assert set(inputs[3]) == common | {"recovered"} | before
    assert {role: inputs[1][f"undefended_{role}"] for role in drawn} == {role: inputs[0][role] for role in drawn}
    repaired = plan.stages[plan.stages[inputs[2]["clean"]].inputs["generator"]]
    assert names(plan, repaired.key, repaired.inputs["generator"]) == ["repair", "train"]
    assert set(inputs[16]) == {"reference"} and set(inputs[17]) == {"reference", "clean"}
    assert plan.stages[inputs[17]["clean"]].inputs == {}


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
    assert all(stage.params.get("attack", None) is None or stage.name == "measure" for stage in plan.stages.values())


def test_a_limit_takes_the_first_cells_with_their_stages_only(planned):
    plan = planned().limited(1)
    assert [(cell.attack.name, cell.defense.name) for cell in plan.cells] == [("fake_attack", "none")]
    assert sorted(stage.name for stage in plan.stages.values()) == [
        "aim",
        "measure",
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
    assert shared == {"train", "reference"}, "the sampler decides neither training nor the real images' features"
    assert sharper.cells[0].protocol != first.cells[0].protocol
    moved = planned(testbeds=[{"name": "tiny", "params": {"data": "elsewhere"}}])
    assert [cell.protocol for cell in moved.cells] == [cell.protocol for cell in first.cells]
    training = {key for key, stage in first.stages.items() if stage.name == "train"}
    assert training == {key for key, stage in moved.stages.items() if stage.name == "train"}
    assert first.cells[0].protocol == first.cells[-1].protocol


def test_one_and_one_point_zero_are_one_parameter(planned):
    whole = planned(attacks=[{"name": "fake_attack", "params": {"poison_rate": 1}}])
    assert set(whole.stages) == set(planned(attacks=[{"name": "fake_attack", "params": {"poison_rate": 1.0}}]).stages)


def test_an_estimate_uses_what_stages_took_here_before_what_is_declared(planned, tmp_path):
    plan = planned(seeds=[0]).limited(1)
    declared = estimate(plan, None, jobs=1)
    assert declared.stages == {"reference": 1, "aim": 1, "train": 1, "sample": 3, "measure": 1}
    assert declared.seconds == declared.wall_seconds == 1 + 60 + 30 + 2
    assert estimate(plan, None, jobs=8).wall_seconds == 60 + 10 + 2  # no machine is faster than the longest chain
    store = Store(tmp_path)
    train = next(stage for stage in plan.stages.values() if stage.name == "train")
    from bench.engine.store import commit

    def took(place, seconds, **params):
        made = store.new_folder(place * 32)
        made.mkdir()
        commit(
            made, store.folder(place * 32), {"stage": "train", "params": train.params | params, "cost": {"seconds": seconds}}
        )

    took("00", 9.0, attack={"name": "another_attack", "params": {}})
    assert estimate(plan, store, jobs=1).seconds == 1 + 9 + 30 + 2, "an attack never run is expected to take as long as others"
    took("11", 7.0, seed=5)
    assert estimate(plan, store, jobs=1).seconds == 1 + 7 + 30 + 2


def test_a_comment_or_docstring_keeps_results_and_code_does_not(tmp_path):
    text = "def f(x):\n    return x + 1\n"
    hashes = []
    for index, version in enumerate(
        [text, '"""Doc."""\n# why\ndef f(x):\n    """Doc."""\n\n    return (x + 1)  # so\n', text.replace("1", "2")]
    ):
        path = tmp_path / f"{index}.py"
        path.write_text(version)
        hashes.append(file_hash(path))
    assert hashes[0] == hashes[1] != hashes[2]


def test_changing_one_stage_leaves_its_neighbours(tmp_path, stages_file):
    """Else a new picture in `measure` would train every model anew."""
    import importlib.util

    def load(name, old, new):
        path = tmp_path / f"{name}.py"
        text = open(stages_file).read()
        assert old in text
        path.write_text(text.replace(old, new))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return {stage: function_hash(kind.run) for stage, kind in module.STAGES.items()}

    before = load("before", "fid[fake]", "fid[fake]")
    measured = load("measured", "fid[fake]", "fid[other]")
    assert measured["train"] == before["train"] and measured["measure"] != before["measure"]
    helper = load("helper", "1e12", "1e11")  # `measure` calls `compute`
    assert helper["train"] != before["train"] and helper["measure"] != before["measure"]


def test_a_plugins_helper_file_is_part_of_it(tmp_path):
    shutil.copy(ROOT / "tests/bench/engine/fake_plugins.py", tmp_path / "plugin.py")
    (tmp_path / "_draw.py").write_text("SIZE = 3\n")
    (tmp_path / "plugin.py").write_text((tmp_path / "plugin.py").read_text() + "\nfrom _draw import SIZE  # noqa\n")
    assert with_imports(tmp_path / "plugin.py") == [tmp_path / "_draw.py", tmp_path / "plugin.py"]


def test_a_plugins_base_class_is_part_of_it(fake_plugins):
    registry = Registry([fake_plugins])
    attack = registry.build("attacks", "fake_attack")
    assert object_hash(attack) == object_hash(registry.build("attacks", "fake_attack", {"poison_rate": 0.5}))
    assert object_hash(attack) != object_hash(registry.build("attacks", "none"))


def test_declared_code_must_exist():
    from bench.errors import UserError

    assert ROOT / "bench/diffusion/schedule.py" in code_files(["bench.diffusion"])
    assert code_files(["bench.engine.record"]) == [ROOT / "bench/engine/record.py"]
    with pytest.raises(UserError, match=r"declares the code 'bench\.diffusoin', which does not exist"):
        code_files(["bench.diffusoin"])


def test_the_real_stage_table_declares_code_that_exists():
    kinds = load_stages("bench.engine.stages")
    around_classifiers = {"classifier", "trigger_classifier", "detect", "detect_noise", "classify"}
    around_generators = {"reference", "training_features", "train", "sample", "repair", "invert", "measure"}
    truths = {"aim", "poisoned_rows"}
    assert set(kinds) == around_generators | around_classifiers | truths
    assert all(function_hash(kind.run) and code_files(kind.code) for kind in kinds.values())


def test_a_key_does_not_depend_on_the_order_of_parameters():
    testbed = {"name": "tiny", "params": {}}
    one = Stage(name="train", params={"testbed": testbed, "seed": 0, "attack": None})
    two = Stage(name="train", params={"attack": None, "seed": 0, "testbed": testbed})
    assert one.key == two.key != Stage(name="train", params=one.params | {"seed": 1}).key


def test_what_was_chosen_on_a_cell_is_said_in_that_cell_alone(planned):
    """A default picked on the very attack and seed that is then reported flatters itself, and a reader must know."""
    tuned = [{"parameters": ["strength"], "testbed": "tiny", "attacks": ["fake_attack"], "seeds": [1]}]
    plan = planned(tuned=tuned)
    own = "tuned: strength of the suite chosen on this attack and seed"
    said = {cell.seed: own in plan.stages[cell.stage].params["tuned"] for cell in plan.cells if cell.kind != "anchor"}
    assert said == {0: False, 1: True}
    undeclared = "tuned: fake_attack does not say what its parameters were chosen on"
    assert undeclared in plan.stages[plan.cells[0].stage].params["tuned"]
    shared = {key for key, stage in plan.stages.items() if stage.name != "measure"}
    assert shared == {key for key, stage in planned().stages.items() if stage.name != "measure"}, "only words changed"


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ("strength", "tuned must be a list"),
        ([{"parameter": ["strength"]}], "did you mean 'parameters'"),
        ([{"parameters": ["strength"], "testbed": "tiny", "attacks": "fake_attack", "seeds": [1]}], "attacks must be"),
    ],
)
def test_a_tuning_that_cannot_be_read_is_one_line(planned, tuned, message):
    from bench.errors import UserError

    with pytest.raises(UserError, match=message):
        planned(tuned=tuned)
