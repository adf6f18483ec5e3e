"""Fuzzing of files: whatever is in a file, a command ends with a message, soon, in little memory.

`python tests/fuzzers/files.py --files 1000 --seed 0` writes files of every kind that nnc reads as
they should be and then spoils them: cut short, with bits, bytes, blocks and numbers changed, or
made up by the rules of the format (headers that lie, huge sizes, deep nesting, long lines). Each is
given to the command that reads it, in a child process that is watched. A defect is an exit code
other than 0, 1 and 2, no message, a traceback, NumPy's words about pickles, more than 5 s of
processor time, more than 1 GB of memory, or an end by a signal. Every file follows from the seed
and its number alone; those with a defect stay in the folder of `--keep`. `test_files.py` does few.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import wave
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SECONDS, MEGABYTES, HANGS = 5.0, 1000, 60  # processor time; memory; seconds until a child is killed
FORBIDDEN = ("Traceback", "allow_pickle", "nnc has a bug", "unsafe")

TABLE = """
model M(x: f32[B, 2]) -> guess: f32[B] {
    h = x |> Dense(1)
    guess[b] = h[b, 0]
}

train M {
    data      = SOURCE
    loss      = mse(guess, y)
    optimizer = sgd(lr = 1e-3)
    steps     = 1
}
"""
TOKENS = """
model M(token: i32[B, T]) -> logits: f32[B, 300] {
    e = token |> Embedding(300, 2)
    h[b, j] = mean(t) e[b, t, j]
    logits = h |> Dense(300)
}

train M {
    data      = SOURCE
    loss      = cross_entropy(logits, LABEL)
    optimizer = sgd(lr = 1e-3)
    steps     = 1
}
"""
PAIRS = """
model M(source: i32[B, S], target_in: i32[B, T]) -> logits: f32[B, T, 300] {
    a = source |> Embedding(300, 2)
    c[b, j] = mean(s) a[b, s, j]
    e = target_in |> Embedding(300, 2)
    h[b, t, j] = e[b, t, j] + c[b, j]
    logits = h |> Dense(300)
}

train M {
    data      = pairs("t.tsv")
    loss      = cross_entropy(logits, target_out)
    optimizer = sgd(lr = 1e-3)
    steps     = 1
}
"""
PIXELS = """
model M(IMAGE) -> logits: f32[B, 10] {
    logits = image |> Flatten |> Dense(10)
}

train M {
    data      = SOURCE
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 1e-3)
    steps     = 1
}
"""
FRAMES = """
model M(frames: f32[B, T, 4]) -> logits: f32[B, 10] {
    m[b, j] = mean(t) frames[b, t, j]
    logits = m |> Dense(10)
}

train M {
    data      = wav(".", pattern = "{word}_{take}.wav", label = "word", mels = 4, test = 0)
    loss      = cross_entropy(logits, label)
    optimizer = sgd(lr = 1e-3)
    steps     = 1
}
"""
WINDOWS = TOKENS.replace("h[b, j] = mean(t) e[b, t, j]\n    logits = h", "logits = e").replace(
    "f32[B, 300]", "f32[B, T, 300]"
)


# --- files as they should be ----------------------------------------------------------------------


def _npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


def _npz(packed: bool, **arrays: np.ndarray) -> bytes:
    held = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(held, **arrays)
    return held.getvalue()


def _wav() -> bytes:
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((1000 * np.sin(np.arange(900.0))).astype("<i2").tobytes())
    return held.getvalue()


def _image(form: str) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    colours = (np.arange(12 * 9 * 3) * 7 % 251).astype(np.uint8).reshape(12, 9, 3)
    image = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"exif": exif} if form in ("png", "jpeg", "tiff", "webp") else {}
    image.save(held, form, **more)
    return held.getvalue()


def _idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return (0x0800 + array.ndim).to_bytes(4, "big") + sizes + array.astype(np.uint8).tobytes()


def _digits() -> dict[str, bytes]:
    files = {}
    for part in ("train", "t10k"):
        files[f"{part}-images-idx3-ubyte"] = _idx(np.arange(8 * 784).reshape(8, 28, 28) % 256)
        files[f"{part}-labels-idx1-ubyte"] = _idx(np.arange(8) % 10)
    return files


X, Y = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20, dtype=np.float32)
ROWS = "a,b,y\n" + "".join(f"{n},{n % 3}.5,{n / 4}\n" for n in range(20))
LINES = "".join(f"{'good' if n % 2 else 'bad'}\tword{n % 5} and more, {n}\n" for n in range(20))
PROSE = "the quick brown fox jumps over the lazy dog\n" * 20
RUN = "run"
RUN_FILES = {
    "weights.safetensors": "eval run",
    "settings.json": "predict run --input x.npy --output y.npy",
    "model.nn": "eval run",
    "vocabulary.json": "generate run --prompt the --length 2",
    "backup.json": "eval run",
    "checkpoints": "train --resume run --steps 2",
}


@dataclass(frozen=True)
class Kind:
    """A kind of file: its right content, its name in the folder, the others, and what reads it."""

    victim: str
    files: dict[str, bytes | str]
    command: str = "train m.nn --offline"


def _source(program: str, source: str, **more: str) -> str:
    text = program.replace("SOURCE", source)
    for name, value in more.items():
        text = text.replace(name, value)
    return text


def kinds() -> dict[str, Kind]:
    """All kinds by name, without those of a run, which has to be trained first."""
    table, tokens = _source(TABLE, 'csv("t.csv", target = "y")'), 'text("t.txt", length = 8)'
    arrays = 'npz("t.npz")'
    given = "predict run --input"
    found = {
        "csv": Kind("t.csv", {"m.nn": table, "t.csv": ROWS}),
        "csv of words": Kind(
            "t.csv",
            {
                "m.nn": _source(PIXELS, 'csv("t.csv", target = "y")', IMAGE="x: f32[B, 2]")
                .replace("image |>", "x |>")
                .replace(", label)", ", y)"),
                "t.csv": "a,b,y\n" + "".join(f"{n},{n},word{n % 9}\n" for n in range(30)),
            },
        ),
        "lines": Kind(
            "t.tsv", {"m.nn": _source(TOKENS, 'lines("t.tsv")', LABEL="label"), "t.tsv": LINES}
        ),
        "pairs": Kind("t.tsv", {"m.nn": PAIRS, "t.tsv": LINES}),
        "text": Kind(
            "t.txt", {"m.nn": _source(WINDOWS, tokens, LABEL="target"), "t.txt": PROSE}
        ),
        "text gz": Kind(
            "t.txt",
            {
                "m.nn": _source(WINDOWS, tokens, LABEL="target"),
                "t.txt": gzip.compress(PROSE[:400].encode(), mtime=0)
                + gzip.compress(PROSE[400:].encode(), mtime=0),
            },
        ),
        "npz": Kind(
            "t.npz", {"m.nn": _source(TABLE, arrays), "t.npz": _npz(False, x=X, y=Y)}
        ),
        "npz packed": Kind(
            "t.npz", {"m.nn": _source(TABLE, arrays), "t.npz": _npz(True, x=X, y=Y)}
        ),
        "npy": Kind(
            "x.npy",
            {
                "m.nn": _source(TABLE, 'npy(x = "x.npy", y = "y.npy")'),
                "x.npy": _npy(X),
                "y.npy": _npy(Y),
            },
        ),
        "predict npy": Kind("x.npy", {"x.npy": _npy(X)}, f"{given} x.npy --output y.npy"),
        "predict npz": Kind("t.npz", {"t.npz": _npz(False, x=X)}, f"{given} t.npz --output y.npy"),
        "predict npz packed": Kind(
            "t.npz", {"t.npz": _npz(True, x=X)}, f"{given} t.npz --output y.npz"
        ),
        "wav": Kind("a_1.wav", {"m.nn": FRAMES, "a_0.wav": _wav(), "a_1.wav": _wav()}),
        "use": Kind("b.nn", {"m.nn": 'use "b.nn"\n' + table, "b.nn": TABLE.split("train")[0]
                             .replace("model M", "layer Other"), "t.csv": ROWS}),
        "program": Kind("m.nn", {"m.nn": table, "t.csv": ROWS}),
        "mnist": Kind(
            "train-images-idx3-ubyte",
            {"m.nn": _source(PIXELS, "mnist()", IMAGE="image: f32[B, 28, 28, 1]"), **_digits()},
        ),
        "mnist labels": Kind(
            "t10k-labels-idx1-ubyte",
            {"m.nn": _source(PIXELS, "mnist()", IMAGE="image: f32[B, 28, 28, 1]"), **_digits()},
        ),
    }  # fmt: skip
    with contextlib.suppress(ImportError):
        for form in ("png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm"):
            ending = {"jpeg": "jpg"}.get(form, form)
            source = 'images("pets", size = [4, 4], test = 0)'
            program = _source(PIXELS, source, IMAGE="image: f32[B, 4, 4, 3]")
            victim = f"pets/dog/a.{ending}"
            found[form] = Kind(victim, {"m.nn": program, victim: _image(form)})
    for name, command in RUN_FILES.items():
        found[f"run: {name}"] = Kind(f"{RUN}/{name}", {"x.npy": _npy(X)}, command)
    return found


# --- spoiling -------------------------------------------------------------------------------------

EXTREMES = [0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF]
CELLS = [
    "", " ", "nan", "NA", "inf", "-inf", "1e999", "1e-999", "0x10", "1_0", "1,5", '"', '""', '"\n',
    "\0", "\ufeff", "\u2028", "é", "\ud7ff", "𝟙", "١", "-0", "+", "9" * 5000, "1e5", "true",
    "x" * 200_000, "\x1b[31m", "\r", "\t", ",", ";" * 50, "2024-01-01", "99999999999999999999",
]  # fmt: skip
HEADERS = [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 2), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 2), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999999, 2), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-20, 2), }",
    "{'descr': '<f4', 'fortran_order': True, 'shape': (20, 2), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (20, 2), }",
    "{'descr': '<c8', 'fortran_order': False, 'shape': (20, 2), }",
    "{'descr': '<U40', 'fortran_order': False, 'shape': (20, 2), }",
    "{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': (20,), }",
    "{'descr': ('<f4', (1000, 1000, 1000)), 'fortran_order': False, 'shape': (20, 2), }",
    "{'descr': '<f4', 'fortran_order': 1, 'shape': (20, 2), }",
    "{'descr': '<f4', 'shape': (20, 2), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 2), 'x': 1}",
    "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (20, 2), }",
    "{'descr': '<f16', 'fortran_order': False, 'shape': (20, 2), }",
    "{'descr': 'f4,f4', 'fortran_order': False, 'shape': (20,), }",
    "__import__('os').system('false')",
    "(" * 500 + ")" * 500,
    "[" * 60_000,
    "{" + "'a': {" * 3000,
    "1" * 60_000,
    "'" * 9,
]  # fmt: skip
VALUES = ["null", "[]", "{}", '"x"', "-1", "1e400", "[[[]]]", '""', "[3]"]
TREES = ["[" * 100_000, '{"a":' * 50_000, "null", "[]", "3", '"x"', "{", '{"a": NaN}', "1" * 5000]


def spoil(content: bytes, chance: random.Random, name: str) -> bytes:
    """One or a few ways to spoil a file."""
    ways: list[Callable[[bytes, random.Random], bytes]] = [
        _cut, _flip, _flip, _extreme, _extreme, _block, _number, _grow,
    ]  # fmt: skip
    if name.endswith((".csv", ".tsv", ".txt", ".nn")):
        ways += [_cell] * 6
    if name.endswith((".npy", ".npz")):
        ways += [_header] * 6
    if name.endswith(".npz"):
        ways += [_members] * 4
    if name.endswith(".json"):
        ways += [_tree] * 6
    if name.endswith(".safetensors"):
        ways += [_tensors] * 8
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        content = chance.choice(ways)(content, chance)
    return content


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _flip(content: bytes, chance: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8, 60])):
        if found:
            # The beginning, where headers are, as often as all the rest.
            end = len(found) if chance.random() < 0.5 else min(len(found), 100)
            found[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return bytes(found)


def _extreme(content: bytes, chance: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(chance.choice([1, 2, 4])):
        if found:
            end = len(found) if chance.random() < 0.5 else min(len(found), 100)
            place, width = chance.randrange(end), chance.choice([1, 2, 4, 8])
            found[place : place + width] = bytes([chance.choice(EXTREMES)]) * width
    return bytes(found)


def _block(content: bytes, chance: random.Random) -> bytes:
    """A part removed, doubled, moved or filled with zeros."""
    a, b, c = sorted(chance.randrange(len(content) + 1) for _ in range(3))
    return chance.choice(
        [
            content[:a] + content[b:],
            content[:b] + content[a:],
            content[:a] + content[b:c] + content[a:b] + content[c:],
            content[:a] + bytes(b - a) + content[b:],
        ]
    )


def _number(content: bytes, chance: random.Random) -> bytes:
    """A number of four bytes in the place of another."""
    if len(content) < 5:
        return content
    place = chance.randrange(min(len(content), 200) - 4)
    number = chance.choice([0, 1, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 60_000])
    return content[:place] + struct.pack(chance.choice("<>") + "I", number) + content[place + 4 :]


def _grow(content: bytes, chance: random.Random) -> bytes:
    return chance.choice(
        [
            content + content,
            content + bytes(chance.choice([1, 100, 1 << 20])),
            bytes(chance.choice([1, 64])) + content,
            b"\xef\xbb\xbf" + content,
            content.decode("latin-1").encode("utf-16"),
            content.replace(b"\n", b"\r\n"),
            gzip.compress(content, mtime=0),
            gzip.compress(bytes(1 << 26), mtime=0) + content,
            content * (200 if len(content) < 1 << 18 else 1),
        ]
    )


def _cell(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    for _ in range(chance.choice([1, 1, 2])):
        row = chance.randrange(len(lines))
        cells = lines[row].replace(b"\t", b",").split(b",")
        cells[chance.randrange(len(cells))] = chance.choice(CELLS).encode("utf-8", "surrogatepass")
        between = b"\t" if b"\t" in lines[row] else b","
        many = 20_000 if len(lines[row]) < 200 and max(map(len, cells)) < 50 else 2
        lines[row] = between.join(cells * chance.choice([1, 1, 1, 2, many]))
    return b"\n".join(lines)


def _npy_with(header: str) -> bytes:
    head = header.encode() + b"\n"
    if len(head) < 1 << 16:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + X.tobytes()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(head)) + head + X.tobytes()


def _header(content: bytes, chance: random.Random) -> bytes:
    made = _npy_with(chance.choice(HEADERS))
    if content[:2] != b"PK":
        return made
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", chance.choice([0, 8])) as file:
        file.writestr("x.npy", made)
        file.writestr("y.npy", _npy(Y))
    return held.getvalue()


def _members(content: bytes, chance: random.Random) -> bytes:
    """An archive whose directory lies, or with members that do not belong there."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", chance.choice([0, 8, 12, 14])) as file:
        for _ in range(chance.choice([1, 2, 3])):
            name = chance.choice(
                ["x.npy", "y.npy", "x", "../x.npy", "b\0.npy", "x_test.npy", ".npy"]
            )
            zeros = chance.choice([0, 0, 100, 1 << 27])
            with warnings.catch_warnings(action="ignore"):  # about a name that comes twice
                file.writestr(name, _npy(X) + bytes(zeros))
    found = bytearray(held.getvalue())
    # Sizes, flags and methods in the directory and in the members' own headers.
    for signature, offsets in (
        (b"PK\x01\x02", (8, 10, 20, 24, 42)),
        (b"PK\x03\x04", (6, 8, 18, 22, 26)),
    ):
        place = found.find(signature)
        if place >= 0 and chance.random() < 0.6:
            at = place + chance.choice(offsets)
            number = chance.choice([0, 1, 9, 99, 1 << 20, (1 << 31) - 1, (1 << 32) - 1])
            found[at : at + 4] = struct.pack("<I", number)
    return bytes(found)


def _tree(content: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return chance.choice(TREES).encode()
    try:
        plain = json.loads(content)
        name = chance.choice(list(plain))
        plain[name] = json.loads(chance.choice(VALUES))
        return json.dumps(plain).encode()
    except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
        return content


def _tensors(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file with a header that lies."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        name = chance.choice([n for n in header if n != "__metadata__"])
        entry = header[name]
        field, value = chance.choice(
            [
                ("data_offsets", [0, 1 << 60]),
                ("data_offsets", [8, 0]),
                ("data_offsets", [-1, 4]),
                ("shape", [1 << 40, 1 << 40]),
                ("shape", [-1]),
                ("shape", []),
                ("shape", [True, 2]),
                ("dtype", "BF16"),
                ("dtype", "F8_E4M3"),
                ("dtype", "X"),
                ("dtype", "I64"),
            ]
        )
        entry[field] = value
        if chance.random() < 0.3:
            header["__metadata__"] = chance.choice([{}, {"sha256": "0"}, {"step": 3}, None, []])
        text = json.dumps(header)
        if chance.random() < 0.2:
            text = text[:-1] + ',"' + name + '":' + json.dumps(entry) + "}"
        stated = chance.choice([len(text), len(text), 0, 1 << 62, len(text) + 5])
        return struct.pack("<Q", stated) + text.encode() + content[8 + length :]
    except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
        return content


# --- running --------------------------------------------------------------------------------------


def write(folder: Path, kind: Kind, number: int, seed: int | None) -> None:
    """The files of a kind in a folder, the victim spoilt unless there is no seed."""
    chance = random.Random(f"{seed} {number}")
    for name, content in kind.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    if seed is None:
        return
    victim = folder / kind.victim
    if victim.is_dir():
        victim = sorted(victim.iterdir())[-1]
    victim.write_bytes(spoil(victim.read_bytes(), chance, victim.name))


def chosen(number: int, seed: int | None) -> str:
    """The kind of a number; all kinds in turn, in an order that depends on the seed."""
    names = sorted(kinds())
    random.Random(str(seed)).shuffle(names)
    return names[number % len(names)]


def child(first: int, last: int, seed: int | None, base: Path) -> None:
    """Files `first` to `last`, one JSON object for each on stdout."""
    from nnc.runtime import cli

    table = kinds()
    out = os.fdopen(os.dup(1), "w")
    for number in range(first, last):
        kind = table[chosen(number, seed)]
        print(json.dumps({"begun": number}), file=out, flush=True)
        folder = base / str(number)
        folder.mkdir()
        needed = f"{RUN} texts" if "vocabulary" in kind.victim else RUN
        if RUN in kind.command.split():
            shutil.copytree(base / needed, folder / RUN)
            if kind.victim.startswith(RUN) and "backup" not in kind.victim:
                (folder / RUN / "backup.json").unlink()
        write(folder, kind, number, seed)
        os.chdir(folder)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        with open("said.txt", "w+b") as said:
            saved = os.dup(1), os.dup(2)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            start = time.process_time()
            code = cli.run(kind.command.split())
            seconds = time.process_time() - start
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            for handle in saved:
                os.close(handle)
        os.chdir(base)
        text = (folder / "said.txt").read_text("utf-8", "replace")
        found = {"done": number, "code": code, "seconds": seconds, "megabytes": _peak()}
        if wrong := _defect(found, text, (0,) if seed is None else (0, 1, 2)):
            found |= {"defect": wrong, "text": text[-3000:]}
        else:
            shutil.rmtree(folder)
        print(json.dumps(found), file=out, flush=True)


def _peak() -> float:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1000
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _defect(found: dict, text: str, codes: tuple[int, ...]) -> str:
    if found["code"] not in codes:
        return f"exit code {found['code']}"
    if found["seconds"] > SECONDS:
        return f"{found['seconds']:.1f} s"
    if found["megabytes"] > MEGABYTES:
        return f"{found['megabytes']:.0f} MB"
    if found["code"] and not text.strip():
        return "no message"
    return next((f"says `{word}`" for word in FORBIDDEN if word in text), "")


def prepare(base: Path) -> None:
    """The runs that commands read: one on a table and one on a text."""
    from nnc.runtime import cli

    before = Path.cwd()
    table = kinds()
    for name, kind in ((RUN, table["npy"]), (f"{RUN} texts", table["text"])):
        folder = base / f"{name} source"
        folder.mkdir()
        for file, content in kind.files.items():
            data = content.encode() if isinstance(content, str) else content
            (folder / file).write_bytes(data)
        os.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert cli.run(["train", "m.nn", "--out", str(base / name)]) == 0, name
        os.chdir(before)


def run(files: int, seed: int | None, base: Path) -> tuple[list[dict], Counter[int]]:
    """The defects, and how often each exit code came. A child that dies or hangs is a defect, and
    another goes on after it. Without a seed all files are as they should be."""
    prepare(base)
    defects: list[dict] = []
    codes: Counter[int] = Counter()
    last, number = files, 0
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "NNC_CACHE": str(base / "cache"),
        "XDG_CACHE_HOME": str(base / "cache"),
    }
    environment.pop("NNC_DATA", None)
    while number < last:
        command = [
            sys.executable,
            __file__,
            "--child",
            str(number),
            str(last),
            str(seed),
            str(base),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        begun, what = number, ""
        lines = _Lines(process)
        while (line := lines.next()) is not None:
            told = json.loads(line)
            if "begun" in told:
                begun = told["begun"]
                continue
            number = told["done"] + 1
            codes[told["code"]] += 1
            if "defect" in told:
                defects.append({**told, "kind": chosen(told["done"], seed)})
        process.wait()
        if number < last:
            what = "hangs" if lines.hung else f"ended by {process.returncode}"
            defects.append({"done": begun, "defect": what, "kind": chosen(begun, seed), "text": ""})
            number = begun + 1
    return defects, codes


class _Lines:
    """The lines of a child; one that says nothing for a minute is killed."""

    def __init__(self, process: subprocess.Popen):
        self.process, self.hung = process, False

    def next(self) -> str | None:
        timer = threading.Timer(HANGS, self._kill)
        timer.start()
        try:
            assert self.process.stdout is not None
            return self.process.stdout.readline() or None
        finally:
            timer.cancel()

    def _kill(self) -> None:
        self.hung = True
        self.process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a new folder in which defects are kept")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        first, last, seed, base = given.child
        child(int(first), int(last), None if seed == "None" else int(seed), Path(base))
        return
    with tempfile.TemporaryDirectory() as held:
        base = given.keep or Path(held)
        base.mkdir(exist_ok=True)
        start = time.monotonic()
        defects, codes = run(given.files, given.seed, base.resolve())
        for found in defects:
            print(f"--- file {found['done']} ({found['kind']}): {found['defect']}\n{found['text']}")
        print(
            f"{given.files} files of seed {given.seed}: {len(defects)} defects, exit codes "
            f"{dict(codes)}, in {time.monotonic() - start:.0f} s"
        )
    sys.exit(bool(defects))


if __name__ == "__main__":
    main()
