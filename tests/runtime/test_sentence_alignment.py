"""Sentences of texts, and which of them translate which, by their lengths."""

from __future__ import annotations

import pytest

from nnc.runtime.data.core.sentence_alignment import aligned, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("He said “No.” Then he left.", ["He said “No.”", "Then he left."]),
        ("Er sagte: „Nein.“ (Wirklich.) Dann ging er.",
         ["Er sagte: „Nein.“", "(Wirklich.)", "Dann ging er."]),
        ("Use e.g. apt, i.e. a tool, z. B. Debian or J. Doe.",
         ["Use e.g. apt, i.e. a tool, z. B. Debian or J. Doe."]),
        ("See apt.conf for version 2.1 of it. etc. follows", 
         ["See apt.conf for version 2.1 of it. etc. follows"]),
        ("これは文です。「次です。」終わり", ["これは文です。", "「次です。」", "終わり"]),
        ("", []),
        ("No mark", ["No mark"]),
    ],
)  # fmt: skip
def test_sentences(text, expected) -> None:
    assert sentences(text) == expected
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


SHORT, LONG = "So it is.", "This is a rather long sentence of many words that goes on for a while."


def test_equal_numbers_are_paired_in_order() -> None:
    text = f"{SHORT} {LONG} {SHORT} {LONG}"
    assert aligned(text, text) == [(s, s) for s in (SHORT, LONG, SHORT, LONG)]


def test_two_sentences_of_one() -> None:
    """What one language says in two sentences of 36 characters, the other says in one of 71."""
    parts = "This is a rather long sentence, yes. Its other half is of equal size, no."
    text, translation = f"{SHORT} {LONG} {SHORT}", f"{SHORT} {parts} {SHORT}"
    assert aligned(text, translation) == [(SHORT, SHORT), (LONG, parts), (SHORT, SHORT)]
    assert aligned(translation, text) == [(SHORT, SHORT), (parts, LONG), (SHORT, SHORT)]


def test_a_longer_language_changes_nothing() -> None:
    """How much longer one language is is known of the paragraph."""
    double = {s: s[:-1] + " " + s for s in (SHORT, LONG)}
    text = " ".join((LONG, SHORT, LONG))
    found = aligned(text, " ".join(double[s] for s in (LONG, SHORT, LONG)))
    assert found == [(s, double[s]) for s in (LONG, SHORT, LONG)]


@pytest.mark.parametrize("texts", [(f"{SHORT} {SHORT} {SHORT} {SHORT}", LONG), ("", ""), ("a", "")])
def test_what_cannot_be_divided_stays_whole(texts) -> None:
    assert aligned(*texts) == [texts]


def test_nothing_is_lost() -> None:
    text = " ".join([LONG, SHORT, SHORT, LONG, SHORT])
    translation = " ".join([SHORT, LONG, LONG, SHORT])
    found = aligned(text, translation)
    assert " ".join(a for a, _ in found) == text
    assert " ".join(b for _, b in found) == translation
