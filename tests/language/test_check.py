"""The checker: name resolution, calls, files that use files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnc.dsl.check.checker import Checked, load, load_source
from nnc.dsl.check.library import Library
from nnc.dsl.diagnostics.diagnostic import Diagnostic, Report, UserError
from nnc.dsl.syntax.source import Source


def check(text: str) -> tuple[Checked, list[Diagnostic]]:
    report = Report()
    return load_source(Source("test.nn", text), report), report.diagnostics


def codes(text: str) -> list[str]:
    return [d.code for d in check(text)[1]]


def test_a_misspelt_name_is_guessed() -> None:
    (found,) = check("fn f(width) = widht * 2")[1][:1]
    assert found.code == "E0202" and found.help == "did you mean `width`?"


def test_a_file_may_redefine_the_library() -> None:
    checked, found = check("fn relu(x) = max(x, 0)\nfn f(x) = relu(x)")
    assert not found and checked.definitions["relu"].span.source.name == "test.nn"


def test_the_library_is_read_as_far_as_it_is_needed() -> None:
    checked, found = check("model M(x: f32[B, 3]) -> y: f32[B, 2] {\n    y = x |> Dense(2)\n}")
    assert not found and {"M", "Dense"} <= set(checked.definitions)
    assert "LSTM" not in checked.definitions


def test_repeat_gives_a_name_its_next_value() -> None:
    body = "    h = x\n    repeat 3 {\n        h = 2 * h\n    }\n    y = h\n"
    assert codes(f"layer L(x: [n]) -> y: [n] {{\n{body}}}") == []


def test_recurrence_is_no_cycle_of_definitions() -> None:
    assert codes("fn f(x: [T]) -> h: [T] {\n    h[t] = x[t] + (h[t - 1] else 0)\n}") == []


def test_data_fields_are_not_looked_up() -> None:
    assert (
        codes(
            "model M(x: f32[B]) -> y: f32[B] {\n    y = 2 * x\n}\n"
            'train M {\n    data = anything("a.csv")\n    loss = mean((y - target)^2)\n}'
        )
        == []
    )


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("x |> L(2)", None),
        ("L(2)(x)", None),
        ("x |> L(units = 2)", None),
        ("x |> N", None),
        ("N(x)", None),
        ("exp(x)", None),
        ("x |> half", None),
        ("max(x, 1, 2)", None),
        ("L(2)", "E0205"),
        ("x |> L", "E0205"),
        ("x |> L(2, 3, 4)", "E0204"),
        ("exp(x, x)", "E0204"),
        ("x |> L(unitz = 2)", "E0204"),
        ("N(x)(x)", "E0204"),
        ("x |> Gone(2)", "E0203"),
        ("x(2)", "E0203"),
        ("half(x, x = 1)", "E0204"),
        ("exp(v = x)", "E0204"),
    ],
)
def test_applications(call: str, code: str | None) -> None:
    text = (
        "layer L(units, k = 1)(x: [..., n]) -> y: [..., n] {\n    y = x * units * k\n}\n"
        "layer N(x: [..., n]) -> y: [..., n] {\n    y = x\n}\n"
        "fn half(x) = x / 2\n"
        f"layer Main(x: [..., n]) -> y: [..., n] {{\n    y = {call}\n}}"
    )
    found = [c for c in codes(text) if c.startswith("E")]
    assert found[:1] == ([code] if code else [])


def test_use(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "main.nn").write_text('use "parts/a.nn"\nfn f(x) = half(x)')
    (tmp_path / "parts" / "a.nn").write_text('use "b.nn"\nfn half(x) = part(x, 2)')
    (tmp_path / "parts" / "b.nn").write_text("fn part(x, n) = x / n")
    report = Report()
    checked = load(tmp_path / "main.nn", report)
    assert not report.diagnostics and {"f", "half", "part"} <= set(checked.definitions)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("gone.nn", "E0216"),
        ("../up.nn", "E0217"),
        ("/etc/x.nn", "E0217"),
        ("main.nn", "E0217"),
        ("main.txt", "E0217"),
    ],
)
def test_use_that_goes_wrong(tmp_path: Path, path: str, code: str) -> None:
    (tmp_path / "main.nn").write_text(f'use "{path}"')
    report = Report()
    load(tmp_path / "main.nn", report)
    assert [d.code for d in report.diagnostics] == [code]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "main.nn").write_bytes(b"fn f(x) = x # caf\xe9")
    with pytest.raises(UserError, match="E0109"):
        load(tmp_path / "main.nn", Report())


def test_a_docstring_defines_nothing() -> None:
    text = '"""A file."""\n\n"""It is said that the\nmodel was right."""\nfn half(x) = x / 2\n'
    library = Library((Source("some.nn", text, True),))
    assert list(library) == ["half"] and library["half"].doc.endswith("model was right.")


@pytest.mark.parametrize(
    "more",
    [
        "    c[k[b] < 5] += sum(b) x[b, 0]\n",  # once more
        "    repeat 2 { c[k[b] < 5] += sum(b) x[b, 0] }\n",
        "    x[k[b] < 5] += sum(b) 1.0\n",  # into an input
    ],
)
def test_an_accumulation_adds_to_nothing_that_there_is(more: str) -> None:
    text = (
        "model M(x: f32[4, 3], k: i32[4]) -> c: f32[5] {\n"
        f"    c[k[b] < 5] += sum(b) x[b, 1]\n{more}}}\n"
    )
    assert "E0206" in codes(text)
    assert "E0206" not in codes(text.replace(more, ""))


def test_underscore_is_assigned_often_and_never_read() -> None:
    body = "    h, _ = LSTM(4)(x)\n    k, _ = LSTM(4)(h)\n    _ = k\n    _, _ = LSTM(4)(k)\n"
    text = "layer L(x: [B, T, n]) -> y: [B, T, 4] {\n" + body + "    y = k\n}\n"
    assert codes(text) == []
    assert codes(text.replace("y = k", "y = k + _")) == ["E0202"]


def test_functions_and_values_do_not_meet() -> None:
    text = (
        "fn scaled(x) = 2 * x\n"
        "model M(x: f32[4, 3]) -> tanh: f32[4, 3], scaled: f32[4, 3] {\n"
        "    tanh = tanh(x)\n    scaled = tanh |> scaled |> tanh\n}\n"
    )
    assert codes(text) == []
    # what is no function stays a value that cannot be called
    assert codes(text.replace("tanh(x)", "x(1)")) == ["E0203"]
    assert codes("optimizer own(lr = 1) { p' = p - lr * norm(g) }") == ["E0203"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_mistake_at_the_end_of_a_line(end: str) -> None:
    text = end.join(["model M(x: f32[4]) -> y: f32[4] {", "    y = x + ", "    z = 3", "}", ""])
    found = check(text)[1][0]
    assert found.span is not None
    assert (found.code, found.span.line, found.span.column) == ("E0101", 2, 12)
