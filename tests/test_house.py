"""What the house promises of its code: passes run from the pipeline, constants from one table."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnc.compiler.pipeline import all_passes

ROOT = Path(__file__).parents[1]
PACKAGE = sorted(p for room in ("dsl", "compiler", "runtime") for p in (ROOT / room).rglob("*.py"))
DECIDING = [p for p in PACKAGE if p.is_relative_to(ROOT / "compiler" / "passes")]
WRITING = [p for p in PACKAGE if p.is_relative_to(ROOT / "compiler" / "codegen")]
STRUCTURAL = {-1, 0, 1, 2}  # signs, ends, neutral elements, pairs and halves

# Numbers that are no machine's and no cost: what a format, an algorithm or an instruction defines.
EXCEPTIONS: dict[str, str] = {
    "compiler/codegen/llvm/math.py": "coefficients of polynomials, bits of IEEE 754 formats",
    "compiler/codegen/llvm/parallel_for.py": "places of a frame",
    "compiler/codegen/llvm/single_pairs.py": "parts of π/2, bits of IEEE 754 formats",
    "compiler/codegen/llvm/vector.py": "the least f32 from which on all are whole",
    "compiler/codegen/llvm/division.py": "whole numbers that a float holds exactly",
    "compiler/codegen/llvm/threefry.py": "the key schedule of the generator",
    "compiler/codegen/llvm/instructions.py": "ranges of integer types, bits of bf16",
    "compiler/codegen/llvm/halves.py": "bits of IEEE 754 formats",
    "compiler/codegen/llvm/narrow_products.py": "the vectors of PMADDWD",
    "compiler/codegen/llvm/int8_dot.py": "the bytes of a lane, the vectors of VPDPBUSD",
    "compiler/codegen/llvm/bf16.py": "the lanes of AVX512_BF16's instructions",
    "compiler/codegen/llvm/amx.py": "the layout of AMX's configuration",
    "compiler/codegen/llvm/subnormals.py": "bits of MXCSR",
    "compiler/codegen/llvm/library.py": "bits of an index in the text of the code generator",
    "compiler/codegen/llvm/library_body.py": "the layout of a library's memory",
    "compiler/codegen/llvm/library_shared.py": "bits of CPUID, bytes of indices and of words",
    "compiler/codegen/llvm/thread_pool.py": "numbers of Linux's system calls",
    "compiler/codegen/cuda/instructions.py": "the limits of integer types",
    "compiler/codegen/cuda/mma.py": "the shape of mma.sync.m16n8k16",
    "compiler/passes/cpu/pack_int8_quads.py": "numbers of 8 bits in 32",
    "compiler/passes/gpu/attention/mma_operands.py": "the shape of mma.sync and of cp.async",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(path)))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """The modules of the package that a file imports from, each with a name that it takes."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            for name in node.names:
                yield module, name.name


def test_no_pass_is_called_outside_the_pipeline() -> None:
    passes = {
        (each.function.__module__.removeprefix("nnc."), each.function.__name__)
        for each in all_passes()
    }
    found = [
        f"{name_of(path)}: {module}.{name}"
        for path in PACKAGE
        if path != ROOT / "compiler" / "pipeline.py"
        for module, name in imports(path)
        if (module, name) in passes
    ]
    assert not found, "\n".join(found)


def edges() -> dict[str, set[str]]:
    """Every module of the package, and those that it imports, those for types alone included."""
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in PACKAGE}
    found = {}
    for name, path in modules.items():
        wanted = {f"{module}.{item}" for module, item in imports(path)}
        wanted |= {module for module, _ in imports(path)}
        found[name] = wanted & modules.keys()
    return found


def test_no_import_circle() -> None:
    """Nor one of imports inside functions or under TYPE_CHECKING: what needs each other is one."""
    found, done = edges(), set()
    while True:
        free = {name for name, wanted in found.items() if name not in done and wanted <= done}
        if not free:
            break
        done |= free
    left = {name: sorted(wanted - done) for name, wanted in found.items() if name not in done}
    assert not left, left


def number(node: ast.expr) -> float | None:
    """The value of a literal number, or of arithmetic on such."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(operand=operand):
            value = number(operand)
            return None if value is None else -value
        case ast.BinOp(left=left, right=right):
            both = number(left), number(right)
            return None if None in both else 3  # whatever it is, it is no structural number
    return None


def numbers(path: Path) -> Iterator[tuple[int, str, float]]:
    """Numbers in module constants, comparisons, arithmetic and defaults: line, source, value."""
    tree = parsed(path)
    constants = [n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign) and n.value]
    for node in constants:
        for item in ast.walk(node.value):
            value = number(item) if isinstance(item, ast.Constant | ast.BinOp) else None
            if value is not None:
                yield node.lineno, ast.unparse(node)[:70], value
    inside = {id(n) for c in constants for n in ast.walk(c)}
    for node in nodes(path):
        if id(node) in inside:
            continue
        operands: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.BinOp):
            operands = [node.left, node.right]
        elif isinstance(node, ast.arguments):
            operands = [*node.defaults, *filter(None, node.kw_defaults)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("min", "max"):
            operands = node.args
        for operand in operands:
            value = number(operand)
            if value is not None:
                yield node.lineno if hasattr(node, "lineno") else 0, ast.unparse(node)[:70], value


@pytest.mark.parametrize("path", [*DECIDING, *WRITING], ids=name_of)
def test_machine_and_cost_constants_stand_in_the_table_of_targets(path: Path) -> None:
    found = [
        f"{name_of(path)}:{line}: {source}"
        for line, source, value in numbers(path)
        if value not in STRUCTURAL and name_of(path) not in EXCEPTIONS
    ]
    assert not found, "\n".join(dict.fromkeys(found))


# --- files ----------------------------------------------------------------------------------------

# What makes, changes or removes files, as a function of os, shutil, tempfile or a method of Path.
CHANGES_FILES = {
    "write_text", "write_bytes", "mkdir", "makedirs", "touch", "mknod", "mkfifo", "unlink", "rmdir",
    "removedirs", "rename", "renames", "rmtree", "symlink", "symlink_to", "hardlink_to",
    "chmod", "chown", "fchmod", "fchown", "lchmod", "lchown", "truncate", "ftruncate", "copyfile",
    "copy2", "copytree", "move", "mkstemp", "mkdtemp", "TemporaryFile", "TemporaryDirectory",
    "NamedTemporaryFile", "SpooledTemporaryFile", "tofile", "save_file", "savetxt", "sendfile",
    "setxattr", "removexattr",
}  # fmt: skip
WRITING_MODES = set("wax+")
THE_FILE_ROOM = "dsl/files.py"
# Calls elsewhere that look as if they did, and why they do not.
HARMLESS = {
    "runtime/data/core/feature_cache.py: np.savez": "to an open file",
    "runtime/streams.py: os.open": "the null device, in place of a stream",
    "runtime/inference/result_files.py: np.save": "to memory",
    "runtime/inference/result_files.py: np.savez": "to memory",
    "runtime/data/formats/images.py: np.memmap": "of an open file without a name",
    "runtime/data/formats/images.py: file.truncate": "an open file without a name",
}


def changes_of_files(path: Path) -> Iterator[str]:
    """The calls in a module that may make, change or remove files."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "tempfile"):
            taken = {name.name for name in node.names} & {*CHANGES_FILES, "open", "replace"}
            yield from (f"{name_of(path)}: {node.module}.{name}" for name in taken)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        arguments = [*node.args, *(k.value for k in node.keywords)]
        texts = {a.value for a in arguments if isinstance(a, ast.Constant)}
        modes = {t for t in texts if isinstance(t, str) and 0 < len(t) <= 3 and "U" not in t}
        writes = any(WRITING_MODES & set(m) and set(m) <= set("rwaxbt+") for m in modes)
        flags = {n.attr for a in arguments for n in ast.walk(a) if isinstance(n, ast.Attribute)}
        method = "." in called
        if (
            (last in CHANGES_FILES and method)
            or (last in ("open", "fdopen", "memmap", "open_memmap", "FileIO") and writes)
            or (called == "os.open" and flags & {"O_WRONLY", "O_RDWR", "O_CREAT"})
            or called in ("os.link", "os.replace", "os.remove")
            or called in ("np.save", "np.savez", "np.savez_compressed")
            # of a path: a text takes two arguments, a dataclass or a system keywords
            or (
                last == "replace"
                and len(node.args) == 1
                and not node.keywords
                and method
                and called != "edit.replace"
            )
        ):
            yield f"{name_of(path)}: {called}"


def test_one_module_writes_and_removes_files() -> None:
    found = {call for path in PACKAGE for call in changes_of_files(path)}
    own = {call for call in found if call.startswith(f"{THE_FILE_ROOM}: ")}
    assert own
    others = found - own
    assert others == set(HARMLESS), sorted(others ^ set(HARMLESS))


# --- what is imported where -----------------------------------------------------------------------


HEAVY = ("numpy", "llvmlite", "rich", "safetensors", "nnc.compiler.pipeline", "nnc.runtime.device")
CHECKED = f"""
import sys
from nnc.dsl.check.library import Library
from nnc.runtime import cli
Library.parsed = None  # the trees of the library are stored
assert cli.run(["check", sys.argv[1]]) == 0
print(*sorted({set(HEAVY)!r} & set(sys.modules)))
"""


def test_a_program_is_checked_without_arrays_passes_and_code() -> None:
    """Importing them takes longer than checking it: `compiler/ir/lazy_numpy.py` has `np`."""
    found = subprocess.run(
        [sys.executable, "-c", CHECKED, str(ROOT / "examples" / "char_gpt.nn")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (found.returncode, found.stdout.strip(), found.stderr) == (0, "", "")
