"""Reading suites and plugins' parameters: every mistake is one line that names it and what to write
instead.
"""

import datetime

import pytest

from bench.composed import name_of
from bench.errors import UserError
from bench.registry import Registry
from bench.suite import find_suite, load_suite, parse_suite, shipped_suites


@pytest.fixture
def registry(fake_plugins):
    return Registry([fake_plugins])


GOOD = {
    "name": "s",
    "testbeds": ["tiny"],
    "attacks": ["fake_attack"],
    "defenses": ["fake_sampler"],
    "seeds": [0, 1],
}


def entry(**fields):
    return {"attacks": [{"name": "fake_attack"} | fields]}


def listed(name, /, **params):
    return {"samplers": [{"name": name, "params": params}]}


BAD = [
    ({"name": "submissions"}, "s.yaml: name must not be submissions, the folder of results"),
    ({"name": "runs"}, "s.yaml: name must not be runs, a folder by which a store is known"),
    ({"description": "a" * 4001}, "s.yaml: description must be at most 4000 characters, got 4001"),
    ({"atacks": []}, "s.yaml: unknown field 'atacks'; did you mean 'attacks'?"),
    ({"name": "../s"}, "s.yaml: name must be letters, digits, '.', '_' or '-', got '../s'"),
    ({"name": None}, "s.yaml: name must be"),
    ({"description": 3}, "s.yaml: description must be text, got 3"),
    ({"testbeds": []}, "s.yaml: testbeds must list at least one testbed"),
    ({"testbeds": ["tinny"]}, "s.yaml: unknown testbed 'tinny'; did you mean 'tiny'?"),
    ({"testbeds": ["tide"]}, "s.yaml: unknown testbed 'tide' (allowed: "),
    ({"testbeds": "tiny"}, "s.yaml: testbeds must be a list, got 'tiny'"),
    (
        {"testbeds": [{"name": "tiny", "params": {"clean_sample": 3}}]},
        "unknown parameter of testbed tiny: 'clean_sample'; did you mean",
    ),
    (
        {"attacks": ["fake_atack"]},
        "s.yaml: unknown attack 'fake_atack'; did you mean 'fake_attack'?",
    ),
    (
        {"attacks": [3]},
        "s.yaml: an entry of attacks must be a name, or fields (name, params, grid, testbeds), "
        "got 3",
    ),
    ({"attacks": [{"params": {}}]}, "s.yaml: every entry of attacks must have a name"),
    ({"defenses": ["fake_attack"]}, "s.yaml: unknown defense 'fake_attack'"),
    ({"detectors": ["strib"]}, "s.yaml: unknown detector 'strib'; did you mean 'strip'?"),
    ({"samplers": "ddim"}, "s.yaml: samplers must be a list, got 'ddim'"),
    ({"samplers": ["ddm"]}, "s.yaml: unknown sampler 'ddm'; did you mean 'ddpm'?"),
    ({"samplers": [["ddim", "ddpm"]]}, "s.yaml: an entry of samplers must be a name, or fields"),
    (listed("ddim", steps=3), "s.yaml: unknown parameter of sampler ddim: 'steps'"),
    (listed("ddim", name="ddpm"), "s.yaml: sampler ddim: name stands beside params, not in them"),
    (listed("ddim", eta=2), "s.yaml: sampler ddim: eta must be in [0, 1], got 2"),
    (listed("ddim", eta="all"), "s.yaml: sampler ddim: eta must be a number, or null, got 'all'"),
    (listed("ddpm", eta=0), "s.yaml: sampler ddpm: eta must not be given but for ddim, got 0"),
    (listed("unipc", clip="xt"), "s.yaml: sampler unipc: clip must be none or x0 for unipc"),
    (listed("deis", clip="all"), "s.yaml: sampler deis: clip must be one of 'none', 'x0', 'xt'"),
    (
        listed("deis", spacing="leading"),
        "s.yaml: sampler deis: spacing must not be given but for ddpm, ddim, pndm, heun, got",
    ),
    (
        listed("heun", num_inference_steps=0),
        "s.yaml: sampler heun: num_inference_steps must be at least 1, got 0",
    ),
    (
        {"samplers": ["ddim", {"name": "ddim"}]},
        "s.yaml: samplers lists ddim twice",
    ),
    (
        {"samplers": [{"name": "ddim", "grid": {"eta": [0.001] * 6000}}]},
        "s.yaml: a suite must have at most 10,000 cells",
    ),
    (entry(prams={}), "s.yaml: unknown field in attacks 'prams'; did you mean 'params'?"),
    (
        entry(testbeds=["tinny"]),
        "s.yaml: fake_attack: unknown testbed of the suite 'tinny'; did you mean 'tiny'?",
    ),
    (
        entry(testbeds=["digits-cfg"]),
        "s.yaml: fake_attack: unknown testbed of the suite 'digits-cfg' (allowed: tiny)",
    ),
    (entry(testbeds="tiny"), "s.yaml: fake_attack: testbeds must be a list of names, got 'tiny'"),
    (entry(testbeds=[]), "s.yaml: fake_attack: testbeds must be a list of names, got []"),
    (entry(testbeds=[{"name": "tiny"}]), "s.yaml: fake_attack: testbeds must be a list of names"),
    (
        {"defenses": [{"name": "none", "testbeds": ["tiny"]}]},
        "s.yaml: none: testbeds must not be given, the controls are run on all",
    ),
    (
        {"samplers": [{"name": "ddim", "testbeds": ["tiny"]}]},
        "s.yaml: unknown field in samplers 'testbeds' (allowed: grid, name, params)",
    ),
    (
        {"testbeds": [{"name": "tiny", "testbeds": ["tiny"]}]},
        "s.yaml: unknown field in testbeds 'testbeds'",
    ),
    (entry(params=[1]), "s.yaml: params and grid of fake_attack must be names and values"),
    (
        entry(grid={"trigger": []}),
        "s.yaml: grid of fake_attack: trigger must be a non-empty list, got []",
    ),
    (
        entry(grid={"trigger": ["box"]}, params={"trigger": "box"}),
        "trigger stands both in params and in grid",
    ),
    (
        entry(params={"poison_rat": 0.1}),
        "s.yaml: unknown parameter of attack fake_attack: 'poison_rat'; did you mean "
        "'poison_rate'?",
    ),
    (entry(params={"poison_rate": 0}), "s.yaml: fake_attack: poison_rate must be in (0, 1], got 0"),
    (
        entry(params={"poison_rate": 1.2}),
        "s.yaml: fake_attack: poison_rate must be in (0, 1], got 1.2",
    ),
    (
        entry(params={"poison_rate": "high"}),
        "s.yaml: attack fake_attack: poison_rate must be a number in (0, 1], got 'high'",
    ),
    (entry(params={"poison_rate": True}), "poison_rate must be a number in (0, 1], got True"),
    (
        entry(params={"training_steps": 1.5}),
        "training_steps must be a positive whole number, or null, got 1.5",
    ),
    (entry(params={"trigger": "cube"}), "trigger must be one of 'box', 'sign', got 'cube'"),
    (entry(params={"size": [1, 2, 3]}), "size must be"),
    (entry(grid={"poison_rate": [0.1, "1e-1"]}), "s.yaml: attacks lists fake_attack twice"),
    ({"seeds": []}, "s.yaml: seeds must be different whole numbers from 0 up, got []"),
    ({"seeds": [0, 0]}, "s.yaml: seeds must be different whole numbers from 0 up"),
    ({"seeds": 3}, "s.yaml: seeds must be different whole numbers from 0 up, got 3"),
    ({"seeds": [True]}, "s.yaml: seeds must be"),
    ({"seeds": [2**63]}, "s.yaml: seeds must be below 2^63, got 9223372036854775808"),
    ({"seeds": [10**5000]}, "s.yaml: seeds must be below 2^63, got a whole number of"),
    ({"seeds": list(range(20_000))}, "s.yaml: a suite must have at most 10,000 cells"),
    ({"name": "a" * 101}, "s.yaml: name must be at most 100 characters, got 101"),
    ({"name": datetime.date(2024, 1, 2)}, "s.yaml: name must be letters, digits"),
    ({"name": True}, "got True; text that looks like a number, a date or yes and no needs quotes"),
    ({"description": False}, "s.yaml: description must be text, got False; text that looks"),
    (
        {"description": "\ud800"},
        "s.yaml: description must be text of valid Unicode without NUL characters",
    ),
    ({"attacks": [datetime.date(2024, 1, 2)]}, "needs quotes"),
    (
        {"timeout_seconds": float("nan")},
        "s.yaml: timeout_seconds must be a number of at least 1, got nan",
    ),
    ({"timeout_seconds": float("inf")}, "s.yaml: timeout_seconds must be at most 1e+09, got inf"),
    (
        {"timeout_seconds": 10**400},
        "s.yaml: timeout_seconds must be at most 1e+09, got a whole number of",
    ),
    ({"retries": 10**12}, "s.yaml: retries must be at most 100, got 1000000000000"),
    (
        entry(grid={"poison_rate": [0.1] * 300, "size": [[1, 2]] * 300}),
        "s.yaml: a suite must have at most 10,000 cells",
    ),
    (
        entry(grid={str(key): [1, 2] for key in range(5000)}),
        "at most 10,000 cells, the points of its grids by its seeds make a ",
    ),
    (
        entry(params={"learning_rate": float("inf")}),
        "learning_rate must be a finite number, got inf",
    ),
    (entry(params={"learning_rate": "nan"}), "learning_rate must be a finite number, got 'nan'"),
    (
        entry(params={"learning_rate": 10**400}),
        "learning_rate must be a positive number, or null, got a whole number of",
    ),
    (
        entry(params={"training_steps": 10**5000}),
        "training_steps must be a whole number of at most 18 digits, got a whole",
    ),
    (
        entry(params={"trigger": [[["x"] * 9] * 9] * 10**6}),
        "trigger must be one of 'box', 'sign', got [[",
    ),
    (entry(params={"trigger": "x" * 10**7}), "trigger must be one of 'box', 'sign', got 'xxx"),
    (entry(params=0), "s.yaml: params and grid of fake_attack must be names and values"),
    (
        {"testbeds": [{"name": "tiny", "params": {"data": "a\0b"}}]},
        "data must be text of valid Unicode without NUL",
    ),
    (
        {"testbeds": [{"name": "tiny", "params": {"data": 2024}}]},
        "testbed tiny: data must be text, got 2024; text that looks",
    ),
    ({"timeout_seconds": 0}, "s.yaml: timeout_seconds must be a number of at least 1, got 0"),
    (
        {"tuned": [{"parameters": ["a"], "testbed": "tinny", "attacks": [], "seeds": [0]}]},
        "s.yaml: unknown testbed in tuned: 'tinny'; did you mean 'tiny'?",
    ),
    (
        {"tuned": [{"parameters": ["a"], "testbed": "tiny", "attacks": ["fak"], "seeds": [0]}]},
        "s.yaml: unknown attack in tuned: 'fak'",
    ),
    ({"testbeds": ["tiny", "tiny"]}, "s.yaml: testbeds lists tiny twice"),
    ({"testbeds": ["TINY"]}, "s.yaml: unknown testbed 'TINY'; did you mean 'tiny'?"),
    ({"retries": 1.5}, "s.yaml: retries must be a whole number of at least 0, got 1.5"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_a_mistake_is_one_line_that_names_it(tiny, registry, changes, message):
    with pytest.raises(UserError) as caught:
        parse_suite(GOOD | changes, registry, "s.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    assert str(caught.value).startswith("s.yaml: ")


COUNTS = [
    (
        "digits-ddpm",
        {"sampler": "foo"},
        "testbed digits-ddpm: sampler must be one of 'ddpm', 'ddim', 'dpm_solver'",
    ),
    ("digits-ddpm", {"clip": "x"}, "digits-ddpm: clip must be one of 'none', 'x0', 'xt', got 'x'"),
    (
        "digits-ddpm",
        {"num_inference_steps": 0},
        "digits-ddpm: num_inference_steps must be from 1 to 10,000,000, got 0",
    ),
    ("digits-ddpm", {"network_batch": 0}, "digits-ddpm: network_batch must be from 1 to"),
    ("digits-ddpm", {"clean_samples": 0}, "digits-ddpm: clean_samples must be from 4 to"),
    (
        "digits-ddpm",
        {"clean_samples": 3},
        "digits-ddpm: clean_samples must be from 4 to 10,000,000, got 3",
    ),
    ("digits-ddpm", {"clean_samples": -1}, "digits-ddpm: clean_samples must be from 4 to"),
    ("digits-ddpm", {"clean_samples": 10**12}, "digits-ddpm: clean_samples must be from 4 to"),
    ("digits-ddpm", {"triggered_samples": 0}, "digits-ddpm: triggered_samples must be from 1 to"),
    ("digits-cfg", {"class_samples": 0}, "digits-cfg: class_samples must be from 1 to"),
    ("digits-cfg", {"generated_samples": 0}, "digits-cfg: generated_samples must be from 2 to"),
    ("digits-cfg", {"judged_images": 0}, "digits-cfg: judged_images must be from 2 to"),
    ("digits-sd", {"test_images": -1}, "digits-sd: test_images must be from 1 to"),
    (
        "digits-cfg",
        {"guidance_scale": -1},
        "digits-cfg: guidance_scale must be at least 0, got -1.0",
    ),
    (
        "digits-cfg",
        {"guidance_scale": float("nan")},
        "testbed digits-cfg: guidance_scale must be a finite number, got nan",
    ),
    ("cifar10-cfg", {"clean_samples": 2}, "cifar10-cfg: clean_samples must be from 4 to"),
    ("cifar10-cfg", {"judged_images": 1}, "cifar10-cfg: judged_images must be from 2 to"),
    ("captions-sd", {"sampler": "euler"}, "captions-sd: sampler must be one of"),
    (
        "captions-sd",
        {"concepts": [False, "dog"]},
        "concepts must be a list of text, got [False, 'dog']; text that looks like",
    ),
]


@pytest.mark.parametrize(
    ("name", "params", "message"), COUNTS, ids=[f"{name} {params}" for name, params, _ in COUNTS]
)
def test_a_testbeds_parameters_are_checked_when_the_suite_is_read(registry, name, params, message):
    """A sampler that does not exist or three images for FID failed hours later, after all
    training.
    """
    with pytest.raises(UserError) as caught:
        parse_suite(GOOD | {"testbeds": [{"name": name, "params": params}]}, registry, "s.yaml")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_all_there_are_is_a_count_and_so_is_the_lowest(registry):
    fewest = {
        "generated_samples": None,
        "judged_images": None,
        "clean_samples": 4,
        "triggered_samples": 1,
        "test_images": 1,
    }
    suite = parse_suite(
        GOOD | {"testbeds": [{"name": "digits-cfg", "params": fewest}]}, registry, "s.yaml"
    )
    assert suite.testbeds[0].counts.judged_images is None


def test_a_grid_is_every_combination(tiny, registry):
    grid = entry(
        grid={"poison_rate": [0.1, 1], "trigger": ["box", "sign"]}, params={"size": [3, 4]}
    )
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
        GOOD | {"attacks": ["fake_attack", "none"], "defenses": ["fake_sampler", "fake_repair"]},
        registry,
        "s.yaml",
    )
    assert not suite.only(registry).filtered
    chosen = suite.only(registry, defenses=["fake_repair"], attacks=[], seeds=[5])
    assert [plugin.card.name for plugin in (*chosen.attacks, *chosen.defenses)] == [
        "none",
        "fake_repair",
    ]
    assert chosen.seeds == (5,) and chosen.filtered
    with pytest.raises(
        UserError, match="unknown defense 'fake_sample'; did you mean 'fake_sampler'"
    ):
        suite.only(registry, defenses=["fake_sample"])
    with pytest.raises(UserError, match="--seeds: seeds must be different"):
        suite.only(registry, seeds=[-1])


def test_detectors_are_chosen_by_name_like_defenses(tiny, registry):
    suite = parse_suite(
        GOOD | {"detectors": ["strip", {"name": "noise_shift", "params": {"test": "ks"}}]},
        registry,
        "s.yaml",
    )
    assert not suite.only(registry).filtered
    chosen = suite.only(registry, detectors=["noise_shift", "fct"])
    assert [plugin.label() for plugin in chosen.detectors] == [
        "noise_shift(test=ks)",
        "fct",
    ] and chosen.filtered
    with pytest.raises(UserError, match="unknown detector 'stripe'; did you mean 'strip'"):
        suite.only(registry, detectors=["stripe"])


def test_samplers_are_chosen_by_name_and_others_join(tiny, registry):
    suite = parse_suite(
        GOOD | {"samplers": ["ddpm", {"name": "ddim", "grid": {"eta": [0, 1]}}]},
        registry,
        "s.yaml",
    )
    assert [(one.name, one.eta) for one in suite.samplers] == [
        ("ddpm", None),
        ("ddim", 0.0),
        ("ddim", 1.0),
    ]
    chosen = suite.only(registry, samplers=["heun", "ddim"])
    assert [one.name for one in chosen.samplers] == ["ddim", "ddim", "heun"] and chosen.filtered
    assert suite.only(registry).samplers == suite.samplers
    with pytest.raises(UserError, match="--samplers: unknown sampler 'hein'; did you mean 'heun'"):
        suite.only(registry, samplers=["hein"])
    with pytest.raises(UserError, match="--samplers must name at least one sampler"):
        suite.only(registry, samplers=[])


TWO_KINDS = {
    "name": "s",
    "testbeds": ["digits-ddpm", "digits-cfg"],
    "attacks": [
        {
            "name": "baddiffusion",
            "testbeds": ["digits-ddpm"],
            "grid": {"trigger": ["grey_box", "stop_sign"]},
        },
        {"name": "badnets", "testbeds": ["digits-cfg"]},
    ],
    "defenses": [
        "clip_x0",
        {"name": "anp", "testbeds": ["digits-ddpm"]},
        [{"name": "clip_x0", "testbeds": ["digits-cfg"]}, "clip_xt"],
    ],
    "detectors": [{"name": "strip", "testbeds": ["digits-cfg"]}],
}


def met(suite, testbed):
    """What a suite runs on a testbed, beside the controls."""
    entries = (*suite.attacks, *suite.defenses, *suite.detectors)
    return [name_of(one) for one in entries if suite.meets(one, testbed)]


def test_an_entry_says_on_which_testbeds_it_is_met():
    """Every point of its grid; without a word on all of them, and all of them is no word. Of
    defenses at once, those of every part.
    """
    registry = Registry()
    suite = parse_suite(TWO_KINDS, registry, "s.yaml")
    assert met(suite, "digits-ddpm") == ["baddiffusion", "baddiffusion", "clip_x0", "anp"]
    assert met(suite, "digits-cfg") == ["badnets", "clip_x0", "clip_x0 + clip_xt", "strip"]
    everywhere = [{"name": "clip_x0", "testbeds": ["digits-cfg", "digits-ddpm"]}]
    written, bare = (
        parse_suite(TWO_KINDS | {"defenses": defenses}, registry, "s.yaml")
        for defenses in (everywhere, ["clip_x0"])
    )
    assert written == bare
    apart = [
        [
            {"name": "clip_x0", "testbeds": ["digits-cfg"]},
            {"name": "clip_xt", "testbeds": ["digits-ddpm"]},
        ]
    ]
    with pytest.raises(UserError) as caught:
        parse_suite(TWO_KINDS | {"defenses": apart}, registry, "s.yaml")
    assert str(caught.value) == (
        "s.yaml: clip_x0 + clip_xt: testbeds of defenses at once must have one in common, got none"
    )


def test_what_is_chosen_by_name_stays_where_the_suite_has_it():
    """And what the suite does not list joins everywhere."""
    registry = Registry()
    suite = parse_suite(TWO_KINDS, registry, "s.yaml")
    chosen = suite.only(registry, attacks=["badnets"], defenses=["anp", "clip_xt"], detectors=[])
    assert met(chosen, "digits-ddpm") == ["anp", "clip_xt"]
    assert met(chosen, "digits-cfg") == ["badnets", "clip_xt"]


def test_cells_that_no_testbed_has_do_not_count_against_the_limit():
    """Two testbeds, each with its own 100 points against 40: 2 x 8,200 with all of them on both."""
    rates = [index / 1000 for index in range(1, 101)]
    sides = [
        ("digits-ddpm", {"name": "baddiffusion", "grid": {"poison_rate": rates}}),
        ("digits-cfg", {"name": "badnets", "grid": {"poison_rate": rates}}),
    ]
    defenses = {"name": "weight_noise", "grid": {"strength": [float(one) for one in range(1, 20)]}}
    data = TWO_KINDS | {"defenses": [defenses], "detectors": []}
    apart = [attack | {"testbeds": [testbed]} for testbed, attack in sides]
    suite = parse_suite(data | {"attacks": apart}, Registry(), "s.yaml")
    assert len(suite.attacks) == 200
    with pytest.raises(UserError, match="at most 10,000 cells, .* make 16,000"):
        parse_suite(data | {"attacks": [attack for _, attack in sides]}, Registry(), "s.yaml")


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


@pytest.mark.parametrize(
    ("name", "seeds", "more"), [("digits", 5, []), ("digits-cut", 3, [("blend", "hat", 0.1)])]
)
def test_the_first_board_is_what_was_promised(name, seeds, more):
    """Three seeds are the fewest that are ranked; the published board has five. The first board has
    an attack that clipping does not stop: without it the defense looked as if it held.
    """
    suite = load_suite(name, Registry())
    assert [(attack.trigger, attack.target, attack.poison_rate) for attack in suite.attacks] == [
        ("grey_box", "hat", 0.1),
        ("stop_sign", "cat", 0.1),
        *more,
    ]
    assert [defense.card.name for defense in suite.defenses] == ["clip_xt", "clip_x0", "anp"]
    assert suite.seeds == tuple(range(seeds))


def test_defenses_of_a_list_act_at_once() -> None:
    """And every point of their grids is a column of its own."""
    registry = Registry()
    data = {"name": "s", "testbeds": ["digits-ddpm"], "attacks": ["baddiffusion"]}
    noisy = {"name": "anp", "grid": {"epochs": [1, 2]}}
    suite = parse_suite(
        data | {"defenses": ["clip_xt", ["clip_x0", "clip_xt"]]}, registry, "s.yaml"
    )
    assert [name_of(one) for one in suite.defenses] == ["clip_xt", "clip_x0 + clip_xt"]
    assert [
        name_of(one) for one in suite.only(registry, defenses=["clip_x0 + clip_xt"]).defenses
    ] == ["clip_x0 + clip_xt"]
    for wrong, message in (
        ([["clip_x0"]], "two or more"),
        ([[]], "two or more"),
        ([["clip_x0", "none"]], "'none' not among them"),
        (
            [["train_on_generated", "clip_x0"]],
            "only one may judge what the others leave, and it comes last",
        ),
        ([["clip_x0", noisy]], "clip_x0 steps in at sampling, and anp looks at the weights alone"),
        ([["clip_x0", "clip_xt"], ["clip_x0", "clip_xt"]], "twice"),
        ([["clip_x0", ["clip_xt"]]], "an entry of defenses must be a name"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            parse_suite(data | {"defenses": wrong}, registry, "s.yaml")
        assert str(raised.value).startswith("s.yaml: ") and "\n" not in str(raised.value)


def test_seeds_of_the_command_line_count_too(tiny, registry):
    """Four thousand of them planned for minutes without a word."""
    suite = parse_suite(GOOD, registry, "s.yaml")
    with pytest.raises(UserError, match="at most 10,000 cells"):
        suite.only(registry, seeds=range(10_001))
    assert len(suite.only(registry, seeds=range(100)).seeds) == 100
