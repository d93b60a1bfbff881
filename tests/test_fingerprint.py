"""What an image is made from, as one number."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.base.references import repository, tag_of
from tasks.inputs.fingerprint import BuildInputs, digest_of_files, fingerprint, input_digest

NAMES = st.text(min_size=1, max_size=20)
PAIRS = st.dictionaries(NAMES, NAMES, max_size=6)


@pytest.mark.parametrize(
    ("ref", "repo"),
    [
        ("auth", "auth"),
        ("app/auth:optimized", "app/auth"),
        ("localhost:5000/app/auth", "localhost:5000/app/auth"),
        ("localhost:5000/app/auth:1@sha256:ab", "localhost:5000/app/auth"),
    ],
)
def test_repository(ref: str, repo: str) -> None:
    assert repository(ref) == repo
    assert tag_of(ref, "0123456789abcdef" * 4) == f"{repo}:in-0123456789abcdef"


@given(PAIRS)
def test_the_order_of_files_does_not_matter(files: dict[str, str]) -> None:
    assert digest_of_files(files.items()) == digest_of_files(reversed(list(files.items())))


@given(PAIRS, PAIRS)
@example({"a": "bc"}, {"ab": "c"})
@example({"a": "b", "cd": "x"}, {"a": "bc", "d": "x"})
def test_other_files_have_another_digest(one: dict[str, str], other: dict[str, str]) -> None:
    assert (digest_of_files(one.items()) == digest_of_files(other.items())) == (one == other)


@given(PAIRS, PAIRS)
def test_settings_bases_and_parents_count(one: dict[str, str], other: dict[str, str]) -> None:
    same = one == other
    assert (input_digest(BuildInputs(settings=one), "f") == input_digest(BuildInputs(settings=other), "f")) == same
    assert (input_digest(BuildInputs(bases=one), "f") == input_digest(BuildInputs(bases=other), "f")) == same
    assert (fingerprint("o", one) == fingerprint("o", other)) == same
    mine, others = (BuildInputs(remotes=tuple(pairs)) for pairs in (one, other))
    assert (input_digest(mine, "f") == input_digest(others, "f")) == (mine == others)


def test_single_files_are_counted_by_their_common_digest() -> None:
    assert (
        input_digest(BuildInputs(files={"a": "file 644 1"}), "f")
        == input_digest(BuildInputs(), "f")
        != input_digest(BuildInputs(), "g")
    )
