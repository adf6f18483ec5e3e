"""LLVM's code generator: with the options that pay here, and for others in the process without."""

from __future__ import annotations

import platform

import llvmlite.binding as llvm
import pytest
from support import elaborated, plan

from nnc.compiler.pipeline import generate
from nnc.compiler.targets import CpuTarget
from nnc.runtime.device.cpu import jit

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the option is for x86-64"
)
PRODUCT = """
model M(a: f32[37, 29], b: f32[29, 43]) -> c {
    c[i, j] = sum(k) a[i, k] * b[k, j]
}
"""


@pytest.fixture(scope="module")
def text() -> str:
    return generate(plan(elaborated(PRODUCT)), CpuTarget()).text


def by_another(text: str) -> bytes:
    """What somebody else in the process gets of LLVM."""
    module = llvm.parse_assembly(text, llvm.create_context())
    return jit.host_machine().emit_object(module)


def test_addresses_stay_as_they_are_written_and_others_get_what_they_got(text):
    before = by_another(text)
    (own,) = jit.Machine([text]).objects
    assert by_another(text) == before
    shown = jit.assembly(text)
    assert by_another(text) == before
    # The option has an effect: the loop of a product steps its addresses in another way.
    assert own != before
    module = llvm.parse_assembly(text, llvm.create_context())
    assert shown != jit.host_machine().emit_assembly(module)


def test_a_mistake_in_a_text_leaves_the_option_as_it_was(text):
    before = by_another(text)
    with pytest.raises(RuntimeError):
        _ = jit.Machine(["no LLVM"]).objects
    assert by_another(text) == before


def test_an_unknown_version_of_llvm_is_given_no_option(text, monkeypatch):
    before = by_another(text)
    monkeypatch.setattr(jit, "KNOWN", llvm.llvm_version_info[0] - 1)
    (own,) = jit.Machine([text]).objects
    assert own == before
