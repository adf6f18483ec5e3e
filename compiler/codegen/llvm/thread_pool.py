"""A pool of threads that run a step together, as LLVM text: functions around `@step`.

    @run(pool, arena, threads)       one step by this thread and the first threads-1 workers
    @work(pool, thread, generation)  what a worker thread calls; it returns after @stop
    @stop(pool)                      ends the workers
    @barrier(arena, threads)         called between kernels: none passes before all have arrived

One pool serves all programs of a process: `@run` hands the workers the step's address and its
arena. The barrier is a spin barrier (centralised, sense-reversing by a phase counter): a waiting
thread spins for a while, since the next kernel is microseconds away, and then sleeps in the kernel
(Linux: futex). Elsewhere it yields its core and looks again. The threads themselves are created
outside. Shared state are the `POOL_BYTES` at a pool's address, and the `ARENA_BYTES` in front of
every arena; both are zero at first, but for how often to spin. Cf. Mellor-Crummey and Scott,
"Algorithms for scalable synchronization", 1991; Drepper, "Futexes are tricky", 2011.
Tests: tests/backends/test_cpu.py, tests/backends/test_workers.py.
"""

from __future__ import annotations

from ...ir.dtypes import LINE

FUTEX = {"x86_64": 202, "aarch64": 98}  # the system call's number
PAUSE = {"x86_64": "call void @llvm.x86.sse2.pause()", "AMD64": "call void @llvm.x86.sse2.pause()"}

# Each cell has a cache line to itself. `job` holds the step's address and, after it, the arena's.
_POOL = ("generation", "sleepers", "done", "waiting", "leave", "job", "spins")
_ARENA = ("arrived", "phase", "resting", "spins", "examples", "again")
POOL_BYTES, ARENA_BYTES = LINE * len(_POOL), LINE * len(_ARENA)
# Where the host sets how often a thread spins before it sleeps, and reads the last run's number.
POOL_SPINS, ARENA_SPINS = LINE * _POOL.index("spins"), LINE * _ARENA.index("spins")
# Where it sets how many examples a run is of, from the beginning of the arena.
ARENA_EXAMPLES = LINE * _ARENA.index("examples") - ARENA_BYTES
# Where it says, with a 1, that the prologue of the run before is still good (`module.py`).
ARENA_AGAIN = LINE * _ARENA.index("again") - ARENA_BYTES
GENERATION = LINE * _POOL.index("generation")
# The team's size stands in the low 8 bits of the generation, beside the number of the run.
MAX_THREADS = 255


def pool(machine: str, system: str) -> str:
    """The text for a processor (`platform.machine()`) and system (`sys.platform`)."""
    # Private futexes (flag 128): operation 0 waits while the cell holds %old, operation 1 wakes
    # all.
    futex = FUTEX.get(machine) if system == "linux" else None
    wake = ""
    # A thread that only spins would use up the time that the others need on its core.
    sleep = "" if system == "win32" else "%yielded = call i32 @sched_yield()"
    declared = "" if system == "win32" else "declare i32 @sched_yield()\n"
    if futex is not None:
        call = f"call i64 (i64, ...) @syscall(i64 {futex}, ptr %cell"
        sleep = f"%slept = {call}, i32 128, i32 %old, ptr null, ptr null, i32 0)"
        wake = f"%woken = {call}, i32 129, i32 2147483647, ptr null, ptr null, i32 0)"
        declared = "declare i64 @syscall(i64, ...)\n"
    pause = PAUSE.get(machine, "")
    declared += "declare void @llvm.x86.sse2.pause()\n" if pause else ""
    text = _TEXT.replace("SLEEP", sleep).replace("WAKE", wake).replace("PAUSE", pause)
    return declared + "\n".join(map(_with_cells, text.split("\n\n")))


def _with_cells(function: str) -> str:
    """A function in which `@pool.NAME` and `@arena.NAME` are the addresses of these cells."""
    addresses = []
    # An arena's cells lie in front of it, hence the negative offsets.
    for base, cells, start in (("pool", _POOL, 0), ("arena", _ARENA, -ARENA_BYTES)):
        for number, name in enumerate(cells):
            if f"@{base}.{name}" in function:
                function = function.replace(f"@{base}.{name}", f"%{base}.{name}")
                address = f"getelementptr i8, ptr %{base}, i64 {start + number * LINE}"
                addresses.append(f"  %{base}.{name} = {address}\n")
    return function.replace("entry:\n", "entry:\n" + "".join(addresses))


# How it works, and why no wake-up is lost:
#
# @await spins first. Before it sleeps it counts itself among the sleepers and looks at the cell
# again; @signal changes the cell first and then looks for sleepers. All four accesses are
# sequentially consistent, so at least one side sees the other (Dekker's pattern). A futex sleeps
# only while the cell still holds the old value.
#
# @barrier reads the phase before it arrives, since afterwards the last thread may change it at
# any time. The last one resets the count before it opens the phase: the next barrier counts from
# 0.
#
# @run: one at a time in a pool; a lock of the host sees to that. It publishes the generation and
# the team's size in one word, so that a worker sees both or neither, and the job before them.
# `done` only grows: the caller waits until it has grown by the other members of the team. It reads
# the old value before the signal, when no worker is running.
#
# @work: a worker outside the team waits for the next generation, and may miss some. A member
# cannot miss one, as the caller waits for it; the job is its own until then. One that joins a pool
# later begins with the generation that it found there, whose run is over.
#
# @stop sets `leave` before it signals, so that whoever wakes sees it.
_TEXT = """
; returns when the cell no longer holds `old`
define internal void @await(ptr %cell, i32 %old, ptr %sleepers, i32 %spins) #0 {
entry:
  br label %spin
spin:
  %turn = phi i32 [ 0, %entry ], [ %next, %again ]
  %now = load atomic i32, ptr %cell acquire, align 4
  %same = icmp eq i32 %now, %old
  br i1 %same, label %again, label %end
again:
  PAUSE
  %next = add i32 %turn, 1
  %more = icmp ult i32 %next, %spins
  br i1 %more, label %spin, label %tired
tired:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %look
look:
  %seen = load atomic i32, ptr %cell seq_cst, align 4
  %still = icmp eq i32 %seen, %old
  br i1 %still, label %sleep, label %awake
sleep:
  SLEEP
  br label %look
awake:
  %after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %end
end:
  ret void
}

; adds to the cell and wakes the threads that sleep on it
define internal void @signal(ptr %cell, i32 %amount, ptr %sleepers) #0 {
entry:
  %before = atomicrmw add ptr %cell, i32 %amount seq_cst
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %count, 0
  br i1 %any, label %wake, label %end
wake:
  WAKE
  br label %end
end:
  ret void
}

define internal void @barrier(ptr %arena, i64 %threads) #0 {
entry:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %end, label %arrive
arrive:
  %phase = load atomic i32, ptr @arena.phase acquire, align 4
  %before = atomicrmw add ptr @arena.arrived, i32 1 acq_rel
  %count = add i32 %before, 1
  %all = trunc i64 %threads to i32
  %last = icmp eq i32 %count, %all
  br i1 %last, label %open, label %wait
open:
  store atomic i32 0, ptr @arena.arrived monotonic, align 4
  call void @signal(ptr @arena.phase, i32 1, ptr @arena.resting)
  ret void
wait:
  %spins = load atomic i32, ptr @arena.spins monotonic, align 4
  call void @await(ptr @arena.phase, i32 %phase, ptr @arena.resting, i32 %spins)
  ret void
end:
  ret void
}

; the cell of the generation counts runs in its upper bits and holds the team's size in its lowest 8
define void @run(ptr %pool, ptr %arena, i64 %threads) #0 {
entry:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %single, label %together
single:
  call void @step(ptr %arena, i64 0, i64 1)
  ret void
together:
  store ptr @step, ptr @pool.job, align 8
  %second = getelementptr i8, ptr @pool.job, i64 8
  store ptr %arena, ptr %second, align 8
  %spins = load atomic i32, ptr @pool.spins monotonic, align 4
  %done = load atomic i32, ptr @pool.done acquire, align 4
  %others = trunc i64 %threads to i32
  %generation = load atomic i32, ptr @pool.generation monotonic, align 4
  %runs = and i32 %generation, -256
  %another = add i32 %runs, 256
  %next = or i32 %another, %others
  %amount = sub i32 %next, %generation
  call void @signal(ptr @pool.generation, i32 %amount, ptr @pool.sleepers)
  call void @step(ptr %arena, i64 0, i64 %threads)
  br label %look
look:
  %seen = load atomic i32, ptr @pool.done acquire, align 4
  %finished = sub i32 %seen, %done
  %left = sub i32 %others, %finished
  %all = icmp eq i32 %left, 1
  br i1 %all, label %end, label %wait
wait:
  call void @await(ptr @pool.done, i32 %seen, ptr @pool.waiting, i32 %spins)
  br label %look
end:
  ret void
}

define void @work(ptr %pool, i64 %thread, i64 %found) #0 {
entry:
  %second = getelementptr i8, ptr @pool.job, i64 8
  %first = trunc i64 %found to i32
  br label %wait
wait:
  %before = phi i32 [ %first, %entry ], [ %generation, %look ], [ %generation, %run ]
  %spins = load atomic i32, ptr @pool.spins monotonic, align 4
  call void @await(ptr @pool.generation, i32 %before, ptr @pool.sleepers, i32 %spins)
  %generation = load atomic i32, ptr @pool.generation acquire, align 4
  %leave = load atomic i32, ptr @pool.leave acquire, align 4
  %left = icmp ne i32 %leave, 0
  br i1 %left, label %end, label %look
look:
  %team = and i32 %generation, 255
  %threads = zext i32 %team to i64
  %in = icmp slt i64 %thread, %threads
  br i1 %in, label %run, label %wait
run:
  %step = load ptr, ptr @pool.job, align 8
  %arena = load ptr, ptr %second, align 8
  call void %step(ptr %arena, i64 %thread, i64 %threads)
  call void @signal(ptr @pool.done, i32 1, ptr @pool.waiting)
  br label %wait
end:
  ret void
}

define void @stop(ptr %pool) #0 {
entry:
  store atomic i32 1, ptr @pool.leave release, align 4
  call void @signal(ptr @pool.generation, i32 256, ptr @pool.sleepers)
  ret void
}
"""
