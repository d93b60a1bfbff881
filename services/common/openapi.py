"""What does a service say of itself? OpenAPI with the errors as they are: problem documents, wherever one may come."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

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
ALWAYS = (400, 401, 403, 409, 422, 429, 503, 504)


def install(app: FastAPI) -> None:
    """Make ``app`` describe itself so."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(get_openapi(title=app.title, version=app.version, routes=app.routes))
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _with_problems(schema: dict[str, Any]) -> dict[str, Any]:
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which are never sent
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    reference = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            statuses = [*ALWAYS]
            statuses += (413,) if "requestBody" in operation else ()
            statuses += (404,) if "{" in path else ()
            for status in statuses:
                said = {"description": HTTPStatus(status).phrase, "content": reference}
                if str(status) not in operation["responses"] or status == HTTPStatus.UNPROCESSABLE_ENTITY:
                    operation["responses"][str(status)] = said
    return schema
