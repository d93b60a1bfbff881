"""The check of buildkitd.toml: what BuildKit reads passes, what it would pass over is a sentence with its line."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import buildkitd
from tests.conftest import ROOT


def said(text: str) -> str:
    with pytest.raises(UserError) as trouble:
        buildkitd.check(text, "buildkitd.toml")
    return str(trouble.value)


def test_the_file_of_this_repository_is_good_and_bounds_every_version() -> None:
    import tomllib

    text = (ROOT / "buildkitd.toml").read_text()
    buildkitd.check(text, "buildkitd.toml")
    policies = tomllib.loads(text)["worker"]["oci"]["gcpolicy"]
    # BuildKit before 0.17 reads keepBytes, later ones maxUsedSpace: both must say the same.
    assert all(policy["keepBytes"] == policy["maxUsedSpace"] for policy in policies)
    assert policies[-1]["all"] is True
    assert policies[-1]["maxUsedSpace"] == "10GB"
    assert any(policy.get("keepDuration") == "168h" for policy in policies)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[worker.oci]\n\ngc = true\nmax_parallelism = 4\n", 4, "did you mean 'max-parallelism'"),
        ("[[worker.oci.gcconfig.rule]]\nkeepBytes = 1\n", 1, "policies are [[worker.oci.gcpolicy]]"),
        ("debug = true\n[feature]\nx = 1\n", 2, "no key 'feature' in the file itself"),
        ("[worker.oci]\n  max-parallelism = '4'\n", 2, "must be a whole number, not '4'"),
        ("[worker.oci]\n[[worker.oci.gcpolicy]]\nkeepDuration = '7d'\n", 3, "hours are the largest unit"),
        ("[worker.oci]\nmaxUsedSpace = 'ten'\n", 2, 'such as "10GB"'),
        ("[worker.oci]\nmaxUsedSpace = true\n", 2, 'such as "10GB"'),
        ("[worker.oci]\n\n[worker.oci.gcpolicy]\nall = true\n", 3, "must be a list of tables"),
        ("[registry.'docker.io']\nmirror = ['a']\n", 2, "did you mean 'mirrors'"),
        ("[registry.\"docker.io\"]\nhttp = true\nmirror = ['a']\n", 3, "did you mean 'mirrors'"),
        ("worker = 3\n", 1, "worker must be a table"),
        ("a = [1,\n\n b = 2\n", 3, "this is not TOML"),
        ("worker.oci.gcc = true\n", 1, "did you mean 'gc'"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_line(text: str, line: int, words: str) -> None:
    sentence = said(text)
    assert words in sentence
    assert "\n" not in sentence
    assert sentence.startswith(f"buildkitd.toml:{line}: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "root = '/var/lib/buildkit'\n[worker.oci]\nmaxUsedSpace = '60%'\nreservedSpace = 1000\n",
        "[history]\nmaxAge = 172800\nmaxEntries = 50\n",
        "[registry.\"docker.io\"]\nmirrors = ['m:5000']\n[[registry.\"docker.io\".keypair]]\nkey = 'k'\ncert = 'c'\n",
        "[frontend.\"gateway.v0\"]\nallowedRepositories = []\n[system]\nplatformsCacheMaxAge = '1h'\n",
        "[worker.oci.labels]\nanything = 'x'\n[worker.containerd]\nnamespace = 'b'\n",
    ],
)
def test_what_buildkit_documents_passes(text: str) -> None:
    buildkitd.check(text, "buildkitd.toml")


@given(st.text(max_size=60))
def test_no_text_makes_anything_but_a_sentence(text: str) -> None:
    with contextlib.suppress(UserError):  # anything else would be a traceback
        buildkitd.check(text, "f")
