"""The canonical layout preserves the tree and the comments, and is idempotent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnc.dsl.syntax import ast as s
from nnc.dsl.syntax.formatter import WIDTH, format
from nnc.dsl.syntax.printer import format_expr
from nnc.dsl.syntax.source import Source, Span

from .trees import PROGRAMS, expression, parsed, shape

NOWHERE = Span(Source("made.nn", ""), 0, 0)


@pytest.mark.parametrize("name", PROGRAMS)
def test_format_preserves_the_program(name: str) -> None:
    file = parsed(PROGRAMS[name])
    text = format(file)
    again = parsed(text)
    assert shape(again) == shape(file)
    assert [c.text for c in again.comments] == [c.text for c in file.comments]
    assert format(again) == text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_layout() -> None:
    text = (
        "layer  A( n )( x:[..., m] ) -> y:[..., n]{   # why\n"
        "param w:[m,n]~uniform ;param b:[n]=0\n\n\n"
        "y[...,o]=sum(i)x[...,i]*w[i,2*o+1]+b[o] # product\n# end\n}"
    )
    assert format(parsed(text)) == (
        "layer A(n)(x: [..., m]) -> y: [..., n] {  # why\n"
        "    param w: [m, n] ~ uniform\n"
        "    param b: [n]    = 0\n"
        "\n"
        "    y[..., o] = sum(i) x[..., i] * w[i, 2*o + 1] + b[o]  # product\n"
        "    # end\n"
        "}\n"
    )


def test_comments_stay_beside_what_they_are_about() -> None:
    text = (
        "layer A(\n"
        "    n,  # how many\n"
        "    # where it begins\n"
        "    first,\n"
        ")(x: [..., m]) -> y: [..., n] {\n"
        "    # above\n"
        "    y = x  # the input\n"
        "        + f(x)  # and more\n"
        "        # much more\n"
        "        + g(\n"
        "            x,  # once\n"
        "            first  # twice\n"
        "        )\n"
        "    z = x\n"
        "        # the head\n"
        "        |> Flatten |> Dense(10)  # ten\n"
        "    a = 1; b = 2  # both\n"
        "}\n"
    )
    assert format(parsed(text)) == (
        "layer A(\n"
        "    n,  # how many\n"
        "    # where it begins\n"
        "    first,\n"
        ")(\n"
        "    x: [..., m],\n"
        ") -> y: [..., n] {\n"
        "    # above\n"
        "    y = x  # the input\n"
        "        + f(x)  # and more\n"
        "        # much more\n"
        "        + g(x,  # once\n"
        "            first)  # twice\n"
        "    z = x\n"
        "        # the head\n"
        "        |> Flatten |> Dense(10)  # ten\n"
        "    a = 1\n"
        "    b = 2  # both\n"
        "}\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "train M { loss = mean(y) }\ntrain N { loss = mean(y) }\n",
        "fn f(x) = x[i,  # one\n  # two\n  j]\nfn g(x) = x\n",
        '"""A."""\n"""Half."""\nfn half(x  # c\n) = x / 2\n',
        "fn f(x) = (  # one\n  x  # two\n  # three\n) # four\n",
    ],
)
def test_formatting_is_idempotent(text: str) -> None:
    once = format(parsed(text))
    assert format(parsed(once)) == once
    assert once.count("#") == text.count("#")


def test_a_long_equation_is_broken_at_its_outermost_operators() -> None:
    terms = [f"(weight_{k}[b, i] - mean_of_all[b, i])^2 / variance[b, i]" for k in "abc"]
    text = format(parsed(f"fn f(x) -> y: [] {{\n    y[b, i] = {' + '.join(terms)}\n}}"))
    assert text.splitlines()[1:-1] == [
        f"    y[b, i] = {terms[0]}",
        f"        + {terms[1]}",
        f"        + {terms[2]}",
    ]


def test_a_line_that_does_not_fit_is_broken_more_finely() -> None:
    read = "x[..., first*stride + row - top, second*stride + column - left, channel]"
    equation = f"y[i, j] = max(row < 3, column < 3) ({read} else 0)"
    text = format(parsed(f"fn f(x) -> y: [] {{\n    {equation}\n}}"))
    assert text.splitlines()[1:-1] == [
        "    y[i, j] = max(row < 3, column < 3) (x[..., first*stride + row - top,",
        "            second*stride + column - left, channel] else 0)",
    ]


@pytest.mark.parametrize("line", ["y = x[]", "y = (x[] else 0)"])
def test_a_read_without_indices_stays(line: str) -> None:
    text = f"fn f(x) -> y: [] {{\n    {line}\n}}\n"
    assert format(parsed(text)) == text


def test_docstrings_stand_above_what_they_are_about() -> None:
    text = 'fn a(x) -> y: [] {\n    """A."""\n    y = x\n}\n'
    assert format(parsed(text)) == text  # above, it would be the file's
    two = f'"""Both."""\n\n{text}\ntrain a {{\n    """How.\n\n      b\n    """\n    loss = 1\n}}\n'
    assert format(parsed(two)) == (
        '"""Both."""\n\n"""A."""\nfn a(x) -> y: [] {\n    y = x\n}\n\n'
        '"""How.\n\nb"""\ntrain a {\n    loss = 1\n}\n'
    )


OWN = [
    path
    for folder in ("dsl/stdlib", "examples", "benchmarks")
    for path in sorted((Path(__file__).parents[2] / folder).glob("*.nn"))
]


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_our_own_programs_are_formatted(path: Path) -> None:
    """`nnc fmt dsl/stdlib/*.nn examples/*.nn benchmarks/*.nn` does so."""
    text = path.read_text("utf-8")
    assert format(parsed(text)) == text


names = st.sampled_from(["a", "b", "c"]).map(lambda n: s.Name(NOWHERE, n))
numbers = st.sampled_from([("1", 1), ("2.5", 2.5)]).map(lambda n: s.Number(NOWHERE, n[1], n[0]))
reads = names.map(lambda n: s.Index(NOWHERE, n, (s.Ellipsis_(NOWHERE), s.Name(NOWHERE, "i"))))
operators = st.sampled_from(["+", "-", "*", "/", "//", "%", "^", "@", "==", "<", "and", "or"])
axes = st.sampled_from(["i", "j"]).map(lambda n: (s.Axis(NOWHERE, n),))


def larger(inner: st.SearchStrategy[s.Expr]) -> st.SearchStrategy[s.Expr]:
    return st.one_of(
        st.builds(lambda o, a, b: s.Binary(NOWHERE, o, a, b), operators, inner, inner),
        st.builds(lambda o, a: s.Unary(NOWHERE, o, a), st.sampled_from(["-", "not"]), inner),
        st.builds(lambda a, b, c: s.If(NOWHERE, a, b, c), inner, inner, inner),
        st.builds(lambda x, b: s.Reduce(NOWHERE, "sum", x, b), axes, inner),
        st.builds(lambda r, o: s.Guarded(NOWHERE, r, o), reads, inner),
        st.builds(lambda v: s.Pipe(NOWHERE, v, s.Name(NOWHERE, "f")), inner),
        st.builds(
            lambda v: s.Call(NOWHERE, s.Name(NOWHERE, "f"), (s.Argument(NOWHERE, "k", v),)), inner
        ),
    )


trees = st.recursive(st.one_of(names, numbers, reads), larger, max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(trees)
def test_any_expression_round_trips(tree: s.Expr) -> None:
    assert shape(expression(format_expr(tree))) == shape(tree)


@settings(max_examples=120, deadline=None)
@given(trees)
def test_any_statement_round_trips(tree: s.Expr) -> None:
    long = re.sub(r"\ba\b", "a_long_name_of_a_tensor", format_expr(tree))
    file = parsed(f"fn f(x) -> y: [] {{\n    y = {long}\n}}")
    text = format(file)
    assert shape(parsed(text)) == shape(file) and format(parsed(text)) == text
