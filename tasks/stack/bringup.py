"""How does a stack come up, and what is said when it does not?

Used by everything that starts one: ``up_optimized``, ``dev_optimized``, ``ci_test``, ``migrate_to_optimized``.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tasks import processes
from tasks.errors import Trouble
from tasks.settings import Settings
from tasks.stack import health_view, secrets
from tasks.stack.compose import Compose, last_words, up_argv
from tasks.stack.containers import Containers
from tasks.stack.health import Limits, Outcome, Verdict, wait

_LAST_LINES = 15


def limits(settings: Settings) -> Limits:
    """How long the settings let a stack take."""
    return Limits(overall=settings.up_seconds, service=settings.up_service_seconds)


def start(compose: Compose, limit: Limits, log: Path, only: Sequence[str] = ()) -> Outcome:
    """Create and start what is missing or changed, and wait until all is healthy or something is not.

    ``only`` are the services that are wanted, with what they depend on (default: all). What Compose says goes to
    ``log``. Raises ``Trouble`` when Compose cannot begin; a service that does not become healthy is told by the
    outcome, for the caller to decide what follows (see ``explain``).
    """
    services = compose.services()
    expected = {name: one.replicas for name, one in services.items() if one.replicas and (not only or name in only)}
    project = Containers(compose.project)
    project.put_names_right()
    stop_the_sick(compose, project)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as said,
        health_view.shown() as view,
        processes.start(up_argv(compose, only), cwd=compose.directory, env=compose.env) as process,
    ):
        # Its output is read at once: a full pipe would stop it.
        reader = threading.Thread(target=_copy, args=(process, said), daemon=True)
        reader.start()

        def show(verdicts: Mapping[str, Verdict], seconds: float) -> None:
            if processes.stopping():
                raise processes.Stopped
            view.show(verdicts, seconds)

        outcome = wait(project, expected, limit, working=lambda: process.poll() is None, show=show)
        stopped = process.poll() is None
        if stopped:
            # Compose itself waits for what has just failed; it leaves with its own words.
            processes.stop(process)
        reader.join(timeout=5)
    if process.returncode and not stopped and not any(one.state == "failed" for one in outcome.verdicts.values()):
        raise Trouble(f"docker compose up: {last_words(log.read_text(errors='replace'))}", remedy=f"its log is {log}")
    return outcome


def stop_the_sick(compose: Compose, project: Containers) -> None:
    """Stop what is unhealthy already: Compose would not start what depends on it, but starts it again in its turn."""
    sick = sorted({one.service for one in project.look() if one.running and one.health == "unhealthy"})
    if sick:
        compose.run("--progress", "plain", "stop", *sick)


def explain(outcome: Outcome, compose: Compose) -> str:
    """Why the stack is not healthy: each failed service in a sentence, with the last lines that it wrote."""
    project = Containers(compose.project)
    return "\n".join(_explain(name, verdict, outcome, project, compose) for name, verdict in outcome.failed.items())


def _explain(name: str, verdict: Verdict, outcome: Outcome, project: Containers, compose: Compose) -> str:
    late = f" after {outcome.seconds:.0f} s (UP_SECONDS)" if verdict.state == "waiting" else ""
    paragraphs = [f"{name}: {verdict.words}{late}"]
    for one in [one for one in outcome.containers if one.service == name][:1]:
        check = project.last_check(one.id) if one.health else ""
        paragraphs += [f"its last health check said: {check}"] if check else []
        written = tail(project.logs(one.id, _LAST_LINES), compose)
        paragraphs += [f"its last lines (all of them: doit logs_optimized {name}):", *written] if written else []
    return "\n".join(paragraphs)


def tail(text: str, compose: Compose) -> list[str]:
    """What a container wrote, as indented lines without the values of secrets."""
    return [f"    {line}" for line in secrets.hidden(text, compose.directory, compose.environ).splitlines()]


def _copy(process: subprocess.Popen[bytes], into: IO[bytes]) -> None:
    for data in processes.output(process):
        into.write(data)
