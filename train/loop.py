"""The training loop of one stage: epochs, schedule, early stopping, and a state that resumes to the bit on the CPU.

Every epoch seeds its own order, flips and dropout from (seed, stage, epoch); so what an epoch does depends only on the
state at its start, and the state saved at its end is all that resuming needs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from errors import ArtefactError, UsageError
from progress import Progress
from train.average import Average
from train.batches import Batch, DeviceBlocks, augment, epoch_indices
from train.config import TrainConfig
from train.distributed import World
from train.graphed import GraphedStep, Learn
from train.measures.counts import HeadCounts
from train.measures.judgement import all_heads
from train.measures.metrics import macro_f1
from train.model import PartitionModel
from train.stage_net import StageNet, auxiliary_log_loss
from train.stages import Stage, selection, stage_targets
from train.supports import check_pairs

EVALUATION_BATCH = {"cpu": 2048, "cuda": 16384}
PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 5


@dataclass
class StageState:
    """Where a stage stands.

    Attributes:
        epoch: epochs finished.
        history: metrics of each.
        best: the state dict of the best one, and its place in history.
        stopped: early stopping ended it.
    """

    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    stopped: bool = False


def epoch_seed(seed: int, stage: int, epoch: int) -> int:
    """A seed of its own for each epoch of each stage."""
    return int(np.random.SeedSequence([seed, stage, epoch]).generate_state(1)[0])


@torch.no_grad()
def predict_logits(model: PartitionModel, data: DeviceBlocks) -> NDArray[np.float32]:
    """Logits of every pair in order, float32 [M, task.logits]; the model is left in eval mode."""
    model.eval()
    parts = [
        model(batch.blocks, batch.qindex, data.bit_depth).float().cpu()
        for batch in data.in_order(EVALUATION_BATCH[data.device.type])
    ]
    return torch.cat(parts).numpy()


class StageLoop:
    """Trains one stage.

        loop = StageLoop(model, stage, config, train, judge, world)
        for state in loop.epochs(): save(loop.checkpoint())
        loop.restore_best()

    `judge` are the pairs by which the epoch to keep is chosen; what teachers say of `train` counts beside its labels.

    Attributes:
        state: where it stands.
    """

    def __init__(
        self,
        model: PartitionModel,
        stage: Stage,
        config: TrainConfig,
        train: DeviceBlocks,
        judge: DeviceBlocks,
        world: World,
    ) -> None:
        self.config, self.stage, self.world = config, stage, world
        self.train_data, self.judge_data = train, judge
        label = train.label.cpu().numpy()
        check_pairs(stage, model.config.task, label, "train", 2 * world.size)
        self._targets = stage_targets(stage, label, model.config.task)
        torch.manual_seed(epoch_seed(config.seed, stage.number, 0))
        # cuDNN's convolutions are three times as fast in this order (docs/LOG.md).
        order = torch.channels_last if world.device.type == "cuda" else torch.contiguous_format
        self.net = StageNet(model, stage, config, label).to(world.device).to(memory_format=order)  # type: ignore[call-overload]
        self._parallel = world.wrap(self.net)
        self._average = Average(self.net, config.average) if config.average else None
        cuda = world.device.type == "cuda"
        # Mixed batches carry their proportion as a number, and DistributedDataParallel hooks into every backward pass.
        graphed = cuda and world.size == 1 and config.augmentation not in ("mixup", "cutmix")
        self._kind = {"fused": cuda, "capturable": graphed}
        self.optimizer = torch.optim.AdamW(
            self.net.parameter_groups(config), weight_decay=config.weight_decay, fused=cuda, capturable=graphed
        )
        self._learn: Learn = self._learn_eagerly
        if graphed:
            self._learn = GraphedStep(self._learn_eagerly, config.batch_size, self.optimizer)
        self.scheduler = self._make_scheduler()
        self.state = StageState()

    def _make_scheduler(self) -> torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau:
        if self.config.schedule == "plateau":
            mode: Literal["min", "max"] = "min" if self.config.select == "loss" else "max"
            return torch.optim.lr_scheduler.ReduceLROnPlateau(
                self.optimizer, mode, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE
            )
        steps = self.config.epochs * len(self._batches(torch.Generator()))
        warm = max(1, min(steps // 20, 1000))

        def rate(step: int) -> float:
            done = (step - warm) / max(1, steps - warm)
            return (step + 1) / warm if step < warm else 0.5 * (1.0 + float(np.cos(np.pi * min(done, 1.0))))

        return torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)

    def _batches(self, generator: torch.Generator) -> list[Tensor]:
        sampler = "natural" if self.stage.passes else self.config.sampler
        passes = range(self.config.passes if self.stage.passes else 1)
        size = self.config.batch_size
        batches = [b for _ in passes for b in epoch_indices(self._targets, sampler, size, generator)]
        # Every process needs two pairs for its BatchNorm.
        return [b for b in batches if len(b) >= 2 * self.world.size] if self.world.size > 1 else batches

    def epochs(self, progress: Progress) -> Iterator[StageState]:
        """Train epoch after epoch, yielding the state after each, until the last or until patience is spent.

        Raises:
            UsageError: if a loss is no longer finite.
        """
        while self.state.epoch < self.config.epochs and not self.state.stopped:
            train_metrics = self._train_epoch(progress)
            entry = self.world.broadcast(self._judge(train_metrics) if self.world.leads else None)
            self._record(entry)
            yield self.state

    def _train_epoch(self, progress: Progress) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(epoch_seed(self.config.seed, self.stage.number, self.state.epoch + 1))
        torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=generator)) + self.world.rank)
        self._parallel.train()
        batches = [self.world.share(b) for b in self._batches(generator)]
        # On the device at once and not batch by batch, and counted there: a step never waits for the CPU.
        shares = torch.cat(batches).to(self.world.device).split([len(b) for b in batches])
        counts = HeadCounts(self.net, self.world.device)
        losses = []
        for i, share in enumerate(shares):
            loss, logits, batch = self._step(share, generator)
            losses.append(loss.clone())
            counts.add(logits, batch.label)
            if i % 20 == 19 or i + 1 == len(shares):
                done = self.state.epoch * len(shares) + i + 1
                text = f"stage {self.stage.number}, epoch {self.state.epoch + 1}, loss {float(loss):.4f}"
                progress(done, self.config.epochs * len(shares), text)
        values = torch.stack(losses).double().cpu()
        return {
            "train_loss": float(values.mean()),
            "train_loss_variance": float(values.var(correction=0)),
            "train_macro_f1": float(np.mean([macro_f1(m) for m in counts.matrices().values()])),
        }

    def _step(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor], Batch]:
        batch = self.train_data.batch(indices)
        batch = augment(batch, self.train_data.task, self.config.augmentation, generator)
        loss, logits = self._learn(batch)
        if self._average is not None:
            self._average.update(self.net)
        if self.config.schedule == "cosine":
            self.scheduler.step()
        return loss, logits, batch

    def _learn_eagerly(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.autocast == "bf16"):
            loss, logits = self._parallel(batch, self.train_data.bit_depth)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), logits

    @property
    def judged(self) -> PartitionModel:
        """The model that is judged and kept: the averaged one, if there is one."""
        return self._judged_net.model

    @property
    def _judged_net(self) -> StageNet:
        net = self.net if self._average is None else self._average.module
        assert isinstance(net, StageNet)
        return net

    def _judge(self, train_metrics: dict[str, Any]) -> dict[str, Any]:
        task = self.judge_data.task
        heads = all_heads(predict_logits(self.judged, self.judge_data), self.judge_data.label.cpu().numpy(), task)
        entry = train_metrics | selection(self.stage, task, heads)
        entry |= {
            "heads": {key: heads[key] for key in self.stage.keys(task)},
            "lr": float(self.optimizer.param_groups[0]["lr"]),
        }
        entry |= auxiliary_log_loss(self._judged_net, self.judge_data, EVALUATION_BATCH[self.world.device.type])
        return entry

    def _record(self, entry: dict[str, Any]) -> None:
        state, key, sign = self.state, *(("val_loss", -1) if self.config.select == "loss" else ("val_macro_f1", 1))
        if not np.isfinite([entry["train_loss"], entry["val_loss"]]).all():
            raise UsageError(
                f"stage {self.stage.number} diverged in epoch {state.epoch + 1}:"
                f" train loss {entry['train_loss']}, validation loss {entry['val_loss']}",
                "lower the learning rate, or take another loss",
            )
        best = max((sign * e[key] for e in state.history), default=-np.inf)
        state.epoch += 1
        state.history.append({"epoch": state.epoch} | entry)
        if sign * entry[key] > best:
            state.best_epoch = state.epoch
            state.best = {k: v.detach().cpu().clone() for k, v in self.judged.state_dict().items()}
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(entry[key])
        state.stopped = state.epoch - state.best_epoch >= self.config.patience

    def restore_best(self) -> None:
        """Put the best epoch's weights back into the model."""
        self.net.model.load_state_dict(self.state.best, strict=True)

    def checkpoint(self) -> dict[str, Any]:
        """All that `restore` needs, as tensors and plain values."""
        optimizer = self.optimizer.state_dict()
        for group in optimizer["param_groups"]:
            group["lr"] = float(group["lr"])
        return copy.deepcopy(
            {
                "net": {k: v.cpu() for k, v in self.net.state_dict().items()},
                "optimizer": optimizer,
                "scheduler": self.scheduler.state_dict(),
                "state": vars(self.state),
                "average": None if self._average is None else self._average.state_dict(),
            }
        )

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same run, made on this kind of device or another.

        Raises:
            ArtefactError: if it is of an older version, or no checkpoint of this stage.
        """
        try:
            for group in saved["optimizer"]["param_groups"]:
                group |= self._kind
            self._check(saved)
            self.net.load_state_dict(saved["net"], strict=True)
            self.optimizer.load_state_dict(saved["optimizer"])
            self.scheduler.load_state_dict(saved["scheduler"])
            self.state = StageState(**saved["state"])
            if self._average is not None:
                self._average.load_state_dict(saved["average"])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ArtefactError(
                f"stage {self.stage.number} cannot go on from what was saved: {reason}", "train again, without --resume"
            ) from None

    def _check(self, saved: dict[str, Any]) -> None:
        """Refuse what would only fail later.

        Raises:
            KeyError, TypeError, ValueError: naming what is odd.
        """
        if saved.keys() != {"net", "optimizer", "scheduler", "state", "average"}:
            raise ValueError("its parts are others")
        own = self.optimizer.state_dict()
        groups = saved["optimizer"]["param_groups"]
        if [(g.keys(), g["params"]) for g in groups] != [(g.keys(), g["params"]) for g in own["param_groups"]]:
            raise ValueError("its optimiser is of other weights")
        for place, moments in saved["optimizer"]["state"].items():
            if moments.keys() != {"step", "exp_avg", "exp_avg_sq"}:
                raise ValueError("its optimiser is another one")
            shape = self._parameters()[place].shape
            if moments["exp_avg"].shape != shape or moments["exp_avg_sq"].shape != shape:
                raise ValueError("its optimiser is of weights of other shapes")
        schedule = self.scheduler.state_dict()
        if {k: type(v) for k, v in saved["scheduler"].items()} != {k: type(v) for k, v in schedule.items()}:
            raise ValueError("its schedule is another one")
        check_state(saved["state"], self.net.model)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def check_state(values: dict[str, Any], model: PartitionModel) -> None:
    """Whether plain values are a StageState of that model.

    Raises:
        KeyError, TypeError, ValueError: naming what is odd.
    """
    state = StageState(**values)
    kinds = (state.epoch, int), (state.best_epoch, int), (state.stopped, bool), (state.history, list)
    if not all(type(value) is kind for value, kind in kinds):
        raise TypeError("its epochs are no numbers")
    if not 0 <= state.best_epoch <= state.epoch or [e["epoch"] for e in state.history] != list(
        range(1, state.epoch + 1)
    ):
        raise ValueError("its epochs do not follow one another")
    if not all(type(e[key]) is float for e in state.history for key in ("val_loss", "val_macro_f1")):
        raise TypeError("an epoch's loss is no number")
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if state.epoch and {name: tensor.shape for name, tensor in state.best.items()} != shapes:
        raise ValueError("its best epoch is of another model")
