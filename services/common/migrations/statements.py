"""What does a migration do? Statements, one by one. They only add: services of before go on with what they had."""

from collections.abc import Callable

from alembic import op


def upgrading(statements: str) -> Callable[[], None]:
    """What executes the ``statements``, which end with a semicolon at the end of a line."""

    def upgrade() -> None:
        for statement in statements.split(";\n"):
            if statement.strip():
                op.execute(statement)

    return upgrade
