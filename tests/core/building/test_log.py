"""When a build that says nothing is worth a word."""

from __future__ import annotations

from doit_images.core.building.log import Silence


def test_each_length_is_told_once_and_anew_after_a_word() -> None:
    clock = [0.0]
    silence = Silence(lambda: clock[0])
    told = []
    while clock[0] < 3 * 3600:
        told += [text] if (text := silence.grown()) else []
        clock[0] += 5
    assert told == ["no output for a minute", *(f"no output for {n} minutes" for n in (2, 5, 10, 20, 30, 60, 120))]
    silence.broken()
    clock[0] += 61
    assert silence.grown() == "no output for a minute"
    assert silence.grown() == ""
