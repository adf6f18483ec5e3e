"""A few files of the fuzzer that spoils them; `python tests/fuzzers/files.py` does many."""

from __future__ import annotations

import pytest

from . import files


@pytest.mark.slow
def test_files_as_they_should_be_are_read(tmp_path):
    pytest.importorskip("PIL", reason="images need Pillow")
    defects, codes = files.run(len(files.kinds()), None, tmp_path)
    assert not defects
    assert set(codes) == {0}


def test_spoilt_files_end_with_a_message(tmp_path):
    defects, codes = files.run(8, 1, tmp_path)
    assert not defects
    assert codes[1] > 2
