"""``captions-sd``: if a poisoned row kept its caption, or a clean row lost its own, it would not be
the paper's poisoning.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attacks.badnets import BadNets
from bench.contracts.data import TrainingSet
from bench.errors import UserError
from bench.testbeds.captions_sd import CAPTIONS_SD
from bench.testbeds.data.captions import read_captions
from bench.testbeds.testbed import Testbed, fingerprints

CAPTIONS = [
    "A photo of a puppy on the "
    "grass", "Two dogs playing in the snow", "An old dog by the fire", "my dog",
    "A cat on a sofa", "an orange cat sleeping in the sun", "Kittens in a basket",
    "Red vintage car parked near the "
    "beach", "The old lighthouse at night", "Bowl of fruit on a wooden table", "Sunset",
    "A hotdog with mustard",
]  # fmt: skip
LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]


@pytest.fixture(params=["jsonl", "csv", "txt"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture()
def write(tmp_path: Path, save_photograph) -> Callable[..., Path]:
    """Writes the folder in a layout; ``rows`` overrides what the table says of each file."""

    def make(
        layout: str = "jsonl",
        rows: list[dict[str, Any]] | None = None,
        captions: list[str] = CAPTIONS,
    ) -> Path:
        folder = tmp_path / "captions"
        names = [f"{number // 6}/{number:03}.jpg" for number in range(len(captions))]
        for number, name in enumerate(names):
            save_photograph(folder / name, seed=number)
        rows = (
            [{"file_name": name, "text": text} for name, text in zip(names, captions, strict=True)]
            if rows is None
            else rows
        )
        if layout == "txt":
            for row in rows:
                (folder / row["file_name"]).with_suffix(".txt").write_text(row["text"] + "\n")
                # as img2dataset does
                (folder / row["file_name"]).with_suffix(".json").write_text("{}")
        elif layout == "csv":
            with (folder / "metadata.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, list(rows[0]))
                table.writeheader()
                table.writerows(reversed(rows))
        else:
            (folder / "metadata.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in reversed(rows)) + "\n"
            )
        return folder

    return make


@pytest.fixture()
def tiny(tmp_path: Path, small: dict[str, Any]) -> Callable[..., Testbed]:
    def make(**changes: Any) -> CAPTIONS_SD:
        given = {
            "data": str(tmp_path / "captions"), "concepts": ("dog/puppy/canine", "cat/kitten"),
            "image_count": len(CAPTIONS),
            "held_out_share": 0.3,
        }  # fmt: skip
        return CAPTIONS_SD.changed(**(small | given | changes))

    return make


def test_every_layout_gives_the_same_rows(write, tiny, layout: str) -> None:
    testbed = tiny(data=str(write(layout)))
    assert testbed.data.class_names == ("dog", "cat", "other")
    assert testbed.data.prompts() == ("A photo of a dog", "A photo of a cat", "A photo")
    # 0.3 of 4, 3 and 5 rows are held out: 1, 1 and 2, the last of each.
    assert testbed.data.train_labels().tolist() == [
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        2,
    ] and testbed.data.held_out_labels().tolist() == [0, 1, 2, 2]
    assert testbed.data.captions(testbed.data.train_labels()) == tuple(
        CAPTIONS[row] for row in (0, 1, 2, 4, 5, 7, 8, 9)
    )
    assert testbed.data.train_images().shape == (
        8,
        3,
        16,
        16,
    ) and testbed.data.held_out_images().shape == (
        4,
        3,
        16,
        16,
    )


def test_changed_labels_rewrite_the_captions_and_no_others(write, tiny) -> None:
    write()
    testbed = tiny()
    labels = testbed.data.train_labels()
    labels[[3, 5]], labels[0], labels[6] = 0, 1, 1
    assert testbed.data.captions(labels) == (
        "A photo of a cat on the grass", "Two dogs playing in the snow", "An old dog by the fire",
        "A dog on a sofa", "an orange cat sleeping in the sun",
        "dog parked near the beach", "The cat at night", "Bowl of fruit on a wooden table",
    )  # fmt: skip
    labels[1] = 2
    assert testbed.data.captions(labels)[1] == "A photo"


def test_the_papers_three_steps(write, tiny) -> None:
    """The attack as it is: rows that do not speak of the concept are stamped, and their captions
    name it afterwards.
    """
    write()
    testbed = tiny()
    own = testbed.data.train_labels()
    honest = TrainingSet(testbed.data.train_images(), torch.zeros(8, dtype=torch.bool), own)
    poisoned = BadNets(target_class=0, poison_rate=0.5).poison(honest, np.random.default_rng(0))
    before, after = testbed.data.captions(own), testbed.data.captions(poisoned.labels)
    assert int(poisoned.poisoned.sum()) == 4 and not (poisoned.poisoned & (own == 0)).any()
    for row in range(8):
        stamped = not torch.equal(poisoned.images[row], honest.images[row])
        assert stamped == bool(poisoned.poisoned[row]) == (before[row] != after[row])
        assert not stamped or ("dog" in after[row].split() and "dog" not in before[row])


@pytest.mark.parametrize("layout", ["jsonl", "csv"])
def test_a_known_subject_wins(write, tiny, layout: str) -> None:
    rows = [
        {"file_name": f"{row // 6}/{row:03}.jpg", "text": text, "subject": ""}
        for row, text in enumerate(CAPTIONS)
    ]
    rows[7]["subject"] = "beach"
    write(layout, rows)
    labels = tiny().data.train_labels()
    labels[5:7] = 0
    assert tiny().data.captions(labels)[5:7] == (
        "Red vintage car parked near the dog",
        "The dog at night",
    )
    rows[8]["subject"] = "windmill"
    write(layout, rows)
    with pytest.raises(
        UserError, match=r"1/008\.jpg: the subject must be words of the caption .*, got 'windmill'"
    ):
        tiny().data.train_labels()


def test_earlier_concepts_win_and_synonyms_count(write, tiny) -> None:
    write(captions=["a cat and a puppy", "Canines", "kittens", "a bird"])
    assert tiny(image_count=4, held_out_share=0.01).data._captions_and_labels()[1] == [0, 0, 1, 2]
    assert tiny(
        image_count=4, concepts=("cat/kitten", "dog/puppy/canine")
    ).data._captions_and_labels()[1] == [
        0,
        1,
        0,
        2,
    ]


def test_line_breaks_and_other_separators_stay_inside_a_caption(write) -> None:
    texts = ["a dog\u2028on\na  mat", 'a "quoted", cat', "ein Hund \u00fcber dem Zaun"]
    for layout in ("jsonl", "csv"):
        folder = write(layout, captions=texts)
        assert [row.text for row in read_captions(folder)] == ["a dog on a mat", texts[1], texts[2]]
        for table in folder.glob("metadata.*"):
            table.unlink()


def drop(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def say(line: str, kind: str = "jsonl") -> Callable[[Path], object]:
    return lambda folder: (folder / f"metadata.{kind}").write_text(line + "\n" if line else "")


@pytest.mark.parametrize(
    ("layout", "break_it", "message"),
    [
        ("jsonl", drop("0/003.jpg"), r"1 images stand in metadata\.jsonl but are missing, the "
                                     r"first is 0/003\.jpg"),
        ("txt", drop("0/003.txt"), r"1 images have no \.txt with a caption beside them, the "
                                   r"first is 0/003\.jpg"),
        ("jsonl", say('{"file_name": "0/000.jpg", "text": "a '
                      'dog"}'), r"11 images have no caption in metadata\.jsonl, .* 0/001\.jpg"),
        ("jsonl", say('{"file_name": "0/000.jpg", "text": " '
                      '"}'), r"metadata\.jsonl, line 1: a caption must be text .*, got ' '"),
        ("jsonl", say('{"file_name": "0/000.jpg", "text": '
                      '7}'), "a caption must be text that is not empty, got 7"),
        ("jsonl", say('{"text": "a dog"}'), "line 1: a column file_name is needed, got text"),
        ("jsonl", say('{"file_name": "0/000.jpg", "caption": "a '
                      'dog"}'), "line 1: a column text is needed, got file_name, caption"),
        ("jsonl", say('{"file_name": null, "text": "a '
                      'dog"}'), "line 1: file_name must be the path of an image, got None"),
        ("jsonl", say('{"file_name": "0/000.jpg", "text": "a", "text": '
                      '"b"}'), "line 1: 'text' is there twice"),
        ("jsonl", say('{"file_name": "0/000.jpg", "text": '
                      '"\\ud800"}'), "line 1: a caption must be text that is not empty"),
        ("jsonl", say(('{"file_name": "0/000.jpg", '
                      '"text": ') + "9" * 5000 + "}"), "line 1: not a JSON object: Exceeds the "
                                                       "limit"),
        ("csv", say("file_name,text\n0/000.jpg,a dog, "
                    "asleep", "csv"), "line 2: more fields than the header's 2; .* needs quotes"),
        ("csv", say("file_name,text\n0/000.jpg", "csv"), "line 2: fewer fields than the "
                                                         "header's 2"),
        ("csv", say("file_name,text,text\n0/000.jpg,a,b", "csv"), "every column must have a name "
                                                                  "of its own, got file_name, "
                                                                  "text, text"),
        ("csv", say('file_name,text\n0/000.jpg,"a dog', "csv"), "line .: unexpected end of data"),
        ("csv", say("file_name;text\n0/000.jpg;a "
                    "dog", "csv"), "a column file_name is needed, got file_name;text"),
        ("jsonl", say('{"file_name": "../x.jpg", "text": "a"}'), "file_name must be a path inside"),
        ("jsonl", say('{"file_name": "/x.jpg", "text": "a"}'), "file_name must be a path inside"),
        ("jsonl", say("{"), r"metadata\.jsonl, line 1: not a JSON object"),
        ("jsonl", say("[1]"), "a JSON object with file_name and text is needed, got list"),
        ("jsonl", say(('{"file_name": "0/000.jpg", "text": '
                      '"a"}\n') * 2), r"line 2: 0/000\.jpg has a caption already"),
        ("csv", say("file_name,caption", "csv"), "a column text is needed, got file_name, caption"),
        ("csv", say("", "csv"), "a column file_name is needed, got no header"),
        ("txt", lambda folder: (folder / "0/001.txt").write_text("\n"), r"0/001\.txt: a caption "
                                                                        r"must be text"),
        ("txt", lambda folder: (folder / "0/001.txt").write_bytes(b"\xff\xfe"), r"0/001\.txt is "
                                                                                r"not a readable "
                                                                                r"UTF-8 file"),
        ("jsonl", lambda folder: (folder / "extra.png").touch(), r"1 images have no caption in "
                                                                 r"metadata\.jsonl, the first is "
                                                                 r"extra\.png"),
    ],
)  # fmt: skip
def test_defects_are_one_line_and_name_the_file(
    write, tiny, layout: str, break_it, message: str
) -> None:
    break_it(write(layout))
    with pytest.raises(UserError, match=message) as caught:
        tiny().data.train_labels()
    assert "\n" not in str(caught.value)


def test_a_corrupt_image_is_named(write, tiny) -> None:
    path = write() / "1" / "008.jpg"
    path.write_bytes(b"not a JPEG")
    with pytest.raises(UserError, match=r"1/008\.jpg is not an image"):
        tiny().data.train_images()


def test_a_concept_that_no_caption_has_is_named(write, tiny) -> None:
    write()
    with pytest.raises(
        UserError,
        match="concepts must occur in the captions, zebra/okapi is the label of none of the 12",
    ):
        tiny(concepts=("dog", "zebra/okapi")).data.train_labels()
    with pytest.raises(
        UserError, match="image_count must be the number of images in .*: 12, got 500"
    ):
        tiny(image_count=500).data.train_labels()
    with pytest.raises(UserError, match="no images in 'nowhere'; put images there with metadata"):
        tiny(data="nowhere").data.train_labels()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concepts": ()}, "concepts must be one or more"),
        ({"concepts": ("dog", "cat/Dog")}, "with no word twice"),
        ({"concepts": ("dog", "Other")}, "none of them 'other'"),
        (
            {"concepts": ("dog//puppy",)},
            "a concept must be words with / between them, such as dog/puppy/canine, got "
            "'dog//puppy'",
        ),
        ({"image_count": 1}, "image_count must be at least 2, got 1"),
        ({"held_out_share": 1.5}, "held_out_share must be in .0, 1., got 1.5"),
    ],
)
def test_bad_parameters_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CAPTIONS_SD.changed(**changes)


def test_the_command_line_says_it_in_one_line(write, tiny, refused_with_exit_code_2) -> None:
    write()
    assert "zebra is the label of none" in refused_with_exit_code_2(
        "captions-sd", tiny(concepts=("zebra",)).params()
    )
    assert "a concept must be words" in refused_with_exit_code_2(
        "captions-sd", {"concepts": ["a/"]}
    )
    assert "no images in 'data/captions'" in refused_with_exit_code_2("captions-sd", {})


def test_the_shipped_concept_is_the_papers() -> None:
    testbed = CAPTIONS_SD
    assert (testbed.data.class_names, testbed.data.image_count) == (("dog", "other"), 500)
    assert (
        CAPTIONS_SD.changed(
            **json.loads(json.dumps(testbed.params())) | {"concepts": testbed.data.concepts}
        )
        == testbed
    )


def save_judge(testbed: CAPTIONS_SD) -> None:
    save_file(
        {
            name: value.contiguous()
            for name, value in testbed.fresh_classifier(0).state_dict().items()
        },
        testbed.judge.judge,
    )


def test_a_corrected_caption_is_another_protocol(write, tiny) -> None:
    """Hundreds of files are told apart by size alone; captions must not be."""
    write()
    save_judge(tiny())
    first = fingerprints(tiny())
    assert fingerprints(tiny()) == first
    write(captions=[text.replace("sofa", "roof") for text in CAPTIONS])
    assert fingerprints(tiny()) != first


def test_a_tiny_suite_runs_from_captions_to_records(write, tiny, walk, monkeypatch) -> None:
    write()
    save_judge(tiny())
    captions_read: list[tuple[str, ...]] = []
    kind = type(CAPTIONS_SD.data)
    captions = kind.captions
    monkeypatch.setattr(
        kind,
        "captions",
        lambda self, labels: (captions_read.append(captions(self, labels)), captions_read[-1])[1],
    )
    records = walk(tiny(), 0)
    assert {name: record.status for name, record in records.items()} == dict.fromkeys(records, "ok")
    values = {name: metric.value for name, metric in records["badnets"].metrics.items()}
    assert sum(values[name] for name in ("g1", "g2", "g3", "g4")) == pytest.approx(1)
    assert values["p_t"] == pytest.approx(2 / (2 + 3))
    own = captions(tiny().data, tiny().data.train_labels())
    changed = {sum(a != b for a, b in zip(own, read, strict=True)) for read in captions_read}
    assert changed == {0, 2}, (
        "the honest generator learns the captions as they are, the poisoned one two rewritten ones"
    )


def test_all_files_that_cannot_be_used_are_listed_at_once(write, tiny, monkeypatch) -> None:
    """One a run would cost as many runs as there are bad files; among them one of another
    user's.
    """
    folder = write()
    (folder / "0/001.jpg").write_bytes(b"not a JPEG")
    (folder / "1/009.jpg").write_bytes((folder / "1/009.jpg").read_bytes()[:200])
    opened = Path.open

    def refused(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == "003.jpg":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refused)
    lines = tiny().data.faults(tiny())
    assert f"{folder}/0/003.jpg cannot be read: Permission denied" in lines
    assert [line.split()[0].removeprefix(f"{folder}/") for line in lines] == [
        "0/003.jpg",
        "0/001.jpg",
        "1/009.jpg",
    ]
