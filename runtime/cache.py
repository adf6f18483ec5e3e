"""A content-addressed cache of files between runs.

A name contains a hash of everything that the content depends on. A file that is missing, damaged or
another user's is a miss, and the caller computes the content again; no error is raised. Files are
written atomically, so that several processes may use the folder at once; the least recently used
ones are evicted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import sys
import time
from pathlib import Path

LIMIT = 512 * 10**6  # bytes in the cache
MAX_WRITE_SECONDS = 3600  # after which an unfinished file is removed
CHECKSUM_BYTES = 32  # bytes of the checksum at a file's end

_noted = False


def kernel_cache() -> FileCache | None:
    """The cache of machine code: in the folder `NNC_CACHE` (`off`: none), else the user's."""
    chosen = os.environ.get("NNC_CACHE", "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return FileCache(Path(chosen).expanduser().absolute() / "kernels")
    from platformdirs import user_cache_dir  # only where it is needed

    return FileCache(Path(user_cache_dir("nnc")) / "kernels")


class FileCache:
    """A folder of files with checksums."""

    def __init__(self, folder: Path, limit: int = LIMIT):
        self.folder, self.limit = folder, limit

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> bytes | None:
        """The content of a name, or None; a damaged file is removed."""
        # Another user's file could hold any machine code, which this process would then run.
        if not self._is_private():
            return None
        path = self.path(name)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        content = data[:-CHECKSUM_BYTES]
        # Also of a file that was cut off, when its last bytes are no checksum.
        if data[-CHECKSUM_BYTES:] != _checksum(name, content):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        # The time of modification serves as that of the last use, since many systems do not record
        # reads. Where it cannot be set, files are evicted by age.
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now
        return content

    def write(self, name: str, content: bytes) -> bool:
        """Store the content; returns whether that was possible."""
        try:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            if not self._is_private():
                return False
            # A random name, since threads of one process may write the same content at once.
            temporary = self.path(f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
            try:
                _create(temporary, content + _checksum(name, content))
                temporary.replace(self.path(name))
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            _note(f"{error.strerror or error}: {self.folder}")
            return False
        self._evict(name)
        return True

    def _is_private(self) -> bool:
        """Whether the folder exists and no other user can write to it."""
        try:
            found = self.folder.stat()
        except OSError:
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
        """Remove the least recently used files beyond the limit, and old unfinished ones."""
        with contextlib.suppress(OSError):
            files = []
            for entry in os.scandir(self.folder):
                with contextlib.suppress(OSError):
                    about = entry.stat(follow_symlinks=False)
                    files.append((about.st_mtime, about.st_size, entry.name))
            total = sum(size for _, size, _ in files)
            for used, size, name in sorted(files):
                # A name with a dot is being written, perhaps by another process.
                abandoned = name.startswith(".") and used < time.time() - MAX_WRITE_SECONDS
                # The newest file stays even if it alone is beyond the limit.
                if abandoned or (total > self.limit and name != newest and name[0] != "."):
                    with contextlib.suppress(OSError):
                        self.path(name).unlink()
                    total -= size


def _create(path: Path, data: bytes) -> None:
    # O_EXCL never opens an existing file, so a link planted under that name is not followed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)


def _checksum(name: str, content: bytes) -> bytes:
    """Of name and content, so that a renamed file counts as damaged."""
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(content)
    return digest.digest()


def _note(reason: str) -> None:
    """Print once that the cache cannot be used."""
    global _noted
    if not _noted:
        _noted = True
        print(f"nnc: compiled code is not kept: {reason}", file=sys.stderr)
