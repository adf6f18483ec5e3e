"""The whole suite of the CPU backend through the CUDA source and its stand-in for a GPU."""

from __future__ import annotations

import pytest

from nnc.runtime.device.cuda.shim import available

from .shimmed import through_the_shim
from .test_cpu import (  # noqa: F401
    test_accumulation,
    test_convolution,
    test_gather,
    test_matrix_product,
    test_random_systems,
    test_reduction,
    test_scalar_function,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not available(), reason="needs g++")]


@pytest.fixture(autouse=True, scope="module")
def shim():
    with through_the_shim():
        yield
