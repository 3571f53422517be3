"""Optimizers by name and schedules as pure functions of progress."""

import math

import pytest
import torch
from torch import nn

from leptonai.base.errors import InvalidInput
from leptonai.train.ema import Average
from leptonai.train.muon import Muon, orthogonalise
from leptonai.train.optim import make_optimizer, make_schedule


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.hidden = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(self.norm(self.hidden(self.words(x))).relu())


def decays(optimizer):
    return {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_each_optimizer_learns_and_decays_matrices_only(name):
    torch.manual_seed(0)
    model = Net()
    optimizer = make_optimizer(model, name, 0.02, weight_decay=0.1)
    found = decays(optimizer)
    assert len(found) == len(list(model.parameters()))
    assert {key for key, p in model.named_parameters() if found[id(p)] == 0.1} == {"hidden.weight", "out.weight"}
    x, y = torch.arange(10), torch.arange(10) % 3
    losses = []
    for _ in range(100):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_frozen_parameters_are_left_out():
    model = Net()
    model.words.requires_grad_(False)
    assert id(model.words.weight) not in decays(make_optimizer(model))


@pytest.mark.parametrize("shape", [(6, 6), (20, 5), (5, 20)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), rounds=6))
    assert values.min() > 0.5 and values.max() < 1.3


def test_muons_other_group_is_adamw():
    torch.manual_seed(0)
    weight = torch.randn(5)
    ours, theirs = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    muon = Muon([], [{"params": [ours]}], lr=0.1, weight_decay=0.2)
    adamw = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.2)
    for step in range(5):
        ours.grad = theirs.grad = torch.sin(weight * step)
        muon.step()
        adamw.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "at"),
    [
        ("constant", {}, {0: 1, 0.5: 1, 1: 1}),
        ("linear", {}, {0: 1, 0.5: 0.5, 1: 0}),
        ("linear", {"final": 0.2}, {0: 1, 0.5: 0.6, 1: 0.2}),
        ("cosine", {}, {0: 1, 0.5: 0.5, 1: 0}),
        ("cosine", {"warmup": 0.2}, {0: 0, 0.1: 0.5, 0.2: 1, 0.6: 0.5, 1: 0}),
        ("onecycle", {}, {0: 0.04, 0.25: 1, 0.625: 0.5, 1: 0}),
        ("step", {}, {0: 1, 0.49: 1, 0.51: 0.1, 0.8: 0.01}),
        ("step", {"warmup": 0.1}, {0.05: 0.5, 0.49: 1, 0.51: 0.1, 0.76: 0.01}),
    ],
)
def test_schedules(name, options, at):
    schedule = make_schedule(name, **options)
    assert {t: pytest.approx(schedule(t)) for t in at} == at
    assert schedule(-1) == schedule(0) and schedule(2) == schedule(1)
    assert all(0 <= schedule(t / 100) <= 1 for t in range(101))


def test_the_average_follows_the_weights_and_steps_aside():
    model = nn.BatchNorm1d(2)
    average = Average(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
    average.update()  # at the first update the decay is 2/11
    with average.applied():
        assert model.weight[0].item() == pytest.approx(1 + 2 * 9 / 11)
    assert model.weight[0].item() == 3.0 and model.num_batches_tracked.item() == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: make_optimizer(Net(), "adam"), "Did you mean 'adamw'"),
        (lambda: make_optimizer(Net(), "adamw", 0), "a number above 0"),
        (lambda: make_optimizer(Net(), "adamw", math.nan), "a number above 0"),
        (lambda: make_optimizer(Net(), "sgd", 0.1, -1), "of at least 0"),
        (lambda: make_optimizer(nn.ReLU()), "no parameter"),
        (lambda: make_schedule("cosin"), "Did you mean 'cosine'"),
        (lambda: make_schedule("linear", 5), "the share of training"),
    ],
)
def test_mistakes_are_told_with_the_nearest_name(call, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        call()
