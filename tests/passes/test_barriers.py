"""Phases: kernels wait for what they need, and for nothing else."""

from __future__ import annotations

from support import gradients, plan, system

from nnc.compiler.passes.kernels.kernel import Plan

LAYERS = """model M(x: f32[30, 20], W: f32[20, 40], b: f32[40], U: f32[40, 9]) -> loss: f32[] {
    h[n, j] = tanh(sum(i) x[n, i]*W[i, j] + b[j])
    y[n, o] = sum(j) h[n, j]*U[j, o]
    loss = sum(y*y)
}"""


def planned(text: str, *wanted: str) -> Plan:
    return plan(gradients(system(text), "loss", list(wanted))[0])


def test_gradients_of_weights_do_not_wait_for_each_other() -> None:
    found = planned(LAYERS, "W", "b", "U")
    order = [k.name for k in found.kernels]
    waiting = found.barriers
    gradient = sorted(("d_W", "d_b"), key=order.index)
    assert order.index(gradient[1]) == order.index(gradient[0]) + 1
    assert gradient[1] not in waiting


def test_no_kernel_meets_another_of_its_phase() -> None:
    found = planned(LAYERS, "W", "b", "U")
    phase: list = []
    for kernel in found.kernels:
        if kernel.name in found.barriers:
            phase = []
        reads = {s for eq in kernel.equations for s in eq.sources}
        assert not any(reads & set(other.stored) for other in phase), kernel.name
        phase.append(kernel)


def test_memory_that_is_used_again_is_waited_for() -> None:
    """z takes the place of x1, which y reads: nothing but the place connects them."""
    found = planned(
        """model M(x: f32[64]) -> loss: f32[] {
            x1[i] = sum(j < 64) x[j]*x[i]
            y[i] = sum(j < 64) x1[j]*x1[i]
            loss = sum(y*y)
        }""",
        "x",
    )
    places = {}
    for kernel in found.kernels:
        if kernel.name in found.barriers:
            places = {}
        for name in kernel.stored:
            start = found.offsets[name]
            stop = start + found.system.tensors[name].bytes
            assert all(stop <= a or b <= start for a, b in places.values())
            places[name] = start, stop


def test_every_step_of_a_scan_waits_for_the_one_before() -> None:
    found = planned(
        """model M(x: f32[5, 4], U: f32[4, 4]) -> loss: f32[] {
            h[t, j] = tanh(x[t, j] + sum(k) (h[t - 1, k] else 0)*U[k, j])
            loss = sum(h*h)
        }""",
        "U",
    )
    scans = [item for item in found.items if not hasattr(item, "anchor")]
    assert scans and all(next(iter(s.every)).name in found.barriers for s in scans)
