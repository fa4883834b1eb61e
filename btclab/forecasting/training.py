"""Training: many targets at once, in time order, stopped by the validation fold.

A textbook loop cuts a window of `context` bars for every target, and so computes each bar `context` times. Here the
network runs once over longer stretches and is scored at every step after the first `context`: each target sees at
least as much past, and each bar is computed about once. The stretches begin at other bars in every epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from btclab.errors import InputError, LookAheadError, unknown
from btclab.forecasting.dataset import Folds
from btclab.forecasting.networks import VARIANTS

TARGET_CLIP = 5.0  # in the loss, a move beyond 5 volatilities counts as 5: one crash must not steer the whole fit


@dataclass(frozen=True)
class TrainingOptions:
    """What may be set by `bl.train(..., option=value)`; sizes in bars, fractions of the bars after the warm-up.

    `select`: at most so many features, chosen on the training fold (0: all); `noise`: columns of noise beside them, the
    yardstick of feature importance.
    """

    context: int = 60
    hidden: int = 50
    layers: int = 2
    dropout: float = 0.2
    epochs: int = 30
    patience: int = 6
    stretch: int = 180
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    select: int = 32
    noise: int = 3
    train_fraction: float = 0.6
    validation_fraction: float = 0.2
    seed: int = 0

    @classmethod
    def of(cls, options: dict[str, Any]) -> TrainingOptions:
        """From keyword arguments. Raises `InputError` for an unknown one or a value out of range."""
        valid = {field.name: field for field in fields(cls)}
        for name, value in options.items():
            if name not in valid:
                raise unknown("training option", name, valid)
            whole = isinstance(valid[name].default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise InputError(
                    f"{name} is {value!r}; it must be a {'whole ' if whole else ''}number, e.g. {valid[name].default}."
                )
            lowest = 0 if name in ("seed", "dropout", "weight_decay", "select", "noise") else 1 if whole else 1e-12
            if value < lowest or (name == "seed" and value >= 2**63) or (name == "dropout" and value >= 1):
                raise InputError(
                    f"{name} is {value!r}; it must be {'in 0…1' if name == 'dropout' else f'at least {lowest:g}'}."
                )
        return cls(**options)


@dataclass(frozen=True)
class Trained:
    """The network of the best epoch, and the losses of all (mean squared error in units of volatility)."""

    network: nn.Module
    curves: dict[str, list[float]]
    best_epoch: int


def train_network(
    features: Tensor,
    targets: Tensor,
    usable: Tensor,
    folds: Folds,
    variant: str,
    options: TrainingOptions,
    progress: bool = True,
) -> Trained:
    """Train on the training fold, stop by the validation fold, return the best epoch's network.

    `features` [time, feature] scaled and without missing values, `targets` [time], `usable` [time]: whether a target
    may be scored. The test fold is never read. Same input and seed on a CPU: the same weights, bit for bit.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = VARIANTS[variant](features.shape[1], options.hidden, options.layers, options.dropout)
        _refuse_if_it_looks_ahead(network, variant, features.shape[1], options.context)
        optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.epochs, options.learning_rate / 20)
        targets = targets.clamp(-TARGET_CLIP, TARGET_CLIP)
        curves: dict[str, list[float]] = {"train": [], "validation": []}
        best, best_epoch, best_weights = np.inf, 0, copy.deepcopy(network.state_dict())
        bar = tqdm(range(options.epochs), desc="training", unit="epoch", disable=not progress)
        for epoch in bar:
            curves["train"].append(_train_epoch(network, optimiser, features, targets, usable, folds.train, options))
            schedule.step()
            loss = _validate(network, features, targets, usable, folds.validation, options)
            curves["validation"].append(loss)
            bar.set_postfix(train=f"{curves['train'][-1]:.4f}", validation=f"{loss:.4f}")
            if loss < best:
                best, best_epoch, best_weights = loss, epoch, copy.deepcopy(network.state_dict())
            elif epoch - best_epoch >= options.patience:
                break
        bar.close()
    network.load_state_dict(best_weights)
    return Trained(network.eval(), curves, best_epoch)


def _refuse_if_it_looks_ahead(network: nn.Module, variant: str, columns: int, context: int) -> None:
    """Every step of a stretch is scored, so a network whose earlier steps see later ones would train on the future."""
    probe = copy.deepcopy(network).eval()
    with torch.no_grad():
        one = torch.rand(1, context, columns, generator=torch.Generator().manual_seed(0))
        other = one.clone()
        other[:, -1] += 1.0
        for parameter in probe.parameters():  # an untrained read-out may be zero and hide what it reads
            if not parameter.any():
                parameter.fill_(0.5)
        moved = not torch.allclose(probe(one)[:, :-1], probe(other)[:, :-1])
    if moved:
        raise LookAheadError(f"Variant {variant!r} reads later steps of its window; each step may use its past only.")


def _train_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    features: Tensor,
    targets: Tensor,
    usable: Tensor,
    fold: slice,
    options: TrainingOptions,
) -> float:
    network.train()
    offset = int(torch.randint(options.stretch, (1,)))
    starts = torch.tensor(list(_starts(fold, options, offset)))
    total, count = 0.0, 0
    for chosen in starts[torch.randperm(len(starts))].split(options.batch):
        loss, scored = _loss(network, features, targets, usable, fold, chosen, options)
        if scored == 0:
            continue
        optimiser.zero_grad()
        (loss / scored).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        total, count = total + float(loss.detach()), count + scored
    return total / count


def _validate(
    network: nn.Module, features: Tensor, targets: Tensor, usable: Tensor, fold: slice, options: TrainingOptions
) -> float:
    network.eval()
    with torch.inference_mode():
        parts = [
            _loss(network, features, targets, usable, fold, chosen, options)
            for chosen in torch.tensor(list(_starts(fold, options, 0))).split(4 * options.batch)
        ]
    return sum(float(loss) for loss, _ in parts) / sum(scored for _, scored in parts)


def _starts(fold: slice, options: TrainingOptions, offset: int) -> Iterator[int]:
    """First bar of each stretch; the scored parts lie end to end over the fold, shifted back by `offset` bars."""
    for scored_from in range(fold.start - offset, fold.stop, options.stretch):
        yield scored_from - options.context + 1


def _loss(
    network: nn.Module,
    features: Tensor,
    targets: Tensor,
    usable: Tensor,
    fold: slice,
    starts: Tensor,
    options: TrainingOptions,
) -> tuple[Tensor, int]:
    """Summed squared error over the scored steps of some stretches, and how many steps were scored."""
    steps = starts[:, None] + torch.arange(options.context - 1 + options.stretch)  # [batch, time]
    inside = steps.clamp(0, len(features) - 1)
    forecast = network(features[inside])[:, options.context - 1 :]  # [batch, stretch]
    scored_steps, scored_inside = steps[:, options.context - 1 :], inside[:, options.context - 1 :]
    scored = usable[scored_inside] & (scored_steps >= fold.start) & (scored_steps < fold.stop)
    error = torch.where(scored, forecast - targets[scored_inside], 0.0)
    return (error**2).sum(), int(scored.sum())
