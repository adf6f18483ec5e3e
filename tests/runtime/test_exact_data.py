"""Numbers of data arrive as they are written, and a warning says where f32 does not hold them.

Also labels, whose kind is decided by a whole column: the order of rows changes nothing.
"""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.data.formats import csv_table

PROGRAM = """
model M(x: f32[B, N]) -> y: f32[B, N] {
    y[b, j] = x[b, j]
}

train M {
    data      = SOURCE
    input y0: f32[B, N]
    loss      = mean(y)
    optimizer = sgd(lr = 0)
    epochs    = 1
}
"""
MODEL = """
model M(x: TYPE[B, 1]) -> guess: f64[B, 1] {
    param w: [1] = 0
    guess[b, j] = x[b, j] + w[j]
}

train M {
    data      = csv("t.csv", test = 0)
    loss      = mean(guess)
    metric most = max(b, j) guess[b, j]
    optimizer = sgd(lr = 0)
    float     = "FLOAT"
    batch     = 256
    epochs    = 1
}
"""


@pytest.fixture
def search(tmp_path, monkeypatch):
    monkeypatch.delenv("NNC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")


def table(search, text: str, **settings) -> data.Dataset:
    (search.base / "t.csv").write_text(text, encoding="utf-8")
    return data.load("csv", {"file": "t.csv", "test": 0, **settings}, search)


EXACT = [
    "1700000000", "16777217", "9007199254740993", "13.4050001", "0.1", "1e-300", "1e300",
    "-122.41941550000001", "3.141592653589793238", ".5", "5.", "+7", "1E5", "-0.0",
]  # fmt: skip


def test_cells_are_read_as_python_reads_them(search):
    text = "a,y\n" + "".join(f"{cell},{cell}\n" for cell in EXACT)
    found = table(search, text, target="y").train.arrays
    wanted = np.array([float(cell) for cell in EXACT])
    assert found["x"][:, 0].tobytes() == found["y"].tobytes() == wanted.tobytes()


def trained(search, float_type: str, declared: str = "f32") -> tuple[float, str]:
    """The largest number that the model has seen, and the messages."""
    text = MODEL.replace("FLOAT", float_type).replace("TYPE", declared)
    (search.base / "m.nn").write_text(text)
    assert cli.run(["train", "m.nn", "--out", f"run-{float_type}-{declared}"]) == 0
    return nnc.load("m.nn").fit()[-1]["most"]


TIMES = [1_700_000_000 + second for second in range(256)]


def test_a_run_in_f64_sees_every_second_and_one_in_f32_is_warned(search, capfd):
    table(search, "time\n" + "".join(f"{time}\n" for time in TIMES))
    assert trained(search, "f64") == TIMES[-1]
    trained(search, "f32", "f64")
    assert "W0601" not in capfd.readouterr().err
    assert trained(search, "f32") != TIMES[-1]
    said = capfd.readouterr().err
    assert "W0601" in said
    assert "`time`" in said
    assert "1700000001" in said


generator = np.random.default_rng(0)
LONGITUDES = 13.4 + generator.integers(0, 2000, 3000) * 1e-7
COLUMNS = [
    (np.array(TIMES, float) + 0.5, "256 different numbers become 3"),
    (LONGITUDES, "different numbers become"),
    (np.arange(1 << 24, (1 << 24) + 9), "16777217 becomes 16777216"),
    (np.arange(1 << 24, (1 << 24) + 9).astype(np.int32), "16777217 becomes 16777216"),
    (np.array([2**40 + 1, 5]), "1099511627777 becomes"),
    (np.arange(1 << 24), ""),
    (generator.normal(size=20_000), ""),
    (generator.normal(size=20_000) * 1e30, ""),
    (np.array([0.1, 0.2, 0.3]), ""),
    (np.array([np.nan, np.inf, -np.inf, 0.1]), ""),
    (np.arange(9, dtype=np.float32) + 16777216, ""),
]


@pytest.mark.parametrize("place", range(len(COLUMNS)))
def test_a_warning_where_f32_loses_distinctions_and_nowhere_else(search, capfd, place):
    values, told = COLUMNS[place]
    program = MODEL.replace("FLOAT", "f32").replace("TYPE", "f32")
    for name, array in (
        ("table", values.reshape(-1, 1)),
        ("series", np.stack([values] * 2)[:, :, None]),
    ):
        np.save(search.base / "x.npy", array)
        text = program.replace('csv("t.csv", test = 0)', 'npy(x = "x.npy")')
        if name == "series":
            text = text.replace("[B, 1]", "[B, T, 1]").replace("[b, j]", "[b, t, j]")
            text = text.replace("max(b, j)", "max(b, t, j)")
        (search.base / "m.nn").write_text(text)
        cli.run(["train", "m.nn", "--steps", "1", "--set", "optimizer.lr=0"])
        said = capfd.readouterr().err
        assert ("W0601" in said) == bool(told), said
        assert told in said


def test_a_number_beyond_f32_is_named_and_f64_takes_it(search, capfd):
    table(search, "a\n1\n1e99\n")
    (search.base / "m.nn").write_text(MODEL.replace("FLOAT", "f32").replace("TYPE", "f32"))
    assert cli.run(["train", "m.nn"]) == 1
    said = capfd.readouterr().err
    assert "E0606" in said
    assert "1e+99" in said
    assert trained(search, "f64") == 1e99


# ── labels ───────────────────────────────────────────────────────────────────────────────────────

LABELS = [
    (["rose", "NA", "None", "1e5", "true", "?", "nan", "7"], {}, "words"),
    (["true", "false", "true"], {}, "words"),
    (["low", "1e5", "high"], {}, "words"),
    (["cafe\u0301", "caf\u00e9", "tea"], {}, 2),
    (["1", "2", "1e5"], {}, "numbers"),
    (["01", "1", "2", '"2"'], {}, 3),
    (["1", "2", "x"], {}, "E0605"),
    (["1", "x"], {}, "E0605"),
    (["1", "x"], {"labels": True}, "words"),
    (["rose", "1"], {"labels": False}, "E0605"),
    (["1e5", "abc", "NA", "None"], {}, "words"),
    (["1", "2", "NA", "x"], {}, "E0605"),
    (["1", "2", "NA"], {}, "E0616"),
    (["NA", "None"], {}, "E0616"),
    (["rose", "iris", '""'], {}, "E0616"),
    (["1", "2", '" "'], {}, "E0616"),
    (["1", "2.5"], {"labels": True}, "E0606"),
    (["1", str(2**31)], {"labels": True}, "E0606"),
]


@pytest.mark.parametrize("place", range(len(LABELS)))
def test_the_kind_of_a_target_does_not_depend_on_the_order_of_rows(search, place):
    cells, settings, right = LABELS[place]
    seen = set()
    for seed in range(6):
        rows = random.Random(seed).sample(cells, len(cells))
        try:
            found = table(
                search, "a,y\n" + "".join(f"0,{c}\n" for c in rows), target="y", **settings
            )
        except UserError as error:
            seen.add(error.diagnostics[0].code)
            continue
        names = found.class_names.get("y")
        if names:
            texts = [unicodedata.normalize("NFC", cell) for cell in rows]
            assert [names[n] for n in found.train.arrays["y"]] == texts
            assert list(names) == sorted(set(texts))
        classes = found.schema.field("y").classes
        seen.add(
            right
            if right in ("words", "numbers") and bool(names) == (right == "words")
            else classes
        )
    assert seen == {right}


@pytest.mark.parametrize(
    "cell, told",
    [
        ("1,234.5", "`1234.5`"),
        ("12,345,678", "`12345678`"),
        ("1,234", "`1234`, or decimals with a point"),
        ("1.234,5", "without separators and decimals with a point"),
        ("1 234", "`1234`"),
        ("1'234.5", "`1234.5`"),
        ("1,5", "decimals with a point"),
        ("2024-02-29", "a date"),
        ("29/02/24", "a date"),
        ("12:30", "a date or time"),
        ("true", "1 and 0"),
        ("12%", "without its unit"),
        ("$1.5", "without its unit"),
    ],
)
def test_what_looks_like_a_number_is_told_how_to_be_one(search, cell, told):
    with pytest.raises(UserError) as caught:
        table(search, f'a;b\n1;"{cell}"\n', delimiter=";")
    (found,) = caught.value.diagnostics
    assert found.code == "E0605"
    assert told in found.help


def test_texts_in_other_encodings_are_told_by_their_name(search):
    (search.base / "t.csv").write_text("a,b\n1,2\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"E0612: .*is UTF-16"):
        data.load("csv", {"file": "t.csv"}, search)


# ── wide tables ──────────────────────────────────────────────────────────────────────────────────


def test_the_work_for_a_wide_table_grows_with_its_cells(search, monkeypatch):
    """Every name of a column is compared with few others, whatever their number."""
    compared = 0

    class Name(str):
        __slots__ = ()

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

        def strip(self, *given):
            return self

    def counted(file, table):
        return ([Name(cell) for cell in row] for row in before(file, table))

    before, width = csv_table._reader, 3000
    monkeypatch.setattr(csv_table, "_reader", counted)
    names = [f"c{n}" for n in range(width)]
    text = ",".join(names) + "\n" + ",".join("1" * width) + "\n"
    for settings in ({}, {"columns": names}, {"target": names[::2]}):
        compared = 0
        assert len(table(search, text, **settings).schema.fields) <= 2
        assert compared < 20 * width


def test_a_line_without_an_end_is_no_line_of_a_table(search, monkeypatch):
    monkeypatch.setattr(csv_table, "MAX_LINE", 1000)
    with pytest.raises(UserError, match=r"E0603: .*line 2, has more than 1,000 characters"):
        table(search, "a\n" + "1," * 600 + "\n")
    with pytest.raises(UserError, match=r"E0603"):
        table(search, 'a\n"' + "1\n" * 200_000)


def test_labels_of_lines_are_one_in_every_spelling(search):
    (search.base / "t.tsv").write_text(
        "caf\u00e9\ta b\ncafe\u0301\tc d\ntea\te\n", encoding="utf-8"
    )
    found = data.load("lines", {"file": "t.tsv", "test": 0}, search)
    assert found.class_names["label"] == ("caf\u00e9", "tea")
    assert found.train.arrays["label"].tolist() == [0, 0, 1]
