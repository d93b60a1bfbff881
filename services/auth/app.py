"""What does ``auth`` answer to?"""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Body, Depends, FastAPI, Form, Request, Response
from fastapi.security import OAuth2PasswordRequestForm
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from auth.api_keys import ApiKeys, Described
from auth.caller import Caller, identify
from auth.keyring import Keyring
from auth.passwords import Passwords
from auth.rate_limit import RateLimit
from auth.settings import AuthSettings
from auth.signing import Vault
from auth.tables import Table
from auth.tokens import EXCHANGED, Tokens
from auth.users import USERNAME, Account, Users
from common import audit, redis_store, service
from common.callers import OPEN, Gate, who_sent, with_scope
from common.logs import address
from common.postgres import Database
from common.problems import Problem, unauthorized
from common.texts import Label
from common.tokens import SERVICES

KnownCaller = Annotated[Caller, with_scope()]
Owner = Annotated[Caller, with_scope("account")]
Admin = Annotated[Caller, with_scope("admin")]
Username = Annotated[str, StringConstraints(pattern=USERNAME)]
LONGEST_PASSWORD = 256
NOT_KEPT = {"Cache-Control": "no-store"}
KEYS_KEPT_SECONDS = 300
USERS_SCOPES = ("account", "memory:read", "memory:write", "tasks")
KEYS_SCOPES = ("memory:read", "memory:write", "tasks")


class NewUser(BaseModel):
    """Somebody who registers."""

    username: Username
    password: SecretStr = Field(min_length=10, max_length=LONGEST_PASSWORD)


class Password(BaseModel):
    """Proof that it is the user, and not only somebody with a token of the user."""

    password: SecretStr = Field(max_length=LONGEST_PASSWORD)


class NewPassword(Password):
    """A password in the place of the one there is."""

    new_password: SecretStr = Field(min_length=10, max_length=LONGEST_PASSWORD)


type Proven = Callable[[Caller, SecretStr], Awaitable[Account]]


class AccessToken(BaseModel):
    """The answer to a login (RFC 6749, section 5.1)."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - not a password
    expires_in: int
    scope: str


class Exchange(BaseModel):
    """The token that is asked for in exchange for the credential that was sent: never for ``auth``, where a token may
    do what a key may not. A ``lasting`` one, for what may end after the credential, is good unless that is revoked."""

    audience: Literal["memory", "orchestrator"]
    lasting: bool = False


class Verified(BaseModel):
    """Who sent the request, and how that is known."""

    user_id: uuid.UUID
    username: str
    method: Literal["token", "api_key"]
    credential_id: str
    expires_at: datetime | None
    scopes: list[str]


class NewApiKey(Password):
    """The key that is asked for. Without a time it is good for API_KEY_DAYS."""

    name: Label
    scopes: set[Literal["memory:read", "memory:write", "tasks"]] = Field(default=set(KEYS_SCOPES), min_length=1)
    expires_in: int | None = Field(default=None, ge=1, le=366 * 86_400)


class CreatedApiKey(Described):
    """A key, the only time that it is shown."""

    key: str


class ApiKeyList(BaseModel):
    """Every key of a user that works."""

    api_keys: list[Described]


class Jwks(BaseModel):
    """The public keys (RFC 7517)."""

    keys: list[dict[str, Any]]


def keyring_of(settings: AuthSettings, database: Database) -> Keyring:
    """The signing keys, as ``settings`` say."""
    return Keyring(
        database,
        Vault(settings.auth_secret.get_secret_value()),
        signs_for=timedelta(seconds=settings.signing_key_seconds),
        token_life=max(timedelta(seconds=settings.access_token_seconds), EXCHANGED),
    )


def create_app(settings: AuthSettings) -> FastAPI:
    """The application, as ``settings`` say. Connects to nothing before it starts."""
    database = Database(settings, "auth", Table.metadata)
    redis = redis_store.connect(settings)
    keyring = keyring_of(settings, database)
    tokens = Tokens(keyring, redis, timedelta(seconds=settings.access_token_seconds))
    users = Users(database, Passwords())
    api_keys = ApiKeys(database, settings.api_keys_per_user)
    rate_limit = RateLimit(redis, settings.rate_limit_per_minute)

    app = service.create(
        "auth",
        settings,
        resources=[redis, database.running()],
        checks={"postgres": database.check, "redis": lambda: redis.set("auth:health", "1", ex=60)},  # a full one reads
        identify=partial(identify, tokens=tokens, api_keys=api_keys),
    )

    async def proven(known: Caller, password: SecretStr) -> Account:
        name = known.token().username
        await rate_limit.count(address.get(), name)
        account = await users.authenticate(name, password.get_secret_value())
        if account is None:
            audit.record("wrong password", known)
            raise Problem(HTTPStatus.FORBIDDEN, "The password is wrong.")
        return account

    _add_users(app, users, tokens, rate_limit, settings, proven)
    _add_tokens(app, tokens, keyring)
    _add_api_keys(app, api_keys, tokens, settings, proven)
    return app


def _add_users(
    app: FastAPI, users: Users, tokens: Tokens, rate_limit: RateLimit, settings: AuthSettings, proven: Proven
) -> None:
    async def may_register(request: Request) -> None:
        through = "x-forwarded-for" in request.headers  # a proxy: from anywhere
        if settings.registration == "closed" or (settings.registration == "local" and through):
            (await who_sent(request)).claims.need("admin")

    @app.post("/users", status_code=HTTPStatus.CREATED, tags=["users"], dependencies=[Gate(may_register)])
    async def register(new: NewUser) -> Account:
        await rate_limit.count(address.get(), new.username)
        account = await users.register(new.username, new.password.get_secret_value())
        audit.record("user registered", account)
        return account

    @app.post("/users/me/password", status_code=HTTPStatus.NO_CONTENT, tags=["users"])
    async def change_password(new: NewPassword, known: Owner) -> None:
        await users.change_password(await proven(known, new.password), new.new_password.get_secret_value())
        audit.record("password changed", known)
        await tokens.end_all(known.user_id)

    @app.post("/users/me/deletion", status_code=HTTPStatus.NO_CONTENT, tags=["users"])
    async def delete_me(password: Password, known: Owner) -> None:
        await users.delete((await proven(known, password.password)).username)
        audit.record("user deleted", known, target=known.username)
        await tokens.end_all(known.user_id)

    @app.patch("/users/{username}", tags=["administration"])
    async def change_user(username: Username, disabled: Annotated[bool, Body(embed=True)], admin: Admin) -> Account:
        event = "user disabled" if disabled else "user enabled"
        return await ended(await users.change(username, disabled=disabled), event, admin)

    @app.delete("/users/{username}", status_code=HTTPStatus.NO_CONTENT, tags=["administration"])
    async def delete_user(username: Username, admin: Admin) -> None:
        await ended(await users.delete(username), "user deleted", admin)

    async def ended(account: Account | None, event: str, admin: Caller) -> Account:
        if account is None:
            raise Problem(HTTPStatus.NOT_FOUND, "There is no such user.")
        # First: the account is changed, also if Redis does not answer now.
        audit.record(event, admin, target=account.username)
        await tokens.end_all(account.id)
        return account

    @app.post("/token", tags=["users"], dependencies=[OPEN])
    async def log_in(
        response: Response,
        form: Annotated[OAuth2PasswordRequestForm, Depends()],
        expires_in: Annotated[int, Form(ge=1, le=settings.access_token_seconds)] = settings.access_token_seconds,
    ) -> AccessToken:
        await rate_limit.count(address.get(), form.username)
        # A longer password can belong to nobody; cut, it costs no more than any other wrong one.
        account = await users.authenticate(form.username, form.password[: LONGEST_PASSWORD + 1])
        if account is None:
            # A name that nobody has may be a password that was typed into the wrong field.
            tried = form.username if await users.known(form.username) else "unknown"
            audit.record("login failed", None, target=tried)
            raise unauthorized("The user name or the password is wrong.", error="invalid_grant")
        await rate_limit.succeeded(address.get(), form.username)
        audit.record("login", account)
        response.headers.update(NOT_KEPT)
        may = {*USERS_SCOPES, *(["admin"] if account.is_admin else [])}
        scopes = may & set(form.scopes) if form.scopes else may
        claims = tokens.new(account.id, account.username, scopes, timedelta(seconds=expires_in))
        token = await tokens.sign(claims, SERVICES)
        return AccessToken(access_token=token, expires_in=expires_in, scope=" ".join(sorted(scopes)))


def _add_tokens(app: FastAPI, tokens: Tokens, keyring: Keyring) -> None:
    @app.post("/logout", status_code=HTTPStatus.NO_CONTENT, tags=["users"])
    async def log_out(known: KnownCaller, everywhere: bool = False) -> None:
        claims = known.token()
        if everywhere:
            await tokens.end_all(claims.user_id)
        else:
            await tokens.revoke(claims.token_id, claims.expires_at + EXCHANGED)
        audit.record("logout everywhere" if everywhere else "logout", claims)

    @app.post("/verify", tags=["verify"])
    async def verify(known: KnownCaller) -> Verified:
        return Verified(
            user_id=known.user_id, username=known.claims.username, method=known.method,
            credential_id=known.claims.token_id, expires_at=known.expires_at, scopes=sorted(known.claims.scopes),
        )  # fmt: skip

    @app.post("/exchange", tags=["verify"])
    async def exchange(wanted: Exchange, known: KnownCaller, response: Response) -> AccessToken:
        """A token of the same user for one service and a short time, to be passed on in the place of the credential."""
        response.headers.update(NOT_KEPT)
        claims = tokens.exchanged(known.claims, lasting=wanted.lasting)
        life = int((claims.expires_at - datetime.now(UTC)).total_seconds())
        token = await tokens.sign(claims, [wanted.audience])
        return AccessToken(access_token=token, expires_in=max(life, 0), scope=" ".join(sorted(claims.scopes)))

    @app.get("/jwks", tags=["verify"], dependencies=[OPEN])
    @app.get("/.well-known/jwks.json", include_in_schema=False, dependencies=[OPEN])
    async def jwks(response: Response) -> Jwks:
        seconds = int(min(KEYS_KEPT_SECONDS, keyring.ahead.total_seconds() / 2))
        response.headers["Cache-Control"] = f"public, max-age={seconds}"
        return Jwks(keys=[key.jwk for key in await keyring.public()])


def _add_api_keys(app: FastAPI, api_keys: ApiKeys, tokens: Tokens, settings: AuthSettings, proven: Proven) -> None:
    @app.post("/api-keys", status_code=HTTPStatus.CREATED, tags=["API keys"])
    async def create_key(new: NewApiKey, known: Owner, response: Response) -> CreatedApiKey:
        response.headers.update(NOT_KEPT)
        await proven(known, new.password)
        seconds = new.expires_in or settings.api_key_days * 86_400
        key, described = await api_keys.create(known.user_id, new.name, new.scopes, timedelta(seconds=seconds))
        audit.record("key made", known, target=described.id, scopes=" ".join(described.scopes))
        return CreatedApiKey(key=key, **described.model_dump())

    @app.get("/api-keys", tags=["API keys"])
    async def list_keys(known: Owner) -> ApiKeyList:
        return ApiKeyList(api_keys=list(await api_keys.list(known.user_id)))

    @app.delete("/api-keys/{key_id}", status_code=HTTPStatus.NO_CONTENT, tags=["API keys"])
    async def revoke_key(key_id: uuid.UUID, known: KnownCaller) -> None:
        """A key may end itself, and no other."""
        if known.claims.token_id != str(key_id):
            known.claims.need("account")
        if all(one.id != key_id for one in await api_keys.list(known.user_id)):
            raise Problem(HTTPStatus.NOT_FOUND, "You have no such API key.")
        # First: if Redis does not answer now, the key is still there, and can be revoked again.
        await tokens.revoke(str(key_id), datetime.now(UTC) + EXCHANGED)
        await api_keys.revoke(known.user_id, key_id)
        audit.record("key revoked", known, target=key_id)
