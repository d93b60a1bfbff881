"""How long will it take? Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from doit_images.core.inputs.image_inputs import ImageInputs


def remaining_path(parents: Mapping[str, Sequence[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """For each image, the seconds of the longest chain of work that begins with it. ``parents`` lists every image,
    parents before children; an image without ``seconds`` costs none."""
    longest = {name: seconds.get(name, 0.0) for name in parents}
    for name in reversed(list(parents)):
        for parent in parents[name]:
            longest[parent] = max(longest[parent], seconds.get(parent, 0.0) + longest[name])
    return longest


def urgency(declared: Mapping[str, ImageInputs], expected: Mapping[str, float]) -> dict[str, float]:
    """How urgent each image is: its ``remaining_path``, with a second where it is not known how long it takes, and
    nothing for what another service builds."""
    seconds = {name: 0.0 if inputs.image.duplicate_of else expected.get(name, 1.0) for name, inputs in declared.items()}
    return remaining_path({name: inputs.needs for name, inputs in declared.items()}, seconds)


def wall_seconds(parents: Mapping[str, Sequence[str]], seconds: Mapping[str, float], workers: int) -> float:
    """The wall time of all the work in ``seconds`` with so many workers: each takes the ready image with the longest
    remaining path, and an image is ready when all its parents are done."""
    path = remaining_path(parents, seconds)
    waiting = {name: len(set(parents[name])) for name in parents}
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name in parents:
        for parent in set(parents[name]):
            children[parent].append(name)
    ready = [(-path[name], name) for name, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds.get(name, 0.0), name))
        now, done = heapq.heappop(running)
        for child in children[done]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, (-path[child], child))
    return now
