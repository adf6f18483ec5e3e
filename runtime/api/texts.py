"""Texts that a prompt and a notebook show as they are."""

from __future__ import annotations


class Text(str):
    """A text of several lines, which is displayed without quotes."""

    def __repr__(self) -> str:
        return str(self)
