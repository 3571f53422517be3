"""Keys, roles, members and the vault: nobody gets more than he was given, and what is sealed opens in its place alone."""

import os
import statistics
import time

import pytest

pytest.importorskip("sqlalchemy")

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from leptonai.base.errors import (
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    Refused,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from leptonai.cloud.accounts.access import MAX_FAILURES, Access
from leptonai.cloud.accounts.keys import find_key, make_key, revoke_key
from leptonai.cloud.accounts.roles import NOUNS, ROLES, VERBS, allows, check_no_wider, covers
from leptonai.cloud.accounts.vault import Vault, get_secret, put_secret
from leptonai.cloud.accounts.workspaces import add_member, change_role, create_workspace, remove_member
from leptonai.cloud.store import SYSTEM, Actor, Store
from leptonai.cloud.store.tables import keys as keys_table
from leptonai.cloud.store.transaction import now_ms

ACTIONS = [f"{noun}.{verb}" for noun in NOUNS for verb in VERBS]
SCOPES = st.sampled_from(["*", *ACTIONS, *(f"{noun}.*" for noun in NOUNS), *(f"*.{verb}" for verb in VERBS)])


@pytest.fixture
def store(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'plane.db'}")
    yield store
    store.close()


@pytest.fixture
def admin(store):
    with store.connection() as connection:
        return create_workspace(connection, "team", "ann").key


@given(st.lists(SCOPES, min_size=1, max_size=4), st.lists(SCOPES, min_size=1, max_size=4))
def test_s40_scopes_that_may_be_given_allow_nothing_that_their_giver_may_not(own, wanted):
    try:
        check_no_wider(own, wanted)
    except Refused:
        return
    assert {action for action in ACTIONS if covers(wanted, action)} <= {
        action for action in ACTIONS if covers(own, action)
    }


def test_s40_no_role_but_admin_touches_members_or_the_workspace():
    for role in ROLES:
        climbing = [one for one in ("members.write", "workspace.write", "nodes.write") if allows(role, ["*"], one)]
        assert bool(climbing) == (role == "admin"), role


def test_s40_a_key_is_neither_wider_nor_longer_lived_than_its_maker(store, admin):
    with store.connection() as connection:
        soon = now_ms() + 3_600_000
        short = make_key(connection, "team", "ann", maker=SYSTEM, scopes=["endpoints.*"], expires_at=soon)
        maker = Actor("ann", "team", "admin", ("endpoints.*",), short.prefix)
        with pytest.raises(Refused):
            make_key(connection, "team", "ann", maker=maker, scopes=["secrets.read"])
        with pytest.raises(InvalidInput):
            make_key(connection, "team", "ann", maker=maker, expires_at=soon + 1)
        child = make_key(connection, "team", "ann", maker=maker)
        row = connection.execute(select(keys_table).where(keys_table.c.prefix == child.prefix)).one()
        assert row.expires_at == soon and row.scopes == ["endpoints.*"]


def test_s42_only_hashes_are_kept_and_any_changed_key_is_unknown(store, admin, tmp_path):
    with store.connection() as connection:
        assert find_key(connection, admin) is not None
        changed = [admin[:at] + ("A" if admin[at] != "A" else "B") + admin[at + 1 :] for at in range(len(admin))]
        assert not any(find_key(connection, key) for key in [*changed, admin + "A", admin[:-1], admin.upper(), ""])
    secret = admin.rpartition("_")[2].encode()
    assert not any(secret in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())


def test_s42_the_number_of_right_characters_cannot_be_timed(store, admin):
    """By construction: hashes are compared by `hmac.compare_digest`. This would notice a comparison of the texts."""
    prefix, tail = admin[:17], admin[17:]
    wrong = {
        right: prefix + tail[:right] + "".join("A" if c != "A" else "B" for c in tail[right:]) for right in (0, 40)
    }
    times: dict[int, list[int]] = {right: [] for right in wrong}
    with store.connection() as connection:
        for _ in range(400):
            for right, key in wrong.items():
                start = time.perf_counter_ns()
                assert find_key(connection, key) is None
                times[right].append(time.perf_counter_ns() - start)
    few, many = (statistics.median(times[right]) for right in (0, 40))
    assert 0.5 < few / many < 2, times


def test_s43_ten_wrong_keys_from_one_address_and_the_owner_still_comes_in(store, admin):
    access = Access(store)
    for number in range(100):
        with pytest.raises(Unauthenticated if number < MAX_FAILURES else TooMany):
            access.authorise(f"wrong-{number}", "endpoints.read", "team", address="10.0.0.1")
    assert access.authorise(admin, "endpoints.read", "team", address="10.0.0.1").name == "ann"
    with pytest.raises(Unauthenticated):
        access.authorise("wrong", "endpoints.read", "team", address="10.0.0.2")


def test_s44_revoked_and_removed_are_refused_at_once(store, admin):
    access = Access(store)
    with store.connection() as connection:
        add_member(connection, "team", "bob", "developer", maker=SYSTEM)
        first, second = (make_key(connection, "team", "bob", maker=SYSTEM, scopes=["*"]) for _ in range(2))
    assert access.authorise(first.key, "jobs.write", "team").role == "developer"
    with store.connection() as connection:
        revoke_key(connection, "team", first.prefix)
    with pytest.raises(Unauthenticated):
        access.authorise(first.key, "jobs.write", "team")
    with store.connection() as connection:
        remove_member(connection, "team", "bob")
    with pytest.raises(Unauthenticated):
        access.authorise(second.key, "jobs.write", "team")


@pytest.mark.parametrize(
    "token",
    [
        "eyJhbGciOiJub25lIn0.eyJyb2xlIjoiYWRtaW4ifQ.",
        "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYWRtaW4ifQ.AAAA",
        "' OR '1'='1",
        "lep_%",
        "lep_" + "_" * 12 + "_" + "A" * 43,
        "\0",
        "lep_ffffffffffff_" + "A" * 43 + "\n",
    ],
)
def test_s44_no_forged_token_is_a_key(store, admin, token):
    with pytest.raises(Unauthenticated):
        Access(store).authorise(token, "endpoints.read", "team")


def test_s39_a_foreign_key_hears_what_an_absent_workspace_says(store, admin):
    with store.connection() as connection:
        foreign = create_workspace(connection, "other", "eve").key
    said = []
    for workspace in ("team", "absent"):
        with pytest.raises(NotFound) as found:
            Access(store).authorise(foreign, "endpoints.read", workspace)
        said.append(str(found.value))
    assert said[0] == said[1]


def test_a_workspace_keeps_an_admin(store, admin):
    with store.connection() as connection:
        for act in (
            lambda: remove_member(connection, "team", "ann"),
            lambda: change_role(connection, "team", "ann", "viewer"),
        ):
            with pytest.raises(Conflict, match="last admin"):
                act()


def test_what_is_sealed_opens_in_its_place_with_its_key_alone(tmp_path):
    vault = Vault.open(tmp_path / "vault.key")
    sealed = vault.seal(b"canary", "team/secrets/A")
    assert Vault.open(tmp_path / "vault.key").unseal(sealed, "team/secrets/A") == b"canary"
    refused = [
        lambda: vault.unseal(sealed, "other/secrets/A"),
        lambda: Vault.open(tmp_path / "second.key").unseal(sealed, "team/secrets/A"),
        *(
            lambda at=at: vault.unseal(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], "team/secrets/A")
            for at in range(len(sealed))
        ),
    ]
    for attempt in refused:
        with pytest.raises(Corrupt):
            attempt()
    os.chmod(tmp_path / "vault.key", 0o644)
    with pytest.raises(Unavailable, match="can be read by others"):
        Vault.open(tmp_path / "vault.key")


def test_s46_a_secret_is_not_in_the_database_as_text(store, admin, tmp_path):
    vault = Vault.open(tmp_path / "keys" / "vault.key")
    with store.connection() as connection:
        put_secret(connection, vault, "team", "A", "canary-4711")
        assert get_secret(connection, vault, "team", "A") == "canary-4711"
        with pytest.raises(NotFound):
            get_secret(connection, vault, "other", "A")
    assert not any(b"canary-4711" in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
