"""Syntax errors in the words of the language.

In: where the parser stopped and what it could have taken. Out: a `Diagnostic` that says what was
expected and, where it can be guessed, the fix. No name of a terminal ever reaches the user.
"""

from __future__ import annotations

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr
from lark.parsers.lalr_interactive_parser import InteractiveParser

from ..syntax.lexer_rules import OPENING, WORDS, Lines
from ..syntax.source import Source, Span
from .diagnostic import Diagnostic, Note
from .hints import Place, about_character, about_token, about_word

# Terminals that read better by a description than by their spelling.
_CALLED = {
    "NAME": "a name", "PRIMED": "a name", "NUMBER": "a number", "STRING": "a string in quotes",
    "DOCSTRING": "a docstring", "_NEWLINE": "the end of the line", "REDUCE": "a reduction",
    "COMPARE": "a comparison", "TIMES": "`*`", "PLUS": "`+`", "MINUS": "`-`", "EQUALS": "`=`",
    "PLUS_EQUALS": "`+=`", "DRAWN": "`~`", "TRUE": "`true`", "FALSE": "`false`",
}  # fmt: skip

# Groups of expected terminals that are named as one: any group whose first members are expected.
_GROUPS: tuple[tuple[set[str], set[str], str], ...] = (
    (
        {"LAYER", "MODEL", "TRAIN"},
        {"USE", "FN", "OPTIMIZER", "DOCSTRING"},
        "a declaration (`layer`, `fn`, `model`, `optimizer`, `train` or `use`)",
    ),
    ({"LET", "PARAM", "STATE"}, {"REPEAT", "REMAT", "NAME", "PRIMED", "DOCSTRING"}, "a statement"),
    ({"METRIC", "UNTIL"}, {"LET", "INPUT", "NAME", "PRIMED", "DOCSTRING"}, "a setting"),
    (
        {"NUMBER", "NAME"},
        {"PRIMED", "STRING", "TRUE", "FALSE", "LPAR", "LSQB", "REDUCE", "MINUS", "NOT", "IF"},
        "a value",
    ),
    ({"PLUS", "MINUS"}, {"TIMES", "COMPARE", "AND", "OR", "|>", "CIRCUMFLEX"}, "an operator"),
    ({"TIMES", "AND"}, {"COMPARE", "OR", "|>", "CIRCUMFLEX", "PLUS", "MINUS"}, "an operator"),
    ({"NAME", "PRIMED"}, {"REDUCE"}, "a name"),
    ({"TRUE", "FALSE"}, set(), "`true` or `false`"),
    ({"EQUALS", "PLUS_EQUALS"}, {"COMMA"}, "`=`"),
)


def explain(
    error: UnexpectedInput, source: Source, text: str, offset: int, lines: Lines, machine: Lark
) -> Diagnostic:
    """The diagnostic for the place where the parser could not go on."""
    if isinstance(error, UnexpectedCharacters):
        return _explain_character(source, text, error.pos_in_stream or 0, offset)
    assert isinstance(error, UnexpectedToken)
    found = error.token
    if text.startswith('"""', found.start_pos or 0) and found.type == "STRING":
        return _explain_character(source, text, found.start_pos or 0, offset)
    at_end = found.type == "$END"
    start = len(text.rstrip()) if at_end else found.start_pos or 0
    end = start + 1 if found.type in ("_NEWLINE", "$END") else found.end_pos or start + 1
    if found.type == "_NEWLINE":
        start += len(found.value) - len(found.value.lstrip(" \t\r\f"))
        start = len(text[:start].rstrip(" \t"))
        end = start + 1
    place = Span(source, offset + start, offset + end)
    unclosed = _unclosed(found, lines, source, offset, place)
    if unclosed is not None:
        return unclosed
    expected = _expected(error, machine)
    if found.value in WORDS and {"a name", "a statement", "a setting"} & set(expected):
        return Diagnostic(
            "E0105",
            f"`{found}` is a word of the language and cannot be a name",
            place,
            label="expected a name",
            help=about_word(str(found)),
        )
    message = f"expected {_listed(expected)}, found {_found(found, source, offset + len(text))}"
    return Diagnostic(
        "E0101",
        message,
        place,
        label=_label(expected),
        help=about_token(
            Place(
                found,
                lines.previous,
                frozenset({*(a := _accepted(error, machine)), *(_spelling(machine, t) for t in a)}),
                lines.open[-1].value if lines.open else "",
                text[text.rfind("\n", 0, start) + 1 : start],
                text[start : start + 80],
            )
        ),
    )


def _explain_character(source: Source, text: str, position: int, offset: int) -> Diagnostic:
    place = Span(source, offset + position, offset + position + 1)
    character = text[position]
    line_end = text.find("\n", position)
    rest = text[position : line_end if line_end >= 0 else len(text)]
    if rest.startswith('"""'):
        return Diagnostic(
            "E0103",
            'this docstring has no closing `"""`',
            Span(source, place.start, place.start + 3),
            label="opened here",
            help='close it with `"""`',
        )
    if character == '"':
        return Diagnostic(
            "E0103",
            "this string is not closed on its line",
            Span(source, place.start, place.start + len(rest.rstrip())),
            label='expected a closing `"`',
            help='add a `"` at its end',
        )
    shown = f"`{character}`" if character.isprintable() else f"U+{ord(character):04X}"
    return Diagnostic(
        "E0104",
        f"the language has no character {shown}",
        place,
        help=about_character(text, position),
    )


def _unclosed(
    found: Token, lines: Lines, source: Source, offset: int, place: Span
) -> Diagnostic | None:
    """The diagnostic for a bracket left open, where that is what went wrong."""
    if found.value in OPENING.values() and found.type != "STRING":
        if not lines.open:
            return Diagnostic(
                "E0102",
                f"this `{found}` closes nothing",
                place,
                help="remove it, or open its bracket before it",
            )
        opener = lines.open[-1]
        if OPENING[opener.value] != found.value:
            return Diagnostic(
                "E0102",
                f"`{found}` cannot close `{opener}`",
                place,
                label=f"expected `{OPENING[opener.value]}`",
                notes=(Note(_token_span(opener, source, offset), "opened here"),),
                help=f"write `{OPENING[opener.value]}` before it",
            )
        return None
    if not lines.open:
        return None
    opener = lines.open[-1]
    missing = OPENING[opener.value]
    later_line = (found.line or 0) > (opener.line or 0)
    starts_line = (
        later_line
        and not source.text[source.text.rfind("\n", 0, place.start) + 1 : place.start].strip()
    )
    begins = found.type in (
        "NAME",
        "PRIMED",
        "LET",
        "PARAM",
        "STATE",
        "REPEAT",
        "REMAT",
        "RBRACE",
        "$END",
    )
    declares = starts_line and found.type in ("LAYER", "FN", "MODEL", "TRAIN", "USE")
    declares = declares or (found.value == "{" and opener.value != "{")
    if found.type == "$END" or declares or (opener.value != "{" and starts_line and begins):
        return Diagnostic(
            "E0102",
            f"this `{opener}` is never closed",
            _token_span(opener, source, offset),
            label=f"its `{missing}` is missing",
            notes=(Note(place, f"expected `{missing}` before this"),)
            if found.type != "$END"
            else (),
            help=f"close it with `{missing}`",
        )
    return None


def _token_span(token: Token, source: Source, offset: int) -> Span:
    return Span(source, offset + (token.start_pos or 0), offset + (token.end_pos or 0))


def _spelling(machine: Lark, terminal: str) -> str:
    try:
        pattern = machine.get_terminal(terminal).pattern
    except KeyError:
        return terminal
    return pattern.value if isinstance(pattern, PatternStr) else terminal


def _accepted(error: UnexpectedToken, machine: Lark) -> set[str]:
    """The terminals that really can follow; the LALR table alone names too many."""
    trial = InteractiveParser(machine.parser.parser, error.state, error.state.lexer)
    return set(trial.accepts()) or set(error.expected)


def _expected(error: UnexpectedToken, machine: Lark) -> list[str]:
    """What the parser would have taken, in words, the most telling first."""
    left = {"|>" if _spelling(machine, t) == "|>" else t for t in _accepted(error, machine)}
    words = []
    for needed, others, called in _GROUPS:
        if needed <= left:
            left -= needed | others
            words.append(called)
    if "a value" in words and "an operator" in words:
        words.remove("an operator")
    if "an operator" in words:
        words = [word for word in words if not word.startswith("a declaration")]
    if "SEMICOLON" in left:
        left -= {"SEMICOLON"}
    if "a statement" in words or "a setting" in words or "a declaration" in " ".join(words):
        left -= {"_NEWLINE", "$END"}
    if "$END" in left:
        left -= {"$END", "_NEWLINE"}
        words.append("the next declaration")
    for terminal in sorted(left, key=lambda t: (t == "COMMA", t)):
        word = _CALLED.get(terminal) or f"`{_spelling(machine, terminal)}`"
        if word not in words:
            words.append(word)
    return words


def _listed(words: list[str]) -> str:
    shown = words[:5] if len(words) <= 5 else [*words[:4], "…"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def _label(expected: list[str]) -> str:
    return f"expected {expected[0].partition(' (')[0]} here" if expected else ""


def _found(token: Token, source: Source, end: int) -> str:
    if token.type == "$END":
        return "the end of the file" if end >= len(source.text) else "the next declaration"
    if token.type == "_NEWLINE":
        return "the end of the line"
    if token.type == "DOCSTRING":
        return "a docstring"
    return f"`{token}`" if len(token) < 40 else f"`{token[:36]} …`"
