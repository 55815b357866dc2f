"""Published models in every layout, made of the embedded testbeds' own networks."""

import copy

import pytest
import torch

from bench import testbeds


@pytest.fixture(scope="session")
def digits_sd():
    """The testbed's base; not to be changed."""
    testbed = testbeds.build("digits-sd")
    return testbed.generator.base(testbed.data)


@pytest.fixture(scope="session")
def digits_ddpm():
    testbed = testbeds.build("digits-ddpm")
    return testbed.generator.base(testbed.data)


@pytest.fixture(scope="session")
def changed():
    """``changed(generator, *networks)``: a copy, in which the weights of these are others."""

    def make(generator, *networks):
        other = copy.deepcopy(generator)
        draw = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name in networks:
                for value in getattr(other, name).parameters():
                    value.add_(0.01 * torch.randn(value.shape, generator=draw))
        return other

    return make
