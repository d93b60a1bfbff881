"""Whatever is sent to any operation of the three APIs, no service makes a mistake: schemathesis reads what each says of
itself, and makes requests of it, right ones and wrong ones.

API_CASES is how many at random for each operation, beside those at the edges of what is allowed: a few here, by hand
`API_CASES=1000 RATE_LIMIT_PER_MINUTE=1000000 doit ci_test -- -k any_request` (what is refused too often is late).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import LIMIT_SECONDS, Person, Stack
from tests.waiting import patience

pytestmark = pytest.mark.stack

CASES = int(os.environ.get("API_CASES") or 3)
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def tried(client: httpx.Client, who: Person, folder: Path, only: Sequence[str] = ()) -> int:
    """How many requests got an answer below 500, and in time; fails at any other, with the request as curl's."""
    limit, seconds = patience(300 + 10 * CASES), round(patience(LIMIT_SECONDS))
    argv = [
        str(SCHEMATHESIS), "run", f"{client.base_url}/openapi.json", "--checks=not_a_server_error",
        "--phases=coverage,fuzzing", f"--max-examples={CASES}", "--continue-on-failure", "--warnings=off",
        f"--header=Authorization:{who.token['Authorization']}", f"--request-timeout={seconds}", "--no-color", *only,
    ]  # fmt: skip
    environ = {**os.environ, "NO_PROXY": "127.0.0.1,localhost"}
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert passed, done.stdout[-2000:]
    return int(passed[2])


def test_auth_makes_no_mistake(stack: Stack, alice: Person, tmp_path: Path) -> None:
    # After a logout everything else would be 401.
    assert tried(stack.auth, alice, tmp_path, ["--exclude-path=/logout"]) > 100
    assert tried(stack.auth, alice, tmp_path, ["--include-path=/logout"]) > 1


@pytest.mark.parametrize("service", ["memory", "orchestrator"])
def test_a_service_makes_no_mistake(stack: Stack, alice: Person, tmp_path: Path, service: str) -> None:
    assert tried(getattr(stack, service), alice, tmp_path) > 100
