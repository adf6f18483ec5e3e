"""How much memory is free, checked before it is allocated.

Where the system does not report it, nothing is refused.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

from ..dsl.diagnostics.diagnostic import Diagnostic

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_GROUPS = (  # limit and use of a container, in both versions of control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


class NotEnoughMemory(Exception):
    """`needed` bytes do not fit into the `free` ones."""

    def __init__(self, needed: int, free: int):
        super().__init__(f"{needed} bytes of {free}")
        self.needed, self.free = needed, free


def out_of_memory() -> Diagnostic:
    """The diagnostic where the system refused memory that was reported free."""
    free = free_bytes()
    limit = " under `ulimit -v`" if is_limited() else ""
    return Diagnostic(
        "E0713",
        "memory ran out",
        help=f"{size_text(free)} are free now{limit}" if free is not None else "",
    )


def is_shortage(error: BaseException) -> bool:
    """Whether memory ran out: also where a library could not be loaded or a thread not be started
    under `ulimit -v`, which are reported as errors of other kinds."""
    if isinstance(error, MemoryError):
        return True
    if not is_limited():
        return False
    # An OSError about a file has its number; one of a library that cannot be mapped has none.
    loading = isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno is None)
    # Python's parser takes a failed allocation for a token that is missing, its evaluator for an
    # error without an exception; programs in nnc's language raise neither.
    loading = loading or isinstance(error, (SyntaxError, SystemError))
    starting = isinstance(error, RuntimeError) and "start new thread" in str(error)
    mapping = isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)
    return loading or starting or mapping


def is_limited() -> bool:
    """Whether `ulimit -v` limits the addresses of this process."""
    return _addresses() is not None


def are_short(addresses: int) -> bool:
    """Whether `ulimit -v` leaves fewer bytes of addresses than these."""
    left = _addresses()
    return left is not None and left < addresses


def require(needed: int) -> None:
    """Raise NotEnoughMemory if as many bytes do not fit."""
    free = free_bytes()
    if free is not None and needed > free:
        raise NotEnoughMemory(needed, free)


def free_bytes() -> int | None:
    """The bytes that this process may still allocate: the least of the available memory, the
    container's limit and `ulimit -v`. None if none of them is known."""
    # In a container, /proc/meminfo shows the whole computer's memory, so its limit counts, too.
    found = [_available(), *(_left(*group) for group in _GROUPS), _addresses()]
    return min((f for f in found if f is not None), default=None)


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                # The kernel says kB and means 1024 bytes.
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


def _left(limit: str, used: str) -> int | None:
    try:
        allowed, taken = (Path(p).read_text("ascii").strip() for p in (limit, used))
        # `max` is no limit in version 2; version 1 has a number beyond any memory.
        return None if allowed == "max" else max(0, int(allowed) - int(taken))
    except (OSError, ValueError):
        return None


def _addresses() -> int | None:
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        # The first number is the size of the address space in pages, which RLIMIT_AS limits.
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except (OSError, ValueError):
        return None
    return max(0, limit - pages * resource.getpagesize())


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGTP]i?)?B?", re.IGNORECASE)


def bytes_of(text: str) -> int | None:
    """The bytes of a size such as `500 MB` or `2GiB`; None if the text is none."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    prefix = (found[2] or "").lower()
    base = 1024 if prefix.endswith("i") else 1000
    return int(float(found[1]) * base ** (" kmgtp".index(prefix[0]) if prefix else 0))


def size_text(count: int) -> str:
    """Bytes with a unit."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while value >= 1000 and len(units) > 1:
        # Decimal units, as manufacturers and most tools count: 1 kB is 1000 bytes.
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
