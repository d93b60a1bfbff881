"""Settings: environment, then .env, then defaults; and what is wrong is said with its place."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from doit_images.core.base import settings
from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings, build_environ, load
from tasks import ROOT


def test_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, {}) == Settings()


def test_the_environment_wins_over_the_file_and_empty_counts_as_not_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BUILD_JOBS=2\nBASE_SOURCE=debian\n")
    found = load(tmp_path, {"BUILD_JOBS": "3", "BASE_SOURCE": ""})
    assert (found.build_jobs, found.base_source) == (3, "debian")


@pytest.mark.parametrize("value", ["four", "0", "-1", "1.5", "10000"])
def test_a_wrong_type_names_file_line_and_what_is_accepted(tmp_path: Path, value: str) -> None:
    (tmp_path / ".env").write_text(f"# mine\nexport BUILD_JOBS={value}\n")
    with pytest.raises(UserError) as caught:
        load(tmp_path, {})
    assert str(caught.value) == (f"{tmp_path}/.env:2: BUILD_JOBS must be a whole number from 1 to 9999, not {value!r}")


def test_a_wrong_choice_in_the_environment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="environment: BASE_SOURCE must be one of auto, registry, debian, not 'moon'"):
        load(tmp_path, {"BASE_SOURCE": "moon"})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500", 500),
        ("300KB", 300_000),
        ("1.5gb", 1_500_000_000),
        ("10G", 10_000_000_000),
        ("10GiB", 10_737_418_240),
        ("10 Gi", 10_737_418_240),
        ("1KiB", 1024),
        ("0.5MiB", 524_288),
        ("2TiB", 2_199_023_255_552),
    ],
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    assert load(tmp_path, {"CACHE_MAX_SIZE": text}).cache_max_size == size


@pytest.mark.parametrize("text", ["10iB", "GB", "10 Gx", "-1GB"])
def test_what_is_no_size(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="CACHE_MAX_SIZE must be a size such as 500MB or 10GiB"):
        load(tmp_path, {"CACHE_MAX_SIZE": text})


@pytest.mark.parametrize("text", ["arm", "linux/arm64, linux/amd64", "local,linux/386"])
def test_platforms(tmp_path: Path, text: str) -> None:
    (tmp_path / ".env").write_text(f"PLATFORMS={text}\n")
    chosen = load(tmp_path, {})
    assert chosen.platforms == tuple(text.replace(" ", "").split(","))
    assert build_environ(chosen, {"A": "1"})["PLATFORMS"] == ",".join(chosen.platforms)


@pytest.mark.parametrize("text", ["f", "linux/arm64;linux/amd64", "linux/a/b/c"])
def test_what_is_no_platform(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="PLATFORMS must be platforms such as linux/amd64,linux/arm64, not"):
        load(tmp_path, {"PLATFORMS": text})


def test_builds_trust_what_the_machine_is_told_to_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SYSTEM_BUNDLE", str(tmp_path / "none.crt"))
    bundle = tmp_path / "ca.crt"
    bundle.touch()
    assert build_environ(Settings(), {"A": "1"}) == {"A": "1"}
    assert build_environ(Settings(), {"SSL_CERT_FILE": str(bundle)})["BUILD_CA_CERT"] == str(bundle)
    assert "BUILD_CA_CERT" not in build_environ(Settings(), {"SSL_CERT_FILE": "/nowhere"})
    mine = tmp_path / "mine.crt"
    mine.touch()
    assert build_environ(Settings(), {}) == {}
    monkeypatch.setattr(settings, "SYSTEM_BUNDLE", str(mine))
    assert build_environ(Settings(), {}) == {"BUILD_CA_CERT": str(mine)}
    chosen = build_environ(Settings(build_ca_cert=str(mine)), {"PIP_CERT": str(bundle)})
    assert chosen["BUILD_CA_CERT"] == str(mine)


def test_the_example_names_every_setting() -> None:
    text = (ROOT / ".env.example").read_text()
    for entry in fields(Settings):
        assert f"{entry.name.upper()}=" in text
