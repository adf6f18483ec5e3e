"""The example of a membership inference attack: it finds members of a plain training, and hardly
any of a private one."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest

from nnc.examples.membership import DELTA, PLAIN, PRIVATE, advantage, attack


def test_the_advantage_of_a_threshold() -> None:
    small, large = np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0])
    assert advantage(small, large) == 1
    assert advantage(large, small) == 0
    assert advantage(np.array([0.0, 3.0]), np.array([1.0, 4.0])) == 0.5


@pytest.mark.slow
def test_members_are_found_without_privacy_alone() -> None:
    plain, _ = attack(PLAIN, 0)
    private, epsilon = attack(PRIVATE, 0)
    assert plain > 0.5 and private < 0.25
    assert 1 < epsilon < 2 and private < (exp(epsilon) - 1 + 2 * DELTA) / (exp(epsilon) + 1)
