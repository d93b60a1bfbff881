"""What does a service say of itself? OpenAPI with the errors as they are: problem documents, wherever one may come."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

PROBLEM = {
    "title": "Problem",
    "description": "Why a request was refused (RFC 9457).",
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "One sentence."},
        "request_id": {"type": "string", "description": "Under which the logs have it."},
        "error": {"type": "string", "description": "OAuth 2's word for it."},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"where": {"type": "string"}, "what": {"type": "string"}}},
        },
    },
}
_REFERENCE = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": HTTPStatus(status).phrase, "content": _REFERENCE}
    for status in (400, 401, 403, 404, 409, 413, 422, 429, 503, 504)
}
"""What any endpoint may answer."""


def install(app: FastAPI) -> None:
    """Make ``app``, which has no endpoints yet, describe itself so."""
    described, app.router.responses = app.openapi, RESPONSES

    def with_problem() -> dict[str, Any]:
        schema = described()
        schema.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM
        return schema

    app.openapi = with_problem  # type: ignore[method-assign]
