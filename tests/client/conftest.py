"""The models of the serving tests serve here too."""

import pytest

from photon.conftest import ROW, zoo  # noqa: F401


@pytest.fixture
def row():
    return dict(ROW)
