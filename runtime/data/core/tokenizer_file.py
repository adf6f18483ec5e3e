"""Tokenizers of others, as the file `tokenizer.json` of Hugging Face describes them.

In: the text of such a file. Out: its tokens by id, and ids and texts with the package `tokenizers`,
which is imported when it is used. The ids are those of the file; the marks that it adds around a
text, its padding and its truncation are not applied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.regular_files import open_regular
from ....dsl.syntax.source import Span
from .byte_pairs import INSTALL, pieces
from .decompress import readable
from .encodings import decoded

ENDING = ".json"
# What divides a text at all spaces first, and what changes a text letter by letter.
WORDS_APART = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")
LETTERWISE = ("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "BertNormalizer")
SPACE = re.compile(r"\s")


def read_tokenizer(path: Path, span: Span | None) -> tuple[str, tuple[str, ...]]:
    """The text of the file, and its tokens by id, `<unused 7>` where there is none. UserError E0602
    or E0603 for a file that is none, E0609 without the package, E0617."""
    with readable(path), open_regular(path) as file:
        text = decoded(file.read(), "utf-8", path)
    try:
        model = json.loads(text)["model"]
        known = isinstance(model, dict) and {"vocab", "type"} & model.keys()
    except (ValueError, TypeError, LookupError):
        known = False
    if not known:
        help = "it is the file `tokenizer.json` that `tokenizers` and `transformers` save"
        raise fail("E0602", f"{path} is no tokenizer", span, help=help)
    ids = made(text, span, path).get_vocab(with_added_tokens=True)
    by_id = {number: token for token, number in ids.items()}
    count = max(by_id, default=-1) + 1
    if not count:
        raise fail("E0613", f"{path} has no tokens", span)
    return text, tuple(by_id.get(number, f"<unused {number}>") for number in range(count))


def made(text: str, span: Span | None = None, origin: object = "the tokenizer") -> Any:
    """The tokenizer of the package; E0603 if the text is none that it reads, E0609 without it."""
    try:
        import tokenizers  # an optional dependency
    except ImportError as error:
        message = "a `tokenizer.json` needs the package tokenizers"
        raise fail("E0609", message, span, help=f"install it with `{INSTALL}`") from error
    try:
        found = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the package has no class of its own
        message = f"{origin} cannot be read as a tokenizer: {str(error).splitlines()[0]}"
        raise fail("E0603", message, span, help="save it again with `tokenizers`") from error
    found.no_truncation()
    found.no_padding()
    return found


def encode(tokenizer: Any, texts: Iterable[str], origin: str, line: int) -> Iterator[np.ndarray]:
    """The ids of a text in parts, i32 [n] each. E0619 if the tokenizer has none for some of it."""
    # Where a text may be cut without changing its tokens depends on the tokenizer.
    for piece in pieces(texts) if _divides_words(tokenizer) else ["".join(texts)]:
        try:
            yield np.array(tokenizer.encode(piece, add_special_tokens=False).ids, np.int32)
        except Exception as error:  # the package has no class of its own
            raise _unknown(origin, line, error) from error
        line += piece.count("\n")


def _divides_words(tokenizer: Any) -> bool:
    """Whether it is known that no token goes on where a space or a line's end follows something
    else, and that nothing there depends on what is before it."""
    known = json.loads(tokenizer.to_str())
    first, *_ = _steps(known["pre_tokenizer"], "pretokenizers")
    bytes_alone = first.get("use_regex", True) and not first.get("add_prefix_space")
    apart = first["type"] in WORDS_APART or (first["type"] == "ByteLevel" and bytes_alone)
    marks = known["added_tokens"]
    return (
        apart
        and all(step["type"] in LETTERWISE for step in _steps(known["normalizer"], "normalizers"))
        and not any(one["lstrip"] or one["rstrip"] or SPACE.search(one["content"]) for one in marks)
    )


def _steps(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The steps of a sequence, or the only one."""
    if step is None:
        return [{"type": "Lowercase" if name == "normalizers" else "none"}]
    return step[name] if step["type"] == "Sequence" else [step]


def _unknown(origin: str, line: int, error: Exception) -> UserError:
    message = f"{origin}, line {line}, has no tokens: {str(error).splitlines()[0]}"
    return fail("E0619", message, help="the tokenizer has no token for what it does not know")


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False)
    return text


def unknown(tokenizer: Any, text: str) -> list[str]:
    """The parts of a text that are read as the unknown token, each once."""
    mark = json.loads(tokenizer.to_str())["model"]
    number = mark.get("unk_id")
    if number is None and mark.get("unk_token") is not None:
        number = tokenizer.token_to_id(mark["unk_token"])
    found = tokenizer.encode(text, add_special_tokens=False)
    pairs = zip(found.ids, found.offsets, strict=True)
    return list(dict.fromkeys(text[begin:end] for id, (begin, end) in pairs if id == number))
