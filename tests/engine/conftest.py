import pytest

from .models import train


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """tiny("llama") is the folder of a trained model of that family, made once."""
    made = {}

    def folder(family: str):
        if family not in made:
            made[family] = train(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder
