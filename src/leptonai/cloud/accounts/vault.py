"""Secrets at rest: AES-256-GCM under a key file of this home (mode 0600). What is sealed for one place opens only there."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from ...base.errors import Corrupt, Missing, NotFound, Refused, Unavailable
from ..store.tables import secrets

_NONCE_BYTES = 12
KEY_BYTES = 32
_MARK = "vault"
"""A value of no workspace that shows whose key a database was sealed with."""


class Vault:
    """`place` names where a value belongs (workspace and name): a sealed value that is moved elsewhere does not open."""

    def __init__(self, key: bytes):
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise Missing("cryptography", "cloud") from error
        self._cipher = AESGCM(key)

    @classmethod
    def open(cls, path: Path) -> Vault:
        """The vault of that key file, which is made if there is none."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_bytes()
        else:
            key = os.urandom(KEY_BYTES)
            with os.fdopen(handle, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
        if len(key) != KEY_BYTES:
            raise Corrupt(
                f"the key file {path.name} is not whole", received=f"{len(key)} bytes", expected=f"{KEY_BYTES}"
            )
        if path.stat().st_mode & 0o077:
            raise Unavailable(f"the key file {path} can be read by others", fix=f"Run: chmod 600 {path}")
        return cls(key)

    def seal(self, value: bytes, place: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, place.encode())

    def unseal(self, sealed: bytes, place: str) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except InvalidTag:
            raise Corrupt(
                "a sealed value does not open with this home's key",
                fix="Bring back the key file that it was sealed with.",
            ) from None

    def seal_text(self, value: str, place: str) -> str:
        return base64.b64encode(self.seal(value.encode(), place)).decode()

    def unseal_text(self, sealed: str, place: str) -> str:
        return self.unseal(base64.b64decode(sealed), place).decode()


def check_vault(connection: Connection, vault: Vault) -> None:
    """Raises Refused if what this database holds was sealed with another key than this home's: planes that share one share a key."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    row = dialect.insert(secrets).values(workspace="", name=_MARK, sealed=vault.seal(_MARK.encode(), _MARK))
    connection.execute(row.on_conflict_do_nothing(index_elements=[secrets.c.workspace, secrets.c.name]))
    query = select(secrets.c.sealed).where(secrets.c.workspace == "", secrets.c.name == _MARK)
    try:
        vault.unseal(connection.scalar(query), _MARK)
    except Corrupt:
        raise Refused(
            "the secrets in this database were sealed with the key of another home",
            fix="Copy cloud/vault.key of the home that used this database first into this home's folder cloud, mode 0600.",
        ) from None


def put_secret(connection: Connection, vault: Vault, workspace: str, name: str, value: str) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    sealed = vault.seal(value.encode(), f"{workspace}/secrets/{name}")
    row = dialect.insert(secrets).values(workspace=workspace, name=name, sealed=sealed)
    connection.execute(
        row.on_conflict_do_update(index_elements=[secrets.c.workspace, secrets.c.name], set_={"sealed": sealed})
    )


def get_secret(connection: Connection, vault: Vault, workspace: str, name: str) -> str:
    """For controllers, when a workload starts. Raises NotFound."""
    query = select(secrets.c.sealed).where(secrets.c.workspace == workspace, secrets.c.name == name)
    sealed = connection.scalar(query)
    if sealed is None:
        raise NotFound(
            f"there is no secret {name!r} in workspace {workspace!r}", fix="Make it with `lep secret create`."
        )
    return vault.unseal(sealed, f"{workspace}/secrets/{name}").decode()


def remove_secret(connection: Connection, workspace: str, name: str) -> None:
    connection.execute(delete(secrets).where(secrets.c.workspace == workspace, secrets.c.name == name))
