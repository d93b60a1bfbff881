"""What of a stack's end do its files alone say?

Stacks are removed by Compose's labels, so that it takes no files, and whose volumes go is certain. Labels know neither
the hooks that run before a container stops (``pre_stop``) nor what a ``provider`` started: that Compose does first, by
the files.
"""

from __future__ import annotations

from collections.abc import Sequence

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Compose


def told(compose: Compose) -> list[str]:
    """The services of which the files say more than labels do. None where Compose cannot read them, which is no
    hindrance: by labels the stack goes all the same."""
    try:
        declared = compose.config("--profile", "*").get("services") or {}
    except UserError:
        return []
    return sorted(name for name, service in declared.items() if service.get("pre_stop") or service.get("provider"))


def begin(compose: Compose, *services: str, known: Sequence[str] | None = None) -> str:
    """Let Compose stop these services, or take everything down but the data, where the files say more of it than labels
    do (``told``; ``known``, where a run that is being stopped cannot ask any more); "" or why it could not."""
    own = told(compose) if known is None else known
    wanted = [name for name in own if name in services] if services else own
    if not wanted:
        return ""
    words = ["stop", *wanted] if services else ["down"]
    argv = compose.argv("--profile", "*", "--progress", "plain", *words)
    done = commands.run(argv, cwd=compose.directory, env=compose.env, cleanup=True)
    without = f"`docker compose -p {compose.project} down` does without hooks and providers"
    return f"docker compose {words[0]}: {done.why} ({without})" if done.status else ""
