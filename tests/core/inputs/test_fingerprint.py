"""What an image is made from, as one number."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from doit_images.core.base.references import repository, tag_of
from doit_images.core.inputs.fingerprint import BuildInputs, digest_of_files, digest_of_text, fingerprint, input_digest

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


def test_a_digest_stays_the_same_from_one_version_to_the_next() -> None:
    """Whatever else changed every image would be built once more, on every machine: raise ``VERSION`` to mean that."""
    inputs = BuildInputs({}, {"target": "run", "args": {"A": "1"}}, {"python:3.13": "sha256:ab"}, ("https://a",))
    digest = input_digest(inputs, digest_of_files([("b", "file 644 x"), ("a", "link 0 y"), ("\udcff", "dir 755 z")]))
    assert digest == "5e2b6b88ff753f145535c6337ce963e01f7a4f855b34ec074b5b946e61f4aa8d"
    assert fingerprint(digest, {"base": "f0"}) == "087ce786735820c9d20180a04e91de59cfbcbd5695abc64376b1012f50a09f3d"
    assert digest_of_text("\udcff") == hashlib.sha256(b"\xff").hexdigest()
