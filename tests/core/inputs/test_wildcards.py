"""A pattern with many wildcards: the same answers as a regular expression, in a time that does not blow up."""

from __future__ import annotations

import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.inputs import wildcards
from doit_images.core.inputs.wildcards import ANY, FOLDERS, NAME
from tests.conftest import ROOT, examples

ATOMS = st.lists(st.sampled_from(["a", "b", r"\.", "[^/]", "[ab]", "/", NAME, ANY, FOLDERS]), max_size=9)
PATHS = st.text("ab./\n", max_size=12)


@given(ATOMS, PATHS)
@examples(30)
def test_all_ways_at_once_find_what_a_regular_expression_finds(atoms: list[str], path: str) -> None:
    assert wildcards._Automaton(atoms)(path) == bool(re.compile("".join(atoms)).fullmatch(path))


PATTERNS = """
from pathlib import Path
from doit_images.core.inputs.ignorefile import IgnoreFile
from doit_images.core.inputs.sources import _go_match

deep = "/".join(["a"] * 2000)
for rule in ("/".join(["**/a"] * 8) + "/b", "/".join(["**"] + ["*a*"] * 9) + "/b", "*a" * 9 + "b"):
    for name in (deep, "a" * 250, f"{deep}/{'a' * 250}"):
        assert not IgnoreFile(rule).judge(name, ())[0], rule
assert not _go_match("*a" * 9 + "b")("a" * 250)
shows = IgnoreFile("*\\n" + "".join(f"!folder{n}/*/x\\n" for n in range(200)))
assert not any(shows.may_show_below(f"hidden{n}/below") for n in range(5000))
"""


def test_no_pattern_takes_for_ever() -> None:
    """The first took 17 s for one path of twenty names, the last 12 s. Each takes far less than the time limit now,
    and without this far more."""
    subprocess.run([sys.executable, "-c", PATTERNS], cwd=ROOT, check=True)
