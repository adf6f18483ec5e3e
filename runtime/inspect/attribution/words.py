"""Maps of texts: each token in the colour of what it contributes.

In: the tokens of an example and their values. Out: a page of HTML that needs nothing else, or a
line for a terminal. What raises the score is red, what lowers it blue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import click
import numpy as np

from ...data.core.vocabulary import Vocabulary
from .pictures import FALL, RISE, strength

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 16px/1.9 sans-serif; margin: 2em auto; max-width: 50em; color: #222 }}
td, th {{ padding: .2em .8em .2em 0; text-align: left; font-size: 14px }}
span {{ padding: .15em .1em; border-radius: .2em }}
p {{ white-space: pre-wrap }}
</style>
<table>{rows}</table>
<p>{words}</p>
"""
WEAK = 0.05  # below it a token has no colour


@dataclass(frozen=True)
class Words:
    """The tokens of a text as they read, with the values of each; `gap` stands between them."""

    tokens: tuple[str, ...]
    values: np.ndarray
    gap: str


def tokens_of(
    arrays: Mapping[str, np.ndarray],
    name: str,
    row: int,
    lengths: np.ndarray | None,
    vocabulary: Vocabulary,
) -> tuple[str, ...]:
    """The tokens of an example of the input `name`, without padding."""
    ids = arrays[name][row]
    names = vocabulary.names
    return tuple(names[int(i)] for i in ids[: token_count(arrays, name, row, lengths)])


def token_count(
    arrays: Mapping[str, np.ndarray], name: str, row: int, lengths: np.ndarray | None
) -> int:
    """How many tokens an example of the input `name` has before its padding: what the model is
    told, else what is known of the data."""
    for told in (f"{name}_length", "length"):
        if told in arrays and arrays[told].ndim == 1:
            return int(arrays[told][row])
    return arrays[name].shape[1] if lengths is None else int(lengths[row])


def gap_of(vocabulary: Vocabulary) -> str:
    """What stands between two tokens of a text."""
    return " " if vocabulary.kind == "words" else ""


def words_page(words: Words, title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A page with the text and a table of what is known of it."""
    parts = []
    for token, value, share in zip(words.tokens, words.values, strength(words.values), strict=True):
        colour = ",".join(map(str, RISE if share > 0 else FALL))
        style = f"background: rgba({colour},{0.75 * abs(share):.2f})"
        parts.append(f'<span title="{value:+.4g}" style="{style}">{escape(token)}</span>')
    table = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows
    )
    text = escape(words.gap).join(parts)
    return PAGE.format(title=escape(title), rows=table, words=text)


def words_line(words: Words) -> str:
    """The text with colours of a terminal."""
    parts = []
    for token, share in zip(words.tokens, strength(words.values), strict=True):
        if abs(share) < WEAK:
            parts.append(token)
            continue
        colour = RISE if share > 0 else FALL
        red, green, blue = (int(255 - (255 - c) * abs(share)) for c in colour)
        parts.append(click.style(token, fg=(20, 20, 20), bg=(red, green, blue)))
    return words.gap.join(parts)
