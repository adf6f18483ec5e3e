"""Texts and tables in declared encodings: the same data as in UTF-8, in training and for new files;
bytes that are in none are reported with their place and a guess."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.data.core.encodings import guess

FRENCH = "L'été, les élèves mangèrent à la crêperie. Où est le garçon ?\nIl a reçu la clé.\n"
GERMAN = "Die Größe der Straße überrascht.\nÜbermut, Äpfel und Öl.\n"
POLISH = "Zażółć gęślą jaźń. Łódź jest piękna.\nWięcej książek\n"
RUSSIAN = "Привет, как дела?\nЭто простой текст на русском языке.\n"
JAPANESE = "これは日本語の文章です。\n漢字とひらがなが混ざっています。\n"
CHINESE = "这是一个简单的中文句子。\n我们今天去北京看朋友。\n"
TAIWANESE = "這是一個簡單的中文句子。\n我們今天去台北看朋友。\n"
KOREAN = "이것은 간단한 한국어 문장입니다.\n오늘 날씨가 좋습니다.\n"
TEXTS = [
    (FRENCH, "latin-1"),
    (FRENCH.replace("'", "’"), "cp1252"),
    (FRENCH, "cp850"),
    (GERMAN, "mac-roman"),
    (POLISH, "cp1250"),
    (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8-r"),
    (JAPANESE, "shift-jis"),
    (JAPANESE, "euc-jp"),
    (CHINESE, "gb18030"),
    (TAIWANESE, "big5"),
    (KOREAN, "euc-kr"),
    (GERMAN, "utf-16"),
    (GERMAN, "utf-16-be"),
    (GERMAN, "utf-32"),
]


@pytest.fixture
def search(tmp_path):
    return data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")


def refused(search, name: str, **settings) -> str:
    with pytest.raises(UserError) as caught:
        data.load(name, settings, search)
    (found,) = caught.value.diagnostics
    return f"{found.code}: {found.message} ({found.help})"


def equal(one: data.Dataset, other: data.Dataset) -> None:
    assert one.schema == other.schema and one.class_names == other.class_names
    assert one.columns == other.columns and one.vocabularies == other.vocabularies
    for name, split in one.splits.items():
        for field, array in split.arrays.items():
            np.testing.assert_array_equal(array, other.splits[name].arrays[field])


# --- the same data --------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
def test_what_is_read_does_not_depend_on_the_encoding(search, text, encoding):
    words = text.split()
    table = "Größe,".replace("Größe", words[0].strip(",.")) + "y\n" + "1,a\n2,b\n" * 5
    lines = "".join(f"{k % 2}\t{line}\n" for k, line in enumerate((text * 3).splitlines()))
    pairs = "".join(f"{line}\t{line}\n" for line in (text * 3).splitlines())
    files = {"csv": table, "lines": lines, "pairs": pairs, "text": text * 9}
    more = {"csv": {"target": "y"}, "text": {"length": 8}}
    for name, content in files.items():
        found = []
        for declared in ("utf-8", encoding):
            (search.base / "f").write_bytes(content.encode(declared))
            settings = {"file": "f", "encoding": declared, **more.get(name, {})}
            found.append(data.load(name, settings, search))
            assert data.describe(name, settings, search) == found[-1].schema
        equal(*found)


def test_bytes_are_those_of_utf_8(search):
    (search.base / "f").write_bytes((GERMAN * 9).encode("latin-1"))
    settings = {"file": "f", "length": 8, "vocabulary": "bytes", "validation": 0}
    found = data.load("text", {**settings, "encoding": "latin-1"}, search)
    (search.base / "g").write_bytes((GERMAN * 9).encode())
    equal(found, data.load("text", {**settings, "file": "g"}, search))


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "encoding"), TEXTS)
def test_another_encoding_is_guessed(search, text, encoding):
    assert guess(text.encode(encoding)) == encoding
    raw = (text * 9).encode(encoding)
    (search.base / "f").write_bytes(raw)
    if encoding == "utf-16-be":  # has no mark, and may be UTF-8 with zeros
        return
    told = refused(search, "text", file="f", length=4)
    assert f'encoding = "{encoding}"' in told and told.startswith("E0612: ")


@pytest.mark.parametrize("name", ["csv", "lines", "pairs", "text"])
def test_the_place_of_a_byte(search, name):
    more = {"length": 2} if name == "text" else {}
    (search.base / "f").write_bytes(b"x,label\n1\tabc,\n2\tcaf\xe9,\n")
    told = refused(search, name, file="f", **more)
    assert "f, line 3, byte 6: b'\\xe9' is not UTF-8" in told
    assert 'write `encoding = "latin-1"`' in told
    (search.base / "f").write_bytes("a\tä\nö\t\n".encode("utf-16-le") + b"\x00\xd8" + b"a\0\n\0")
    told = refused(search, name, file="f", encoding="utf-16-le", **more)
    assert "f, line 3, byte 1: b'\\x00' is not utf-16-le" in told
    (search.base / "f").write_bytes("naïve".encode("latin-1"))
    told = refused(search, name, file="f", encoding="ascii", **more)
    assert "f, line 1, byte 3: b'\\xef' is not ascii" in told


@pytest.mark.parametrize("name", ["csv", "lines", "pairs", "text"])
def test_encodings_that_do_not_fit(search, name):
    more = {"length": 2} if name == "text" else {}
    (search.base / "f").write_bytes("é,1\n2,3\n".encode())
    told = refused(search, name, file="f", encoding="latin-1", **more)
    assert "is UTF-8, and `encoding` says latin-1 (leave `encoding` out)" in told
    for wrong in ("latin-9000", "hex", "", 7):
        told = refused(search, name, file="f", encoding=wrong, **more)
        assert 'must be the name of an encoding, as "latin-1"' in told


# --- what a run keeps -----------------------------------------------------------------------------

OPINIONS = """
model Opinions(token: i32[B, T], length: i32[B]) -> logits: f32[B, 2] {
    e = token |> Embedding(40, 4)
    m = masked_mean(e, length)
    logits = m |> Dense(2)
}

fn masked_mean(x: [B, T, n], length: i32[B]) -> y: [B, n] {
    y[b, i] = sum(t) (if t < length[b] then x[b, t, i] else 0) / length[b]
}

train Opinions {
    data      = lines("films.tsv", encoding = "latin-1", test = 0, length = 4, lowercase = true)
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 0.1)
    epochs    = 30
}
"""


def test_new_files_are_read_as_those_of_training(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rows = ["gut\tschön schön", "schlecht\töde öde"] * 8
    Path("films.tsv").write_bytes("\n".join(rows).encode("latin-1"))
    Path("films.nn").write_text(OPINIONS)
    assert cli.run(["train", "films.nn", "--out", "run"]) == 0
    capfd.readouterr()
    inputs = json.loads(Path("run/settings.json").read_text())["inputs"]
    assert inputs["reader"]["encoding"] == "latin-1"
    Path("new.txt").write_bytes("SCHÖN\nÖDE\n".encode("latin-1"))
    assert cli.run(["predict", "run", "new.txt"]) == 0
    found = [json.loads(line)["label"] for line in capfd.readouterr().out.splitlines()]
    assert found == ["gut", "schlecht"]
    Path("new.txt").write_bytes("schön\n".encode())
    assert cli.run(["predict", "run", "new.txt"]) == 1
    assert "new.txt is UTF-8, and `encoding` says latin-1" in capfd.readouterr().err


COPY = """
model Copy(source: i32[B, S], source_length: i32[B], target_in: i32[B, T]) -> logits: f32[B, T, 8] {
    param w: [4, 8] ~ glorot_uniform
    e = source |> Embedding(8, 4)
    c[b, i] = mean(s) e[b, s, i]
    h = target_in |> Embedding(8, 4)
    logits[b, t, i] = sum(j) (h[b, t, j] + c[b, j]) * w[j, i]
}

train Copy {
    data      = pairs("pairs.tsv", lowercase = true, test = 0)
    loss      = masked_cross_entropy(logits, target_out, target_length)
    optimizer = adam(lr = 0.05)
    epochs    = 1
}
"""


def test_a_prompt_is_in_small_letters_where_training_was(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("pairs.tsv").write_text("Ein Haus\tA House\nein Baum\ta Tree\n")
    Path("copy.nn").write_text(COPY)
    assert cli.run(["train", "copy.nn", "--out", "run"]) == 0
    capfd.readouterr()
    written = []
    for prompt in ("ein haus", "EIN Haus"):
        assert cli.run(["generate", "run", "--prompt", prompt]) == 0
        out, err = capfd.readouterr()
        assert "unknown" not in err
        written.append(out)
    assert written[0] == written[1]
    assert cli.run(["generate", "run", "--prompt", "Ein HUND"]) == 0
    assert "read as <unk>: hund" in capfd.readouterr().err
