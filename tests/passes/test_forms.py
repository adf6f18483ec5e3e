"""Forms: what differs in names of tensors alone is worked on once, with the same result."""

from __future__ import annotations

import pytest
from support import mostly_slow

from nnc.compiler import pipeline
from nnc.compiler.ir import forms
from nnc.compiler.ir.equation import Equation, Index
from nnc.compiler.ir.expr import Idx, Read
from nnc.compiler.ir.forms import Form
from nnc.compiler.ir.structural_hash import system_signature
from nnc.compiler.programs import training_step
from nnc.compiler.targets import CPU_TARGETS, GpuTarget
from nnc.runtime.project import project_of_text, setup_of

DEEP = """
model Deep(x: f32[B, 6, 16]) -> y: f32[B, 6, 8] {
    repeat 3 {
        x = x + %s
    }
    y = x |> LayerNorm |> Dense(8)
}

train Deep {
    input target: i32[B, 6]
    loss      = cross_entropy(y, target)
    optimizer = adamw(lr = 1e-3)
    batch     = 2
    steps     = 1
}
"""
BLOCKS = ("(x |> LayerNorm |> Dense(16) |> gelu)", "TransformerBlock(2, 32, causal = true)(x)")
TARGETS = (CPU_TARGETS["zen5"], GpuTarget())
FOUR = Index("i", 4)


def element(tensor: str, index: Index = FOUR) -> Read:
    return Read(tensor, (Idx(index.name),), None, "f32")


def map_of(target: str, body, index: Index = FOUR) -> Equation:
    return Equation(target, (index,), body)


def test_equations_that_differ_in_names_of_tensors_have_one_form():
    one = map_of("y", element("a") * element("b") + element("a"))
    two = map_of("z", element("b") * element("c") + element("b"))
    assert one.form[0] is two.form[0]
    assert (one.form[1], two.form[1]) == (("y", "a", "b"), ("z", "b", "c"))


def test_what_differs_in_more_than_names_has_another_form():
    a, b, other = element("a"), element("b"), Index("j", 4)
    equations = [
        map_of("y", a * b + a),
        map_of("y", a * b + b),  # another name is read twice
        map_of("y", a * a + a),
        map_of("a", a * b + a),  # reads what it computes
        map_of("y", element("a", other) * element("b", other) + element("a", other), other),
        Equation("y", (Index("i", 3),), a * b + a),
        Equation("y", (), a * b + a, "sum", (FOUR,)),
        Equation("y", (), a * b + a, "max", (FOUR,)),
        Equation("y", (), a * b + a, "sum", (FOUR,), ()),
        map_of("y", Read("a", (Idx("i"),), b, "f32") * b + a),
    ]
    assert len({eq.form[0] for eq in equations}) == len(equations)


def test_an_equation_is_renamed_with_all_that_it_reads():
    y = Equation("y", (), element("a") * element("b"), "sum", (FOUR,), (element("a") + 1,))
    z = y.renamed({"y": "z", "a": "b", "b": "c"}, None)
    assert z.form[1] == ("z", "b", "c") and z.form[0] is y.form[0]


def texts(block: str, target) -> list[str]:
    """The system after each pass, and the code."""
    found = []

    def observe(name, before, after, seconds) -> None:
        found.append(f"{name}\n{system_signature(getattr(after, 'system', after))}")

    step, drawn = training_step(setup_of(project_of_text(DEEP % block), None))
    code = pipeline.compile(step, target, observers=[observe])
    text = code.text if isinstance(code, pipeline.LlvmCode) else str(code)
    return [system_signature(step), system_signature(drawn), *found, text]


@pytest.mark.parametrize("block", mostly_slow(BLOCKS, BLOCKS[:1]))
@pytest.mark.parametrize("target", mostly_slow(TARGETS, TARGETS[:1]))
def test_a_deep_network_has_the_code_that_it_has_without_sharing(block, target, monkeypatch):
    shared = texts(block, target)
    with monkeypatch.context() as patch:
        patch.setattr(forms, "interned", lambda key: Form())  # no two are equal
        apart = texts(block, target)
    assert len(shared) == len(apart)
    for one, other in zip(shared, apart, strict=True):
        assert one == other
