"""Arrays and texts on disk: written atomically, and verified by a hash when they are read.

In: arrays, texts, paths. Out: safetensors and JSON files, and their content; a file in which a bit
has changed is refused. `checkpoints.py`, `snapshot.py` and `run_folder.py` give the arrays meaning.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ...compiler.ir.functions import halves, of_halves
from ...dsl.diagnostics.diagnostic import Diagnostic, UserError, did_you_mean, fail
from ...dsl.files import append, make_way, reason, replacing
from ...dsl.likely_paths import did_you_mean_path
from ...dsl.regular_files import NotRegularError, open_regular


def write_bytes(
    path: Path,
    *parts: bytes | memoryview,
    durable: bool = True,
    own: bool = False,
    help: str = "",
) -> None:
    """Replace a file atomically by the parts one after the other, as `replacing`; in the place of a
    run's `own` file whatever else is there is set aside. UserError E0709 with `help` if it cannot
    be written."""
    try:
        if own:
            make_way(path)
        with replacing(path, durable) as file:
            for part in parts:
                file.write(part)
    except OSError as error:
        if not help and not os.path.exists(path.parent):
            meant = did_you_mean_path(path.parent, Path.is_dir)
            help = f"there is no folder {path.parent}" + (f"; {meant}" if meant else "")
        raise fail("E0709", f"cannot write {path}: {reason(error)}", help=help) from error


def write_text(path: Path, text: str, durable: bool = True, own: bool = False) -> None:
    write_bytes(path, text.encode("utf-8"), durable=durable, own=own)


def check_not_read(path: Path, read: Iterable[Path]) -> None:
    """UserError E0709 if a command would write over a file that it reads."""
    for each in read:
        with suppress(OSError, ValueError):  # one of them is not there, or is no name
            if path.samefile(each):
                raise fail("E0709", f"{path} is what is read", help="write to another file")


def append_text(path: Path, text: str) -> None:
    """Add to the end of a run's own text. UserError E0709 if it cannot be written."""
    try:
        append(path, text.encode("utf-8"))
    except OSError as error:
        raise fail("E0709", f"cannot write {path}: {reason(error)}") from error


def json_text(value: Any) -> str:
    """A value as the text of a JSON file."""
    return json.dumps(value, indent=2) + "\n"


def read_text(path: Path) -> str:
    """The text of a regular file; OSError, or ValueError if it is too long or no UTF-8."""
    with open_regular(path) as file:
        data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise ValueError(f"it has more than {MAX_TEXT:,} bytes")
    return data.decode("utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file. UserError E0706 if it does not exist or is damaged."""
    try:
        return json.loads(read_text(path))
    # A text of many thousand brackets is nested deeper than Python's stack.
    except (OSError, ValueError, RecursionError) as error:
        raise fail("E0706", f"cannot read {path}: {reason(error)}") from error


def save_arrays(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    durable: bool = True,
    help: str = "",
    bf16: Collection[str] = (),
) -> None:
    """Write arrays by name, with notes and a hash of everything, as one safetensors file. The same
    arrays and notes give the same bytes. Those in `bf16`, of f32 or f64, are rounded to it."""
    # safetensors writes memory as it lies; `ascontiguousarray` makes a scalar a row of one
    contiguous = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
    }
    bits = {name: halves(contiguous[name], "bf16") for name in arrays if name in bf16}
    contiguous |= {name: of_halves(found, "bf16") for name, found in bits.items()}
    signed = {**notes, _HASH: _hash(contiguous, notes)}
    data = memoryview(save({**contiguous, **bits}, signed))
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    # The library writes the notes in another order every time.
    header = json.loads(bytes(data[_LENGTH:end]))
    header[_NOTES] = dict(sorted(header[_NOTES].items()))
    for name in bits:
        header[name]["dtype"] = _BF16
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)  # the numbers are aligned
    length = len(text).to_bytes(_LENGTH, "little")
    write_bytes(path, length, text, data[end:], durable=durable, own=True, help=help)


class Damaged(UserError):
    """E0706 for a file that does not hold what was written into it."""


def damaged(message: str) -> Damaged:
    return Damaged([Diagnostic("E0706", message)])


def load_arrays(path: Path, foreign: bool = False) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and notes of a file that `save_arrays` wrote, or, if `foreign`, another program.
    UserError E0706 if it cannot be read; `Damaged` if it is another file, or its hash is wrong."""
    try:
        open_regular(path).close()  # the package would wait at a pipe
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            bf16 = [name for name in names if file.get_slice(name).get_dtype() == _BF16]
            arrays = {name: file.get_tensor(name) for name in names if name not in bf16}
            notes = dict(file.metadata() or {})
    except (
        SafetensorError,
        ValueError,
        TypeError,
        KeyError,
        NotRegularError,
        FileNotFoundError,
    ) as error:
        raise damaged(f"cannot read {path}: {reason(error)}") from error
    except OSError as error:
        message = f"cannot read {path}: {reason(error)}"
        raise (
            damaged(message) if error.errno == errno.ELOOP else fail("E0706", message)
        ) from error
    if bf16:
        arrays |= _bf16_arrays(path, bf16)
    # the hash is not part of what it covers
    stored = notes.pop(_HASH, None)
    if stored is None and foreign:
        return arrays, notes
    if stored is None:
        raise damaged(f"{path} was not written by nnc: it has no hash")
    if stored != _hash(arrays, notes):
        raise damaged(f"{path} is damaged: its content is not what was written")
    return arrays, notes


def _bf16_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Arrays of bf16, which NumPy has not, in f32, of a file that the package could read."""
    with open_regular(path) as file:
        begin = _LENGTH + int.from_bytes(file.read(_LENGTH), "little")
        header = json.loads(file.read(begin - _LENGTH))
        arrays = {}
        for name in names:
            start, end = header[name]["data_offsets"]
            file.seek(begin + start)
            bits = np.frombuffer(file.read(end - start), np.uint16)
            arrays[name] = of_halves(bits, "bf16").reshape(header[name]["shape"])
    return arrays


def read_notes(path: Path) -> dict[str, str]:
    """The notes alone, whose hash is not looked at. UserError E0706 if they cannot be read."""
    try:
        open_regular(path).close()
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise fail("E0706", f"cannot read {path}: {reason(error)}") from error


_HASH = "sha256"
_BF16 = "BF16"  # in the header of a safetensors file
_LENGTH, _NOTES = 8, "__metadata__"  # of a safetensors file: bytes of its header's size, and a key
MAX_TEXT = 1 << 28  # bytes; the longest text of a run is the vocabulary of a large text


def _hash(arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> str:
    """A hash of names, types, shapes, numbers and texts."""
    digest = hashlib.sha256()
    # sorted, since a file need not keep the order of arrays; as JSON, so that the boundaries
    # between names and texts are part of what is hashed
    for name in sorted(notes):
        digest.update(json.dumps([name, notes[name]]).encode())
    for name in sorted(arrays):
        array = arrays[name]
        # shape and type too: the same bytes as [2, 3] and [3, 2] are different arrays
        digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def check_arrays(
    path: Path, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]
) -> None:
    """UserError E0706 unless the file holds exactly the wanted arrays, in shape and type."""
    # both ways: nothing may be missing, and nothing left over
    for name, array in wanted.items():
        if name not in found:
            raise fail("E0706", f"{path} has no `{name}`", help="is it of another program?")
        stored = found[name]
        if stored.shape != array.shape or stored.dtype != array.dtype:
            raise fail(
                "E0706",
                f"`{name}` in {path} is {stored.dtype}{list(stored.shape)}, and the "
                f"program's is {array.dtype}{list(array.shape)}",
            )
    for name in found:
        if name not in wanted:
            raise fail(
                "E0706",
                f"{path} has `{name}`, which the program has not",
                help=did_you_mean(name, wanted) or "is it of another program?",
            )
