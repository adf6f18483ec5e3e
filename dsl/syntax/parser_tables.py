"""The parser's tables, made beforehand: to build them takes a tenth of a second.

In: a grammar and what Lark is told besides. Out: a `Lark`. The tables are kept as JSON, in which
nothing can be run. Those of `grammar.lark` are part of the package, made by
`tools/parser_tables.py`; for another version of Lark, or while the grammar is worked on, they are
kept in the user's cache (`NNC_CACHE`: a folder, or `off`). A file that is damaged, of another
grammar, or cannot be written, is as if it were not there.
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

SHIFT = 0  # the action of a table that goes to another state; the other one reduces
PACKAGED = Path(__file__).parents[2] / "grammar.tables"


def parser_of(grammar: str, postlex: object) -> Lark:
    """The LALR parser of a grammar, positions kept."""
    found = load(PACKAGED, grammar, postlex)
    path = None if found else _cached(grammar)
    if path is not None:
        found = load(path, grammar, postlex)
    if found is not None:
        return found
    made = built(grammar, postlex)
    if path is not None:
        with suppress(OSError, TypeError, ValueError):
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            keep(path, made, grammar, postlex)
    return made


def built(grammar: str, postlex: object) -> Lark:
    """The same, from the grammar itself."""
    return Lark(
        grammar,
        parser="lalr",
        start="file",
        propagate_positions=True,
        maybe_placeholders=False,
        postlex=postlex,
    )  # type: ignore[arg-type]


def load(path: Path, grammar: str, postlex: object) -> Lark | None:
    """The parser whose tables are kept in a file, if they are those of this grammar, whole, and
    made by this version of Lark."""
    try:
        key, digest, data = path.read_bytes().split(b"\n", 2)
        if key.decode() != _key(grammar) or digest.decode() != hashlib.sha256(data).hexdigest():
            return None
        tables, memo = json.loads(data, object_hook=_with_numbers)
        return Lark._load_from_dict(tables, memo, postlex=postlex, propagate_positions=True)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def keep(path: Path, made: Lark, grammar: str, postlex: object) -> None:
    """Write the tables of a parser; the file appears complete or not at all. The same grammar gives
    the same bytes."""
    tables = made.memo_serialize([TerminalDef, Rule])  # type: ignore[no-untyped-call]
    tables[0]["parser"]["parser"] = _numbered(tables[0]["parser"]["parser"])
    data = json.dumps(_plain(tables, postlex), separators=(",", ":")).encode()
    beginning = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        digest = hashlib.sha256(data).hexdigest()
        beginning.write_bytes(f"{_key(grammar)}\n{digest}\n".encode() + data)
        beginning.replace(path)
    finally:
        beginning.unlink(missing_ok=True)


def _key(grammar: str) -> str:
    """What tells these tables from all others."""
    return f"{lark.__version__} {hashlib.sha256(grammar.encode()).hexdigest()}"


def _cached(grammar: str) -> Path | None:
    """The file in the user's cache for the tables of this grammar."""
    chosen = os.environ.get("NNC_CACHE", "")
    if chosen.lower() == "off":
        return None
    if chosen:
        folder = Path(chosen).expanduser().absolute()
    else:
        from platformdirs import user_cache_dir  # only where it is needed

        folder = Path(user_cache_dir("nnc"))
    name = hashlib.sha256(_key(grammar).encode()).hexdigest()
    return folder / f"grammar-{name[:32]}.tables"


def _numbered(parser: dict[str, Any]) -> dict[str, Any]:
    """Tokens by name and states as they are reached: Lark's own numbers differ every time."""
    names = sorted(parser["tokens"].values())
    place = {token: names.index(name) for token, name in parser["tokens"].items()}
    rows = {
        state: dict(sorted((place[token], action) for token, action in row.items()))
        for state, row in parser["states"].items()
    }
    reached = list(parser["start_states"].values())
    for state in reached:
        reached += [to for to in _followers(rows[state]) if to not in reached]
    number = {state: n for n, state in enumerate(reached)}
    return {
        "tokens": dict(enumerate(names)),
        "states": {
            number[state]: {
                token: (kind, number[to] if kind == SHIFT else to)
                for token, (kind, to) in rows[state].items()
            }
            for state in reached
        },
        "start_states": {start: number[state] for start, state in parser["start_states"].items()},
        "end_states": {start: number[state] for start, state in parser["end_states"].items()},
    }


def _followers(row: dict[int, tuple[int, Any]]) -> list[int]:
    """The states to which a row leads."""
    return list(dict.fromkeys(to for kind, to in row.values() if kind == SHIFT))


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
