"""`nnc profile`: times that belong to lines, and add up. No test asserts a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_programs import DIGITS, write
from support import gradients, plan, system

from nnc.compiler.ir.work import flops
from nnc.compiler.programs import training_step
from nnc.runtime import cli
from nnc.runtime.data import Search
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.inspect.profiling import ClockedProgram, profile
from nnc.runtime.project import planned_setup, project_of_text

RECURRENT = """
model Last(x: f32[B, 6, 3]) -> y: f32[B, 4] {
    h = x |> RNN(8)
    last[b, j] = h[b, 5, j]
    y = last |> Dense(4)
}

train Last {
    input label: i32[B]
    loss      = cross_entropy(y, label)
    optimizer = sgd(lr = 0.1)
    clip      = clip_norm(1.0)
    batch     = 5
}
"""


@pytest.fixture
def nnc(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object):
        code = cli.run([str(a) for a in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def setup_of(text: str):
    return planned_setup(project_of_text(text), Search(None, Path(), True))


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("text", [DIGITS, RECURRENT], ids=["digits", "recurrent"])
def test_clocks_change_no_result(text, threads):
    step, _ = training_step(setup_of(text))
    plain, clocked = CpuProgram(plan(step), 1), ClockedProgram(plan(step), threads)
    rng = np.random.default_rng(0)
    for name, array in plain.arrays.items():
        if array.dtype.kind == "f":
            array[...] = rng.uniform(0.1, 1, array.shape)
        if name == "step":
            array[...] = 3
        clocked.arrays[name][...] = array
    for program in (plain, clocked):
        program.run()
    for name, array in plain.arrays.items():
        assert np.array_equal(array, clocked.arrays[name]), name
    assert (clocked.ticks() > 0).all() and clocked.ticks_per_ms() > 0
    before = clocked.ticks()
    clocked.run()
    assert (clocked.ticks() > before).all()
    clocked.clear()
    assert not clocked.ticks().any()


@pytest.mark.parametrize("text", [DIGITS, RECURRENT], ids=["digits", "recurrent"])
def test_lines_stages_and_kernels_add_up_to_the_same(text):
    found = profile("M", setup_of(text), 1, 3, 0)
    lines = found.lines()
    assert sum(line.total for line in lines) == pytest.approx(found.kernel_ms)
    assert sum(map(found.stage_ms, ("forward", "backward", "update"))) == pytest.approx(
        found.kernel_ms
    )
    for line in lines:
        assert not line.span.source.library
        inner = sum(each.total for each in line.within.values())
        assert inner <= line.total * 1.000001
    assert all(min(line.ms.values()) >= 0 and line.mb > 0 for line in lines)
    assert found.gflop == pytest.approx(sum(line.gflop for line in lines))


def test_stages_are_told_apart():
    found = profile("M", setup_of(RECURRENT), 1, 2, 0)
    stages = {s.equation.target: s.stage for k in found.kernels for s in k.shares}
    assert stages["loss"] == "forward"
    assert stages["d_dense1_w"] == "backward"
    assert stages["dense1_w'"] == "update"
    texts = {line.text: line for line in found.lines()}
    assert texts["RNN(8)"].ms["forward"] > 0 and texts["RNN(8)"].ms["backward"] > 0
    assert texts["sgd(lr = 0.1)"].ms["update"] > 0
    assert texts["clip      = clip_norm(1.0)"].ms["update"] > 0
    assert max(k.runs for k in found.kernels) == 6  # one run for each step of the recurrence


def test_flops_leave_out_borders_and_choices():
    text = """model M(x: f32[2, 8, 3], k: f32[3, 3, 5]) -> loss: f32[] {
        y[b, i < 8, o] = sum(u, c) (x[b, i + u - 1, c] else 0) * k[u, c, o]
        z[b, i < 7, o] = max(u < 2) y[b, i + u, o]
        loss = sum(z*z)
    }"""
    both, _ = gradients(system(text), "loss", ["x", "k"])
    work = {eq.target: flops(eq, both) for eq in both.equations}
    inside = 2 * (2 * 22) * 3 * 5  # 8 + 7 + 7 of the 24 places of a window of 3
    assert work["y"] == inside and work["d_k"] == inside and work["d_x"] == inside
    assert work["z"] == 0 and work["d_y"] == 0  # a maximum picks


def test_flops_of_a_product_of_three():
    inputs = "a: f32[4], b: f32[4], c: f32[4]"
    one = system(f"model M({inputs}) -> y: f32[] {{ y = sum(i) a[i]*b[i]*c[i] }}")
    assert flops(one.definition["y"], one) == 3 * 4


# --- the command ----------------------------------------------------------------------------------


def test_lines_and_totals(nnc, tmp_path):
    write(tmp_path)
    code, out, err = nnc("profile", "small.nn", "--steps", 2, "--threads", 1)
    assert code == 0 and not err
    head, *rows = out.splitlines()
    assert head.split() == [
        "line",
        "source",
        "forward",
        "backward",
        "update",
        "share",
        "GFLOP/s",
        "peak",
        "MB",
    ]
    assert any(row.split()[1:2] == ["Dense(12)"] and "%" in row for row in rows)
    assert "whole step" in out and "GFLOP/s" in out


def test_kernels_by_time(nnc, tmp_path):
    write(tmp_path)
    code, out, _ = nnc("profile", "small.nn", "--steps", 2, "--kernels", "--sort", "time")
    assert code == 0 and "d_dense1_w" in out
    shares = [
        float(row.partition("%")[0].split()[-1])
        for row in out.splitlines()[1:]
        if "%" in row and "kernels" not in row and "products" not in row
    ]
    assert shares == sorted(shares, reverse=True) and len(shares) > 5


def test_json(nnc, tmp_path):
    write(tmp_path)
    code, out, _ = nnc("profile", "small.nn", "--steps", 2, "--json")
    found = json.loads(out)
    assert code == 0 and found["model"] == "Small" and found["batch"] == 100
    total = sum(found["stages_ms"].values())
    assert total == pytest.approx(found["kernels_ms"], abs=1e-4)
    assert sum(k["ms"] for k in found["kernels"]) == pytest.approx(total, abs=1e-4)
    dense = next(line for line in found["lines"] if line["text"] == "Dense(12)")
    assert dense["line"] == 3 and dense["library"][0]["file"] == "stdlib/layers.nn"


def test_wrong_uses(nnc, tmp_path):
    assert nnc("profile", "none.nn")[0] == 1
    assert nnc("profile")[0] == 2
    write(tmp_path, "model M(x: f32[B, 3]) -> y { y = x*x }")
    code, _, err = nnc("profile", "small.nn")
    assert code == 1 and "E0707" in err
    write(tmp_path)
    assert nnc("profile", "small.nn", "--steps", 0)[0] == 2
    code, _, err = nnc("profile", "small.nn", "--set", "bacth=3")
    assert code == 2 and "E0704" in err and "did you mean" in err
