"""What of a GPU is on this computer, and what is missing.

In: nothing. Out: a `Found` with versions and, if the device `cuda` cannot run, what is wrong and
the command that mends it. `nnc doctor` prints it; the device refuses by it. CuPy is imported here
and in `cuda/program.py` only, when the device is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from .nvrtc import NvrtcNotFound, driver_version, nvrtc

LATEST = 13  # the newest CUDA for which CuPy is packaged


@dataclass(frozen=True)
class Found:
    """Versions as text, empty if absent; `problem` and `remedy` are empty if all is well."""

    packages: tuple[str, ...] = ()  # of CuPy
    cupy: str = ""
    driver: str = ""  # the CUDA that the driver can run
    runtime: str = ""  # the CUDA that CuPy is made for
    device: str = ""
    architecture: str = ""
    nvrtc: str = ""
    problem: str = ""
    remedy: str = ""


def look() -> Found:
    """Everything that can be found out, up to the first problem."""
    # asked of the driver itself, so that it is known without CuPy
    driver = driver_version()
    facts: dict[str, Any] = {"packages": cupy_packages(), "driver": _text(driver)}
    facts["nvrtc"], no_nvrtc = _nvrtc()
    # up to the first problem: what comes after it cannot be asked
    try:
        cupy = _cupy(driver, facts)
        _device(cupy, facts)
    except _Problem as problem:
        return Found(**facts, problem=problem.what, remedy=problem.remedy)
    # CuPy's problems come first: the command that mends them brings NVRTC as well
    if no_nvrtc:
        return Found(**facts, problem=no_nvrtc, remedy=nvrtc_install(driver))
    # machine code of a newer CUDA is refused by an older driver
    newest = int(str(facts["nvrtc"]).split(".")[0])
    if newest > driver // 1000:
        what = f"NVRTC is of CUDA {facts['nvrtc']}, and the driver runs CUDA {facts['driver']}"
        return Found(**facts, problem=what, remedy=nvrtc_install(driver))
    return Found(**facts)


def cupy_install(driver: int) -> str:
    """The command for the CuPy that fits the driver (0 if there is none)."""
    # the last word of the command is the package
    return f"pip install cupy-cuda{_major(driver)}x {nvrtc_install(driver).split()[-1]}"


def nvrtc_install(driver: int) -> str:
    """From CUDA 13 on the packages have no suffix."""
    if _major(driver) == 12:
        return "pip install nvidia-cuda-nvrtc-cu12"
    return f'pip install "nvidia-cuda-nvrtc=={_major(driver)}.*"'


def _major(driver: int) -> int:
    # CuPy and NVRTC are installed for CUDA 12 up to LATEST
    return min(max(driver // 1000, 12), LATEST) if driver else 12


def cupy_packages() -> tuple[str, ...]:
    """The installed packages that bring CuPy: more than one of them hide each other's parts."""
    # a broken installation may have metadata without a name
    names = {(d.metadata["Name"] or "").lower() for d in metadata.distributions()}
    return tuple(sorted(n for n in names if n == "cupy" or n.startswith("cupy-cuda")))


# --- problems -------------------------------------------------------------------------------------


class _Problem(Exception):
    def __init__(self, what: str, remedy: str):
        self.what, self.remedy = what, remedy


def _cupy(driver: int, facts: dict[str, Any]) -> Any:
    packages = facts["packages"]
    # each of them owns the folder `cupy`: which files win is a matter of chance
    if len(packages) > 1:
        what = f"{' and '.join(packages)} are both installed and hide each other's parts"
        raise _Problem(what, f"pip uninstall -y {' '.join(packages)} && {cupy_install(driver)}")
    # missing is another problem than installed and broken
    if find_spec("cupy") is None:
        raise _Problem(
            "CuPy, through which nnc speaks to the GPU, is not installed", cupy_install(driver)
        )
    try:
        cupy = import_module("cupy")
    except Exception as error:  # a broken installation raises whatever it likes
        first = str(error).strip().splitlines()
        raise _Problem(
            f"CuPy is installed and cannot be loaded: {first[0] if first else error!r}",
            f"pip uninstall -y {' '.join(packages) or 'cupy'} && {cupy_install(driver)}",
        ) from None
    facts["cupy"] = cupy.__version__
    return cupy


def _device(cupy: Any, facts: dict[str, Any]) -> None:
    runtime = cupy.cuda.runtime
    made_for, driver = runtime.runtimeGetVersion(), runtime.driverGetVersion()
    facts["runtime"], facts["driver"] = _text(made_for), _text(driver)
    # 0 is CUDA's answer where there is no driver
    if not driver:
        raise _Problem(
            "no NVIDIA driver is installed, or it sees no GPU",
            "install it from nvidia.com; `nvidia-smi` then lists the GPU",
        )
    # within one major version, drivers run what is older or newer
    if made_for // 1000 > driver // 1000:
        packages = " ".join(facts["packages"]) or "cupy"
        raise _Problem(
            f"CuPy is made for CUDA {_text(made_for)}, and the driver runs CUDA {_text(driver)}",
            f"pip uninstall -y {packages} && {cupy_install(driver)}",
        )
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise _Problem(f"the driver does not answer: {error}", "nvidia-smi") from None
    if count == 0:
        raise _Problem("the driver finds no GPU", "nvidia-smi")
    properties = runtime.getDeviceProperties(0)
    # bytes or text, as CuPy's versions have it
    name = properties["name"]
    facts["device"] = name.decode() if isinstance(name, bytes) else str(name)
    # 9 and 0 → sm_90
    facts["architecture"] = f"sm_{properties['major']}{properties['minor']}"


def _nvrtc() -> tuple[str, str]:
    """The version, and the problem if there is none."""
    try:
        return ".".join(map(str, nvrtc().version)), ""
    except NvrtcNotFound as error:
        # the command is in the remedy already
        return "", str(error).split(": pip install")[0]


def _text(version: int) -> str:
    # 12090 → 12.9
    return f"{version // 1000}.{version % 1000 // 10}" if version else ""


# --- for `nnc doctor` -----------------------------------------------------------------------------


def lines(found: Found) -> Iterator[str]:
    """What was found, and what to do about what is missing."""
    rows = (
        (
            "CuPy",
            " ".join(
                filter(
                    None, (found.cupy, f"({', '.join(found.packages)})" if found.packages else "")
                )
            ),
        ),
        ("CUDA of CuPy", found.runtime),
        ("CUDA of the driver", found.driver),
        ("NVRTC", found.nvrtc),
        ("GPU", found.device),
        ("architecture", found.architecture),
    )
    for name, text in rows:
        yield f"{name:19} {text or '-'}"
    if found.problem:
        yield f"\n--device cuda cannot run: {found.problem}"
        yield f"    {found.remedy}"
    else:
        yield "\n--device cuda is ready"
