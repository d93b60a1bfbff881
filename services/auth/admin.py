"""What can be done about accounts where nobody is logged in? ``python -m auth.admin COMMAND NAME``, in the container:

    docker compose exec auth python -m auth.admin make-admin alice

make-admin, unmake-admin, disable, enable, delete
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from datetime import timedelta
from pathlib import Path

from auth.app import keyring_of
from auth.passwords import Passwords
from auth.settings import AuthSettings
from auth.tables import Table
from auth.tokens import Tokens
from auth.users import Account, Users
from common import audit, logs, redis_store
from common.postgres import Database
from common.settings import load

AUDITED = {
    "make-admin": "administrator made", "unmake-admin": "administrator unmade",
    "disable": "user disabled", "enable": "user enabled", "delete": "user deleted",
}  # fmt: skip


async def change(settings: AuthSettings, command: str, name: str) -> Account | None:
    """Do ``command`` about the user called ``name``, whose tokens end with it. None when there is no such user."""
    database = Database(settings, "auth-admin", Table.metadata)
    async with redis_store.connect(settings) as redis:
        await database.prepare()
        users = Users(database, Passwords())
        if command == "delete":
            account = await users.delete(name)
        elif command in ("disable", "enable"):
            account = await users.change(name, disabled=command == "disable")
        else:
            account = await users.change(name, admin=command == "make-admin")
        if account is not None:
            # First: the account is changed, also if Redis does not answer now.
            audit.record(AUDITED[command], None, target=account.username, by="python -m auth.admin")
        if account is not None and command != "enable":
            life = timedelta(seconds=settings.access_token_seconds)
            await Tokens(keyring_of(settings, database), redis, life).end_all(account.id)
        await database.engine.dispose()
    return account


def main() -> None:
    """Do what the command line says. Status 1 and a sentence when there is no such user."""
    # Of a container, what its first process writes is the log; what a command beside it writes is nowhere kept.
    log = Path("/proc/1/fd/1" if os.access("/proc/1/fd/1", os.W_OK) else os.devnull)
    logs.configure("auth", "WARNING", log.open("w"))
    parser = argparse.ArgumentParser(prog="python -m auth.admin")
    parser.add_argument("command", choices=AUDITED)
    parser.add_argument("name")
    asked = parser.parse_args()
    account = asyncio.run(change(load(AuthSettings), asked.command, asked.name))
    if account is None:
        sys.exit(f"There is no user called {asked.name}.")
    print(f"{asked.command}: {account.username}")


if __name__ == "__main__":
    main()
