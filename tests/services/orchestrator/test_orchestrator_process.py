"""orchestrator as the image runs it: a process of uvicorn, and a reader who leaves in the middle of the answer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from common import service

SERVICES = Path(service.__file__).parents[1]


def test_who_leaves_stops_the_task(
    database: dict[str, Any], auth: Any, memory: Any, model_url: str, user: dict[str, str]
) -> None:
    addresses = {"AUTH_URL": auth.url, "MEMORY_URL": memory.url, "MODEL_URL": model_url}
    addresses |= {"POSTGRES_DB": database["postgres_db"], "MODELS": "slow"}
    process = subprocess.Popen(
        [sys.executable, "-m", "common.serve", "orchestrator", "0", "127.0.0.1"],
        cwd=SERVICES, env={**os.environ, **addresses}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        port = next(
            int(found[1]) for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))
        )
        threading.Thread(target=process.stdout.read, daemon=True).start()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, headers=user) as http:
            while http.get("/health").status_code != 200:
                time.sleep(0.05)
            body = {"prompt": "a long story", "model": "slow", "stream": True}
            with http.stream("POST", "/tasks", json=body) as answer:
                assert answer.status_code == 200
                lines = answer.iter_lines()
                while not next(lines).startswith("event: token"):
                    pass
                [task] = http.get("/tasks").json()["tasks"]
                assert task["state"] == "running"
            give_up = time.monotonic() + 30
            while (task := http.get("/tasks").json()["tasks"][0])["state"] == "running":
                assert time.monotonic() < give_up
                time.sleep(0.05)
        assert task["state"] == "cancelled"
        assert task["error"].endswith("nobody waited for the answer.")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()
