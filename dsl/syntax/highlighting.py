"""Highlighting: the language's tokens as regular expressions, for Pygments and for editors.

One table makes both, the lexer of `pygments_lexer.py` and the TextMate grammar that
`tools/textmate_grammar.py` writes. What a word is in its place (`input` is a keyword in a train
block and a name elsewhere) the parser knows and a table of expressions guesses: a word of
`IN_PLACE` is taken for a keyword where it begins a statement and another word follows.
Tests: tests/language/test_highlighting.py compares it with grammar.lark and with the parser.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import ast as s
from .lexer_rules import DECLARATIONS, DTYPES, EXPRESSIONS, STATEMENTS

IN_PLACE = ("language", "optimizer", "metric", "until", "input", "loss", "freeze", "for")
BOOLEANS = ("true", "false")

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_BEGINS = r"(?:(?<=[{;])|^)[ \t]*"  # of a statement
_PATTERN = r"(?=[ \t]+[A-Za-z0-9_*])"


@dataclass(frozen=True)
class Rule:
    """What a match, or each of its groups in order, is; an empty kind is plain text."""

    pattern: str
    kinds: tuple[str, ...]


def _words(words: tuple[str, ...]) -> str:
    # A prime or a dot makes another name of it: `let'` and `enc.use` are none of the words.
    return rf"(?<![\w.])(?:{'|'.join(words)})\b(?!'|\.\w)"


DOCSTRING = '"""'  # begins and ends what may be many lines
RULES = (
    Rule(r"#[^\n]*", ("comment",)),
    Rule(r'"(?:\\.|[^"\\\n])*"', ("string",)),
    Rule(r"[0-9]+(?:_[0-9]+)*(?:\.[0-9]+(?:_[0-9]+)*)?(?:[eE][+-]?[0-9]+)?", ("number",)),
    Rule(
        rf"({_BEGINS})(layer|model|optimizer|train)([ \t]+)({_NAME})(?=[ \t]*[({{\-])",
        ("", "keyword", "", "class"),
    ),
    Rule(rf"({_BEGINS})(fn)([ \t]+)({_NAME})", ("", "keyword", "", "function")),
    Rule(
        rf"({_BEGINS})(loss)([ \t]+)({_NAME})([ \t]+)(for){_PATTERN}",
        ("", "keyword", "", "name", "", "keyword"),
    ),
    Rule(
        rf"({_BEGINS})({'|'.join(w for w in IN_PLACE if w not in ('loss', 'for'))}){_PATTERN}",
        ("", "keyword"),
    ),
    Rule(r"(?:max|min|\+)=(?!=)", ("operator",)),
    Rule(_words((*DECLARATIONS, *STATEMENTS)), ("keyword",)),
    Rule(_words(tuple(w for w in EXPRESSIONS if w not in BOOLEANS)), ("keyword",)),
    Rule(_words(BOOLEANS), ("constant",)),
    Rule(_words(tuple(s.REDUCTIONS)), ("builtin",)),
    Rule(_words(DTYPES), ("type",)),
    Rule(r"[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9_]*\b(?!')", ("class",)),
    Rule(rf"{_NAME}(?=[ \t]*\()", ("function",)),
    Rule(rf"{_NAME}(?:\.{_NAME})*'?", ("name",)),
    Rule(r"\|>|->|==|!=|<=|>=|//|\.\.\.|[-+*/%@^<>=~]", ("operator",)),
    Rule(r"[()\[\]{},;:.]", ("punctuation",)),
)
