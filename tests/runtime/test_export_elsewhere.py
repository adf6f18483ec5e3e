"""Libraries for Windows and macOS: their headers, what they export, and that they need nothing.

The code of a .dll runs here, in a process of Linux that maps it and calls it as Windows does. No
code of a .dylib runs.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from exported import numbers, run, tool
from small_programs import RICH, write

from nnc.runtime import cli
from nnc.runtime.device.cpu import elf_linker
from nnc.runtime.export import zig_linker
from nnc.runtime.export.zig_linker import PACKAGE

FUNCTIONS = {f"rich_{n}" for n in ("check", "message", "init", "predict", "evaluate", "train_step")}

# Maps a .dll, and calls its functions by Windows' calling convention, as main.c does.
LOADER = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "rich.h"

static unsigned char *base;

static uint32_t word(uint32_t at) { uint32_t n; memcpy(&n, base + at, 4); return n; }

static void *function(uint32_t exports, const char *name) {
    for (uint32_t n = 0; n < word(exports + 24); n++)
        if (!strcmp((char *)base + word(word(exports + 32) + 4 * n), name)) {
            uint16_t ordinal;
            memcpy(&ordinal, base + word(exports + 36) + 2 * n, 2);
            return base + word(word(exports + 28) + 4 * ordinal);
        }
    fprintf(stderr, "no %s\n", name);
    exit(9);
}

static _Alignas(64) unsigned char arena[RICH_TRAIN_STEP_ARENA_BYTES + RICH_PREDICT_ARENA_BYTES];
static _Alignas(64) unsigned char values[RICH_VALUES_BYTES];
typedef int (*step)(void *, size_t, void *, size_t) __attribute__((ms_abi));
typedef int (*predict)(void *, size_t, const void *, size_t, size_t) __attribute__((ms_abi));
typedef int (*init)(void *, size_t, const void *, size_t) __attribute__((ms_abi));

int main(int count, char **names) {
    static unsigned char raw[1 << 20];
    FILE *file = fopen(names[count - 1], "rb");
    fread(raw, 1, sizeof raw, file);
    uint32_t head, size;
    memcpy(&head, raw + 60, 4);
    memcpy(&size, raw + head + 80, 4);
    base = mmap(0, size, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint16_t sections, optional;
    memcpy(&sections, raw + head + 6, 2);
    memcpy(&optional, raw + head + 20, 2);
    for (int n = 0; n < sections; n++) {
        uint32_t at[4];
        memcpy(at, raw + head + 24 + optional + 40 * n + 8, 16);
        memcpy(base + at[1], raw + at[3], at[2] < at[0] ? at[2] : at[0]);
    }
    uint32_t exports;
    memcpy(&exports, raw + head + 24 + 112, 4);
    unsigned char *weights = function(exports, "rich_weights");
    for (int n = 0; n < 64; n++) rich_predict_image(arena)[n] = n % 7 / 7.0f;
    int code = ((predict)function(exports, "rich_predict"))(
        arena, sizeof arena, weights, RICH_WEIGHTS_BYTES, 1);
    if (code) return code;
    for (int n = 0; n < 10; n++) printf("%.9g ", rich_predict_logits(arena)[n]);
    code = ((init)function(exports, "rich_init"))(
        values, sizeof values, weights, RICH_WEIGHTS_BYTES);
    for (int k = 0; k < 3 && !code; k++) {
        for (int n = 0; n < 1280; n++) rich_train_step_image(arena)[n] = n % 7 / 7.0f;
        memset(rich_train_step_label(arena), 0, 20 * sizeof(int32_t));
        memset(rich_train_step_kind(arena), 0, 20 * sizeof(int32_t));
        code = ((step)function(exports, "rich_train_step"))(
            arena, sizeof arena, values, sizeof values);
        printf("%.9g ", *rich_train_step_loss(arena));
    }
    return code;
}
"""


def export(folder: Path, *arguments: str) -> Path:
    pytest.importorskip(PACKAGE)
    path = write(folder.parent, RICH, "rich.nn")
    assert cli.run(["export", str(path), "--to", str(folder), "--embed", *arguments]) == 0
    return folder


def exports_of_dll(data: bytes) -> tuple[set[str], int]:
    """The names that a library for Windows exports, and where its table of imports is."""
    (head,) = struct.unpack_from("<I", data, 60)
    assert data[:2] == b"MZ" and data[head : head + 4] == b"PE\0\0"
    machine, count = struct.unpack_from("<HH", data, head + 4)
    size, flags, magic = struct.unpack_from("<HHH", data, head + 20)
    assert (machine, magic) == (0x8664, 0x20B) and flags & 0x2000  # x86-64, PE32+, a .dll
    sections = [
        struct.unpack_from("<4I", data, head + 24 + size + 40 * n + 8) for n in range(count)
    ]

    def place(address: int) -> int:
        return next(p + address - a for n, a, _, p in sections if a <= address < a + n)

    table, _, imports = struct.unpack_from("<3I", data, head + 24 + 112)
    names, listed = (struct.unpack_from("<I", data, place(table) + at)[0] for at in (24, 32))
    found = set()
    for n in range(names):
        (at,) = struct.unpack_from("<I", data, place(listed) + 4 * n)
        found.add(data[place(at) :].split(b"\0", 1)[0].decode())
    return found, imports


@pytest.mark.slow
def test_a_dll_exports_the_functions_and_needs_nothing(tmp_path):
    folder = export(tmp_path / "c", "--as", "dll,o")
    about = json.loads((folder / "manifest.json").read_text())
    assert about["target"]["name"] == "windows-x64"
    assert {"rich.dll", "rich.lib", "rich.o"} <= about["files"].keys()
    found, imports = exports_of_dll((folder / "rich.dll").read_bytes())
    assert found == FUNCTIONS | {"rich_weights"} and imports == 0
    assert b"rich_predict" in (folder / "rich.lib").read_bytes()
    again = export(tmp_path / "again", "--as", "dll,o")
    assert (folder / "rich.dll").read_bytes() == (again / "rich.dll").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not elf_linker.supported(), reason="its code is for x86-64")
def test_the_code_of_a_dll_computes_what_x86_does(tmp_path):
    windows = export(tmp_path / "c", "--as", "dll", "--batch", "20")
    (windows / "loader.c").write_text(LOADER)
    flags = ["-O1", "-w", "-I.", "-DRICH_LINKED"]
    run([tool("gcc"), *flags, "loader.c", "-o", "loader"], windows)
    found = numbers(run(["./loader", "rich.dll"], windows))
    linux = export(tmp_path / "l", "--target", "x86-64-v2", "--as", "o", "--batch", "20")
    source = (linux / "main.c").read_text()
    for place, count in (("predict_image(arena)", 64), ("train_step_image(training)", 1280)):
        some = f"for (int n = 0; n < {count}; n++) rich_{place}[n] = n % 7 / 7.0f;"
        source = source.replace(f"rich_{place}[0] = 0;", some)
    (linux / "main.c").write_text(source)
    run([tool("gcc"), "main.c", "rich.o", "-o", "main"], linux)
    assert len(found) == 13
    assert found == numbers(run(["./main"], linux))


def commands_of_macho(data: bytes) -> list[tuple[int, bytes]]:
    magic, processor, _, kind, count = struct.unpack_from("<5I", data)
    assert (magic, processor, kind) == (0xFEEDFACF, 0x0100000C, 6)  # 64 bits, ARM, a library
    place, found = 32, []
    for _ in range(count):
        command, size = struct.unpack_from("<II", data, place)
        found.append((command, data[place : place + size]))
        place += size
    return found


@pytest.mark.slow
def test_a_dylib_exports_the_functions_and_is_signed(tmp_path):
    folder = export(tmp_path / "c", "--as", "dylib")
    data = (folder / "librich.dylib").read_bytes()
    commands = commands_of_macho(data)
    loaded = [c[24:].rstrip(b"\0") for kind, c in commands if kind == 0xC]
    assert loaded == [b"/usr/lib/libSystem.B.dylib"]
    assert any(kind == 0x1D for kind, _ in commands)  # a signature
    (table,) = (struct.unpack_from("<4I", c, 8) for kind, c in commands if kind == 2)
    symbols, count, strings, _ = table
    found = set()
    for n in range(count):
        name, kind, section = struct.unpack_from("<IBB", data, symbols + 16 * n)
        if kind & 1 and section:  # external, and defined here
            found.add(data[strings + name :].split(b"\0", 1)[0].decode())
    assert {n[1:] for n in found if n.startswith("_rich")} == FUNCTIONS | {"rich_weights"}


def test_without_the_package_it_is_said(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(zig_linker, "find_spec", lambda name: None)
    path = write(tmp_path)
    for kind in ("dll", "dylib"):
        command = ["--error-format", "json", "export", str(path), "--to", str(tmp_path / "c")]
        assert cli.run([*command, "--as", kind, "--functions", "predict"]) == 1
        said = json.loads(capfd.readouterr().err)
        assert said["code"] == "E0724" and "nnc-lang[link]" in said["help"]
        assert not (tmp_path / "c").exists()
