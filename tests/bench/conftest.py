"""Shared by the engine's and the command line's tests."""

import importlib.util
import sys
from pathlib import Path

import pytest

from bench import registry, testbeds

HERE = Path(__file__).parent


def _module(name, path):
    """The module at ``path``, imported once: these folders are no packages."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def loopback():
    """``engine/cluster.py``: a SLURM cluster on this machine."""
    return _module("castlewalls_loopback", HERE / "engine" / "cluster.py")


@pytest.fixture(scope="session")
def save_stable_diffusion():
    """``save(folder, **scheduler options)``: a Stable Diffusion for 16 x 16 images with random
    weights, as diffusers writes it.
    """
    return _module("castlewalls_tiny_sd", HERE / "tiny_sd.py").save_stable_diffusion


@pytest.fixture(scope="session")
def stable_diffusion(save_stable_diffusion, tmp_path_factory):
    """The folder of such a model, made once; not to be changed."""
    return save_stable_diffusion(tmp_path_factory.mktemp("weights") / "sd")


@pytest.fixture(scope="session")
def idx_files():
    """``idx_files.py``: Fashion-MNIST with few images, as it is published."""
    return _module("castlewalls_idx_files", HERE / "idx_files.py")


@pytest.fixture
def tiny(monkeypatch):
    """A testbed called ``tiny`` without data or weights, for planning; its class."""
    name = "castlewalls_fake_testbed"
    _module(name, HERE / "engine" / "fake_testbed.py")
    monkeypatch.setitem(testbeds.TESTBEDS, "tiny", f"{name}:TINY")
    return sys.modules[name].TINY


@pytest.fixture(scope="session")
def walk():
    """:class:`Walk` of ``walk.py``."""
    return _module("castlewalls_walk", HERE / "walk.py").Walk


@pytest.fixture(scope="session")
def golden():
    """``golden.py``: the numbers that are kept."""
    return _module("castlewalls_golden", HERE / "golden.py")


@pytest.fixture
def stages_file():
    """A stage table that loads no torch."""
    return str(HERE / "engine" / "fake_stages.py")


@pytest.fixture
def fake_plugins():
    """The path of a file with the attack ``fake_attack`` and the defenses ``fake_sampler``,
    ``fake_repair``, ``fake_invert``.
    """
    yield HERE / "engine" / "fake_plugins.py"
    registry._in_use.clear()  # whatever comes next finds its own
