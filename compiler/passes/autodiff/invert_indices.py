"""Index inversion: solves the conditions of an Iverson bracket, so that an adjoint is a gather.

    d_x[p] = sum(i, u) [s*i + u = p] * d_y[i] * w[u]
        →  d_x[p] = sum(v) (d_y[p//s - v] else 0) * w[s*v + p%s]

For one read x[a(i, r)] of an equation, and the adjoint of that read at every point of the
equation's domain, `scatter` gives the contribution to d_x: a body over the indices p of x and the
indices that no condition determines. Without a bracket every term of the sum counts: a gradient
takes as many operations as its equation, and lowers to loops as any other sum does.

Each dimension of the read gives one affine condition a = p. It is solved for one index, by the
first of these rules that applies:

    a = k                       k = p
    a = k//c + …, k%c + …       k = c*p + u, summed over u < c          (a reshape, an upsampling)
    a = m*(k//c) + u + …        u = q%m, k = c*(q//m) + v, where u < m  (groups of channels)
    a = ±k + …                  k = ±(p - …), for the longest such k    (a window, dilated or not)
    a = s*i + u + …             u = s*v + q%s, i = q//s - v, q = p - …, summed over v only
    a = s*i + …                 i = q//s where s divides q
    a depends on data           not solved: the bracket stays, or the sum becomes an accumulation

The fifth rule splits q by residue classes, which leaves ceil(U/s) of the U taps of a strided
convolution, those that hit an input; compare Dumoulin and Visin 2016, "A guide to convolution
arithmetic". Tests: tests/gradients/test_textbook.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ....dsl.syntax.source import Span
from ...ir.affine import Affine, affine, bounds, inside, is_static, simplify_index
from ...ir.build import call, literal, renamed, rewrite, substitute
from ...ir.equation import Equation, Index
from ...ir.expr import Apply, Const, Expr, Idx, Read, index_names, walk
from ...ir.sparsity_analysis import vanishes

LETTERS = "pqrsuvwxyz"
# Functions that may be NaN or infinite of 0, which is what reads outside a tensor give.
_HAZARDS = frozenset({"div", "pow", "log", "log1p", "sqrt", "mod", "floordiv"})


@dataclass(frozen=True)
class Contribution:
    """d_x[indices] = sum(over) body, or d_x[at] += sum(over) body."""

    indices: tuple[Index, ...]
    body: Expr
    over: tuple[Index, ...]
    at: tuple[Expr, ...] | None
    span: Span | None

    def equation(self, target: str) -> Equation:
        reduce = "sum" if self.over else None
        return Equation(target, self.indices, self.body, reduce, self.over, self.at, self.span)

    def renamed(self, names: Mapping[str, str], span: Span | None) -> Contribution:
        """The contribution of an equation of another place, with other names of tensors."""
        at = None if self.at is None else tuple(renamed(e, names) for e in self.at)
        return replace(self, body=renamed(self.body, names), at=at, span=span)


def scatter(
    eq: Equation,
    read: Read,
    adjoint: Expr,
    shape: tuple[int, ...],
    shape_of: Callable[[str], tuple[int, ...]],
    is_finite: Callable[[Expr], bool],
    in_steps: bool = False,
) -> Contribution:
    """The contribution of one read to the adjoint of the tensor that it reads, which has the given
    shape. `adjoint` is that of the read over the equation's domain. `is_finite` says whether an
    expression is finite at all elements of what it reads. With `in_steps`, both belong to one
    recurrence."""
    solver = _Solver(eq, shape, shape_of, is_finite)
    # Easy dimensions first: plain indices keep their names, and what they determine is substituted
    # into the harder conditions. Indices from data come last: nothing can be solved from them.
    forms = list(enumerate(read.index))
    forms.sort(key=lambda f: (not isinstance(f[1], Idx), not is_static(f[1]), _unknowns(f[1])))
    for axis, expr in forms:
        solver.solve(axis, expr)
    # A bracket would test every element of x against every index that is still open. Adding each
    # term at the place that the data names takes as many operations as the equation has terms. A
    # recurrence takes its steps one by one, and an accumulation has no steps.
    if solver.unsolved_data and not in_steps and any(i.name in solver.open for i in eq.domain):
        places = tuple(read.index)
        return Contribution((), adjoint, eq.domain, places, eq.span)
    return solver.contribution(adjoint, read)


def _unknowns(expr: Expr) -> int:
    return len(index_names(expr))


@dataclass
class _Solver:
    """The conditions of one read, solved one after the other. `open` are the indices that are still
    free, `known` the others as expressions of the free ones and of the new indices `new`, by
    dimension of x. `guards` are conditions that remain."""

    eq: Equation
    shape: tuple[int, ...]
    shape_of: Callable[[str], tuple[int, ...]]
    is_finite: Callable[[Expr], bool]
    known: dict[str, Expr] = field(default_factory=dict)
    guards: list[Expr] = field(default_factory=list)
    unsolved_data: bool = False

    def __post_init__(self) -> None:
        self.open = dict(self.eq.sizes)
        self.sizes = dict(self.eq.sizes)
        self.new: dict[int, Index] = {}

    # --- names --------------------------------------------------------------------------------

    def fresh(self, size: int, letters: str = LETTERS) -> Idx:
        taken = self.sizes.keys() | {i.name for i in self.new.values()}
        name = next(c for c in [*letters, *(f"p{n}" for n in range(1000))] if c not in taken)
        self.sizes[name] = size
        return Idx(name)

    def own(self, axis: int) -> Idx:
        """The new index p of a dimension of x, made at its first use."""
        if axis not in self.new:
            self.new[axis] = Index(self.fresh(self.shape[axis]).name, self.shape[axis])
        return Idx(self.new[axis].name)

    # --- one dimension ------------------------------------------------------------------------

    def solve(self, axis: int, expr: Expr) -> None:
        if isinstance(expr, Idx) and expr.name in self.open and self.keep(axis, expr.name):
            return
        # Only compared, never solved: `token[b] == p`.
        if not is_static(expr):
            self.unsolved_data = True
            self.guards.append(call("eq", substitute(expr, self.known), self.own(axis)))
            return
        # Indices that earlier dimensions have determined are no unknowns of this one.
        expr = simplify_index(substitute(expr, self.known), self.sizes)
        form = affine(expr)
        # The order of these tests is that of the rules in the module's docstring.
        divided = next((a for a in form.coefficients if self.is_division(a, form)), None)
        if divided is not None:
            self.solve_division(axis, divided, form)
            return
        digits = self.digits(form)
        if digits is not None:
            self.solve_digits(axis, form, *digits)
            return
        plain = all(isinstance(a, Idx) for a in form.coefficients)
        # Only free indices can be solved for; the new indices p of x are given.
        unknown: dict[Expr, int] = {
            a: c for a, c in form.coefficients.items() if isinstance(a, Idx) and a.name in self.open
        }
        if not plain or not unknown:
            own = self.own(axis)
            # A dimension of size 1 has the one place p = 0; no condition where the index is always
            # 0.
            if self.shape[axis] > 1 or not inside(expr, 1, self.sizes):
                self.guards.append(call("eq", expr, own))
        else:
            self.solve_affine(axis, form, unknown)

    def keep(self, axis: int, name: str) -> bool:
        """x[…, k, …] where k runs over the whole dimension: p is called k."""
        if self.sizes[name] != self.shape[axis]:
            return False
        del self.open[name]
        # Nothing is solved or substituted: the index changes from a free one to an index of d_x.
        self.new[axis] = Index(name, self.shape[axis])
        return True

    def define(self, name: str, value: Expr) -> None:
        """Substitute the solution for the index; outside the index's range there is no term."""
        size = self.open.pop(name)
        value = simplify_index(value, self.sizes)
        # Earlier solutions may use this index: i = p - u, and now u is solved for. All of `known`
        # stays in terms of free and new indices alone, so one substitution suffices at the end.
        self.known = {
            k: simplify_index(substitute(v, {name: value}), self.sizes)
            for k, v in self.known.items()
        }
        self.guards = [substitute(g, {name: value}) for g in self.guards]
        self.known[name] = value
        # Checked in `contribution`: later solutions may still narrow the value.
        if not inside(value, size, self.sizes):
            self.ranges.append((name, value, size))

    @property
    def ranges(self) -> list[tuple[str, Expr, int]]:
        """Solved indices that may fall outside: name, value, size."""
        return self.__dict__.setdefault("_ranges", [])

    def is_division(self, atom: Expr, form: Affine) -> bool:
        """Whether the term is k//c or k%c of a free index that occurs nowhere else in the form."""
        if not (isinstance(atom, Apply) and atom.fn in ("floordiv", "mod")):
            return False
        k, by = atom.args
        return (
            isinstance(k, Idx)
            and k.name in self.open
            and isinstance(by, Const)
            and by.value > 0
            and form.coefficients[atom] == 1
            # Else the solution for k would have k on its right-hand side, too.
            and k.name not in index_names(form.without(atom).expr())
        )

    def solve_division(self, axis: int, atom: Expr, form: Affine) -> None:
        assert isinstance(atom, Apply)
        k, by = atom.args
        assert isinstance(k, Idx) and isinstance(by, Const)
        n, size = int(by.value), self.open[k.name]
        # The condition is atom = rest, where rest is p minus the other terms.
        rest = (Affine({self.own(axis): 1}, 0) + form.without(atom).scaled(-1)).expr()
        if atom.fn == "floordiv":  # k = n*rest + u
            u = self.fresh(min(n, size), "uvwxyz")
            # The last block may be cut off, k = n*rest + u >= size; `define` notes that range.
            value = call("add", call("mul", rest, literal(n)), u)
        else:  # k = n*u + rest, where rest is a residue
            u = self.fresh(-(-size // n), "uvwxyz")
            value = call("add", call("mul", u, literal(n)), rest)
            # A residue lies in 0 … n - 1; any other p equals no k % n.
            if not inside(rest, n, self.sizes):
                self.guards += [call("ge", rest, 0), call("lt", rest, n)]
        self.open[u.name] = self.sizes[u.name]
        self.define(k.name, value)

    def digits(self, form: Affine) -> tuple[Apply, Idx] | None:
        """k//c and u, if the index is m*(k//c) + u + … with u < m: two digits in base m."""
        atoms = [a for a in form.coefficients if not isinstance(a, Idx)]
        # One division only, m*(k//c): with two, the digits could not be told apart.
        if len(atoms) != 1 or not isinstance(atoms[0], Apply) or atoms[0].fn != "floordiv":
            return None
        atom, m = atoms[0], form.coefficients[atoms[0]]
        k, by = atom.args
        known = isinstance(k, Idx) and isinstance(by, Const)
        if not known or k.name not in self.open or by.value <= 0:  # type: ignore[attr-defined]
            return None
        rest = index_names(form.without(atom).expr())
        units = [
            u
            for u, c in form.coefficients.items()
            # u < m, or a carry into the digit of k//c would be possible; the coefficient of u is 1.
            if isinstance(u, Idx) and c == 1 and self.open.get(u.name, m + 1) <= m
        ]
        return (atom, units[0]) if units and k.name not in rest else None  # type: ignore

    def solve_digits(self, axis: int, form: Affine, atom: Apply, u: Idx) -> None:
        k, by = atom.args
        assert isinstance(k, Idx) and isinstance(by, Const)
        m = literal(form.coefficients[atom])
        rest = form.without(atom).without(u)
        q = (Affine({self.own(axis): 1}, 0) + rest.scaled(-1)).expr()
        # q = m*(k//c) + u has the digits q//m and q%m. The other terms went into q.
        self.define(u.name, call("mod", q, m))
        # k//c leaves the position within a block of c open: it is the index v of the sum.
        v = self.fresh(min(int(by.value), self.open[k.name]), "uvwxyz")
        self.open[v.name] = self.sizes[v.name]
        self.define(k.name, call("add", call("mul", call("floordiv", q, m), by), v))

    def solve_affine(self, axis: int, form: Affine, unknown: dict[Expr, int]) -> None:
        """Solve  sum of c*k + rest = p  for one of the unknown indices."""
        units = [k for k, c in unknown.items() if abs(c) == 1]
        strided = [k for k, c in unknown.items() if c > 1]
        # The form s*i + u + …: a convolution with stride s and taps u.
        if len(strided) == 1 and len(units) == 1 and len(unknown) == 2 and unknown[units[0]] == 1:
            i, u = strided[0], units[0]
            assert isinstance(i, Idx) and isinstance(u, Idx)
            # Residues leave a sum over ceil(U/s) taps, the rules below one over i (U: the size of
            # u).
            if -(-self.open[u.name] // unknown[i]) < self.open[i.name]:
                self.solve_residues(axis, form, i, u, unknown[i])
                return
        # A coefficient of ±1 needs no test of divisibility. Of several, the longest index is the
        # one whose elimination shortens the sum most.
        candidates = units or list(unknown)
        k = max(candidates, key=lambda a: self.open[a.name])  # type: ignore[attr-defined]
        assert isinstance(k, Idx)
        c = unknown[k]
        # c*k = p - rest; for c < 0 both sides are negated, so that the divisor below is positive.
        rest = (Affine({self.own(axis): 1}, 0) + form.without(k).scaled(-1)).scaled(
            1 if c > 0 else -1
        )
        value = rest.expr()
        if abs(c) > 1:
            # k = value / c has a solution only where c divides value.
            self.guards.append(call("eq", call("mod", value, literal(abs(c))), 0))
            value = call("floordiv", value, literal(abs(c)))
        self.define(k.name, value)

    def solve_residues(self, axis: int, form: Affine, i: Idx, u: Idx, s: int) -> None:
        """s*i + u = q, u < U:  u = s*v + q%s and i = q//s - v, for v < ceil(U/s)."""
        q = (Affine({self.own(axis): 1}, 0) + form.without(i).without(u).scaled(-1)).expr()
        count = -(-self.open[u.name] // s)
        # [q = s*i + u]: u and q have the same residue mod s, so that u = s*v + q%s.
        quotient, residue = call("floordiv", q, literal(s)), call("mod", q, literal(s))
        if count > 1:
            v = self.fresh(count, "vwuxyz")
            self.open[v.name] = count
            self.define(u.name, call("add", call("mul", v, literal(s)), residue))
            # q - u = s * (q//s - v)
            self.define(i.name, call("sub", quotient, v))
        else:
            # At most one tap per residue (U <= s): the sum over u disappears altogether.
            self.define(u.name, residue)
            self.define(i.name, quotient)

    # --- the result ---------------------------------------------------------------------------

    def contribution(self, adjoint: Expr, read: Read) -> Contribution:
        indices = tuple(Index(self.own(axis).name, size) for axis, size in enumerate(self.shape))
        taken = {i.name for i in indices}
        over = tuple(Index(n, size) for n, size in self.open.items() if n not in taken)
        body = simplify_index(substitute(adjoint, self.known), self.sizes)
        # The loop below turns the ranges of solved indices into guards: outside of its range an
        # index has no term, while the solution p - u, say, is an expression that has a value
        # everywhere.
        for name, value, size in self.ranges:
            value = simplify_index(substitute(value, self.known), self.sizes)
            low, high = bounds(value, self.sizes)
            # Each bound is tested only where the interval of the value exceeds it.
            if (low < 0 or high >= size) and not self.is_silent(adjoint, name):
                self.guards += [call("ge", value, 0)] * (low < 0)
                self.guards += [call("lt", value, size)] * (high >= size)
        # After substitution, reads may reach beyond their tensors; `else 0` makes them safe to
        # compute even where the guard selects 0.
        body = rewrite(body, self.guarded)
        condition: Expr = literal(True)
        for guard in self.guards:
            guard = rewrite(simplify_index(guard, self.sizes), self.guarded)
            condition = call("and", condition, guard)
        body = call("select", condition, body, literal(0.0, body.dtype))
        names = self.kept_names(read)
        body = substitute(body, {old: Idx(new) for old, new in names.items()})
        indices = tuple(Index(names.get(i.name, i.name), i.size) for i in indices)
        return Contribution(indices, body, over, None, self.eq.span)

    def kept_names(self, read: Read) -> dict[str, str]:
        """Readable names for new indices: `t` where x[t - 1] was read and t has been solved for."""
        found: dict[str, str] = {}
        for axis, expr in enumerate(read.index):
            atoms = list(affine(expr).coefficients.items())
            own = self.own(axis).name
            if len(atoms) != 1 or atoms[0][1] != 1 or not isinstance(atoms[0][0], Idx):
                continue
            old = atoms[0][0].name
            # Each name is given once; an index that was kept has its name already.
            if old in self.known and old not in found.values() and own not in self.eq.sizes:
                found[own] = old
        return found

    def is_silent(self, adjoint: Expr, name: str) -> bool:
        """Whether the adjoint needs no guard for the range of an index: one of its factors reads
        outside its tensor, as zero, where the index is outside, and nothing makes that NaN."""
        # A factor of 0 replaces the guard only if no other factor becomes NaN or infinite of the
        # zeros that it reads outside.
        hazards = (n for n in walk(adjoint) if isinstance(n, Apply) and n.fn in _HAZARDS)
        return (
            next(hazards, None) is None
            and self.is_finite(adjoint)
            and vanishes(adjoint, lambda node: self.reads_outside(node, name))
        )

    def reads_outside(self, node: Expr, name: str) -> bool:
        """Whether the node reads outside a tensor where the index is outside its range."""
        if not isinstance(node, Read) or node.other is not None:
            return False
        return any(
            # The read gets `else 0` from `guarded`: its index runs over exactly that dimension, so
            # that to be out of the range of the index is to be outside the tensor.
            isinstance(e, Idx) and e.name == name and n == self.eq.sizes[name]
            for e, n in zip(node.index, self.shape_of(node.tensor), strict=True)
        )

    def guarded(self, node: Expr) -> Expr | None:
        """A read that may fall outside after substitution gets an `else 0`; one that no longer can
        loses its `else`."""
        if not isinstance(node, Read):
            return None
        places = list(zip(node.index, self.shape_of(node.tensor), strict=True))
        if node.other is not None:
            # Bounds are proven from the ranges of the indices; data may point anywhere.
            never = all(is_static(e) and inside(e, n, self.sizes) for e, n in places)
            return Read(node.tensor, node.index, None, node.dtype) if never else None
        # A gather without `else` reads NaN outside, as it did in the equation itself.
        if all(inside(e, n, self.sizes) or not is_static(e) for e, n in places):
            return None
        zero = False if node.dtype == "bool" else 0.0 if node.dtype[0] == "f" else 0
        return Read(node.tensor, node.index, literal(zero, node.dtype), node.dtype)
