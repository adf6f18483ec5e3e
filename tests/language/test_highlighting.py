"""Highlighting agrees with the parser: the lexer for Pygments, the VS Code extension's files."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
from pygments.token import Comment, Error, Keyword, Name, Number, String

from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax import ast as s
from nnc.dsl.syntax.highlighting import BOOLEANS, IN_PLACE, RULES
from nnc.dsl.syntax.lexer_rules import KEYWORDS, PostLexer
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.pygments_lexer import NnLexer
from nnc.dsl.syntax.source import Source

ROOT = Path(__file__).parents[2]
EXTENSION = ROOT / "tools" / "vscode"
PROGRAMS = [*ROOT.glob("examples/**/*.nn"), *ROOT.glob("dsl/stdlib/*.nn")]
WORDS = {w for w in (*KEYWORDS, *IN_PLACE) if w not in (*s.REDUCTIONS, *BOOLEANS)}
TRICKY = '''language 1

"""of `let` and "strings" # no comment"""
layer L(n, input = 2)(x: [..., m]) -> y: [..., n] { param w: [m, n] = 0; y[o] = sum(i) x[i] }
fn f(x) = if x > 1e-3 and not true then x' + 1_000.5 else max(x, "a\\"b")
model M(metric: f32[B, 3]) -> optimizer {
    let until = 3   # let it be
    h max= metric[b, i] ; z += let_ * enc.let
    optimizer = h |> L(2, input = until)
    repeat 2 { h = h |> Dense(1) }
}
optimizer mine(lr) { p' = p - lr * g }
train M {
    data = digits(); metric loss2 = mean(h); until loss < 0.1 or epoch > 3
    loss critic for enc.*, *.b = mean(h)
    optimizer enc.* = sgd(lr = 1)
    optimizer = adam(lr = 1)
    input label: i32[B]; freeze dec.*
    T <= 512
}
'''


def spans(text: str) -> list[tuple[object, int, int]]:
    """The tokens of the lexer for Pygments: kind, begin, end."""
    found, at = [], 0
    for kind, value in NnLexer(stripnl=False, ensurenl=False).get_tokens(text):
        found.append((kind, at, at + len(value)))
        at += len(value)
    assert at == len(text)
    return found


def of(found, kind) -> set[tuple[int, int]]:
    return {(begin, end) for token, begin, end in found if token in kind}


@pytest.fixture
def parsed(monkeypatch):
    """The tokens that the parser sees of a text."""
    seen: list = []
    process = PostLexer.process

    def recording(self, stream):
        for token in process(self, stream):
            seen.append(token)
            yield token

    monkeypatch.setattr(PostLexer, "process", recording)

    def tokens(text: str) -> list:
        seen.clear()
        parse(Source("m", text), Report())
        return list(seen)

    return tokens


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_the_lexer_agrees_with_the_parser(path, parsed):
    text = path.read_text()
    found, tokens = spans(text), parsed(text)
    assert not of(found, Error)
    following = [*tokens[1:], None]
    # `loss = …` and `optimizer = …` are fields, whatever the terminal is called.
    keywords = {
        (t.start_pos, t.end_pos)
        for t, then in zip(tokens, following, strict=True)
        if t.value in WORDS
        and t.type == t.value.upper()
        and not (t.type in ("LOSS", "OPTIMIZER") and then is not None and then.type == "EQUALS")
    }
    constants = of(found, Keyword.Constant) | of(found, Keyword.Type)
    assert of(found, Keyword) - constants == keywords
    # The parser passes numbers of names like `block.0` as one token, and no program has them here.
    numbers = {(t.start_pos, t.end_pos) for t in tokens if t.type == "NUMBER"}
    assert of(found, Number) == numbers
    strings = {(t.start_pos, t.end_pos) for t in tokens if t.type in ("STRING", "DOCSTRING")}
    assert of(found, String) == strings


def test_words_are_keywords_in_their_places_alone():
    found = spans(TRICKY)
    said = [(kind, TRICKY[begin:end]) for kind, begin, end in found]
    keywords = [word for kind, word in said if kind in Keyword and kind is not Keyword.Type]
    assert keywords == [
        "language", "layer", "param", "fn", "if", "and", "not", "true", "then", "else", "model",
        "let", "repeat", "optimizer", "train", "metric", "until", "or", "loss", "for", "optimizer",
        "input", "freeze",
    ]  # fmt: skip
    assert (Name.Class, "M") in said and (Name.Class, "Dense") in said
    assert (Name.Function, "f") in said and (Name.Builtin, "sum") in said
    assert [word for kind, word in said if kind in Comment] == ["# let it be"]
    assert (Keyword.Type, "i32") in said and (Number, "1_000.5") in said
    assert not of(found, Error)


def test_every_word_of_the_grammar_is_known():
    """A keyword that is added to grammar.lark has to be added here, too."""
    grammar = files("nnc").joinpath("grammar.lark").read_text()
    literals = set(re.findall(r'"([a-z]+)"', re.sub(r"//.*", "", grammar)))
    assert literals == {*KEYWORDS, *IN_PLACE}


def test_pygments_finds_the_lexer():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["pygments.lexers"]["nn"].partition(":")
    lexer = getattr(import_module(module), name)
    assert lexer is NnLexer and lexer.aliases[0] == "nn" and "*.nn" in lexer.filenames


# --- the VS Code extension ------------------------------------------------------------------------


def test_the_textmate_grammar_is_that_of_the_table():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("textmate", ROOT / "tools" / "textmate_grammar.py")
    assert spec and spec.loader
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.GRAMMAR.read_text() == tool.grammar(), "run `python tools/textmate_grammar.py`"
    plain = json.loads(tool.grammar())
    assert len(plain["patterns"]) == len(RULES) + 1 and plain["scopeName"] == "source.nn"
    for pattern in plain["patterns"]:
        expression = re.compile(pattern.get("match", '"""'))
        assert all(int(n) <= expression.groups for n in pattern.get("captures", {}))


@pytest.mark.parametrize("path", sorted(EXTENSION.rglob("*.json")), ids=lambda p: p.name)
def test_files_of_the_extension_are_json(path):
    assert json.loads(path.read_text())


def test_the_extension_names_its_files():
    package = json.loads((EXTENSION / "package.json").read_text())
    gives = package["contributes"]
    named = [package["main"], gives["languages"][0]["configuration"]]
    named += [one["path"] for one in (*gives["grammars"], *gives["snippets"])]
    assert all((EXTENSION / name).is_file() for name in named)
    assert gives["languages"][0]["extensions"] == [".nn"]


@pytest.mark.parametrize("name", ["model", "train", "layer", "repeat", "fn"])
def test_snippets_are_programs(name):
    """With what they offer, and within a model where they are statements."""
    snippet = json.loads((EXTENSION / "snippets" / "nn.json").read_text())[name]
    text = re.sub(r"\$\{\d+:([^}]*)\}", r"\1", "\n".join(snippet["body"])) + "\n"
    if name == "repeat":
        text = f"model M(h: f32[B, 64]) -> h2 {{\n{text}h2 = h\n}}\n"
    report = Report()
    parse(Source("m", text), report)
    assert not report.errors
