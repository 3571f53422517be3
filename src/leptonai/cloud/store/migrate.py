"""Bring a database to the newest tables, once, whoever comes first."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

HEAD = "0001"
"""The newest revision in `migrations/versions`; opening a current database does not import Alembic."""
_LOCK = 7_305_116_820  # any number that nobody else takes in this database


def migrate(engine: Engine) -> None:
    if _revision(engine) == HEAD:
        return
    with _alone(engine) as connection:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(engine: Engine) -> str | None:
    with engine.connect().execution_options(lepton_read=True) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.scalar(text("SELECT version_num FROM alembic_version"))


@contextlib.contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
            yield connection
        return
    with open(f"{engine.url.database}.migrating", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with engine.begin() as connection:
            yield connection
