"""Download a file of a well-known data set into the user's cache.

In: an address and the checksum of the unpacked bytes. Out: a complete and verified file under its
final name, or an error and no file.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import shutil
import urllib.request
import zlib
from pathlib import Path
from typing import BinaryIO

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.files import make_folder, reason, replacing
from .decompress import GZIP_MAGIC

TIMEOUT = 30  # seconds without a byte
ELSEWHERE = "fetch it by other means and name its folder with `--data`"


def download(address: str, destination: Path, checksum: str) -> None:
    """Fetch a file, compressed or not; `checksum` is the SHA-256 of its plain bytes.

    E0610 or E0617.
    """
    try:
        make_folder(destination.parent)
    except OSError as error:
        raise fail("E0617", f"cannot write to {destination.parent}: {reason(error)}") from error
    try:
        # Written beside its place and renamed only after the checksum: a file with the final name
        # is whole and genuine, and later runs need not check it again.
        with replacing(destination, private=True) as file:
            _fetch(address, file)
            found = _checksum(file)
            if found != checksum:
                # Not an OSError, so it passes the handler below; the unfinished file is removed.
                raise fail(
                    "E0610",
                    f"what {address} sent is not the file that was expected: SHA-256 {found}, not "
                    f"{checksum}",
                    help=ELSEWHERE,
                )
    except OSError as error:
        raise fail("E0617", f"cannot keep {destination}: {reason(error)}") from error


def _fetch(address: str, file: BinaryIO) -> None:
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            shutil.copyfileobj(answer, file, 1 << 16)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        message = f"cannot download {address}: {reason(error)}"
        raise fail("E0610", message, help=ELSEWHERE) from error


def _checksum(file: BinaryIO) -> str:
    """The SHA-256 of the plain bytes, or a remark that the file does not unpack."""
    file.seek(0)
    packed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    try:
        # The checksum is of the plain bytes, because the same data can be packed in different ways.
        plain = gzip.GzipFile(fileobj=file) if packed else file
        return hashlib.file_digest(plain, "sha256").hexdigest()  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "unknown (it does not unpack)"
