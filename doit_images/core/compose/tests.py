"""What does the Compose file say of tests, in ``x-test``?

As it stands there: what it means, ``testing.declared`` says. The key is one of the whole file, since Compose 2.26 drops
what a service's own ``x-`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from doit_images.core.base.masking import safe_arguments

DECLARED = "x-test"


def said(declared: object) -> dict[str, Any]:
    """What is said, by name of a test; an environment as it may be kept, None for what is none. Who uses that key for
    something else, as a part that is merged into services, says nothing."""
    if not isinstance(declared, Mapping) or not all(isinstance(each, Mapping) for each in declared.values()):
        return {}
    tests: dict[str, Any] = {name: dict(test) for name, test in declared.items()}
    for test in tests.values():
        if "environment" in test:
            given = environment(test["environment"])
            test["environment"] = None if given is None else safe_arguments(given)
    return tests


def environment(given: object) -> dict[str, str | None] | None:
    """The variables of a test's ``environment``, which is a mapping or a list of ``NAME=value``, as that of a service;
    None for what is neither.

    >>> environment({"A": 1, "B": None}), environment(["A=1", "B"]), environment("A=1")
    ({'A': '1', 'B': None}, {'A': '1', 'B': None}, None)
    """
    if isinstance(given, Mapping):
        return {name: None if value is None else str(value) for name, value in given.items()}
    if given is None or (isinstance(given, list) and all(isinstance(each, str) for each in given)):
        parts = (each.partition("=") for each in given or ())
        return {name: value if equals else None for name, equals, value in parts}
    return None
