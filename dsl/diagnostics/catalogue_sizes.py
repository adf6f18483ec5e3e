"""Sizes, indices, types and recurrences: what E03 and E05 codes mean.

In: nothing. Out: `SIZES`, a part of the catalogue.
"""

from __future__ import annotations

from .catalogue_entry import SPLIT, Entry, model

SIZES = (
    Entry(
        "E0301", "a shape that does not fit its declaration",
        "What is given to an input, and what a body computes for a result, has the dimensions "
        "declared there. The same name is the same size everywhere in a signature.",
        model("y = x |> Dense(4)"),
        model("y = x |> Dense(3)"),
    ),
    Entry(
        "E0302", "the wrong number of dimensions at one element",
        "In an equation over indices a tensor is read at one place: with one index for each of "
        "its dimensions, or `...` for the leading ones.",
        model("y[b, i] = x[b]"),
        model("y[b, i] = x[b, i]"),
    ),
    Entry(
        "E0303", "shapes that do not fit each other",
        "Arithmetic on whole tensors lines their shapes up at the last dimension; sizes must be "
        "equal or 1. For `@` the columns on the left are the rows on the right.",
        model("param s: [4] = 1", "y = s * x"),
        model("param s: [3] = 1", "y = s * x"),
    ),
    Entry(
        "E0304", "sizes of an index disagree",
        "An index has one range in an equation. Two tensors that it indexes have different sizes "
        "there: often two indices are exchanged.",
        model("param w: [5, 3] ~ normal", "y[b, o] = sum(i) x[b, i] * w[i, o]"),
        model("param w: [3, 3] ~ normal", "y[b, o] = sum(i) x[b, i] * w[i, o]"),
    ),
    Entry(
        "E0305", "an index whose range is not known",
        "The range of an index follows from a tensor that it indexes by itself. Where there is "
        "none, it is said: `sum(k < 3)`.",
        model("y[b, i] = x[b, i] * sum(k) 2"),
        model("y[b, i] = x[b, i] * sum(k < 3) 2"),
    ),
    Entry(
        "E0306", "an index that can fall outside",
        "Every index stays inside the tensor that it reads, or the read says what stands outside: "
        "`(x[i - 1] else 0)`.",
        model("y[b, i] = x[b, i] - x[b, i - 1]"),
        model("y[b, i] = x[b, i] - (x[b, i - 1] else 0)"),
    ),
    Entry(
        "E0307", "a value of the wrong type",
        "An input declared with whole numbers, such as a label or a token, is not given real ones.",
        model("y = x |> Embedding(10, 3)", result="f32[B, 3, 3]"),
        model("y = x |> Embedding(10, 3)", given="i32[B, 3]", result="f32[B, 3, 3]"),
    ),
    Entry(
        "E0308", "a size that is not a known whole number",
        "Sizes and settings are known when compiling: they come from shapes, settings, `let`s and "
        "arithmetic on them. Whole numbers are divided with `//`.",
        model("y = x |> Dense(6 / 4) |> Dense(3)"),
        model("y = x |> Dense(6 // 4) |> Dense(3)"),
    ),
    Entry(
        "E0309", "a size below what is possible",
        "A size is negative, a range is empty, or the arithmetic on sizes divides by zero. Often a "
        "window is larger than the image it moves over.",
        model("y = x |> Dense(3 - 5) |> Dense(3)"),
        model("y = x |> Dense(5 - 3) |> Dense(3)"),
    ),
    Entry(
        "E0310", "an index that is not a whole number",
        "Between brackets stand whole numbers. `i // 2` is one, `i / 2` is not; a tensor of real "
        "numbers is converted with `i32(…)`.",
        model("y[b, i] = x[b, i / 2]"),
        model("y[b, i] = x[b, i // 2]"),
    ),
    Entry(
        "E0311", "too large",
        "A tensor has at most 2,147,483,647 elements, whole numbers have 64 bits, and a program "
        "with all layers and `repeat` blocks written out has at most 10,000 equations.",
        model("y = x |> Dense(2^40) |> Dense(3)"),
        model("y = x |> Dense(2^10) |> Dense(3)"),
    ),
    Entry(
        "E0312", "a word, a layer or a function where a value is needed",
        'Words such as `"same"` are compared, not computed with; layers and functions are applied.',
        model("y = x * relu"),
        model("y = x * relu(x)"),
    ),
    Entry(
        "E0313", "a whole tensor needed at one element",
        "A function over whole tensors cannot be applied to something that depends on an index of "
        "the equation around it.",
        model("param w: [3] = 1", "y[b, i] = max(softmax(x[b, i] * w))"),
        model("param w: [3] = 1", "z[b, i, j] = x[b, i] * w[j]", "p = softmax(z)",
               "y[b, i] = max(j) p[b, i, j]"),
    ),
    Entry(
        "E0314", "a reduction of a single number",
        "`sum(x)` adds up all elements of a tensor. To reduce over an index, it stands in the "
        "parentheses: `sum(i) x[i]`.",
        model("let n = 3", "y = x / sum(n)"),
        model("let n = 3", "y = x / n"),
    ),
    Entry(
        "E0315", "an accumulation without its extent",
        "After `+=` stands a `sum` over all that is added, and every place on the left says how "
        "far it goes: `count[token[b] < 10] += sum(b) 1`.",
        model("y = x", "_c[i] += sum(b, i) x[b, i]"),
        model("y = x", "_c[i < 3] += sum(b, i) x[b, i]"),
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
        SPLIT + model("y = 2 * split(x)"),
        SPLIT + model("half, third = split(x)", "y = half + third"),
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
        model("y = x |> Attention(4)", given="f32[B, 8, 6]", result="f32[B, 8, 6]"),
        model("y = x |> Attention(3)", given="f32[B, 8, 6]", result="f32[B, 8, 6]"),
    ),
    Entry(
        "E0501", "equations without an order",
        "A tensor may be computed from its own earlier places, or from its later ones, but not "
        "from the same or from both: then there is no place to begin.",
        model("y[b, t] = x[b, t] + (y[b, t-1] else 0) + (y[b, t+1] else 0)"),
        model("y[b, t] = x[b, t] + (y[b, t-1] else 0)"),
    ),
    Entry(
        "E0502", "a recurrence through a position",
        "`argmax` and `argmin` give positions, so a recurrence through them is one of whole "
        "numbers. Declare it so, or take the `max`.",
        model("h[t < 3] = argmax(k) (x[0, k] + (h[t-1] else 0))", "y[b, t] = x[b, t] + h[t]"),
        model("h[t < 3] = max(k) (x[0, k] + (h[t-1] else 0))", "y[b, t] = x[b, t] + h[t]"),
    ),
    Entry(
        "E0503", "half of a recurrence in a `remat`",
        "Equations that need each other at earlier places are computed together, step by step. A "
        "`remat` block, which is computed again as a whole, holds all of them or none.",
        model("remat { a[b, t] = x[b, t] + (h[b, t-1] else 0) }", "h[b, t] = tanh(a[b, t])",
              "y = h"),
        model("remat { a[b, t] = x[b, t] + (h[b, t-1] else 0); h[b, t] = tanh(a[b, t]) }", "y = h"),
    ),
)  # fmt: skip
