"""What the docker command writes as an archive is read to its end, or said in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from doit_images.ci.sbom import installed
from doit_images.ci.verifying import content
from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import oci_transfer
from doit_images.pruning import image_contents

Reader = Callable[[dict[str, str], Path], Any]

IMAGE: Any = SimpleNamespace(id="id", chain="")
ENGINE: Any = SimpleNamespace(address="unix:///nowhere")


def layout(environ: dict[str, str], folder: Path) -> None:
    oci_transfer._save(ENGINE, IMAGE, folder / "layout")


READERS: dict[str, Reader] = {
    "verify": lambda environ, folder: content.content_of("id", environ),
    "image_sizes": lambda environ, folder: image_contents.files_of([IMAGE], environ, print),
    "sbom": lambda environ, folder: installed.installed(ENGINE, "id"),
    "builder": layout,
}


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """A docker command that does what this script says when it is to write an archive."""

    def does(script: str) -> dict[str, str]:
        command = tmp_path / "bin" / "docker"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\ncase "$1" in save|export) {script};; *) echo made;; esac\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
        return dict(os.environ)

    return does


FAILS = "echo 'Error response from daemon: no such image' >&2; exit 1"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "before",
    [
        pytest.param("true", id="nothing"),
        pytest.param("head -c 2000000 /dev/zero", id="an archive that seems to end"),
        pytest.param("yes | head -c 2000000", id="none, and more than a pipe holds"),
    ],
)
def test_a_command_that_fails_is_told_in_its_own_words(
    docker: Callable[[str], dict[str, str]], tmp_path: Path, before: str, reader: str
) -> None:
    environ = docker(f"{before}; {FAILS}")
    with pytest.raises(UserError, match=r"^docker (save|export): no such image$"):
        READERS[reader](environ, tmp_path)
    assert not (tmp_path / "layout").exists()


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_archive_is_none_though_the_command_is_content(
    docker: Callable[[str], dict[str, str]], tmp_path: Path, reader: str
) -> None:
    environ = docker("yes | head -c 2000000")
    with pytest.raises(UserError, match=r"^docker (save|export): it gave no image "):
        READERS[reader](environ, tmp_path)
    assert not (tmp_path / "layout").exists()
