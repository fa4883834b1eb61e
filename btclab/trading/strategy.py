"""From forecasts to signals: what to hold, how sure, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numba import njit

from btclab.errors import InputError

if TYPE_CHECKING:
    from btclab.trading.filters import Verdict

# What may refuse an entry; here, for a compiled function does not see when a number in another file changes.
ALLOWED, COOLDOWN, CONFIDENCE, REGIME, AGREEMENT = range(5)
NO_FORECAST = "no forecast: features are warming up or incomplete"
MOST_TEXTS = 1_000_000  # beyond so many different numbers a table of their texts is no saving


@dataclass(frozen=True)
class Rules:
    """Buy when `prob_up` reaches `enter`, sell when it falls to `exit`, in between keep what is held.

    The distance between the two is the hysteresis that keeps fees from eating a small edge. `max_exposure` is the
    fraction of equity held when in the market; `short` the one sold short in place of holding cash, 0: none.
    """

    enter: float = 0.52
    exit: float = 0.48
    max_exposure: float = 1.0
    short: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.exit < self.enter <= 1:
            raise InputError(f"exit {self.exit!r} and enter {self.enter!r} must be probabilities with exit < enter.")
        check_exposure("max_exposure", self.max_exposure)
        if not 0 <= self.short <= 1:
            raise InputError(f"short is {self.short!r}; it must lie in 0…1 (of equity; 0: nothing is sold short).")


def check_exposure(name: str, value: float) -> None:
    """Raise `InputError` unless `value` is a fraction of equity above 0: more than all of it is never bet."""
    if not 0 < value <= 1:
        raise InputError(f"{name} is {value!r}; it must be above 0 and at most 1 (no borrowed money).")


@dataclass(frozen=True)
class Wish:
    """What a strategy wants at the close of each bar.

    `exposure` [bar] is a fraction of equity, −1…1, below 0 sold short, missing (NaN) where it has no opinion: what is held
    stays. `known` [bar] is False where it lacks the data to have one (None: never). `reasons` are a text per bar, or a function
    that writes them once it is known what is held: `reasons(held)`, with `held` the exposure [bar].
    """

    exposure: np.ndarray
    known: np.ndarray | None = None
    reasons: Sequence[str] | Callable[[np.ndarray], list[str]] | None = None


def make_signals(candles: pd.DataFrame, forecasts: pd.DataFrame, rules: Rules | None = None) -> pd.DataFrame:
    """One row per bar, decided at its close: `side` (buy, sell, hold), `exposure`, `confidence`, `reasons`, `in_sample`.

    `exposure` is the target fraction of equity in BTC from the next open on, below 0 sold short; it starts at 0 and is
    missing while there is no forecast yet. `confidence` is the calibrated probability that the coming return has the sign
    that `exposure` bets on: `prob_up` while invested, 1 − `prob_up` while in cash or short. Raises `InputError` if the
    indices differ.
    """
    return signal_table(candles, forecast_wish(candles, forecasts, rules or Rules()), forecasts)[0]


def forecast_wish(candles: pd.DataFrame, forecasts: pd.DataFrame, rules: Rules) -> Wish:
    """In the market from `rules.enter` on, in cash or short from `rules.exit` down, by `prob_up`. Raises as `make_signals`."""
    check_forecasts(candles, forecasts)
    prob_up = forecasts["prob_up"].to_numpy(dtype=float)
    mean = forecasts["mean"].to_numpy(dtype=float)
    wish = by_thresholds(prob_up, rules.enter, rules.exit, rules.max_exposure, rules.short)
    enter, exit_ = f"{100 * rules.enter:g} %", f"{100 * rules.exit:g} %"

    def reasons(held: np.ndarray) -> list[str]:
        percent = number_texts(prob_up, 0.001, lambda value: f"probability of up {100 * value:.1f} %")
        basis = number_texts(mean, 1e-5, lambda value: f", expected return {1e4 * value:+.1f} bps")
        rule = rule_texts(wish, held, enter, exit_)
        texts = list(map("".join, zip(percent, basis, rule, strict=True)))
        for bar in np.flatnonzero(np.isnan(prob_up)):
            texts[bar] = NO_FORECAST
        return texts

    return Wish(wish, ~np.isnan(prob_up), reasons)


def check_forecasts(candles: pd.DataFrame, forecasts: pd.DataFrame) -> None:
    """Raise `InputError` unless `forecasts` are of these candles and say `prob_up` and `mean`."""
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


# What a function returned


def wish_of(answer: Any, candles: pd.DataFrame, name: str) -> Wish:
    """`answer`, the return value of strategy `name`, as a wish. Raises `InputError` saying what is wrong with it."""
    if isinstance(answer, Wish):
        return answer
    reasons = None
    if isinstance(answer, tuple):
        if len(answer) != 2:
            raise _wrong(name, f"a tuple of {len(answer)}; it must be exposure, or (exposure, reasons)")
        answer, reasons = answer
    exposure = _exposure(answer, candles.index, name)
    texts = None if reasons is None else _reasons(reasons, candles.index, name)
    return Wish(exposure, None, texts if texts is not None else _plain_reasons(exposure))


def _wrong(name: str, what: str) -> InputError:
    return InputError(f"Strategy {name!r} returned {what}.")


def _exposure(answer: Any, index: pd.Index, name: str) -> np.ndarray:
    like = "it must return a Series with the index of the candles, e.g. pd.Series(…, candles.index)"
    if answer is None:
        raise _wrong(name, f"nothing; {like}. Is there a 'return'?")
    if isinstance(answer, pd.DataFrame):
        columns = ", ".join(map(str, answer.columns))
        raise _wrong(name, f"a frame with the columns {columns}; return one of them, e.g. frame['exposure']")
    if not isinstance(answer, pd.Series):
        raise _wrong(name, f"a {type(answer).__name__}; {like}")
    if len(answer) != len(index):
        raise _wrong(
            name, f"{len(answer):,} values for {len(index):,} bars; give one a bar, missing where it has no opinion"
        )
    if not answer.index.equals(index):
        bar = next((i for i, (own, bar) in enumerate(zip(answer.index, index, strict=True)) if own != bar), 0)
        raise _wrong(name, f"other timestamps than the candles': row {bar} is {answer.index[bar]}, not {index[bar]}")
    try:
        exposure = answer.to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise _wrong(name, f"values of type {answer.dtype}, which are no numbers: {error}") from None
    bad = np.flatnonzero((exposure < -1) | (exposure > 1))  # infinite ones among them; missing compares as false
    if len(bad):
        what = f"the exposure {exposure[bad[0]]:g} at {index[bad[0]]}"
        raise _wrong(name, f"{what}; it must lie in −1…1 (below 0: sold short), or be missing: no opinion")
    return exposure


def _reasons(reasons: Any, index: pd.Index, name: str) -> list[str]:
    texts = list(reasons) if isinstance(reasons, pd.Series | list | tuple | np.ndarray) else None
    if texts is None:
        raise _wrong(name, f"reasons as a {type(reasons).__name__}; give a text for each bar, as a Series or a list")
    if len(texts) != len(index):
        raise _wrong(name, f"{len(texts):,} reasons for {len(index):,} bars; give one a bar")
    odd = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if odd is not None:
        raise _wrong(name, f"the reason {texts[odd]!r} at {index[odd]}, which is no text")
    return texts


def _plain_reasons(exposure: np.ndarray) -> Callable[[np.ndarray], list[str]]:
    def reasons(held: np.ndarray) -> list[str]:
        return number_texts(exposure, 0.001, lambda value: f"wants {100 * value:g} %", "no opinion: keeps what is held")

    return reasons


# From a wish to signals


def by_thresholds(
    value: np.ndarray, enter: float, exit: float, exposure: float = 1.0, short: float = 0.0
) -> np.ndarray:
    """`exposure` where `value` ≥ `enter`, −`short` where ≤ `exit`, missing in between (hysteresis) and where `value` is."""
    return np.where(value >= enter, exposure, np.where(value <= exit, 0.0 - short, np.nan))


class Held(NamedTuple):
    """What a strategy held after a bar, on which the next depends: `exposure`, and how many closes ago it last left."""

    exposure: float = 0.0
    out: int = 1_000_000_000  # never in


@njit(cache=True, nogil=True, error_model="numpy")
def hold(wish, codes, cooldown, before, first):  # type: ignore[no-untyped-def]
    """What is held after each bar [float], what refused an entry in it [int8], and what is `Held` in the end.

    It follows `wish` (NaN: keeps what is held), but does not enter where `codes` [2, bar] (0: to buy, 1: to sell short) is not
    0, nor at the `cooldown` closes after the one at which it left. A change of sides leaves and enters at one close; where the
    entry is refused, or there is a cooldown, it only leaves. What refused one is a code, below 0 for one to sell short; 0:
    nothing did. It begins at bar number `first` with what was held `before`.
    """
    held, refused = np.full(len(wish), before.exposure), np.zeros(len(wish), np.int8)
    now, out = before.exposure, before.out
    for t in range(first, len(wish)):
        want = wish[t]
        if now != 0 and (want == 0 or (now > 0 and want < 0) or (now < 0 and want > 0)):
            now, out = 0.0, -1
        if want > 0 or want < 0:
            side = 0 if want > 0 else 1
            code = codes[side, t]
            if code == 0 and max(out, 0) < cooldown:
                code = COOLDOWN
            if now != 0 or code == 0:
                now = want
            else:
                refused[t] = -code if side else code
        held[t] = now
        out += 1
    return held, refused, Held(now, out)


def signal_table(
    candles: pd.DataFrame,
    wish: Wish,
    forecasts: pd.DataFrame | None = None,
    verdict: Verdict | None = None,
    before: Held | None = None,
    first: int = 0,
) -> tuple[pd.DataFrame, Held]:
    """The signals that follow from what a strategy wants and what forbids an entry, and what is held in the end.

    Columns are as of `make_signals`. Without forecasts nothing calibrated is known: `confidence` is then missing, and
    nothing is in sample. Of bars that go on from earlier signals, `first` is the number of the first new one and `before` what
    was held until then; the table has the new ones alone.
    """
    count, before = len(candles), before or Held()
    codes = np.zeros((2, count), np.int8) if verdict is None else verdict.codes
    cooldown = 0 if verdict is None else int(verdict.filters.cooldown_bars)
    held, refused, after = hold(np.asarray(wish.exposure, dtype=np.float64), codes, cooldown, before, first)
    known = np.ones(count, dtype=bool) if wish.known is None else wish.known
    texts = wish.reasons(held) if callable(wish.reasons) else list(wish.reasons or [""] * count)
    if verdict is not None:
        for bar, text in zip(*verdict.texts(np.where(known, refused, 0)), strict=True):
            texts[bar] += text
    exposure = np.where(known, held, np.nan)
    confidence, in_sample = np.full(count, np.nan), np.zeros(count, dtype=bool)
    if forecasts is not None:
        prob_up = forecasts["prob_up"].to_numpy(dtype=float)
        confidence = np.where(known, np.where(held > 0, prob_up, 1 - prob_up), np.nan)
        if "in_sample" in forecasts:
            in_sample = forecasts["in_sample"].to_numpy(dtype=bool)
    table = pd.DataFrame(
        {
            "side": sides(exposure[first:], before.exposure),
            "exposure": exposure[first:],
            "confidence": confidence[first:],
            "reasons": texts[first:],
            "in_sample": in_sample[first:],
        },
        candles.index[first:],
    )
    table.attrs = dict(candles.attrs if forecasts is None else forecasts.attrs)
    return table, after


def sides(exposure: np.ndarray, before: float = 0.0) -> np.ndarray:
    """`buy` and `sell` where the exposure is above or below the last one known (`before` at first), else `hold`."""
    path = np.concatenate([[before], exposure])
    last = np.maximum.accumulate(np.where(np.isnan(path), 0, np.arange(len(path))))
    held = path[last[:-1]]
    return np.select([exposure > held, exposure < held], ["buy", "sell"], "hold")


def latest_signal(signals: pd.DataFrame, forecasts: pd.DataFrame | None = None) -> dict[str, Any]:
    """The newest row as JSON values: the signal, and the forecast behind it, if any; what is missing is None."""
    behind = {} if forecasts is None else forecasts.iloc[-1].to_dict()
    row: dict[Any, Any] = {**behind, **signals.iloc[-1].to_dict()}
    plain = {str(name): None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
    return {"bar": signals.index[-1].isoformat(), **plain, "in_sample": bool(row["in_sample"])}


# Reasons. There is one a bar, years of them: a number's text is written once and looked up, not formatted anew each time.


def rule_texts(wish: np.ndarray, held: np.ndarray, enter: str, exit: str) -> list[str]:
    """Which side of its thresholds decided each bar, and what it means for what is `held`."""
    between, below = f"; between exit {exit} and enter {enter}: keep ", f"; at or below exit {exit}: "
    kept = [between + text for text in ("the short position", "cash", "the position")]
    told = [below + "sell short", below + "hold cash", f"; at or above enter {enter}: hold BTC"]
    texts = np.array([*kept, *told], dtype=object)
    missing = np.isnan(wish)
    return texts[np.sign(np.where(missing, held, wish)).astype(np.int8) + np.where(missing, 1, 4)].tolist()


def number_texts(values: np.ndarray, step: float, write: Callable[[float], str], missing: str = "") -> list[str]:
    """`write(value)` of each value rounded to whole `step`s; `missing` where it is missing."""
    present = np.isfinite(values)
    if not present.any():
        return [missing] * len(values)
    whole = np.rint(np.where(present, values, values[present][0]) / step)
    low, high = whole.min(), whole.max()
    if high - low > MOST_TEXTS:
        return [write(float(value)) if np.isfinite(value) else missing for value in values]
    places = (whole - low).astype(np.int64)
    used = np.zeros(int(high - low) + 1, dtype=bool)
    used[places] = True
    texts = np.empty(len(used) + 1, dtype=object)
    for place in np.flatnonzero(used):
        texts[place] = write((low + place) * step + 0.0)  # never a negative zero
    texts[-1] = missing
    return texts[np.where(present, places, len(used))].tolist()
