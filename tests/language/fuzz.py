"""Fuzzing of the front end: mutated programs compile or raise UserError, never a traceback.

`python tests/language/fuzz.py 100000` runs many mutants and prints each that reveals a defect;
`test_fuzz.py` runs a few. A mutant takes at most two seconds, and every span in a message lies in a
file that was read. One that parses is formatted: the text has the same tree and formats to itself.
The same seed gives the same mutants.
"""

from __future__ import annotations

import random
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent)]

from language.front import checked, systems  # noqa: E402
from language.trees import shape  # noqa: E402
from nnc.dsl.check.library import standard_library  # noqa: E402
from nnc.dsl.diagnostics.catalogue import catalogue  # noqa: E402
from nnc.dsl.diagnostics.diagnostic import Report, UserError  # noqa: E402
from nnc.dsl.diagnostics.render import render_all  # noqa: E402
from nnc.dsl.syntax.formatter import format  # noqa: E402
from nnc.dsl.syntax.parser import parse  # noqa: E402
from nnc.dsl.syntax.source import Source  # noqa: E402

SECONDS = 2.0
_TOKEN = re.compile(
    r'"[^"\n]*"|[A-Za-z_]\w*\'?|\d+(?:\.\d+)?(?:e-?\d+)?|\|>|->|\+=|max=|min=|\.\.\.|\s+|.'
)
_SNIPPETS = (
    "0", "1", "-1", "2^40", "9^9^9^9", "1e9", "1e308", "0.5", "1 / 0", "inf", "nan", "true", '"w"',
    "x", "y", "i", "...", "[..., i]", "[]", "(x[i - 1] else 0)", "sum(i) ", "max(i, j) ", "sum(x)",
    "argmax(x)", "random()", "training", "rank(x)", "count(x)", "p'", "|> relu", "|> Dense(3)",
    "|> Flatten", "@", "^", "//", "%", "==", "and", "not", "if x > 0 then 1 else 2", "repeat 3 {",
    "{", "}", "(", ")", ",", ";", "\n", ": i32[B]", "u8(300)", "i64(x)", "stop(x)", "x[x[0]]",
    "3000000000", "state s = 0", "param w: [3] = 1", "let n = 3", "+=", "'", "9" * 400, "0.0",
    "-inf", "2^31", "1e-400", "# a comment\n", " # c", '"""doc"""', "\r\n", "\t", "\xa0",
    "\ufeff", "х", "∑", "≤", "…", "“w”", "²", "x.T", "x[:, 0]", "**", "&&", "lambda x: x",
    "label", "logits", "softmax", "i32", "f64", "y[i] = ", "x[i, i]", "x[i][j]", "(x else 0)",
    "max=", "min=", "[1, 2.5]", "[[1, 2], [3, 4]]", 'table("w.csv")', "language 1\n",
    "language 2\n", "concat(x, y, axis = t)", "split(x, 2)", "pad(x, 1)", "stack(x, x)", "_",
    "if t > 0 then x[t - 1] else 0", "sum(t < x[i]) ", "Net()(x)", "axis = 1", "T = 3",
)  # fmt: skip

MODELS = {
    "mlp": """
model M(x: f32[B, 3]) -> y: f32[B, 2] {
    let hidden = 4 * 2
    h = x |> Dense(hidden) |> gelu |> Dropout(0.5)
    repeat 2 { h = h |> Dense(hidden) |> LayerNorm }
    y = h |> Dense(2)
}
train M {
    data      = digits()
    loss      = cross_entropy(y, label)
    metric      accuracy = accuracy(y, label)
    optimizer = adam(lr = cosine(t, 1e-3, steps))
    penalty   = l2(1e-4)
    clip      = clip_norm(1.0)
    batch     = 32
    until accuracy > 0.9
    T <= 64
}
""",
    "conv": """
model M(image: f32[B, 8, 8, 1]) -> y: f32[B, 10] {
    y = image |> Conv(2, 3, pad = "same") |> BatchNorm |> relu |> MaxPool(2) |> Flatten |> Dense(10)
}
train M {
    input label: i32[B]
    loss = cross_entropy(y, label)
    optimizer = momentum(lr = 0.1)
}
""",
    "equations": """
layer Cell(units)(x: [..., T, n]) -> h: [..., T, units] {
    param W: [n, units]     ~ glorot_uniform
    param U: [units, units] ~ orthogonal
    param b: [units]        = 0
    h[..., t, j] = tanh(sum(i) x[..., t, i]*W[i, j] + sum(k) (h[..., t-1, k] else 0)*U[k, j] + b[j])
}
fn spread(x: [..., n]) -> y: [..., n], z: [..., n] {
    y[..., i] = x[..., i] - mean(j) x[..., j]
    z[..., i] = (x[..., i - 1] else 0) * 0.5 + (if i % 2 == 0 then 1 else -1)
}
model M(token: i32[B, 8]) -> y: f32[B, 4] {
    e = token |> Embedding(10, 3)
    a, c = spread(e)
    h = a |> Cell(4)
    y[b, o] = max(t) h[b, t, o] + sum(t, i) c[b, t, i] / 8
}
train M {
    data = tokens()
    let scale = 2
    loss = scale * mse(mean(y), mean(target))
    optimizer = sgd(lr = 0.1)
}
""",
    "forms": """
language 1
layer Net()(x: [..., n], _: [..., _]) -> y: [..., n] {
    let w = [0.5, 2.5, 1]
    let order = [[2, 0], [1, 1]]
    y[..., i] = x[..., i] * w[i] + (if i > 0 then x[..., i - 1] else 0) * w[order[i % 2, 0]]
}
model M(x: f32[B, T, 3], length: i32[B], kind: i32[B]) -> y: f32[B, 3], z: f32[B, 3*T + 1, 3] {
    net = Net()
    h = net(x, x) |> net(x)
    z = concat(h, pad(x, 1, 0, axis = T, value = 2), x |> tanh, axis = 1)
    a, _, b = split(h, [1, 1, 1])
    both = stack(a, b, axis = -1)
    y[b, j] = mean(t < length[b], _ < 2) h[b, t, j] + sum(s < j + 1) x[b, 0, j - s]
    count[kind[b] < 4] += 1
    best[kind[b] < 4, j < 3] max= y[b, j]
    _least[kind[b] < 4, j < 3] min= min(b, j) y[b, j] + best[kind[b], j] / count[kind[b]]
    _ = both
}
train M {
    input target: f32[B, 3]
    let costs = [1.0, 2.0, 0.5]
    loss = mean((y - target)^2 * costs) + mean(net(x, x)^2)
    optimizer = sgd(lr = 0.1)
    T = 5
}
""",
    "own": """
optimizer slow(lr = 0.01) {
    state m = 0
    m' = 0.9*m + g
    p' = p - lr * m' / (norm + 1)
}
layer Moving(rate = 0.1)(x: [..., c]) -> y: [..., c] {
    state seen: [c] = 0
    m[j] = mean(...) x[..., j]
    y = x - (if training then m else seen)
    seen' = if training then (1 - rate)*seen + rate*stop(m) else seen
}
model M(x: f32[B, 3]) -> y: f32[B, 3] {
    param w: [3, 3] ~ normal(0, 0.1)
    y = x @ transpose(w) @ (w @ w) |> Moving
    _best = argmax(x)
}
train M {
    loss = mean(abs(y - x[0, 0]))
    optimizer = slow(lr = 0.1)
}
""",
}


def seeds() -> list[str]:
    """Texts to mutate: the models, the library's files with a model that uses them, the programs of
    the catalogue, the examples and the wrong programs."""
    sources = {d.span.source for d in standard_library().values()}
    library = [source.text + MODELS["mlp"] for source in sorted(sources, key=lambda s: s.name)]
    examples = [text for e in catalogue().values() if e.wrong for text in (e.wrong, e.right)]
    folders = (HERE.parents[1] / "examples", HERE / "wrong")
    files = [path.read_text("utf-8") for f in folders for path in sorted(f.glob("*.nn"))]
    return [*list(MODELS.values()) * 8, *library, *files, *(e for e in examples if len(e) < 2000)]


# --- mutations ------------------------------------------------------------------------------------


def _characters(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text))
    length = rng.choice((1, 1, 1, 2, 5))
    piece = text[place : place + length]
    odd = rng.choice("é∑\0\t")
    fresh = rng.choice(("", piece * 2, piece[::-1], chr(rng.randrange(32, 127)), odd))
    return text[:place] + fresh + text[place + length :]


def _kind(piece: str) -> str:
    """Pieces of one kind may replace each other."""
    if piece.isspace() or (len(piece) == 1 and piece in "()[]{},:="):
        return piece
    return "name" if piece[0].isalpha() else "number" if piece[0].isdigit() else "operator"


def _pieces(text: str, rng: random.Random, cut: Callable[[str], list[str]]) -> str:
    """Delete, duplicate, exchange or replace one of the pieces that the text is cut into."""
    pieces = cut(text)
    a, b = rng.randrange(len(pieces)), rng.randrange(len(pieces))
    kinds = [k for k, piece in enumerate(pieces) if _kind(piece) == _kind(pieces[a])]
    match rng.randrange(9):
        case 5 | 6 | 7 | 8:
            pieces[a] = pieces[rng.choice(kinds)]  # likely still to parse
        case 0:
            del pieces[a]
        case 1:
            pieces.insert(a, pieces[a])
        case 2:
            pieces[a], pieces[b] = pieces[b], pieces[a]
        case 3:
            pieces[a] = pieces[b]
        case 4:
            pieces[a] = rng.choice(_SNIPPETS)
    return "".join(pieces)


def _splice(text: str, rng: random.Random, texts: list[str]) -> str:
    """Insert some lines of another text."""
    lines = text.splitlines(keepends=True)
    other = rng.choice(texts).splitlines(keepends=True) or [""]
    first = rng.randrange(len(other))
    place = rng.randrange(len(lines) + 1)
    lines[place : place + rng.choice((0, 0, 1, 3))] = other[first : first + rng.choice((1, 2, 5))]
    return "".join(lines)


_AROUND = (("(", ")"), ("relu(", ")"), ("-", ""), ("sum(i) ", ""), ("x[", "]"), ("[", "]"),
           ("if x > 0 then ", " else 1"), ("repeat 2 {\n", "\n}"), ("max(", ", 1)"))  # fmt: skip


def _nested(text: str, rng: random.Random) -> str:
    """Enclose one token in many of the same brackets."""
    pieces = _TOKEN.findall(text)
    place = rng.randrange(len(pieces))
    before, after = rng.choice(_AROUND)
    depth = rng.choice((1, 2, 5, 40, 150, 400))
    pieces[place] = before * depth + pieces[place] + after * depth
    return "".join(pieces)


def mutant(seed: int, texts: list[str]) -> str:
    """One text, changed in a few places."""
    rng = random.Random(seed)
    text = rng.choice(texts)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not text:
            break
        kind = rng.random()
        if kind < 0.2:
            text = _characters(text, rng)
        elif kind < 0.7:
            text = _pieces(text, rng, _TOKEN.findall)
        elif kind < 0.75:
            text = _nested(text, rng)
        elif kind < 0.85:
            text = _splice(text, rng, texts)
        else:
            text = _pieces(text, rng, lambda t: t.splitlines(keepends=True))
    return text


# --- defects --------------------------------------------------------------------------------------


def defect(text: str, limit: float = SECONDS) -> str:
    """What the front end does wrong with a text, such as taking more seconds than a limit; empty
    if nothing."""
    start = time.process_time()
    try:
        found = _formatter_defect(text)
        if found:
            return found
        systems(checked(text, folder=HERE / "wrong"), Report())
    except UserError as error:
        found = _span_defect(error)
        if found:
            return found
    except Exception:
        return traceback.format_exc(limit=-6)
    seconds = time.process_time() - start
    return f"took {seconds:.1f} s" if seconds > limit else ""


def _formatter_defect(text: str) -> str:
    """What the formatter does wrong with a text that parses; empty if nothing."""
    report = Report()
    file = parse(Source("test.nn", text), report)
    if report.diagnostics:
        return ""
    formatted = format(file)
    again = parse(Source("test.nn", formatted), report)
    if report.diagnostics:
        return f"formatted, it does not parse: {report.diagnostics[0].message}"
    if shape(again) != shape(file):
        return "formatted, it has another tree"
    if [c.text.strip() for c in again.comments] != [c.text.strip() for c in file.comments]:
        return "formatted, it has other comments"
    return "" if format(again) == formatted else "formatted twice, it differs"


def _span_defect(error: UserError) -> str:
    for found in error.diagnostics:
        if found.code not in catalogue():
            return f"{found.code} is not in the catalogue"
        for span in (found.span, *(note.span for note in found.notes)):
            if span is not None and not 0 <= span.start <= span.end <= len(span.source.text) + 1:
                return f"{found.code} lies outside its file: {span.start} to {span.end}"
        if found.is_error and found.span is not None and found.span.source.library:
            return f"{found.code} is shown inside the library: {found.message} at {found.span}"
    render_all(error.diagnostics)
    return ""


def main(count: int, first: int = 0) -> int:
    texts = seeds()
    wrong = 0
    for seed in range(first, first + count):
        found = defect(mutant(seed, texts))
        if found:
            wrong += 1
            print(f"--- mutant {seed}\n{found.rstrip()}", flush=True)
    print(f"{wrong} of {count} mutants reveal a defect")
    return bool(wrong)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "show":
        print(mutant(int(sys.argv[2]), seeds()))
        sys.exit()
    sys.exit(main(*map(int, sys.argv[1:])))
