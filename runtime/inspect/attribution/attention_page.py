"""Attention maps as a page: the maps of all heads, and the text with what each token attends to.

In: the maps of one example, and its tokens. Out: a page of HTML that needs no other file, in the
manner of BertViz (Vig 2019, arXiv:1906.05714). What it looks like and does is in `page/`.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[1] / "page"
MOST_BYTES = 8_000_000  # of the weights of a page, one for each


@dataclass(frozen=True)
class Text:
    """The tokens of one input of the model, padding left out, of `size` with it; `gap` stands
    between them."""

    tokens: tuple[str, ...]
    size: int
    gap: str


def attention_page(maps: Mapping[str, np.ndarray], texts: Sequence[Text], title: str) -> str:
    """The page of the maps [..., t, s] of one example by the names of their tensors; empty if they
    are too large for one. Positions have the tokens of the text of their number, if there is just
    one such text."""
    if sum(array.size for array in maps.values()) > MOST_BYTES:
        return ""
    titles = _titles(tuple(maps))
    pairs = zip(titles, maps.values(), strict=True)
    plain = {"maps": [_map(title, array, texts) for title, array in pairs]}
    parts = {
        "title": escape(title),
        "style": (PAGE / "attention.css").read_text("utf-8"),
        "script": (PAGE / "attention.js").read_text("utf-8"),
        # `</script>` in a token would end the element
        "data": json.dumps(plain, ensure_ascii=False).replace("<", "\\u003c"),
    }
    page = (PAGE / "attention.html").read_text("utf-8")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _titles(names: Sequence[str]) -> list[str]:
    """The names without what all of them end in: of `block1_attend1_y` and `block2_attend1_y` that
    is `block1` and `block2`."""
    parts = [name.split("_") for name in names]
    while len(parts) > 1 and all(len(p) > 1 for p in parts) and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    return ["_".join(p) for p in parts]


def _map(name: str, array: np.ndarray, texts: Sequence[Text]) -> dict[str, Any]:
    queries, keys = _text(array.shape[-2], texts), _text(array.shape[-1], texts)
    heads = array.reshape(-1, *array.shape[-2:])
    # rows and columns of padding say nothing
    rows = len(queries.tokens) if queries else heads.shape[1]
    columns = len(keys.tokens) if keys else heads.shape[2]
    heads = np.nan_to_num(heads[:, :rows, :columns].astype(np.float64))
    most = float(heads.max(initial=0.0)) or 1.0
    weights = np.rint(heads * (255 / most)).astype(np.uint8)
    known = queries or keys
    return {
        "name": name,
        "heads": len(heads),
        "queries": rows,
        "keys": columns,
        "queryTexts": queries and queries.tokens,
        "keyTexts": keys and keys.tokens,
        "same": queries is not None and queries is keys,
        "gap": known.gap if known else "",
        "most": most,
        "weights": b64encode(weights.tobytes()).decode(),
    }


def _text(size: int, texts: Sequence[Text]) -> Text | None:
    found = [text for text in texts if text.size == size]
    return found[0] if len(found) == 1 else None
