"""Shared by the engine's and the command line's tests."""

import importlib.util
import sys
from pathlib import Path

import pytest

from bench import registry, testbeds

HERE = Path(__file__).parent


@pytest.fixture
def tiny(monkeypatch):
    """A testbed called ``tiny`` without data or weights, for planning; its class."""
    name = "castlewalls_fake_testbed"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / "engine" / "fake_testbed.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    monkeypatch.setitem(testbeds.TESTBEDS, "tiny", f"{name}:Tiny")
    return sys.modules[name].Tiny


@pytest.fixture
def fake_plugins():
    """The path of a file with the attack ``fake_attack`` and the defenses ``fake_sampler``, ``fake_repair``, ``fake_invert``."""
    yield HERE / "engine" / "fake_plugins.py"
    registry.use(())
