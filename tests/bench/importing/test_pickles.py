"""Pickles of weights: their tensors come over, and nothing in them runs."""

import os
import sys
import types
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from bench.errors import UserError
from bench.importing.pickles import to_safetensors
from bench.importing.pickles_child import Refused, converted


def weights():
    draw = torch.Generator().manual_seed(0)
    return {
        "first.weight": torch.randn(3, 4, generator=draw),
        "first.bias": torch.randn(4, generator=draw).half(),
    }


class Hostile:
    """Opened by pickle, it makes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def trainers_object(monkeypatch):
    """An object of a class that a trainer leaves in its checkpoints."""
    module = types.ModuleType("pytorch_lightning.callbacks")

    class ModelCheckpoint:
        def __init__(self):
            self.best = 0.5

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint
    for name in ("pytorch_lightning", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    return ModelCheckpoint()


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before torch 1.6"])
def test_the_tensors_come_over_bit_by_bit_from_an_isolated_process(tmp_path, zipped):
    file, output = tmp_path / "model.bin", tmp_path / "model.safetensors"
    torch.save(weights(), file, _use_new_zipfile_serialization=zipped)
    assert to_safetensors(file, output) == []
    made = load_file(output)
    assert made.keys() == weights().keys()
    for name, value in weights().items():
        assert made[name].dtype == value.dtype
        assert torch.equal(made[name], value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.safetensors"]


def test_a_trainers_own_objects_are_left_out_and_named(tmp_path, monkeypatch):
    file, output = tmp_path / "last.ckpt", tmp_path / "last.safetensors"
    left = trainers_object(monkeypatch)
    moments = [{"state": {0: {"exp_avg": torch.zeros(3, 4)}}}]
    checkpoint = {"state_dict": weights(), "callbacks": left, "optimizer_states": moments}
    torch.save(checkpoint | {"epoch": 3}, file)
    assert to_safetensors(file, output) == ["pytorch_lightning.callbacks.ModelCheckpoint"]
    assert torch.equal(load_file(output)["first.weight"], weights()["first.weight"])


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "before torch 1.6"])
def test_code_in_a_pickle_is_refused_by_name_and_never_runs(tmp_path, zipped):
    file, made = tmp_path / "model.ckpt", tmp_path / "it ran"
    hostile = {"state_dict": weights(), "other": Hostile(made)}
    torch.save(hostile, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"it names (posix|nt)\.system, which no weights need"):
        to_safetensors(file, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_what_is_no_pickle_of_weights_is_refused(tmp_path):
    file = tmp_path / "model.bin"
    for content in (b"", b"<html>not there</html>", b"PK\x03\x04 cut short"):
        file.write_bytes(content)
        with pytest.raises(Refused, match="it is damaged, or no file of weights"):
            converted(str(file), "")
    torch.save({"epoch": 3, "list": [1, 2]}, file)
    with pytest.raises(Refused, match="no tensors by name"):
        converted(str(file), "")
    with pytest.raises(UserError, match="there is no such file"):
        to_safetensors(tmp_path / "other.bin", tmp_path / "out")


def test_of_two_sets_of_weights_the_reader_says_which(tmp_path):
    """DDPM's checkpoints hold the weights and their average, which sample differently."""
    from safetensors.torch import load

    file = tmp_path / "ckpt.pth"
    average = {name: value * 2 for name, value in weights().items()}
    torch.save([weights(), {"state": {0: {"step": torch.zeros(1)}}}, 7, average], file)
    with pytest.raises(Refused, match=r"weights twice, in '0' and '3': say which \(--entry\)"):
        converted(str(file), "")
    assert torch.equal(load(converted(str(file), "3"))["first.bias"], average["first.bias"])
    with pytest.raises(Refused, match=r"no entry 'ema' with tensors \(it has: '0'"):
        converted(str(file), "ema")


def test_an_archive_that_unpacks_to_more_than_it_is_gets_refused(tmp_path):
    plain, packed = tmp_path / "plain.bin", tmp_path / "packed.bin"
    torch.save({"zeros": torch.zeros(10_000)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert packed.stat().st_size < plain.stat().st_size / 10
    with pytest.raises(Refused, match="compressed archive"):
        converted(str(packed), "")


def test_tensors_that_are_not_dense_are_refused(tmp_path):
    file = tmp_path / "model.bin"
    torch.save({"sparse": torch.eye(4).to_sparse()}, file)
    with pytest.raises(Refused, match="sparse must be a dense tensor"):
        converted(str(file), "")
