"""The texts that go with a WebAssembly module: what calls it from JavaScript, its types, an
example, a page to read.

In: what `header.py` says of libraries. Out: texts. What is the same for all models is in
`web/model.js`. Tests: tests/runtime/test_export_wasm.py.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from textwrap import fill

from ... import __version__
from ...compiler.codegen.llvm.library_body import FAILURES
from .header import About, sizes_table
from .programs import Place, Program

WEB = Path(__file__).with_name("web")
ARRAYS = {
    "bool": "Uint8Array", "u8": "Uint8Array", "i8": "Int8Array", "i32": "Int32Array",
    "i64": "BigInt64Array", "f32": "Float32Array", "f64": "Float64Array", "f16": "Float32Array",
    "bf16": "Float32Array",
}  # fmt: skip
OWN = ("seed", "step")  # inputs that have a value unless one is given
METHODS = {"predict": "predict", "evaluate": "evaluate", "train_step": "trainStep"}


def files(about: About) -> dict[str, bytes]:
    """The files beside the module, by name."""
    made = {
        f"{about.prefix}.mjs": wrapper(about),
        f"{about.prefix}.d.mts": types(about),
        "example.mjs": example(about),
        "README.md": readme(about),
    }
    return {name: text.encode() for name, text in made.items()}


def suffix(about: About, program: Program) -> str:
    """A function's name without that of the model."""
    return program.name.removeprefix(f"{about.prefix}_")


def description(about: About) -> dict[str, object]:
    """What the program in JavaScript has to know of the module."""
    return {
        "model": about.model,
        "prefix": about.prefix,
        "abi": str(about.abi),
        "batch": about.batch,
        "seed": about.seed,
        "embedded": about.embedded,
        "trains": about.trains,
        "hasStates": about.has_states,
        "weightsBytes": about.layout.weights_bytes,
        "valuesBytes": about.layout.bytes,
        "functions": {
            suffix(about, p): {
                "arena": p.arena_bytes,
                "counts": p.examples > 0,
                "examples": p.examples or about.batch,
                "inputs": [_place(place) for place in p.places if place.is_input],
                "outputs": [_place(place) for place in p.places if not place.is_input],
            }
            for p in about.programs
        },
    }


def _place(place: Place) -> dict[str, object]:
    return {
        "name": place.name,
        "type": place.type,
        "shape": list(place.shape),
        "offset": place.offset,
    }


def wrapper(about: About) -> str:
    """The module of JavaScript that calls the one of WebAssembly."""
    return (
        f"/* The model {about.model}, exported by nnc {__version__}: see README.md. */\n"
        f"{constants(about)}\n" + (WEB / "model.js").read_text("utf-8")
    )


def constants(about: About) -> str:
    """What is said before `web/model.js`."""
    return (
        f"const ABOUT = {json.dumps(description(about))};\n"
        f"const FAILURES = {json.dumps([list(row) for row in FAILURES])};\n"
    )


# --- types ----------------------------------------------------------------------------------------


def types(about: About) -> str:
    """The declarations for TypeScript."""
    lines = [
        f"/* The model {about.model}, exported by nnc {__version__}. */",
        "export type Numbers = number | bigint | ArrayLike<number> | ArrayLike<bigint>",
        "  | ReadonlyArray<Numbers>;",
        "export type Source = string | URL | Response | BufferSource;",
        "",
        "export declare class ModelError extends Error {",
        "  code: number;",
        f"  reason: {' | '.join(json.dumps(name) for name, _ in FAILURES)};",
        "}",
        "",
        "export interface Sampling {",
        "  count?: number;",
        "  temperature?: number;",
        "  topK?: number;",
        "  topP?: number;",
        "  seed?: number;",
        "  known?: number;",
        "  end?: number;",
        "  given?: Record<string, Numbers>;",
        "}",
        "",
        "export declare class Model {",
        "  static load(given?: { module?: Source | WebAssembly.Module; weights?: Source }): "
        "Promise<Model>;",
        "  constructor(instance: WebAssembly.Instance, weights?: BufferSource);",
        "  readonly exports: WebAssembly.Exports;",
        "  readonly batch: number;",
        "  readonly seed: number;",
    ]
    steps = [p for p in about.programs if p.purpose == "train_step"]
    for program in about.programs:
        if program.purpose not in METHODS:
            continue
        lines += [f"  {METHODS[program.purpose]}(inputs: {{"]
        lines += [f"    {_field(place)}" for place in program.places if place.is_input]
        turn = suffix(about, program).removeprefix("train_step").removeprefix("_")
        more = f", turn: {json.dumps(turn)}" if len(steps) > 1 and program in steps else ""
        lines += [f"  }}{more}): {{"]
        lines += [f"    {_field(place)}" for place in program.places if not place.is_input]
        lines += ["  };"]
    lines += ["  init(): void;"] * about.trains
    lines += ["  save(): Uint8Array;", "  restore(saved: BufferSource): void;"]
    if any(p.purpose == "generate_next" for p in about.programs):
        lines += [
            "  generateFirst(given?: Record<string, Numbers>): void;",
            "  generateNext(token: number): Float32Array;",
            "  generate(prompt: ArrayLike<number>, options?: Sampling): Generator<number>;",
        ]
    return "\n".join([*lines, "}", "", "export declare const load: typeof Model.load;", ""])


def _field(place: Place) -> str:
    optional = "?" if place.is_input and place.name in OWN else ""
    kind = "Numbers" if place.is_input else ARRAYS[place.type]
    if not place.is_input and not place.shape:
        kind = "bigint" if place.type == "i64" else "number"
    return f"{json.dumps(place.name)}{optional}: {kind};  // {_type(place)}"


def _type(place: Place) -> str:
    return f"{place.type}[{', '.join(map(str, place.shape))}]"


# --- an example -----------------------------------------------------------------------------------


def example(about: About) -> str:
    """A program for node that predicts once, and trains a little where the module does."""
    first = about.programs[0]
    lines = [
        "// An example: node example.mjs",
        f'import {{ load }} from "./{about.prefix}.mjs";',
        "",
        "const model = await load();",
        "// Your numbers go here.",
        f"console.log(model.predict({_zeros(first, 1 if first.examples else 0)}));",
    ]
    step = next((p for p in about.programs if p.purpose == "train_step"), None)
    if step is not None:
        turn = suffix(about, step).removeprefix("train_step").removeprefix("_")
        more = f", {json.dumps(turn)}" if turn else ""
        lines += [
            "for (let k = 0; k < 3; k += 1) {",
            "  // A batch of your examples goes here.",
            f"  console.log(model.trainStep({_zeros(step, 0)}{more}));",
            "}",
        ]
    return "\n".join([*lines, ""])


def _zeros(program: Program, examples: int) -> str:
    """Inputs of zeros, for so many examples, or for a whole batch."""
    parts = []
    for place in program.places:
        if place.is_input and place.name not in OWN:
            size = (
                prod(place.shape[1:]) * examples if examples and place.shape else prod(place.shape)
            )
            parts.append(f"{json.dumps(place.name)}: new Array({size}).fill(0)")
    return f"{{ {', '.join(parts)} }}" if parts else "{}"


# --- a page to read -------------------------------------------------------------------------------


def readme(about: About) -> str:
    """What the folder holds and how it is used."""
    prefix = about.prefix
    weights = "in the module" if about.embedded else "in `weights.bin`"
    imports = ", ".join(f"`Math.{name}`" for name in about.imports)
    needs = f"It imports {imports}, and nothing else" if imports else "It imports nothing"
    text = [
        f"# {about.model} as a WebAssembly module",
        "",
        fill(
            f"Exported by nnc {__version__} for {about.machine.name}, with a batch of "
            f"{about.batch}. The weights are {weights}. {needs}; its memory is exported, as "
            f"`memory`, and free from `__heap_base` on. [{prefix}.mjs]({prefix}.mjs) calls it, "
            f"[{prefix}.d.mts]({prefix}.d.mts) has the types of inputs and results, "
            "[example.mjs](example.mjs) is an example: `node example.mjs`.",
            100,
        ),
        "",
        "```html",
        '<script type="module">',
        f'  import {{ load }} from "./{prefix}.mjs";',
        "  const model = await load();",
        f"  console.log(model.predict({_zeros(about.programs[0], 1)}));",
        "</script>",
        "```",
        "",
        fill(
            "A browser fetches the files from a server. Numbers may be nested or in one row; "
            "results are typed arrays in which the last index runs first. What is wrong is a "
            "`ModelError` with the `code` and `reason` of the module's functions.",
            100,
        ),
        "",
        *sizes_table(about),
    ]
    if about.steps:
        text += ["", about.steps]
    return "\n".join([*text, ""])
