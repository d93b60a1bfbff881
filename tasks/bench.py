"""How much better is it, measured here and now? ``benchmark_builds``, ``compare_performance`` and ``figures``."""

from __future__ import annotations

from doit_images.cli.action import JSON, Task, option, quiet

_IMAGES = option("images", "", "only these, separated by commas")
_REPEAT = option("repeat", 5, "how often each build is measured")
_ENGINE: Task = {
    **option("engine", "here", "with whose engine, buildx and Compose"),
    "choices": [("here", "those of this machine"), ("testing", "those of Debian's testing suite")],
}


def task_benchmark_builds() -> Task:
    """Measure the ways of building against each other: [--images a,b] [--repeat N] [--engine testing] [--json]"""
    return quiet("benchmarks.actions:benchmark_builds", _IMAGES, _REPEAT, _ENGINE, JSON)


def task_compare_performance() -> Task:
    """Measure build time, size and reuse, judge them: [--images a,b] [--repeat N] [--git N] [--engine E] [--json]"""
    git = option("git", 0, "replay so many last commits of git instead")
    return quiet("benchmarks.actions:compare_performance", _IMAGES, _REPEAT, git, _ENGINE, JSON)


def task_figures() -> Task:
    """Measure again which figures are older than what they measure: [--stale] (only say which) [FIGURE …]"""
    stale = option("stale", False, "only say which are older, and what changed since", name="only_say")
    return quiet("benchmarks.figures:refresh", stale, words="names")
