"""Training: many targets at once, in time order, stopped by the validation fold, resumed after a kill.

A textbook loop cuts a window of `context` bars for every target, and so computes each bar `context` times. Here the
network runs once over longer stretches and is scored at every step after the first `context`: each target sees at
least as much past, and each bar is computed about once. The stretches begin at other bars in every epoch.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from btclab.errors import InputError, LookAheadError, StorageError, TrainingFailed, unknown
from btclab.files import write_atomically
from btclab.forecasting.accelerate import Choice, choose, one_thread_each
from btclab.forecasting.dataset import Folds
from btclab.forecasting.networks import VARIANTS, LSTMNetwork, make_network

TARGET_CLIP = 5.0  # in the loss, a move beyond 5 volatilities counts as 5: one crash must not steer the whole fit
SCHEDULES = ("cosine", "plateau", "constant")


@dataclass(frozen=True)
class TrainingOptions:
    """What may be set by `bl.train(..., option=value)`; sizes in bars, fractions of the bars after the warm-up.

    `hidden` and `layers` 0: the variant's own. `select`: at most so many features, chosen on the training fold (0: all);
    `noise`: columns of noise beside them, the yardstick of feature importance. `members`: networks of an ensemble, each with
    a seed of its own; `trees`: trees of a random forest among them (0: none). `placebo`: how often the training is repeated
    on shuffled outcomes. `stretch`: bars scored at a time, `batch` stretches in a step. `device` and `precision`:
    "auto" is decided by a rule (`btclab.forecasting.accelerate.choose`).
    """

    context: int = 60
    hidden: int = 0
    layers: int = 0
    dropout: float = 0.1
    epochs: int = 30
    patience: int = 6
    stretch: int = 180
    batch: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    select: int = 32
    noise: int = 3
    members: int = 3
    trees: int = 0
    placebo: int = 0
    train_fraction: float = 0.6
    validation_fraction: float = 0.2
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0

    @classmethod
    def of(cls, options: dict[str, Any]) -> TrainingOptions:
        """From keyword arguments. Raises `InputError` for an unknown one or a value out of range."""
        valid = {field.name: field for field in fields(cls)}
        for name, value in options.items():
            if name not in valid:
                raise unknown("training option", name, valid)
            _check_option(name, value, valid[name].default)
        defaults = cls()
        settled = cls(**{name: type(getattr(defaults, name))(value) for name, value in options.items()})
        choose(settled.device, settled.precision)
        return settled


_MAY_BE_ZERO = ("seed", "dropout", "weight_decay", "select", "noise", "hidden", "layers", "trees", "placebo")


def _check_option(name: str, value: Any, default: Any) -> None:
    if isinstance(default, str):
        if name == "schedule" and value not in SCHEDULES:
            raise unknown("schedule", value, SCHEDULES)
        return
    whole = isinstance(default, int)
    numbers = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, numbers):
        raise InputError(f"{name} is {value!r}; it must be a {'whole ' if whole else ''}number, e.g. {default}.")
    lowest = 0 if name in _MAY_BE_ZERO else 1 if whole else 1e-12
    if not value >= lowest or (name == "seed" and value >= 2**63) or (name == "dropout" and value >= 1):
        raise InputError(
            f"{name} is {value!r}; it must be {'in 0…1' if name == 'dropout' else f'at least {lowest:g}'}."
        )


@dataclass(frozen=True)
class Trained:
    """The network of the best epoch, the losses of all epochs, and what it ran on."""

    network: LSTMNetwork
    curves: dict[str, list[float]]
    best_epoch: int
    choice: Choice


@dataclass
class _State:
    """What a killed training needs to go on as if nothing had happened."""

    epoch: int
    best: float
    best_epoch: int
    best_weights: dict[str, Tensor]
    curves: dict[str, list[float]]


def train_network(
    features: Tensor,
    targets: Tensor,
    usable: Tensor,
    folds: Folds,
    variant: str,
    options: TrainingOptions,
    progress: bool = True,
    keep: Path | None = None,
) -> Trained:
    """Train on the training fold, stop by the validation fold, return the best epoch's network.

    `features` [time, feature] scaled and without missing values, `targets` [time, horizon], `usable` [time, horizon]:
    whether a target may be scored. The test fold is never read. Same input and seed on a CPU: the same weights, bit for bit.
    With `keep`, the state after each epoch is kept in that file; a training that finds one goes on from it, to the same end.
    """
    if variant not in VARIANTS:
        raise unknown("variant", variant, VARIANTS)
    choice = choose(options.device, options.precision, options.hidden or VARIANTS[variant].HIDDEN)
    with torch.random.fork_rng(), one_thread_each(), _memory_ran_out(variant, options, choice):
        torch.manual_seed(options.seed)
        network = make_network(
            variant, features.shape[1], targets.shape[1], options.hidden, options.layers, options.dropout
        ).to(choice.device)
        _refuse_if_it_looks_ahead(network, variant, features.shape[1], options.context)
        optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
        clipped = targets.clamp(-TARGET_CLIP, TARGET_CLIP)
        tensors = (features.to(choice.device), clipped.to(choice.device), usable.to(choice.device))
        state = _resumed(keep, network, optimiser)
        bar = tqdm(
            range(options.epochs), desc=f"training {variant}", unit="epoch", disable=not progress, initial=state.epoch
        )
        for epoch in range(state.epoch, options.epochs):
            if state.epoch - state.best_epoch > options.patience:
                break
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(epoch, state.curves["validation"], options)
            learnt = _train_epoch(network, optimiser, tensors, folds.train, options, choice)
            loss = _validate(network, tensors, folds.validation, options, choice)
            if not (math.isfinite(learnt) and math.isfinite(loss)):
                raise TrainingFailed(
                    f"The loss of {variant!r} is {learnt} in training and {loss} in validation after epoch {epoch + 1}: it "
                    f"diverged. Use a smaller learning_rate than {options.learning_rate:g}."
                )
            state.curves["train"].append(learnt)
            state.curves["validation"].append(loss)
            state.epoch = epoch + 1
            bar.update()
            bar.set_postfix(train=f"{learnt:.4f}", validation=f"{loss:.4f}")
            if loss < state.best:
                state.best, state.best_epoch = loss, epoch
                state.best_weights = copy.deepcopy(network.state_dict())
            if keep is not None and not _kept(keep, state, network, optimiser):
                keep = None
        bar.close()
    network.load_state_dict(state.best_weights)
    return Trained(network.cpu().eval(), state.curves, state.best_epoch, choice)


@contextmanager
def _memory_ran_out(variant: str, options: TrainingOptions, choice: Choice) -> Iterator[None]:
    """Say what to do when it does, rather than how many bytes an allocator could not find."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise TrainingFailed(
            f"Memory of {choice.device} ran out while training {variant!r} on batch={options.batch} stretches of "
            f"stretch={options.stretch} bars; try batch={max(1, options.batch // 2)}, or a smaller stretch or hidden."
        ) from error


def learning_rate(epoch: int, validation: list[float], options: TrainingOptions) -> float:
    """The rate of an epoch, from the losses before it: a cosine from the start to a twentieth, or halved on plateaus."""
    top = options.learning_rate
    if options.schedule == "cosine":
        return top / 20 + (top - top / 20) * (1 + math.cos(math.pi * epoch / options.epochs)) / 2
    if options.schedule == "plateau":
        wait, rate, best = max(1, options.patience // 3), top, math.inf
        stale = 0
        for loss in validation:
            stale = 0 if loss < best else stale + 1
            best = min(best, loss)
            if stale == wait:
                rate, stale = rate / 2, 0
        return rate
    return top


def _resumed(keep: Path | None, network: nn.Module, optimiser: torch.optim.Optimizer) -> _State:
    """The state in `keep`, put into network, optimiser and random numbers; a fresh one where there is none that fits."""
    weights = network.state_dict()
    fresh = _State(0, math.inf, 0, copy.deepcopy(weights), {"train": [], "validation": []})
    if keep is None or not keep.exists():
        return fresh
    try:
        with safe_open(keep, framework="pt") as file:
            facts = json.loads(file.metadata()["state"])
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        now, best = ({name: held[f"{kind}/{name}"] for name in weights} for kind in ("now", "best"))
        if any(one[name].shape != weights[name].shape for one in (now, best) for name in weights):
            return fresh
        groups = optimiser.state_dict()["param_groups"]
        moments = {
            number: {key: held[f"moment/{number}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for number in range(len(groups[0]["params"]))
        }
        state = _State(facts["epoch"], facts["best"], facts["best_epoch"], best, facts["curves"])
        random = held["random"], held.get("random_cuda")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):  # half a state is none: begin anew
        return fresh
    network.load_state_dict(now)
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    torch.set_rng_state(random[0])
    if random[1] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(random[1])
    return state


def _kept(path: Path, state: _State, network: nn.Module, optimiser: torch.optim.Optimizer) -> bool:
    """Keep the state in `path`; False, with a warning, where it cannot be: the training itself needs no file."""
    tensors = {f"now/{name}": one for name, one in network.state_dict().items()}
    tensors |= {f"best/{name}": one for name, one in state.best_weights.items()}
    for number, held in optimiser.state_dict()["state"].items():
        tensors |= {f"moment/{number}/{key}": held[key] for key in ("step", "exp_avg", "exp_avg_sq")}
    tensors["random"] = torch.get_rng_state()
    if next(network.parameters()).is_cuda:
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    facts = {"epoch": state.epoch, "best": state.best, "best_epoch": state.best_epoch, "curves": state.curves}
    whole = {name: one.detach().cpu().contiguous().clone() for name, one in tensors.items()}
    content = save(whole, metadata={"state": json.dumps(facts)})
    try:
        write_atomically(path, lambda aside: aside.write_bytes(content))
    except StorageError as error:
        warnings.warn(f"The state of the training cannot be kept, so that a kill would lose it: {error}", stacklevel=2)
        return False
    return True


def _refuse_if_it_looks_ahead(network: nn.Module, variant: str, columns: int, context: int) -> None:
    """Every step of a stretch is scored, so a network whose earlier steps see later ones would train on the future."""
    probe = copy.deepcopy(network).cpu().eval()
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


Tensors = tuple[Tensor, Tensor, Tensor]  # features, targets, usable


def _train_epoch(
    network: LSTMNetwork,
    optimiser: torch.optim.Optimizer,
    tensors: Tensors,
    fold: slice,
    options: TrainingOptions,
    choice: Choice,
) -> float:
    network.train()
    offset = int(torch.randint(options.stretch, (1,)))
    starts = torch.tensor(list(_starts(fold, options, offset)))
    total, count = 0.0, 0
    for chosen in starts[torch.randperm(len(starts))].split(options.batch):
        loss, scored = _loss(network, tensors, fold, chosen, options, choice)
        if scored == 0:
            continue
        optimiser.zero_grad()
        (loss / scored).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        total, count = total + float(loss.detach()), count + scored
    return total / count


def _validate(network: LSTMNetwork, tensors: Tensors, fold: slice, options: TrainingOptions, choice: Choice) -> float:
    network.eval()
    with torch.inference_mode():
        parts = [
            _loss(network, tensors, fold, chosen, options, choice)
            for chosen in torch.tensor(list(_starts(fold, options, 0))).split(options.batch)
        ]
    return sum(float(loss) for loss, _ in parts) / sum(scored for _, scored in parts)


def _starts(fold: slice, options: TrainingOptions, offset: int) -> Iterator[int]:
    """First bar of each stretch; the scored parts lie end to end over the fold, shifted back by `offset` bars."""
    for scored_from in range(fold.start - offset, fold.stop, options.stretch):
        yield scored_from - options.context + 1


def _loss(
    network: LSTMNetwork, tensors: Tensors, fold: slice, starts: Tensor, options: TrainingOptions, choice: Choice
) -> tuple[Tensor, int]:
    """Summed loss over the scored steps and horizons of some stretches, and how many were scored."""
    features, targets, usable = tensors
    steps = (starts[:, None] + torch.arange(options.context - 1 + options.stretch)).to(features.device)  # [batch, time]
    inside = steps.clamp(0, len(features) - 1)
    with choice.products():
        output = network(features[inside])
    output = output[:, options.context - 1 :].float()  # [batch, stretch, horizon, output]
    scored_steps, scored_inside = steps[:, options.context - 1 :], inside[:, options.context - 1 :]
    within = (scored_steps >= fold.start) & (scored_steps < fold.stop)
    scored = usable[scored_inside] & within[..., None]  # [batch, stretch, horizon]
    loss = network.loss(output, targets[scored_inside])
    return torch.where(scored, loss, 0.0).sum(), int(scored.sum())


def numpy_tensor(values: np.ndarray) -> Tensor:
    """float32 tensor of `values` with missing ones as 0; what is missing is never scored."""
    return torch.from_numpy(np.nan_to_num(values).astype(np.float32))
