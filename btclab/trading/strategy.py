"""From forecasts to signals: what to hold, how sure, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from btclab.errors import InputError


@dataclass(frozen=True)
class Rules:
    """Buy when `prob_up` reaches `enter`, sell when it falls to `exit`, in between keep what is held.

    The distance between the two is the hysteresis that keeps fees from eating a small edge. `max_exposure` is the
    fraction of equity held when in the market.
    """

    enter: float = 0.52
    exit: float = 0.48
    max_exposure: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.exit < self.enter <= 1:
            raise InputError(f"exit {self.exit!r} and enter {self.enter!r} must be probabilities with exit < enter.")
        if not 0 < self.max_exposure <= 1:
            raise InputError(
                f"max_exposure is {self.max_exposure!r}; it must be above 0 and at most 1 (spot, no margin)."
            )


def make_signals(candles: pd.DataFrame, forecasts: pd.DataFrame, rules: Rules | None = None) -> pd.DataFrame:
    """One row per bar, decided at its close: `side` (buy, sell, hold), `exposure`, `confidence`, `reasons`, `in_sample`.

    `exposure` is the target fraction of equity in BTC from the next open on; it starts at 0 and is missing while there
    is no forecast yet. `confidence` is the calibrated probability that the coming return has the sign that `exposure`
    bets on: `prob_up` while invested, 1 − `prob_up` while not. Raises `InputError` if the indices differ.
    """
    if not candles.index.equals(forecasts.index):
        raise InputError(
            "candles and forecasts have different timestamps; "
            "make the forecasts from these candles: bl.forecast(checkpoint, candles)."
        )
    lacking = {"prob_up", "mean"} - set(forecasts.columns)
    if lacking:
        raise InputError(
            f"forecasts lack {', '.join(sorted(lacking))}; make them with bl.forecast(checkpoint, candles)."
        )
    rules = rules or Rules()
    prob_up = forecasts["prob_up"]
    known = prob_up.notna()
    wish = pd.Series(
        np.select([prob_up >= rules.enter, prob_up <= rules.exit], [rules.max_exposure, 0.0], np.nan), candles.index
    )
    exposure = wish.ffill().fillna(0.0).where(known)
    change = exposure - exposure.ffill().shift().fillna(0.0)
    side = np.select([change > 0, change < 0], ["buy", "sell"], "hold")
    table = pd.DataFrame(
        {
            "side": side,
            "exposure": exposure,
            "confidence": prob_up.where(exposure > 0, 1 - prob_up).where(known),
            "reasons": _reasons(forecasts, wish, exposure, rules),
            "in_sample": forecasts.get("in_sample", pd.Series(False, candles.index)),
        }
    )
    table.attrs = dict(forecasts.attrs)
    return table


def latest_signal(signals: pd.DataFrame, forecasts: pd.DataFrame) -> dict[str, Any]:
    """The newest row as JSON values: the signal, and the forecast behind it; what is missing is None."""
    row: dict[Any, Any] = {**forecasts.iloc[-1].to_dict(), **signals.iloc[-1].to_dict()}
    plain = {str(name): None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
    return {"bar": signals.index[-1].isoformat(), **plain, "in_sample": bool(row["in_sample"])}


def _reasons(forecasts: pd.DataFrame, wish: pd.Series, exposure: pd.Series, rules: Rules) -> list[str]:
    percent, basis = (100 * forecasts["prob_up"]).round(1), (1e4 * forecasts["mean"]).round(1)
    texts = []
    for up, mean, wanted, held in zip(percent, basis, wish, exposure, strict=True):
        if np.isnan(held):
            texts.append("no forecast: features are warming up or incomplete")
            continue
        forecast = f"probability of up {up:.1f} %, expected return {mean:+.1f} bps"
        if np.isnan(wanted):
            kept = "the position" if held else "cash"
            rule = f"between exit {100 * rules.exit:g} % and enter {100 * rules.enter:g} %: keep {kept}"
        elif wanted:
            rule = f"at or above enter {100 * rules.enter:g} %: hold BTC"
        else:
            rule = f"at or below exit {100 * rules.exit:g} %: hold cash"
        texts.append(f"{forecast}; {rule}")
    return texts
