"""Keywords, element types, and the filter between the lexer and the parser."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from . import ast as s

# Imported where something is parsed: the keywords are needed without a parser, too.
if TYPE_CHECKING:
    from lark import Token

DTYPES = ("f32", "f64", "f16", "bf16", "i8", "i32", "i64", "u8", "bool")

STATEMENTS = ("let", "param", "state", "repeat", "remat")
DECLARATIONS = ("use", "layer", "fn", "model", "train")
EXPRESSIONS = ("if", "then", "else", "and", "or", "not", "true", "false")

# Reserved words and their terminals in grammar.lark. `optimizer`, `metric`, `until` and `input`
# are not among them: they are keywords only where the grammar expects them.
KEYWORDS = {word: word.upper() for word in (*DECLARATIONS, *STATEMENTS, *EXPRESSIONS)}
KEYWORDS |= dict.fromkeys(s.REDUCTIONS, "REDUCE")

CLOSING = {"(": ")", "[": "]", "{": "}"}


class PostLexer(threading.local):
    """Drops line ends inside ( ) and [ ] and turns names that are reserved into keywords.

    When parsing fails, `open` holds the brackets that are still open and `previous` the last
    token that the parser accepted.
    """

    # Lark's contextual lexer matches only what the parser's state expects. These must come through
    # all the same: line ends that are dropped here, names that become keywords here.
    always_accept = ("_NEWLINE", "NAME", "PRIMED")

    def __init__(self) -> None:
        self.open: list[Token] = []
        self.previous: Token | None = None

    def process(self, stream: Iterable[Token]) -> Iterator[Token]:
        # One object serves every parse, and each thread has its own of these two.
        self.open, self.previous = [], None
        for token in stream:
            # Inside `{ }` within parentheses line ends would count again: only the innermost
            # bracket matters.
            if token.type == "_NEWLINE" and self.open and self.open[-1].value != "{":
                continue
            if token.type == "NAME" and token.value in KEYWORDS:
                token = token.new_borrow_pos(KEYWORDS[token.value], token.value, token)
            # After `max(i)` both a body and, with `max(x)` whole, a declaration could follow: it is
            # a body, `max(i) optimizer[i]`, as declarations begin lines.
            if token.type == "OPTIMIZER" and self.previous and self.previous.value == ")":
                token = token.new_borrow_pos("NAME", token.value, token)
            yield token
            # The parser asks for the next token only once it has accepted this one. A string's text
            # may look like a bracket.
            if token.type != "STRING" and token.value in CLOSING:
                self.open.append(token)
            elif token.value in CLOSING.values() and self.open:
                self.open.pop()
            self.previous = token
