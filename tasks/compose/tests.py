"""What does the Compose file say of tests, in ``x-test``?

As it stands there: what it means, ``testing.declared`` says. The key is one of the whole file, since Compose 2.26 drops
what a service's own ``x-`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.base.masking import safe_arguments

DECLARED = "x-test"


def said(declared: Any) -> dict[str, Any]:
    """What is said, by name of a test; an environment as it may be kept. Who uses that key for something else, as a
    part that is merged into services, says nothing."""
    if not isinstance(declared, Mapping) or not all(isinstance(each, Mapping) for each in declared.values()):
        return {}
    tests: dict[str, Any] = {name: dict(test) for name, test in declared.items()}
    for test in tests.values():
        if isinstance(given := test.get("environment"), Mapping):
            test["environment"] = safe_arguments({name: None if v is None else str(v) for name, v in given.items()})
    return tests
