"""Exported libraries for microcontrollers: on an emulated Cortex-M4 without an operating system
they predict and train what nnc does, in the memory that they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from exported import Library, numbers, run, tool
from small_programs import DIGITS, RICH, write
from support import mostly_slow, system

from nnc.compiler.codegen.llvm.index_width import narrowed
from nnc.runtime import cli
from nnc.runtime.data.sets import digits
from nnc.runtime.device.cpu import elf_linker

ROOT = Path(__file__).parents[2]
# Reset: the floating-point unit is switched on, then the C library begins, whose output the
# emulator prints (semihosting).
STARTUP = """
extern void _start(void);
__attribute__((naked, noreturn)) void reset(void) {
    __asm__ volatile("ldr r0, =0xE000ED88\\n ldr r1, [r0]\\n orr r1, r1, #0xF00000\\n"
                     "str r1, [r0]\\n dsb\\n isb\\n b _start\\n");
}
__attribute__((section(".vectors"), used)) void *vectors[2] = {(void *)0x20400000, (void *)reset};
"""
SCRIPT = """
ENTRY(reset)
MEMORY { FLASH : ORIGIN = 0x0, LENGTH = 4M  RAM : ORIGIN = 0x20000000, LENGTH = 4M }
SECTIONS {
    .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) KEEP(*(.init)) KEEP(*(.fini)) } > FLASH
    .init_array : { KEEP(*(.init_array*)) } > FLASH
    .data : { *(.data*) } > RAM
    __bss_start__ = .;
    .bss : { *(.bss*) *(COMMON) } > RAM
    __bss_end__ = .;
    end = .;
    __end__ = .;
    /DISCARD/ : { *(.ARM.ex*) *(.comment) }
}
"""
BOARD = ["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-mthumb"]
MACHINE = ["-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none",
           "-semihosting-config", "enable=on,target=native", "-kernel", "main.elf"]  # fmt: skip


def export(folder: Path, path: Path, *arguments: str) -> Path:
    command = ["export", str(path), "--to", str(folder), "--as", "a", "--embed", *arguments]
    assert cli.run(command) == 0
    return folder


def on_the_board(folder: Path) -> str:
    """What the example of a folder prints on the emulated board."""
    compiler, emulator = tool("arm-none-eabi-gcc"), tool("qemu-system-arm")
    (folder / "startup.c").write_text(STARTUP)
    (folder / "board.ld").write_text(SCRIPT)
    (library,) = folder.glob("*.a")
    sources = ["main.c", "startup.c", library.name]
    flags = [*BOARD, "-O1", "-T", "board.ld", "--specs=rdimon.specs", "-Wl,--gc-sections"]
    run([compiler, *flags, *sources, "-o", "main.elf"], folder)
    return run([emulator, *MACHINE], folder)


def filled(folder: Path, prefix: str) -> None:
    """The example with numbers other than zeros."""
    source = (folder / "main.c").read_text()
    for function, arena, count in (("predict", "arena", 64), ("train_step", "training", 256)):
        name = f"{prefix}_{function}_image({arena})"
        some = f"for (int n = 0; n < {count}; n++) {name}[n] = n % 7 / 7.0f;"
        assert f"{name}[0] = 0;" in source
        source = source.replace(f"{name}[0] = 0;", some)
    (folder / "main.c").write_text(source)


@pytest.mark.skipif(not elf_linker.supported(), reason="compared on x86-64 Linux")
def test_a_cortex_m4_predicts_and_trains(tmp_path):
    path = write(tmp_path, DIGITS.replace("Dense(12)", "Dense(8)"))
    folder = export(tmp_path / "arm", path, "--target", "cortex-m4", "--batch", "4")
    filled(folder, "small")
    found = numbers(on_the_board(folder))
    host = tmp_path / "host"
    assert cli.run(["export", str(path), "--to", str(host), "--batch", "4"]) == 0
    library = Library(host)
    image = (np.arange(256) % 7 / 7).astype(np.float32)
    library.array("predict", "image")[0] = image[:64].reshape(8, 8, 1)
    library.call("predict", library.weights, 1)
    assert np.abs(np.array(found[:10]) - library.array("predict", "logits")[0]).max() < 2e-6
    library.init()
    losses = []
    for _ in range(3):
        library.array("train_step", "image")[...] = image.reshape(4, 8, 8, 1)
        assert library.call("train_step", library.values) == 0
        losses.append(float(library.array("train_step", "loss")))
    assert found[10:] == pytest.approx(losses, abs=2e-6)


# All real digits lie in flash, as bytes of 0 to 16. Batches are drawn by a linear congruential
# generator.
LEARNS = """
#include "written.h"
#include <stdio.h>
#include "digits_data.h"
static _Alignas(8) unsigned char values[WRITTEN_VALUES_BYTES];
static _Alignas(8) unsigned char arena[WRITTEN_TRAIN_STEP_ARENA_BYTES];
_Static_assert(sizeof arena >= WRITTEN_PREDICT_ARENA_BYTES, "one arena for both");

static void put(float *image, int row) {
    for (int n = 0; n < 64; n++) image[n] = images[row][n] / 16.0f;
}

static int train(void) {
    return written_train_step(arena, sizeof arena, values, sizeof values);
}

static int deepest;

/* Calls with a stack of a known content, to see how much of it is used. */
__attribute__((noinline)) static int used(int (*call)(void)) {
    volatile char *stack;
    __asm__ volatile("mov %0, sp" : "=r"(stack));
    for (int n = 1; n < 4096; n++) stack[-n] = 77;
    int code = call();
    for (deepest = 4095; deepest && stack[-deepest] == 77;) deepest--;
    return code;
}

int main(void) {
    unsigned random = 1;
    if (written_init(values, sizeof values, written_weights, WRITTEN_WEIGHTS_BYTES)) return 1;
    for (int step = 0; step < STEPS; step++) {
        for (int n = 0; n < WRITTEN_BATCH; n++) {
            random = random * 1664525u + 1013904223u;
            int row = (random >> 8) % TRAINING;
            put(written_train_step_image(arena) + 64 * n, row);
            written_train_step_label(arena)[n] = labels[row];
        }
        if (step ? train() : used(train)) return 2;
    }
    int right = 0;
    for (int row = TRAINING; row < TRAINING + TESTING; row++) {
        put(written_predict_image(arena), row);
        if (written_predict(arena, sizeof arena, values, sizeof values, 1)) return 3;
        const float *logits = written_predict_logits(arena);
        int best = 0;
        for (int n = 1; n < 10; n++) if (logits[n] > logits[best]) best = n;
        right += best == labels[row];
    }
    printf("right %d of %d ram %d stack %d\\n", right, TESTING, (int)(sizeof values + sizeof arena),
           deepest);
    return 0;
}
"""


def digits_in_flash() -> str:
    """The digits as C, those of training first: every fifth one tests."""
    with np.load(digits.FILE) as stored:
        images, labels = stored["image"].reshape(-1, 64), stored["label"]
    tests = np.arange(len(labels)) % 5 == 0
    order = np.argsort(tests, kind="stable")
    rows = ",".join("{" + ",".join(map(str, row)) + "}" for row in images[order])
    counts = f"enum {{ STEPS = 1800, TRAINING = {(~tests).sum()}, TESTING = {tests.sum()} }};"
    return (
        f"{counts}\nstatic const unsigned char images[][64] = {{{rows}}};\n"
        f"static const unsigned char labels[] = {{{','.join(map(str, labels[order]))}}};\n"
    )


@pytest.mark.slow
def test_a_network_learns_real_digits_in_64_kilobytes(tmp_path):
    """From its first weights, on a Cortex-M4: 1,800 steps of eight, ten times through the data."""
    path = ROOT / "examples" / "mlp_digits.nn"
    folder = export(tmp_path / "c", path, "--target", "cortex-m4", "--batch", "8")
    (folder / "main.c").write_text(LEARNS)
    (folder / "digits_data.h").write_text(digits_in_flash())
    _, right, _, count, _, ram, _, stack = on_the_board(folder).split()
    assert int(right) / int(count) >= 0.95
    assert int(ram) + int(stack) <= 64 << 10
    about = json.loads((folder / "manifest.json").read_text())["functions"]["written_train_step"]
    caller = 32  # bytes of the function that calls it
    assert about["stack_bytes"] / 2 < int(stack) <= about["stack_bytes"] + caller


@pytest.mark.slow
def test_training_needs_no_f64_and_no_wide_division(tmp_path):
    """Adam's powers, a schedule's cosine, long sums, draws: what f64 is used for elsewhere."""
    folder = export(tmp_path / "c", write(tmp_path, RICH, "rich.nn"), "--target", "cortex-m4")
    listed = run([tool("arm-none-eabi-nm"), "-u", "librich.a"], folder).split()
    symbols = {name for name in listed if name != "U" and not name.endswith(".o:")}
    assert all(name.startswith("rich.") for name in symbols), symbols


def test_the_convolutional_network_is_small(tmp_path):
    """Beside its weights, which stay in flash."""
    path = ROOT / "examples" / "cnn_digits.nn"
    folder = export(tmp_path / "c", path, "--target", "cortex-m4", "--batch", "1")
    about = json.loads((folder / "manifest.json").read_text())
    assert about["bytes"]["code of digits_predict"] <= 4608
    assert about["functions"]["digits_predict"]["arena_bytes"] <= 16 << 10
    function = about["functions"]["digits_predict"]
    assert 0 < function["stack_bytes"] <= 1024
    code = sum(about["bytes"][f"code of {n}"] for n in ("digits", "digits_predict"))
    assert function["flash_bytes"] > code + about["bytes"]["weights"]
    assert about["bytes"]["RAM for digits_predict"] == (
        function["arena_bytes"] + function["stack_bytes"]
    )
    undefined = run([tool("arm-none-eabi-nm"), "-u", "libdigits.a"], folder)
    _, _, predicting = undefined.partition("digits_predict.o:")
    predicting = predicting.partition("digits_evaluate.o:")[0].split()
    assert {name for name in predicting if name != "U"} == {"digits.checked"}


@pytest.mark.slow
@pytest.mark.skipif(not elf_linker.supported(), reason="compared on x86-64 Linux")
def test_in_8_bits_a_cortex_m4_gives_the_bits_of_the_host(tmp_path):
    """In less flash, and no more RAM."""
    path = ROOT / "examples" / "cnn_digits.nn"
    more = ["--target", "cortex-m4", "--batch", "1", "--functions", "predict"]
    folder = export(tmp_path / "arm", path, *more, "--weights", "int8")
    plain = export(tmp_path / "plain", path, *more)
    sizes = [json.loads((f / "manifest.json").read_text())["bytes"] for f in (folder, plain)]
    assert sizes[0]["weights"] < 0.27 * sizes[1]["weights"]
    assert sizes[0]["code of digits_predict"] < 10 << 10
    about = json.loads((folder / "manifest.json").read_text())
    assert about["functions"]["digits_predict"]["arena_bytes"] <= 14 << 10
    source = (folder / "main.c").read_text()
    name = "digits_predict_image(arena)"
    some = f"for (int n = 0; n < 64; n++) {name}[n] = n % 7 / 7.0f;"
    (folder / "main.c").write_text(source.replace(f"{name}[0] = 0;", some))
    found = numbers(on_the_board(folder))
    host = tmp_path / "host"
    command = ["export", str(path), "--to", str(host), "--batch", "1", "--weights", "int8"]
    assert cli.run(command) == 0
    library = Library(host)
    library.array("predict", "image")[0] = (np.arange(64) % 7 / np.float32(7)).reshape(8, 8, 1)
    assert library.call("predict", library.weights, 1) == 0
    assert found == [float(f"{v:.9g}") for v in library.array("predict", "logits")[0]]


@pytest.mark.parametrize("target", mostly_slow(["cortex-m7", "rv32imc", "rv64gc"], {"rv32imc"}))
def test_other_boards_are_compiled_for(tmp_path, target):
    folder = export(tmp_path / "c", write(tmp_path), "--target", target, "--batch", "1")
    kinds = run([tool("readelf"), "-h", "libsmall.a"], folder)
    assert ("ARM" if target == "cortex-m7" else "RISC-V") in kinds
    assert ("ELF64" if target == "rv64gc" else "ELF32") in kinds


def test_indices_become_narrow_where_nothing_else_is_wide():
    text = "declare i64 @f(i64)\ndeclare i32 @f(i32)\n  %v = sext i32 %n to i64\n  mul i64 %v, 3"
    narrow = "declare i32 @f(i32)\n  %v = bitcast i32 %n to i32\n  mul i32 %v, 3"
    plain = system("model M(x: [n]) -> y: [n] { y[i] = x[i] * 2 }", float_type="f32", n=3)
    assert narrowed(text, plain) == narrow
    far = f"{text}\n  add i64 %v, {1 << 31}"
    assert narrowed(far, plain) == far
    wide = system("model M(x: [n]) -> y: [n] { y[i] = x[i] * 2 }", n=3)
    assert narrowed(text, wide) == text
