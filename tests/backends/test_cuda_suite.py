"""The whole suite of the CPU backend through the CUDA source and its stand-in for a GPU."""

from __future__ import annotations

import pytest
from gpu_simulator import available

from .simulated import on_the_simulator
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
def simulator():
    with on_the_simulator():
        yield
