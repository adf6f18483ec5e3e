"""What `nnc attribute` prints and writes: tables, bars and coloured words on a terminal, JSON
elsewhere, and a folder of arrays, pictures and pages.

In: attributions with their examples. Out: text, files.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...dsl.diagnostics.diagnostic import fail
from ...dsl.files import make_folder, reason
from ..data.recorded import Recorded
from ..inference.given_files import Given
from ..inference.result_files import npy_bytes
from ..inspect.attribution.attention import Attention
from ..inspect.attribution.attention_page import attention_page
from ..inspect.attribution.attribute import Attribution, Attributor
from ..inspect.attribution.checks import Curves, Randomised
from ..inspect.attribution.features import columns_of, titles_of
from ..inspect.attribution.methods import Method
from ..inspect.attribution.pictures import (
    check_library,
    draw_image,
    draw_signal,
    is_image,
    is_signal,
    strength,
)
from ..inspect.attribution.words import Words, gap_of, tokens_of, words_line, words_page
from ..messages import notify
from ..training.atomic_files import write_bytes
from .tables import TableColumn, print_table

MOST_BARS, BAR = 20, 24  # features of an example that are listed, and columns of the longest bar
FULL, HALF = "█", "▌"


@dataclass(frozen=True, eq=False)
class Explained:
    """An attribution with its example."""

    attributor: Attributor
    given: Given
    row: int
    found: Attribution
    curves: Curves | None

    @property
    def name(self) -> str:
        names = self.given.names
        return names[self.row] if names else str(self.row)

    @property
    def picture(self) -> np.ndarray | None:
        """The example, where it is a picture whose places the map has."""
        attributor = self.attributor
        inputs = [array[self.row] for array in attributor.inputs.values()]
        own = [] if attributor.subject.is_inside else [attributor.x[self.row]]
        for x in (*own, *inputs):
            if x.dtype.kind == "f" and is_image(x) and self.found.values.ndim >= 2:
                return x
        return None

    @property
    def words(self) -> Words | None:
        """The tokens with their values, where the map has one for each."""
        tokens, recorded = self.attributor.subject.tokens, self.attributor.recorded
        vocabulary = recorded.vocabularies.get(tokens) if recorded else None
        if vocabulary is None or self.found.values.ndim != 1:
            return None
        attributor = self.attributor
        texts = tokens_of(attributor.arrays, tokens, self.row, attributor.lengths, vocabulary)
        return Words(texts, self.found.values[: len(texts)], gap_of(vocabulary))

    @property
    def features(self) -> list[tuple[str, float]]:
        """The values by the names of the columns of a table; none for other examples."""
        attributor, found = self.attributor, self.found
        if attributor.subject.is_inside:
            return []
        shape, name = attributor.x.shape[1:], attributor.subject.name
        titles = titles_of(attributor.recorded, name, shape)
        if found.groups is not None:
            titles = tuple(dict.fromkeys(columns_of(attributor.recorded, name, shape)))
        if len(titles) != len(found.features):
            if len(shape) != 1 or shape[0] > MOST_BARS:
                return []
            titles = tuple(f"{name}[{n}]" for n in range(len(found.features)))
        return [(t, float(v)) for t, v in zip(titles, found.features, strict=True)]

    def checks(self) -> list[tuple[str, str]]:
        """What is known of the map, as texts."""
        found = self.found
        rows = [
            ("score", f"{found.score:.5g}"),
            ("baseline", f"{found.baseline_score:.5g}"),
            ("sum", f"{found.sum:.5g}"),
        ]
        if found.gap is not None:
            rows.append(("gap", f"{100 * found.gap:.2g} %"))
        if self.curves is not None:
            rows.append(("deletion", f"{self.curves.deletion:.3f}"))
            rows.append(("insertion", f"{self.curves.insertion:.3f}"))
        return rows

    def plain(self, files: Sequence[str]) -> dict[str, Any]:
        """As JSON has it: the map itself, or the files that have it."""
        found, words = self.found, self.words
        plain: dict[str, Any] = {"input": self.name} if self.given.names else {}
        if self.given.texts:
            plain["text"] = self.given.texts[self.row]
        plain |= {
            "method": self.attributor.method.name,
            "result": self.attributor.target.result,
            "of": found.target,
            "at": self.attributor.subject.name,
            "score": found.score,
            "baseline_score": found.baseline_score,
            "sum": found.sum,
        }
        if found.gap is not None:
            plain["gap"] = found.gap
        if self.curves is not None:
            plain |= {"deletion": self.curves.deletion, "insertion": self.curves.insertion}
        if words is not None:
            pairs = zip(words.tokens, words.values, strict=True)
            plain["tokens"] = [{"token": t, "attribution": _number(v)} for t, v in pairs]
        elif self.features:
            plain["attributions"] = {name: _number(value) for name, value in self.features}
        elif not files:
            plain["map"] = _nested(found.values)
        return {**plain, "files": list(files)} if files else plain


class Output:
    """Where attributions go: a folder, if there is one, and standard output."""

    def __init__(self, folder: Path | None, method: Method):
        self._folder, self._method = folder, method
        self._files: dict[int, list[str]] = {}
        self._stems: set[str] = set()

    def write(self, explained: Sequence[Explained], rows: Sequence[Randomised]) -> None:
        """The files of every example: its map as .npy, and a picture or page of it."""
        if self._folder is None:
            return
        if any(one.picture is not None for one in explained):
            check_library()
        for one in explained:
            stem = self._stem(one.name)
            self._save(one.row, f"{stem}.npy", npy_bytes(one.found.values))
            name, data = _drawn(one)
            if data:
                self._save(one.row, f"{stem}{name}", data)
        lines = [json.dumps(_finite(one.plain(self._files[one.row])), ensure_ascii=False)
                 for one in explained]  # fmt: skip
        self._save(-1, "attributions.jsonl", "".join(f"{x}\n" for x in lines).encode())
        count = sum(map(len, self._files.values()))
        notify(f"{count} files in {self._folder}")

    def _stem(self, name: str) -> str:
        """A file's name for an example, which no other one has."""
        plain = re.sub(r"[^\w.-]+", "-", Path(name).stem if Path(name).suffix else name).strip("-.")
        stem, number = plain or "example", 1
        while stem in self._stems:
            number += 1
            stem = f"{plain or 'example'}-{number}"
        self._stems.add(stem)
        return stem

    def _save(self, row: int, name: str, data: bytes) -> None:
        assert self._folder is not None
        try:
            make_folder(self._folder)
        except OSError as error:
            raise fail("E0709", f"cannot make {self._folder}: {reason(error)}") from error
        write_bytes(self._folder / name, data)
        self._files.setdefault(row, []).append(str(self._folder / name))

    def show(
        self, explained: Sequence[Explained], rows: Sequence[Randomised], terminal: bool
    ) -> None:
        """Print the attributions."""
        if not terminal:
            for one in explained:
                plain = one.plain(self._files.get(one.row, []))
                if rows:
                    plain["randomised"] = {r.layer: r.correlation for r in rows}
                click.echo(json.dumps(_finite(plain), allow_nan=False, ensure_ascii=False))
            return
        _print_examples(explained)
        for one in explained:
            words = one.words
            if words is not None:
                click.echo(words_line(words) + "\n")
            elif one.features:
                _print_bars(one)
        if rows:
            _print_randomised(rows)

    def attention(self, found: Attention, given: Given, recorded: Recorded | None) -> None:
        """Print, and write, the attention maps of all examples; with a page of each example."""
        files: dict[str, str] = {}
        if self._folder is not None:
            for name, array in found.maps.items():
                self._save(0, f"{name}.npy", npy_bytes(array))
                files[name] = self._files[0][-1]
            for row in range(found.count):
                name = given.names[row] if given.names else str(row)
                texts = found.texts(row, recorded, given.lengths)
                own = {tensor: array[row] for tensor, array in found.maps.items()}
                page = attention_page(own, texts, name)
                if page:
                    self._save(0, f"{self._stem(name)}.html", page.encode())
                else:
                    notify(f"the maps of {name} are too large for a page")
            notify(f"{len(self._files[0])} files in {self._folder}")
        for name, array in found.maps.items():
            plain: dict[str, Any] = {"tensor": name, "shape": list(array.shape)}
            plain |= {"file": files[name]} if files else {"map": _nested(array)}
            if sys.stdout.isatty():
                click.echo(f"{name}  {list(array.shape)}  {files.get(name, '')}")
            else:
                click.echo(json.dumps(_finite(plain), allow_nan=False))


def _drawn(one: Explained) -> tuple[str, bytes]:
    """The ending and the bytes of a picture or page; both empty if there is none."""
    words, picture, found = one.words, one.picture, one.found
    if words is not None:
        rows = [("method", one.attributor.method.name), ("of", found.target), *one.checks()]
        return ".html", words_page(words, one.name, rows).encode()
    if picture is not None and found.values.ndim in (2, 3):
        return ".png", draw_image(picture, found.values)
    x, is_inside = one.attributor.x[one.row], one.attributor.subject.is_inside
    if not is_inside and not one.features and is_signal(x) and found.values.shape == x.shape:
        title = f"{one.attributor.method.name} of {found.target} in {one.name}"
        return ".svg", draw_signal(x, found.values, title).encode()
    return "", b""


# --- on a terminal --------------------------------------------------------------------------------


def _print_examples(explained: Sequence[Explained]) -> None:
    rows = []
    for one in explained:
        values = dict(one.checks())
        rows.append({"input": one.name, "of": one.found.target, **values})
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [
        TableColumn(
            name,
            min(40, max(len(name), *(len(row.get(name, "")) for row in rows))),
            right=name not in ("input", "of"),
        )
        for name in names
    ]
    print_table(columns, [([row.get(name, "") for name in names], "") for row in rows], 2)


def _print_bars(one: Explained) -> None:
    """The features with bars, the largest first."""
    features = sorted(one.features, key=lambda pair: -abs(pair[1]))[:MOST_BARS]
    shares = strength(np.array([value for _, value in features]))
    wide = min(40, max(len(name) for name, _ in features))
    title = TableColumn(one.name, max(wide, len(one.name)), right=False)
    columns = [title, TableColumn("", 10), TableColumn("", BAR + 1, right=False)]
    rows = [
        ([name, f"{value:+.4g}", _bar(float(share))], "red" if value > 0 else "blue")
        for (name, value), share in zip(features, shares, strict=True)
    ]
    print_table(columns, rows, 2)


def _bar(share: float) -> str:
    halves = round(2 * BAR * abs(share))
    return FULL * (halves // 2) + HALF * (halves % 2)


def _print_randomised(rows: Sequence[Randomised]) -> None:
    wide = max(len("drawn anew down to"), *(len(row.layer) for row in rows))
    columns = [TableColumn("drawn anew down to", wide, right=False), TableColumn("correlation", 12)]
    cells = [
        ([row.layer, "–" if row.correlation is None else f"{row.correlation:+.2f}"], "")
        for row in rows
    ]
    print_table(columns, cells, 2)


# --- JSON -----------------------------------------------------------------------------------------


def _number(value: Any) -> float:
    return float(str(np.float32(value)))


def _nested(values: np.ndarray) -> Any:
    if not values.ndim:
        return _number(values)
    return [_nested(part) for part in values]


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not isfinite(value) else value
