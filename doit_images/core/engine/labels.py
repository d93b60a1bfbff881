"""Which labels does every image carry that is built here?"""

from __future__ import annotations

# Labels that every image built here carries. They are part of its configuration, not of its layers or its content, so
# they break no cache. The last one says when (seconds since the epoch) it was rebuilt on purpose; else it is empty.
LABEL = "vllm-swarm.build."
INPUT_DIGEST, PARENTS, FINGERPRINT = f"{LABEL}own", f"{LABEL}parents", f"{LABEL}fingerprint"
REBUILT = f"{LABEL}rebuilt"
