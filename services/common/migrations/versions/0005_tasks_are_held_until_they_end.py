"""A task has a worker until it has ended there: that is its place at a model."""

from alembic import op

revision = "0005"
down_revision = "0004"

STATEMENTS = """
UPDATE orchestrator.tasks SET worker = NULL WHERE state NOT IN ('queued', 'running');
CREATE INDEX tasks_held ON orchestrator.tasks (worker) WHERE worker IS NOT NULL
"""


def upgrade() -> None:
    """Add what is new. Services of before go on with what they had."""
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
