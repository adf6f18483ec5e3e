"""A content-addressed cache of files between runs.

A name contains a hash of everything that the content depends on. A file that is missing, damaged or
another user's is a miss, and the caller computes the content again; no error is raised. Files are
written atomically, so that several processes may use the folder at once; the least recently used
ones are evicted.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from contextlib import suppress
from pathlib import Path

from ..dsl.files import chosen_cache, make_folder, read_own, reason, remove, replacing

LIMIT = 512 * 10**6  # bytes in the cache
CHECKSUM_BYTES = 32  # bytes of the checksum at a file's end
# What this cache calls its files; whatever else lies in the folder is never read nor removed.
_OWN = re.compile(r"[0-9a-f]{64}\.(?:so|o|cubin|tree|program)")

_noted = False


def kernel_cache() -> FileCache | None:
    """The cache of machine code, elaborated programs and syntax trees: in the folder `NNC_CACHE`
    (`off`: none), else the user's."""
    folder = chosen_cache()
    return None if folder is None else FileCache(folder / "kernels")


class FileCache:
    """A folder of files with checksums. Their names are 64 hexadecimal digits and `.so`, `.o` or
    `.cubin` for machine code, `.program` for elaborated programs, `.tree` for syntax trees."""

    def __init__(self, folder: Path, limit: int = LIMIT):
        self.folder, self.limit = folder, limit

    def path(self, name: str) -> Path:
        assert _OWN.fullmatch(name), name
        return self.folder / name

    def read(self, name: str) -> bytes | None:
        """The content of a name, or None; a damaged file is removed."""
        # Another user's file could hold any machine code, which this process would then run.
        if not self._is_private():
            return None
        path = self.path(name)
        try:
            data = read_own(path)
        except OSError:
            return None
        content = data[:-CHECKSUM_BYTES]
        # Also of a file that was cut off, when its last bytes are no checksum.
        if data[-CHECKSUM_BYTES:] != _checksum(name, content):
            remove(path)
            return None
        # The time of modification serves as that of the last use, since many systems do not record
        # reads. Where it cannot be set, files are evicted by age.
        with suppress(OSError):
            os.utime(path, follow_symlinks=False)  # used just now
        return content

    def files(self) -> list[Path]:
        """The cache's own files."""
        if not self._is_private():
            return []
        with os.scandir(self.folder) as entries:
            own = [e.name for e in entries if _OWN.fullmatch(e.name)]
        return [self.path(name) for name in sorted(own)]

    def write(self, name: str, content: bytes) -> bool:
        """Store the content; returns whether that was possible."""
        try:
            make_folder(self.folder, private=True)
            if not self._is_private():
                return False
            # What a power failure damages has a wrong checksum: it need not be on the disk.
            with replacing(self.path(name), durable=False, private=True) as file:
                file.write(content + _checksum(name, content))
        except OSError as error:
            _note(f"{reason(error)}: {self.folder}")
            return False
        self._evict(name)
        return True

    def _is_private(self) -> bool:
        """Whether the folder exists, is no link, and no other user can write to it."""
        try:
            found = self.folder.lstat()
        except OSError:
            return False
        # A link may lead to a folder that holds other things.
        if not stat.S_ISDIR(found.st_mode):
            _note(f"{self.folder} is no folder, or a link to one")
            return False
        # Windows has no such owners; the user's own folder is private there by default.
        if not hasattr(os, "geteuid"):
            return True
        if found.st_uid != os.geteuid():
            _note(f"{self.folder} belongs to another user")
            return False
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _note(f"other users can write to {self.folder}")
            return False
        return True

    def _evict(self, newest: str) -> None:
        """Remove the least recently used of the cache's own files beyond the limit."""
        with suppress(OSError):
            files = []
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    if _OWN.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        about = entry.stat(follow_symlinks=False)
                        files.append((about.st_mtime, about.st_size, entry.name))
            total = sum(size for _, size, _ in files)
            for _, size, name in sorted(files):
                # The newest file stays even if it alone is beyond the limit.
                if total > self.limit and name != newest:
                    remove(self.path(name))
                    total -= size


def digest_of(*parts: str | bytes | memoryview) -> str:
    """64 hexadecimal digits that name an entry by all that decides about it. The texts may have
    surrogates, as names of files that are no UTF-8 do."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        # With lengths, so that no two lists of parts have the same bytes.
        digest.update(f"{len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _checksum(name: str, content: bytes) -> bytes:
    """Of name and content, so that a renamed file counts as damaged."""
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(content)
    return digest.digest()


def _note(why: str) -> None:
    """Print once that the cache cannot be used."""
    global _noted
    if not _noted:
        _noted = True
        if sys.stderr is not None:
            print(f"nnc: compiled code is not kept: {why}", file=sys.stderr)
