"""The texts that go with an exported library: the C header, an example in C, a page to read.

In: the programs, their memory and the target. Out: texts. C's names begin with the model's.
Tests: tests/runtime/test_export.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from textwrap import fill

from ... import __version__
from ...compiler.codegen.llvm.library_body import FAILURES
from ...compiler.ir.dtypes import BYTES
from ...compiler.machines import Machine
from ..memory import size_text
from .layout import Layout
from .programs import Place, Program

C_TYPES = {
    "bool": "uint8_t", "u8": "uint8_t", "i8": "int8_t", "i32": "int32_t", "i64": "int64_t",
    "f32": "float", "f64": "double", "f16": "uint16_t", "bf16": "uint16_t",
}  # fmt: skip
MEANT = {"bool": "0 or 1", "f16": "bits of binary16", "bf16": "the upper halves of f32"}


def c_name(name: str) -> str:
    """A name as C has it: `DigitsCnn` is `digits_cnn`, other letters are their code points."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    found = "".join(c if re.match(r"[a-z0-9_]", c) else f"_u{ord(c):x}" for c in apart)
    return found if re.match(r"[a-z]", found) else f"m{found}"


@dataclass(frozen=True)
class About:
    """What the texts say of a library."""

    model: str
    prefix: str
    machine: Machine
    programs: Sequence[Program]
    layout: Layout
    abi: int
    equations: str  # the hash of the equations
    seed: int
    batch: int
    embedded: bool
    kinds: Sequence[str]
    steps: str = ""  # in which order steps of several kinds are taken
    sizes: dict[str, int] = field(default_factory=dict)
    imports: Sequence[str] = ()  # functions of JavaScript that a WebAssembly module calls

    @property
    def trains(self) -> bool:
        return any(p.purpose == "train_step" for p in self.programs)

    @property
    def has_states(self) -> bool:
        """Whether training has more in its memory than the weights."""
        return self.layout.bytes > self.layout.weights_bytes

    def files(self) -> dict[str, str]:
        """The names of the files by kind."""
        return {
            "so": f"lib{self.prefix}.so", "a": f"lib{self.prefix}.a", "o": f"{self.prefix}.o",
            "dll": f"{self.prefix}.dll", "lib": f"{self.prefix}.lib",
            "dylib": f"lib{self.prefix}.dylib", "wasm": f"{self.prefix}.wasm",
            "page": f"{self.prefix}.html",
        }  # fmt: skip

    def named(self) -> list[str]:
        """The files that the command names: what was asked for, and how it is called."""
        found = [self.files()[kind] for kind in self.kinds]
        if {*self.kinds} == {"page"}:
            return found
        return [*found, f"{self.prefix}.{'mjs' if self.machine.is_wasm else 'h'}"]


def files(about: About) -> dict[str, bytes]:
    """The files beside the library, by name."""
    made = {
        f"{about.prefix}.h": header(about), "main.c": example(about), "README.md": readme(about)
    }  # fmt: skip
    return {name: text.encode() for name, text in made.items()}


# --- the header -----------------------------------------------------------------------------------


def header(about: About) -> str:
    """The C header, which C++ takes, too."""
    prefix, big = about.prefix, about.prefix.upper()
    layout = about.layout
    lines = [
        f"/* The model {about.model}, exported by nnc {__version__} for {about.machine.name}.",
        f"   Batch {about.batch}; equations {about.equations}. */",
        f"#ifndef {big}_H",
        f"#define {big}_H",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"#define {big}_ABI UINT64_C({about.abi:#018x})  /* of this header and its library */",
        f'#define {big}_EQUATIONS "{about.equations}"',
        f"#define {big}_ALIGNMENT {about.machine.alignment}  /* of every memory, in bytes */",
        f"#define {big}_BATCH {about.batch}",
        f"#define {big}_SEED {about.seed}",
        f"#define {big}_WEIGHTS_BYTES {layout.weights_bytes}",
    ]
    if about.trains:
        lines.append(
            f"#define {big}_VALUES_BYTES {layout.bytes}  /* weights, and what trains them */"
        )
    lines += [f"#define {p.name.upper()}_ARENA_BYTES {p.arena_bytes}" for p in about.programs]
    lines += ["", "/* What every function returns. */", "enum {"]
    lines += [
        f"    {big}_{name} = {code},  /* {text} */" for code, (name, text) in enumerate(FAILURES)
    ]
    lines += [
        "};",
        "",
        "/* Whether this header, the library and the processor belong together: call it first. */",
        f"int {prefix}_check(uint64_t abi);",
        f"const char *{prefix}_message(int code);",
    ]
    if about.machine.threads > 1:
        lines += _threads(about)
    if about.embedded:
        lines += ["", *_weights(about)]
    if about.has_states:
        lines += [
            "",
            "/* The memory of training as it is at first, from weights. */",
            f"int {prefix}_init(void *values, size_t values_bytes, const void *weights, "
            "size_t weights_bytes);",
        ]
    for program in about.programs:
        lines += _function(program, about)
    lines += ["", "#ifdef __cplusplus", "}", "#endif", "#endif", ""]
    return "\n".join(lines)


THREADS = """
/* The caller's threads, among which a call is divided: `run` calls part(data, n) once for each n
   from 0 to parts - 1, in any order and on any threads, and returns when all have returned. There
   are {0}_THREADS parts at most. Without threads (NULL) the results are the same. */
#define {0}_THREADS {2}
typedef struct {{
    void (*run)(void *context, int parts, void (*part)(void *data, int number), void *data);
    void *context;
    int parts;
}} {1}_threads;"""


def _threads(about: About) -> list[str]:
    text = THREADS.format(about.prefix.upper(), about.prefix, about.machine.threads)
    return text.splitlines()


def _weights(about: About) -> list[str]:
    declared = f"const unsigned char {about.prefix}_weights[{about.prefix.upper()}_WEIGHTS_BYTES];"
    if "dll" not in about.kinds:
        return [f"extern {declared}"]
    # Functions of a .dll are called through the import library; data must be declared as imported.
    return [
        f"#ifdef {about.prefix.upper()}_LINKED  /* with the object, not with the .dll */",
        f"extern {declared}",
        "#else",
        f"__declspec(dllimport) extern {declared}",
        "#endif",
    ]


def _function(program: Program, about: About) -> list[str]:
    said = {
        "predict": "The results of up to {0} examples, by weights or by the memory of training.",
        "evaluate": "The loss and the metrics of a batch, by weights or by the memory of training.",
        "train_step": "One step of training: changes `values`.",
        "generate_first": "Begin a text.",
        "generate_next": "Read a token, the prompt's or the one that was chosen: the logits of "
        "the next.",
    }[program.purpose]
    if not program.examples:
        said = said.replace("up to {0} examples", "a batch")
    constant = "" if program.purpose == "train_step" else "const "
    more = ", size_t examples" if program.examples else ""
    if about.machine.threads > 1:
        more += f", const {about.prefix}_threads *threads"
    lines = [
        "",
        f"/* {said.format(program.examples)} */",
        f"int {program.name}(void *arena, size_t arena_bytes, {constant}void *values, "
        f"size_t values_bytes{more});",
    ]
    for place, name in zip(program.places, place_names(program), strict=True):
        kind = C_TYPES[place.type]
        if place.is_input:
            lines.append(
                f"static inline {kind} *{name}(void *arena) "
                f"{{ return ({kind} *)((char *)arena + {place.offset}); }}  /* {_said(place)} */"
            )
        else:
            lines.append(
                f"static inline const {kind} *{name}(const void *arena) "
                f"{{ return (const {kind} *)((const char *)arena + {place.offset}); }}"
                f"  /* {_said(place)} */"
            )
    return lines


def place_names(program: Program) -> list[str]:
    """The functions that give the addresses of inputs and results: no two have one name."""
    found: list[str] = []
    for place in program.places:
        name = f"{program.name}_{c_name(place.name)}"
        while name in found:
            name += "_"
        found.append(name)
    return found


def _said(place: Place) -> str:
    shape = ", ".join(map(str, place.shape))
    meant = f", {MEANT[place.type]}" if place.type in MEANT else ""
    return f"{'in' if place.is_input else 'out'}: {place.type}[{shape}]{meant}"


# --- an example -----------------------------------------------------------------------------------


def example(about: About) -> str:
    """A program in C that predicts once, and trains a little where the library does."""
    prefix, big, first = about.prefix, about.prefix.upper(), about.programs[0]
    purposes = {p.purpose: p for p in about.programs}
    step = purposes.get("train_step")
    lines = [
        f"/* An example of {prefix}.h: README.md says how it is compiled. */",
        f'#include "{prefix}.h"',
        "#include <stdio.h>",
        "",
        f"static _Alignas({big}_ALIGNMENT) unsigned char arena[{first.name.upper()}_ARENA_BYTES];",
    ]
    if not about.embedded:
        lines.append(
            f"static _Alignas({big}_ALIGNMENT) unsigned char weights[{big}_WEIGHTS_BYTES];"
        )
    if step is not None:
        lines += [
            f"static _Alignas({big}_ALIGNMENT) unsigned char values[{big}_VALUES_BYTES];",
            f"static _Alignas({big}_ALIGNMENT) unsigned char "
            f"training[{step.name.upper()}_ARENA_BYTES];",
        ]
    lines += [
        "",
        "static int failed(const char *what, int code) {",
        f'    fprintf(stderr, "%s: %s\\n", what, {prefix}_message(code));',
        "    return 1;",
        "}",
        "",
        "int main(void) {",
        f"    int code = {prefix}_check({big}_ABI);",
        f'    if (code) return failed("{prefix}_check", code);',
    ]
    source = f"{prefix}_weights" if about.embedded else "weights"
    if not about.embedded:
        lines += [
            '    FILE *file = fopen("weights.bin", "rb");',
            "    if (!file || fread(weights, 1, sizeof weights, file) != sizeof weights) {",
            '        perror("weights.bin");',
            "        return 1;",
            "    }",
            "    fclose(file);",
        ]
    lines += _prediction(first, place_names(first), source, big, about.machine.threads > 1)
    if step is not None:
        lines += _training(about, step, source)
    return "\n".join([*lines, "    return 0;", "}", ""])


def _prediction(
    program: Program, names: Sequence[str], source: str, big: str, threads: bool
) -> list[str]:
    lines = ["", "    /* Your numbers go here: the arena is all zeros. */"]
    for place, name in zip(program.places, names, strict=True):
        if place.is_input:
            value = {"seed": f"{big}_SEED", "step": "1"}.get(place.name, "0")
            lines.append(f"    {name}(arena)[0] = {value};  /* {_said(place)} */")
    more = ", 1" if program.examples else ""
    more += ", NULL" * threads
    call = f"{program.name}(arena, sizeof arena, {source}, {big}_WEIGHTS_BYTES{more})"
    lines += [f"    code = {call};", f'    if (code) return failed("{program.name}", code);']
    for place, name in zip(program.places, names, strict=True):
        if not place.is_input:
            count = prod(place.shape[1:]) if program.examples else prod(place.shape)
            lines += [
                f'    printf("{place.name}:");',
                f"    for (size_t n = 0; n < {count}; n++) "
                f'printf(" %.9g", (double){name}(arena)[n]);',
                '    printf("\\n");',
            ]
    return lines


def _training(about: About, step: Program, source: str) -> list[str]:
    prefix, big = about.prefix, about.prefix.upper()
    names, none = place_names(step), ", NULL" * (about.machine.threads > 1)
    if about.has_states:
        begin = f"{prefix}_init(values, sizeof values, {source}, {big}_WEIGHTS_BYTES)"
        lines = ["", f"    code = {begin};", f'    if (code) return failed("{prefix}_init", code);']
    else:
        lines = [
            "",
            f"    for (size_t n = 0; n < sizeof values; n++) values[n] = {source}[n];",
        ]
    lines += [
        "    for (int k = 0; k < 3; k++) {",
        "        /* A batch of your examples goes here. */",
    ]
    lines += [
        f"        {name}(training)[0] = 0;  /* {_said(place)} */"
        for place, name in zip(step.places, names, strict=True)
        if place.is_input
    ]
    lines += [
        f"        code = {step.name}(training, sizeof training, values, sizeof values{none});",
        f'        if (code) return failed("{step.name}", code);',
    ]
    loss = next((name for p, name in zip(step.places, names, strict=True) if not p.is_input), None)
    if loss:
        lines.append(f'        printf("loss %.9g\\n", (double){loss}(training)[0]);')
    return [*lines, "    }"]


# --- a page ---------------------------------------------------------------------------------------


def readme(about: About) -> str:
    """What the folder holds, how it is compiled, how much memory it takes."""
    prefix, files = about.prefix, about.files()
    cc = about.machine.compiler
    commands = {
        "so": f"{cc} main.c -o main -L. -l{prefix} -Wl,-rpath,'$ORIGIN'",
        "a": f"{cc} main.c {files['a']} -o main",
        "o": f"{cc} main.c {files['o']} -o main",
        "dll": f"cl /std:c11 main.c {files['lib']}",
        "dylib": f"cc main.c -o main -L. -l{prefix}",
    }
    weights = "in the library" if about.embedded else "in weights.bin"
    machine = about.machine
    text = [
        f"# {about.model} as a C library",
        "",
        fill(
            f"Exported by nnc {__version__} for {machine.name} (`{machine.triple}`), with a batch "
            f"of {about.batch}. The weights are {weights}. The library allocates nothing, calls "
            "nothing and keeps nothing: all memory is the caller's, and any number of threads may "
            "call it, each with memory of its own.",
            100,
        ),
        "",
        "```sh",
        *(commands[kind] for kind in about.kinds),
        "```",
        "",
        f"The interface is in [{prefix}.h]({prefix}.h), an example in [main.c](main.c), all sizes "
        "and hashes in",
        "[manifest.json](manifest.json).",
        "",
        *sizes_table(about),
    ]
    text += ["", "Memory begins at a multiple of "
             f"{machine.alignment} bytes. One arena may serve several functions, one after the "
             "other;", "each needs its inputs anew."]  # fmt: skip
    if about.steps:
        text += ["", about.steps]
    if machine.required:
        text += [
            "",
            fill(
                f"The processor must have the instructions of {machine.name}; `{prefix}_check` and "
                "every other function return an error code where it has not.",
                100,
            ),
        ]
    return "\n".join([*text, ""])


def sizes_table(about: About) -> list[str]:
    """What takes how much memory, as lines of Markdown."""
    rows = [*about.sizes.items(), ("weights", about.layout.weights_bytes)]
    if about.trains:
        rows.append(("values: weights and the optimizer's states", about.layout.bytes))
    rows += [(f"arena of `{p.name}`", p.arena_bytes) for p in about.programs]
    return ["| | bytes |", "|---|---:|", *(f"| {name} | {size:,} |" for name, size in rows)]


def report(about: About) -> str:
    """What the command prints: sizes, in lines."""
    rows = [(f"{name}", size_text(size)) for name, size in about.sizes.items()]
    rows.append(("weights", size_text(about.layout.weights_bytes)))
    if about.trains:
        rows.append(("values of training", size_text(about.layout.bytes)))
    rows += [(f"arena of {p.name}", size_text(p.arena_bytes)) for p in about.programs]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {size}" for name, size in rows)


def described(place: Place) -> dict[str, object]:
    """A place as the manifest has it."""
    return {
        "name": place.name, "type": place.type, "shape": list(place.shape),
        "offset": place.offset, "bytes": BYTES[place.type] * prod(place.shape),
    }  # fmt: skip
