"""The likely fix of a syntax error: what was meant by what was found where.

In: the token found, the one before it and the text around them. Out: a sentence, or nothing. Most
of these mistakes are right in another language.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from lark import Token

from ..syntax.lexer_rules import DTYPES, WORDS

# Words of other languages, and what is written here.
_FOREIGN = {
    "def": "a function is declared with `fn`, a layer with `layer`",
    "class": "a layer is declared with `layer`, a model with `model`",
    "import": "another file is brought in by `use \"file.nn\"`",
    "from": "another file is brought in by `use \"file.nn\"`",
    "return": "a result is assigned by its name: `y = …`",
    "for": "repeat a block with `repeat 4 { … }`, or write an equation over indices",
    "while": "a recurrence is an equation that reads its own earlier index: `h[t-1]`",
    "var": "a tensor is defined by its equation: `y = …`",
    "const": "a constant is a `let`",
    "lambda": "a function is declared with `fn`",
}  # fmt: skip

_REMAT = "equations whose results are computed again stand in braces: `remat { h = f(x) }`"

_CHARACTERS = {
    "&": "write `and`",
    "!": "write `not`, or `!=` to compare",
    "|": "write `or`, or `|>` to pass a value on",
    "$": "names are made of letters, digits and `_`",
    "?": "write `if … then … else …`",
    "'": "strings have double quotes; a prime follows its name directly",
    "`": "strings have double quotes",
    "\u00d7": "write `*`",  # multiplication sign
    "\u00b7": "write `*`",  # middle dot
    "\u2217": "write `*`",  # asterisk operator
    "\u2212": "write `-`",  # minus sign
    "\u2013": "write `-`",  # dash
    "\u2014": "write `-`",  # long dash
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "→": "write `->`",
    "…": "write three dots `...`",
    "∑": "write `sum(i)`",
    "∏": "write `prod(i)`",
    "∞": "write `inf`",
    "²": "write `^2`",
    "³": "write `^3`",
    "√": "write `sqrt(…)`",
    "\u201c": "strings have straight quotes",
    "\u201d": "strings have straight quotes",
    "\ufeff": "a byte order mark belongs at the start of a file: delete it",
}

# Letters of other alphabets that look like Latin ones.
_LOOK_ALIKE = dict(zip("аеорсухіјѕАВЕКМНОРСТУХοαρν", "aeopcyxijsABEKMHOPCTYXoapv", strict=True))

_MODULES = ("np", "numpy", "torch", "nn", "F", "tf", "keras", "K", "jax", "jnp", "math", "layers")


def about_character(text: str, place: int) -> str:
    """For a character that the language does not have, at a place of a text."""
    character = text[place]
    if character == ".":
        return _about_dot(text, place)
    if character == "\\":
        latex = re.match(r"\\[a-zA-Z]+", text[place:])
        return (
            "write `a / b`, `sum(i) …`, `sqrt(x)`: commands of LaTeX are not read"
            if latex
            else "a bracket that is open continues the line"
        )
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK"):
        return f"write it out: `{name.split()[-1].lower()}`"
    if character in _LOOK_ALIKE:
        return f"this is {name.lower()}, which looks like `{_LOOK_ALIKE[character]}`"
    if character.isalpha():
        return "names are made of the letters a-z and A-Z, digits and `_`"
    return ""


def _about_dot(text: str, place: int) -> str:
    before = re.search(r"([A-Za-z_]\w*)?\)?$", text[:place])
    owner = before.group(1) if before else None
    after = re.match(r"\.([A-Za-z_]\w*)(\()?", text[place:])
    if after is None:
        return "numbers begin with a digit: `0.5`; `...` is three dots"
    name, called = after.groups()
    value = owner or "x"
    if owner in _MODULES:
        return f"names have no prefix: `{name}`"
    if name in ("T", "transpose", "t", "mT"):
        return f"the transpose is `transpose({value})`"
    if name in ("shape", "size", "ndim"):
        return f"sizes have names where they are declared: `{value}: f32[B, n]`"
    if called:
        return (
            f"functions stand before the value or after a pipe: `{name}({value})`, "
            f"`{value} |> {name}`"
        )
    return "values have no parts: every tensor has a name of its own"


@dataclass(frozen=True)
class Place:
    """Where the parser stopped: at `found`, after `previous`, inside the bracket `inside`. `line`
    is the text of the line before `found`, `rest` that from it on; `expected` are terminals and
    their spellings."""

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

    @property
    def starts_statement(self) -> bool:
        """Whether all that stands before it on its line is a name."""
        return re.fullmatch(r"\s*\w+", self.line) is not None


def about_token(place: Place) -> str:
    """For a token that cannot stand where it was found."""
    for advise in (_foreign, _comment, _declared, _assigned, _bracketed, _written):
        text = advise(place)
        if text:
            return text
    return ""


def _foreign(at: Place) -> str:
    if at.word in _FOREIGN:
        return _FOREIGN[at.word]
    if at.found.value in _FOREIGN:
        return _FOREIGN[at.found.value]
    if at.found.value == ">" and at.word in ("-", "%", "=", "|", "~"):
        return "a value is passed on with `|>`"
    if at.found.type == "IF":
        return "put the condition first, in parentheses: `(if … then … else …)`"
    return ""


def _comment(at: Place) -> str:
    if "//" in at.line or at.rest.startswith(("/*", "//", "--", "% ")) or "/*" in at.line:
        return "a comment begins with `#`"
    return ""


def _declared(at: Place) -> str:
    """Declarations and what belongs to them."""
    found, expected = at.found, at.expected
    if at.word == "remat" or found.type == "REMAT":
        return _REMAT
    if found.type == "PRIMED" and "NAME" in expected:
        return f"without a prime: `{found} = …` is an equation for its next value"
    if at.word == "train" and found.value == "{":
        return "say which model is trained: `train Net { … }`"
    if at.word == "use" and found.type == "NAME":
        path = re.match(r"[\w./]+", at.rest)
        return f'the path stands in quotes: `use "{path.group() if path else found}"`'
    if at.word == "->" and found.type == "LSQB":
        return "a result has a name: `-> y: [n]`"
    if found.value == "{" and "->" in expected:
        return "say what it gives: `-> y: f32[B, 10]`"
    if "DRAWN" in expected and found.type in ("_NEWLINE", "SEMICOLON", "RBRACE"):
        return "a parameter has a first value: `~ glorot_uniform`, or `= 0`"
    if found.type == "DRAWN" and "COLON" in expected:
        return "a parameter has a shape: `param w: [n, m] ~ glorot_uniform`"
    if found.type == "NAME" and at.word in DTYPES and "COLON" in expected:
        return f"the type stands behind the name: `{found}: {at.word}`"
    if found.type == "LPAR" and at.word in DTYPES and "LSQB" in expected:
        return f"a shape is in brackets: `{at.word}[…]`"
    if found.type == "COLON" and at.before == "RSQB" and at.inside == "(":
        return "the type stands before its shape: `f32[B, 3]`"
    if found.type == "COLON" and "LBRACE" in expected:
        return "a body is in braces: `{ … }`"
    if found.type == "NAME" and {"LAYER", "MODEL"} <= expected and found.lower() in WORDS:
        return f"did you mean `{found.lower()}`?"
    if found.type == "EQUALS" and at.word == "metric":
        return "a metric has a name: `metric accuracy = …`"
    if found.type == "NAME" and {"LAYER", "MODEL"} <= expected:
        return "equations stand in the body of a `fn`, a `layer` or a `model`"
    return ""


def _assigned(at: Place) -> str:
    """The beginning of a statement."""
    found, expected = at.found, at.expected
    begins = "EQUALS" in expected and "RPAR" not in expected
    if found.type == "COMPARE" and found.value == "==" and at.starts_statement:
        return f"an equation has one `=`: `{at.word} = …`"
    if found.type == "COLON" and begins:
        if at.rest.startswith(":="):
            return f"an equation has `=` alone: `{at.word} = …`"
        if re.match(r":\s*(\[|f32|f64|i32|i64|u8|bool)", at.rest):
            return (
                "a parameter is declared `param w: [n] ~ glorot_uniform`, a state "
                "`state m: [n] = 0`"
            )
        return f"it is given with `=`: `{at.word} = …`"
    if found.type == "LPAR" and begins:
        return (
            "a statement assigns to a name, `y = f(x)`; indices stand in brackets: "
            f"`{at.word}[i] = …`"
        )
    if found.value == "{" and begins and at.word.endswith("_"):
        return f"indices stand in brackets: `{at.word.rstrip('_')}[i, j]`"
    if found.value == "|>" and begins:
        return f"an equation has a name on its left: `y = {at.word} |> …`"
    if found.type == "COMMA" and at.before == "RSQB" and "EQUALS" in expected:
        return "write one equation for each indexed result"
    return ""


def _bracketed(at: Place) -> str:
    """Between brackets, and around them."""
    found = at.found
    read = re.search(r"\w+'*\[[^][]*\]\s*$", at.line)
    if found.type == "ELSE" and read:
        return f"what is read outside stands in its parentheses: `({read.group().strip()} else 0)`"
    if found.type == "COLON" and at.inside == "[":
        return (
            "there are no slices: an equation over indices says what is read, such as "
            "`y[i < 2] = x[i + 1]`"
        )
    if found.type == "COLON" and at.inside == "(" and at.before == "NAME":
        return f"it is given with `=`: `{at.word} = …`"
    if (
        found.type == "COMMA"
        and at.before == "NUMBER"
        and re.match(r",\d", at.rest)
        and at.inside != "("
    ):
        return f"a decimal point is a dot: `{at.word}.{at.rest[1:2]}`"
    if found.type == "COMMA" and at.inside == "(":
        return "there are no tuples: give each value by itself"
    if found.type == "COMMA" and "_NEWLINE" in at.expected:
        return "a line ends without a comma"
    if found.type == "LSQB" and at.before == "RSQB":
        return "all indices stand in one pair of brackets: `x[b, i]`"
    if found.type == "LSQB" and at.before == "RPAR":
        return "only a name can be indexed: give the value a name in an equation of its own"
    return ""


def _written(at: Place) -> str:
    """Operators and values."""
    found, before, expected = at.found, at.before, at.expected
    ended = before in ("NAME", "PRIMED", "NUMBER", "RPAR", "RSQB", "TRUE", "FALSE", "STRING")
    if found.type == "TIMES" and before == "TIMES":
        return "a power is written `x^2`"
    if found.type == "EQUALS" and ended and "COMPARE" in expected:
        sign = {"=>": ">=", "=<": "<="}.get(at.rest[:2], "==")
        return f"a comparison is written `{sign}`"
    if found.type == "COMPARE" and ended:
        return "comparisons do not chain: write `a < b and b < c`"
    if found.type == "NUMBER" and before == "NAME" and "|>" in at.line:
        return f"settings stand in parentheses: `{at.word}({found})`"
    if found.type == "PLUS":
        return "a number needs no `+` before it"
    if "ELSE" in expected and found.type != "NAME":
        return "every `if` has an `else`: `if … then … else 0`"
    if found.type == "_NEWLINE" and before in (
        "PLUS",
        "MINUS",
        "TIMES",
        "COMPARE",
        "AND",
        "OR",
        "CIRCUMFLEX",
        "EQUALS",
    ):
        return "a line that goes on begins its next line with the operator, or is in parentheses"
    if before == "NUMBER" and found.value in ("e", "E"):
        return f"an exponent has digits: `{at.word}e3`"
    if before == "NUMBER" and re.fullmatch(r"[xb][0-9a-fA-F]+", found.value) and at.word == "0":
        return "numbers are decimal"
    if found.type in ("NAME", "PRIMED", "NUMBER", "LPAR") and ended and "TIMES" in expected:
        if before == "NAME" and found.type == "NAME":
            return f"apply with `{at.word}({found})`, multiply with `{at.word}*{found}`"
        if before in ("NAME", "NUMBER"):
            return f"a product is written with `*`: `{at.word}*{found}`"
        return "is an operator missing before it?"
    if found.type == "STRING" and "NAME" in expected:
        return "names have no quotes"
    return ""


def about_word(word: str) -> str:
    """For a word of the language where a name is needed."""
    if word == "if":
        return "`if` chooses between two values: `y = if … then … else …`"
    if word in ("param", "state", "let"):
        return f"a `{word}` stands at the start of a statement in a body"
    if word == "remat":
        return _REMAT
    return f"choose another name, such as `{word}_1`"
