"""Training and forecasting: targets per second, time to a loss, rate against a matrix product, memory, interval and calibration.

The rival is the textbook loop: a `Dataset` that cuts a window of 60 bars for every target, a `DataLoader` with batches of 32,
the same network, loss and optimiser.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import btclab as bl
from btclab.forecasting.accelerate import choose, one_thread_each
from btclab.forecasting.dataset import Folds, Scaler, make_inputs, usable_spec, with_noise
from btclab.forecasting.forecaster import forecast_inputs, forecast_latest
from btclab.forecasting.labels import forward_log_return, make_targets
from btclab.forecasting.networks import make_network, predict
from btclab.forecasting.skill import calibration_error, normal_interval_width
from btclab.forecasting.training import TrainingOptions, _train_epoch, _validate, learning_rate, numpy_tensor

Row = tuple[str, str, str, str]
CONTEXT, SELECT = 60, 32
WINDOWS = 3200  # of the rival; the rest is scaled up from these
YEARS = 5  # held out one after the other, the newest ones


def main(candles: pd.DataFrame, source: str) -> list[Row]:
    prepared = _prepare(candles)
    rows: list[Row] = []
    with one_thread_each():  # the rival too: a second thread costs it more than it gains
        for hidden in (50, 100):
            rows += _throughput(prepared, hidden)
        rows += _time_to_loss(prepared)
    rows += _inference(candles, prepared)
    rows += _memory(source)
    return rows + _held_out_years(candles)


class _Prepared:
    def __init__(self, features: Tensor, targets: Tensor, usable: Tensor, folds: Folds, bars: np.ndarray) -> None:
        self.features, self.targets, self.usable, self.folds, self.bars = features, targets, usable, folds, bars

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.features, self.targets.clamp(-5, 5), self.usable


def _prepare(candles: pd.DataFrame) -> _Prepared:
    """The first 32 usable columns and 3 of noise, scaled; which columns they are does not matter to the speed."""
    spec, _ = usable_spec(candles, bl.resolve_spec("technical"), None, len(candles) // 2)
    spec = with_noise(spec.only(spec.columns[:SELECT]), 3)
    inputs = make_inputs(candles, spec, CONTEXT)
    targets = make_targets(candles, inputs.volatility, (1,))
    first = int(np.argmax(inputs.complete))
    folds = Folds.of(len(candles), first, 1, CONTEXT, 0.6, 0.2)
    scaled = Scaler.fit(inputs.features[: folds.train.stop]).apply(inputs.features)
    usable = torch.from_numpy(inputs.complete[:, None] & np.isfinite(targets))
    return _Prepared(numpy_tensor(scaled), numpy_tensor(targets), usable, folds, inputs.bars)


class Windows(Dataset):  # type: ignore[type-arg]
    """The textbook: a window for every target of a fold."""

    def __init__(self, data: _Prepared, fold: slice, most: int | None = None) -> None:
        rows = torch.nonzero(data.usable[fold, 0])[:, 0] + fold.start
        self.rows, self.data = rows[:most] if most else rows, data

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        row = int(self.rows[number])
        return self.data.features[row - CONTEXT + 1 : row + 1], self.data.targets[row].clamp(-5, 5)


def _textbook_step(network: nn.Module, optimiser: torch.optim.Optimizer, window: Tensor, target: Tensor) -> None:
    loss = network.loss(network(window)[:, -1], target).mean()  # type: ignore[operator]
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()


def _seconds(work: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _multiplications(hidden: int, features: int) -> float:
    """Floating-point operations of one step, forward and backward, of two layers."""
    return 3 * 2 * 4 * hidden * ((features + hidden) + 2 * hidden)


def _product_rate(rows: int, inner: int, columns: int, dtype: torch.dtype) -> float:
    """Operations per second of the matrix product [rows, inner] × [inner, columns]."""
    one, other = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    times = max(4, int(4e8 / (rows * inner * columns)))
    return times * 2 * rows * inner * columns / _seconds(lambda: [one @ other for _ in range(times)])


def _throughput(data: _Prepared, hidden: int) -> list[Row]:
    options = TrainingOptions(hidden=hidden)
    choice = choose("auto", "auto", hidden)
    network = make_network("base", data.features.shape[1], 1, hidden)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    fold = data.folds.train
    count = int(data.usable[fold].sum())

    def epoch() -> None:
        _train_epoch(network, optimiser, data.tensors, fold, options, choice)

    def textbook() -> None:
        for window, target in DataLoader(Windows(data, fold, WINDOWS), batch_size=32, shuffle=True):
            _textbook_step(network, optimiser, window, target)

    epoch()
    own, rival = count / _seconds(epoch), WINDOWS / _seconds(textbook, 2)
    steps = own * (options.stretch + CONTEXT - 1) / options.stretch
    dtype = torch.bfloat16 if choice.precision == "bfloat16" else torch.float32
    rate = steps * _multiplications(hidden, data.features.shape[1])
    step, large = _product_rate(options.batch, hidden, 4 * hidden, dtype), _product_rate(1024, 1024, 1024, dtype)
    return [
        (
            f"training 2×{hidden}, {choice.precision}",
            f"{own:,.0f} targets/s",
            f"{rival:,.0f}: windows, batch 32",
            f"{own / rival:.0f} ×",
        ),
        (
            "  of the rate of matrix products",
            f"{rate / 1e9:.0f} GFLOP/s",
            f"{step / 1e9:.0f}: a step's, [{options.batch},{hidden}]×[{hidden},{4 * hidden}]; {large / 1e9:.0f}: large ones",
            f"{rate / step:.0%}, {rate / large:.0%}",
        ),
    ]


def _time_to_loss(data: _Prepared, most: int = 3) -> list[Row]:
    """Seconds to the validation loss that is the textbook loop's best over `most` epochs, looked at every tenth of one.

    Of the default variant, whose loss has something to learn on real bars: that of a point forecast is noise all over.
    """
    options, choice = TrainingOptions(), choose("auto", "auto", 64)

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = make_network("quantile", data.features.shape[1], 1, dropout=options.dropout)
        return network, torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )

    network, optimiser = fresh()
    spent, curve = 0.0, []
    for _ in range(most):
        loader = DataLoader(Windows(data, data.folds.train), batch_size=32, shuffle=True)
        every = len(loader) // 10
        begun = time.perf_counter()
        for number, (window, target) in enumerate(loader, 1):
            _textbook_step(network.train(), optimiser, window, target)
            if number % every == 0:
                spent += time.perf_counter() - begun
                curve.append((_validate(network, data.tensors, data.folds.validation, options, choice), spent))
                begun = time.perf_counter()
    best, rival = min(curve)
    network, optimiser = fresh()
    own, lowest = 0.0, np.inf
    curves: list[float] = []
    for epoch in range(options.epochs):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(epoch, curves, options)
        begun = time.perf_counter()
        _train_epoch(network, optimiser, data.tensors, data.folds.train, options, choice)
        own += time.perf_counter() - begun
        curves.append(_validate(network, data.tensors, data.folds.validation, options, choice))
        lowest = min(lowest, curves[-1])
        if lowest <= best:
            break
    reached = "" if lowest <= best else f", not reached: {lowest:.5f}"
    return [
        (
            f"time to validation loss {best:.5f}{reached}",
            f"{own:.2f} s",
            f"{rival:.1f} s: windows, batch 32",
            f"1/{rival / own:.0f}",
        )
    ]


def _inference(candles: pd.DataFrame, data: _Prepared) -> list[Row]:
    rows: list[Row] = []
    for hidden in (50, 100):
        network = make_network("base", data.features.shape[1], 1, hidden).eval()

        def textbook(network: nn.Module = network) -> None:
            with torch.inference_mode():
                for window, _ in DataLoader(Windows(data, data.folds.train, WINDOWS), batch_size=32):
                    network(window)[:, -1]

        rival = _seconds(textbook, 2) * len(data.bars) / WINDOWS
        own = _seconds(lambda network=network: predict(network, data.features, data.bars, CONTEXT))
        rows.append(
            (
                f"{len(data.bars):,} forecasts, 2×{hidden}",
                f"{own:.2f} s",
                f"{rival:.1f} s: windows, batch 32",
                f"1/{rival / own:.0f}",
            )
        )
    made = bl.train(candles.iloc[-20_000:].copy(), epochs=2, progress=False)
    inputs = make_inputs(candles, made.spec, CONTEXT, last=CONTEXT)
    live = sorted(_seconds(lambda: forecast_inputs(made, inputs, candles.attrs), 1) for _ in range(200))
    rows.append(
        ("one live forecast, features ready", f"p50 {1e3 * live[100]:.1f} ms", f"p95 {1e3 * live[190]:.1f} ms", "–")
    )
    whole = sorted(_seconds(lambda: forecast_latest(made, candles), 1) for _ in range(50))
    rows.append(("  with its features", f"p50 {1e3 * whole[25]:.1f} ms", f"p95 {1e3 * whole[47]:.1f} ms", "–"))
    return rows


_MEMORY = """
import os, sys, threading, time
import btclab as bl
from btclab.forecasting.dataset import Folds
from btclab.forecasting.training import TrainingOptions, train_network
from tests.benchmarks.forecasts import _prepare

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def train(folds, **options):
    train_network(data.features, data.targets, data.usable, folds, "base", TrainingOptions(**options), progress=False)

data = _prepare(bl.load_candles(sys.argv[1]))
first = data.folds.train.start
train(Folds(*(slice(first + n, first + n + 400) for n in (0, 500, 1000))), epochs=1, batch=1)  # loads what is loaded once
before, top, going = resident(), [0], [True]

def watch():
    while going:
        top[0] = max(top[0], resident())
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
train(data.folds, epochs=3)
going.clear()
print(top[0] - before, data.features.numel() * 4, len(data.features) * 127 * 8)
"""


def _memory(source: str) -> list[Row]:
    done = subprocess.run([sys.executable, "-c", _MEMORY, source], check=True, capture_output=True, text=True)
    own, chosen, table = map(float, done.stdout.split())
    return [
        (
            "memory of training, however many bars",
            f"{own / 1e6:.0f} MB",
            f"{chosen / 1e6:.0f} MB: the chosen columns; {table / 1e6:.0f} MB: the table that they are chosen from",
            f"{own / chosen:.1f} ×, {own / table:.1f} ×",
        )
    ]


def _held_out_years(candles: pd.DataFrame) -> list[Row]:
    """Each of the last years forecast by a network that was trained and calibrated on the years before it."""
    rows, said, happened = [], [], []
    last = candles.index[-1].year
    for year in range(last - YEARS + 1, last + 1):
        part = candles[candles.index < f"{year + 1}-01-01"]
        part.attrs = dict(candles.attrs)
        before = float((part.index < f"{year}-01-01").mean())
        if before < 0.5:
            continue
        made = bl.train(part, progress=False, train_fraction=0.8 * before, validation_fraction=0.2 * before)
        forecasts = bl.forecast(made, part).assign(outcome=forward_log_return(part, 1))
        held = forecasts[forecasts.index >= max(pd.Timestamp(f"{year}-01-01", tz="UTC"), made.test_start)].dropna()
        inside = (held["outcome"] >= held["interval_low"]) & (held["outcome"] <= held["interval_high"])
        follows = (held["outcome"] >= held["adaptive_low"]) & (held["outcome"] <= held["adaptive_high"])
        scaled = (held["outcome"] / held["volatility"]).to_numpy()
        width = float(((held["interval_high"] - held["interval_low"]) / held["volatility"]).mean())
        normal = normal_interval_width(scaled, float(inside.mean()))
        up = (held["outcome"] > 0).to_numpy()
        said.append(held["prob_up"].to_numpy())
        happened.append(up)
        rows.append(
            (
                f"{year} held out: 90 % interval",
                f"covers {inside.mean():.1%} (adaptive {follows.mean():.1%})",
                f"width {width:.2f} against {normal:.2f}: EWMA normal",
                f"IC {made.metrics['ic']:+.3f}, ECE {calibration_error(said[-1], up):.3f}",
            )
        )
    if rows:
        error = calibration_error(np.concatenate(said), np.concatenate(happened))
        rows.append(("  all of them", f"ECE of prob_up {error:.4f}", "–", "–"))
    return rows


if __name__ == "__main__":
    for row in main(bl.load_candles(sys.argv[1]), sys.argv[1]):
        print(*row, sep=" | ", flush=True)
