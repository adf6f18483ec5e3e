"""The stages that `nnc compile --emit` knows."""

from __future__ import annotations

# stage → the ending of its files
ENDINGS = {
    "ast": "nn", "equations": "nn", "gradients": "nn", "kernels": "txt", "loops": "txt",
    "llvm": "ll", "asm": "s", "cuda": "cu", "ptx": "ptx", "dot": "dot",
}  # fmt: skip

COMPILED = frozenset({"kernels", "loops", "llvm", "asm", "cuda", "ptx"})  # stages after all passes
