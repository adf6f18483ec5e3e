"""When, where and from which state of its source a run is begun, for `settings.json`."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from ..device.cpu import host
from ..thread_count import available_processors

PATIENCE = 5  # seconds that git may take


def surroundings(base: Path) -> dict[str, Any]:
    """The date, with its offset from UTC, this computer, and the state of the git repository that
    `base` lies in (None if it is in none)."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": {
            "name": platform.node(),
            "system": platform.platform(),
            "processor": host.processor(),
            "processors": available_processors(),
        },
        "git": git_state(base),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that is checked out, and whether any file that git knows is another one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changed)}


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; empty where there is no git or no repository."""
    # Nothing is written, and no program that the repository's settings name is run.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""
