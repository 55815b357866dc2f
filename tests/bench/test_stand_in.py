"""A stand-in answers as the plugin does, and nothing that a plugin's process says is believed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from bench import card_child
from bench.catalogue import _parameters
from bench.constraints import domains
from bench.contracts.attack import Attack, TrainingAttack
from bench.contracts.card import Tuning
from bench.contracts.data import TrainingSet
from bench.contracts.defense import Defense, Inversion, ModelDefense, SamplerDefense
from bench.contracts.detector import Detector
from bench.contracts.goals import DrawFromSet
from bench.described import class_data, documentation, instance_data, packed
from bench.errors import UserError
from bench.params import construct
from bench.registry import GROUPS, Registry, family_of, group_of, source_of
from bench.stand_in import stand_in, unpacked

PLUGINS = Registry(only=())
CLASSES = [PLUGINS.get(group, name) for group in GROUPS for name in PLUGINS.names(group)]
ONES = torch.ones(40, dtype=torch.bool)


def ask(question):
    """As the process of :mod:`bench.card_child` answers, on this side of no border."""
    data = json.loads(json.dumps(card_child.answer(json.loads(json.dumps(question)))))
    if "refused" in data:
        raise ValueError(data["refused"])
    return data["answer"]


def made_of(data, asking=ask):
    return stand_in(
        data,
        asking,
        Path("/a/file.py"),
        lambda name, params: PLUGINS.build("defenses", name, params),
    )


def over(cls):
    """The stand-in of a class of ours."""
    (data,) = json.loads(json.dumps(card_child._descriptions([cls])))
    return made_of(data)


@pytest.fixture(scope="module")
def pairs():
    return [(cls, over(cls)) for cls in CLASSES]


def test_a_stand_in_has_the_card_the_parameters_and_the_family_of_its_plugin(pairs):
    assert len(pairs) >= 15
    for cls, other in pairs:
        assert other.card == cls.card and other.always_shown == cls.always_shown
        assert dict(domains(other)) == dict(domains(cls)), cls
        assert _parameters(other) == _parameters(cls)
        assert documentation(other) == documentation(cls)
        assert group_of(other) == group_of(cls)
        assert not issubclass(other, cls) and source_of(other) == Path("/a/file.py")
        if issubclass(cls, Attack):
            assert other.calls == cls.calls
        if issubclass(cls, TrainingAttack):
            assert other.learns == cls.learns
        if issubclass(cls, Detector):
            assert other.subjects == cls.subjects
        if issubclass(cls, SamplerDefense):
            assert (other.stepped is SamplerDefense.stepped) == (
                cls.stepped is SamplerDefense.stepped
            )


def test_an_instance_answers_what_planning_asks_as_its_plugin_does(pairs):
    train_set = TrainingSet(
        torch.empty((40, 3, 16, 16), dtype=torch.uint8, device="meta"), ~ONES, torch.arange(40) % 10
    )
    for cls, other in pairs:
        plugin, stands = cls(), construct(other, cls.card.name, {})
        assert stands.params() == plugin.params() and stands.label() == plugin.label()
        assert other(**plugin.params()) == stands and hash(stands) == hash(other())
        if isinstance(plugin, Defense | Detector):
            assert family_of(stands) == family_of(plugin)
            assert stands.uses() == plugin.uses()
            continue
        assert type(stands.goal()) is type(plugin.goal())
        for name in ("label", "prompt"):
            assert getattr(stands.goal(), name, None) == getattr(plugin.goal(), name, None)
        for name in ("picture", "stamp"):
            mine, its = (getattr(one.adds(), name, None) for one in (plugin, stands))
            assert (mine is None) == (its is None)
        assert stands.faults(train_set) == plugin.faults(train_set)
        assert stands.sealed(12345).params() == plugin.sealed(12345).params()


def test_other_parameters_are_other_answers():
    kind = over(PLUGINS.get("attacks", "badnets"))
    ten = TrainingSet(torch.empty((40, 3, 8, 8), dtype=torch.uint8, device="meta"), ~ONES)
    real = PLUGINS.attack("badnets", {"target_class": 7})
    other = construct(kind, "attack badnets", {"target_class": 7})
    assert other.goal() == real.goal() and other.label() == real.label()
    assert other.faults(ten) == real.faults(ten) != []
    with pytest.raises(UserError, match="process of its own"):
        other.adds().stamp(None)


def test_what_a_class_itself_refuses_is_refused_in_its_words():
    kind = over(PLUGINS.get("attacks", "baddiffusion"))
    with pytest.raises(UserError, match="baddiffusion: poison_rate must be .*, got 2"):
        construct(kind, "attack baddiffusion", {"poison_rate": 2.0})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filled(SamplerDefense):
    card = dataclasses.replace(
        PLUGINS.get("defenses", "clip_x0").card,
        name="filled",
        tuned=(Tuning(parameters=("a",), testbed="t", attacks=("x",), seeds=(0, 1)),),
    )
    a: float = 1.0
    b: tuple[int, ...] = dataclasses.field(default_factory=lambda: (1, 2))

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "a", min(self.a, 3.0))
        if self.a == len(self.b):
            raise ValueError("filled: a must not be b's length")


def test_what_a_class_fills_in_and_how_its_parameters_fit_only_it_knows():
    kind = over(Filled)
    assert kind.card.tuned == Filled.card.tuned
    assert kind(a=9.0).params() == Filled(a=9.0).params() == {"a": 3.0, "b": (1, 2)}
    assert kind(a=9.0).label() == Filled(a=9.0).label()
    with pytest.raises(UserError, match="suite: filled: a must not be b's length"):
        construct(kind, "defense filled", {"a": 2}, "suite")


def changed(data, path, value):
    """``data`` with another value at ``path``."""
    copy = json.loads(json.dumps(data))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["bases"], []),
        (["bases"], ["Registry"]),
        (["bases"], "SamplerDefense"),
        (["name"], "not a name"),
        (["secret"], 1),
        (["card"], "a card"),
        (["card", "name"], "../x"),
        (["card", "name"], "x" * 65),
        (["card", "summary"], "a\nb"),
        (["card", "summary"], None),
        (["card", "applies_to"], ["everything"]),
        (["card", "applies_to"], "class"),
        (["card", "needs"], ["oracle"]),
        (["card", "evil"], True),
        (["card", "files"], [1]),
        (["card", "files"], ["a\0b"]),
        (["card", "paper"], {"title": "t", "authors": "a", "year": "x"}),
        (["card", "paper"], {"title": "t" * 10**5, "authors": "a", "year": 1}),
        (["card", "tuned"], [{"parameters": "a"}]),
        (["parameters"], {"a": 1}),
        (["parameters", 0], "a"),
        (["parameters", 0, "name"], "params"),
        (["parameters", 0, "name"], "card"),
        (["parameters", 0, "name"], "__class__"),
        (["parameters", 0, "name"], "__getattribute__"),
        (["parameters", 0, "default"], {"set": []}),
        (["parameters", 0, "default"], float("nan")),
        (["parameters", 0, "default"], ["a list"]),
        (["parameters", 0, "domain"], {"options": [], "notes": []}),
        (["parameters", 0, "domain", "notes"], [1]),
        (["parameters", 0, "domain", "options", 0, "type"], "os.system"),
        (["parameters", 0, "domain", "options", 0, "bounds"], {"minimum": "0"}),
        (["parameters", 0, "domain", "options", 0, "bounds"], {"evil": 0}),
        (["parameters", 0, "domain", "options", 0, "choices"], {"a": 1}),
        (["parameters", 0, "domain", "options", 0, "items"], [1]),
        (["always_shown"], [1]),
        (["calls"], [{"name": "clean"}]),
        (["calls"], [{"name": "a", "through": "the window"}]),
        (["calls"], [{"name": "a"}, {"name": "a"}]),
        (["defines"], ["params"]),
        (["doc"], "x" * 10**6),
        (["doc"], 1),
    ],
)
def test_a_description_that_is_none_is_one_line(path, value):
    data = class_data(PLUGINS.get("attacks", "baddiffusion"))
    made_of(data)
    with pytest.raises(UserError) as caught:
        made_of(changed(data, path, value))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500


def test_what_is_no_object_is_no_description():
    for data in (None, [], "a class", 1, {}, {"key": 1}, {1: 2}):
        with pytest.raises(UserError):
            made_of(data)


def test_a_parameter_may_not_be_left_undescribed():
    data = class_data(PLUGINS.get("attacks", "baddiffusion"))
    with pytest.raises(UserError, match="scheme"):
        made_of(
            data | {"parameters": [one for one in data["parameters"] if one["name"] != "scheme"]}
        )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["params", "poison_rate"], 7.0),
        (["params", "poison_rate"], {"object": 1}),
        (["params"], {"poison_rate": 0.1}),
        (["params"], []),
        (["goal"], {"kind": "ReachClass"}),
        (["goal"], {"kind": "ReachClass", "label": "3"}),
        (["goal"], {"kind": "DrawImage", "label": 3}),
        (["goal"], {"kind": "DrawFromSet", "label": 3}),
        (["goal"], {"kind": "Evil"}),
        (["goal"], "DrawImage"),
        (["adds"], {"picture": 1, "stamp": True, "words": ""}),
        (["adds"], {"picture": True, "stamp": True, "words": ["x"]}),
        (["evil"], 1),
    ],
)
def test_an_instance_that_is_none_is_one_line(path, value):
    cls = PLUGINS.get("attacks", "baddiffusion")
    answer = json.loads(json.dumps(instance_data(cls())))
    assert made_of(class_data(cls), lambda question: answer)().params() == cls().params()
    with pytest.raises((UserError, ValueError)) as caught:
        made_of(class_data(cls), lambda question: changed(answer, path, value))()
    assert "\n" not in str(caught.value)


INVERSION = next(cls for cls in CLASSES if issubclass(cls, Inversion))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Starting(ModelDefense):
    card = dataclasses.replace(PLUGINS.get("defenses", "clip_x0").card, name="starting")

    def uses(self):
        return INVERSION()


def test_what_a_defense_starts_from_is_a_plugin_of_the_registry():
    assert over(Starting)().uses() == INVERSION()


@pytest.mark.parametrize(
    "uses",
    [1, ["strip", {}], ["no_such", {}], ["clip_x0", {}], ["x"], [1, 2], [INVERSION.card.name, 3]],
)
def test_an_inversion_that_is_none_is_one_line(uses):
    answer = json.loads(json.dumps(instance_data(Starting()))) | {"uses": uses}
    with pytest.raises(UserError):
        made_of(class_data(Starting), lambda question: answer)().uses()


def test_a_value_crosses_unchanged():
    for value in (None, True, 1, 1.0, -0.5, "é", (), (1, (2.0, "a")), [1, [2]], {"tuple": (1,)}):
        there = unpacked(json.loads(json.dumps(packed(value))))
        assert there == value and type(there) is type(value)
    for value in (b"x", {1: 2}, {1}, object()):
        with pytest.raises(UserError, match="a parameter must be a JSON value"):
            packed(value)


def test_a_set_that_a_third_party_aims_at_stays_one():
    """What is measured is planned by the goal's kind, which the stand-in has to keep."""
    cls = PLUGINS.get("attacks", "trojdiff")
    answer = json.loads(json.dumps(instance_data(cls(target="hats"))))
    stand_in = made_of(class_data(cls), lambda question: answer)(target="hats")
    assert isinstance(stand_in.goal(), DrawFromSet)
