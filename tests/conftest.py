"""What all tests share: `--update-golden` writes expected texts anew instead of comparing."""

from __future__ import annotations

import signal

import pytest

from nnc.compiler.ir.equation import System
from nnc.runtime.device.cpu import program

# `nohup`, and a shell that runs a command in the background, leave these ignored, and so would the
# processes that tests start and send them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the expected texts anew")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[System]:
    """The systems that are compiled for the CPU from now on."""
    found: list[System] = []

    class Counted(program.CpuProgram):
        def _find_code(self):
            found.append(self.system)
            return super()._find_code()

    monkeypatch.setattr("nnc.runtime.device.CpuProgram", Counted)
    return found


@pytest.fixture
def whole_file_runs(request: pytest.FixtureRequest) -> None:
    """Skip a test that looks at what the tests before it in its file did, unless this process runs
    them all: several processes share the tests of a file, and a selection leaves some out."""
    items = request.session.items
    before = items[: items.index(request.node)]
    own = [item for item in before if item.path == request.node.path]
    if any(not hasattr(item, STARTED) for item in own):
        pytest.skip("only when the whole file runs in one process")


STARTED = "_started"


@pytest.hookimpl(tryfirst=True)  # before the plugin that skips tests
def pytest_runtest_setup(item: pytest.Item) -> None:
    setattr(item, STARTED, True)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory):
    """Compiled code is kept in a folder of the tests' own, not in the user's cache. Each of several
    processes that share the tests has its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNC_CACHE", str(tmp_path_factory.mktemp("kernels")))
        yield
