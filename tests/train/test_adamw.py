"""Our AdamW is torch's, bit for bit, with less Python round the kernel."""

import pytest
import torch
from torch import nn

from leptonai.train.adamw import AdamW


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3))


def groups(model: nn.Module) -> list[dict]:
    parameters = list(model.parameters())
    return [{"params": parameters[::2], "weight_decay": 0.1}, {"params": parameters[1::2], "weight_decay": 0.0}]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0, skip=()) -> None:
    """Every step has its own rows and learning rate; parameters in `skip` get no gradient in step 3."""
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        loss = nn.functional.cross_entropy(
            model(torch.randn(16, 5, generator=generator)), torch.randint(0, 3, (16,), generator=generator)
        )
        optimizer.zero_grad()
        loss.backward()
        if step == 3:
            for number in skip:
                list(model.parameters())[number].grad = None
        optimizer.step()


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("skip", [(), (0, 3)], ids=["all gradients", "some missing"])
def test_equal_to_torch(skip):
    ours, theirs = network(), network()
    train(ours, AdamW(groups(ours), lr=1e-2), 8, skip=skip)
    train(theirs, torch.optim.AdamW(groups(theirs), lr=1e-2, fused=True), 8, skip=skip)
    assert same(ours, theirs)
    assert not same(ours, network())


def test_state_goes_to_torch_and_back():
    unbroken, broken = network(), network()
    train(unbroken, AdamW(groups(unbroken), lr=1e-2), 9)
    first = AdamW(groups(broken), lr=1e-2)
    train(broken, first, 3)
    second = torch.optim.AdamW(groups(broken), lr=1e-2, fused=True)
    second.load_state_dict(first.state_dict())
    train(broken, second, 3, start=3)
    third = AdamW(groups(broken), lr=1e-2)
    train(broken, third, 0)
    third.load_state_dict(second.state_dict())
    train(broken, third, 3, start=6)
    assert same(unbroken, broken)


def test_a_group_added_late_and_a_hook_are_not_passed_over():
    model = network()
    parameters = list(model.parameters())
    optimizer = AdamW(parameters[:-1], lr=1e-2)
    train(model, optimizer, 3)
    before = parameters[-1].detach().clone()
    optimizer.add_param_group({"params": parameters[-1:]})
    called = []
    optimizer.register_step_post_hook(lambda *arguments: called.append(1))
    train(model, optimizer, 2, start=3)
    assert not torch.equal(before, parameters[-1])
    assert len(called) == 2


def test_a_closure_is_called():
    model = network()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 2)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(4, 5)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0


def test_a_gradient_scaler_skips_an_overflow():
    model = network()
    optimizer, scaler = AdamW(model.parameters(), lr=1e-2), torch.amp.GradScaler("cpu", init_scale=4.0)
    for value in (1.0, 1.0, float("inf"), 1.0):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.zero_grad()
        scaler.scale(model(torch.full((4, 5), 0.5)).mean() * value).backward()
        scaler.step(optimizer)
        scaler.update()
        changed = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert changed == (value == 1.0)
