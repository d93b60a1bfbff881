"""Cache backends: the exact arguments, and which backend is chosen where."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import backends
from doit_images.core.buildkit.backends import Backend

REGISTRY = Backend("registry", "localhost:5000/team", "feature/x", "main")


def test_each_branch_has_its_own_reference_and_reads_the_main_one() -> None:
    assert backends.options(REGISTRY, "auth", "vllm-swarm/auth") == [
        "--cache-from",
        "type=registry,ref=localhost:5000/team/vllm-swarm/auth:cache-feature-x..217d2b",
        "--cache-from",
        "type=registry,ref=localhost:5000/team/vllm-swarm/auth:cache-main",
        "--cache-to",
        "type=registry,ref=localhost:5000/team/vllm-swarm/auth:cache-feature-x..217d2b,mode=max,ignore-error=true,"
        "compression=zstd,oci-mediatypes=true,image-manifest=true",
    ]


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (Backend("none"), []),
        (
            Backend("inline", "r:5000"),
            ["--cache-from", "type=registry,ref=r:5000/a/b:cache-main", "--cache-to", "type=inline"],
        ),
        (
            Backend("local", "/c"),
            [
                "--cache-from",
                "type=local,src=/c/b/cache-main",
                "--cache-to",
                "type=local,dest=/c/b/cache-main,mode=max,ignore-error=true,compression=zstd",
            ],
        ),
        (
            Backend("gha"),
            [
                "--cache-from",
                "type=gha,scope=b-cache-main",
                "--cache-to",
                "type=gha,scope=b-cache-main,mode=max,ignore-error=true",
            ],
        ),
        (
            Backend("s3", options=("bucket=k", "region=eu-central-1")),
            [
                "--cache-from",
                "type=s3,bucket=k,region=eu-central-1,name=b-cache-main",
                "--cache-to",
                "type=s3,bucket=k,region=eu-central-1,name=b-cache-main,mode=max,ignore-error=true,compression=zstd",
            ],
        ),
    ],
)
def test_the_arguments_of_each_backend(backend: Backend, expected: list[str]) -> None:
    assert backends.options(backend, "b", "a/b") == expected


def test_without_write_nothing_is_written() -> None:
    for kind in ("inline", "local", "registry", "gha"):
        assert "--cache-to" not in backends.options(Backend(kind, "p", write=False), "b", "a/b")


def test_a_local_cache_that_is_not_there_yet_is_not_imported() -> None:
    argv = backends.options(Backend("local", "/c", "x", "main"), "b", "a/b", lambda folder: folder.endswith("main"))
    assert argv[:2] == ["--cache-from", "type=local,src=/c/b/cache-main"]
    assert len(argv) == 4


@pytest.mark.parametrize(
    ("wanted", "exports", "registry", "environ", "expected"),
    [
        ("auto", False, "", {}, "none"),
        ("auto", False, "r", {}, "inline"),
        ("auto", True, "r", {}, "registry"),
        ("auto", True, "", {"ACTIONS_RUNTIME_TOKEN": "t"}, "gha"),
        ("auto", False, "", {"ACTIONS_RUNTIME_TOKEN": "t"}, "none"),
        ("none", True, "r", {}, "none"),
        ("local", True, "", {}, "local"),
    ],
)
def test_auto_chooses_what_the_builder_can_do(
    wanted: str, exports: bool, registry: str, environ: dict[str, str], expected: str
) -> None:
    assert backends.chosen(wanted, exports=exports, registry=registry, environ=environ) == expected


@pytest.mark.parametrize("kind", ["local", "registry", "gha", "s3"])
def test_the_classic_store_says_what_would_help(kind: str) -> None:
    with pytest.raises(UserError, match="classic image store cannot export") as trouble:
        backends.chosen(kind, exports=False, registry="r", environ={})
    assert "containerd-snapshotter" in str(trouble.value)


@pytest.mark.parametrize("kind", ["inline", "registry"])
def test_a_backend_in_a_registry_needs_one(kind: str) -> None:
    with pytest.raises(UserError, match="needs CACHE_REGISTRY"):
        backends.chosen(kind, exports=True, registry="", environ={})


@pytest.mark.parametrize(
    ("given_options", "words"),
    [
        (("bucket=k", "secret_access_key=HUSH"), "must not hold secret_access_key"),
        (("bucket=k", "token=HUSH"), "must not hold token"),
        (("region=x",), "needs CACHE_S3"),
        (("bucket",), "look like bucket=NAME"),
    ],
)
def test_s3_takes_no_credentials(given_options: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError) as trouble:
        backends.options(Backend("s3", options=given_options), "b", "a/b")
    assert words in str(trouble.value)
    assert "HUSH" not in str(trouble.value)


def test_what_the_compose_file_declares_is_kept_where_the_builder_can() -> None:
    declared = ("type=registry,ref=r/c", "type=inline")
    assert backends.declared(["r/c"], declared, exports=False) == ["--cache-from", "r/c", "--cache-to", "type=inline"]
    assert len(backends.declared([], declared, exports=True)) == 4


_PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), min_size=1)


@given(_PATHS)
def test_any_folder_survives_the_csv(place: str) -> None:
    argv = backends.options(Backend("local", place), "b", "a/b")
    for line in argv[1::2]:
        [fields] = csv.reader([line])
        assert f"{place}/b/cache-main" in {field.partition("=")[2] for field in fields}


@given(st.text(max_size=200), st.text(max_size=200))
def test_two_branches_never_share_a_reference_and_every_reference_is_a_tag(one: str, other: str) -> None:
    import re

    tags = [backends.cache_ref("r", "p", branch).rpartition(":")[2] for branch in (one, other)]
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", tag) for tag in tags)
    assert (tags[0] == tags[1]) == (one == other)
