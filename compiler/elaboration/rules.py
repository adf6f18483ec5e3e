"""The rules of elaboration: one function for each class of syntax node."""

from __future__ import annotations

from collections.abc import Mapping

from ...dsl.syntax import ast as s
from .calls import call, pipe
from .context import Rule
from .declarations import param, state
from .equations import equation
from .expressions import binary, conditional, list_literal, literal, unary
from .names import name
from .reads import guarded_read, read
from .reductions import reduction
from .statements import let, remat, repeat

RULES: Mapping[type[s.Node], Rule] = {
    # expressions: (context, node, scope) → a value, or a tuple of values
    s.Number: literal,
    s.Boolean: literal,
    s.String: literal,
    s.List: list_literal,
    s.Name: name,
    s.Unary: unary,
    s.Binary: binary,
    s.If: conditional,
    s.Index: read,
    s.Guarded: guarded_read,
    s.Reduce: reduction,
    s.Call: call,
    s.Pipe: pipe,
    # statements: (context, node, scope) → None; they change the scope
    s.Let: let,
    s.Param: param,
    s.State: state,
    s.Equation: equation,
    s.Repeat: repeat,
    s.Remat: remat,
}
