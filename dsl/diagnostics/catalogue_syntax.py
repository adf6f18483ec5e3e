"""The text of a program: what E01 codes mean.

In: nothing. Out: `TEXT`, a part of the catalogue.
"""

from __future__ import annotations

from .catalogue_entry import Entry

TEXT = (
    Entry(
        "E0101", "something else was expected here",
        "The text does not have the form of the language at the marked place. The message lists "
        "what could stand there.",
        "fn double(x) = 2 x",
        "fn double(x) = 2 * x",
    ),
    Entry(
        "E0102", "a bracket has no partner",
        "Every `(`, `[` and `{` is closed by its own kind, the last opened first.",
        "fn double(x) = (x + x",
        "fn double(x) = (x + x)",
    ),
    Entry(
        "E0103", "a string or docstring is not closed",
        'A string ends with `"` on the line it begins; a docstring ends with `"""`.',
        'use "blocks.nn\nfn half(x) = x / 2',
        '"""A half."""\nfn half(x) = x / 2',
    ),
    Entry(
        "E0104", "a character the language does not have",
        "Programs are written in plain letters, digits and the operators of the language. Any "
        "character may stand in comments, strings and docstrings.",
        "fn both(x, y) = if x > 0 & y > 0 then 1 else 0",
        "fn both(x, y) = if x > 0 and y > 0 then 1 else 0",
    ),
    Entry(
        "E0105", "a word of the language used as a name",
        "Words such as `if`, `param`, `state`, `sum` and `max` have a meaning of their own and "
        "name nothing else.",
        "fn shifted(x) -> y: [] {\n    let param = 1\n    y = x + param\n}",
        "fn shifted(x) -> y: [] {\n    let offset = 1\n    y = x + offset\n}",
    ),
    Entry(
        "E0106", "an index on the left is not a name",
        "The indices on the left of `=` introduce the dimensions of the result, so each is a name. "
        "Arithmetic on indices belongs on the right, or on the left of `+=`.",
        "fn spread(x: [n]) -> y: [2 * n] {\n    y[2*i] = x[i]\n}",
        "fn spread(x: [n]) -> y: [2 * n] {\n    y[i] = x[i // 2]\n}",
    ),
    Entry(
        "E0107", "a reduction over something that is not an index",
        "Before a value, the parentheses of `sum`, `max`, `mean` … hold the indices to reduce "
        "over: `i`, `i < n`, or `...` for the leading dimensions.",
        "fn total(x: [n]) -> y: [] {\n    y = sum(i + 1) x[i]\n}",
        "fn total(x: [n]) -> y: [] {\n    y = sum(i) x[i]\n}",
    ),
    Entry(
        "E0108", "a number that does not fit",
        "Integers have 64 bits and so have floating-point numbers.",
        "fn far(x) = x + 1e999",
        "fn far(x) = x + inf",
    ),
    Entry(
        "E0109", "a file that is not UTF-8 text",
        "Programs are stored as UTF-8. Most editors can save a file with that encoding.",
        "a file saved as Latin-1 with an accent in a comment",
        "the same file saved as UTF-8",
        compiled=False,
    ),
    Entry(
        "E0110", "nested too deeply",
        "An expression has more levels than the compiler follows. Give a part of it a name.",
        "fn deep(x) = " + "-" * 210 + "x",
        "fn deep(x) = --x",
    ),
    Entry(
        "E0111", "an unknown element type",
        "A type is an element type (f32, f64, i32, i64, u8, bool), a shape in brackets, or both.",
        "fn same(x: float[n]) -> y: [n] {\n    y = x\n}",
        "fn same(x: f32[n]) -> y: [n] {\n    y = x\n}",
    ),
    Entry(
        "E0112", "a docstring that documents nothing",
        "A docstring stands at the top of a file, before a declaration or first in its body.",
        'fn half(x) = x / 2\n"""The end."""',
        'fn half(x) = x / 2\n# the end',
    ),
)  # fmt: skip
