"""Texts in tables, in several files, and in the tokens of a `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli, data
from nnc.runtime.commands.generate import pieces
from nnc.runtime.data.core.vocabulary import Vocabulary, of_tokenizer

LABELS = ["pos", "neg", "pos", "neg"] * 3
TEXTS = ["good film", "bad film", "a good one", "a bad, bad one"] * 3
GERMAN = ["ein Haus", "ein Baum", "der Hund", "die Katze"] * 3
ENDINGS = [".jsonl", ".csv", ".parquet", ".feather"]


@pytest.fixture
def search(tmp_path):
    return data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")


def write(path: Path, **columns) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    if path.suffix == ".csv":
        lines = [",".join(f'"{cell}"' for cell in row.values()) for row in rows]
        path.write_text("\n".join([",".join(columns), *lines]) + "\n")
        return
    pa = pytest.importorskip("pyarrow", reason="tables of Arrow need pyarrow (nnc-lang[arrow])")
    if path.suffix == ".parquet":
        pa.parquet = __import__("pyarrow.parquet").parquet
        pa.parquet.write_table(pa.table(columns), path, row_group_size=5)
    else:
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, pa.table(columns).schema) as out,
        ):
            out.write_table(pa.table(columns))


def load(search, name: str, **settings) -> data.Dataset:
    found = data.load(name, settings, search)
    assert data.describe(name, settings, search) == found.schema
    return found


def refused(search, name: str, **settings) -> str:
    with pytest.raises(UserError) as caught:
        data.load(name, settings, search)
    (found,) = caught.value.diagnostics
    return f"{found.code}: {found.message} ({found.help})"


def equal(one: data.Dataset, other: data.Dataset) -> None:
    assert one.schema == other.schema and one.class_names == other.class_names
    assert one.vocabularies == other.vocabularies
    for name, split in one.splits.items():
        for field, array in split.arrays.items():
            np.testing.assert_array_equal(array, other.splits[name].arrays[field])


# --- columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_texts_in_columns(search, ending):
    rows = list(zip(LABELS, TEXTS, strict=True))
    (search.base / "lines.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    write(search.base / f"t{ending}", review=TEXTS, extra=[1] * 12, mood=LABELS)
    columns = {"text": "review", "target": "mood"}
    expected = load(search, "lines", file="lines.tsv")
    equal(load(search, "lines", file=f"t{ending}", **columns), expected)

    (search.base / "pairs.tsv").write_text(
        "".join(f"{a}\t{b}\n" for a, b in zip(GERMAN, TEXTS, strict=True))
    )
    write(search.base / f"p{ending}", en=TEXTS, de=GERMAN)
    expected = load(search, "pairs", file="pairs.tsv")
    equal(load(search, "pairs", file=f"p{ending}", source="de", target="en"), expected)

    (search.base / "text.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    for kind in ("chars", "bytes"):
        settings = {"length": 5, "vocabulary": kind}
        expected = load(search, "text", file="text.txt", **settings)
        equal(load(search, "text", file=f"p{ending}", column="en", **settings), expected)


def test_columns_with_the_usual_names(search):
    """As data sets of Hugging Face call them; labels have the names that the file has for them."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (nnc-lang[arrow])")
    from pyarrow import parquet

    features = {"label": {"names": ["pos", "neg"], "_type": "ClassLabel"}}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    numbers = [0 if label == "pos" else 1 for label in LABELS]
    table = pa.table({"text": TEXTS, "label": numbers}).replace_schema_metadata(note)
    (search.base / "hub").mkdir()
    (search.base / "hub" / "README.md").write_text("# Films\n")
    for split, first, count in (("train", 0, 8), ("test", 8, 4)):
        parquet.write_table(
            table.slice(first, count), search.base / f"hub/{split}-00000-of-00001.parquet"
        )
    found = load(search, "lines", file="hub")
    assert found.class_names == {"label": ("pos", "neg")}
    assert found.train.arrays["label"].tolist() == numbers[:8]
    assert found.test is not None and len(found.test) == 4
    record = {"translation": [{"de": a, "en": b} for a, b in zip(GERMAN, TEXTS, strict=True)]}
    parquet.write_table(pa.table(record), search.base / "p.parquet")
    settings = {"source": "translation.de", "target": "translation.en"}
    assert len(load(search, "pairs", file="p.parquet", **settings, test=0).train) == 12


def test_texts_in_several_files(search):
    (search.base / "wiki").mkdir()
    for name, text in (("train-0", "abc abc\n"), ("train-1", "cab\n"), ("valid", "bca bca\n")):
        (search.base / "wiki" / f"{name}.txt").write_text(text)
    for vocabulary in ("chars", "bytes"):
        found = load(search, "text", file="wiki", length=3, vocabulary=vocabulary)
        assert len(found.train) == 3 and found.splits["validation"].arrays["token"].shape == (2, 3)
        ids = found.vocabularies["token"].encode("abc abc\ncab\n")
        np.testing.assert_array_equal(found.train.arrays["token"].reshape(-1), ids[:9])
    for split, rows in (("train", "a\tx y\nb\tz\n"), ("dev", "b\tz\n")):
        (search.base / "l").mkdir(exist_ok=True)
        (search.base / "l" / f"{split}.tsv").write_text(rows)
    found = load(search, "lines", file="l")
    assert {n: len(s) for n, s in found.splits.items()} == {"train": 2, "validation": 1}
    found = load(search, "pairs", file="l")
    assert {n: len(s) for n, s in found.splits.items()} == {"train": 2, "validation": 1}


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("lines", {}, "E0614: PATH has no column `label` (the columns are `a`, `text`)"),
        ("lines", {"target": "b"}, "E0614: PATH has no column `b`"),
        ("pairs", {"source": "a", "target": "txt"}, "`txt` (did you mean `text`?)"),
        ("text", {"length": 2, "column": "b"}, "E0614: PATH has no column `b`"),
        ("lines", {"target": "a"}, "E0616: PATH, line 2, column `text`: is empty"),
    ],
)
def test_columns_that_are_not_there(search, name, settings, told):
    path = search.base / "t.jsonl"
    path.write_text('{"a": 1, "text": "x"}\n{"a": 2, "text": null}\n')
    assert told.replace("PATH", str(path)) in refused(search, name, file="t.jsonl", **settings)


def test_lines_have_no_columns(search):
    (search.base / "t.txt").write_text("a\tb\n")
    told = refused(search, "lines", file="t.txt", text="b")
    assert told.startswith("E0614") and "is text, which has no columns that have names" in told


# --- tokenizers -----------------------------------------------------------------------------------


def trained(kind: str, path: Path) -> Path:
    """A tokenizer of a kind, trained on a few texts and saved."""
    package = pytest.importorskip("tokenizers", reason="needs tokenizers (nnc-lang[bpe])")
    models, trainers, before = package.models, package.trainers, package.pre_tokenizers
    if kind == "byte-level":
        made = package.Tokenizer(models.BPE())
        made.pre_tokenizer = before.ByteLevel(add_prefix_space=False)
        made.decoder = package.decoders.ByteLevel()
        alphabet = sorted(before.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"],
            show_progress=False,
        )  # fmt: skip
    elif kind == "metaspace":
        made = package.Tokenizer(models.Unigram())
        made.pre_tokenizer = before.Metaspace()
        made.decoder = package.decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=40, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
    else:
        made = package.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = package.normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = before.BertPreTokenizer()
        made.decoder = package.decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=60, special_tokens=["[PAD]", "[UNK]", "[CLS]"], show_progress=False
        )
    made.train_from_iterator([*TEXTS, *GERMAN, "Das schöne Haus – déjà vu"], trainer)
    made.enable_truncation(4)
    made.enable_padding(length=9)
    path.write_text(made.to_str())
    return path


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "wordpiece"])
def test_ids_are_those_of_the_file(search, kind):
    path = trained(kind, search.base / "tokenizer.json")
    reference = __import__("tokenizers").Tokenizer.from_file(str(path))
    reference.no_truncation()
    reference.no_padding()
    text = "".join(f"{one}\n" for one in (TEXTS + GERMAN) * 2)
    (search.base / "t.txt").write_text(text)
    settings = {"file": "t.txt", "vocabulary": "tokenizer.json", "length": 4, "validation": 0}
    found = load(search, "text", **settings)
    known = found.vocabularies["token"]
    ids = reference.encode(text, add_special_tokens=False).ids
    assert len(known) == reference.get_vocab_size() and len(known.names) == len(known)
    tokens = found.train.arrays["token"]
    np.testing.assert_array_equal(tokens.reshape(-1), ids[: tokens.size])
    equal(load(search, "text", **settings), found)  # from the cache
    assert Vocabulary.from_json(known.to_json()) == known
    for sentence in ("ein Haus, a good one", "das Haus"):
        read = known.encode(sentence)
        assert known.decode(read) == reference.decode(list(read), skip_special_tokens=False)
        first = read[:2]
        written = "".join(pieces(iter(read[2:]), known, first))
        assert known.decode(first) + written == known.decode(read)


def test_characters_of_several_tokens_are_written_whole(search):
    known = of_tokenizer(trained("byte-level", search.base / "tokenizer.json"))
    text = "Das schöne Haus – 漢字 🦆, " * 8
    parts = list(pieces(iter(known.encode(text)), known))
    assert "".join(parts) == text and not any("\N{REPLACEMENT CHARACTER}" in p for p in parts)


def test_texts_with_labels_and_pairs(search):
    trained("wordpiece", search.base / "tokenizer.json")
    write(search.base / "t.jsonl", text=[*TEXTS[:11], "a GOOD 漢"], label=LABELS)
    found = load(search, "lines", file="t.jsonl", vocabulary="tokenizer.json")
    known = found.vocabularies["token"]
    assert known.specials == () and known.unknown("a GOOD 漢") == ["漢"]
    assert known.encode("GOOD").tolist() == known.encode("good").tolist()
    write(search.base / "p.jsonl", source=GERMAN, target=TEXTS)
    found = load(search, "pairs", file="p.jsonl", vocabulary="tokenizer.json", test=0)
    writer = found.vocabularies["target_in"]
    row = found.train.arrays["target_out"][0]
    assert writer.decode(row) == known.decode(known.encode(TEXTS[0]))
    assert found.train.arrays["target_in"][0][0] == writer.special("<start>")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "E0602: PATH is no tokenizer"),
        ('{"model": {"tokens": ["a"]}}', "E0602: PATH is no tokenizer"),
        ('{"model": {"type": "BPE", "vocab": 7}}', "E0603: PATH cannot be read as a tokenizer"),
        (None, "E0601: no file `tokenizer.json`"),
    ],
)
def test_files_that_are_no_tokenizer(search, content, told):
    pytest.importorskip("tokenizers", reason="needs tokenizers (nnc-lang[bpe])")
    path = search.base / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    (search.base / "t.txt").write_text("abc " * 20)
    for name, more in (("text", {"length": 2}), ("lines", {"delimiter": " "})):
        found = refused(search, name, file="t.txt", vocabulary="tokenizer.json", **more)
        assert told.replace("PATH", str(path)) in found
    found = refused(search, "text", file="t.txt", vocabulary="tokens.txt", length=2)
    assert 'or "bpe" or the name of a file that ends in .json' in found


WRITER = """
model Writer(token: i32[B, T]) -> logits: f32[B, T, SIZE] {
    logits = token |> Embedding(SIZE, 8) |> GRU(8) |> Dense(SIZE)
}

train Writer {
    data      = text("t.jsonl", vocabulary = "tokenizer.json", length = 8)
    loss      = cross_entropy(logits, target)
    optimizer = adam(lr = 1e-2)
    epochs    = 2
}
"""


def test_a_run_keeps_its_tokenizer(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    trained("metaspace", Path("tokenizer.json"))
    known = of_tokenizer(Path("tokenizer.json"))
    write(Path("t.jsonl"), text=(TEXTS + GERMAN) * 6)
    Path("m.nn").write_text(WRITER.replace("SIZE", str(len(known))))
    assert cli.run(["train", "m.nn", "--out", "run"]) == 0
    Path("tokenizer.json").unlink()
    capfd.readouterr()
    line = ["generate", "run", "--prompt", "ein Haus", "--length", "5", "--temperature", "0"]
    assert cli.run(line) == 0
    out, err = capfd.readouterr()
    assert out.startswith("ein Haus") and "5 tokens" in err
    assert known.encode(out.rstrip("\n")).tolist()[: len(known.encode("ein Haus"))]
    write(Path("new.jsonl"), text=["ein Haus", "a"])
    assert cli.run(["predict", "run", "new.jsonl", "--top", "2"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["ein Haus", "a"]
    assert rows[1]["input"] == "new.jsonl:2" and rows[0]["next"] in known.names
