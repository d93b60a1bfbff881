"""What does ``auth`` answer to?"""

import uuid
from dataclasses import asdict
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from auth.api_keys import ApiKeys, Described
from auth.caller import Caller, identify
from auth.keyring import Keyring
from auth.passwords import Passwords
from auth.rate_limit import RateLimit
from auth.revocations import Revocations
from auth.settings import AuthSettings
from auth.signing import Vault
from auth.tables import Table
from auth.tokens import Tokens
from auth.users import USERNAME, Users
from common import redis_store, service
from common.postgres import Database
from common.problems import Problem, unauthorized
from common.texts import Label

Username = Annotated[str, StringConstraints(pattern=USERNAME)]
LONGEST_PASSWORD = 256
NOT_KEPT = {"Cache-Control": "no-store"}


class NewUser(BaseModel):
    """Somebody who registers."""

    username: Username
    password: SecretStr = Field(min_length=10, max_length=LONGEST_PASSWORD)


class RegisteredUser(BaseModel):
    """Somebody who has registered."""

    id: uuid.UUID
    username: str
    created_at: datetime


class AccessToken(BaseModel):
    """The answer to a login (RFC 6749, section 5.1)."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - not a password
    expires_in: int


class Verified(BaseModel):
    """Who sent the request, and how that is known."""

    user_id: uuid.UUID
    username: str
    method: Literal["token", "api_key"]
    credential_id: str
    expires_at: datetime | None


class NewApiKey(BaseModel):
    """The key that is asked for."""

    name: Label
    expires_in: int | None = Field(default=None, ge=1, le=10 * 365 * 86_400)


class ApiKeyInfo(BaseModel):
    """A key, as far as it can be shown again."""

    id: uuid.UUID
    name: str
    hint: str
    created_at: datetime
    expires_at: datetime | None


class CreatedApiKey(ApiKeyInfo):
    """A key, the only time that it is shown."""

    key: str


class ApiKeyList(BaseModel):
    """Every key of a user that works."""

    api_keys: list[ApiKeyInfo]


class Jwks(BaseModel):
    """The public keys (RFC 7517)."""

    keys: list[dict[str, Any]]


def create_app(settings: AuthSettings) -> FastAPI:
    """The application, as ``settings`` say. Connects to nothing before it starts."""
    database = Database(settings, "auth", Table.metadata)
    redis = redis_store.connect(settings)
    token_life = timedelta(seconds=settings.access_token_seconds)
    keyring = Keyring(
        database,
        Vault(settings.auth_secret.get_secret_value()),
        signs_for=timedelta(seconds=settings.signing_key_seconds),
        token_life=token_life,
    )
    tokens = Tokens(keyring, Revocations(redis))
    users = Users(database, Passwords())
    api_keys = ApiKeys(database)
    rate_limit = RateLimit(redis, settings.rate_limit_per_minute)
    app = service.create(
        "auth",
        settings,
        resources=[redis, database.running()],
        checks={"postgres": database.check, "redis": lambda: redis_store.writes(redis, "auth")},
    )

    async def caller(request: Request) -> Caller:
        return await identify(request, tokens, api_keys)

    KnownCaller = Annotated[Caller, Depends(caller)]  # noqa: N806 - a type

    @app.post("/users", status_code=HTTPStatus.CREATED, tags=["users"])
    async def register(new: NewUser, request: Request) -> RegisteredUser:
        await rate_limit.count(_address(request), new.username)
        account = await users.register(new.username, new.password.get_secret_value())
        return RegisteredUser(**asdict(account))

    @app.post("/token", tags=["users"])
    async def log_in(
        request: Request,
        response: Response,
        form: Annotated[OAuth2PasswordRequestForm, Depends()],
        expires_in: Annotated[int, Form(ge=1, le=settings.access_token_seconds)] = settings.access_token_seconds,
    ) -> AccessToken:
        await rate_limit.count(_address(request), form.username)
        # A longer password can belong to nobody; cut, it costs no more than any other wrong one.
        account = await users.authenticate(form.username, form.password[: LONGEST_PASSWORD + 1])
        if account is None:
            raise unauthorized("The user name or the password is wrong.", error="invalid_grant")
        await rate_limit.succeeded(_address(request), form.username)
        response.headers.update(NOT_KEPT)
        token = await tokens.issue(account.id, account.username, timedelta(seconds=expires_in))
        return AccessToken(access_token=token, expires_in=expires_in)

    @app.post("/logout", status_code=HTTPStatus.NO_CONTENT, tags=["users"])
    async def log_out(known: KnownCaller) -> None:
        await tokens.revoke(known.claims())

    @app.post("/verify", tags=["verify"])
    async def verify(known: KnownCaller) -> Verified:
        return Verified(**asdict(known))

    @app.get("/jwks", tags=["verify"])
    @app.get("/.well-known/jwks.json", include_in_schema=False)
    async def jwks() -> Jwks:
        return Jwks(keys=[key.jwk for key in await keyring.public()])

    @app.post("/api-keys", status_code=HTTPStatus.CREATED, tags=["API keys"])
    async def create_key(new: NewApiKey, known: KnownCaller, response: Response) -> CreatedApiKey:
        response.headers.update(NOT_KEPT)
        life = None if new.expires_in is None else timedelta(seconds=new.expires_in)
        key, described = await api_keys.create(known.claims().user_id, new.name, life)
        return CreatedApiKey(key=key, **asdict(described))

    @app.get("/api-keys", tags=["API keys"])
    async def list_keys(known: KnownCaller) -> ApiKeyList:
        return ApiKeyList(api_keys=[_info(one) for one in await api_keys.list(known.user_id)])

    @app.delete("/api-keys/{key_id}", status_code=HTTPStatus.NO_CONTENT, tags=["API keys"])
    async def revoke_key(key_id: uuid.UUID, known: KnownCaller) -> None:
        if not await api_keys.revoke(known.user_id, key_id):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such API key.")

    return app


def _info(described: Described) -> ApiKeyInfo:
    return ApiKeyInfo(**asdict(described))


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"
