"""train/loop.py: schedules, early stopping, the epoch that is kept."""

import itertools

import numpy as np
import pytest
import torch

from data.dataset import load_split, open_dataset
from description import BLOCKS
from errors import ArtefactError, InputError, ToolkitError
from train.average import Average
from train.batches import DeviceBlocks
from train.config import TrainConfig
from train.distributed import World
from train.loop import StageLoop, epoch_seed, predict_logits
from train.model import ModelConfig, PartitionModel
from train.stages import STAGES

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
LEVEL = BLOCKS.levels[0]


def silent(done, total, text):
    pass


@pytest.fixture(scope="module")
def data(tiny_dataset):
    dataset = open_dataset(tiny_dataset)
    return [DeviceBlocks(load_split(dataset, split), CPU) for split in ("train", "val")]


def make_loop(data, stage=2, **config):
    torch.manual_seed(0)
    config = TrainConfig(batch_size=64, **config)
    return StageLoop(PartitionModel(config.model), STAGES[stage - 1], config, *data, ALONE)


@pytest.fixture
def scripted(data, monkeypatch):
    """A loop whose epochs do nothing but add 1 to a weight, and whose validation reads from a list."""

    def make(values, key="val_loss", **config):
        loop = make_loop(data, epochs=len(values), **config)
        script, weight = iter(values), loop.net.model.heads["macro"][-1].bias

        def train_epoch(progress):
            with torch.no_grad():
                weight.fill_(loop.state.epoch + 1.0)
            return {"train_loss": 1.0, "train_loss_variance": 0.0, "train_macro_f1": 0.5}

        def judge(train_metrics):
            entry = train_metrics | {"val_loss": 1.0, "val_macro_f1": 0.5}
            return entry | {key: next(script), "lr": loop.optimizer.param_groups[0]["lr"]}

        monkeypatch.setattr(loop, "_train_epoch", train_epoch)
        monkeypatch.setattr(loop, "_judge", judge)
        for _ in loop.epochs(silent):
            pass
        return loop

    return make


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "kept"),
    [
        ([5, 4, 3, 2, 1], 2, 5, 5),
        ([5, 4, 4.5, 4.2, 1], 2, 4, 2),
        ([5, 4, 4.5, 3, 3.5, 3.2, 1], 2, 6, 4),
        ([5, 5, 5, 5, 5], 3, 4, 1),
        ([1, 2, 3], 15, 3, 1),
        ([1, 2, 3], 1, 2, 1),
    ],
)
def test_early_stopping_by_loss(scripted, values, patience, epochs, kept):
    state = scripted(values, patience=patience).state
    assert (state.epoch, state.best_epoch, state.stopped) == (epochs, kept, epochs - kept >= patience)
    assert [e["epoch"] for e in state.history] == list(range(1, epochs + 1))


def test_selection_by_f1_keeps_the_highest(scripted):
    state = scripted([0.1, 0.4, 0.3, 0.4, 0.2], key="val_macro_f1", select="f1", patience=3).state
    assert (state.epoch, state.best_epoch) == (5, 2)


def test_restore_best_brings_back_the_kept_epochs_weights(scripted):
    loop = scripted([5, 4, 3, 6, 7])
    bias = loop.net.model.heads["macro"][-1].bias
    assert (bias == 5).all()
    loop.restore_best()
    assert (bias == 3).all()


def test_plateau_halves_every_rate_after_more_than_five_epochs_without_gain(scripted):
    loop = scripted([1.0] * 16, schedule="plateau", lr=1e-3, patience=99)
    rates = [e["lr"] for e in loop.state.history]
    assert rates == [1e-3] * 7 + [5e-4] * 6 + [2.5e-4] * 3
    assert {group["lr"] for group in loop.optimizer.param_groups} == {2.5e-4}


def test_plateau_by_f1_takes_a_rise_for_gain(scripted):
    rising = scripted(np.linspace(0.1, 0.9, 12), key="val_macro_f1", select="f1", schedule="plateau", patience=99)
    assert {e["lr"] for e in rising.state.history} == {1e-3}
    falling = scripted(np.linspace(0.9, 0.1, 12), key="val_macro_f1", select="f1", schedule="plateau", patience=99)
    assert falling.state.history[-1]["lr"] == 5e-4


def test_cosine_warms_up_and_ends_at_zero(data):
    loop = make_loop(data, epochs=3, lr=1e-2)
    rates, original = [], loop.scheduler.step

    def step():
        rates.append(loop.optimizer.param_groups[0]["lr"])
        original()

    loop.scheduler.step = step
    for _ in loop.epochs(silent):
        pass
    usable = int(((data[0].label > 0) & (data[0].label < 255)).sum())
    assert len(rates) == 3 * -(-usable // 64)
    assert max(rates) == rates[0] == 1e-2
    assert all(a >= b for a, b in itertools.pairwise(rates))
    assert 0 <= rates[-1] < 2e-3 and loop.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_training_lowers_the_loss_and_reports_each_epoch(data, stage):
    loop, reports = make_loop(data, stage, epochs=4, augmentation="none"), []
    for _ in loop.epochs(lambda *report: reports.append(report)):
        pass
    history = loop.state.history
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert set(history[0]["heads"]) == {1: {"stage1"}, 2: {"macro"}, 3: {"rect", "ab", "four"}}[stage]
    assert {"val_loss", "val_macro_f1", "train_macro_f1", "lr"} <= history[0].keys()
    done, total, text = reports[-1]
    assert done == total and f"stage {stage}, epoch 4" in text
    assert [r[0] for r in reports] == sorted(r[0] for r in reports)


def test_validation_metrics_are_those_of_the_epochs_weights(data):
    from train.measures.metrics import head_metrics

    loop = make_loop(data, 2, epochs=1)
    for state in loop.epochs(silent):
        logits = predict_logits(loop.net.model, data[1])
        expected = head_metrics(logits, data[1].label[:, 0].numpy(), LEVEL)["macro"]
        assert state.history[0]["heads"]["macro"] == expected
        assert state.history[0]["val_loss"] == expected["log_loss"]


def test_predict_logits_is_in_order_and_leaves_eval_mode(data, trained_like):
    model = trained_like().train()
    logits = predict_logits(model, data[1])
    assert not model.training and logits.shape == (len(data[1]), 14) and logits.dtype == np.float32
    with torch.no_grad():
        for i in (0, 100, 255):
            one = data[1].batch(torch.tensor([i]))
            assert np.allclose(model(one.blocks, one.qindex)[0], logits[i], atol=1e-4)


def test_the_average_is_what_is_judged_and_kept(data):
    """Beside a loop that updates its average by hand, in the order of the formula."""
    loop = make_loop(data, 1, epochs=3, average=0.5, lr=1e-2)
    own, steps = {}, itertools.count()

    def stepped(*_):
        n = next(steps)
        decay = min(0.5, (1 + n) / (10 + n))
        for name, value in loop.net.state_dict().items():
            if value.is_floating_point():
                own[name] = value.clone() if n == 0 else decay * own[name] + (1 - decay) * value

    loop.optimizer.register_step_post_hook(stepped)
    for _ in loop.epochs(silent):
        pass
    state = {name.removeprefix("model."): value for name, value in own.items() if name.startswith("model.")}
    judged = loop.judged.state_dict()
    assert all(torch.allclose(judged[name], value, atol=1e-5) for name, value in state.items())
    assert any(name.endswith("running_var") for name in state), "BatchNorm statistics too"
    moved = loop.net.model.state_dict()["trunk.merge1.conv.weight"]
    assert not torch.allclose(judged["trunk.merge1.conv.weight"], moved, atol=1e-5)
    loop.restore_best()
    assert torch.equal(loop.net.model.state_dict()["trunk.stem.conv.weight"], loop.state.best["trunk.stem.conv.weight"])


def test_an_average_forgets_where_it_started():
    """One weight that stays at 1 after a start at 0, over the steps of a short stage."""
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(module.weight)
    average = Average(module, 0.999)
    average.update(module)
    torch.nn.init.ones_(module.weight)
    for _ in range(1500):
        average.update(module)
    assert float(average.module.weight.detach()) > 0.999


def test_a_checkpoint_of_another_device_takes_this_ones_optimiser(data):
    loop = make_loop(data, 1, epochs=2)
    next(loop.epochs(silent))
    saved = loop.checkpoint()
    for group in saved["optimizer"]["param_groups"]:
        assert isinstance(group["lr"], float)
        group |= {"fused": True, "capturable": True}
    other = make_loop(data, 1, epochs=2)
    other.restore(saved)
    assert all(not g["fused"] and not g["capturable"] for g in other.optimizer.param_groups)
    next(other.epochs(silent))


def test_an_average_of_an_older_version_is_refused(data):
    loop = make_loop(data, 1, epochs=2, average=0.5)
    saved = loop.checkpoint()
    saved["average"] = {"n_averaged": torch.tensor(3), "module.weight": torch.zeros(1)}
    with pytest.raises(ArtefactError, match="older version") as error:
        loop.restore(saved)
    assert "train again" in error.value.hint


def test_what_is_frozen_stays_to_the_bit_in_the_average(data):
    loop = make_loop(data, 2, epochs=1, average=0.7)
    before = {k: v.clone() for k, v in loop.net.model.trunk.state_dict().items()}
    for _ in loop.epochs(silent):
        pass
    assert all(torch.equal(before[k], v) for k, v in loop.judged.trunk.state_dict().items())


def test_the_auxiliary_heads_log_loss_is_recorded_beside(data):
    from train.measures.metrics import as_none

    loop = make_loop(data, 1, epochs=1, average=0.5)
    [state] = list(loop.epochs(silent))
    judged = loop._judged_net.eval()
    batch = data[1].batch(torch.arange(len(data[1])))
    with torch.no_grad():
        logits = judged.auxiliary(judged.model.stage1_features(*judged.model.body(batch.blocks, batch.qindex))[0])
    known = torch.from_numpy(as_none(data[1].label[:, 0].numpy()))
    expected = torch.nn.functional.cross_entropy(logits, known.long())
    assert state.history[0]["auxiliary_log_loss"] == pytest.approx(float(expected), abs=1e-5)
    assert "auxiliary_log_loss" not in make_loop(data, 1, stage1_loss="binary")._judge({})


def test_an_epoch_of_stage_1_goes_through_the_data_as_often_as_told(data):
    visited = [torch.cat(make_loop(data, stage, epochs=1, passes=3)._batches(torch.Generator())) for stage in (1, 2)]
    assert torch.equal(torch.bincount(visited[0]), torch.full((len(data[0]),), 3))
    assert torch.bincount(visited[1]).max() == 1


def test_training_metrics_are_those_of_a_slow_count(data):
    from train.measures.counts import HeadCounts
    from train.measures.metrics import as_none, confusion

    loop = make_loop(data, 3, epochs=1)
    label = data[0].label[:200].long()
    logits = {h: torch.randn(200, n) for h, n in (("rect", 2), ("ab", 4), ("four", 2))}
    counts = HeadCounts(loop.net, CPU)
    for part in (slice(0, 50), slice(50, 200)):
        counts.add({h: z[part] for h, z in logits.items()}, label[part])
    for head, matrix in counts.matrices().items():
        target = LEVEL.targets[head][as_none(label[:, 0].numpy())]
        keep = target >= 0
        assert np.array_equal(matrix, confusion(target[keep], logits[head].argmax(1).numpy()[keep], len(matrix)))


def test_bfloat16_changes_the_loss_by_little_and_the_weights_stay_float32(data):
    first = {}
    for autocast in ("none", "bf16"):
        loop = make_loop(data, 1, epochs=1, autocast=autocast)
        loss, logits, _ = loop._step(torch.arange(16), torch.Generator().manual_seed(0))
        first[autocast] = float(loss)
        assert loss.dtype == torch.float32 and all(z.dtype == torch.float32 for z in logits.values())
        assert {p.dtype for p in loop.net.parameters()} == {torch.float32}
    assert first["none"] != first["bf16"] and abs(first["none"] - first["bf16"]) < 0.1


def test_epochs_and_stages_have_seeds_of_their_own():
    seeds = {epoch_seed(s, stage, epoch) for s in range(5) for stage in (1, 2, 3) for epoch in range(50)}
    assert len(seeds) == 5 * 3 * 50
    assert epoch_seed(42, 2, 3) == epoch_seed(42, 2, 3)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("partitioned", [0, 1])
def test_a_stage_without_pairs_to_learn_from_is_bad_input(data, stage, partitioned):
    """Flat content: everything NONE. A BatchNorm needs two pairs at least."""
    train = DeviceBlocks(load_split_with(data[0], partitioned), CPU)
    with pytest.raises(InputError, match=f"stage {stage}"):
        list(
            StageLoop(PartitionModel(ModelConfig()), STAGES[stage - 1], TrainConfig(), train, data[1], ALONE).epochs(
                silent
            )
        )


def load_split_with(device_blocks, partitioned):
    """The same pairs, all NONE but the first few."""
    from data.dataset import BlockSet

    label = np.zeros((len(device_blocks), 1), np.uint8)
    label[:partitioned] = 1
    return BlockSet(
        BLOCKS,
        device_blocks.blocks.numpy(),
        device_blocks.block.numpy(),
        device_blocks.qindex.numpy().astype(np.uint8),
        label,
        np.zeros(len(label), np.int64),
        ("a",),
        8,
    )


def test_a_training_that_diverges_says_so(data):
    loop = make_loop(data, 1, epochs=2)
    with torch.no_grad():
        loop.net.model.heads["stage1"][-1].bias.fill_(float("nan"))
    with pytest.raises(ToolkitError, match=r"stage 1.*nan"):
        list(loop.epochs(silent))
