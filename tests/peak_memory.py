"""How much memory a training takes."""

from __future__ import annotations

import subprocess
import sys


def peak(program: str, *flags: str) -> int:
    """The most bytes in memory of a process that trains."""
    # Not `ru_maxrss`, in which a process begins with what the one that started it has.
    code = "import sys\nfrom nnc.runtime import cli\ncode = cli.run(sys.argv[1:])\n"
    code += "lines = open('/proc/self/status').read().splitlines()\n"
    code += "print(code, *[line.split()[1] for line in lines if line.startswith('VmHWM')])"
    command = [sys.executable, "-c", code, "train", program, "--threads", "1", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    code, most = ran.stdout.split()[-2:]
    assert code == "0", ran.stderr
    return int(most) * 1024
