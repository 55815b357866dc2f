"""Reading suites and plugins' parameters: every mistake is one line that names it and what to write instead."""

import pytest

from bench.errors import UserError
from bench.registry import Registry
from bench.suite import find_suite, load_suite, parse_suite, shipped_suites


@pytest.fixture
def registry(fake_plugins):
    return Registry([fake_plugins])


GOOD = {"name": "s", "testbeds": ["tiny"], "attacks": ["fake_attack"], "defenses": ["fake_sampler"], "seeds": [0, 1]}


def entry(**fields):
    return {"attacks": [{"name": "fake_attack"} | fields]}


BAD = [
    ({"atacks": []}, "s.yaml: unknown field 'atacks'; did you mean 'attacks'?"),
    ({"name": "../s"}, "s.yaml: name must be letters, digits, '.', '_' or '-', got '../s'"),
    ({"name": None}, "s.yaml: name must be"),
    ({"description": 3}, "s.yaml: description must be text, got 3"),
    ({"testbeds": []}, "s.yaml: testbeds must list at least one testbed"),
    ({"testbeds": ["tinny"]}, "s.yaml: unknown testbed 'tinny'; did you mean 'tiny'?"),
    ({"testbeds": "tiny"}, "s.yaml: testbeds must be a list, got 'tiny'"),
    (
        {"testbeds": [{"name": "tiny", "params": {"clean_sample": 3}}]},
        "unknown parameter of testbed tiny: 'clean_sample'; did you mean",
    ),
    ({"attacks": ["fake_atack"]}, "s.yaml: unknown attack 'fake_atack'; did you mean 'fake_attack'?"),
    ({"attacks": [3]}, "s.yaml: an entry of attacks must be a name, or fields (name, params, grid), got 3"),
    ({"attacks": [{"params": {}}]}, "s.yaml: every entry of attacks must have a name"),
    ({"defenses": ["fake_attack"]}, "s.yaml: unknown defense 'fake_attack'"),
    ({"detectors": ["strib"]}, "s.yaml: unknown detector 'strib'; did you mean 'strip'?"),
    (entry(prams={}), "s.yaml: unknown field in attacks 'prams'; did you mean 'params'?"),
    (entry(params=[1]), "s.yaml: params and grid of fake_attack must be names and values"),
    (entry(grid={"trigger": []}), "s.yaml: grid of fake_attack: trigger must be a non-empty list, got []"),
    (entry(grid={"trigger": ["box"]}, params={"trigger": "box"}), "trigger stands both in params and in grid"),
    (
        entry(params={"poison_rat": 0.1}),
        "s.yaml: unknown parameter of attack fake_attack: 'poison_rat'; did you mean 'poison_rate'?",
    ),
    (entry(params={"poison_rate": 0}), "s.yaml: fake_attack: poison_rate must be in (0, 1], got 0"),
    (entry(params={"poison_rate": 1.2}), "s.yaml: fake_attack: poison_rate must be in (0, 1], got 1.2"),
    (entry(params={"poison_rate": "high"}), "s.yaml: attack fake_attack: poison_rate must be a number, got 'high'"),
    (entry(params={"poison_rate": True}), "poison_rate must be a number, got True"),
    (entry(params={"training_steps": 1.5}), "training_steps must be a whole number or null, got 1.5"),
    (entry(params={"trigger": "cube"}), "trigger must be one of 'box', 'sign', got 'cube'"),
    (entry(params={"size": [1, 2, 3]}), "size must be"),
    (entry(grid={"poison_rate": [0.1, "1e-1"]}), "s.yaml: attacks lists fake_attack twice"),
    ({"seeds": []}, "s.yaml: seeds must be different whole numbers from 0 up, got []"),
    ({"seeds": [0, 0]}, "s.yaml: seeds must be different whole numbers from 0 up"),
    ({"seeds": 3}, "s.yaml: seeds must be different whole numbers from 0 up, got 3"),
    ({"seeds": [True]}, "s.yaml: seeds must be"),
    ({"timeout_seconds": 0}, "s.yaml: timeout_seconds must be a number of at least 1, got 0"),
    ({"retries": 1.5}, "s.yaml: retries must be a whole number of at least 0, got 1.5"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_a_mistake_is_one_line_that_names_it(tiny, registry, changes, message):
    with pytest.raises(UserError) as caught:
        parse_suite(GOOD | changes, registry, "s.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("s.yaml: ")


def test_a_grid_is_every_combination(tiny, registry):
    grid = entry(grid={"poison_rate": [0.1, 1], "trigger": ["box", "sign"]}, params={"size": [3, 4]})
    suite = parse_suite(GOOD | grid, registry, "s.yaml")
    points = [(attack.poison_rate, attack.trigger, attack.size) for attack in suite.attacks]
    assert points == [(rate, trigger, (3, 4)) for rate in (0.1, 1.0) for trigger in ("box", "sign")]
    assert isinstance(suite.attacks[2].poison_rate, float)


def test_numbers_yaml_reads_as_text_are_numbers(tiny, registry):
    """YAML 1.1 reads 1e-3 as text; a learning rate must not fail for that."""
    suite = parse_suite(GOOD | entry(params={"learning_rate": "1e-3"}), registry, "s.yaml")
    assert suite.attacks[0].learning_rate == 1e-3


def test_choosing_keeps_the_controls_and_knows_the_names(tiny, registry):
    suite = parse_suite(
        GOOD | {"attacks": ["fake_attack", "none"], "defenses": ["fake_sampler", "fake_repair"]}, registry, "s.yaml"
    )
    assert not suite.only(registry).filtered
    chosen = suite.only(registry, defenses=["fake_repair"], attacks=[], seeds=[5])
    assert [plugin.card.name for plugin in (*chosen.attacks, *chosen.defenses)] == ["none", "fake_repair"]
    assert chosen.seeds == (5,) and chosen.filtered
    with pytest.raises(UserError, match="unknown defense 'fake_sample'; did you mean 'fake_sampler'"):
        suite.only(registry, defenses=["fake_sample"])
    with pytest.raises(UserError, match="--seeds: seeds must be different"):
        suite.only(registry, seeds=[-1])


def test_detectors_are_chosen_by_name_like_defenses(tiny, registry):
    suite = parse_suite(GOOD | {"detectors": ["strip", {"name": "noise_shift", "params": {"test": "ks"}}]}, registry, "s.yaml")
    assert not suite.only(registry).filtered
    chosen = suite.only(registry, detectors=["noise_shift", "fct"])
    assert [plugin.label() for plugin in chosen.detectors] == ["noise_shift(test=ks)", "fct"] and chosen.filtered
    with pytest.raises(UserError, match="unknown detector 'stripe'; did you mean 'strip'"):
        suite.only(registry, detectors=["stripe"])


def test_broken_yaml_says_where(tmp_path, registry):
    path = tmp_path / "mine.yaml"
    path.write_text("name: s\ntestbeds: [tiny\nseeds: 3\n")
    with pytest.raises(UserError, match=r"^mine\.yaml: line \d+: not valid YAML: [^\n]*$"):
        load_suite(str(path), registry)
    path.write_text("just text")
    with pytest.raises(UserError, match=r"^mine\.yaml: must be fields and values"):
        load_suite(str(path), registry)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"^mine\.yaml"):
        load_suite(str(path), registry)


def test_a_suite_is_found_by_name_or_path(tmp_path):
    assert find_suite("digits") == shipped_suites()["digits"]
    with pytest.raises(UserError, match="unknown suite 'digit'; did you mean 'digits'"):
        find_suite("digit")
    with pytest.raises(UserError, match="there is no such file"):
        find_suite(str(tmp_path / "none.yaml"))


def test_every_shipped_suite_loads():
    registry = Registry()
    for name in shipped_suites():
        assert load_suite(name, registry).name == name


def test_the_first_board_is_what_was_promised():
    suite = load_suite("digits", Registry())
    assert [(attack.trigger, attack.target, attack.poison_rate) for attack in suite.attacks] == [
        ("grey_box", "hat", 0.1),
        ("stop_sign", "cat", 0.1),
    ]
    assert [defense.card.name for defense in suite.defenses] == ["clip_xt", "clip_x0", "anp"]
    assert suite.seeds == (0, 1, 2)
