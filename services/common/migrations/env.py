"""How does Alembic reach the database? By the connection that ``common.migrate`` hands it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
