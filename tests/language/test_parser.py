"""The parser: precedence, the ends of statements, reductions, error recovery."""

from __future__ import annotations

import pytest

from nnc.dsl.syntax import ast as s

from .trees import PROGRAMS, expression, mistakes, parsed, shape


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_parses(name: str) -> None:
    assert parsed(PROGRAMS[name]).declarations


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a / b * c", "(a / b) * c"),
        ("a // b % c @ d", "((a // b) % c) @ d"),
        ("-a^2", "-(a^2)"),
        ("-a * b", "(-a) * b"),
        ("a^b^c", "a^(b^c)"),
        ("a^-b^c", "a^(-(b^c))"),
        ("a + b == c * d", "(a + b) == (c * d)"),
        ("not a == b and c or d", "((not (a == b)) and c) or d"),
        ("if a then b else c + d", "if a then b else (c + d)"),
        ("if a then b else if c then d else e", "if a then b else (if c then d else e)"),
        ("if a then b else c |> f", "(if a then b else c) |> f"),
        ("a + b |> f |> g(2)", "((a + b) |> f) |> g(2)"),
        ("sum(i) a * b + c", "(sum(i) (a * b)) + c"),
        ("sum(i) a * b / c % d @ e", "sum(i) (a * b / c % d @ e)"),
        ("a * sum(i) b * c", "a * (sum(i) (b * c))"),
        ("sum(i) a^2 == c", "(sum(i) (a^2)) == c"),
        ("sum(i) sum(j) a * b", "sum(i) (sum(j) (a * b))"),
        ("-sum(i) a * b", "-(sum(i) (a * b))"),
        ("sum(i) a * -b", "sum(i) (a * (-b))"),
        ("max(i) if a then b else c", "max(i) (if a then b else c)"),
        ("f(a)(b)^2", "(f(a)(b))^2"),
    ],
)
def test_precedence(short: str, full: str) -> None:
    assert shape(expression(short)) == shape(expression(full))


def test_a_reduction_has_a_body_and_a_call_has_none() -> None:
    assert isinstance(expression("sum(i) x[i]"), s.Reduce)
    assert isinstance(expression("sum(x)"), s.Call)
    assert isinstance(expression("sum(x) - 1"), s.Binary)
    assert isinstance(expression("max(a, b)"), s.Call)
    assert isinstance(expression("mean(i) (x[i] - 1)^2"), s.Reduce)
    assert isinstance(expression("mean(...) x[...]"), s.Reduce)


def test_a_reduction_ends_with_its_statement() -> None:
    file = parsed("fn f(x) -> y: [] {\n    z = sum(x)\n    y = z\n}")
    equation = file.declarations[0].body[0]
    assert isinstance(equation.value, s.Call)


def test_reduced_axes() -> None:
    reduce = expression("sum(i, u < 2*n, ...) x[..., i, u]")
    assert [axis.name for axis in reduce.axes] == ["i", "u", "..."]
    assert [axis.bound is not None for axis in reduce.axes] == [False, True, False]


@pytest.mark.parametrize("operator", ["|> f", "+ 1", "- 1", "* 2", "and b", "== 2", "^2"])
def test_a_line_that_begins_with_an_operator_continues(operator: str) -> None:
    one = parsed(f"fn f(a, b) -> y: [] {{\n  y = a {operator}\n}}")
    two = parsed(f"fn f(a, b) -> y: [] {{\n  y = a   # why\n\n  # more\n    {operator}\n}}")
    assert shape(one) == shape(two)


def test_brackets_continue_a_line() -> None:
    assert shape(expression("f(\n  a,\n  b,\n)")) == shape(expression("f(a, b)"))
    assert shape(expression("(a\n b)".replace("\n b", "\n + b"))) == shape(expression("(a + b)"))


def test_contextual_keywords_are_names_elsewhere() -> None:
    file = parsed(
        "fn f(input, metric, until, optimizer, data) -> loss: [] {\n"
        "  batch = input + metric\n  until = 1\n  loss = batch\n}"
    )
    assert [e.targets[0].id for e in file.declarations[0].body] == ["batch", "until", "loss"]


def test_guard_and_left_sides() -> None:
    file = parsed(
        "fn f(x) -> y: [] {\n  y[i < 3, ...] = (x[i - 1] else 0)\n  t[k[b], 2*j] += x[b]\n}"
    )
    first, second = file.declarations[0].body
    assert isinstance(first.value, s.Guarded)
    assert [axis.name for axis in first.indices] == ["i", "..."]
    assert second.accumulate and isinstance(second.indices[0], s.Index)


def test_spans_include_the_parentheses() -> None:
    node = expression("(a + b) * c")
    assert node.span.text == "(a + b) * c" and node.left.span.text == "a + b"


def test_docstrings() -> None:
    file = parsed(
        '"""The file."""\n"""Before."""\nfn f(x) = x\n'
        'fn g(x) -> y: [] {\n  """In\n     it."""\n  y = x\n}'
    )
    assert file.doc == "The file."
    assert [d.doc for d in file.declarations] == ["Before.", "In\nit."]


def test_all_errors_of_a_file_in_one_run() -> None:
    found = mistakes(
        "fn a(x) = x +\nfn b(x) = 2 x\nfn c(x) = x\nlayer d(x) -> y: [ {\n}\nfn e(x) = $"
    )
    assert [d.code for d in found] == ["E0101", "E0101", "E0102", "E0104"]


@pytest.mark.parametrize(
    "text",
    [
        "layer L(x) -> y: [] {\n    let x' = 3\n}",
        "layer L(x) -> y: [] {\n    state s' = 0\n}",
        "layer L(x) -> y: [] {\n    param w, v': [3] = 0\n}",
        "train M' {\n}",
        "train M {\n    loss' = 1\n}",
        "train M {\n    metric m' = 1\n}",
        "train M {\n    input x': f32[B]\n}",
    ],
)
def test_a_declared_name_has_no_prime(text: str) -> None:
    (found,) = mistakes(text)
    assert found.code == "E0101" and found.span and found.span.text.endswith("'")
    assert "without a prime" in found.help


def test_every_declaration_after_a_mistake_is_read() -> None:
    text = "fn a(x) = x..y\nfn b(x) = x |\nmodel M(x) {\n}\ntrain M {\n    loss: 1\n}\nfn c(x = 1"
    assert [d.span.line for d in mistakes(text) if d.span] == [1, 2, 3, 6, 8]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "}",
        '"',
        '"""',
        "fn",
        "fn f(",
        "model",
        "'",
        "\t",
        "\x00",
        "\u2003",
        "fn f(x) = \ufeff",
        "(" * 5000,
        "fn f(x) = " + "(" * 5000 + "x" + ")" * 5000,
        "fn f(x) = " + "-" * 5000 + "x",
        "fn f(x) = x" + " + x" * 5000,
        "fn f(x) = x" + "^x" * 5000,
        "fn f(x) = " + "9" * 5000,
        "fn f(x) = " + "if x then x else " * 3000 + "x",
        "layer L(x) -> y {" + "repeat 2 {" * 3000,
        "#" * 50_000,
        "\n" * 50_000 + "x",
        # searches around the mistake that might begin at every character of a line
        "fn f(x) = " + "x" * 200_000 + ", 3",
        "x" * 200_000 + ", 3",
        "x" * 200_000 + ".T",
        "fn f(x) = " + "a[" * 100 + "x" * 200_000 + " else 0",
        "fn f(x) = 1_",
        "fn f(x) = 1..2",
        "x = 1",
        "train { }",
    ],
)
def test_no_text_is_a_traceback(text: str) -> None:
    for diagnostic in mistakes(text):
        assert diagnostic.code.startswith("E01")
        assert "ANON" not in diagnostic.message and "_NEWLINE" not in diagnostic.message
