"""Commands that make something of a model for elsewhere."""

from __future__ import annotations

from typing import Any

import click

from ..commands import options as o


def _kinds(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    if value is None:
        return ()
    known = ("so", "a", "o", "dll", "dylib", "wasm", "page")
    found = tuple(dict.fromkeys(value.replace(" ", "").split(",")))
    for kind in found:
        if kind not in known:
            raise click.BadParameter(f"{kind!r} is none of {', '.join(known)}", context, parameter)
    return found


def _functions(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    known = ("predict", "evaluate", "train_step", "generate")
    found = tuple(dict.fromkeys((value or "").replace(" ", "").split(","))) if value else ()
    for function in found:
        if function not in known:
            message = f"{function!r} is none of {', '.join(known)}"
            raise click.BadParameter(message, context, parameter)
    return found


@click.command(
    epilog=o.examples(
        "nnc export runs/digits --to digits_c",
        "nnc export runs/digits --to digits_page --as page",
        "nnc export model.nn --to model_c --target aarch64-neon --as a --embed --batch 1",
    )
)
@o.program
@o.option_group(
    click.option("--to", type=o.FILE, required=True, metavar="DIR", help="A new or empty folder."),
    click.option(
        "--target",
        default="",
        show_default="host, or wasm32, windows-x64, apple-m1 for --as wasm or page, dll, dylib",
        metavar="NAME",
        help="host, x86-64-v2, x86-64-v3, x86-64-v4, aarch64-neon, armv7-neon, rv64gc-linux, "
        "apple-m1, windows-x64, cortex-m4, cortex-m7, rv32imc, rv64gc, wasm32, wasm32-plain, or a "
        "triple.",
    ),
    click.option(
        "--as",
        "kinds",
        show_default="so, or wasm for --target wasm32",
        callback=_kinds,
        metavar="KIND,…",
        help="so: a shared library; a: a static one; o: an object file; dll, dylib: shared "
        "libraries of Windows and macOS, which need the extra `link`; wasm: a WebAssembly module "
        "with what calls it from JavaScript; page: one page of HTML with all of that inside.",
    ),
    click.option("--embed", is_flag=True, help="Put the weights into the library."),
    click.option(
        "--threads",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        metavar="N",
        help="Among how many threads of the caller a call may be divided at most.",
    ),
    click.option(
        "--functions",
        callback=_functions,
        metavar="NAME,…",
        help="predict, evaluate, train_step, generate; all that the model has unless said. Every "
        "library predicts.",
    ),
    o.weights_option,
    o.calibrate_option,
)
def export(**given: Any) -> None:
    """Write a C library of FILE's model, or of a run with what it learnt: predicting, evaluating
    and training, with a header, an example and the weights.

    No C compiler is needed, and the library needs no other: the caller gives all memory. Results
    are those of `nnc predict` and `nnc train` here, to the bit."""
    from ..commands.export import export as run

    run(**given)
