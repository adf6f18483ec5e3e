"""The project's pages and its packaging: what they say holds."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import lark
import pytest

import nnc.examples
from nnc.compiler.ir.verify import verify
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.lexer_rules import PostLexer
from nnc.dsl.syntax.parser import grammar
from nnc.dsl.syntax.parser_tables import PACKAGED, build_parser, load_tables, save_tables
from nnc.dsl.syntax.source import Source
from nnc.runtime.data import Search
from nnc.runtime.inspect.model_system import model_system
from nnc.runtime.project import planned_setup, project_of_text

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# --- names of files -------------------------------------------------------------------------------


def _comments_and_docstrings(text: str) -> Iterator[str]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


@pytest.mark.slow
def test_every_python_file_that_a_docstring_or_page_names_exists() -> None:
    """A name may leave out leading folders: `cpu/tiling.py` is `compiler/passes/cpu/tiling.py`."""
    python = [f for f in ROOT.rglob("*.py") if not f.relative_to(ROOT).parts[0].startswith(".")]
    existing = {"/".join(f.parts[-n:]) for f in python for n in range(1, 9)}
    wrong = []
    for file in [*python, *PAGES]:
        text = file.read_text(encoding="utf-8")
        prose = [text] if file.suffix == ".md" else _comments_and_docstrings(text)
        for name in re.findall(r"[\w./]*\w\.py\b", "\n".join(prose)):
            if re.sub(r"^[./]*", "", name) not in existing:
                wrong.append(f"{file.relative_to(ROOT)}: {name}")
    assert not wrong


# --- pages ----------------------------------------------------------------------------------------


def programs() -> list:
    """Every ```nn block of a page, by the page and its line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```nn\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            found.append(pytest.param(match[1], id=f"{page.name}:{line}"))
    return found


@pytest.mark.parametrize("text", programs())
def test_programs_on_pages_compile(text: str) -> None:
    """They have no mistakes; models whose sizes are known also become equations."""
    report = Report()
    checked = load_source(Source("page.nn", text), report)
    assert not report.errors, [d.message for d in report.errors]
    trained = {train.model.id for train in checked.trains}
    for model in (m.name for m in checked.models):
        project = project_of_text(text, model=model)
        if model in trained:
            setup = planned_setup(project, Search(None, ROOT, offline=True))
            verify(derive(training_step(setup)[0]), "training_step")
        else:
            verify(derive(model_system(project)), "forward")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_on_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [h.lower().replace(" ", "-") for h in headings], target


def test_the_library_page_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "tools" / "library_page.py", "--check"],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, f"{made.stderr}; run `python tools/library_page.py`"


def test_the_tables_of_the_parser_are_those_of_the_grammar(tmp_path: Path) -> None:
    if not PACKAGED.read_text("utf-8").startswith(f"{lark.__version__} "):
        pytest.skip("they were made by another version of Lark")
    own, postlexer = tmp_path / "tables", PostLexer()
    save_tables(own, build_parser(grammar(), postlexer), grammar(), postlexer)
    assert own.read_bytes() == PACKAGED.read_bytes(), "run `python tools/parser_tables.py`"
    assert load_tables(PACKAGED, grammar(), postlexer)


# --- packaging ------------------------------------------------------------------------------------


def test_every_folder_with_code_is_packaged() -> None:
    files = [p for room in ("dsl", "compiler", "runtime") for p in (ROOT / room).rglob("*.py")]
    folders = {".".join(["nnc", *p.parent.relative_to(ROOT).parts]) for p in files}
    examples = {"nnc.examples", "nnc.examples.papers"}
    assert folders | {"nnc", *examples} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_other_file_is_packaged() -> None:
    """What a room holds beside Python is named in `package-data`."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for room in ("dsl", "compiler", "runtime"):
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                package = ".".join(["nnc", *path.parent.relative_to(ROOT).parts])
                assert any(path.match(pattern) for pattern in patterns.get(package, [])), path


def test_examples_are_packaged() -> None:
    folder = Path(nnc.examples.__file__).parent
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["nnc.examples"]
    packaged = {path for pattern in patterns for path in folder.glob(pattern)}
    files = {p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert files - packaged == {
        *folder.glob("*.py"),
        *folder.glob("papers/*.py"),
    }  # modules are packaged by themselves


def test_versions_agree() -> None:
    assert PROJECT["project"]["version"] == nnc.__version__


def test_starting_imports_nothing_heavy() -> None:
    heavy = {"numpy", "llvmlite", "lark", "rich", "safetensors"}
    code = (
        "import sys; from nnc.runtime.cli import run; run(['--help']);"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert found.stdout.splitlines()[-1] == "[]", found.stderr


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sdist and the wheel that is built from it."""
    pytest.importorskip("build", reason="building needs `build` (pip install -e '.[dev]')")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_distributions_pass_twine(distributions: list[Path]) -> None:
    pytest.importorskip("twine", reason="the check needs twine (pip install -e '.[dev]')")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout


@pytest.mark.slow
def test_an_installed_wheel_trains_outside_the_tree(
    distributions: list[Path], tmp_path: Path
) -> None:
    """From the sdist: the wheel is built from it alone. Dependencies are those of this process."""
    wheel = next(p for p in distributions if p.suffix == ".whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(wheel)], check=True)
    installed = tmp_path / "site" / "nnc"
    assert (installed / "py.typed").is_file() and not (installed / "tests").exists()
    example = installed / "examples" / "xor.nn"
    start = "import sys, nnc; print(nnc.__file__); from nnc.runtime.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, "train", str(example), "--epochs", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed)) and "epoch" in done.stdout


# --- the compiler tour ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tour_shows_what_the_compiler_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from compiler_tour import PAGE, filled  # type: ignore[import-not-found]

    page = PAGE.read_text("utf-8")
    assert filled(page) == page, "python tools/compiler_tour.py"
