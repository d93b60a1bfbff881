"""Which labels does every image carry that is built here, and what did older versions call them?"""

from __future__ import annotations

from collections.abc import Mapping

# Labels that every image built here carries. They are part of its configuration, not of its layers or its content, so
# they break no cache. The last one says when (seconds since the epoch) it was rebuilt on purpose; else it is empty.
LABEL = "doit-images."
INPUT_DIGEST, PARENTS, FINGERPRINT = f"{LABEL}own", f"{LABEL}parents", f"{LABEL}fingerprint"
REBUILT = f"{LABEL}rebuilt"
_FORMER = "vllm-swarm.build."  # until 0.2
OURS = (LABEL, _FORMER)
"""How the names of our labels begin, for ``str.startswith``."""


def translated(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Labels as they are read, ours under the names of today: of both names the one of today counts, for the other was
    inherited from a parent that an older version made.

    >>> translated({"vllm-swarm.build.own": "the parent's", "doit-images.own": "its own", "x": "y"})
    {'doit-images.own': 'its own', 'x': 'y'}
    """
    if not any(name.startswith(_FORMER) for name in labels):
        return labels
    former = {LABEL + name.removeprefix(_FORMER): labels[name] for name in labels if name.startswith(_FORMER)}
    return former | {name: value for name, value in labels.items() if not name.startswith(_FORMER)}
