"""A gallery of cheats: each looks ahead, each is caught and named; and their honest counterparts pass.

They are written as a user would write them, as functions of the candles, registered by name. The market has what cheats
like: a halt that was filled flat and a hole of a day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
from scipy.signal import butter, fftconvolve, filtfilt, lfilter

import btclab as bl
from btclab.context.join import join_asof
from btclab.context.series import SERIES
from btclab.context.store import save_values
from btclab.features.indicators import CUSTOM
from btclab.features.spec import Feature, FeatureSpec
from btclab.forecasting.labels import forward_log_return

LOW_PASS = butter(2, 0.1)


def log(candles: pd.DataFrame) -> pd.Series:
    return np.log(candles["close"])


def returns(candles: pd.DataFrame) -> pd.Series:
    return log(candles).diff()


def traded(candles: pd.DataFrame) -> pd.Series:
    """Log price, missing while the exchange halted."""
    return log(candles).where(candles["volume"] > 0)


def daily(candles: pd.DataFrame) -> pd.Series:
    return log(candles).resample("1D").last()


def of_day(candles: pd.DataFrame, how: str) -> pd.Series:
    return log(candles).groupby(candles.index.floor("D")).transform(how)


def held(longer: pd.Series, candles: pd.DataFrame) -> pd.Series:
    """Values stamped with the open of longer bars, for each bar within."""
    return longer.reindex(candles.index, method="ffill")


def swing(candles: pd.DataFrame) -> pd.Series:
    """The newest high that is the highest of 12 bars before and after it."""
    high = candles["high"]
    return high.where(high == high.rolling(25, center=True).max()).ffill()


CHEATS: dict[str, Callable[[pd.DataFrame], object]] = {
    "chikou_span": lambda c: log(c).shift(-25) - log(c),
    "centred_window": lambda c: log(c) - log(c).rolling(5, center=True).mean(),
    "full_sample_scaling": lambda c: (returns(c) - returns(c).mean()) / returns(c).std(),
    "full_sample_range": lambda c: (c["close"] - c["low"].min()) / (c["high"].max() - c["low"].min()),
    "full_sample_rank": lambda c: c["close"].rank(pct=True),
    "full_sample_quantile": lambda c: c["volume"] > c["volume"].quantile(0.99),
    "full_sample_trend": lambda c: log(c) - np.polyval(np.polyfit(np.arange(len(c)), log(c), 1), np.arange(len(c))),
    "highest_of_all": lambda c: c["close"] / c["high"].max(),
    "lowest_of_all": lambda c: c["close"] / c["low"].min(),
    "back_fill": lambda c: traded(c).bfill(),
    "back_fill_of_weekends": lambda c: log(c).where(c.index.dayofweek < 5).bfill(),
    "interpolation_across_a_gap": lambda c: traded(c).interpolate(),
    "todays_close_broadcast": lambda c: log(c) - of_day(c, "last"),
    "newest_value_broadcast": lambda c: log(c) - log(c).iloc[-1],
    "bars_until_the_end": lambda c: np.arange(len(c))[::-1],
    "daily_bar_before_its_close": lambda c: log(c) - held(daily(c), c),
    "shift_through_resample": lambda c: log(c) - held(log(c).resample("4h").last().shift(-1), c),
    "zscore_over_the_whole_day": lambda c: (log(c) - of_day(c, "mean")) / of_day(c, "std"),
    "target": lambda c: forward_log_return(c, 1),
    "sign_of_the_target": lambda c: (c["close"].shift(-1) > c["close"]).astype(float),
    "target_of_a_day": lambda c: forward_log_return(c, 24).fillna(0),
    "rolling_backwards": lambda c: log(c)[::-1].rolling(5).mean()[::-1],
    "average_sorted_by_future": lambda c: log(c).sort_index(ascending=False).ewm(span=10).mean().sort_index(),
    "filter_both_ways": lambda c: filtfilt(*LOW_PASS, log(c)),
    "fourier_smoothing": lambda c: np.fft.irfft(np.fft.rfft(log(c))[: len(c) // 50], len(c)),
    "swings_known_early": swing,
    "swing_distance_known_early": lambda c: np.log(swing(c) / c["close"]),
    "pattern_a_bar_early": lambda c: bl.indicator("hammer", c).shift(-1).fillna(0),
    "week_end_alone": lambda c: returns(c).where(
        ~((c.index.dayofweek == 6) & (c.index.hour == 23)), returns(c).shift(-1)
    ),
    "crash_ahead": lambda c: c["low"][::-1].cummin()[::-1] < 0.3 * c["close"],
    "rally_ahead": lambda c: c["high"][::-1].cummax()[::-1] > 3.5 * c["close"],
    "crash_alone": lambda c: (returns(c).shift(-1) < -0.03).astype(float),
}

HONEST: dict[str, Callable[[pd.DataFrame], object]] = {
    "lagged_price": lambda c: log(c).shift(26) - log(c),
    "trailing_window": lambda c: log(c) - log(c).rolling(5).mean(),
    "expanding_scaling": lambda c: (returns(c) - returns(c).expanding().mean()) / returns(c).expanding().std(),
    "range_so_far": lambda c: (c["close"] - c["low"].cummin()) / (c["high"].cummax() - c["low"].cummin()),
    "trailing_rank": lambda c: c["close"].rolling(100).rank(pct=True),
    "trailing_quantile": lambda c: c["volume"] > c["volume"].rolling(100).quantile(0.99),
    "forward_fill": lambda c: traded(c).ffill(),
    "day_so_far": lambda c: log(c) - log(c).groupby(c.index.floor("D")).cummax(),
    "daily_bar_after_its_close": lambda c: log(c) - held(daily(c).shift(1), c),
    "past_return": lambda c: forward_log_return(c, 1).shift(1),
    "average": lambda c: log(c) - log(c).ewm(span=10).mean(),
    "running_sum": lambda c: (returns(c) * c["volume"]).fillna(0).cumsum(),
    "filter_one_way": lambda c: lfilter(*LOW_PASS, returns(c).fillna(0)),
    "convolution": lambda c: fftconvolve(returns(c).fillna(0), np.full(10, 0.1))[: len(c)],
    "swings_known_late": lambda c: swing(c).shift(12),
    "trailing_moments": lambda c: returns(c).rolling(100).skew(),
    "trailing_correlation": lambda c: returns(c).rolling(50).corr(c["volume"]),
}


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, function in {**CHEATS, **HONEST}.items():
            patch.setitem(CUSTOM, name, function)
        yield


def spec_of(names: dict[str, Callable[[pd.DataFrame], object]]) -> FeatureSpec:
    return FeatureSpec("own", tuple(Feature(name, "own", name, warmup=150) for name in names))


@pytest.fixture(scope="module")
def market(candles: pd.DataFrame) -> pd.DataFrame:
    """Three months of simulated hours with a hole of a day and a halt of ten hours that was filled flat."""
    bars = candles.drop(index=candles.index[900:924])
    halt = slice(1500, 1510)
    bars.iloc[halt, :4] = bars["close"].iloc[1499]
    bars.iloc[halt, 4] = 0.0
    return bars


@pytest.fixture(scope="module")
def caught(market: pd.DataFrame, registered: None) -> dict[str, pd.DataFrame]:
    """By cheat, what the audit, as `train` runs it, has to say."""
    table = bl.audit_features(market, spec_of(CHEATS)).table
    return {str(name): rows for name, rows in table.groupby("feature")}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_caught_and_named(caught, market, cheat):
    assert cheat in caught
    assert caught[cheat]["first_bar"].isin(market.index).all()
    assert (caught[cheat]["size"] > 1e-9).all()


@pytest.fixture(scope="module")
def caught_on_real_hours(real_file, registered: None) -> list[str]:
    """The cheats that are caught in the spring of 2023, with a halt in an hour without trade and one that is missing."""
    hours = bl.load_candles(f"file:{real_file}", start="2023-01-15").iloc[:3000]
    return bl.audit_features(hours, spec_of(CHEATS), cuts=40, seed=1).leaky


def test_the_cheats_are_caught_on_real_hours(caught_on_real_hours):
    assert set(CHEATS) - set(caught_on_real_hours) == set()


@pytest.mark.parametrize("seed", range(3))
def test_their_honest_counterparts_pass(market, registered, seed):
    audit = bl.audit_features(market, spec_of(HONEST), cuts=20, seed=seed)
    assert audit.leaky == []
    assert audit.unverified == {}
    assert audit.checked == len(HONEST)


@pytest.mark.parametrize("start", ["2018-01-01", "2023-01-15"])
def test_their_honest_counterparts_pass_on_real_hours(real_file, registered, start):
    hours = bl.load_candles(f"file:{real_file}", start=start).iloc[:3000]
    audit = bl.audit_features(hours, spec_of(HONEST), cuts=20)
    assert audit.leaky == []
    assert audit.unverified == {}


# Context series: a value is known only once it was public


READERS = FeatureSpec(
    "context",
    (
        Feature("hash_rate_change_7", "on-chain", "log_change", {"days": 7}, inputs=("hash_rate",)),
        Feature("fear", "sentiment", "level", inputs=("fear_greed",)),
        Feature("log_return_1", "momentum", "log_return", {"length": 1}),
    ),
)
SOURCES = {"hash_rate": "coinmetrics", "fear_greed": "alternative.me"}


@pytest.fixture
def hours(market: pd.DataFrame) -> pd.DataFrame:
    """The market, of an exchange that exists, and two series that are stored beside it, one with a hole of a week."""
    random, days = np.random.default_rng(1), pd.date_range("2020-12-20", "2021-04-01", freq="D", tz="UTC")
    save_values(
        SERIES["fear_greed"], "alternative.me", pd.Series(random.integers(5, 95, len(days)).astype(float), days)
    )
    rate = pd.Series(1e8 * np.exp(np.cumsum(random.normal(0, 0.05, len(days)))), days)
    save_values(SERIES["hash_rate"], "coinmetrics", rate.drop(index=days[40:47]))
    bars = market.copy()
    bars.attrs = {"source": "binance", "symbol": "BTC/USDT", "timeframe": "1h", "simulated": False}
    return bars


def stamped(hours: pd.DataFrame, name: str, early: str = "0h", lag: pd.Timedelta | None = None) -> pd.Series:
    """The stored series joined as if it had been stamped `early`, or published with another `lag`."""
    from btclab.context.store import read_values

    series, values = SERIES[name], read_values(SOURCES[name], name)
    values.index = values.index - pd.Timedelta(early)
    return join_asof(hours, values, series.lag if lag is None else lag, series.max_age)


CONTEXT_CHEATS: dict[str, Callable[[pd.DataFrame, str], pd.Series]] = {
    "stamped a day early": lambda hours, name: stamped(hours, name, "1D"),
    "stamped an hour early": lambda hours, name: stamped(hours, name, "1h"),
    "published at once": lambda hours, name: stamped(hours, name, lag=pd.Timedelta(0)),
    "shifted by a bar": lambda hours, name: bl.load_context(hours)[name].shift(-1),
    "back-filled": lambda hours, name: bl.load_context(hours)[name].bfill().interpolate(limit_direction="both") + 1e-3,
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("cheat", CONTEXT_CHEATS)
def test_a_context_series_used_too_early_is_caught(hours, name, cheat):
    context = bl.load_context(hours)
    audit = bl.audit_features(hours, READERS, context.assign(**{name: CONTEXT_CHEATS[cheat](hours, name)}))
    assert audit.leaky == [next(one.name for one in READERS.features if name in one.inputs)]
    assert audit.table["test"].tolist() == [f"context as it was public: {name}"]


def test_interpolation_across_a_hole_of_a_context_series_is_caught(hours):
    context = bl.load_context(hours)
    filled = context.assign(hash_rate=context["hash_rate"].interpolate())
    assert filled["hash_rate"].notna().sum() > context["hash_rate"].notna().sum()
    assert bl.audit_features(hours, READERS, filled).leaky == ["hash_rate_change_7"]


@pytest.mark.parametrize("seed", range(3))
def test_context_as_it_was_public_passes(hours, seed):
    audit = bl.audit_features(hours, READERS, bl.load_context(hours), seed=seed, cuts=12)
    assert audit.passed
    assert audit.checked == 3
    assert audit.unverified == {}
