"""Hints: the likely fix of a syntax error, guessed from the offending token and the text around it.

Most of these mistakes are correct in another language. Tests: tests/language/wrong.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from lark import Token

from ..syntax.lexer_rules import DTYPES, KEYWORDS
from .foreign_terms import foreign_terms

_REMAT = "equations whose results are recomputed stand in braces: `remat { h = f(x) }`"

_MODULES = ("np", "numpy", "torch", "nn", "F", "tf", "keras", "K", "jax", "jnp", "math", "layers")

# Characters before a mistake that a search which may begin at each of them looks at.
NEAR = 200


def hint_for_character(text: str, offset: int) -> str:
    """For a character that the language does not have."""
    character = text[offset]
    if character == ".":
        return _hint_for_dot(text, offset)
    if character == "\\":
        if re.match(r"[a-zA-Z]", text[offset + 1 :]):
            return "write `a / b`, `sum(i) …`, `sqrt(x)`: LaTeX commands are not understood"
        return "a line continues while a bracket is open"
    terms = foreign_terms()
    if character in terms["characters"]:
        return terms["characters"][character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK"):
        return f"write it out: `{name.split()[-1].lower()}`"
    if character in terms["look_alikes"]:
        return f"this is {name.lower()}, which looks like `{terms['look_alikes'][character]}`"
    if character.isalpha():
        return "names are made of the letters a-z and A-Z, digits and `_`"
    return ""


def _hint_for_dot(text: str, offset: int) -> str:
    # `x.T` → x; `f(x).T` → x as well, the nearest name there is
    before = re.search(r"([A-Za-z_]\w*)?\)?$", text[max(0, offset - NEAR) : offset])
    owner = before.group(1) if before else None
    after = re.match(r"\.([A-Za-z_]\w*)(\()?", text[offset:])
    # `.5` or `..`
    if after is None:
        return "numbers begin with a digit: `0.5`; `...` is three dots"
    name, called = after.groups()
    value = owner or "x"
    if owner in _MODULES:
        return f"names have no prefix: `{name}`"
    if name in ("T", "transpose", "t", "mT"):
        return f"the transpose is `transpose({value})`"
    if name in ("shape", "size", "ndim"):
        return f"sizes get names in a declaration: `{value}: f32[B, n]`"
    if called:
        return (
            f"functions stand before the value or after a pipe: `{name}({value})`, "
            f"`{value} |> {name}`"
        )
    return "values have no attributes: every tensor has its own name"


@dataclass(frozen=True)
class ErrorContext:
    """Where the parser stopped: at the token `found`, after `previous`, within the bracket
    `inside`. `line` is the text of the line before `found`, `rest` the text from there on;
    `expected` are the acceptable terminals, by name and by spelling."""

    found: Token
    previous: Token | None
    expected: frozenset[str]
    inside: str
    line: str
    rest: str

    @property
    def before(self) -> str:
        return self.previous.type if self.previous is not None else ""

    @property
    def word(self) -> str:
        return str(self.previous) if self.previous is not None else ""


def hint_for_token(at: ErrorContext) -> str:
    """For a token that cannot stand where it was found."""
    # The first rule with an answer wins: words of other languages before guesses by position.
    for rule in (_foreign, _comment, _declaration, _statement, _brackets, _expression):
        if hint := rule(at):
            return hint
    return ""


def _foreign(at: ErrorContext) -> str:
    keywords = foreign_terms()["keywords"]
    # `def f`, `return y`, `for i in`: the word itself may have been read as a name, so that the
    # error is at the token after it.
    for word in (at.word, at.found.value):
        if word in keywords:
            return keywords[word]
    # `%>%`, `=>`, `~>` and the like: the pipes of other languages
    if at.found.value == ">" and at.word in ("-", "%", "=", "|", "~"):
        return "a value is passed on with `|>`"
    # `y = 2 * if …`, or `a if c else b`
    if at.found.type == "IF":
        return "put the condition first, in parentheses: `(if … then … else …)`"
    return ""


def _comment(at: ErrorContext) -> str:
    if "//" in at.line or at.rest.startswith(("/*", "//", "--", "% ")) or "/*" in at.line:
        return "a comment begins with `#`"
    return ""


def _declaration(at: ErrorContext) -> str:
    """Declarations, and the declarations of parameters and metrics in a body."""
    found, expected = at.found, at.expected
    # between declarations
    top_level = {"LAYER", "MODEL"} <= expected
    if at.word == "remat" or found.type == "REMAT":
        return _REMAT
    # `state m' = 0`
    if found.type == "PRIMED" and "NAME" in expected:
        return f"without a prime: `{found} = …` is an equation for its next value"
    if at.word == "train" and found.value == "{":
        return "name the model to train: `train Net { … }`"
    if at.word == "use" and found.type == "NAME":
        path = re.match(r"[\w./]+", at.rest)
        return f'the path stands in quotes: `use "{path.group() if path else found}"`'
    if at.word == "->" and found.type == "LSQB":
        return "a result has a name: `-> y: [n]`"
    # `layer Block(x: [n]) {`
    if found.value == "{" and "->" in expected:
        return "declare the result: `-> y: f32[B, 10]`"
    # `param w: [n, m]`
    if "DRAWN" in expected and found.type in ("_NEWLINE", "SEMICOLON", "RBRACE"):
        return "a parameter has an initial value: `~ glorot_uniform`, or `= 0`"
    # `param w ~ normal`
    if found.type == "DRAWN" and "COLON" in expected:
        return "a parameter has a shape: `param w: [n, m] ~ glorot_uniform`"
    # `(f32 x)`, as in C
    if found.type == "NAME" and at.word in DTYPES and "COLON" in expected:
        return f"the type follows the name: `{found}: {at.word}`"
    if found.type == "LPAR" and at.word in DTYPES and "LSQB" in expected:
        return f"a shape is in brackets: `{at.word}[…]`"
    # `x: [B, 3]: f32`
    if found.type == "COLON" and at.before == "RSQB" and at.inside == "(":
        return "the type stands before its shape: `f32[B, 3]`"
    # `repeat 3:`, as in Python
    if found.type == "COLON" and "LBRACE" in expected:
        return "a body is in braces: `{ … }`"
    # `Model Net(…)`
    if found.type == "NAME" and top_level and found.lower() in KEYWORDS:
        return f"did you mean `{found.lower()}`?"
    if found.type == "EQUALS" and at.word == "metric":
        return "a metric has a name: `metric accuracy = …`"
    if found.type == "NAME" and top_level:
        return "equations stand in the body of a `fn`, a `layer` or a `model`"
    return ""


def _statement(at: ErrorContext) -> str:
    """The beginning of a statement."""
    found, expected = at.found, at.expected
    # only a name stands before the token on its line
    after_name = re.fullmatch(r"\s*\w+", at.line) is not None
    if found.type == "COMPARE" and found.value == "==" and after_name:
        return f"an equation has one `=`: `{at.word} = …`"
    # `h[t], c[t] = …`
    if found.type == "COMMA" and at.before == "RSQB" and "EQUALS" in expected:
        return "write one equation for each indexed result"
    # From here on: a name begins a statement, and what follows it is not `=`. Inside parentheses a
    # name may be followed by `=` as well, for an argument.
    if "EQUALS" not in expected or "RPAR" in expected:
        return ""
    if found.type == "COLON":
        if at.rest.startswith(":="):
            return f"an equation has only `=`: `{at.word} = …`"
        # `w: [n]` or `w: f32[n]`: a declaration without its keyword
        if re.match(rf":\s*(\[|{'|'.join(DTYPES)})", at.rest):
            return (
                "a parameter is declared `param w: [n] ~ glorot_uniform`, a state "
                "`state m: [n] = 0`"
            )
        return f"it is set with `=`: `{at.word} = …`"
    if found.type == "LPAR":
        return (
            "a statement assigns to a name, `y = f(x)`; indices stand in brackets: "
            f"`{at.word}[i] = …`"
        )
    # `y_{i,j} = …`, as in LaTeX
    if found.value == "{" and at.word.endswith("_"):
        return f"indices stand in brackets: `{at.word.rstrip('_')}[i, j]`"
    if found.value == "|>":
        return f"an equation has a name on its left: `y = {at.word} |> …`"
    return ""


def _brackets(at: ErrorContext) -> str:
    """Within brackets, and around them."""
    found = at.found
    # The line ends in a read such as `h[t-1]`.
    read = re.search(r"\w+'*\[[^][]*\]\s*$", at.line[-NEAR:])
    if found.type == "ELSE" and read:
        return f"a read with a default is in parentheses: `({read.group().strip()} else 0)`"
    # `x[:, 0]` or `x[1:]`
    if found.type == "COLON" and at.inside == "[":
        return (
            "there are no slices: an equation over indices reads a part, such as "
            "`y[i < 2] = x[i + 1]`"
        )
    # `Dense(units: 10)`
    if found.type == "COLON" and at.inside == "(" and at.before == "NAME":
        return f"it is set with `=`: `{at.word} = …`"
    if found.type == "COMMA":
        # `lr = 0,1`; in a call `f(0,1)` has two arguments
        if at.before == "NUMBER" and at.inside != "(" and re.match(r",\d", at.rest):
            return f"a decimal point is a dot: `{at.word}.{at.rest[1:2]}`"
        if at.inside == "(":
            return "there are no tuples: pass each value by itself"
        # `batch = 32,`
        if "_NEWLINE" in at.expected:
            return "a line ends without a comma"
    # `x[b][i]`
    if found.type == "LSQB" and at.before == "RSQB":
        return "all indices stand in one pair of brackets: `x[b, i]`"
    # `f(x)[i]`
    if found.type == "LSQB" and at.before == "RPAR":
        return "only a name can be indexed: assign the value to a name first"
    return ""


# Tokens that can end a value; after one of them an operator must come.
_OPERAND_ENDS = ("NAME", "PRIMED", "NUMBER", "RPAR", "RSQB", "TRUE", "FALSE", "STRING")
_OPERATORS = ("PLUS", "MINUS", "TIMES", "COMPARE", "AND", "OR", "CIRCUMFLEX", "EQUALS")


def _expression(at: ErrorContext) -> str:
    """Operators and values."""
    found, before, expected = at.found, at.before, at.expected
    after_operand = before in _OPERAND_ENDS
    # `x ** 2` lexes as two `*`.
    if found.type == "TIMES" and before == "TIMES":
        return "a power is written `x^2`"
    if found.type == "EQUALS" and after_operand and "COMPARE" in expected:
        # `if a = b`, or the two characters in the wrong order
        sign = {"=>": ">=", "=<": "<="}.get(at.rest[:2], "==")
        return f"a comparison is written `{sign}`"
    if found.type == "COMPARE" and after_operand:
        return "comparisons do not chain: write `a < b and b < c`"
    # `x |> Dense 10`
    if found.type == "NUMBER" and before == "NAME" and "|>" in at.line:
        return f"settings stand in parentheses: `{at.word}({found})`"
    # Only where no operator can stand: after a value the grammar accepts `+`.
    if found.type == "PLUS":
        return "a number needs no `+` before it"
    # A name here is more likely a second operand without an operator, which is below.
    if "ELSE" in expected and found.type != "NAME":
        return "every `if` has an `else`: `if … then … else 0`"
    if found.type == "_NEWLINE" and before in _OPERATORS:
        return "a continued line begins with the operator, or is in parentheses"
    # The lexer takes `1e` for the number 1 and a name, and `0x1F` for 0 and a name.
    if before == "NUMBER" and found.value in ("e", "E"):
        return f"an exponent has digits: `{at.word}e3`"
    if before == "NUMBER" and re.fullmatch(r"[xb][0-9a-fA-F]+", found.value) and at.word == "0":
        return "numbers are decimal"
    # Two values side by side: `2 x`, `f x`, `(a) b`.
    begins_operand = found.type in ("NAME", "PRIMED", "NUMBER", "LPAR")
    if begins_operand and after_operand and "TIMES" in expected:
        if before == "NAME" and found.type == "NAME":
            return f"apply with `{at.word}({found})`, multiply with `{at.word}*{found}`"
        if before in ("NAME", "NUMBER"):
            return f"a product is written with `*`: `{at.word}*{found}`"
        return "is an operator missing before it?"
    if found.type == "STRING" and "NAME" in expected:
        return "names have no quotes"
    return ""


def hint_for_keyword(word: str) -> str:
    """For a keyword where a name is needed."""
    if word == "if":
        return "`if` chooses between two values: `y = if … then … else …`"
    if word in ("param", "state", "let"):
        return f"a `{word}` stands at the start of a statement in a body"
    if word == "remat":
        return _REMAT
    return f"choose another name, such as `{word}_1`"
