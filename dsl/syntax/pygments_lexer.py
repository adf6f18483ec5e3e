"""A lexer for Pygments, by which Sphinx, MkDocs, Jupyter, rich and `pygmentize` colour programs.

Pygments finds it by the entry point in pyproject.toml. It is no extra: rich, which nnc needs,
brings Pygments.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pygments.lexer import RegexLexer, bygroups
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Text,
    Whitespace,
)

from .highlighting import RULES, Rule

_TOKENS: dict[str, Any] = {
    "": Text, "comment": Comment.Single, "string": String, "number": Number, "keyword": Keyword,
    "constant": Keyword.Constant, "type": Keyword.Type, "builtin": Name.Builtin,
    "class": Name.Class, "function": Name.Function, "name": Name, "operator": Operator,
    "punctuation": Punctuation,
}  # fmt: skip


def _rule(rule: Rule) -> tuple[str, Any]:
    tokens = [_TOKENS[kind] for kind in rule.kinds]
    return rule.pattern, tokens[0] if len(tokens) == 1 else bygroups(*tokens)


class NnLexer(RegexLexer):
    """Programs of nnc."""

    name = "nnc"
    aliases: ClassVar = ["nn", "nnc"]
    filenames: ClassVar = ["*.nn"]
    url = "https://pypi.org/project/nnc-lang/"
    tokens: ClassVar = {
        "root": [
            (r'"""(?:(?!""")[\s\S])*"""', String.Doc),
            *map(_rule, RULES),
            # A line end alone: rules for what begins a statement match from the line's beginning.
            (r"\n", Whitespace),
            (r"[^\S\n]+", Whitespace),
        ]
    }
