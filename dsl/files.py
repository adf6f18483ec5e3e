"""Files that are written, locked and removed: the only module of the package that does so.

A file appears complete or not at all: it is written under a temporary name in the same folder,
flushed to the disk, then renamed. Only a regular file, or none, is replaced; a symbolic link stays,
and the file that it names is replaced; mode, owner and access lists stay. Temporary names are
random and never opened through a link. Their writer holds a lock on them, so that what a killed
process has left can be told from what is being written, and is removed by the next one.
Tests: tests/runtime/test_files.py.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

try:
    import fcntl
except ImportError:  # Windows has no such locks: nothing is taken for abandoned there
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = re.compile(r"\.nnc-[0-9a-f]{16}\.part")
# What a file keeps when its content is replaced; not what vouches for the old content.
_KEPT_ATTRIBUTES = ("user.", "system.posix_acl_access", "security.selinux")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}
_SHARED = 0o666  # less what the umask takes away
_PRIVATE = 0o600
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)  # Windows

_cleaned: set[str] = set()  # folders in which this process has looked for abandoned files


# --- writing --------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path, durable: bool = True, private: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write and read, which replaces `path` when the block ends without an
    exception; any exception, OSError included, leaves the old file.

    With `durable`, the data is flushed to the disk before the rename, so that a power failure also
    leaves the old file or the new one; this costs milliseconds. A `private` file is one of nnc's
    own: only its owner can read it, and a link in its place is replaced.
    """
    target, old = (path, None) if private else _target(path)
    _clean_once(target.parent)
    handle, temporary = _create(target.parent, _PRIVATE if private or old else _SHARED)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            if old is not None:
                _imitate(handle, target, old)
            if durable:
                # Before the rename, or a power failure could leave the new name with an empty file.
                os.fsync(handle)
            if fcntl is None:
                file.close()  # Windows renames no open file
            # Still open, and so still locked.
            os.replace(temporary, target)
        if durable:
            # The rename itself is an entry of the folder, and only on the disk when the folder is.
            _sync_folder(target.parent)
    finally:
        with suppress(OSError):  # it was renamed, or its folder is read-only now
            os.unlink(temporary)


def append(path: Path, data: bytes) -> None:
    """Add a line or so to one of nnc's own files, or begin it. OSError if something else is there.
    A process that is killed leaves all of it or, in a file that is read with that in mind, a
    part."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags | _NO_LINK | _BINARY, _SHARED)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        # one call: it comes to less only where the disk is full
        if os.write(handle, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(handle)


def _target(path: Path) -> tuple[Path, os.stat_result | None]:
    """The file to replace, and what is known of it (None: there is none). OSError if it is no
    regular file, or one that may not be written."""
    try:
        old = os.stat(path)
    except FileNotFoundError:  # or a link to a file that does not exist yet
        return Path(os.path.realpath(path)), None
    if not stat.S_ISREG(old.st_mode):
        kind = _KINDS.get(stat.S_IFMT(old.st_mode), "no regular file")
        raise OSError(errno.EINVAL, f"it is {kind}")
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    # As /dev/stdout: who has it open would not see the file that replaces it.
    if _names_open_file(path):
        raise OSError(errno.EINVAL, "it is a file that is open, and not a path")
    # A rename asks only for the folder's permission; who protects a file means its content.
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return target, old


def _names_open_file(path: Path) -> bool:
    """Whether a path leads through a link of /proc, which names a file that a process has open."""
    while path.is_symlink():
        folder = os.path.realpath(path.parent)
        if folder.startswith("/proc/"):
            return True
        path = Path(folder, os.readlink(path))
    return False


def _create(folder: Path, mode: int) -> tuple[int, Path]:
    """A new, empty, locked file with an unpredictable name: its handle and its path."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY
    while True:
        path = folder / f".nnc-{os.urandom(8).hex()}.part"
        try:
            handle = os.open(path, flags, mode)
        except FileExistsError:  # also a link, wherever it leads
            continue
        if _lock(handle, wait=True):
            return handle, path
        os.close(handle)


def _lock(handle: int, wait: bool) -> bool:
    """Lock an unfinished file or folder; false if it was removed before, as one without a lock. A
    lock that another process holds is an OSError, unless `wait`."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if not wait:
                raise
            # The file system has no locks; then nothing on it is taken for abandoned.
    return os.fstat(handle).st_nlink > 0


def _imitate(handle: int, path: Path, old: os.stat_result) -> None:
    """Give an open file owner, access lists and mode of the file that it replaces."""
    mode = stat.S_IMODE(old.st_mode) & 0o777
    with suppress(OSError):  # only the superuser gives files away
        os.chown(handle, old.st_uid, old.st_gid)
    if os.fstat(handle).st_gid != old.st_gid:
        mode &= ~0o070  # these were for another group
    if hasattr(os, "listxattr"):
        with suppress(OSError):  # a file system without attributes
            wanted = {n for n in os.listxattr(path) if n.startswith(_KEPT_ATTRIBUTES)}
            # A list that the new file has from its folder would open it to others.
            for name in {"system.posix_acl_access"} & set(os.listxattr(handle)) - wanted:
                os.removexattr(handle, name)
            for name in wanted:
                with suppress(OSError):
                    os.setxattr(handle, name, os.getxattr(path, name))
    with suppress(OSError):  # a file system without modes
        os.chmod(handle, mode)


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk, on systems that can open and flush a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def unnamed_file(folder: Path | None = None) -> BinaryIO:
    """A temporary file, in the folder if one is given, that vanishes when it is closed or the
    process ends, however it ends."""
    import tempfile  # rarely needed, as below

    return tempfile.TemporaryFile(dir=folder)


def temporary_folder() -> str:
    """Where `unnamed_file` makes its files; empty if there is no such folder."""
    import tempfile

    try:
        return tempfile.gettempdir()
    except OSError:
        return ""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for another program to write into, removed at the end with all that it holds."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def bug_report() -> TextIO:
    """A new text file in the folder of temporary files, which stays."""
    import tempfile

    return tempfile.NamedTemporaryFile(  # type: ignore[return-value]
        "w", prefix="nnc-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    )


# --- folders --------------------------------------------------------------------------------------


def make_folder(path: Path, private: bool = False) -> None:
    """Make a folder and those above it, where they do not exist. OSError if that is impossible."""
    try:
        path.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, to be filled and then placed by `place_folder`; whatever is left of
    it at the end is removed."""
    make_folder(parent)
    _clean_once(parent)
    while True:
        path = parent / f".nnc-{os.urandom(8).hex()}.part"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        try:
            handle = os.open(path, os.O_RDONLY | _NO_LINK)
        except FileNotFoundError:  # removed in between, as one without a lock
            continue
        except OSError:  # Windows opens no folder
            handle = -1
        if handle < 0 or _lock(handle, wait=True):
            break
        os.close(handle)
    try:
        yield path
    finally:
        _remove_folder(path)
        if handle >= 0:
            os.close(handle)


def place_folder(folder: Path, path: Path) -> bool:
    """Rename a folder to `path`, where an empty folder may be; false if anything else is there."""
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    try:
        if path.is_dir():
            os.chmod(folder, stat.S_IMODE(path.stat().st_mode))
        os.rename(folder, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    _sync_folder(path.parent)
    return True


# --- removing -------------------------------------------------------------------------------------


def remove(path: Path) -> bool:
    """Remove a regular file, and nothing else: no link, no folder. Whether it is gone by this."""
    try:
        if stat.S_ISREG(os.lstat(path).st_mode):
            os.unlink(path)
            return True
    except OSError:
        pass
    return False


def set_aside(path: Path) -> Path | None:
    """Rename whatever is there to NAME.damaged, or NAME.damaged-2 and so on where that is a folder;
    None if there is nothing. OSError if that is impossible."""
    if not os.path.lexists(path):
        return None
    aside, number = path.with_name(f"{path.name}.damaged"), 2
    while aside.is_dir() or (path.is_dir() and os.path.lexists(aside)):
        aside, number = path.with_name(f"{path.name}.damaged-{number}"), number + 1
    os.replace(path, aside)
    return aside


def make_way(path: Path) -> None:
    """Set aside what is in the place of one of nnc's own files and is none, as a folder or a pipe.
    OSError if that is impossible."""
    if os.path.lexists(path) and not path.is_file():
        set_aside(path)


def clean(folder: Path) -> None:
    """Remove what writers of this user that were killed have left unfinished in a folder."""
    with suppress(OSError):
        with os.scandir(folder) as entries:
            found = [e.name for e in entries if _UNFINISHED.fullmatch(e.name)]
        for name in found:
            _remove_abandoned(folder / name)


def _clean_once(folder: Path) -> None:
    name = os.path.abspath(folder)
    if name not in _cleaned:
        _cleaned.add(name)
        clean(folder)


def _remove_abandoned(path: Path) -> None:
    if fcntl is None:
        return
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | _NO_LINK | os.O_NONBLOCK)
        try:
            about = os.fstat(handle)
            # A writer that lives holds the lock, and this raises.
            if about.st_uid == os.geteuid() and _lock(handle, wait=False):
                if stat.S_ISDIR(about.st_mode):
                    _remove_folder(path)
                else:
                    remove(path)
        finally:
            os.close(handle)


def _remove_folder(path: Path) -> None:
    """Remove a folder with the files in it; one that holds anything else stays."""
    with suppress(OSError):
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            remove(path / name)
        os.rmdir(path)


# --- reading nnc's own files ----------------------------------------------------------------------


def open_own(path: Path) -> BinaryIO:
    """A regular file of this user, to be read. OSError for any other, links too."""
    handle = os.open(path, os.O_RDONLY | _NO_LINK | _BINARY | getattr(os, "O_NONBLOCK", 0))
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        # Another user's file could hold anything.
        if hasattr(os, "geteuid") and about.st_uid != os.geteuid():
            raise PermissionError(errno.EACCES, "it belongs to another user")
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def read_own(path: Path) -> bytes:
    """All bytes of a file, as `open_own`."""
    with open_own(path) as file:
        return file.read()


def user_cache() -> Path | None:
    """The folder for what nnc stores for this user between runs; None where there is no home."""
    from platformdirs import user_cache_dir  # rarely needed at the start

    # Without $HOME and an entry of the user among the passwords, older versions leave `~` as it is.
    try:
        found = Path(user_cache_dir("nnc"))
    except RuntimeError:
        return None
    return found if found.is_absolute() else None


def chosen_cache() -> Path | None:
    """The folder that `NNC_CACHE` names, else the user's; None if it is `off` or there is none."""
    chosen = os.environ.get("NNC_CACHE", "")
    if not chosen:
        return user_cache()
    # expanduser of pathlib raises where there is no home
    found = os.path.expanduser(chosen)
    return None if chosen.lower() == "off" or found[0] == "~" else Path(os.path.abspath(found))


def reason(error: BaseException) -> str:
    """What went wrong, without the path that `OSError` adds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
