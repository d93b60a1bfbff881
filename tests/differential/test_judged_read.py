"""What BuildKit reads for an image is judged by Debian testing's too; it is the same for either store, and new engines
come with containerd's."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from tests.judged import environ_of, judge

pytestmark = [pytest.mark.engine, pytest.mark.all]

READ = [f"differential/test_differential{kind}.py" for kind in ("", "_doubt", "_plan")]


@pytest.fixture(scope="module")
def environ(newer: TemporaryEngine, base_image: None) -> Mapping[str, str]:
    return environ_of(newer)


@pytest.mark.parametrize("file", READ)
@pytest.mark.parametrize("newer", ["containerd"], indirect=True, scope="session")
def test_on_debian_testings_engine(environ: Mapping[str, str], file: str) -> None:
    judge(file, environ)
