"""What is told of processes that share a service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common import service

SERVICES = Path(service.__file__).parents[1]
TASKS = "from common import metrics; metrics.TASKS.labels('running', 'm').set(5)"
KILLED = "; import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
TOLD = "; print(metrics.generate_latest(metrics._registry()).decode())"


def test_what_a_dead_process_was_at_counts_no_more(tmp_path: Path) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(code: str) -> str:
        argv = [sys.executable, "-c", code]
        return subprocess.run(argv, cwd=SERVICES, env=environ, text=True, stdout=subprocess.PIPE).stdout

    for code in (TASKS + KILLED, TASKS + KILLED):
        run(code)
    assert len(list(tmp_path.glob("gauge_livesum_*.db"))) == 2
    assert 'swarm_tasks{model="m",state="running"} 5.0' in run(TASKS + TOLD)
