"""The two databases that every store test runs on: SQLite in a folder, and a private PostgreSQL where there is one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


class Postgres:
    """A cluster of its own in a temporary folder, on a unix socket only; run as `postgres` when we are root."""

    def __init__(self) -> None:
        if not shutil.which("initdb") or not shutil.which("pg_ctl"):
            pytest.skip("PostgreSQL (initdb, pg_ctl) is not installed")
        self.folder = Path(tempfile.mkdtemp(prefix="lepton-pg-"))
        self._user: str | None = None
        if os.geteuid() == 0:
            try:
                account = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
            self._user = "postgres"
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "-U", "lepton", "-N")
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start")
        self._count = 0

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, user=self._user, cwd=self.folder, timeout=120)

    def new_database(self) -> str:
        import sqlalchemy

        self._count += 1
        url = f"postgresql+psycopg://lepton@/postgres?host={self.folder}"
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE lepton{self._count}")
        engine.dispose()
        return f"postgresql://lepton@/lepton{self._count}?host={self.folder}"

    def stop(self) -> None:
        subprocess.run(
            ["pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop"],
            capture_output=True,
            user=self._user,
            cwd="/",
            check=False,
        )
        shutil.rmtree(self.folder, ignore_errors=True)
