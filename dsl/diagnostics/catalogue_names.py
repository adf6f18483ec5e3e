"""Names and structure: what E02 and W02 codes mean.

In: nothing. Out: `NAMES`, a part of the catalogue.
"""

from __future__ import annotations

from .catalogue_entry import Entry, model

NAMES = (
    Entry(
        "E0201", "defined twice",
        "A name has one definition in a program. A file may redefine a name of the library.",
        "fn half(x) = x / 2\nfn half(x) = 0.5 * x",
        "fn half(x) = x / 2\nfn third(x) = x / 3",
    ),
    Entry(
        "E0202", "an unknown name",
        "The name is not an input, a size, a setting, a `let`, a tensor of this body or a "
        "definition.",
        "fn scaled(x) = x * factor",
        "fn scaled(x, factor) = x * factor",
    ),
    Entry(
        "E0203", "something that cannot be called",
        "Only layers and functions are applied to values: those of this file, of used files and of "
        "the library.",
        "fn twice(x) = doubled(x)",
        "fn doubled(x) = 2 * x\nfn twice(x) = doubled(x)",
    ),
    Entry(
        "E0204", "arguments that do not fit",
        "Arguments are given in the order of the definition or by name, each once, and no more "
        "than it has.",
        "fn half(x) = x / 2\nfn quarter(x) = half(x, 2)",
        "fn half(x) = x / 2\nfn quarter(x) = half(half(x))",
    ),
    Entry(
        "E0205", "an argument is missing",
        "Every setting and input without a default is given. A layer with settings has them in a "
        "first pair of parentheses and its inputs in a second, or after `|>`.",
        "fn scaled(x, factor) = factor * x\nfn half(x) = scaled(x)",
        "fn scaled(x, factor) = factor * x\nfn half(x) = scaled(x, 0.5)",
    ),
    Entry(
        "E0206", "a name is given a value twice",
        "Inside a body every name stands for one value, as in a paper. Only a `repeat` body gives "
        "a name its next value.",
        "fn f(x) -> y: [] {\n    y = 2 * x\n    y = y + 1\n}",
        "fn f(x) -> y: [] {\n    z = 2 * x\n    y = z + 1\n}",
    ),
    Entry(
        "E0207", "an index that nothing introduces",
        "The indices of an equation are those on its left and those of the reductions around the "
        "place. Any other name between brackets is a mistake.",
        "fn product(x: [n], w: [n, m]) -> y: [m] {\n    y[o] = x[i] * w[i, o]\n}",
        "fn product(x: [n], w: [n, m]) -> y: [m] {\n    y[o] = sum(i) x[i] * w[i, o]\n}",
    ),
    Entry(
        "E0208", "an index without a range",
        "The range of an index follows from where it is used. An index that nothing uses needs it "
        "said.",
        "fn table(x: [n]) -> y: [n] {\n    z[i, j] = x[i]\n    y[i] = z[i, 0]\n}",
        "fn table(x: [n]) -> y: [n] {\n    z[i, j < 3] = x[i]\n    y[i] = z[i, 0]\n}",
    ),
    Entry(
        "E0209", "a result that is never given a value",
        "Every name after `->` needs an equation; an optimizer needs one for `p'`.",
        "fn half(x: [n]) -> y: [n] {\n    _z = x / 2\n}",
        "fn half(x: [n]) -> y: [n] {\n    y = x / 2\n}",
    ),
    Entry(
        "E0210", "a layer inside an equation over indices",
        "A layer is applied to whole tensors, not at one index. Name its result, then index it.",
        "layer Twice(x: [..., n]) -> y: [..., n] {\n    y = 2 * x\n}\n"
        "layer Summed(x: [..., n]) -> y: [...] {\n    y[...] = sum(i) x[..., i] * Twice(x)\n}",
        "layer Twice(x: [..., n]) -> y: [..., n] {\n    y = 2 * x\n}\n"
        "layer Summed(x: [..., n]) -> y: [...] {\n    z = Twice(x)\n"
        "    y[...] = sum(i) x[..., i] * z[..., i]\n}",
    ),
    Entry(
        "E0211", "a parameter or state where there can be none",
        "A `fn` only computes; what is learnt or remembered belongs to a `layer`. An `optimizer` "
        "has `state` alone.",
        "fn scale(x: [n]) -> y: [n] {\n    param w: [n] = 1\n    y = w * x\n}",
        "layer Scale(x: [n]) -> y: [n] {\n    param w: [n] = 1\n    y = w * x\n}",
    ),
    Entry(
        "E0212", "a prime on something that has no next value",
        "`m'` is the next value of the `state` `m`; in an optimizer `p'` is that of the parameter.",
        "fn step(x: [n]) -> y: [n] {\n    y = x'\n}",
        "layer Step(x: [n]) -> y: [n] {\n    state last: [n] = 0\n    y = last\n    last' = x\n}",
    ),
    Entry(
        "E0213", "a definition that needs itself",
        "Layers and functions are put in place of their names, which would never end here.",
        "fn even(x) = odd(x - 1)\nfn odd(x) = even(x - 1)",
        "fn even(x) = x % 2 == 0\nfn odd(x) = x % 2 == 1",
    ),
    Entry(
        "E0214", "`...` out of place",
        "`...` stands for the leading dimensions: once in an index list or shape, and in "
        "`sum(...) body`. On the right it needs one on the left or a reduction over it.",
        "fn first(x: [..., n]) -> y: [...] {\n    y = sum(...)\n}",
        "fn first(x: [..., n]) -> y: [...] {\n    y[...] = x[..., 0]\n}",
    ),
    Entry(
        "E0215", "an index twice in one list",
        "Each index of a left side or a reduction has a name of its own. A diagonal is written "
        "with one index on the left and two on the right.",
        "fn square(x: [n]) -> y: [n, n] {\n    y[i, i] = x[i]\n}",
        "fn square(x: [n]) -> y: [n, n] {\n    y[i, j] = x[i] * x[j]\n}",
    ),
    Entry(
        "E0216", "a file that cannot be read",
        "The file does not exist or may not be read. The path in `use` is relative to the file it "
        "stands in.",
        'use "missing.nn"',
        "# no file is used",
    ),
    Entry(
        "E0217", "a file that may not be used",
        "`use` reads `.nn` files of the program's own folder and those below it, and no file "
        "uses itself by way of others.",
        'use "../secret.nn"',
        "# no file is used",
    ),
    Entry(
        "E0218", "a value read before it is computed",
        "Equations without indices are computed in the order of the text. Only equations over "
        "indices may read each other in any order, as in a recurrence.",
        model("y = 2 * h", "h = x + 1"),
        model("h = x + 1", "y = 2 * h"),
    ),
    Entry(
        "W0201", "a parameter that nothing reads",
        "It would be drawn, stored and never trained.",
        "layer Same(x: [n]) -> y: [n] {\n    param w: [n] = 1\n    y = x\n}",
        "layer Same(x: [n]) -> y: [n] {\n    param w: [n] = 1\n    y = w * x\n}",
    ),
    Entry(
        "W0202", "an input that nothing reads",
        "Nothing depends on it. A name that begins with `_` says that this is meant.",
        "fn first(x, other) = x",
        "fn first(x, _other) = x",
    ),
    Entry(
        "W0203", "a `let` that nothing reads",
        "Remove it, or use it.",
        "fn half(x) -> y: [] {\n    let two = 2\n    y = x / 2\n}",
        "fn half(x) -> y: [] {\n    let two = 2\n    y = x / two\n}",
    ),
    Entry(
        "W0204", "an equation that nothing reads",
        "It is not computed. Often its name is misspelt where it should be read.",
        "fn half(x) -> y: [] {\n    z = x * x\n    y = x / 2\n}",
        "fn half(x) -> y: [] {\n    z = x * x\n    y = z / 2\n}",
    ),
    Entry(
        "W0205", "a state that never changes",
        "A `state` outlives a step so that it can change: `m'` is its next value. Without one it "
        "is a constant.",
        model("state shift: [3] = 0", "y = x + shift"),
        model("state shift: [3] = 0", "y = x + shift", "shift' = 0.9*shift"),
    ),
)  # fmt: skip
