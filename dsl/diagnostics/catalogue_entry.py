"""What the catalogue says of one code, and programs that its examples share.

In: nothing. Out: `Entry`, and functions that write a model or a train block.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One code. Where `compiled` is False the mistake is not in a `.nn` file."""

    code: str
    title: str
    explanation: str
    wrong: str
    right: str
    compiled: bool = True


def model(*lines: str, given: str = "f32[B, 3]", result: str = "f32[B, 3]") -> str:
    """A model of these equations."""
    body = "".join(f"    {line}\n" for line in lines)
    return f"model M(x: {given}) -> y: {result} {{\n{body}}}\n"


def train(model: str, *lines: str) -> str:
    """A model and its train block."""
    body = "".join(f"    {line}\n" for line in lines)
    return f"{model}train M {{\n{body}}}\n"


# Definitions that several examples use.
SPLIT = "fn split(x: [...]) -> a: [...], b: [...] {\n    a = x / 2\n    b = x / 3\n}\n"
DENSE = "model M(x: f32[B, 3]) -> y: f32[B, 3] {\n    y = x |> Dense(3)\n}\n"
