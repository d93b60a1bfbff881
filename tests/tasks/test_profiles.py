"""What is started only when it is asked for: a model on this machine's processors, Prometheus, and vLLM."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from doit_images.core.run import Run
from doit_images.stack import bringup, ephemeral_stack
from doit_images.stack.checkout import project_of
from doit_images.stack.ephemeral_stack import EphemeralStack
from tasks.end_to_end import urls
from tests.conftest import ROOT, docker
from tests.model_server import tiny_gguf

COMPOSE = ROOT / "docker-compose.optimized.yml"
DASHBOARD = json.loads((ROOT / "docker/prometheus/dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def environ(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")} | more


def test_nothing_of_them_is_built_or_started_when_none_is_asked_for() -> None:
    words = ["docker", "compose", "--file", str(COMPOSE), "config", "--services"]
    services = subprocess.run(words, env=environ(), capture_output=True, text=True, check=True).stdout.split()
    assert {"auth", "memory", "orchestrator"} < set(services)
    assert not {"llama", "prometheus", "vllm"} & set(services)


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.optimized.yml"])
def test_vllm_refuses_to_serve_everybody(file: str, tmp_path: Path) -> None:
    words = ["docker", "compose", "--file", str(ROOT / file), "--profile", "gpu", "config", "--format", "json"]
    made = subprocess.run(words, env=environ(), capture_output=True, text=True, check=True).stdout
    vllm = json.loads(made)["services"]["vllm"]
    argv = [word.replace("$$", "$") for word in (*vllm["entrypoint"], *vllm["command"])]
    fake = tmp_path / "vllm"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    refused = subprocess.run(argv, env={"PATH": path, "VLLM_API_KEY": ""}, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (1, "MODEL_API_KEY: required\n")
    served = subprocess.run(argv, env={"PATH": path, "VLLM_API_KEY": "k"}, capture_output=True, text=True)
    assert served.stdout.split()[:2] == ["serve", vllm["command"][0]]


@pytest.fixture(scope="module")
def stack(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EphemeralStack]:
    """The stack with a model of its own and Prometheus, used a little."""
    folder = tmp_path_factory.mktemp("models")
    folder.chmod(0o755)
    tiny_gguf.write(folder / "tiny.gguf")
    asked = environ(COMPOSE_PROFILES="cpu,observe", MODEL_FOLDER=str(folder), MAX_TOKENS="40", LLAMA_THREADS="1")
    words = [sys.executable, "-m", "doit", "build_optimized"]
    built = subprocess.run(words, cwd=ROOT, env=asked, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    run = Run((COMPOSE,), asked)
    with ephemeral_stack.running(project_of(run), bringup.terms(run, "profiles")) as running:
        assert running.outcome.healthy, bringup.explain(running.outcome, running.compose)
        yield running


@pytest.fixture(scope="module")
def used(stack: EphemeralStack) -> dict[str, Any]:
    """What was answered to somebody who followed "Try it" of docs/services.md."""
    at = urls(stack)
    auth, memory = at["AUTH_URL"], at["MEMORY_URL"]
    alice = {"username": "alice", "password": "correct horse battery"}
    with httpx.Client(trust_env=False, timeout=None) as http:
        http.post(f"{auth}/users", json=alice).raise_for_status()
        token = http.post(f"{auth}/token", data=alice).raise_for_status().json()["access_token"]
        asked = {"name": "a", "password": alice["password"]}
        made = http.post(f"{auth}/api-keys", json=asked, headers={"Authorization": f"Bearer {token}"})
        key = {"X-API-Key": made.raise_for_status().json()["key"]}
        http.post(f"{memory}/memories", json={"text": "My favourite colour is teal."}, headers=key).raise_for_status()
    return {"key": key, **ask(stack, key)}


def ask(stack: EphemeralStack, key: dict[str, str]) -> dict[str, Any]:
    """Let the model answer twice, and fail once."""
    with httpx.Client(base_url=urls(stack)["ORCHESTRATOR_URL"], headers=key, trust_env=False, timeout=None) as http:
        asked = {"prompt": "Which color do I like best?", "model": "tiny"}
        task = http.post("/tasks", json=asked).raise_for_status().json()
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        chatted = http.post("/v1/chat/completions", json=chat).raise_for_status().json()
        assert http.post("/tasks", json={"prompt": "a", "model": "broken"}).status_code == 502
    return {"task": task, "chat": chatted}


@pytest.mark.stack
@pytest.mark.all
def test_a_model_on_processors_answers(stack: EphemeralStack, used: dict[str, Any]) -> None:
    assert used["task"]["state"] == "done"
    assert used["task"]["answer"]
    assert [one["text"] for one in used["task"]["context"]] == ["My favourite colour is teal."]
    assert used["chat"]["usage"]["completion_tokens"] == 5
    container = f"{stack.compose.project}-llama-1"
    inside = (
        "import os, urllib.error, urllib.request as u\n"
        "try: u.urlopen('http://127.0.0.1:8000/v1/models')\n"
        "except urllib.error.HTTPError as error: print(error.code, os.getuid())"
    )
    assert docker("exec", container, "python", "-c", inside).stdout.split() == ["401", "10001"]
    image = docker("inspect", "--format", "{{.Image}}", container).stdout.strip()
    for variables, said in (((), "MODEL_API_KEY: required"), (("MODEL_API_KEY=k",), "there is no *.gguf")):
        refused = docker("run", "--rm", *(word for one in variables for word in ("--env", one)), image)
        assert refused.returncode == 1
        assert said in refused.stderr


@pytest.mark.stack
@pytest.mark.all
def test_every_query_of_the_dashboard_answers(stack: EphemeralStack, used: dict[str, Any]) -> None:
    with httpx.Client(base_url=urls(stack)["PROMETHEUS_URL"], trust_env=False, timeout=None) as http:

        def answer(query: str) -> list[float]:
            told = http.get("/api/v1/query", params={"query": query.replace("$__rate_interval", "1m")}).json()
            assert told["status"] == "success", (query, told)
            values = [float(one["value"][1]) for one in told["data"]["result"]]
            return [value for value in values if not math.isnan(value)]

        left = [*QUERIES, 'swarm_audit_total{event="key made"}', 'swarm_model_seconds_count{outcome="failed"}']
        while left := [query for query in left if not answer(query)]:
            # A rate needs two looks at a counter, and one that is new has been at 0 for nobody.
            ask(stack, used["key"])
            time.sleep(2)
        assert answer('sum(up{job="swarm"})') == [3]
        rules = [one for group in http.get("/api/v1/rules").json()["data"]["groups"] for one in group["rules"]]
        assert len(rules) == 6
        assert {one["health"] for one in rules} == {"ok"}
