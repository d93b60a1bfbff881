"""Why an image is not what it was, in words."""

from __future__ import annotations

import pytest

from doit_images.core.base.masking import safe_arguments
from doit_images.core.inputs.fingerprint import BuildInputs
from doit_images.core.planning.reasons import differences


def made(**parts: object) -> BuildInputs:
    return BuildInputs(**parts)


FILES = {"services/auth/main.py": "file 644 aa", "requirements.txt": "file 644 bb"}


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (made(files=FILES), made(files=FILES), []),
        (
            made(files=FILES),
            made(files={**FILES, "services/auth/main.py": "file 644 cc"}),
            ["`services/auth/main.py` changed"],
        ),
        (
            made(files=FILES),
            made(files={**FILES, "requirements.txt": "file 755 bb"}),
            ["`requirements.txt` mode 644 → 755"],
        ),
        (made(files={"a": "file 644 x"}), made(files={"a": "link 0 y"}), ["`a` is now a link, was a file"]),
        (made(files=FILES), made(files={"requirements.txt": "file 644 bb"}), ["`services/auth/main.py` removed"]),
        (made(files={}), made(files={"new.py": "file 644 x"}), ["`new.py` added"]),
        (
            made(settings={"args": {"PORT": "8000"}}),
            made(settings={"args": {"PORT": "8005"}}),
            ["arg `PORT` 8000 → 8005"],
        ),
        (made(settings={"args": {}}), made(settings={"args": {"PORT": "1"}}), ["arg `PORT` added"]),
        (made(settings={"target": "dev"}), made(settings={}), ["target dev → nothing"]),
        (
            made(bases={"python:3.13-slim": "sha256:ab"}),
            made(bases={"python:3.13-slim": "sha256:cd"}),
            ["`python:3.13-slim` moved sha256:ab… → sha256:cd…"],
        ),
        (
            made(remotes=("https://a",)),
            made(remotes=("https://b",)),
            ["source https://b added", "source https://a removed"],
        ),
    ],
)
def test_each_kind_of_difference(before: BuildInputs, now: BuildInputs, said: list[str]) -> None:
    assert differences(before, now) == said


def test_many_files_are_counted() -> None:
    now = made(files={f"f{number}": "file 644 x" for number in range(12)})
    assert differences(made(), now)[-1] == "and 7 more files"
    assert len(differences(made(), now)) == 6


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("NPM_TOKEN", True),
        ("db_password", True),
        ("PASSWD", True),
        ("CLIENT_SECRET", True),
        ("AWS_CREDENTIALS", True),
        ("MAPS_API_KEY", True),
        ("ApiKey", True),
        ("PRIVATE_REPO", True),
        ("KEYBOARD", False),
        ("PORT", False),
    ],
)
def test_which_names_are_those_of_secrets(name: str, secret: bool) -> None:
    kept = safe_arguments({name: "value", "EMPTY_TOKEN": "", "NO_TOKEN": None})
    assert (kept[name] != "value") == secret
    assert (kept["EMPTY_TOKEN"], kept["NO_TOKEN"]) == ("", None)


def test_values_that_may_be_secret_are_never_shown_or_kept() -> None:
    before = safe_arguments({"NPM_TOKEN": "hunter2", "INDEX": "https://me:hunter2@host/simple", "PORT": "1"})
    now = safe_arguments({"NPM_TOKEN": "hunter3", "INDEX": "https://me:hunter3@host/simple", "PORT": "1"})
    assert "hunter" not in str(before)
    said = differences(made(settings={"args": before}), made(settings={"args": now}))
    assert said == ["arg `INDEX` changed", "arg `NPM_TOKEN` changed"]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (made(files={"a": "file 644 x y"}), made(files={"a": "file 755 x y"}), ["`a` mode 644 → 755"]),
        (made(files={"a": "file 644 x y"}), made(files={"a": "file 755 x z"}), ["`a` changed"]),
        (made(files={"a b": "file  x"}), made(files={"a b": "file 6 x"}), ["`a b` mode  → 6"]),
        (made(settings={"args": {"A": "1"}}), made(settings={}), ["arg `A` removed"]),
        (made(settings={"labelXs": {"A": "1"}}), made(settings={}), ["labelX `A` removed"]),
        (
            made(settings={"a": 1, "args": {"A": "1", "B": "1", "C": "2"}, "z": ["x"]}),
            made(settings={"a": 1, "args": {"A": "1", "B": "2", "C": "3"}, "z": ["y"]}),
            ["arg `B` 1 → 2", "arg `C` 2 → 3", "z ['x'] → ['y']"],
        ),
        (made(settings={"shm": ""}), made(settings={"shm": "64m"}), ["shm nothing → 64m"]),
        (made(settings={"pull": False}), made(settings={"pull": True}), ["pull nothing → True"]),
        (made(settings={"t": "x" * 60}), made(settings={"t": "x" * 61}), [f"t {'x' * 60} → {'x' * 59}…"]),
        (made(settings={"t": None}), made(settings={"t": []}), ["t nothing → nothing"]),
        (made(bases={"b": ""}), made(bases={"b": "sha256:" + "0" * 64}), ["`b` moved unknown → sha256:000000000000…"]),
        (made(bases={"b": ""}), made(bases={"c": ""}), ["base `c` is new", "base `b` is gone"]),
    ],
)
def test_each_difference_word_by_word(before: BuildInputs, now: BuildInputs, said: list[str]) -> None:
    assert differences(before, now) == said


def test_five_files_are_named_and_of_six_one_is_counted() -> None:
    five = dict.fromkeys("abcde", "file 644 x")
    assert differences(made(), made(files=five)) == [f"`{name}` added" for name in "abcde"]
    assert differences(made(), made(files={**five, "f": "file 644 x"}))[5:] == ["and 1 more files"]
