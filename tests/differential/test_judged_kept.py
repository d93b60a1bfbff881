"""What an engine keeps of images is judged on Debian testing's too, with either store."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from benchmarks.temporary_engine import TemporaryEngine
from tests.judged import environ_of, judge

pytestmark = [pytest.mark.engine, pytest.mark.all]

KEPT = ["ci/test_asking.py", "core/building/test_rebuild.py", "share/test_sent_again.py"]


@pytest.fixture(scope="module")
def environ(newer: TemporaryEngine, base_image: None) -> Mapping[str, str]:
    return environ_of(newer)


@pytest.mark.parametrize("file", KEPT)
def test_on_debian_testings_engine(environ: Mapping[str, str], file: str) -> None:
    judge(file, environ)
