"""Syntax errors: the parser's state at an error as a diagnostic in the terms of the language.

It says what was expected and, where it can be guessed, the fix (`hints.py`). The name of a
terminal never reaches the user.
"""

from __future__ import annotations

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr
from lark.parsers.lalr_interactive_parser import InteractiveParser

from ..syntax.lexer_rules import CLOSING, KEYWORDS, PostLexer
from ..syntax.source import Source, Span
from .character_hints import hint_for_character
from .diagnostic import Diagnostic, Note
from .hints import ErrorContext, hint_for_keyword, hint_for_token

# Terminals that are described instead of spelt.
_DESCRIPTIONS = {
    "NAME": "a name", "PRIMED": "a name", "DOTTED": "a name", "NUMBER": "a number",
    "PATTERN": "names of parameters, such as `encoder.*`", "STRING": "a string in quotes",
    "DOCSTRING": "a docstring", "_NEWLINE": "the end of the line", "REDUCE": "a reduction",
    "COMPARE": "a comparison", "TIMES": "`*`", "PLUS": "`+`", "MINUS": "`-`", "EQUALS": "`=`",
    "ACCUMULATES": "`+=`", "DRAWN": "`~`", "TRUE": "`true`", "FALSE": "`false`",
}  # fmt: skip

# Terminals that are described together: if all of the first set are expected, those of both are.
_GROUPS = tuple(
    (set(needed.split()), set((needed + " " + others).split()), description)
    for needed, others, description in (
        (
            "LAYER MODEL TRAIN",
            "USE FN OPTIMIZER DOCSTRING LANGUAGE",
            "a declaration (`layer`, `fn`, `model`, `optimizer`, `train` or `use`)",
        ),
        ("LET PARAM STATE", "REPEAT REMAT NAME PRIMED DOTTED DOCSTRING", "a statement"),
        ("METRIC UNTIL", "LET INPUT LOSS OPTIMIZER FREEZE NAME PRIMED DOCSTRING", "a setting"),
        ("NUMBER NAME", "PRIMED DOTTED STRING TRUE FALSE LPAR LSQB REDUCE MINUS NOT IF", "a value"),
        ("PLUS MINUS", "TIMES COMPARE AND OR |> CIRCUMFLEX", "an operator"),
        ("TIMES AND", "COMPARE OR |> CIRCUMFLEX PLUS MINUS", "an operator"),
        ("NAME PRIMED", "DOTTED REDUCE", "a name"),
        ("TRUE FALSE", "", "`true` or `false`"),
        ("EQUALS ACCUMULATES", "COMMA", "`=`"),
    )
)

# What shows that a bracket of an earlier line was forgotten: a new statement or declaration begins.
_STATEMENT_STARTS = ("NAME", "PRIMED", "LET", "PARAM", "STATE", "REPEAT", "REMAT", "RBRACE", "$END")
_DECLARATION_STARTS = ("LAYER", "FN", "MODEL", "TRAIN", "USE")


def explain(
    error: UnexpectedInput,
    source: Source,
    text: str,
    offset: int,
    postlexer: PostLexer,
    parser: Lark,
) -> Diagnostic:
    """The diagnostic for the place where the parser could not continue. `text` is the part of the
    source from `offset` that was parsed."""
    if isinstance(error, UnexpectedCharacters):
        return _unknown_character(source, text, error.pos_in_stream or 0, offset)
    assert isinstance(error, UnexpectedToken)
    found = error.token
    # Where nothing else fits, the lexer takes any word and any `*` for a pattern of names.
    if found.type == "PATTERN":
        found = Token.new_borrow_pos("TIMES" if found.value == "*" else "NAME", found.value, found)
    # An unclosed docstring: the lexer has read its first two quotes as an empty string.
    if text.startswith('"""', found.start_pos or 0) and found.type == "STRING":
        return _unknown_character(source, text, found.start_pos or 0, offset)
    # At the end the caret stands behind the last character, not in the blank lines after it.
    start = len(text.rstrip()) if found.type == "$END" else found.start_pos or 0
    end = start + 1 if found.type in ("_NEWLINE", "$END") else found.end_pos or start + 1
    # The token of a line end includes comments and blanks before it; the caret belongs directly
    # behind the code.
    if found.type == "_NEWLINE":
        start += len(found.value) - len(found.value.lstrip(" \t\r\f"))
        start = len(text[:start].rstrip(" \t\r"))
        end = start + 1
    span = Span(source, offset + start, offset + end)
    # First, as a missing bracket makes whatever follows it look wrong.
    unbalanced = _unbalanced(found, postlexer, offset, span)
    if unbalanced is not None:
        return unbalanced
    accepted = _accepted(error, parser)
    expected = _described(accepted, parser)
    # `let model = 3`: a keyword where any name would do
    if found.value in KEYWORDS and {"a name", "a statement", "a setting"} & set(expected):
        return Diagnostic(
            "E0105",
            f"`{found}` is a keyword and cannot be a name",
            span,
            label="expected a name",
            help=hint_for_keyword(str(found)),
        )
    context = ErrorContext(
        found,
        postlexer.previous,
        # Hints may test for a terminal ("EQUALS") or for its text ("->").
        frozenset({*accepted, *(_spelling(parser, terminal) for terminal in accepted)}),
        postlexer.open[-1].value if postlexer.open else "",
        # What stands before the error on its line, and a little of what follows: all that hints
        # need.
        text[text.rfind("\n", 0, start) + 1 : start],
        text[start : start + 80],
    )
    # A long list of alternatives helps nobody; `_described` has put the general ones first.
    shown = expected if len(expected) <= 5 else [*expected[:4], "…"]
    alternatives = " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
    return Diagnostic(
        "E0101",
        f"expected {alternatives}, found {_describe(found, source, offset + len(text))}",
        span,
        label=f"expected {expected[0].partition(' (')[0]} here",
        help=hint_for_token(context),
    )


def _unknown_character(source: Source, text: str, position: int, offset: int) -> Diagnostic:
    start = offset + position
    character = text[position]
    # The lexer fails at the first character of an unclosed string or docstring.
    rest = text[position:].partition("\n")[0]
    if rest.startswith('"""'):
        return Diagnostic(
            "E0103",
            'this docstring has no closing `"""`',
            Span(source, start, start + 3),
            label="opened here",
            help='close it with `"""`',
        )
    if character == '"':
        return Diagnostic(
            "E0103",
            "this string is not closed on its line",
            Span(source, start, start + len(rest.rstrip())),
            label='expected a closing `"`',
            help='add a `"` at its end',
        )
    shown = f"`{character}`" if character.isprintable() else f"U+{ord(character):04X}"
    return Diagnostic(
        "E0104",
        f"the language has no character {shown}",
        Span(source, start, start + 1),
        help=hint_for_character(text, position),
    )


def _unbalanced(found: Token, postlexer: PostLexer, offset: int, span: Span) -> Diagnostic | None:
    """The diagnostic for a bracket without its partner, if that is the mistake."""
    closes = found.type != "STRING" and found.value in CLOSING.values()
    # `PostLexer` still has the brackets that were open when the parser stopped.
    if not postlexer.open:
        if not closes:
            return None
        return Diagnostic(
            "E0102",
            f"this `{found}` closes nothing",
            span,
            help="remove it, or open its bracket before it",
        )
    opener = postlexer.open[-1]
    missing = CLOSING[opener.value]
    opened = Span(span.source, offset + (opener.start_pos or 0), offset + (opener.end_pos or 0))
    if closes:
        # The bracket is the right one; what is inside it is incomplete.
        if missing == found.value:
            return None
        return Diagnostic(
            "E0102",
            f"`{found}` cannot close `{opener}`",
            span,
            label=f"expected `{missing}`",
            notes=(Note(opened, "opened here"),),
            help=f"write `{missing}` before it",
        )
    text = span.source.text
    # The token is the first on a line below the bracket. Inside ( ) and [ ] line ends are dropped,
    # so only the positions tell.
    starts_line = (found.line or 0) > (opener.line or 0)
    starts_line = starts_line and not text[text.rfind("\n", 0, span.start) + 1 : span.start].strip()
    in_expression = opener.value != "{"
    # An open bracket is to blame only where the text clearly goes on with something else: at the
    # end, at a declaration, at a body's `{` in an expression, or at a new statement in an
    # expression.
    if not (
        found.type == "$END"
        or (starts_line and found.type in _DECLARATION_STARTS)
        or (in_expression and found.value == "{")
        or (in_expression and starts_line and found.type in _STATEMENT_STARTS)
    ):
        return None
    before = (Note(span, f"expected `{missing}` before this"),)
    return Diagnostic(
        "E0102",
        f"this `{opener}` is never closed",
        opened,
        label=f"its `{missing}` is missing",
        notes=before if found.type != "$END" else (),
        help=f"close it with `{missing}`",
    )


def _spelling(parser: Lark, terminal: str) -> str:
    # `$END` is no terminal of the grammar
    try:
        pattern = parser.get_terminal(terminal).pattern
    except KeyError:
        return terminal
    return pattern.value if isinstance(pattern, PatternStr) else terminal


def _accepted(error: UnexpectedToken, parser: Lark) -> set[str]:
    """The terminals that can really follow; the LALR table alone lists too many."""
    # LALR merges states, so some tokens of the table lead to an error only after some reductions:
    # `accepts` tries each on a copy of the parser's stack.
    trial = InteractiveParser(parser.parser.parser, error.state, error.state.lexer)
    return set(trial.accepts()) or set(error.expected)


def _described(accepted: set[str], parser: Lark) -> list[str]:
    """What the parser would have accepted, in words, the most general first."""
    # Lark gives operators without a name of their own a made-up one.
    left = {"|>" if _spelling(parser, t) == "|>" else t for t in accepted}
    words = []
    for needed, group, description in _GROUPS:
        if needed <= left:
            left -= group
            words.append(description)
    if "a value" in words and "an operator" in words:
        words.remove("an operator")
    # After the value of a `fn` a declaration may follow on the same line, which is hardly meant.
    if "an operator" in words:
        words = [word for word in words if not word.startswith("a declaration")]
    # Always possible between statements, never the advice.
    left -= {"SEMICOLON"}
    if any(word.startswith(("a statement", "a setting", "a declaration")) for word in words):
        left -= {"_NEWLINE", "$END"}
    if "$END" in left:
        left -= {"$END", "_NEWLINE"}
        words.append("the next declaration")
    # A comma last: it is seldom what is missing.
    for terminal in sorted(left, key=lambda t: (t == "COMMA", t)):
        words.append(_DESCRIPTIONS.get(terminal) or f"`{_spelling(parser, terminal)}`")
    return list(dict.fromkeys(words))


def _describe(token: Token, source: Source, end: int) -> str:
    # The text may be one chunk of a file, cut before the next declaration.
    if token.type == "$END":
        return "the end of the file" if end >= len(source.text) else "the next declaration"
    if token.type == "_NEWLINE":
        return "the end of the line"
    if token.type == "DOCSTRING":
        return "a docstring"
    return f"`{token}`" if len(token) < 40 else f"`{token[:36]} …`"
