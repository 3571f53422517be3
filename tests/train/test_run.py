"""A run that is cut anywhere and continued ends with the weights of one that was not. Every kind of part is cut once here."""

import json
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from leptonai.base.errors import Conflict, InvalidInput, NotFound
from leptonai.base.home import Home
from leptonai.train.loader import Loader
from leptonai.train.optim import make_optimizer, make_schedule
from leptonai.train.record import read_run
from leptonai.train.run import Run
from leptonai.train.trackers import read_metrics

ROWS, INPUTS, CLASSES, BATCH = 70, 6, 3, 8  # 9 batches in an epoch, the last of 6 rows
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, INPUTS)).astype(np.float32)
Y = (X @ RNG.normal(size=(INPUTS, CLASSES))).argmax(1)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES))


def batches() -> Loader:
    return Loader({"x": X, "y": Y}, batch_size=BATCH)


def train(
    home, *, stop_after=None, until="3 epochs", make=None, loader=batches, optimizer="adamw", schedule=True, **options
):
    """Train; with `stop_after`, leave the loop after that many steps as a crash would. Returns the run and the model."""
    run = Run("exp", home=home, track=("jsonl",), checkpoint_every=4, **options)
    model = (make or network)()
    parts = [model, make_optimizer(model, optimizer, 0.01)]
    model, optimizer, source = run.prepare(*parts, loader())
    if schedule:
        run.prepare(make_schedule("cosine", warmup=0.1))
    for step, batch in run.steps(source, until=until):
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        loss = nn.functional.cross_entropy(model(x), y)
        run.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        run.log(loss=loss)
        if step == stop_after:
            break
    return run, model


def weights(run, model):
    with run.averaged():
        return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_when_cut(tmp_path, cuts=(3, 6, 14, 22), **options):
    whole = weights(*train(Home(tmp_path / "whole"), **options))
    home = Home(tmp_path / "cut")
    for cut in cuts:
        train(home, stop_after=cut, **options)
    run, model = train(home, **options)
    assert run.id == "exp"
    again = weights(run, model)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    # The metrics have each step once, with the values of the unbroken run.
    lines = [
        [(line["step"], line["loss"]) for line in read_metrics(Home(tmp_path / f).runs / "exp")]
        for f in ("whole", "cut")
    ]
    assert lines[0] == lines[1]
    assert run.step == lines[0][-1][0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 2},
        {"accumulate": 4, "clip": 0.5},
        {"ema": 0.9},
        {"precision": "bf16"},
        {"precision": "fp16", "accumulate": 2, "clip": 1.0, "ema": 0.9},
        {"optimizer": "sgd"},
        {"optimizer": "muon"},
    ],
    ids=str,
)
def test_a_cut_run_ends_with_the_same_weights(tmp_path, options):
    assert_same_when_cut(tmp_path, **options)


class Rows(Dataset):
    """Rows with noise from the global generators, as an augmenting dataset of a user's."""

    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return torch.from_numpy(X[row]) + 0.1 * torch.randn(INPUTS) + np.float32(np.random.rand()), Y[row]


class Shuffling:
    """A sized iterable that shuffles itself, as many hand-written loaders do."""

    def __len__(self):
        return 9

    def __iter__(self):
        for rows in np.array_split(np.random.permutation(ROWS), 9):
            yield torch.from_numpy(X[rows]), torch.from_numpy(Y[rows])


def augment(batch, generator):
    return {**batch, "x": batch["x"] + 0.1 * torch.randn(batch["x"].shape, generator=generator)}


TENSORS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
WEIGHTS = np.linspace(0.1, 1, ROWS).tolist()
LOADERS = {
    "augmented": lambda: Loader({"x": X, "y": Y}, batch_size=BATCH, transform=augment),
    "some rows": lambda: Loader({"x": X, "y": Y}, np.arange(5, 70), BATCH, drop_last=True),
    "DataLoader of tensors": lambda: DataLoader(TENSORS, BATCH, shuffle=True),
    "DataLoader in order": lambda: DataLoader(TENSORS, BATCH),
    "DataLoader of a dataset": lambda: DataLoader(Rows(), BATCH, shuffle=True, drop_last=True),
    "weighted sampler": lambda: DataLoader(Rows(), BATCH, sampler=WeightedRandomSampler(WEIGHTS, ROWS)),
    "sampler with a generator": lambda: DataLoader(
        TENSORS, BATCH, sampler=WeightedRandomSampler(WEIGHTS, 60, generator=torch.Generator())
    ),
    "list of batches": lambda: [
        (torch.from_numpy(X[i : i + 7]), torch.from_numpy(Y[i : i + 7])) for i in range(0, ROWS, 7)
    ],
    "iterable": Shuffling,
}


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_is_found_again_in_its_place(tmp_path, name):
    assert_same_when_cut(tmp_path, loader=LOADERS[name])


@pytest.mark.slow
def test_workers_of_a_dataloader_do_not_change_what_is_read_after_a_cut(tmp_path):
    loader = lambda: DataLoader(Rows(), BATCH, shuffle=True, num_workers=2)  # noqa: E731
    assert_same_when_cut(tmp_path, cuts=(7, 14), loader=loader)


def test_channels_last_and_tied_weights_come_back_as_they_were(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(2, 4, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, padding=1)
            self.tied = nn.Conv2d(4, 4, 3, padding=1)
            self.tied.weight = self.second.weight
            self.out = nn.Linear(4, CLASSES)

        def forward(self, x):
            x = x[:, :, None, None].expand(-1, -1, 3, 2).reshape(len(x), 2, 3, 6).to(memory_format=torch.channels_last)
            for layer in (self.first, self.second, self.tied):
                x = layer(x).relu()
            return self.out(x.mean((2, 3)))

    assert_same_when_cut(tmp_path, make=lambda: Net().to(memory_format=torch.channels_last), cuts=(6, 14))


def test_two_models_two_optimizers_and_a_scheduler_of_torch(tmp_path):
    def train_both(home, stop_after=None):
        run = Run("gan", home=home, track=(), checkpoint_every=5, accumulate=2, ema=0.9)
        first, second = nn.Linear(INPUTS, 4), nn.Linear(4, CLASSES)
        one = torch.optim.SGD(first.parameters(), 0.1, momentum=0.9)
        two = torch.optim.AdamW(second.parameters(), 0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(one, 3, gamma=0.5)
        first, second, one, two, scheduler, loader = run.prepare(first, second, one, two, scheduler, batches())
        for step, batch in run.steps(loader, until="20 steps"):
            one.zero_grad(), two.zero_grad()
            run.backward(nn.functional.cross_entropy(second(first(batch["x"])), batch["y"]))
            one.step(), two.step(), scheduler.step()
            if step == stop_after:
                break
        return [*first.parameters(), *second.parameters()], one.param_groups[0]["lr"]

    whole, rate = train_both(Home(tmp_path / "whole"))
    train_both(Home(tmp_path / "cut"), stop_after=13)
    again, rate_again = train_both(Home(tmp_path / "cut"))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert (
        rate == rate_again == 0.1 * 0.5**3
    )  # ten batches' worth of optimizer steps and the short groups at the epochs' ends


def test_accumulation_equals_the_large_batch(home, tmp_path):
    def plain(batch_size, accumulate, where):
        run = Run("exp", home=Home(tmp_path / where), track=(), accumulate=accumulate)
        model = nn.Linear(INPUTS, CLASSES)
        model, optimizer, loader = run.prepare(
            model, torch.optim.SGD(model.parameters(), 0.1), Loader({"x": X[:64], "y": Y[:64]}, batch_size=batch_size)
        )
        for _, batch in run.steps(loader, until="2 epochs"):
            run.backward(nn.functional.cross_entropy(model(batch["x"]), batch["y"]))
            optimizer.step()
            optimizer.zero_grad()
        return model.weight

    assert torch.allclose(plain(8, 4, "a"), plain(32, 1, "b"), atol=1e-6)


def test_the_last_group_of_an_epoch_is_averaged_over_its_own_size(home):
    run = Run("exp", home=home, track=(), accumulate=4)
    model = nn.Linear(1, 1, bias=False)
    model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters(), 0.0), [torch.ones(1, 1)] * 6)
    gradients = []
    for _, batch in run.steps(loader, until="1 epoch"):
        run.backward(model(batch).sum())
        gradients.append(model.weight.grad.item())
        optimizer.step()
        optimizer.zero_grad()
    assert gradients == [0.25, 0.5, 0.75, 1.0, 0.5, 1.0]


def test_clip_bounds_what_the_optimizer_sees(home):
    run = Run("exp", home=home, track=(), clip=0.5)
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters(), 1.0), [torch.full((1, 1), 100.0)])
    for _, batch in run.steps(loader):
        run.backward(model(batch).sum())
        optimizer.step()
    assert before - model.weight.item() == pytest.approx(0.5, abs=1e-5)


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale(home):
    run = Run("exp", home=home, track=(), precision="fp16")
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters(), 1.0), [torch.ones(1, 1)])
    for _, batch in run.steps(loader):
        run.backward(model(batch).sum() * float("inf"))
        optimizer.step()
    assert model.weight.item() == before
    assert run._parts.saved()["scaler"]["scale"] == 2.0**15


def test_autocast_is_on_during_the_run_and_gone_after_it(home):
    run = Run("exp", home=home, track=(), precision="bf16")
    seen = []

    class Net(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    model, loader = run.prepare(Net(1, 1), [torch.ones(1, 1)])
    for _, batch in run.steps(loader):
        assert model(batch).dtype is torch.float32
    run.finish()
    model(batch)
    assert seen == [torch.bfloat16, torch.float32]


def test_early_stopping_counts_on_across_a_cut(tmp_path):
    losses = [3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 1.1, 0.5, 0.4]  # best at epoch 3, then three that are worse

    def train_until_stopped(home, stop_after=None):
        run = Run("exp", home=home, track=("jsonl",), checkpoint_every=2)
        stop = run.stop_if("validation.loss", patience=3, mode="min")
        run.state.setdefault("improved_at", [])
        for step, _ in run.steps([torch.zeros(1)] * 2, until="9 epochs"):
            if run.epoch_ends:
                run.log({"validation.loss": losses[run.epoch]})
                if stop.improved:
                    run.state["improved_at"].append(run.epoch)
            if step == stop_after:
                break
        return run

    whole = train_until_stopped(Home(tmp_path / "a"))
    for cut in (3, 9, 11):
        train_until_stopped(Home(tmp_path / "b"), cut)
    run = train_until_stopped(Home(tmp_path / "b"))
    assert run.step == whole.step == 14 and run.state == whole.state == {"improved_at": [0, 1, 3]}
    assert "validation.loss has not improved for 3" in run.stop_reason and "1 at step 8" in run.stop_reason
    assert list(train_until_stopped(Home(tmp_path / "b")).state["improved_at"]) == [0, 1, 3]


def test_state_of_the_caller_is_kept_with_its_tensors(home):
    run = Run("exp", home=home, track=(), checkpoint_every=1)
    for step, _ in run.steps([0] * 5):
        run.state = {"best": torch.full((2,), float(step)), "history": [step, (1, "a")], 3: None}
        if step == 3:
            break
    restored = Run("exp", home=home, track=(), checkpoint_every=1).state
    assert torch.equal(restored.pop("best"), torch.full((2,), 2.0))
    assert restored == {"history": [2, (1, "a")], 3: None}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_how_to_go_on_and_exits(home, capsys, tmp_path, number, status):
    def with_signal(at):
        run = Run("exp", home=home, track=("jsonl",), accumulate=2)
        model = network()
        model, optimizer, loader = run.prepare(model, make_optimizer(model), batches())
        for step, batch in run.steps(loader, until="2 epochs"):
            run.backward(nn.functional.cross_entropy(model(batch["x"]), batch["y"]))
            optimizer.step()
            optimizer.zero_grad()
            if step == at:
                signal.raise_signal(number)
        return run

    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        with_signal(at=11)
    assert stop.value.code == status
    # Step 11 is the second batch of epoch 1, so its optimizer step is complete.
    assert f"stopped by {number.name} at step 11, saved. Run the same command again" in capsys.readouterr().err
    assert read_run(home.runs / "exp")["status"] == "stopped"
    assert signal.getsignal(number) is handler
    run = with_signal(at=None)
    assert (run.id, run.step) == ("exp", 18)
    assert "continuing after step 11" in capsys.readouterr().err


def test_a_time_budget_is_kept_over_all_processes(home):
    loader = [torch.zeros(1)] * 10
    first = Run("exp", home=home, track=(), time_budget=1.0, checkpoint_every="0.1 seconds")
    next(step for step, _ in first.steps(loader, until="1000000 steps") if first.elapsed_s > 0.5)
    run = Run("exp", home=home, track=(), time_budget=1.0)
    began = run.elapsed_s
    steps = [step for step, _ in run.steps(loader, until="1000000 steps")]
    assert 0.1 < began < 1.0 and steps and run.progress > 0.8
    assert run.elapsed_s < 1.5  # a budget that began again would end at twice the time
    record = read_run(run.folder)
    assert record["trained"] is True and record["stop_reason"] == run.stop_reason == "the time of 1 seconds is used"


def test_a_loop_leaves_the_time_that_is_reserved(home):
    run = Run("exp", home=home, track=(), time_budget=60)
    run.reserve_s = 59.9
    assert len(list(run.steps([0], until="100000000 steps"))) < 1000000
    assert run.elapsed_s < 10


def test_until_is_counted_in_all_so_epochs_may_be_asked_for_one_by_one(home):
    run = Run("exp", home=home, track=())
    loader = run.prepare(batches())
    counts = [[step for step, _ in run.steps(loader, until=f"{epoch} epochs")] for epoch in (1, 2, 2)]
    assert counts == [list(range(1, 10)), list(range(10, 19)), []]


def test_what_was_logged_is_averaged_between_lines(home):
    run = Run("exp", home=home, track=("jsonl",))
    for step, _ in run.steps([0] * 120, until="120 steps"):
        run.log(loss=torch.tensor(float(step), requires_grad=True), constant=2)
        if step == 60:
            run.log({"validation.accuracy": 0.5})
    lines = read_metrics(run.folder)
    assert [(line["step"], line.get("loss")) for line in lines] == [(50, 25.5), (60, None), (100, 75.5), (120, 110.5)]
    assert lines[1]["validation.accuracy"] == 0.5 and "loss" not in lines[1]
    assert run.metrics == {"loss": 110.5, "constant": 2.0, "validation.accuracy": 0.5}


def test_metrics_of_a_loop_that_is_not_ours(home):
    run = Run("keras", home=home, track=("jsonl",))
    run.log_at(1, {"accuracy": 0.8})
    run.log_at(2, {"accuracy": 0.9})
    run.finish()
    assert [(line["step"], line["accuracy"]) for line in read_metrics(run.folder)] == [(1, 0.8), (2, 0.9)]
    assert read_run(run.folder)["status"] == "finished" and read_run(run.folder)["metrics"] == {"accuracy": 0.9}


def test_a_finished_run_is_left_alone_and_the_next_gets_a_number(home):
    train(home, until="2 steps")[0].finish()
    again = Run("exp", home=home, track=())
    assert again.id == "exp-2" and read_run(home.runs / "exp")["status"] == "finished"
    with pytest.raises(NotFound):
        read_run(home.runs / "nothing")


def test_a_run_is_named_and_described(home):
    run, _ = train(home, until="2 steps")
    record = json.loads((run.folder / "run.json").read_text())
    assert record["settings"] == {"seed": 0, "precision": "fp32", "accumulate": 1, "clip": None, "ema": None}
    assert record["step"] == 2 and record["checkpoint"] == "step-000000002" and record["trained"] is True
    assert set(record["lineage"]["code"]) <= {"script", "sha256", "commit", "changed"}


def test_other_settings_do_not_continue_a_run(home):
    train(home, stop_after=5)
    with pytest.raises(Conflict, match="resume=False"):
        Run("exp", home=home, seed=1)
    assert Run("exp", home=home, seed=1, resume=False).id == "exp-2"


def test_another_model_does_not_continue_a_run(home):
    train(home, stop_after=5)
    with pytest.raises(Conflict, match="not the one that the checkpoint was made with"):
        train(home, make=lambda: nn.Linear(INPUTS, CLASSES))


def test_another_learning_rate_does_not_continue_a_run(home):
    train(home, stop_after=5)
    run, model = Run("exp", home=home, track=()), network()
    with pytest.raises(Conflict, match="begun with another learning rate"):
        run.prepare(model, make_optimizer(model, learning_rate=0.5))


def test_other_data_do_not_continue_a_run(home):
    train(home, stop_after=5)
    with pytest.raises(Conflict, match="'batch_size': 8"):
        train(home, loader=lambda: Loader({"x": X, "y": Y}, batch_size=16))


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(1)


class OwnSampler(torch.utils.data.Sampler):
    def __iter__(self):
        return iter(range(ROWS))

    def __len__(self):
        return ROWS


def test_another_version_of_the_data_does_not_continue_a_run(home):
    for data_hash in ("abc", "abd"):
        run = Run("exp", home=home, track=(), checkpoint_every=1)
        run.record.data["lineage"]["data_hash"] = data_hash
        steps = run.steps([0] * 5)
        if data_hash == "abc":
            next(steps), next(steps)
            del steps
        else:
            with pytest.raises(Conflict, match="'data_hash': 'abc'"):
                next(steps)


@pytest.mark.parametrize(
    ("loader", "sentence"),
    [
        (lambda: iter([1, 2]), "not an iterator over it"),
        (lambda: map(str, [1]), "cannot be read again"),
        (lambda: DataLoader(Endless(), 4), "map-style dataset"),
        (lambda: DataLoader(TENSORS, batch_size=None), "batch_size"),
        (lambda: DataLoader(TENSORS, 4, sampler=OwnSampler()), "set_epoch"),
        (lambda: [], "has no batch"),
        (lambda: 5, "expected a leptonai Loader"),
    ],
)
def test_a_loader_that_cannot_be_resumed_is_refused_with_what_to_do(home, loader, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        Run("exp", home=home, track=()).prepare(loader())


def test_a_loader_shorter_than_it_says_is_an_error(home):
    class Short(Shuffling):
        def __len__(self):
            return 20

    with pytest.raises(InvalidInput, match="9 batches, expected 20"):
        list(Run("exp", home=home, track=()).steps(Short(), until="1 epoch"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "fp61"}, "Did you mean 'fp16'"),
        ({"accumulate": 0}, "at least 1"),
        ({"clip": -1.0}, "above 0"),
        ({"ema": 1.5}, "between 0 and 1"),
        ({"keep": 0}, "at least 1"),
        ({"checkpoint_every": "soon"}, "'60 seconds'"),
        ({"time_budget": "5 epochs"}, "not a time"),
        ({"track": ("tensorbord",)}, "Did you mean 'tensorboard'"),
    ],
)
def test_bad_options_are_told_in_a_sentence(home, options, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        Run("exp", home=home, **options)
    assert not home.runs.exists()


def test_a_value_that_is_no_number_cannot_be_logged(home):
    run = Run("exp", home=home, track=())
    with pytest.raises(InvalidInput, match="'loss' cannot be logged"):
        run.log(loss=torch.zeros(2))
        run.metrics


def test_the_first_run_of_a_script_joins_the_folder_of_lep_run(home, monkeypatch):
    (home.runs / "script-7").mkdir(parents=True)
    (home.runs / "script-7" / "run.json").write_text(
        json.dumps({"id": "script-7", "name": "script", "status": "running"})
    )
    monkeypatch.setenv("LEPTON_RUN", "script-7")
    assert Run("exp", home=home, track=()).id == "script-7"
    assert Run("exp", home=home, track=()).id == "exp"


def test_publish_keeps_the_averaged_weights_and_where_they_come_from(home):
    from leptonai.zoo.files import read_model

    run, model = train(home, ema=0.9)
    averaged = weights(run, model)
    entry = run.publish(model, "digits-mlp", tags=["first"], metrics={"accuracy": 0.9})
    files = read_model(entry.folder)
    assert entry.ref == "digits-mlp@1" and entry.tags == ("first",)
    assert files.manifest.network["kind"] == "external" and files.manifest.lineage["run"] == "exp"
    assert files.manifest.metrics == {"accuracy": 0.9}
    assert all(np.array_equal(files.tensors[name], value.numpy()) for name, value in averaged.items())
    assert read_run(run.folder)["status"] == "finished" and read_run(run.folder)["model"] == "digits-mlp@1"
