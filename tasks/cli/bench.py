"""How much better is it, measured here and now? ``benchmark_builds`` and ``compare_performance``."""

from __future__ import annotations

from tasks.cli.action import JSON, Task, option, quiet

_IMAGES = option("images", "", "only these, separated by commas")
_REPEAT = option("repeat", 3, "how often each build is measured")


def task_benchmark_builds() -> Task:
    """Measure builds, standard against optimized, in engines of their own: [--images a,b] [--repeat N] [--json]"""
    return quiet("benchmarks.actions:benchmark_builds", _IMAGES, _REPEAT, JSON)


def task_compare_performance() -> Task:
    """Measure build time, size and reuse, and judge them: [--images a,b] [--repeat N] [--git N] [--json]"""
    git = option("git", 0, "replay so many last commits of git instead")
    return quiet("benchmarks.actions:compare_performance", _IMAGES, _REPEAT, git, JSON)
