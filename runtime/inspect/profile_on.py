"""The profile of a training step, by the device that it is measured on."""

from __future__ import annotations

from ...compiler.elaboration.train_block import Setup
from ..project import Project
from ..thread_count import default_threads
from .profiling import Profile, profile


def profile_on(
    device: str, project: Project, setup: Setup, threads: int | None, steps: int
) -> Profile:
    """Of `cpu`, with so many threads, or of `cuda`. UserError if the program is wrong."""
    seed = project.settings.seed
    if device == "cpu":
        return profile(project.name, setup, default_threads(threads), steps, seed)
    from .gpu_profiling import profile as profile_gpu  # what needs a GPU, only for it

    return profile_gpu(project.name, setup, steps, seed)
