"""A model verified: every pass, every line of its machine code, every gradient, a training step.

In: a `Project`, its `Setup` if it is trained, tolerances. Out: a `Verification`: what was compared,
line by line of the source, and a diagnostic for everything that is wrong. The comparisons are in
`code_check.py` and the compiler's `finite_differences.py` and `pass_checker.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ...compiler.elaboration.players import steps_of
from ...compiler.elaboration.train_block import Setup
from ...compiler.ir.dtypes import is_float
from ...compiler.ir.equation import Equation, System
from ...compiler.ir.printer import equation_text
from ...compiler.ir.verify import InternalError
from ...compiler.options import Options
from ...compiler.pipeline import CPU, derive, plan
from ...compiler.reference.evaluator import Arrays, evaluate
from ...compiler.reference.finite_differences import Differences, Slope
from ...compiler.reference.pass_checker import EVALUABLE, PassCheck
from ...dsl.diagnostics.diagnostic import Diagnostic, Report
from ...dsl.syntax.source import Span
from ..device.cpu import host
from ..device.cpu.program import CpuProgram
from ..project import Project
from .code_check import CheckedEquation, check_code, first_difference, run_stored
from .sample_inputs import Sample, sample
from .sample_sizes import fit_sizes
from .tolerance import TOLERANCE

GRADIENT_POINTS = 10**7  # the loss is evaluated some hundred times at this size
LOSS_TOLERANCE = 1e-3  # of the whole system at once, in which roundings meet


@dataclass
class Line:
    """What was compared of the equations that one line of the source stands for."""

    span: Span
    equations: int = 0
    value: CheckedEquation | None = None
    slope: Slope | None = None
    right: bool = True

    @property
    def text(self) -> str:
        return self.span.source.line(self.span.line).strip()

    def add_value(self, value: CheckedEquation) -> None:
        self.equations += 1
        self.right &= value.right
        if self.value is None or value.error > self.value.error:
            self.value = value

    def add_slope(self, slope: Slope, right: bool) -> None:
        self.right &= right
        if self.slope is None or slope.error > self.slope.error:
            self.slope = slope


@dataclass
class Verification:
    """`sizes` and `gradient_sizes` say what was computed; `mistakes` what is wrong."""

    name: str
    tolerance: float
    sizes: str = ""
    gradient_sizes: str = ""
    passes: int = 0
    values: list[CheckedEquation] = field(default_factory=list)
    slopes: list[Slope] = field(default_factory=list)
    lines: dict[tuple[str, int], Line] = field(default_factory=dict)
    threads: tuple[int, ...] = ()
    report: Report = field(default_factory=Report)

    @property
    def mistakes(self) -> list[Diagnostic]:
        return self.report.diagnostics

    def line(self, span: Span | None) -> Line | None:
        if span is None:
            return None
        # by line, not by column: a line is shown once with all that stands on it
        return self.lines.setdefault((span.source.name, span.line), Line(span))

    def sorted_lines(self) -> list[Line]:
        """The user's own lines, then the library's, each file from top to bottom."""
        # False sorts before True: files of the library come last
        return sorted(
            self.lines.values(),
            key=lambda line: (line.span.source.library, line.span.source.name, line.span.line),
        )


def verify_project(
    project: Project,
    setup: Setup | None,
    threads: Iterable[int],
    seed: int = 0,
    samples: int = 2,
    tolerance: float = TOLERANCE,
) -> Verification:
    """Compare everything. UserError with what is wrong in the program itself."""
    result = Verification(project.name, tolerance, threads=tuple(dict.fromkeys(threads)))
    # small enough for the evaluator, which goes through each equation before and after each pass
    chosen = fit_sizes(project, setup, EVALUABLE)
    result.sizes = chosen.text
    steps = steps_of(chosen.setup) if chosen.setup else [None]
    samples_of = [sample(chosen.project, one, seed) for one in steps]
    try:
        for whole in samples_of:
            _check_code(whole, result)
        # Finite differences evaluate the loss many times: at smaller sizes than the code is checked
        # at.
        small = fit_sizes(project, setup, GRADIENT_POINTS, largest_batch=3)
        result.gradient_sizes = small.text
        project, setup = _exact(small.project, small.setup)
        for one in _losses(setup):
            _check_gradients(sample(project, one, seed), samples, result)
    # a broken rule of the IR stops everything after it, so it is the only finding
    except InternalError as error:
        result.report.add(
            "E0803",
            f"the pass `{error.after}` breaks a rule: {error.rule}",
            error.span,
            label=f"`{error.subject}`",
            help=REPORT_BUG,
        )
    return result


def _losses(setup: Setup | None) -> list[Setup | None]:
    """The setup for every loss: each has gradients of its own."""
    if setup is None or len(setup.train.losses) == 1:
        return [setup]
    return [replace(setup, turn=(loss.name.id,)) for loss in setup.train.losses]


def _exact(project: Project, setup: Setup | None) -> tuple[Project, Setup | None]:
    """The same without rounding: what is rounded moves in steps, and has no differences."""
    # bf16 has 8 bits: a small difference is rounded away, or to one that is far too large
    exact = replace(project, settings=replace(project.settings, precision="f32"))
    # nor is a clipped gradient with noise the loss's
    return exact, None if setup is None else replace(setup, precision="f32", private=None)


REPORT_BUG = "this is a mistake of nnc's and not of the file: please report it"


# --- machine code ---------------------------------------------------------------------------------


def _check_code(subject: Sample, result: Verification) -> None:
    """Passes, then the code of every kernel, then the code as it runs in training."""
    check = PassCheck(subject.program, subject.values)
    # `share_memory=False`: each tensor keeps its place until the end, so all can be read after a
    # run
    apart = plan(subject.program, host.target(), Options(share_memory=False), [check])
    result.passes = len(CPU.passes)
    # on one thread first: these are the values that the runs below are held to
    arrays = run_stored(CpuProgram(apart, 1), subject.values)
    result.values = check_code(apart, arrays, result.tolerance)
    for value in result.values:
        line = result.line(value.equation.span)
        if line is not None:
            line.add_value(value)
        if not value.right:
            result.report.add(
                "E0801",
                f"the machine code of `{value.equation.target}` is wrong",
                value.equation.span,
                help=REPORT_BUG,
                label=f"{_at(value.equation.target, value.index)} is {_number(value.found)}, and "
                f"by the evaluator {_number(value.expected)}",
            )
    _check_runs(subject, arrays, result)
    _check_loss(subject, arrays, result)


def _check_runs(subject: Sample, arrays: Arrays, result: Verification) -> None:
    """The code in the memory of a normal run, on each number of threads: the same bits."""
    system = subject.system
    # a param's next value is looked up under the name of the param: `arrays` has it after the run
    following = {following: name for name, following in system.updates.items()}
    for threads in result.threads:
        # this program shares memory between tensors and fuses as usual: barriers and liveness
        # are tested
        program = CpuProgram(subject.program, threads)
        for name, value in subject.values.items():
            program.arrays[name][...] = value
        program.run()
        for name in system.roots:
            found = program.arrays[following.get(name, name)]
            # to the bit: neither threads nor the places in memory may change the order of any sum
            place = first_difference(found, arrays[name])
            if place is not None:
                equation = system.definition.get(name)
                result.report.add(
                    "E0801",
                    f"`{name}` depends on how it is run",
                    None if equation is None else equation.span,
                    label=f"on {threads} threads {_at(name, place)} is {_number(found[place])}, "
                    f"and by itself {_number(arrays[name][place])}",
                    help=REPORT_BUG,
                )


def _check_loss(subject: Sample, arrays: Arrays, result: Verification) -> None:
    """The loss of the whole system, from nothing but what it is given."""
    # no real numbers, no loss
    if subject.loss is None:
        return
    # In double precision from the inputs alone: errors that are small in each equation may add up.
    expected = float(evaluate(subject.system, subject.values, wide=True)[subject.loss])
    found = float(arrays[subject.loss])
    near = abs(found - expected) <= LOSS_TOLERANCE * max(abs(expected), 1e-6)
    # where both are infinite or not a number, they agree
    if not near and not np.array_equal(found, expected, equal_nan=True):
        span = subject.system.definition[subject.loss].span
        result.report.add(
            "E0801",
            f"`{subject.loss}` is wrong as a whole",
            span,
            help=REPORT_BUG,
            label=f"{_number(found)}, and by the evaluator {_number(expected)}",
        )


# --- gradients ------------------------------------------------------------------------------------


def _check_gradients(subject: Sample, samples: int, result: Verification) -> None:
    """Every gradient, from the loss backwards."""
    # a model without real numbers has no gradients
    if subject.loss is None:
        return
    work = Differences(subject.system, subject.loss, subject.values)
    # a difference of infinities says nothing
    if not np.isfinite(work.arrays[subject.loss]):
        result.report.add(
            "E0804",
            f"the loss is {float(work.arrays[subject.loss])} on random numbers",
            subject.system.definition[subject.loss].span,
            label="its gradients cannot be compared",
            help="numbers of another `--seed` may suit it",
        )
        return
    wrong: dict[str, tuple[Slope, list[Equation]]] = {}
    for name, gradient in _backwards(subject, work):
        slope = work.check(name, gradient, samples, result.tolerance)
        result.slopes.append(slope)
        # only if the gradient is wrong, each equation that reads the tensor is differentiated by
        # itself
        guilty = [] if slope.right else work.culprits(name, samples, result.tolerance, derive)
        if not slope.right:
            wrong[name] = slope, guilty
        # a gradient of x is made from what reads x: the result is shown at those lines
        for eq in work.readers(name):
            line = result.line(eq.span)
            if line is not None:
                line.add_slope(slope, eq not in guilty)
    # A wrong gradient makes all wrong that are computed from it: blame comes at the end.
    _blame_all(wrong, work, subject, result)
    if not wrong:
        _check_other_branches(subject, result)


def _check_other_branches(subject: Sample, result: Verification) -> None:
    """The gradients are finite where inputs are of both signs, too, if the loss is: other branches
    are taken there, and those not taken may not be finite."""
    values = dict(subject.values)
    for tensor in subject.system.of_kind("input"):
        if is_float(tensor.dtype):  # from 0 to 1 so far
            values[tensor.name] = (2 * values[tensor.name] - 1).astype(values[tensor.name].dtype)
    work = Differences(subject.system, subject.loss or "", values)
    if not np.isfinite(work.arrays[subject.loss or ""]):
        return
    wrong: dict[str, tuple[Slope, list[Equation]]] = {}
    for name, gradient in _backwards(subject, work):
        if gradient is not None and not np.isfinite(work.arrays[gradient]).all():
            slope = work.check(name, gradient, 0, result.tolerance)
            wrong[name] = slope, work.culprits(name, 0, result.tolerance, derive)
    _blame_all(wrong, work, subject, result)


def _blame_all(
    wrong: Mapping[str, tuple[Slope, list[Equation]]],
    work: Differences,
    subject: Sample,
    result: Verification,
) -> None:
    """A wrong gradient is blamed on the equations whose own derivative is wrong. Where these are
    all right and what it is made from is right, too, the equation of the gradient itself is."""
    # an equation may be guilty of several wrong gradients, and is reported once
    blamed: set[str] = set()
    for name, (slope, guilty) in wrong.items():
        for eq in guilty:
            if eq.target not in blamed:
                blamed.add(eq.target)
                _blame(eq, name, slope, subject, result)
    # a gradient whose readers' gradients are right is where the mistake enters
    gradients = _gradients(subject.system)
    sources = {n: not any(eq.target in wrong for eq in work.readers(n)) for n in wrong}
    for name, (slope, guilty) in wrong.items():
        # if nothing at all is blamed, at least the one next to the loss is
        first = sources[name] or (not blamed and name == next(iter(wrong)))
        if first and not guilty:
            found = subject.system.definition.get(gradients.get(name, ""))
            _blame(found or work.readers(name)[0], name, slope, subject, result)


def _gradients(system: System) -> dict[str, str]:
    """The temps that are gradients, by tensor."""
    return {of: name for name, of in system.adjoints.items() if name in system.tensors}


def _backwards(subject: Sample, work: Differences) -> list[tuple[str, str | None]]:
    """Every tensor of the loss that has a gradient, those next to the loss first."""
    # the last equations are next to the loss: reverse mode starts from them
    order = [eq.target for eq in reversed(work.forward)]
    # gradients of temps are temps themselves
    gradients = _gradients(subject.system)
    found: list[tuple[str, str | None]] = [
        (name, gradients[name])
        for name in order
        if name in gradients and name != subject.loss and gradients[name] not in work.definition
    ]
    # the parameters come last: everything before is on the way to them
    return [*found, *((name, subject.gradients.get(name)) for name in subject.wrt)]


def _blame(eq: Equation, name: str, slope: Slope, subject: Sample, result: Verification) -> None:
    # without an index the slope was measured along a random direction through all elements
    gradient = _gradients(subject.system).get(name, f"d_{name}")
    place = gradient if slope.index is None else _at(gradient, slope.index)
    shape = subject.system.tensors[eq.target].shape
    result.report.add(
        "E0802",
        f"the gradient through `{eq.target}` is wrong",
        eq.span,
        label=f"{place} is {_number(slope.exact)}, and by finite differences "
        f"{_number(slope.numeric)}",
        help=f"{equation_text(eq, shape)}\n{REPORT_BUG}",
    )


def _at(name: str, index: tuple[int, ...]) -> str:
    return f"{name}{list(index)}" if index else name


def _number(value: float) -> str:
    return f"{value:.7g}"
