"""Widening and deepening keep the function; pruning takes out what it says; the optimizer goes along."""

import pytest
import torch
from torch.nn import functional as F

from leptonai.nets.registry import build
from leptonai.nets.resize import deepen, resize
from leptonai.train.optim import make_optimizer


def cnn(**options):
    torch.manual_seed(0)
    return build(
        "cnn",
        {"height": 28, "width": 28, "channels": 1, "outputs": 10, "widths": [8, 12, 16], "dropout": 0.0, **options},
    )


def images(rows=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 255, (rows, 28, 28, 1), dtype=torch.uint8, generator=generator), torch.arange(rows) % 10


def train(network, optimizer, steps):
    image, label = images()
    network.train()
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(network(image), label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def same(network, change, *inputs):
    network.eval()
    with torch.no_grad():
        before = network(*inputs)
        change()
        network.eval()
        return torch.allclose(network(*inputs), before, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_cnn_grows_in_the_middle_of_its_training(optimizer):
    network = cnn()
    optimizer = make_optimizer(network, optimizer, 1e-3)
    train(network, optimizer, 5)
    picks = {
        "widths.0": torch.arange(8).repeat(2),
        "widths.1": torch.cat([torch.arange(12), torch.tensor([3, 3, 7])]),
        "dense": torch.arange(128).repeat(2)[:150],
    }
    assert same(network, lambda: resize(network, picks, optimizer), images()[0])
    assert network.config["widths"] == [16, 15, 16]
    for _ in range(2):
        assert same(network, lambda: deepen(network, network.deepened()[1], optimizer), images()[0])
    assert network.config["residual"] == [0, 2, 0]
    assert same(network, lambda: resize(network, {"widths.1": torch.arange(15).repeat(2)}, optimizer), images()[0])
    losses = train(network, optimizer, 12)
    assert losses[-1] < losses[0]
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in network.parameters()}
    assert all(state["exp_avg"].shape == p.shape for p, state in optimizer.state.items() if "exp_avg" in state)


def test_a_copy_does_not_stay_a_copy():
    network = cnn()
    optimizer = make_optimizer(network)
    resize(network, {"widths.1": torch.arange(12).repeat(2)}, optimizer)
    train(network, optimizer, 8)
    weight = network.get_submodule(network.groups()[1].out[0]).weight
    assert not torch.allclose(weight[:12], weight[12:], atol=1e-4)


def test_new_channels_begin_unheard_and_then_learn():
    network = cnn(residual=[0, 1, 0])
    optimizer = make_optimizer(network, learning_rate=1e-2)
    train(network, optimizer, 5)
    units = {"widths.1": 12, "widths.2": 16, "dense": 128}
    picks = {name: torch.cat([torch.arange(n), torch.full((n,), -1)]) for name, n in units.items()}
    assert same(network, lambda: resize(network, picks, optimizer), images()[0])
    train(network, optimizer, 3)
    assert network.blocks[8].weight[:16, 12:].abs().max() > 0


def test_pruned_channels_are_gone_and_the_others_are_what_they_were():
    network = cnn()
    before = network.blocks[0].weight.detach().clone()
    resize(network, {"widths.0": torch.tensor([1, 4, 6])})
    assert torch.equal(network.blocks[0].weight, before[[1, 4, 6]])
    assert network.config["widths"] == [3, 12, 16]
    assert network(images()[0]).shape == (16, 10)


def test_a_channel_that_nothing_listens_to_can_go():
    network = cnn()
    with torch.no_grad():
        network.get_submodule(network.groups()[0].into[0][0]).weight[:, 5] = 0
    assert same(network, lambda: resize(network, {"widths.0": torch.tensor([0, 1, 2, 3, 4, 6, 7])}), images()[0])


def test_a_multi_layer_perceptron_doubles():
    torch.manual_seed(0)
    network = build(
        "mlp", {"numbers": 4, "missing": [], "categories": [3], "outputs": 2, "hidden": [16, 8], "dropout": 0.0}
    )
    inputs = torch.randn(5, 4), torch.randint(0, 3, (5, 1))
    picks = {"hidden.0": torch.arange(16).repeat(2), "hidden.1": torch.arange(8).repeat(2)}
    assert same(network, lambda: resize(network, picks), *inputs)
    assert network.config["hidden"] == [32, 16]


def test_a_transformer_grows_both_ways():
    torch.manual_seed(0)
    network = build("transformer", {"vocabulary": 50, "length": 20, "classes": 3, "width": 32, "dropout": 0.0})
    tokens = torch.randint(1, 50, (4, 20))
    tokens[0, 5:] = 0
    pick = torch.arange(128).repeat(2)
    assert same(network, lambda: resize(network, {"feed.0": pick, "feed.1": pick}), tokens)
    assert same(network, lambda: deepen(network, network.deepened()[0]), tokens)
    assert network.config["feed"] == 256
    assert network.config["layers"] == 3
