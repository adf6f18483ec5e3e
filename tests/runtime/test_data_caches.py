"""What is stored of data between runs: a changed bit costs time, and never a number."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.data.core.decompress import plain_bytes
from nnc.runtime.data.core.feature_cache import load_cached, store_cached

ARRAYS = {
    "frames": np.linspace(-3, 9, 40, dtype=np.float32).reshape(10, 4),
    "ends": np.array([3, 7, 10]),
}


def entry(cache: Path, kind: str) -> Path:
    (path,) = (cache / kind).iterdir()
    return path


def test_stored_arrays_are_found_again(tmp_path):
    assert load_cached(tmp_path, "kind", "key") is None
    store_cached(tmp_path, "kind", "key", ARRAYS)
    found = load_cached(tmp_path, "kind", "key")
    assert found is not None and found.keys() == ARRAYS.keys()
    assert all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)
    assert entry(tmp_path, "kind").stat().st_mode & 0o077 == 0


def test_any_flipped_bit_is_noticed(tmp_path):
    """Every byte of the archive, its directory and the headers of its arrays included."""
    store_cached(tmp_path, "kind", "key", ARRAYS)
    path = entry(tmp_path, "kind")
    whole = path.read_bytes()
    same = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        found = load_cached(tmp_path, "kind", "key")
        if found is not None:  # a date in the archive
            same += 1
            assert found.keys() == ARRAYS.keys()
            for name, array in ARRAYS.items():
                assert found[name].dtype == array.dtype and np.array_equal(found[name], array)
    assert same < len(whole) / 4
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        assert load_cached(tmp_path, "kind", "key") is None


def test_arrays_under_another_key_are_not_taken(tmp_path):
    store_cached(tmp_path, "kind", "key", ARRAYS)
    store_cached(tmp_path, "kind", "other", {"frames": np.zeros(3)})
    one, two = sorted((tmp_path / "kind").iterdir())
    os.replace(one, two)
    assert (load_cached(tmp_path, "kind", "key"), load_cached(tmp_path, "kind", "other")) == (
        None,
        None,
    )


def test_nothing_but_a_file_is_read(tmp_path):
    store_cached(tmp_path, "kind", "key", ARRAYS)
    path = entry(tmp_path, "kind")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert load_cached(tmp_path, "kind", "key") is None
    path.unlink()
    os.mkfifo(path)
    assert load_cached(tmp_path, "kind", "key") is None
    store_cached(tmp_path, "kind", "key", ARRAYS)
    assert load_cached(tmp_path, "kind", "key") is not None


def test_an_unpacked_copy_that_has_changed_is_made_anew(tmp_path):
    plain = os.urandom(5000)
    packed, cache = tmp_path / "data.gz", tmp_path / "cache"
    packed.write_bytes(gzip.compress(plain))
    assert plain_bytes(packed, cache).tobytes() == plain
    copy = entry(cache, "unpacked")
    whole = copy.read_bytes()
    assert whole.startswith(plain)
    for place in [*range(0, len(plain), 250), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1
        copy.unlink()
        copy.write_bytes(changed)
        assert plain_bytes(packed, cache).tobytes() == plain
        assert copy.read_bytes() == whole
    copy.unlink()
    copy.symlink_to(packed)
    assert plain_bytes(packed, cache).tobytes() == plain
    copy.unlink()
    os.mkfifo(copy)
    assert plain_bytes(packed, cache).tobytes() == plain


def test_a_packed_file_that_is_damaged_leaves_no_copy(tmp_path):
    packed, cache = tmp_path / "data.gz", tmp_path / "cache"
    whole = gzip.compress(bytes(5000))
    packed.write_bytes(whole[:-8] + bytes(4) + whole[-4:])
    with pytest.raises(UserError):
        plain_bytes(packed, cache)
    assert not list((cache / "unpacked").iterdir())
