"""Runs CUDA kernels on the CPU, for tests: see `simulator.py`."""

from .simulator import SimulatedProgram, SimulatorError, available, library

__all__ = ["SimulatedProgram", "SimulatorError", "available", "library"]
