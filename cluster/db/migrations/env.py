"""How Alembic runs a migration here: in the connection that `open_database` hands over."""

from alembic import context

from cluster.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite cannot change a column in place
)
context.run_migrations()
