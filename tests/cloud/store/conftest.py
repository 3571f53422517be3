import pytest

pytest.importorskip("sqlalchemy")

from leptonai.cloud.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'plane.db'}"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture
def store(url):
    store = Store(url)
    yield store
    store.close()
