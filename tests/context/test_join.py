"""A bar knows what was public when it closed, and nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import btclab as bl
from btclab.context.join import join_asof, load_context
from btclab.context.series import SERIES
from btclab.context.store import save_values
from btclab.errors import InputError
from tests.conftest import SHARED

HOUR, DAY = pd.Timedelta("1h"), pd.Timedelta("1D")
BEGIN = pd.Timestamp("2024-01-01", tz="UTC")


def bars(count: int = 72, timeframe: str = "1h", begin: pd.Timestamp = BEGIN) -> pd.DataFrame:
    """Bars of a market that does not move; only their times matter here."""
    index = pd.date_range(begin, periods=count, freq=timeframe.replace("1d", "1D"), name="timestamp")
    frame = pd.DataFrame(100.0, index=index, columns=["open", "high", "low", "close", "volume"])
    frame.attrs = {"source": "binance", "timeframe": timeframe, "simulated": False}
    return frame


def stamped(*pairs: tuple[str, float]) -> pd.Series:
    return pd.Series([value for _, value in pairs], index=pd.DatetimeIndex([at for at, _ in pairs], tz="UTC"))


def plainly(candles: pd.DataFrame, values: pd.Series, lag: pd.Timedelta, max_age: pd.Timedelta) -> list[float]:
    """The same, bar by bar and value by value."""
    rows = []
    for opened in candles.index:
        close, newest = opened + pd.Timedelta(candles.attrs["timeframe"].replace("1d", "1D")), np.nan
        for stamp, value in values.items():
            if not np.isnan(value) and stamp + lag <= close:
                newest = value if close - (stamp + lag) <= max_age else np.nan
        rows.append(newest)
    return rows


minutes = st.integers(-3000, 6000)
readings = st.lists(
    st.tuples(minutes, st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")))),
    max_size=25,
    unique_by=lambda row: row[0],
)


def series_of(rows: list[tuple[int, float]]) -> pd.Series:
    rows = sorted(rows)
    index = pd.DatetimeIndex([BEGIN + pd.Timedelta(minutes=at) for at, _ in rows], tz="UTC")
    return pd.Series([value for _, value in rows], index=index, dtype=float)


@given(readings, st.integers(0, 4000), st.integers(0, 3000), st.sampled_from(["15m", "1h", "4h"]))
def test_equals_the_plain_reference(rows, lag, age, timeframe):
    candles, values = bars(40, timeframe.replace("m", "min")), series_of(rows)
    spans = pd.Timedelta(minutes=lag), pd.Timedelta(minutes=age)
    candles.attrs["timeframe"] = timeframe
    joined = join_asof(candles, values, *spans)
    assert joined.index.equals(candles.index)
    reference = candles.copy()
    reference.attrs["timeframe"] = timeframe.replace("15m", "15min")
    np.testing.assert_array_equal(joined, plainly(reference, values, *spans))


@given(readings, st.integers(0, 4000), st.integers(0, 3000), st.integers(1, 71))
def test_what_comes_later_moves_nothing(rows, lag, age, cut):
    candles, values = bars(), series_of(rows)
    spans = pd.Timedelta(minutes=lag), pd.Timedelta(minutes=age)
    whole = join_asof(candles, values, *spans).iloc[:cut]
    close = candles.index[cut - 1] + HOUR
    known = values.index + spans[0] <= close
    np.testing.assert_array_equal(join_asof(candles.iloc[:cut], values[known], *spans), whole)
    changed = values.where(known, -values - 1)
    np.testing.assert_array_equal(join_asof(candles, changed, *spans).iloc[:cut], whole)


def test_a_value_published_at_the_close_is_known_and_one_a_moment_later_is_not():
    candles = bars(2)
    at_close, later = "2024-01-01 01:00", "2024-01-01 01:00:00.001"
    assert join_asof(candles, stamped((at_close, 7.0)), 0 * HOUR, DAY).tolist() == [7.0, 7.0]
    assert np.isnan(join_asof(candles, stamped((later, 7.0)), 0 * HOUR, DAY).iloc[0])
    assert np.isnan(join_asof(candles, stamped((at_close, 7.0)), pd.Timedelta("1ns"), DAY).iloc[0])


def test_age_is_counted_from_publication_and_a_value_beyond_it_is_missing():
    joined = join_asof(bars(6), stamped(("2024-01-01", 7.0)), 2 * HOUR, 2 * HOUR)
    np.testing.assert_array_equal(joined, [np.nan, 7, 7, 7, np.nan, np.nan])


def test_a_missing_reading_is_none_and_hides_no_earlier_one():
    joined = join_asof(bars(3), stamped(("2024-01-01", 7.0), ("2024-01-01 01:30", np.nan)), 0 * HOUR, DAY)
    assert joined.tolist() == [7, 7, 7]


def test_daily_bars_see_at_their_close_what_was_public_by_midnight():
    joined = join_asof(bars(3, "1d"), stamped(("2024-01-01", 1.0), ("2024-01-02", 2.0)), DAY, 5 * DAY)
    assert joined.tolist() == [1, 2, 2]


def test_times_in_other_units_mean_the_same():
    values = stamped(("2023-12-31", 1.0), ("2024-01-01", 2.0))
    for unit in ("s", "ms", "us", "ns"):
        odd = values.set_axis(values.index.as_unit(unit))
        np.testing.assert_array_equal(join_asof(bars(), odd, 5 * HOUR, DAY), join_asof(bars(), values, 5 * HOUR, DAY))


@pytest.mark.parametrize(
    ("values", "lag", "said"),
    [
        (stamped(("2024-01-01", 1.0)), -HOUR, "before it was public"),
        (stamped(("2024-01-02", 1.0), ("2024-01-01", 2.0)), HOUR, "unique and in order"),
        (stamped(("2024-01-01", 1.0), ("2024-01-01", 2.0)), HOUR, "unique and in order"),
        (stamped(("2024-01-01", 1.0)).tz_localize(None), HOUR, "must be UTC"),
    ],
)
def test_what_could_not_be_joined_rightly_is_refused(values, lag, said):
    with pytest.raises(InputError, match=said):
        join_asof(bars(), values, lag, DAY)


# load_context


def stored(name: str, *pairs: tuple[str, float]) -> None:
    save_values(SERIES[name], next(iter(SERIES[name].sources)), stamped(*pairs))


def test_columns_stand_beside_the_candles_with_their_lag():
    stored("fear_greed", ("2024-01-01", 30.0), ("2024-01-02", 40.0))
    context = load_context(bars(26), ["fear_greed"])
    assert list(context.columns) == ["fear_greed"]
    assert context.index.equals(bars(26).index)
    assert context["fear_greed"].tolist() == [30.0] * 24 + [40.0] * 2


def test_attrs_say_source_unit_and_lag():
    stored("fear_greed", ("2024-01-01", 30.0))
    said = load_context(bars(26), "fear_greed").attrs
    assert said["series"]["fear_greed"] == {
        "source": "alternative.me",
        "unit": "index 0 (fear) to 100 (greed)",
        "lag": "1 h",
        "max_age": "2 days",
        "last": "2024-01-01T00:00:00+00:00",
    }
    assert said["missing"] == {}


def test_a_series_that_is_not_stored_is_missing_and_says_what_to_type():
    context = load_context(bars())
    assert list(context.columns) == list(SERIES)
    assert context.isna().all(axis=None)
    assert context.attrs["missing"]["gold"] == "nothing is stored; fetch it: btclab fetch --context gold"
    assert "needs BTCLAB_CONTEXT__FRED_API_KEY" in context.attrs["missing"]["vix"]


def test_a_series_that_has_ended_is_missing_and_says_until_when_it_is_stored():
    stored("fear_greed", ("2024-01-01", 30.0))
    context = load_context(bars(100), ["fear_greed"])
    assert context["fear_greed"].isna().sum() == 100 - 49  # public at 01:00, the close of the first bar; 48 hours
    assert context.attrs["missing"]["fear_greed"].startswith("stored from 2024-01-01 to 2024-01-01 00:00; fetch it")


def test_simulated_candles_have_no_context():
    with pytest.raises(InputError, match="are simulated: nothing in the world belongs to them"):
        load_context(bl.load_candles("simulated:7", end="2021-01-10"))


# Real series on real candles


@pytest.fixture(scope="module")
def real_hours(real_file) -> pd.DataFrame:
    return bl.load_candles(f"file:{real_file}", "1h", "2019-06-01", "2024-12-31")


FILES = {
    "fear_greed_daily.csv": {"fng": "fear_greed"},
    "macro_daily.csv": {"sp500": "sp500", "vix": "vix", "dgs10_pct": "yield_10y", "usd_broad_dtwexbgs": "dollar_broad"},
    "onchain_coinmetrics_daily.csv": {
        "active_addresses": "active_addresses",
        "mvrv": "mvrv",
        "hash_rate_ths": "hash_rate",
    },
    "onchain_blockchain_com_daily.csv": {"miner_revenue_usd": "miners_revenue", "tx_count": "transactions"},
    "btc_perp_funding_daily.csv": {"funding_rate_mean_8h": "funding_rate"},
}


def real_values(file: str, column: str) -> pd.Series:
    path = SHARED / "context" / file
    if not path.exists():
        pytest.skip(f"no real series at {path}")
    values = pd.read_csv(path, index_col="date", parse_dates=["date"])[column].dropna()
    return values.tz_localize("UTC")


@pytest.mark.parametrize(
    ("file", "column", "name"), [(file, column, name) for file, held in FILES.items() for column, name in held.items()]
)
def test_no_real_bar_knows_a_value_before_its_lag(real_hours, file, column, name):
    values, series = real_values(file, column), SERIES[name]
    assert values.between(series.low, series.high).all()
    dates = pd.Series(values.index.as_unit("s").asi8.astype(float), index=values.index)  # each value is its own date
    joined = join_asof(real_hours, dates, series.lag, series.max_age).dropna()
    assert len(joined) > 0.9 * len(real_hours.loc[values.index[0] + series.lag : values.index[-1] + series.lag])
    public = pd.DatetimeIndex(pd.to_datetime(joined.astype("int64"), unit="s", utc=True)) + series.lag
    waited = joined.index + HOUR - public
    assert pd.Timedelta(0) <= waited.min() < HOUR
    assert waited.max() <= series.max_age


def test_the_close_of_a_friday_is_seen_on_saturday_and_over_the_weekend(real_hours):
    values = real_values("macro_daily.csv", "sp500")
    joined = join_asof(real_hours, values, SERIES["sp500"].lag, SERIES["sp500"].max_age)
    thursday, friday, monday = (values[day] for day in ("2020-03-12", "2020-03-13", "2020-03-16"))
    known = joined.shift(1)  # by the moment the bar opens, the close of the one before
    assert known["2020-03-14 11:00"] == thursday
    assert known["2020-03-14 12:00"] == friday
    assert known["2020-03-17 11:00"] == friday
    assert known["2020-03-17 12:00"] == monday


@pytest.mark.parametrize(("column", "least"), [("tx_count", 0.95), ("hash_rate_ths", 0.99)])
def test_days_of_blockchain_info_are_the_days_of_coinmetrics(column, least):
    theirs = real_values("onchain_coinmetrics_daily.csv", column).pct_change()
    ours = real_values("onchain_blockchain_com_daily.csv", column).pct_change()
    found = {days: theirs.corr(ours.shift(days)) for days in range(-2, 3)}
    assert found[0] > least
    assert max(value for days, value in found.items() if days) < 0.2
