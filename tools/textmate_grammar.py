"""Write the TextMate grammar of the VS Code extension from the table of highlighting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnc.dsl.syntax.highlighting import DOCSTRING, RULES, Rule

GRAMMAR = Path(__file__).parent / "vscode" / "syntaxes" / "nn.tmLanguage.json"
SCOPES = {
    "comment": "comment.line.number-sign.nn",
    "string": "string.quoted.double.nn",
    "number": "constant.numeric.nn",
    "keyword": "keyword.control.nn",
    "constant": "constant.language.nn",
    "type": "storage.type.nn",
    "builtin": "support.function.nn",
    "class": "entity.name.type.nn",
    "function": "entity.name.function.nn",
    "name": "variable.other.nn",
    "operator": "keyword.operator.nn",
    "punctuation": "punctuation.nn",
}


def grammar() -> str:
    """The grammar as the text of its file."""
    docstring = {"name": "string.quoted.docstring.nn", "begin": DOCSTRING, "end": DOCSTRING}
    plain = {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "nnc",
        "scopeName": "source.nn",
        "fileTypes": ["nn"],
        "patterns": [docstring, *map(_pattern, RULES)],
    }
    return json.dumps(plain, indent=2) + "\n"


def _pattern(rule: Rule) -> dict[str, Any]:
    if len(rule.kinds) == 1:
        return {"name": SCOPES[rule.kinds[0]], "match": rule.pattern}
    captures = {str(n): {"name": SCOPES[kind]} for n, kind in enumerate(rule.kinds, 1) if kind}
    return {"match": rule.pattern, "captures": captures}


if __name__ == "__main__":
    GRAMMAR.write_text(grammar(), "utf-8")
