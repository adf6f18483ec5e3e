"""Fewer threads while something else keeps a core busy: when, for how long, and the same bits."""

from __future__ import annotations

from support import plan, system, values

from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.device.cpu.thread_throttle import LONGEST, WINDOW, ThreadThrottle


def window(pace: ThreadThrottle, seconds: float) -> int:
    """Runs of that length until they are judged; the team of the next run."""
    for _ in range(int(WINDOW / seconds) + 1):
        pace.ran(seconds)
    return pace.team


def test_all_threads_run_as_long_as_the_pace_is_steady() -> None:
    pace = ThreadThrottle(2)
    assert [window(pace, s) for s in (0.003, 0.002, 0.0025, 0.0029)] == [2, 2, 2, 2]


def test_one_thread_less_where_that_is_faster_and_all_again_when_the_core_is_free() -> None:
    pace = ThreadThrottle(2)
    window(pace, 0.002)
    assert window(pace, 0.009) == 1, "slow: one less is tried"
    assert window(pace, 0.004) == 2, "it is faster; all are tried again after a while"
    assert window(pace, 0.009) == 1
    assert [window(pace, 0.004) for _ in range(2)] == [1, 2], "and ever later"
    assert window(pace, 0.002) == 2, "the core is free again"
    assert window(pace, 0.002) == 2


def test_all_threads_stay_where_fewer_are_no_remedy() -> None:
    pace = ThreadThrottle(3)
    window(pace, 0.002)
    assert window(pace, 0.004) == 2
    assert window(pace, 0.005) == 3, "slower still"
    assert [window(pace, 0.004) for _ in range(3)] == [3, 3, 3], "that is how fast it is now"


def test_waiting_for_a_free_core_has_a_limit() -> None:
    pace = ThreadThrottle(2)
    window(pace, 0.002)
    alone = []
    for _ in range(9):
        assert window(pace, 0.009) == 1
        alone.append(1)
        while window(pace, 0.004) == 1:
            alone[-1] += 1
    assert alone[:3] == [1, 2, 4] and alone[-1] == LONGEST


def test_a_single_thread_has_nothing_to_choose() -> None:
    pace = ThreadThrottle(1)
    assert [window(pace, s) for s in (0.002, 0.02, 0.002)] == [1, 1, 1]


def test_the_team_may_change_from_run_to_run() -> None:
    text = """model M(x: f32[64, 300], w: f32[300, 256]) -> y: f32[64, 256] {
        y[b, o] = tanh(sum(i) x[b, i]*w[i, o])
    }"""
    whole = system(text, float_type="f32")
    program = CpuProgram(plan(whole), threads=3)
    for name, value in values(whole).items():
        program.arrays[name][...] = value
    program.run()
    expected = program.arrays["y"].tobytes()

    class Changing:
        turn, least = 0, 1.0

        @property
        def team(self) -> int:
            return 1 + self.turn * self.turn % 3

        def ran(self, seconds: float) -> None:
            self.turn += 1

    program._throttle = Changing()  # type: ignore[assignment]
    for turn in range(300):
        program.arrays["y"][...] = 0
        program.run()
        assert program.arrays["y"].tobytes() == expected, turn
