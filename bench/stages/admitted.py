"""Whether a folder is what such a stage leaves, asked after a third party's plugin ran it in a
process of its own (``StageKind.admit``): which files, and in them which shapes, types and ranges.
What can be worked out without the plugin is worked out here, and what the other process wrote of
it is replaced: networks' settings, doubts about weights, which rows were judged, clean noise.

These functions run where no plugin is. They raise :class:`~bench.errors.ContractError`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.artefacts import doubts
from bench.artefacts.aims import AIM, IMAGES, ROWS, STAMPED, read_aim, read_rows
from bench.artefacts.arrays import SCORES, load_scores, save_scores
from bench.artefacts.classifiers import WEIGHTS
from bench.artefacts.images import REMARKS, Remarks, load_images
from bench.artefacts.judged import FILE as JUDGED
from bench.artefacts.judged import POOL, Judged, load_judged
from bench.artefacts.judges import ERRORS, MARK
from bench.artefacts.learnt import FILE as LEARNT
from bench.artefacts.learnt import load_learnt
from bench.artefacts.probes import Probe, requested_count
from bench.artefacts.queries import FILE as QUERIES
from bench.artefacts.queries import load_query
from bench.artefacts.recovered import FILE as RECOVERED
from bench.artefacts.recovered import ROLES
from bench.artefacts.suspected import IMAGES as ROWS_IMAGES
from bench.artefacts.suspected import LABELS, load_suspected
from bench.classification.classifier import Classifier
from bench.contracts.data import Recovered
from bench.diffusion.generator import CARD_FILE, Generator
from bench.diffusion.noise import initial_noise, sample_streams
from bench.engine.context import Inputs, Params, StageContext
from bench.engine.store import LOG
from bench.errors import ContractError
from bench.record import Flag
from bench.stages import again, border, border_attacks
from bench.stages.building import generator_of, honest_set, noise_shape_of, testbed_of
from bench.stages.judged_noise import NOISE_SAMPLES
from bench.stages.queries import clean_prompts
from bench.testbeds.testbed import Testbed
from bench.words import REMARK

GENERATOR, LOSSES = "generator", "losses.npz"
#: Of a model's settings, what says where it came from.
_ORIGIN = ("_name_or_path", "_diffusers_version", "transformers_version")
_AGAIN = ("not-repeatable", "depends-on-batch")


def _require(condition: object, what: str) -> None:
    if not condition:
        raise ContractError(f"the plugin's process left {what}")


def _only(out: Path, *names: str) -> None:
    """No other files but those a stage leaves, and its log: doubts and remarks are lines on other
    people's cells, so only of a stage that reads them anew.
    """
    known = {*names, LOG}
    strange = sorted(path.name for path in out.iterdir() if path.name not in known)
    _require(not strange, f"{strange[:1]}, which no such stage leaves")


def _doubts(out: Path, inputs: Inputs, codes: Sequence[str], more: Sequence[Flag] = ()) -> None:
    """Writes the doubts anew: of the inputs, ``more``, and from the other process of these
    ``codes``.
    """
    theirs = doubts.load(out)
    (out / doubts.FILE).unlink(missing_ok=True)
    for flag in theirs:
        plain = isinstance(flag.text, str) and flag.text.isprintable() and len(flag.text) <= 300
        _require(plain and flag.metric == "", "a doubt that is no line of text")
    remarks = Remarks()
    for flag in theirs:
        if flag.code == REMARK:
            remarks(flag.text)
    kept = [flag for flag in theirs if flag.code in codes]
    doubts.save(out, [*doubts.of_inputs(inputs), *more, *kept])


def _remarks(out: Path) -> None:
    remarks = Remarks()
    if (out / REMARKS).is_file():
        for line in json.loads((out / REMARKS).read_text()):
            remarks(line)
        remarks.save(out)


def _finite(values: Tensor | np.ndarray[Any, Any], what: str) -> None:
    array = np.asarray(values)
    _require(
        array.dtype.kind != "f" or bool(np.isfinite(array).all()), f"{what} that are not all finite"
    )


def _image_shape(testbed: Testbed) -> tuple[int, int, int]:
    channels, height, width = testbed.data.held_out_images().shape[1:]
    return (channels, height, width)


# --- defenders' stages ----------------------------------------------------------------------------


def sample(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """As many images as were asked for."""
    _only(out, "images.npz", doubts.FILE)
    testbed, images = testbed_of(params), load_images(out)
    if "queries" in inputs:
        count = len(load_query(inputs["queries"]).noise)
    else:
        count = requested_count(testbed, Probe(**params["draws"]))
    wanted = (count, *_image_shape(testbed))
    good = images.dtype == torch.uint8 and tuple(images.shape) == wanted
    _require(good, f"images {images.dtype} {tuple(images.shape)}, not uint8 {wanted}")
    _doubts(out, inputs, _AGAIN)


def repair(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """Other weights of the same network, and whether they are others at all."""
    _only(out, GENERATOR, doubts.FILE)
    testbed = testbed_of(params)
    kept = _take_weights(testbed, out / GENERATOR, generator_of(testbed, inputs, context))
    base = testbed.base_generator() if testbed.generator.has_weights else None
    returned = testbed.load_generator(out / GENERATOR)
    flags = border.repaired(_named(params["defense"]), returned, kept, base)
    _doubts(out, inputs, (REMARK,), flags)


def invert(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """Pictures of the data's size, a label for each entry, and finite notes."""
    files = [f"{role}.npz" for role in ROLES]
    _only(out, RECOVERED, *files, doubts.FILE, REMARKS)
    written = json.loads((out / RECOVERED).read_text())
    plain = isinstance(written, dict) and set(written) == {"labels", "notes"}
    _require(plain, f"{RECOVERED} without labels and notes")
    testbed = testbed_of(params)
    wanted = _image_shape(testbed)
    pictures: dict[str, list[Tensor]] = {}
    for role, file in zip(ROLES, files, strict=True):
        if (out / file).is_file():
            images = load_images(out, role)
            good = images.dtype == torch.uint8 and images.ndim == 5 and images.shape[2:] == wanted
            _require(good, f"{role} {images.dtype} {tuple(images.shape)}")
            pictures[role] = list(images.float() / 127.5 - 1)
    fields: dict[str, Any] = {**written, **pictures}
    border.recovered(_named(params["defense"]), Recovered(**fields), _image_shape(testbed))
    _remarks(out)
    _doubts(out, inputs, ())


def score(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """A finite number for each row that was judged."""
    _only(out, SCORES, doubts.FILE, REMARKS)
    scores = load_scores(out)
    name, count = "model", 1
    if "judged" in inputs:
        name, count = POOL, len(load_judged(inputs["judged"]).all())
    values = scores.get(name)
    good = values is not None and values.shape == (count,) and values.dtype == np.float32
    _require(good, f"no {count} scores of the {name}")
    _finite(scores[name], "scores")
    save_scores(out, {name: scores[name]})
    _remarks(out)
    _doubts(out, inputs, _AGAIN)


def classify(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """A class for each image of the pool."""
    _only(out, SCORES, doubts.FILE)
    answers, count = load_scores(out).get(POOL), len(load_judged(inputs["judged"]).all())
    classes = len(testbed_of(params).data.class_names)
    good = answers is not None and answers.shape == (count,) and answers.dtype == np.int64
    _require(good, f"no {count} classes of the pool")
    assert answers is not None
    _require(0 <= answers.min() and answers.max() < classes, f"classes beyond 0 to {classes - 1}")
    save_scores(out, {POOL: answers})
    _doubts(out, inputs, (*_AGAIN, again.IGNORES_THE_MODEL.code, REMARK))


def classifier(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """Weights of the classifier that users train, and their losses."""
    _only(out, WEIGHTS, LOSSES, doubts.FILE)
    _weights_of(testbed_of(params).fresh_classifier(params["seed"]), out)
    _doubts(out, inputs, (REMARK,))


def _weights_of(network: Classifier, out: Path) -> None:
    _same_tensors(load_file(out / WEIGHTS), network.state_dict(), WEIGHTS)
    with np.load(out / LOSSES) if (out / LOSSES).is_file() else _nothing() as arrays:
        for name in arrays:
            _finite(arrays[name], "losses")


class _nothing(dict[str, Any]):
    def __enter__(self) -> dict[str, Any]:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


# --- attackers' stages ----------------------------------------------------------------------------


def train(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """Weights of the testbed's own network, and what was learnt beside it, if anything."""
    _only(out, GENERATOR, LOSSES, LEARNT, doubts.FILE)
    testbed = testbed_of(params)
    _take_weights(testbed, out / GENERATOR, _own(testbed, params["seed"]))
    if (out / LEARNT).is_file():
        border_attacks.learnt(load_learnt(out), f"{params['attack']['name']}, in its process,")
    _doubts(out, inputs, ("unmarked-rows",))


def implant(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """Other weights of the testbed's own network."""
    _only(out, GENERATOR, doubts.FILE)
    testbed = testbed_of(params)
    kept = _take_weights(testbed, out / GENERATOR, testbed.base_generator())
    returned = testbed.load_generator(out / GENERATOR)
    _doubts(out, {}, (REMARK,), border.implanted(_named(params["attack"]), returned, kept))


def suspected(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """A training set like the honest one."""
    _only(out, ROWS_IMAGES, LABELS)
    testbed = testbed_of(params)
    like, name = honest_set(testbed), params["attack"]["name"]
    border.training_set(load_suspected(out), f"{name}, in its process,", like, testbed.classes())


def poisoned_rows(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """A mark for each row, and a label where there are labels."""
    _only(out, ROWS, doubts.FILE)
    rows = read_rows(out)
    good = rows.poisoned.dtype == torch.bool and rows.poisoned.ndim == 1
    _require(good, "marks of rows that are not (n,) bool")
    good = rows.labels is None or rows.labels.shape == rows.poisoned.shape
    _require(good, "another number of labels than of marks")
    _doubts(out, inputs, ("unmarked-rows",))


def aim(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """Pictures in [-1, 1] of the data's size, a class that there is, stamped held-out images."""
    _only(out, AIM, IMAGES, STAMPED)
    testbed, aimed = testbed_of(params), read_aim(out)
    held_out = testbed.data.held_out_images()
    for image in (aimed.target, aimed.trigger):
        if image is not None:
            _require(image.shape == held_out.shape[1:], "a picture of another size")
            _finite(image, "pixels")
            border.in_range(image, f"{params['attack']['name']}, in its process,")
    if aimed.stamped is not None:
        good = aimed.stamped.shape == held_out.shape and aimed.stamped.dtype == torch.uint8
        _require(good, "stamped images that are not as the held-out ones")
    classes = len(testbed.data.class_names)
    good = aimed.label is None or (type(aimed.label) is int and 0 <= aimed.label < classes)
    _require(good, f"a class that is not one of 0 to {classes - 1}")


def call(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """A query of as many rows as were asked for."""
    _only(out, QUERIES)
    testbed, query = testbed_of(params), load_query(out)
    count = testbed.counts.triggered_samples
    wanted = (count, *noise_shape_of(testbed))
    _require(tuple(query.noise.shape) == wanted, f"noise {tuple(query.noise.shape)}, not {wanted}")
    for name, value in vars(query).items():
        if value is not None and name != "prompts":
            _require(isinstance(value, Tensor) and len(value) == count, f"{name} of other rows")
            _finite(value, name)
    _require(query.prompts is None or len(query.prompts) == count, "prompts of other rows")


def judged_noise(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """The adversary's noise beside clean noise, which is the harness's."""
    testbed, seed = testbed_of(params), params["seed"]
    shape, rows = noise_shape_of(testbed), range(NOISE_SAMPLES)
    ours = {
        "reference": initial_noise(sample_streams(seed, rows, "reference noise"), shape),
        "threshold": initial_noise(sample_streams(seed, rows, "threshold noise"), shape),
        "clean": initial_noise(sample_streams(seed, rows), shape),
    }
    sets = _judged(out, ours)
    for name, values in sets.items():
        good = isinstance(values, Tensor) and values.shape == (NOISE_SAMPLES, *shape)
        _require(good, f"noise of another shape in {name}")
        assert isinstance(values, Tensor)
        _finite(values, "noise")


def judged_prompts(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """The adversary's prompts beside what users ask, which is the harness's."""
    testbed = testbed_of(params)
    names = ("reference", "threshold", "clean")
    ours = dict(zip(names, clean_prompts(testbed, params["seed"]), strict=True))
    for name, values in _judged(out, ours).items():
        good = isinstance(values, tuple) and (name in ours or len(values) == len(ours["clean"]))
        _require(good, f"other prompts than were asked for in {name}")


def _judged(out: Path, ours: dict[str, Any]) -> Any:
    _only(out, JUDGED)
    judged: Judged = load_judged(out)
    for name, values in ours.items():
        theirs = judged.sets.get(name)
        same = (
            isinstance(theirs, Tensor) and torch.equal(theirs, values)
            if isinstance(values, Tensor)
            else theirs == values
        )
        _require(same, f"{name} that the harness would not have chosen")
    _require(not judged.rows, "rows of a set that there is not")
    return judged.sets


def trigger_classifier(params: Params, inputs: Inputs, out: Path, context: StageContext) -> None:
    """Weights of a classifier of two classes."""
    _only(out, WEIGHTS, ERRORS, MARK)
    _weights_of(testbed_of(params).fresh_classifier(0, classes=2), out)


# --- weights --------------------------------------------------------------------------------------


def _named(spec: dict[str, Any]) -> Any:
    """Stands for a plugin where an error names it."""
    return SimpleNamespace(card=SimpleNamespace(name=spec["name"]))


def _own(testbed: Testbed, seed: int) -> Generator:
    return (
        testbed.base_generator() if testbed.generator.has_weights else testbed.fresh_generator(seed)
    )


def _take_weights(testbed: Testbed, folder: Path, reference: Generator) -> Generator:
    """Leaves in ``folder`` the weights that are there, beside the settings of ``reference``, which
    it returns as it would be read from there.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="reference-") as scratch:
        ours = Path(scratch)
        reference.save(ours, "", {})
        names, theirs = _files_below(ours), _files_below(folder)
        other = sorted(names ^ theirs)
        _require(not other, f"a model with other files than its testbed's: {other[:1]}")
        for name in sorted(names - {CARD_FILE, "castlewalls.json"}):
            if name.endswith(".safetensors"):
                _same_tensors(load_file(folder / name), load_file(ours / name), name)
                continue
            if name.endswith(".json"):
                one, two = (_settings(path / name) for path in (folder, ours))
                _require(one == two, f"a model with other settings, in {name}")
            shutil.copyfile(ours / name, folder / name)
        return testbed.load_generator(ours)


def _files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _settings(path: Path) -> Any:
    written = json.loads(path.read_text())
    if not isinstance(written, dict):
        return written
    return {name: value for name, value in written.items() if name not in _ORIGIN}


def _same_tensors(theirs: dict[str, Tensor], ours: dict[str, Tensor], file: str) -> None:
    described = [
        {name: (tuple(value.shape), value.dtype) for name, value in weights.items()}
        for weights in (theirs, ours)
    ]
    _require(described[0] == described[1], f"{file} with other weights than its network's")
    for name, value in theirs.items():
        finite = not value.is_floating_point() or bool(torch.isfinite(value).all())
        _require(finite, f"{file} with {name} that is not finite")
