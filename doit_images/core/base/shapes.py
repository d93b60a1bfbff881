"""Is a value what its type says? Python does not check the JSON that it reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_OURS = __name__.partition(".")[0] + "."


def fits(value: Any, shape: Any) -> bool:
    """Whether a value is of this type, with all that it holds: plain types, ``|``, tuples, mappings, and classes whose
    fields are annotated.

    >>> fits(("a", 1), tuple[str, ...]), fits(("a", 1), tuple[str, int]), fits({"a": None}, Mapping[str, str | None])
    (False, True, True)
    """
    origin, inner = get_origin(shape), get_args(shape)
    if shape is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, alternative) for alternative in inner)
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, tuple) and inner[-1] is ... else inner
        return isinstance(value, tuple) and len(kinds) == len(value) and all(map(fits, value, kinds))
    if origin is not None:
        return isinstance(value, Mapping) and all(
            fits(key, inner[0]) and fits(each, inner[1]) for key, each in value.items()
        )
    if shape in (int, float):
        plain = isinstance(value, int if shape is int else int | float) and not isinstance(value, bool)
        return plain and math.isfinite(value)
    if not isinstance(value, shape):
        return False
    return all(fits(getattr(value, name), each) for name, each in _fields(shape).items())


@cache
def _fields(kind: type) -> dict[str, Any]:
    return get_type_hints(kind) if kind.__module__.startswith(_OURS) else {}
