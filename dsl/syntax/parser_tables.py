"""Parser tables: the LALR tables of the grammar, built once and stored as JSON.

Building them takes a tenth of a second. Those of grammar.lark are part of the package, written by
`tools/parser_tables.py`; for another version of Lark, or a changed grammar, they are stored in the
user's cache (`NNC_CACHE`: a folder, or `off`). A file that is damaged, of another grammar or not
writable is ignored. Lark's own cache is a pickle, which can run code; JSON cannot.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from ..files import chosen_cache, make_folder, replacing

SHIFT = 0  # the action of a table entry that goes to another state; the other one reduces
PACKAGED = Path(__file__).parents[2] / "grammar.tables"
CACHED = "grammar-*.tables"  # the names of the files in the user's cache


def load_parser(grammar: str, postlex: object) -> Lark:
    """The LALR parser of a grammar, from stored tables if there are any."""
    # Packaged tables fit unless Lark or the grammar is another one; then the user's cache, then
    # building them, which is stored for the next time.
    found = load_tables(PACKAGED, grammar, postlex)
    path = None if found else _cache_file(grammar)
    if path is not None:
        found = load_tables(path, grammar, postlex)
    if found is not None:
        return found
    parser = build_parser(grammar, postlex)
    if path is not None:
        # A folder that cannot be written costs time at every start, but is no error.
        with suppress(OSError, TypeError, ValueError):
            make_folder(path.parent, private=True)
            save_tables(path, parser, grammar, postlex)
    return parser


def build_parser(grammar: str, postlex: object) -> Lark:
    """The LALR parser of a grammar, from the grammar itself."""
    return Lark(
        grammar,
        parser="lalr",
        start="file",
        propagate_positions=True,
        # An optional part that is missing leaves no None among the children.
        maybe_placeholders=False,
        postlex=postlex,  # type: ignore[arg-type]
    )


def load_tables(path: Path, grammar: str, postlex: object) -> Lark | None:
    """The parser whose tables a file holds, if they are intact, of this grammar and of this
    version of Lark."""
    try:
        # key line, SHA-256 of the data, the data: checked before anything is parsed
        key, digest, data = path.read_bytes().split(b"\n", 2)
        if key.decode() != _key(grammar) or digest.decode() != hashlib.sha256(data).hexdigest():
            return None
        tables, memo = json.loads(data, object_hook=_from_json)
        return Lark._load_from_dict(tables, memo, postlex=postlex, propagate_positions=True)
    # Whatever is wrong with the file, the tables can be built again.
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def save_tables(path: Path, parser: Lark, grammar: str, postlex: object) -> None:
    """Write the tables of a parser, atomically. The same grammar gives the same bytes."""
    tables = parser.memo_serialize([TerminalDef, Rule])  # type: ignore[no-untyped-call]
    # Reproducible: the packaged file is under version control.
    tables[0]["parser"]["parser"] = _renumber(tables[0]["parser"]["parser"])
    data = json.dumps(_to_json(tables, postlex), separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    with replacing(path, durable=False) as file:
        file.write(f"{_key(grammar)}\n{digest}\n".encode() + data)


def _key(grammar: str) -> str:
    return f"{lark.__version__} {hashlib.sha256(grammar.encode()).hexdigest()}"


def _cache_file(grammar: str) -> Path | None:
    """The file in the user's cache for the tables of this grammar."""
    folder = chosen_cache()
    if folder is None:
        return None
    # The key in the name: versions of Lark side by side do not overwrite each other's tables.
    name = hashlib.sha256(_key(grammar).encode()).hexdigest()
    return folder / CACHED.replace("*", name[:32])


def _renumber(parser: dict[str, Any]) -> dict[str, Any]:
    """Tokens numbered by name and states in the order in which they are reached; Lark's own
    numbers differ from run to run."""
    names = sorted(parser["tokens"].values())
    place = {token: names.index(name) for token, name in parser["tokens"].items()}
    rows = {
        state: dict(sorted((place[token], action) for token, action in row.items()))
        for state, row in parser["states"].items()
    }
    # Breadth first from the start states; `reached` grows while it is walked. Tokens are in the
    # order of their names, so the order of the states follows from the grammar alone.
    reached = list(parser["start_states"].values())
    for state in reached:
        successors = dict.fromkeys(to for kind, to in rows[state].values() if kind == SHIFT)
        reached += [to for to in successors if to not in reached]
    number = {state: n for n, state in enumerate(reached)}
    states = {
        number[state]: {
            # A reduction names a rule, not a state.
            token: (kind, number[to] if kind == SHIFT else to)
            for token, (kind, to) in rows[state].items()
        }
        for state in reached
    }
    ends = {
        key: {start: number[state] for start, state in parser[key].items()}
        for key in ("start_states", "end_states")
    }
    return {"tokens": dict(enumerate(names)), "states": states, **ends}


def _to_json(value: Any, left_out: object) -> Any:
    """Values as JSON can store them: a dictionary with other keys than strings becomes a list of
    pairs. `left_out` is passed to Lark again when the tables are loaded."""
    if isinstance(value, dict):
        pairs = [(k, _to_json(v, left_out)) for k, v in value.items() if v is not left_out]
        # JSON's keys are strings; "" marks a list of pairs that was a dictionary.
        return dict(pairs) if all(isinstance(k, str) for k, _ in pairs) else {"": pairs}
    if isinstance(value, list | tuple):
        return [_to_json(v, left_out) for v in value]
    return value


def _from_json(value: dict[str, Any]) -> dict[Any, Any]:
    return dict(value[""]) if "" in value else value
