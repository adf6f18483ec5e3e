"""The words of the language, and the tokens between the lexer and the parser.

In: the lexer's tokens. Out: the tokens the grammar sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lark import Token

from . import ast as s

DTYPES = ("f32", "f64", "i32", "i64", "u8", "bool")

# Words that are never names, by the terminal of grammar.lark that they are. `optimizer`, `metric`,
# `until` and `input` are not here: they are words only where the grammar has them.
WORDS = {
    word: word.upper()
    for word in (
        "use",
        "layer",
        "fn",
        "model",
        "train",
        "let",
        "param",
        "state",
        "repeat",
        "remat",
        "if",
        "then",
        "else",
        "and",
        "or",
        "not",
        "true",
        "false",
    )
} | dict.fromkeys(s.REDUCTIONS, "REDUCE")

OPENING = {"(": ")", "[": "]", "{": "}"}


class Lines:
    """Drops line ends inside ( ) and [ ], and keeps words from being names.

    `open` holds the brackets that are open when the parser stops.
    """

    always_accept = ("_NEWLINE", "NAME", "PRIMED")

    def __init__(self) -> None:
        self.open: list[Token] = []
        self.previous: Token | None = None

    def process(self, stream: Iterable[Token]) -> Iterator[Token]:
        self.open, self.previous = [], None
        for token in stream:
            if token.type == "_NEWLINE" and self.open and self.open[-1].value != "{":
                continue
            if token.type == "NAME" and token.value in WORDS:
                token = Token.new_borrow_pos(WORDS[token.value], token.value, token)
            yield token
            # The parser asks for the next token only once it has accepted this one.
            if token.value in OPENING and token.type != "STRING":
                self.open.append(token)
            elif token.value in OPENING.values() and self.open:
                self.open.pop()
            self.previous = token
