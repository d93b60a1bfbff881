"""Which rows come next? Lists are newest first; what a page says as ``next`` is the ``after`` of the one behind it."""

import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import AwareDatetime, TypeAdapter, ValidationError
from sqlalchemy import Select, tuple_

from common.problems import Problem

type Place = tuple[AwareDatetime, uuid.UUID]
_PLACE: TypeAdapter[Place] = TypeAdapter(Place)


def _read(after: str | None = None) -> Place | None:
    try:
        return None if after is None else _PLACE.validate_python(after.split("_"))
    except ValidationError:
        sentence = "There is no such page: `after` is the `next` of the one before."
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, sentence) from None


After = Annotated[Place | None, Depends(_read)]
Limit = Annotated[int, Query(ge=1, le=100)]


def paged(rows: Select[Any], table: Any, after: Place | None, count: int) -> Select[Any]:
    """The next ``count`` of ``rows`` of ``table``, behind the place ``after``."""
    if after is not None:
        rows = rows.where(tuple_(table.created_at, table.id) < tuple_(*after))
    return rows.order_by(table.created_at.desc(), table.id.desc()).limit(count)


def following(rows: Sequence[Any], count: int) -> str | None:
    """What a page of so many at most says as ``next``; none when it has fewer."""
    return f"{rows[-1].created_at.isoformat()}_{rows[-1].id}" if len(rows) == count else None
