"""The parser's tables, kept between runs: to build them takes a tenth of a second.

In: a grammar and what Lark is told besides. Out: a `Lark`. The tables are kept as JSON, in which
nothing can be run, in the user's cache (`NNC_CACHE`: a folder, or `off`). A file that is damaged,
or cannot be written, is as if it were not there.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef


def parser_of(grammar: str, postlex: object) -> Lark:
    """The LALR parser of a grammar, positions kept."""
    path = _place(grammar)
    made = _load(path, postlex) if path else None
    if made is not None:
        return made
    made = Lark(grammar, parser="lalr", start="file", propagate_positions=True,
                maybe_placeholders=False, postlex=postlex)  # type: ignore[arg-type]  # fmt: skip
    if path:
        with suppress(OSError, TypeError, ValueError):
            _keep(path, made, postlex)
    return made


def _place(grammar: str) -> Path | None:
    """The file for the tables of this grammar, made by this version of Lark."""
    chosen = os.environ.get("NNC_CACHE", "")
    if chosen.lower() == "off":
        return None
    if chosen:
        folder = Path(chosen).expanduser().absolute()
    else:
        from platformdirs import user_cache_dir  # only where it is needed

        folder = Path(user_cache_dir("nnc"))
    name = hashlib.sha256(f"{lark.__version__}\n{grammar}".encode()).hexdigest()
    return folder / f"grammar-{name[:32]}.json"


def _load(path: Path, postlex: object) -> Lark | None:
    try:
        digest, data = path.read_bytes().split(b"\n", 1)
        if digest.decode() != hashlib.sha256(data).hexdigest():
            return None
        tables, memo = json.loads(data, object_hook=_with_numbers)
        return Lark._load_from_dict(tables, memo, postlex=postlex, propagate_positions=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _keep(path: Path, made: Lark, postlex: object) -> None:
    tables = made.memo_serialize([TerminalDef, Rule])  # type: ignore[no-untyped-call]
    data = json.dumps(_plain(tables, postlex), separators=(",", ":")).encode()
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    beginning = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        digest = hashlib.sha256(data).hexdigest().encode()
        beginning.write_bytes(digest + b"\n" + data)
        beginning.replace(path)
    finally:
        beginning.unlink(missing_ok=True)


def _plain(value: Any, left_out: object) -> Any:
    """As JSON can say it, which knows only texts as keys. `left_out` is given again at loading."""
    if isinstance(value, dict):
        rows = [(k, _plain(v, left_out)) for k, v in value.items() if v is not left_out]
        return dict(rows) if all(isinstance(k, str) for k, _ in rows) else {"": rows}
    if isinstance(value, list | tuple):
        return [_plain(v, left_out) for v in value]
    return value


def _with_numbers(value: dict[str, Any]) -> dict[Any, Any]:
    return dict(value[""]) if "" in value else value
