"""Networks are built from a kind and a config, and rebuilt from the same; what does not fit is an error and not a traceback."""

import numpy as np
import pytest
import torch

from leptonai.base.errors import Corrupt, InvalidInput
from leptonai.nets.registry import KINDS, build, check_options, load_state, network_class, options, state_of

MLP = {"numbers": 2, "missing": [], "categories": [4], "outputs": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_exists(kind):
    assert network_class(kind).__doc__


def test_an_unknown_kind_or_option_gets_the_nearest_name():
    with pytest.raises(InvalidInput, match="'lightgbm'"):
        build("lightgmb", {})
    with pytest.raises(InvalidInput, match=r"received droput. Did you mean 'dropout'"):
        check_options("mlp", {"droput": 0.1})
    with pytest.raises(InvalidInput, match="no such option"):
        check_options("mlp", {"outputs": 3}), "a size is the task's to give"
    assert options("mlp") == {"hidden": (256, 256), "dropout": 0.1}


def test_sizes_are_needed():
    with pytest.raises(InvalidInput, match="network 'mlp' needs outputs"):
        build("mlp", {"numbers": 2, "missing": [], "categories": []})


@pytest.mark.parametrize("wrong", [{"hidden": 3}, {"dropout": 2.0}, {"hidden": ["a"]}, {"outputs": -1}])
def test_a_wrong_value_is_a_sentence(wrong):
    with pytest.raises(InvalidInput, match="network 'mlp' cannot be built"):
        build("mlp", MLP | wrong)


def test_state_goes_out_and_in():
    one, two = build("mlp", MLP), build("mlp", MLP)
    inputs = {"numbers": torch.randn(5, 2, dtype=torch.float64), "categories": torch.randint(0, 4, (5, 1))}
    load_state(two, state_of(one))
    assert torch.equal(one.eval()(**inputs), two.eval()(**inputs))


def test_weights_of_another_network_are_corrupt():
    with pytest.raises(Corrupt, match="the weights do not fit network 'mlp'"):
        load_state(build("mlp", MLP), state_of(build("mlp", MLP | {"hidden": [8]})))
    with pytest.raises(Corrupt, match="the weights do not fit network 'linear'"):
        load_state(build("linear", MLP), {"weight": np.zeros(3)})
    with pytest.raises(Corrupt, match="the weights do not fit network 'lightgbm'"):
        load_state(build("lightgbm", {"numbers": 1, "categories": [], "outputs": 1}), {})
    with pytest.raises(Corrupt, match="trees of this model cannot be read"):
        load_state(
            build("lightgbm", {"numbers": 1, "categories": [], "outputs": 1}), {"booster.0": np.zeros(9, np.uint8)}
        )
