"""Every diagnostic code: what it means, a wrong example and a right one.

In: nothing. Out: `CATALOGUE`, in code order. The messages themselves are where they are found.
E01 syntax · E02 names and structure · E03 sizes, indices, types · E04 train blocks ·
E05 recurrences and differentiation · E06 data · E07 runs and checkpoints · W warnings.

To add a code, add an `Entry` at its place. `tests/language` holds each to its word: the wrong
example yields exactly this code, the right one none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One code. Where `compiled` is False the mistake is not in a `.nn` file."""

    code: str
    title: str
    explanation: str
    wrong: str
    right: str
    compiled: bool = True


def _model(*lines: str, given: str = "f32[B, 3]", result: str = "f32[B, 3]") -> str:
    """A model of these equations."""
    body = "".join(f"    {line}\n" for line in lines)
    return f"model M(x: {given}) -> y: {result} {{\n{body}}}\n"


def _train(model: str, *lines: str) -> str:
    """A model and its train block."""
    body = "".join(f"    {line}\n" for line in lines)
    return f"{model}train M {{\n{body}}}\n"


# Definitions that several examples use.
_SPLIT = "fn split(x: [...]) -> a: [...], b: [...] {\n    a = x / 2\n    b = x / 3\n}\n"
_DENSE = "model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    y = x |> Dense(3)\n}\n"

_ENTRIES = (
    # --- E01: syntax ---
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
    # --- E02: names and structure ---
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
        _model("y = 2 * h", "h = x + 1"),
        _model("h = x + 1", "y = 2 * h"),
    ),
    # --- E03: sizes, indices, types ---
    Entry(
        "E0301", "a shape that does not fit its declaration",
        "What is given to an input, and what a body computes for a result, has the dimensions "
        "declared there. The same name is the same size everywhere in a signature.",
        _model("y = x |> Dense(4)"),
        _model("y = x |> Dense(3)"),
    ),
    Entry(
        "E0302", "the wrong number of dimensions at one element",
        "In an equation over indices a tensor is read at one place: with one index for each of "
        "its dimensions, or `...` for the leading ones.",
        _model("y[b, i] = x[b]"),
        _model("y[b, i] = x[b, i]"),
    ),
    Entry(
        "E0303", "shapes that do not fit each other",
        "Arithmetic on whole tensors lines their shapes up at the last dimension; sizes must be "
        "equal or 1. For `@` the columns on the left are the rows on the right.",
        _model("param s: [4] = 1", "y = s * x"),
        _model("param s: [3] = 1", "y = s * x"),
    ),
    Entry(
        "E0304", "sizes of an index disagree",
        "An index has one range in an equation. Two tensors that it indexes have different sizes "
        "there: often two indices are exchanged.",
        _model("param w: [5, 3] ~ normal", "y[b, o] = sum(i) x[b, i] * w[i, o]"),
        _model("param w: [3, 3] ~ normal", "y[b, o] = sum(i) x[b, i] * w[i, o]"),
    ),
    Entry(
        "E0305", "an index whose range is not known",
        "The range of an index follows from a tensor that it indexes by itself. Where there is "
        "none, it is said: `sum(k < 3)`.",
        _model("y[b, i] = x[b, i] * sum(k) 2"),
        _model("y[b, i] = x[b, i] * sum(k < 3) 2"),
    ),
    Entry(
        "E0306", "an index that can fall outside",
        "Every index stays inside the tensor that it reads, or the read says what stands outside: "
        "`(x[i - 1] else 0)`.",
        _model("y[b, i] = x[b, i] - x[b, i - 1]"),
        _model("y[b, i] = x[b, i] - (x[b, i - 1] else 0)"),
    ),
    Entry(
        "E0307", "a value of the wrong type",
        "An input declared with whole numbers, such as a label or a token, is not given real ones.",
        _model("y = x |> Embedding(10, 3)", result="f32[B, 3, 3]"),
        _model("y = x |> Embedding(10, 3)", given="i32[B, 3]", result="f32[B, 3, 3]"),
    ),
    Entry(
        "E0308", "a size that is not a known whole number",
        "Sizes and settings are known when compiling: they come from shapes, settings, `let`s and "
        "arithmetic on them. Whole numbers are divided with `//`.",
        _model("y = x |> Dense(6 / 4) |> Dense(3)"),
        _model("y = x |> Dense(6 // 4) |> Dense(3)"),
    ),
    Entry(
        "E0309", "a size below what is possible",
        "A size is negative, a range is empty, or the arithmetic on sizes divides by zero. Often a "
        "window is larger than the image it moves over.",
        _model("y = x |> Dense(3 - 5) |> Dense(3)"),
        _model("y = x |> Dense(5 - 3) |> Dense(3)"),
    ),
    Entry(
        "E0310", "an index that is not a whole number",
        "Between brackets stand whole numbers. `i // 2` is one, `i / 2` is not; a tensor of real "
        "numbers is converted with `i32(…)`.",
        _model("y[b, i] = x[b, i / 2]"),
        _model("y[b, i] = x[b, i // 2]"),
    ),
    Entry(
        "E0311", "too large",
        "A tensor has at most 2,147,483,647 elements, whole numbers have 64 bits, and a program "
        "with all layers and `repeat` blocks written out has at most 10,000 equations.",
        _model("y = x |> Dense(2^40) |> Dense(3)"),
        _model("y = x |> Dense(2^10) |> Dense(3)"),
    ),
    Entry(
        "E0312", "a word, a layer or a function where a value is needed",
        'Words such as `"same"` are compared, not computed with; layers and functions are applied.',
        _model("y = x * relu"),
        _model("y = x * relu(x)"),
    ),
    Entry(
        "E0313", "a whole tensor needed at one element",
        "A function over whole tensors cannot be applied to something that depends on an index of "
        "the equation around it.",
        _model("param w: [3] = 1", "y[b, i] = max(softmax(x[b, i] * w))"),
        _model("param w: [3] = 1", "z[b, i, j] = x[b, i] * w[j]", "p = softmax(z)",
               "y[b, i] = max(j) p[b, i, j]"),
    ),
    Entry(
        "E0314", "a reduction of a single number",
        "`sum(x)` adds up all elements of a tensor. To reduce over an index, it stands in the "
        "parentheses: `sum(i) x[i]`.",
        _model("let n = 3", "y = x / sum(n)"),
        _model("let n = 3", "y = x / n"),
    ),
    Entry(
        "E0315", "an accumulation without its extent",
        "After `+=` stands a `sum` over all that is added, and every place on the left says how "
        "far it goes: `count[token[b] < 10] += sum(b) 1`.",
        _model("y = x", "_c[i] += sum(b, i) x[b, i]"),
        _model("y = x", "_c[i < 3] += sum(b, i) x[b, i]"),
    ),
    Entry(
        "E0316", "a size that nothing binds",
        "A name in the shape of a model's input is bound by the data, by `train`, or by "
        "`--set NAME=SIZE`.",
        "model M(x: f32[B, T]) -> y: f32[B, T] { y = x }, compiled without sizes",
        "the same, with `--set T=16`",
        compiled=False,
    ),
    Entry(
        "E0317", "a different number of results",
        "A layer or function with several results is given as many names: `h, c = x |> LSTM(8)`.",
        _SPLIT + _model("y = 2 * split(x)"),
        _SPLIT + _model("half, third = split(x)", "y = half + third"),
    ),
    Entry(
        "E0318", "a model's input without a full shape",
        "A model says what it is given: the type of every input and all its dimensions.",
        "model M(x) -> y {\n    y = 2 * x\n}",
        "model M(x: f32[B, 3]) -> y {\n    y = 2 * x\n}",
    ),
    Entry(
        "E0319", "a name that the compiler needs",
        "`step` and `seed` are inputs that every training step has of itself; a model's own inputs "
        "and results are called differently.",
        "model M(x: f32[B, 3]) -> step: f32[B, 3] {\n    step = 2 * x\n}",
        "model M(x: f32[B, 3]) -> pace: f32[B, 3] {\n    pace = 2 * x\n}",
    ),
    Entry(
        "E0320", "an objection of a function",
        "A `fn` whose value is a sentence objects to what it is given: the compilation ends with "
        "that sentence. The library does so where numbers of heads, groups or the like do not fit.",
        _model("y = x |> Attention(4)", given="f32[B, 8, 6]", result="f32[B, 8, 6]"),
        _model("y = x |> Attention(3)", given="f32[B, 8, 6]", result="f32[B, 8, 6]"),
    ),
    # --- E04: train blocks ---
    Entry(
        "E0401", "an unknown field in a train block",
        "A train block has fixed fields, `metric`, `until`, `input` and `let`.",
        "model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    y = 2 * x\n}\n"
        "train M {\n    loss = mean(y)\n    epoch = 10\n}",
        _DENSE + "train M {\n    loss = mean(y)\n    epochs = 10\n    optimizer = sgd()\n}",
    ),
    Entry(
        "E0402", "two train blocks for one model",
        "A model is trained in one way in one file. Runs that differ in a few values use `--set`.",
        _DENSE + "train M { loss = mean(y) }\ntrain M { loss = mean(y^2) }",
        _DENSE + "train M { loss = mean(y); optimizer = sgd() }",
    ),
    Entry(
        "E0403", "training something that is not a model",
        "`train` is followed by the name of a `model` of this program.",
        "train Missing { loss = mean(y) }",
        _DENSE + "train M { loss = mean(y); optimizer = sgd() }",
    ),
    Entry(
        "E0404", "a train block without a loss",
        "Training makes a number smaller: `loss` says which.",
        "model M(x: f32[B]) -> y: f32[B] {\n    y = 2 * x\n}\ntrain M { batch = 32 }",
        _DENSE + "train M { batch = 32; loss = mean(y); optimizer = sgd() }",
    ),
    Entry(
        "E0405", "a field is set twice",
        "Each field, metric and `let` of a train block has one value.",
        _DENSE + "train M {\n    loss = mean(y)\n    batch = 32\n    batch = 64\n}",
        _DENSE + "train M {\n    loss = mean(y)\n    optimizer = sgd()\n    batch = 64\n}",
    ),
    Entry(
        "E0406", "not an optimizer",
        "The field `optimizer` names an `optimizer` of the program or the library, with settings.",
        "fn slow(p) = p\nmodel M(x: f32[B]) -> y: f32[B] {\n    y = 2 * x\n}\n"
        "train M {\n    loss = mean(y)\n    optimizer = slow(0.1)\n}",
        "optimizer slow(lr = 0.01) { p' = p - lr * g }\n" +
        _DENSE + "train M {\n    loss = mean(y)\n    optimizer = slow(0.1)\n}",
    ),
    Entry(
        "E0407", "an input that the data do not have",
        "The inputs of a trained model are fields of its data, by their names.",
        _train("model M(pixels: f32[B, 28, 28, 1]) -> y: f32[B, 10] {\n"
               "    y = pixels |> Flatten |> Dense(10)\n}\n",
               "data = mnist()", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
        _train("model M(image: f32[B, 28, 28, 1]) -> y: f32[B, 10] {\n"
               "    y = image |> Flatten |> Dense(10)\n}\n",
               "data = mnist()", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
    ),
    Entry(
        "E0408", "data of another shape than the input",
        "After the batch, an input has the dimensions of one example of the data.",
        _train("model M(image: f32[B, 784]) -> y: f32[B, 10] {\n    y = image |> Dense(10)\n}\n",
               "data = mnist()", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
        _train("model M(image: f32[B, 28, 28, 1]) -> y: f32[B, 10] {\n"
               "    y = image |> Flatten |> Dense(10)\n}\n",
               "data = mnist()", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
    ),
    Entry(
        "E0409", "a field whose type is not known",
        "Without data at hand, the file itself says the types of the fields that the train block "
        "reads.",
        _train(_DENSE, "loss = mse(y, target)", "optimizer = sgd()"),
        _train(_DENSE, "input target: f32[B, 3]", "loss = mse(y, target)", "optimizer = sgd()"),
    ),
    Entry(
        "E0410", "not a single number",
        "A loss, a metric and a penalty are one number each: a `mean` or a `sum`.",
        _train(_DENSE, "loss = y^2", "optimizer = sgd()"),
        _train(_DENSE, "loss = mean(y^2)", "optimizer = sgd()"),
    ),
    Entry(
        "E0411", "a train block without an optimizer",
        "`optimizer` says how the gradient changes the parameters.",
        _train(_DENSE, "loss = mean(y^2)"),
        _train(_DENSE, "loss = mean(y^2)", "optimizer = adam(lr = 1e-3)"),
    ),
    # --- E05: recurrences ---
    Entry(
        "E0501", "equations without an order",
        "A tensor may be computed from its own earlier places, or from its later ones, but not "
        "from the same or from both: then there is no place to begin.",
        _model("y[b, t] = x[b, t] + (y[b, t-1] else 0) + (y[b, t+1] else 0)"),
        _model("y[b, t] = x[b, t] + (y[b, t-1] else 0)"),
    ),
    Entry(
        "E0502", "a recurrence through a position",
        "`argmax` and `argmin` give positions, so a recurrence through them is one of whole "
        "numbers. Declare it so, or take the `max`.",
        _model("h[t < 3] = argmax(k) (x[0, k] + (h[t-1] else 0))", "y[b, t] = x[b, t] + h[t]"),
        _model("h[t < 3] = max(k) (x[0, k] + (h[t-1] else 0))", "y[b, t] = x[b, t] + h[t]"),
    ),
    # --- W02: what is written and not used ---
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
        _model("state shift: [3] = 0", "y = x + shift"),
        _model("state shift: [3] = 0", "y = x + shift", "shift' = 0.9*shift"),
    ),
    Entry(
        "W0401", "probabilities where logits are expected",
        "A loss whose input is called `logits` applies softmax or sigmoid itself, in a form that "
        "cannot overflow. After another softmax the model learns slowly or not at all.",
        _train("model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    y = x |> Dense(3) |> softmax\n}\n",
               "input label: i32[B]", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
        _train("model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    y = x |> Dense(3)\n}\n",
               "input label: i32[B]", "loss = cross_entropy(y, label)", "optimizer = sgd()"),
    ),
    Entry(
        "W0301", "a parameter that is not trained",
        "The loss does not depend on it, or only through `stop` or a comparison.",
        _train("model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    h = x |> Dense(3)\n"
               "    y = stop(h) |> Dense(3)\n}\n", "loss = mean(y^2)", "optimizer = sgd()"),
        _train(_DENSE, "loss = mean(y^2)", "optimizer = sgd()"),
    ),
    Entry(
        "W0302", "a loss that no parameter reaches",
        "Its gradient is zero everywhere: the loss is computed from the data alone, or reads the "
        "model only through `stop`, a comparison or a rounding.",
        _train(_DENSE, "loss = mean(stop(y)^2)", "optimizer = sgd()"),
        _train(_DENSE, "loss = mean(y^2)", "optimizer = sgd()"),
    ),
)  # fmt: skip

CATALOGUE: dict[str, Entry] = {
    entry.code: entry for entry in sorted(_ENTRIES, key=lambda e: e.code)
}
