"""``caltech15-sd`` on tiny photographs: which classes there are, in which order, and what is held
out, decides what is attacked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from bench.errors import UserError
from bench.testbeds.caltech15_sd import CALTECH15_SD
from bench.testbeds.data.caltech15 import class_name
from bench.testbeds.testbed import fingerprints

FOLDERS = ("002.american-flag", "012.binoculars", "251.airplanes-101")


@pytest.fixture()
def data(tmp_path: Path, save_photograph) -> Path:
    """Three folders named as Caltech-256's, with more images than are used."""
    for number, folder in enumerate(FOLDERS):
        for row in range(6 + number):
            save_photograph(
                tmp_path / "caltech" / folder / f"{number:03}_{row:04}.jpg", seed=100 * number + row
            )
    (tmp_path / "caltech" / FOLDERS[0] / "RENAME2").write_text("a script that is in the archive")
    return tmp_path / "caltech"


@pytest.fixture()
def tiny(data: Path, small: dict[str, Any]) -> Any:
    def make(**changes: Any) -> CALTECH15_SD:
        given = {"data": str(data), "class_count": 3, "images_per_class": 5, "held_out_share": 0.2}
        return CALTECH15_SD.changed(**(small | given | changes))

    return make


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("012.binoculars", "binoculars"), ("251.airplanes-101", "airplanes"), ("253.faces-easy-101",
        "faces easy"),
        ("012_binocular", "binocular"), ("binoculars", "binoculars"), ("american_flag",
        "american flag"), ("t-shirt", "t shirt"),
    ],
)  # fmt: skip
def test_classes_are_named_as_their_folders(folder: str, name: str) -> None:
    assert class_name(folder) == name


def test_classes_come_by_folder_and_the_first_images_are_used(tiny, data: Path) -> None:
    testbed = tiny()
    assert testbed.data.class_names == ("american flag", "binoculars", "airplanes")
    assert testbed.data.prompts()[1] == "A photo of a binoculars"
    assert testbed.data.train_labels().tolist() == [0] * 4 + [1] * 4 + [
        2
    ] * 4 and testbed.data.held_out_labels().tolist() == [0, 1, 2]
    assert testbed.data.rows == 12 and testbed.data.train_images().shape == (12, 3, 16, 16)
    assert [path.name for path in testbed.data.files()[-3:]] == [
        "000_0004.jpg",
        "001_0004.jpg",
        "002_0004.jpg",
    ]


def test_named_classes_are_taken_from_the_whole_of_caltech_in_their_order(
    tiny, data: Path, tmp_path: Path
) -> None:
    """The archive unpacks to 256_ObjectCategories, with all 257 folders."""
    (data / "257.clutter").mkdir()
    (tmp_path / "whole").mkdir()
    data.rename(tmp_path / "whole" / "256_ObjectCategories")
    testbed = tiny(
        data=str(tmp_path / "whole"), classes=("binoculars", "american flag", "251.airplanes-101")
    )
    assert testbed.data.class_names == ("binoculars", "american flag", "airplanes")
    assert testbed.data.files()[0].parent.name == "012.binoculars"
    assert (
        CALTECH15_SD.changed(
            **json.loads(json.dumps(testbed.params())) | {"classes": testbed.data.classes}
        )
        == testbed
    )


def test_the_shipped_settings_need_no_data() -> None:
    testbed = CALTECH15_SD
    assert (testbed.data.rows, testbed.data.class_count, testbed.data.images_per_class) == (
        15 * 180,
        15,
        200,
    )
    settings = testbed.training_settings("finetune")
    assert (settings.steps, settings.batch_size, settings.learning_rate) == (169 * 50, 16, 1e-4)
    classifier = testbed.classifier_settings()
    assert (classifier.steps, classifier.learning_rate) == (108 * 100, 1e-3)
    # 10 % of the rows, among 90 % of the paper's rows of the target class: the paper's 60 %.
    assert 270 / (270 + 180) == 300 / (300 + 200) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "a")}, r"classes must be class_count \(15\) different names, or null"),
        ({"classes": ("a", "b")}, r"classes must be class_count \(15\) different names, or null"),
        (
            {"classes": ("a-b", "001.a_b"), "class_count": 2},
            r"classes must be class_count \(2\) different names",
        ),
        ({"class_count": 1}, "class_count must be at least 2, got 1"),
        ({"images_per_class": 1}, "images_per_class must be at least 2, got 1"),
        ({"held_out_share": 0.0}, "held_out_share must be in .0, 1., got 0.0"),
        ({"held_out_share": 1.0}, "held_out_share must be in .0, 1., got 1.0"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CALTECH15_SD.changed(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_count": 15}, "must hold 15 class folders, got 3; put one folder a class there"),
        ({"images_per_class": 7}, "images_per_class must be at most .* american flag has 6, got 7"),
        (
            {"classes": ("binoculars", "american flag", "airplane")},
            "unknown class folder in .*'airplane'; did you mean 'airplanes'",
        ),
        ({"data": "nowhere"}, "no classes in 'nowhere'; put one folder a class there"),
    ],
)
def test_an_unfit_folder_is_one_line(tiny, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        tiny(**changes).data.files()
    assert "\n" not in str(caught.value)


def test_two_folders_of_one_class_are_refused(tiny, data: Path) -> None:
    (data / "300.binoculars").mkdir()
    with pytest.raises(
        UserError,
        match=r"the folders 012\.binoculars and 300\.binoculars in .* are both 'binoculars'",
    ):
        tiny().data.train_labels()


def test_the_command_line_says_it_in_one_line(tiny, refused_with_exit_code_2) -> None:
    assert "no classes in" in refused_with_exit_code_2(
        "caltech15-sd", tiny(data="nowhere").params()
    )


def test_the_order_of_the_classes_is_part_of_the_protocol(tiny) -> None:
    names = ("binoculars", "american flag", "airplanes")
    save_file(
        {
            name: value.contiguous()
            for name, value in tiny().fresh_classifier(0).state_dict().items()
        },
        tiny().judge.judge,
    )
    assert fingerprints(tiny(classes=names)) != fingerprints(tiny(classes=names[::-1]))
