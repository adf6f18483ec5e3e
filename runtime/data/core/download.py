"""Fetching a file of a known set into the user's cache.

In: an address and the checksum of the unpacked bytes. Out: a file under its final name, whole and
checked, or nothing. Imported only when something is fetched: `urllib` is slow to import.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.request
import zlib
from pathlib import Path

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.syntax.source import Span
from .data_paths import reason
from .decompress import GZIP_MAGIC

SECONDS = 30  # without a byte before giving up


def download(address: str, destination: Path, checksum: str, span: Span | None = None) -> None:
    """Fetch a file, gzip'd or not; `checksum` is that of its plain bytes (SHA-256).

    E0610 or E0617.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        descriptor, aside = tempfile.mkstemp(dir=destination.parent, suffix=".part")
    except OSError as error:
        raise fail(
            "E0617", f"cannot write to {destination.parent}: {reason(error)}", span
        ) from error
    try:
        with open(descriptor, "wb") as file:
            _fetch(address, file, span)
        found = _checksum(Path(aside))
        if found != checksum:
            raise fail(
                "E0610",
                f"what {address} sent is not the file that was expected: SHA-256 {found}, not "
                f"{checksum}",
                span,
                help="fetch it by other means and name its folder with `--data`",
            )
        os.replace(aside, destination)
    except OSError as error:
        raise fail("E0617", f"cannot keep {destination}: {reason(error)}", span) from error
    finally:
        Path(aside).unlink(missing_ok=True)


def _fetch(address: str, file, span: Span | None) -> None:
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            shutil.copyfileobj(answer, file, 1 << 16)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        why = reason(error)
        raise fail(
            "E0610",
            f"cannot download {address}: {why}",
            span,
            help="fetch it by other means and name its folder with `--data`",
        ) from error


def _checksum(packed: Path) -> str:
    """SHA-256 of the plain bytes, or a word that is none when they do not unpack."""
    digest = hashlib.sha256()
    try:
        with open(packed, "rb") as file:
            opened = gzip.open if file.read(2) == GZIP_MAGIC else open
        with opened(packed, "rb") as plain:
            while piece := plain.read(1 << 20):
                digest.update(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "unknown (it does not unpack)"
    return digest.hexdigest()
