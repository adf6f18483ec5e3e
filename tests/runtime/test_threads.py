"""One model, many callers: from threads, in forked children, in asyncio. Every answer has the bits
that the caller would get alone."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_programs import DIGITS, write
from support import mostly_slow

import nnc
from nnc.compiler.ir.expr import Expr, Idx
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.parser import parse
from nnc.dsl.syntax.source import Source
from nnc.runtime.training.program_pool import ProgramPool

CALLERS, CALLS = 4, 40
# what one call may not leave to the next: a state, random numbers, statistics of batches
STATEFUL = """
model Stateful(image: f32[B, 8, 8, 1]) -> logits: f32[B, 10] {
    h = image |> Flatten |> Dense(12) |> BatchNorm |> relu |> Dropout(0.3)
    rows[b, t, i] = image[b, t, i, 0]
    r, _ = rows |> LSTM(6)
    last[b, j] = r[b, 7, j]
    logits = (h |> Dense(10)) + (last |> Dense(10))
}

train Stateful {
    data      = digits()
    loss      = cross_entropy(logits, label)
    metric      accuracy = accuracy(logits, label)
    optimizer = adam(lr = 1e-2)
    batch     = 32
    epochs    = 1
}
"""


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (count, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, count)


def together(*calls: Callable[[], object]) -> list:
    """The results of calls that begin at the same moment, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], object]) -> object:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(begin, call) for call in calls]]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> dict[int, nnc.Model]:
    """By the number of threads; with the same weights."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for threads in (1, 2):
        found[threads] = nnc.load(write(folder, STATEFUL), threads=threads)
        found[threads].fit(*images(96, 0), epochs=2)
    return found


@pytest.mark.parametrize("threads", [1, 2])
def test_every_caller_gets_its_own_answer(fitted, threads):
    model = fitted[threads]
    # several batches and a rest; sizes that callers share, and some of their own
    given = [images(count, seed) for seed, count in enumerate((5, 5, 5, 300))]
    alone = [(model.predict(x).copy(), model.evaluate(x, y)) for x, y in given]

    def call(mine: int) -> None:
        for turn in range(CALLS):
            x, y = given[mine]
            np.testing.assert_array_equal(model.predict(x), alone[mine][0], err_msg=str(turn))
            assert model.evaluate(x, y) == alone[mine][1]

    together(*(lambda mine=mine: call(mine) for mine in range(CALLERS)))


def test_results_stay_as_they_were_handed_out(fitted):
    model = fitted[1]
    (one, _), (two, _) = images(7, 1), images(7, 2)
    first, parameters = model.predict(one), model.parameters
    before = first.copy()
    model.predict(two)
    np.testing.assert_array_equal(first, before)
    first[...] = 0
    for array in parameters.values():
        array[...] = 0
    np.testing.assert_array_equal(model.predict(one), before)


@pytest.mark.parametrize("threads", [1, 2])
def test_predicting_while_another_thread_trains(tmp_path, threads):
    """An answer is that of the weights before a `fit` or after it, never of any in between."""
    x, y = images(64, 3)
    asked, _ = images(6, 4)
    states = [nnc.load(write(tmp_path, STATEFUL), threads=1)]
    states[0].fit(x, y, epochs=1)
    expected = [states[0].predict(asked)]
    for _ in range(3):
        states[0].fit(x, y, epochs=2)
        expected.append(states[0].predict(asked))

    model = nnc.load(write(tmp_path, STATEFUL), threads=threads)
    model.fit(x, y, epochs=1)
    done, first = threading.Event(), threading.Event()

    def train() -> None:
        try:
            first.wait()
            for _ in range(3):
                model.fit(x, y, epochs=2)
        finally:
            done.set()

    def ask() -> set[int]:
        seen = set()
        while True:
            last = done.is_set()
            found = model.predict(asked)
            first.set()
            seen.add([np.array_equal(found, each) for each in expected].index(True))
            if last:
                return seen

    _, *seen = together(train, ask, ask)
    assert all({0, 3} <= each for each in seen)


def test_fits_of_one_model_run_one_after_the_other(tmp_path):
    x, y = images(64, 5)
    serial, model = (nnc.load(write(tmp_path), threads=1) for _ in range(2))
    for each in (serial, model):
        each.fit(x, y, epochs=1)
    expected = [serial.fit(x, y, epochs=1) for _ in range(3)]
    found = together(*[lambda: model.fit(x, y, epochs=1)] * 3)

    def losses(histories):
        return sorted(history[0]["loss"] for history in histories)

    assert losses(found) == losses(expected)
    for name, array in serial.parameters.items():
        np.testing.assert_array_equal(array, model.parameters[name])


def test_different_models_share_the_workers(tmp_path):
    """Two programs in two threads of a process that has one pool of workers."""
    x, y = images(200, 6)
    models = [nnc.load(write(tmp_path, text), threads=2) for text in (DIGITS, STATEFUL)]
    alone = [model.fit(x, y, epochs=3, seed=1) for model in models]
    again = [nnc.load(write(tmp_path, text), threads=2) for text in (DIGITS, STATEFUL)]
    found = together(*(lambda model=m: model.fit(x, y, epochs=3, seed=1) for m in again))
    for one, two in zip(alone, found, strict=True):
        assert [r["loss"] for r in one] == [r["loss"] for r in two]
    for one, two in zip(models, again, strict=True):
        np.testing.assert_array_equal(one.predict(x), two.predict(x))


@pytest.mark.slow
def test_models_are_opened_and_compiled_in_threads(tmp_path, monkeypatch):
    """From nothing: no code in the cache, and every thread compiles."""
    monkeypatch.setenv("NNC_CACHE", "off")
    before, collecting = sys.getswitchinterval(), gc.isenabled()
    x, y = images(40, 7)
    path = write(tmp_path)

    def whole(batch: int) -> tuple[list, np.ndarray]:
        model = nnc.load(path, threads=1, settings={"batch": batch})
        return [r["loss"] for r in model.fit(x, y, epochs=1)], model.predict(x)

    sizes = (7, 8, 7, 13)
    found = together(*(lambda size=size: whole(size) for size in sizes))
    for size, (losses, predicted) in zip(sizes, found, strict=True):
        expected = whole(size)
        assert losses == expected[0]
        np.testing.assert_array_equal(predicted, expected[1])
    assert sys.getswitchinterval() == before and gc.isenabled() == collecting


def test_a_mistake_in_one_call_is_that_call_s(fitted):
    model = fitted[2]
    x, y = images(5, 8)
    expected = model.predict(x)

    def wrong() -> None:
        for _ in range(CALLS):
            with pytest.raises(UserError):
                model.predict(x[:, :7])
            with pytest.raises(UserError):
                model.evaluate(x, y + 10)

    def right() -> None:
        for _ in range(CALLS):
            np.testing.assert_array_equal(model.predict(x), expected)

    together(wrong, right, wrong, right)


@pytest.mark.slow
def test_a_model_is_dropped_during_a_call_by_another_thread(tmp_path):
    path = write(tmp_path)
    x, y = images(30, 9)
    expected = nnc.load(path, threads=2)
    expected.fit(x, y, epochs=1)
    answer = expected.predict(x)

    def use() -> None:
        for _ in range(5):
            model = nnc.load(path, threads=2)
            model.fit(x, y, epochs=1)
            model.self = model  # only the collector can free it, in whichever thread
            np.testing.assert_array_equal(model.predict(x), answer)
            del model
            gc.collect()

    together(use, use, use)


class Thing:
    """What a pool lends."""


# --- memory --------------------------------------------------------------------------------------


def test_as_many_programs_as_run_at_once_and_no_more():
    made, inside, most = [], 0, 0
    entered, tickets = threading.Barrier(2), list(range(100))  # an even number

    class Counted(Thing):
        def __init__(self) -> None:
            made.append(self)

    pool = ProgramPool(Counted(), Counted, limit=2)

    def call() -> None:
        nonlocal inside, most
        while tickets:
            try:
                tickets.pop()
            except IndexError:
                return
            with pool.lend():
                inside += 1
                most = max(most, inside)
                entered.wait()  # two are inside at once, each time
                inside -= 1

    together(call, call, call, call)
    assert len(made) == 2 and most == 2


def test_a_caller_does_not_wait_for_itself():
    """As a signal's handler would, which is called in the middle of a call."""
    pool = ProgramPool(Thing(), Thing, limit=1)
    with pool.lend() as one, pool.lend() as two:
        assert one is not two
    with pool.lend() as again:
        assert again is one or again is two


def test_what_is_lost_with_its_caller_is_made_anew():
    pool = ProgramPool(Thing(), Thing, limit=1)
    lost = pool._take()
    waiting = threading.Thread(target=lambda: pool.lend().__enter__(), daemon=True)
    waiting.start()
    del lost
    waiting.join(timeout=60)
    assert not waiting.is_alive()


# --- below ---------------------------------------------------------------------------------------


def test_equal_expressions_are_one_object_in_all_threads():
    def build() -> list[Expr]:
        return [Idx(f"i{n}") + n * Idx(f"k{n}") for n in range(3000)]

    first, *others = together(*[build] * 4)
    for other in others:
        assert all(a is b for a, b in zip(first, other, strict=True))


@pytest.mark.slow
def test_texts_are_parsed_in_threads():
    """Within brackets line ends do not count; which are open is each parse's own matter."""
    text = "model M(x: f32[B, 3]) -> y: f32[B] {\n    y[b] = (\n" + "(x[b, 0] +\n" * 60
    text += "1" + ")" * 60 + ")\n}\n"

    def read() -> None:
        for _ in range(20):
            report = Report()
            parse(Source("test.nn", text), report)
            assert not report.diagnostics

    together(*[read] * 4)


# --- processes -----------------------------------------------------------------------------------

FORKS = """
import os, sys, threading
import numpy as np
import nnc
path, threads, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
x, y = rng.normal(0, 1, (40, 8, 8, 1)).astype("f4"), rng.integers(0, 10, 40)
model = nnc.load(path, threads=threads)
model.fit(x, y, epochs=1)
expected = model.predict(x)
alike = nnc.load(path, threads=threads)  # sizes that the model itself has not compiled yet
alike.fit(x, y, epochs=1)
smaller = [alike.predict(x[:turn + 1]) for turn in range(10)]
stop = threading.Event()
def busy():
    while not stop.is_set():
        assert np.array_equal(model.predict(x), expected)
def compiling():
    count = 1
    while not stop.is_set():
        model.evaluate(x[:count], y[:count])
        count = count % 30 + 1
others = [threading.Thread(target=f, daemon=True) for f in (busy, busy, compiling)]
for other in others:
    other.start()
if way == "fork":
    for turn in range(10):
        child = os.fork()
        if not child:
            good = np.array_equal(model.predict(x), expected)
            good &= np.array_equal(model.predict(x[:turn + 1]), smaller[turn])
            model.fit(x, y, epochs=1)
            os._exit(0 if good else 3)
        assert os.waitpid(child, 0)[1] == 0
else:
    import multiprocessing, warnings
    warnings.simplefilter("ignore")
    def ask(turn):
        return np.array_equal(model.predict(x), expected)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.map(ask, range(12)))
stop.set()
for other in others:
    other.join()
print("done")
"""

ENDS = """
import sys, threading
import numpy as np
import nnc
path, threads = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
x, y = rng.normal(0, 1, (40, 8, 8, 1)).astype("f4"), rng.integers(0, 10, 40)
model = nnc.load(path, threads=threads)
model.fit(x, y, epochs=1, batch=20)
begun = threading.Barrier(3)
def busy():
    model.predict(x)
    begun.wait()
    while True:
        model.predict(x)
for _ in range(2):
    threading.Thread(target=busy, daemon=True).start()
import atexit
atexit.register(lambda: print(model.predict(x[:17]).shape))  # another size: compiled at the end
begun.wait()
print("end")
"""


def python(text: str, *arguments: object) -> subprocess.CompletedProcess:
    # A hang is what is looked for: the limit only ends it.
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("threads", mostly_slow([1, 2], [2]))
@pytest.mark.parametrize("way", ["fork", "multiprocessing"])
def test_a_forked_child_computes(tmp_path, threads, way):
    """While other threads of the parent predict and compile."""
    found = python(FORKS, write(tmp_path), threads, way)
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr


@pytest.mark.parametrize("threads", mostly_slow([1, 2], [1]))
def test_the_process_ends_while_threads_predict(tmp_path, threads):
    found = python(ENDS, write(tmp_path), threads)
    assert found.returncode == 0 and not found.stderr, found.stderr
    assert found.stdout == "end\n(17, 10)\n"


def test_asyncio(fitted):
    """Answers of calls that are cancelled are dropped; the model goes on."""
    model = fitted[2]
    given = [images(5, seed)[0] for seed in range(CALLERS)]
    alone = [model.predict(x) for x in given]

    async def ask() -> None:
        for _ in range(10):
            calls = [asyncio.create_task(asyncio.to_thread(model.predict, x)) for x in given]
            calls[0].cancel()
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(found[0], asyncio.CancelledError)
            for one, expected in zip(found[1:], alone[1:], strict=True):
                np.testing.assert_array_equal(one, expected)

    asyncio.run(ask())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such signals")
def test_a_signal_s_handler_may_predict(fitted):
    model = fitted[2]
    x, _ = images(300, 1)
    expected, found = model.predict(x), []
    before = signal.signal(signal.SIGALRM, lambda *_: found.append(model.predict(x)))
    try:
        while len(found) < 20:
            signal.setitimer(signal.ITIMER_REAL, 1e-4 + 1e-4 * len(found))
            np.testing.assert_array_equal(model.predict(x), expected)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for each in found:
        np.testing.assert_array_equal(each, expected)
