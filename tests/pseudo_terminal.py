"""Commands as a user at a terminal runs them: with a pseudo-terminal of so many columns."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and movements of the cursor


def at_terminal(
    arguments: Sequence[str], folder: Path, columns: int = 80, code: int = 0, **env: str
) -> str:
    """What `nnc …` writes to its terminal, which must end with `code`; skips where there are
    none."""
    pty: Any = pytest.importorskip("pty")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **env}
    environment = {n: v for n, v in environment.items() if n not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "nnc", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=side, stderr=side)
    os.close(side)
    written = b""
    # Linux ends a terminal without writers with an error, others with nothing to read.
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:
            break
        if not part:
            break
        written += part
    os.close(main)
    text = written.decode().replace("\r\n", "\n")
    assert process.wait() == code, text
    return text


def plain(text: str) -> str:
    """Without colours."""
    return ESCAPES.sub("", text)
