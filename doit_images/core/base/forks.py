"""Is this run a CI's, for a pull request out of somebody else's fork?

What such a run builds was written by a stranger: it reads what is shared and writes nothing, and its caches are never
taken for those of a branch of this repository, whatever the fork calls its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

UNKNOWN = "unknown"


def fork(environ: Mapping[str, str]) -> str:
    """Whose fork a pull request comes from, as GitHub's Actions and GitLab's pipelines tell; "" for what is no pull
    request, or one from the repository itself. One whose origin cannot be read counts as a stranger's.

    >>> fork({}), fork({"GITHUB_EVENT_NAME": "push"}), fork({"GITHUB_EVENT_NAME": "pull_request"})
    ('', '', 'unknown')
    >>> fork({"CI_MERGE_REQUEST_PROJECT_PATH": "team/app", "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "ann/app"})
    'ann'
    """
    if environ.get("GITHUB_EVENT_NAME", "").startswith("pull_request"):  # pull_request_target, …_review too
        return _of_event(Path(environ.get("GITHUB_EVENT_PATH", "")))
    target, source = (environ.get(f"CI_MERGE_REQUEST_{which}PROJECT_PATH", "") for which in ("", "SOURCE_"))
    return "" if source == target else source.partition("/")[0] or UNKNOWN


def _of_event(file: Path) -> str:
    try:
        request = json.loads(file.read_bytes())["pull_request"]
        if request["head"]["repo"] and request["head"]["repo"]["full_name"] == request["base"]["repo"]["full_name"]:
            return ""
        return str(request["head"]["user"]["login"]) or UNKNOWN
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return UNKNOWN
