"""The engine: a backtest against backtesting.py and vectorbt on the same rule, a first call, a thousand variants."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd

import btclab as bl
from btclab.records import Costs

Row = tuple[str, str, str, str]
COSTS = Costs(10, 5)
VARIANTS = 1_000

_FIRST = """
import sys, time
import pandas as pd, btclab as bl
candles = bl.load_candles(sys.argv[1])
exposure = (candles["close"] > candles["close"].rolling(96).mean()).astype(float)
begun = time.perf_counter()
bl.backtest(candles, exposure.to_frame("exposure"))
print(time.perf_counter() - begun)
"""


def main(candles: pd.DataFrame, source: str) -> list[Row]:
    exposure = (candles["close"].rolling(24).mean() > candles["close"].rolling(96).mean()).astype(float)
    signals = exposure.to_frame("exposure")
    own = min(_seconds(lambda: bl.backtest(candles, signals, COSTS), 7))
    result = bl.backtest(candles, signals, COSTS)
    rows: list[Row] = []
    for name, run in (("backtesting.py", _backtesting), ("vectorbt", _vectorbt)):
        rival, equity = run(candles, exposure)
        off = abs(equity / result.equity.iloc[-1] - 1)
        rows.append(
            (
                f"backtest of {len(candles):,} bars, metrics included",
                f"{1e3 * own:.1f} ms",
                f"{rival:.2f} s: {name}, its end differs by {off:.1e}",
                f"1/{rival / own:.0f}",
            )
        )
    done = [
        float(subprocess.run([sys.executable, "-c", _FIRST, source], check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    rows.append(("  the first in a new process", f"{min(done):.2f} s", "limit 2 s", "–"))
    spans = np.linspace(10, 500, VARIANTS).astype(int)
    many = pd.DataFrame(
        {
            number: (candles["close"] > candles["close"].rolling(span).mean()).astype(float)
            for number, span in enumerate(spans)
        }
    )
    took = _seconds(lambda: bl.backtest_many(candles, many, COSTS), 1)[0]
    rows.append(
        (f"{VARIANTS:,} variants of a strategy", f"{took:.1f} s", "limit 15 s", f"{1e3 * took / VARIANTS:.1f} ms each")
    )
    return rows


def _seconds(work: object, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()  # type: ignore[operator]
        times.append(time.perf_counter() - begun)
    return times


def _backtesting(candles: pd.DataFrame, exposure: pd.Series) -> tuple[float, float]:
    """Seconds, and the equity at the end. It counts in whole units: a satoshi each, as FractionalBacktest does."""
    from backtesting import Strategy
    from backtesting.lib import FractionalBacktest

    class Follow(Strategy):  # type: ignore[misc]
        def init(self) -> None:
            self.want = self.I(exposure.to_numpy, plot=False)

        def next(self) -> None:
            if self.want[-1] > 0 and not self.position:
                self.buy(size=0.9999)
            elif self.want[-1] == 0 and self.position:
                self.position.close()

    frame = candles.rename(columns=str.capitalize)
    frame.index = frame.index.tz_localize(None)
    cost = (COSTS.fee_bps + COSTS.slippage_bps) / 10_000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begun = time.perf_counter()
        stats = FractionalBacktest(frame, Follow, cash=10_000, commission=cost, finalize_trades=True).run()
    return time.perf_counter() - begun, float(stats["Equity Final [$]"])


def _vectorbt(candles: pd.DataFrame, exposure: pd.Series) -> tuple[float, float]:
    """Seconds with equity, records and statistics, warm; and the equity at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vectorbt as vbt

        before = exposure.shift(fill_value=0.0)
        size = before.where(before != before.shift(fill_value=0.0))

        def run() -> float:
            made = vbt.Portfolio.from_orders(
                candles["close"], size, size_type="targetpercent", price=candles["open"], val_price=candles["open"],
                fees=COSTS.fee_bps / 10_000, slippage=COSTS.slippage_bps / 10_000, init_cash=10_000.0, freq="1h",
            )  # fmt: skip
            made.stats()
            return float(made.value().iloc[-1])

        end = run()
        return min(_seconds(run, 3)), end


if __name__ == "__main__":
    for row in main(bl.load_candles(sys.argv[1]), sys.argv[1]):
        print(*row, sep=" | ", flush=True)
