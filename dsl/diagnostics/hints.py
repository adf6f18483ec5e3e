"""Hints: the likely fix of a syntax error, guessed from the offending token and the text around it.

Most of these mistakes are correct in another language. Tests: tests/language/wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lark import Token

from ..syntax.ast import REDUCTIONS
from ..syntax.lexer_rules import DTYPES, KEYWORDS
from .character_hints import NEAR, UNKNOWN_SIZE, in_type
from .foreign_terms import foreign_terms

_REMAT = "equations whose results are recomputed stand in braces: `remat { h = f(x) }`"


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
    for rule in RULES:
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
    # `f(x) = 2*x`, `f = lambda x: x`
    function = re.match(r"(\w+)\s*\((\w+(?:\s*,\s*\w+)*)\)\s*=", at.rest)
    if _is_top_level(at) and function:
        return f"a function is declared with `fn`: `fn {function[1]}({function[2]}) = …`"
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
    return ""


def _is_top_level(at: ErrorContext) -> bool:
    """Between two definitions."""
    return {"LAYER", "MODEL"} <= at.expected


def _type(at: ErrorContext) -> str:
    """Types and shapes."""
    found, expected = at.found, at.expected
    # `(f32 x)`, as in C
    if found.type == "NAME" and at.word in DTYPES and "COLON" in expected:
        return f"the type follows the name: `{found}: {at.word}`"
    if found.value in ("(", "<") and at.word in DTYPES and "LSQB" in expected:
        return f"a shape is in brackets: `{at.word}[…]`"
    # `x: (B, 8)`
    if found.type == "LPAR" and at.before == "COLON" and "LSQB" in expected:
        return "a shape is in brackets: `[B, 8]`"
    if at.inside == "[" and in_type(at.line):
        # `f32[:, 8]`, `f32[*, 8]`
        if found.type in ("COLON", "TIMES") and at.before in ("LSQB", "COMMA"):
            return UNKNOWN_SIZE
        # `f32[B 8]`, `f32[B x 8]`
        if found.type in ("NUMBER", "NAME", "SEMICOLON"):
            return "sizes are separated by commas: `f32[B, 8]`"
    # `f32[B][8]`
    if found.type == "LSQB" and at.before == "RSQB" and re.search(r":\s*\w*\[[^][]*\]$", at.line):
        return "all sizes stand in one pair of brackets: `f32[B, 8]`"
    # `(f32[B, 8] x)`
    if found.type == "LSQB" and at.word in DTYPES:
        declared = re.match(r"\[[^][]*\]\s+([A-Za-z_]\w*)", at.rest)
        if declared:
            return f"the type follows the name: `{declared[1]}: {at.word}[…]`"
        # `-> f32[B, 3] {`
        return f"a result has a name: `-> y: {at.word}[…]`"
    return ""


def _head(at: ErrorContext) -> str:
    """Heads of definitions, and the entries of a train block that begin with a keyword."""
    found, expected = at.found, at.expected
    # `fn f(x) -> 2*x`, `fn f(x): return 2*x`
    if at.word == "->" or (found.type == "COLON" and "->" in expected and "EQUALS" in expected):
        return "the value of a `fn` follows `=`: `fn f(x) = 2*x`"
    if found.value == "{" and at.before == "NAME" and "LPAR" in expected and "->" not in expected:
        return "its inputs come first: `model Net(x: f32[B, 8]) -> y: f32[B, 10] { … }`"
    # `-> y: f32[B, 3] = x |> Dense(3)`
    if "{" in expected and re.search(r"->\s*\w+\s*:[^=]*=", at.line):
        return "a body is in braces: `-> y: f32[B, 3] { y = … }`"
    # `param w = 0`
    if found.type == "EQUALS" and "COLON" in expected and re.match(r"\s*param\b", at.line):
        return f"a parameter has a shape: `param {at.word}: [n, m] = 0`"
    # `x: [B, 3]: f32`
    if found.type == "COLON" and at.before == "RSQB" and at.inside == "(":
        return "the type stands before its shape: `f32[B, 3]`"
    # `repeat 3:`, as in Python
    if found.type == "COLON" and "LBRACE" in expected:
        return "a body is in braces: `{ … }`"
    # `Model Net(…)`
    if found.type == "NAME" and _is_top_level(at) and found.lower() in KEYWORDS:
        return f"did you mean `{found.lower()}`?"
    if re.match(r"\s*metric\s+\w+\s*$", at.line) and "EQUALS" in expected:
        return f"a metric is computed: `metric {at.word} = accuracy(logits, label)`"
    # `loss critic = …`
    if "FOR" in expected:
        return "a loss with a name says what it trains: `loss critic for critic.* = …`"
    if found.type == "EQUALS" and at.word == "metric":
        return "a metric has a name: `metric accuracy = …`"
    # `until = loss < 0.1`
    if found.type == "EQUALS" and at.word == "until":
        condition = re.match(r"=\s*([^#\n]*[^#\s])", at.rest)
        return f"the condition follows the word: `until {condition[1] if condition else '…'}`"
    if found.type == "NAME" and _is_top_level(at):
        return "equations stand in the body of a `fn`, a `layer` or a `model`"
    return ""


def _statement(at: ErrorContext) -> str:
    """The beginning of a statement."""
    found, expected = at.found, at.expected
    # only a name stands before the token on its line
    after_name = re.fullmatch(r"\s*\w+\s*", at.line) is not None
    if found.type == "COMPARE" and found.value == "==" and after_name:
        return f"an equation has one `=`: `{at.word} = …`"
    # `y <- x`, as in R
    if found.value == "<" and after_name and at.rest.startswith("<-"):
        return f"an equation has a `=`: `{at.word} = …`"
    # `y -= 1`, `y *= 2`
    changed = re.match(r"([-*/])=", at.rest) or re.match(r"(\*\*|//)=", at.rest)
    if changed and after_name and "EQUALS" in expected:
        return f"a new value has a name of its own: `{at.word}_2 = {at.word} {changed[1]} …`"
    # `y, (h, c) = …`
    if found.type == "LPAR" and at.before == "COMMA" and "EQUALS" not in expected:
        names = re.match(r"\s*\w+", at.line)
        if names and re.match(r"\([\w\s,]*\)\s*=", at.rest):
            return f"results are named without parentheses: `{names.group().strip()}, _ = …`"
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
    # `epochs(5)` in a train block
    number = re.match(r"\((\d[\w.]*)\)\s*$", at.rest.partition("\n")[0])
    if found.type == "LPAR" and number and after_name:
        return f"it is set with `=`: `{at.word} = {number[1]}`"
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


def _slices(at: ErrorContext) -> str:
    """`y = x[:, 0]` as an equation, `y[i] = x[i, 0]`; "" if there is more to it."""
    written = re.search(r"(?:(\w+)\s*=[^=]*)?\b([A-Za-z_]\w*)\[([^][]*)$", at.line)
    inside = re.match(r"([^][\n]*)\]", at.rest)
    if written is None or inside is None:
        return ""
    places = [place.strip() for place in (written[3] + inside[1]).split(",")]
    if not all(place == ":" or re.fullmatch(r"\d+|[A-Za-z_]\w*", place) for place in places):
        return ""
    free = [i for i in "ijklmn" if i not in places]
    left = free[: places.count(":")]
    names = iter(left)
    read = ", ".join(next(names) if place == ":" else place for place in places)
    if written[1] is None:  # `y[:, 0] = …`
        return f"there are no slices: indices stand on both sides, `{written[2]}[{read}] = …`"
    name = written[1] if re.fullmatch(r"\s*\w+\s*=\s*\w+\[[^][]*", at.line) else "part"
    return f"there are no slices: `{name}[{', '.join(left)}] = {written[2]}[{read}]`"


def _brackets(at: ErrorContext) -> str:
    """Within brackets, and around them."""
    found = at.found
    # The line ends in a read such as `h[t-1]`.
    read = re.search(r"\w+'*\[[^][]*\]\s*$", at.line[-NEAR:])
    if found.type == "ELSE" and read:
        return f"a read with a default is in parentheses: `({read.group().strip()} else 0)`"
    # `x[:, 0]` or `x[1:]`
    if found.type == "COLON" and at.inside == "[":
        return _slices(at) or (
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
    # `Dense[8](x)`
    if found.type == "LPAR" and (bracket := re.search(r"\b([A-Z]\w*)\[([^][]*)\]$", at.line)):
        return f"settings stand in parentheses: `{bracket[1]}({bracket[2]})`"
    # `sum[i] x[i]`, `sum{i} x[i]`, `sum x[i]`
    reduced = re.search(r"\b(" + "|".join(REDUCTIONS) + r")\s*$", at.line)
    if reduced and found.type in ("LSQB", "LBRACE", "NAME"):
        index = re.match(r"[\[{]\s*(\w+)", at.rest)
        written = f"{reduced[1]}({index[1] if index else 'i'}) …"
        return f"the indices of a reduction stand in parentheses: `{written}`"
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
    # `x ** 2` lexes as two `*`, or as `*` and a pattern of names.
    if before == "TIMES" and at.word == "*" and at.rest.startswith("*"):
        return "a power is written `x^2`"
    if found.type == "EQUALS" and after_operand and "COMPARE" in expected:
        # `if a = b`, or the two characters in the wrong order
        sign = {"=>": ">=", "=<": "<="}.get(at.rest[:2], "==")
        return f"a comparison is written `{sign}`"
    if found.type == "COMPARE" and after_operand:
        return "comparisons do not chain: write `a < b and b < c`"
    # `if c: x else: y`, `if (c) x else y`
    choice = re.search(r"=\s*if\b[^=]*$", at.line) and "THEN" in expected and after_operand
    if choice and (found.type == "COLON" or before == "RPAR"):
        return "a choice is written `if … then … else …`"
    # `x >> f`
    if found.value == ">" and before == "COMPARE" and at.word == ">":
        return "a value is passed on with `|>`"
    if at.word == "new":
        return f"a layer is applied by its name: `{found}(…)`"
    # `x mod 2`
    if found.value in ("mod", "rem") and after_operand:
        return "the remainder is `x % y`"
    # `x |> Dense 10`
    if found.type == "NUMBER" and before == "NAME" and ("|>" in at.line or at.word[:1].isupper()):
        return f"settings stand in parentheses: `{at.word}({found})`"
    # Only where no operator can stand: after a value the grammar accepts `+`.
    if found.type == "PLUS":
        return "a number needs no `+` before it"
    # A name here is more likely a second operand without an operator, which is below.
    if "ELSE" in expected and found.type != "NAME":
        return "every `if` has an `else`: `if … then … else 0`"
    if found.type == "_NEWLINE" and before in _OPERATORS:
        return "a continued line begins with the operator, or is in parentheses"
    # `checkpoint_every = 10 min`
    if before == "NUMBER" and at.line.strip().startswith("checkpoint_every"):
        return f'a time is a text: `"{at.word} {found.value}"`'
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


RULES = (_foreign, _comment, _declaration, _type, _head, _statement, _brackets, _expression)
