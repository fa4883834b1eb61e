"""Which columns a trained network relies on, measured where it has not looked, with noise as the yardstick."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from btclab.errors import InputError, TooFewBars
from btclab.features.selection import NOISE, shuffle_in_blocks
from btclab.forecasting.accelerate import cores, one_thread_each
from btclab.forecasting.checkpoints import Checkpoint
from btclab.forecasting.dataset import make_inputs
from btclab.forecasting.forecaster import check_market, check_series
from btclab.forecasting.labels import make_targets
from btclab.forecasting.members import NetworkMember
from btclab.forecasting.networks import LSTMNetwork
from btclab.forecasting.training import TARGET_CLIP, numpy_tensor
from btclab.market.candles import validate_candles

MIN_BARS = 200  # to be scored; the interval of fewer says nothing
STEPS = 6_000_000  # of the network in all: some seconds with the default one on two cores
BATCH = 64  # sequences that the network runs over at once
BLOCK = 4  # windows, on average, that stay together when a column is shuffled: what a window holds stays alike
RESAMPLES = 1000
CONFIDENCE = 0.95


def feature_importance(
    checkpoint: Checkpoint,
    candles: pd.DataFrame,
    series: pd.DataFrame | None = None,
    grouped: bool = False,
    repeats: int = 5,
    most_bars: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """How much worse the forecasts of `checkpoint` become when a column's values are shuffled in time: permutation importance.

    Measured on the bars of `candles` from the checkpoint's test fold on, that neither network, scaling, selection nor
    calibration has seen. `series` as in `forecast`. The values of a column are cut into blocks of some windows and these
    shuffled, `repeats` times: the column looks as ever, but says nothing of the bar it stands at (Breiman 2001; blocks as in
    Politis and Romano 1994). With `grouped`, all columns of a group are shuffled together: two columns that say the same
    cover for each other one by one, not so as a group.

    One row a column (or group), the most important first: `feature`, `group`, `importance`, the increase of the network's own
    loss (squared error, or that of the quantiles and the direction) at the first horizon, in % of that loss; `low` and
    `high`, its 95 % interval, by bootstrap over the shuffles and over stretches of neighbouring bars; `noise`, whether it is
    known to mean nothing; `above_noise`, whether its whole interval lies above the noise line. `attrs`: `noise_line`, the
    largest `high` of the noise columns, at least 0 (what it is without noise columns); `noise_columns`, how many
    those are; `bars` scored, `error` (mean loss, unshuffled), and `calibrated`: False where the calibration leaves nothing of
    the forecast (slope 0), and the network's own forecast is measured in its place.

    Of an ensemble the first network is measured. `most_bars` are scored, spread evenly (default: as many as some seconds
    allow). The network runs over stretches as long as in training, not window by window. Same seed, same numbers. Raises
    `TooFewBars` for fewer than 200 unseen bars, and as `forecast`.
    """
    _check(repeats, most_bars)
    validate_candles(candles)
    check_market(checkpoint, candles)
    check_series(checkpoint, series)
    context, stretch = checkpoint.options["context"], checkpoint.options["stretch"]
    inputs = make_inputs(candles, checkpoint.spec, context, series)
    targets = make_targets(candles, inputs.volatility, checkpoint.horizons)[:, 0]
    scored = inputs.complete & np.isfinite(targets) & (inputs.index >= checkpoint.test_start)
    if scored.sum() < MIN_BARS:
        raise TooFewBars(
            f"Only {scored.sum():,} bars from {checkpoint.test_start:%Y-%m-%d} on, the first that {checkpoint.name} has not "
            f"seen, have an outcome; importance needs {MIN_BARS}. Give later candles, or train on fewer of these."
        )
    tasks = _tasks(checkpoint, grouped)
    cost = len(tasks) * repeats * (1 + (context - 1) / stretch)  # steps of the network for each bar that is scored
    pieces = _stretches(scored, context, stretch, most_bars or int(STEPS / cost))
    runner = _Runner(
        _network(checkpoint),
        numpy_tensor(checkpoint.scaler.apply(inputs.features)),
        numpy_tensor(targets).clamp(-TARGET_CLIP, TARGET_CLIP),
        torch.from_numpy(scored),
        pieces,
        context,
        checkpoint.calibrations[0].slope or 1.0,
    )
    whole = np.isfinite(inputs.features[: pieces.max() + 1]).all(axis=1)
    whole[: pieces.min()] = False
    random = np.random.default_rng(seed)
    orders = [_shuffled(np.flatnonzero(whole), len(targets), BLOCK * context, random) for _ in range(repeats)]
    error, increase = _errors(runner, list(tasks.values()), orders, progress)
    table = _table(tasks, checkpoint, error, increase, random)
    table.attrs |= {
        "bars": runner.bars,
        "error": float(error.sum() / runner.bars),
        "calibrated": checkpoint.calibrations[0].slope > 0,
    }
    return table


def _network(checkpoint: Checkpoint) -> LSTMNetwork:
    """The first network among the checkpoint's members."""
    return next(one.network for one in checkpoint.members if isinstance(one, NetworkMember)).eval()


def _check(repeats: int, most_bars: int | None) -> None:
    for name, value, least in (("repeats", repeats, 2), ("most_bars", most_bars, MIN_BARS)):
        if value is None and name == "most_bars":
            continue
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}.")


def _tasks(checkpoint: Checkpoint, grouped: bool) -> dict[str, list[int]]:
    """The columns that are shuffled together, by the name of the column or group."""
    tasks: dict[str, list[int]] = {}
    for place, one in enumerate(checkpoint.spec.features):
        tasks.setdefault(one.group if grouped else one.name, []).append(place)
    return tasks


def _stretches(scored: np.ndarray, context: int, stretch: int, most_bars: int) -> np.ndarray:
    """Positions [stretch, context − 1 + stretch] of stretches that lie end to end over the scored bars, or evenly among them.

    The first context − 1 of each lead up to its first scored bar; positions past the end are those of the last bar, twice.
    """
    rows = np.flatnonzero(scored)
    starts = np.arange(rows[0], rows[-1] + 1, stretch)
    starts = starts[[scored[start : start + stretch].any() for start in starts]]
    count = int(np.clip(most_bars // stretch, 2, len(starts))) if len(starts) > 1 else 1
    chosen = starts[np.linspace(0, len(starts) - 1, count).round().astype(int)]
    return chosen[:, None] + np.arange(-context + 1, stretch)


@dataclass
class _Runner:
    """The network over the same stretches again and again; `error` [stretch] is the summed loss of each."""

    network: LSTMNetwork
    features: Tensor  # [time, feature]
    targets: Tensor  # [time]
    scored: Tensor  # [time]
    pieces: np.ndarray  # [stretch, step]
    context: int
    slope: float

    def __post_init__(self) -> None:
        last = len(self.targets) - 1
        steps = torch.from_numpy(self.pieces)
        self.steps = steps.clamp(0, last)
        ahead = self.steps[:, self.context - 1 :]
        self.weight = (self.scored[ahead] & (steps[:, self.context - 1 :] <= last)).float()  # [stretch, scored step]
        self.outcome = self.targets[ahead]
        self.bars = int(self.weight.sum())
        self.inputs = self.features[self.steps]  # [stretch, step, feature]

    def error(self, inputs: Tensor) -> np.ndarray:
        """From `inputs` [task, stretch, step, feature] the summed losses [task, stretch]."""
        with torch.inference_mode():
            output = self.network(inputs.flatten(0, 1))[:, self.context - 1 :, :1].unflatten(0, inputs.shape[:2])
            scaled = output if self.network.QUANTILES else self.slope * output  # [task, stretch, step, 1, output]
            loss = self.network.loss(scaled, self.outcome[..., None].expand(*scaled.shape[:-1]))[..., 0]
            return (loss * self.weight).sum(-1).double().numpy()


def _shuffled(rows: np.ndarray, length: int, block: int, random: np.random.Generator) -> Tensor:
    """Positions [time] that say where each row's shuffled value is found: of `rows` another one, of the rest the own."""
    order = np.arange(length)
    order[rows] = rows[shuffle_in_blocks(len(rows), block, random)]
    return torch.from_numpy(order)


def _errors(
    runner: _Runner, tasks: list[list[int]], orders: list[Tensor], progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Summed losses [stretch] as they are, and by how much they grow [task, repeat, stretch]."""
    error = runner.error(runner.inputs[None])[0]
    grown = np.empty((len(tasks), len(orders), len(error)))
    at_once = max(1, BATCH // len(error))
    jobs = [(repeat, first) for repeat in range(len(orders)) for first in range(0, len(tasks), at_once)]

    def run(job: tuple[int, int]) -> int:
        repeat, first = job
        chunk, order = tasks[first : first + at_once], orders[repeat]
        inputs = runner.inputs.repeat(len(chunk), 1, 1, 1)
        for place, columns in enumerate(chunk):
            inputs[place][..., columns] = runner.features[order[runner.steps][..., None], torch.tensor(columns)]
        grown[first : first + len(chunk), repeat] = runner.error(inputs) - error
        return len(chunk)

    shuffles = len(tasks) * len(orders)
    with (
        tqdm(total=shuffles, desc="importance", unit="shuffle", disable=not progress) as bar,
        one_thread_each(),
        ThreadPoolExecutor(cores()) as pool,
    ):
        for done in pool.map(run, jobs):
            bar.update(done)
    return error, grown


def _table(
    tasks: dict[str, list[int]],
    checkpoint: Checkpoint,
    error: np.ndarray,
    grown: np.ndarray,
    random: np.random.Generator,
) -> pd.DataFrame:
    _, repeats, pieces = grown.shape
    stretch_weight = random.multinomial(pieces, np.full(pieces, 1 / pieces), size=RESAMPLES)  # [resample, stretch]
    repeat_weight = random.multinomial(repeats, np.full(repeats, 1 / repeats), size=RESAMPLES) / repeats
    draws = np.einsum("bs,br,trs->tb", stretch_weight, repeat_weight, grown, optimize=True) / (stretch_weight @ error)
    low, high = np.quantile(100 * draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1)
    groups = [checkpoint.spec.features[columns[0]].group for columns in tasks.values()]
    table = pd.DataFrame({"feature": list(tasks), "group": groups})
    table["importance"] = 100 * grown.mean(axis=1).sum(axis=1) / error.sum()
    table["low"], table["high"], table["noise"] = low, high, table["group"] == NOISE
    line = max([0.0, *table.loc[table["noise"], "high"]])
    table["above_noise"] = (table["low"] > line) & ~table["noise"]
    table = table.sort_values(["importance", "feature"], ascending=[False, True], ignore_index=True)
    noise_columns = sum(one.group == NOISE for one in checkpoint.spec.features)
    table.attrs = {"noise_line": float(line), "noise_columns": noise_columns, "repeats": repeats}
    return table
