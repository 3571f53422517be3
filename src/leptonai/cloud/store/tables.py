"""The tables as they are now; `migrations/` says how a database gets there. Every query about a tenant names its workspace."""

from __future__ import annotations

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
# SQLite numbers rows only in a column declared INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")


def to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


resources = Table(
    "resources",
    metadata,
    Column("uid", String(32), primary_key=True),
    Column("workspace", String(96), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("name", String(253), nullable=False),
    # "" while it lives and its uid from then on, so that a name is unique among the living only.
    Column("grave", String(32), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("state", String(32), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("status", JSON, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("created_by", String(254), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("modified_by", String(254), nullable=False),
    Column("modified_at", BigInteger, nullable=False),
    Column("deleted_at", BigInteger),
    UniqueConstraint("workspace", "kind", "name", "grave", name="resources_name"),
    Index("resources_position", "position"),
    Index("resources_kind", "kind", "workspace", "deleted_at"),
)

# One row. Positions are given at the end of a transaction, so their order is the order of the commits.
clock = Table(
    "clock", metadata, Column("id", Integer, primary_key=True), Column("position", BigInteger, nullable=False)
)

events = Table(
    "events",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("workspace", String(96), nullable=False),
    Column("uid", String(32), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("name", String(253), nullable=False),
    Column("type", String(16), nullable=False),
    Column("reason", String(96), nullable=False),
    Column("message", Text, nullable=False),
    Column("digest", String(32), nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    UniqueConstraint("uid", "digest", name="events_same"),
    Index("events_name", "workspace", "kind", "name"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("workspace", String(96), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", String(254), nullable=False),
    Column("key", String(16)),
    Column("action", String(64), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("name", String(253), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("detail", JSON, nullable=False),
    Index("audit_workspace", "workspace", "id"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("workspace", String(96), primary_key=True),
    Column("actor", String(254), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("clock", String(64), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

workspaces = Table(
    "workspaces",
    metadata,
    Column("name", String(96), primary_key=True),
    Column("display_name", String(200), nullable=False),
    Column("state", String(32), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("workspace", String(96), primary_key=True),
    Column("name", String(254), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("added_by", String(254), nullable=False),
    Column("added_at", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("prefix", String(16), primary_key=True),
    Column("workspace", String(96), nullable=False),
    Column("member", String(254), nullable=False),
    Column("label", String(200), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("tail", String(8), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_by", String(254), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Index("keys_workspace", "workspace"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("workspace", String(96), primary_key=True),
    Column("name", String(253), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("workspace", String(96), nullable=False),
    Column("caller", String(200), nullable=False),
    Column("resource", String(300), nullable=False),
    Column("meter", String(64), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("detail", JSON, nullable=False),
    Index("usage_workspace", "workspace", "at"),
)
