"""Maps of texts: each token in the colour of what it contributes.

In: the tokens of an example and their values. Out: a page of HTML that needs nothing else, or a
line for a terminal. What raises the score is red, what lowers it blue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import click
import numpy as np

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
