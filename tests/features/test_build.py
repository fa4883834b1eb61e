"""The feature table: causal, scale-free, missing during its warm-up, never filled; the newest row alone is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import btclab as bl
from btclab.context.series import SERIES
from btclab.errors import CandleError, InputError, TooFewBars
from btclab.features import build
from btclab.features.build import build_features
from btclab.features.spec import CONTEXT_GROUPS, Feature, FeatureSpec, resolve_spec

DEFAULT, TECHNICAL = resolve_spec("default"), resolve_spec("technical")
PRICES = ["open", "high", "low", "close"]
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def daily_context(candles: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Every series that btclab knows as a random walk in daily steps, with a day missing now and then."""
    rng = np.random.default_rng(seed)
    days = pd.DatetimeIndex(candles.index).floor("1D")
    numbers = np.asarray((days - days[0]) // pd.Timedelta("1D"))
    columns = {}
    for name, series in SERIES.items():
        steps = rng.normal(0, 0.03, numbers[-1] + 1)
        values = np.exp(np.cumsum(steps))
        if series.low <= 0 and series.high <= 0.1:
            values = steps / 100
        elif name == "fear_greed":
            values = 50 + 49 * np.sin(np.cumsum(10 * steps))
        values[rng.random(len(values)) < 0.02] = np.nan
        columns[name] = values[numbers]
    return pd.DataFrame(columns, index=candles.index)


@pytest.fixture(scope="module")
def long() -> pd.DataFrame:
    """Four months of simulated hours with two halts: five hours, and two days."""
    whole = bl.load_candles("simulated:3", end="2021-05-01")
    return whole.drop(whole.index[[*range(700, 705), *range(1500, 1548)]])


@pytest.fixture(scope="module")
def context(long: pd.DataFrame) -> pd.DataFrame:
    return daily_context(long)


@pytest.fixture(scope="module")
def features(long: pd.DataFrame, context: pd.DataFrame) -> pd.DataFrame:
    return build_features(long, context)


@pytest.fixture(scope="module")
def real(real_file: Path) -> pd.DataFrame:
    """The first half of 2023, with its halt."""
    return bl.load_candles(f"file:{real_file}", start="2023-01-01", end="2023-07-01")


def size_of(table: pd.DataFrame) -> np.ndarray:
    """The largest value of each column: what a difference is relative to."""
    return table.abs().max().fillna(0).to_numpy() + 1e-12


def assert_same(actual: pd.DataFrame, expected: pd.DataFrame, size: np.ndarray, tolerance: float = 1e-9) -> None:
    """Missing in the same places, and equal to `tolerance` of the column's `size`."""
    assert actual.index.equals(expected.index)
    one, other = actual.to_numpy(), expected.to_numpy()
    odd = np.isnan(one) != np.isnan(other)
    assert not odd.any(), list(actual.columns[odd.any(axis=0)])
    apart = np.nan_to_num(np.abs(one - other)) / size
    assert apart.max() <= tolerance, (actual.columns[apart.max(axis=0) > tolerance].tolist(), apart.max())


# Shape


def test_one_row_per_bar_and_one_column_per_feature(long, features):
    assert features.index.equals(long.index)
    assert list(features.columns) == DEFAULT.columns
    assert all(kind == np.float64 for kind in features.dtypes)


def test_values_are_missing_exactly_until_the_warm_up_has_passed(long, features):
    first = features.notna().to_numpy().argmax(axis=0)
    declared = [one.warmup_at("1h") for one in DEFAULT.features]
    late = {name: (f, d) for name, f, d in zip(DEFAULT.columns, first, declared, strict=True) if f != d}
    assert not {name for name in late if name not in TECHNICAL.columns and late[name][0] < late[name][1]}
    assert not set(late) & set(TECHNICAL.columns)
    assert all(f - d <= 24 for f, d in late.values())  # a day of the series that is missing


def test_real_bars_leave_no_value_missing_once_it_is_warm(real):
    table = build_features(real, spec="technical")
    first = table.notna().to_numpy().argmax(axis=0)
    assert first.tolist() == [one.warmup_at("1h") for one in TECHNICAL.features]
    holes = {name: table[name].iloc[start:].isna().sum() for name, start in zip(table, first, strict=True)}
    assert not {name: count for name, count in holes.items() if count}


def test_nothing_is_infinite(candles):
    """A leap, then bars without a range: choppiness and volatility ratio divide what was by nothing."""
    leap = candles.copy()
    leap.iloc[1000:1400, :4] = 2 * leap["high"].max()
    table = build_features(leap, spec=TECHNICAL.only(["choppiness_14", "volatility_ratio_24_168"]))
    assert not np.isinf(table.to_numpy()).any()
    assert np.isnan(table["volatility_ratio_24_168"].iloc[1100])  # the short window has no move, the long one has


def test_attrs_say_group_unit_warm_up_and_source_of_each(long, context, features):
    assert features.attrs["source"] == "simulated:3"
    said = features.attrs["features"]
    assert list(said) == DEFAULT.columns
    assert said["rsi_14"] == {
        "group": "momentum",
        "unit": "−1…1",
        "warmup": resolve_spec("default").only(["rsi_14"]).warmup_at("1h"),
        "source": "candles (simulated:3)",
    }
    told = context.copy()
    told.attrs["series"] = {"hash_rate": {"source": "coinmetrics"}}
    table = build_features(long, told, DEFAULT.only(["hash_rate_change_30", "vix"]))
    assert table.attrs["features"]["hash_rate_change_30"]["source"] == "hash_rate (coinmetrics)"
    assert table.attrs["features"]["vix"]["source"] == "vix"


def test_the_candles_and_the_context_are_left_as_they_are(long, context):
    bars, series = long.copy(), context.copy()
    build_features(long, context)
    pd.testing.assert_frame_equal(long, bars)
    pd.testing.assert_frame_equal(context, series)


# Causal


@few
@given(cut=st.integers(DEFAULT.warmup_at("1h") + 1, 2700))
def test_features_recomputed_on_candles_cut_at_t_are_equal_at_t(long, context, features, cut):
    known = build_features(long.iloc[:cut], context.iloc[:cut])
    np.testing.assert_array_equal(known.to_numpy(), features.iloc[:cut].to_numpy())


@few
@given(cut=st.integers(DEFAULT.warmup_at("1h") + 1, 2700), factor=st.sampled_from([0.2, 5.0]))
def test_changing_any_later_bar_or_value_changes_nothing_earlier(long, context, features, cut, factor):
    later, values = long.copy(), context.copy()
    later.iloc[cut:] *= factor
    values.iloc[cut:] *= factor
    changed = build_features(later, values)
    np.testing.assert_array_equal(changed.iloc[:cut].to_numpy(), features.iloc[:cut].to_numpy())
    assert not changed.iloc[cut:].equals(features.iloc[cut:])


def test_a_longer_bar_is_known_when_its_last_hour_has_closed_and_not_before(long):
    spec = FeatureSpec("mine", (Feature("a", "g", "sma", {"length": 1}, timeframe="4h"),))
    table = build_features(long, spec=spec)["a"]
    close = long["close"]
    assert table.loc["2021-01-10 03:00+00:00"] == close.loc["2021-01-10 03:00+00:00"]
    for hour in ("04:00", "05:00", "06:00"):
        assert table.loc[f"2021-01-10 {hour}+00:00"] == close.loc["2021-01-10 03:00+00:00"]
    assert table.loc["2021-01-10 07:00+00:00"] == close.loc["2021-01-10 07:00+00:00"]


def test_the_distance_of_yesterdays_pivot_is_from_todays_close(long):
    yesterday, hour = long.loc["2021-01-09"], long.loc["2021-01-10 13:00+00:00"]
    pivot = (yesterday["high"].max() + yesterday["low"].min() + yesterday["close"].iloc[-1]) / 3
    table = build_features(long, spec=DEFAULT.only(["pivot_distance_1d", "pivot_r1_distance_1d"]))
    row = table.loc["2021-01-10 13:00+00:00"]
    assert row["pivot_distance_1d"] == pytest.approx(np.log(hour["close"] / pivot))
    assert row["pivot_r1_distance_1d"] == pytest.approx(np.log(hour["close"] / (2 * pivot - yesterday["low"].min())))


def test_a_longer_bar_is_that_of_the_resampled_candles(long):
    """The newest 4h bar that has closed, as `bl.resample` makes it, holes and all."""
    table = build_features(long, spec=DEFAULT.only(["rsi_14_4h", "bollinger_position_20_1d"]))
    for name, timeframe, own in (
        ("rsi_14_4h", "4h", lambda bars: bl.indicator("rsi", bars, length=14) / 50 - 1),
        ("bollinger_position_20_1d", "1d", lambda bars: bl.indicator("bbands", bars, length=20).iloc[:, 4]),
    ):
        values = own(bl.resample(long, timeframe))
        values.index = (
            values.index + pd.Timedelta(timeframe) - pd.Timedelta("1h")
        )  # the hour with whose close it is known
        expected = values.reindex(values.index.union(long.index)).ffill().reindex(long.index)
        warm = table[name].notna()
        np.testing.assert_allclose(table[name][warm], expected[warm], rtol=1e-9, atol=1e-12)


# The live row


@few
@given(end=st.integers(DEFAULT.warmup_at("1h") + 6, 2700), last=st.sampled_from([1, 5]))
def test_the_newest_rows_alone_are_those_of_the_whole_table(long, context, features, end, last):
    newest = build_features(long.iloc[:end], context.iloc[:end], last=last)
    assert_same(newest, features.iloc[end - last : end], size_of(features))


@pytest.mark.parametrize("last", [1, 5, 300])
def test_the_newest_rows_of_real_bars_are_those_of_the_whole_table(real, last):
    table = build_features(real, spec="technical")
    for end in (2803, 3333, 3777, len(real)):
        newest = build_features(real.iloc[:end], spec="technical", last=last)
        assert_same(newest, table.iloc[end - last : end], size_of(table))


def test_more_rows_than_there_are_bars_are_the_whole_table(long, context, features):
    assert_same(build_features(long, context, last=10**6), features, size_of(features), 0)


def test_rows_within_the_warm_up_are_as_missing_as_in_the_whole_table(long, context, features):
    bars = DEFAULT.warmup_at("1h") + 3
    newest = build_features(long.iloc[:bars], context.iloc[:bars], last=400)
    assert_same(newest, features.iloc[bars - 400 : bars], size_of(features))


@pytest.mark.parametrize("last", [0, -1, 1.5, True, "5"])
def test_a_number_of_rows_that_is_none_is_refused(candles, last):
    with pytest.raises(InputError, match=r"last is .*; it must be a whole number of rows of at least 1"):
        build_features(candles, last=last)


def test_wrong_bars_before_those_that_are_read_do_not_matter_but_those_that_are_do(candles):
    spec = DEFAULT.only(["rsi_14"])
    wrong = candles.copy()
    wrong.iloc[0, 1] = 1.0
    build_features(wrong, spec=spec, last=1)
    wrong.iloc[-2, 1] = 1.0
    with pytest.raises(CandleError, match="high below its low"):
        build_features(wrong, spec=spec, last=1)


# Scale


@pytest.mark.parametrize("columns", [PRICES, ["volume"]])
def test_features_do_not_depend_on_the_level_of_price_or_volume(long, columns):
    scaled = long.assign(**{name: long[name] * 1000 for name in columns})
    table = build_features(long)
    assert_same(build_features(scaled), table, size_of(table))


def test_threads_give_the_same_table_as_none(long, context, features, monkeypatch):
    monkeypatch.setattr(build, "WORTH_THREADS", 0)
    assert_same(build_features(long, context), features, size_of(features), 0)


def test_an_error_in_a_thread_is_seen(long, monkeypatch):
    monkeypatch.setattr(build, "WORTH_THREADS", 0)
    with pytest.raises(InputError, match="asks for output 7"):
        build_features(long, spec=FeatureSpec("mine", (Feature("a", "g", "rsi", output=7),)))


# Timeframes


@pytest.mark.parametrize(
    ("timeframe", "end", "missing"), [("4h", "2022-04-01", {"4h"}), ("12h", None, {"4h"}), ("1d", None, {"4h", "1d"})]
)
def test_other_timeframes_lack_only_what_is_of_bars_that_theirs_do_not_make(timeframe, end, missing):
    candles = bl.load_candles("simulated:3", timeframe=timeframe, end=end)
    context, spec = daily_context(candles), DEFAULT.without(["ema_200_distance"])  # it needs seven years of days
    table = build_features(candles, context, spec)
    gone = {one.name for one in DEFAULT.features if one.timeframe in missing}
    assert set(table.attrs["missing"]) == gone
    for name, reason in table.attrs["missing"].items():
        assert reason.endswith(f"these are of {timeframe}"), name
        assert table[name].isna().all()
    assert table.drop(columns=list(gone)).iloc[-100:].notna().mean().min() > 0.8  # days of the series are missing
    assert_same(build_features(candles, context, spec, last=3), table.iloc[-3:], size_of(table))


def test_minutes_are_computed_too():
    """Their days have 1,440 bars: the 1d and 4h features need two months of them."""
    rng = np.random.default_rng(0)
    bars = TECHNICAL.warmup_at("1m") + 2_000
    close = 30_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, bars)))
    open_ = np.concatenate([[30_000.0], close[:-1]])
    index = pd.date_range("2023-01-01 00:07", periods=bars, freq="min", tz="UTC", name="timestamp")
    columns = {"high": np.maximum(open_, close) * 1.0003, "low": np.minimum(open_, close) * 0.9997}
    minutes = pd.DataFrame({"open": open_, **columns, "close": close, "volume": rng.gamma(2, 5, bars)}, index=index)
    table = build_features(minutes, spec="technical")
    assert not table.attrs["missing"]
    assert table.iloc[-1000:].notna().all().all()
    assert_same(build_features(minutes, spec="technical", last=2), table.iloc[-2:], size_of(table))


# Missing context


def test_a_column_whose_context_was_not_given_is_missing_and_said_so(long):
    table = build_features(long)
    beside = [one.name for one in DEFAULT.features if one.group in CONTEXT_GROUPS]
    assert list(table.attrs["missing"]) == beside
    assert table[beside].isna().all().all()
    assert "it reads hash_rate, and no context was given" in table.attrs["missing"]["hash_rate_change_30"]


def test_what_context_a_real_market_lacks_is_said_with_what_gives_it(real):
    said = build_features(real).attrs["missing"]["vix"]
    assert said.endswith("bl.load_context(candles) gives it")


def test_a_series_that_the_context_lacks_or_that_holds_nothing_is_said(long, context):
    part = context.drop(columns="vix").assign(gold=np.nan, sp500=np.nan)
    part.attrs["missing"] = {"gold": "nothing is stored; fetch it"}
    table = build_features(long, part)
    said = table.attrs["missing"]
    assert set(said) == {
        "vix",
        "vix_change_7",
        "gold_return_7",
        "gold_moves_with_60",
        "sp500_return_7",
        "sp500_moves_with_60",
    }
    assert said["vix"] == "the context has no column vix: bl.load_context(candles) gives it"
    assert said["gold_return_7"] == "gold: nothing is stored; fetch it"
    assert said["sp500_return_7"] == "sp500: holds no value"
    assert table[list(said)].isna().all().all()


def test_columns_that_are_missing_anyhow_ask_for_no_bars(long):
    """Without context, a change over 30 days is missing: that history is too short for it does not matter."""
    spec = DEFAULT.only(["rsi_14", "vix_change_7", "hash_rate_change_30"])
    part = long.iloc[:400]
    assert build_features(part, spec=spec).iloc[-1].notna().tolist() == [True, False, False]
    with pytest.raises(TooFewBars, match=r"Longest: hash_rate_change_30 \(720\)\."):
        build_features(part, daily_context(part), spec)


def test_nothing_but_missing_columns_is_a_table_of_missing_values(candles):
    table = build_features(candles, spec=DEFAULT.only(["vix", "mvrv"]))
    assert table.shape == (len(candles), 2)
    assert table.isna().all().all()


def test_a_series_of_ones_own_is_read_by_a_feature_that_names_it(long, context):
    spec = FeatureSpec("mine", (Feature("a", "mine", "difference", {"days": 1}, ("trends",)),))
    own = context.assign(trends=np.arange(len(long), dtype=float))
    assert (build_features(long, own, spec)["a"].iloc[24:] == 24).all()
    with pytest.raises(InputError, match=r"Unknown input of feature 'a': 'trends'"):
        build_features(long, context, spec)


def test_an_infinite_value_of_context_is_missing(long, context):
    own = context.copy()
    own.iloc[-30:, own.columns.get_loc("vix")] = np.inf
    assert build_features(long, own)[["vix", "vix_change_7"]].iloc[-30:].isna().all().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda context: context.iloc[:-1], "must be a frame with a row for each bar"),
        (
            lambda context: context.set_axis(context.index + pd.Timedelta("1h")),
            "must be a frame with a row for each bar",
        ),
        (lambda context: context["vix"], "must be a frame with a row for each bar"),
        (lambda context: context.assign(close=1.0), "has a column 'close', which is the candles' own"),
        (lambda context: context.assign(times=1.0), "has a column 'times', which is the candles' own"),
        (lambda context: context.assign(vix="low"), "context column 'vix' holds str; it must hold numbers"),
        (lambda context: pd.concat([context, context[["vix"]]], axis=1), "has two columns 'vix'"),
    ],
)
def test_a_context_that_does_not_fit_is_refused(long, context, change, message):
    with pytest.raises(InputError, match=message):
        build_features(long, change(context))


# Too few bars, dead markets, wrong candles


def test_too_few_bars_says_how_many_are_needed_and_for_what(long):
    longest = TECHNICAL.warmup_at("1h")
    with pytest.raises(
        TooFewBars, match=rf"more than {longest:,} bars to warm up; there are 100\. Longest: \w+ \({longest:,}\)"
    ):
        build_features(long.iloc[:100])
    with pytest.raises(TooFewBars):
        build_features(long.iloc[:longest], spec="technical")
    build_features(long.iloc[: longest + 1], spec="technical")


@pytest.mark.parametrize("bars", [0, 1, 2])
def test_no_one_or_two_bars_are_too_few(candles, bars):
    with pytest.raises(TooFewBars):
        build_features(candles.iloc[:bars])
    with pytest.raises(TooFewBars):
        build_features(candles.iloc[:bars], last=1)


@pytest.mark.parametrize("bars", [1, 2])
def test_what_needs_no_warm_up_is_there_from_the_first_bar(candles, bars):
    table = build_features(candles.iloc[:bars], spec=DEFAULT.only(["time_of_day_sin", "body", "weekend"]))
    assert table.notna().all().all()


UNDEFINED = {  # where the price has not moved for as long as the feature looks back: a ratio of nothing to nothing
    *("adx_14", "plus_di_14", "minus_di_14", "vortex_14"),
    *("rsi_7", "rsi_14", "rsi_28", "stoch_k_14", "stoch_d_14", "stochrsi_14", "willr_14", "cci_20", "tsi", "uo"),
    *("trend_strength_48", "bollinger_position_20", "volatility_ratio_24_168", "downside_share_48"),
    *("mfi_14", "return_volume_48", "donchian_position_20", "donchian_position_168", "fibonacci_distance_168"),
    *("skewness_168", "kurtosis_168", "entropy_168", "hurst_336", "autocorrelation_168"),
    *("absolute_autocorrelation_168", "variance_ratio_24", "close_zscore_48"),
    *("efficiency_24", "efficiency_168", "choppiness_14", "trend_fit_168", "rsi_divergence_48", "obv_divergence_48"),
    *("rsi_14_4h", "bollinger_position_20_4h", "stoch_k_14_1d", "cci_20_1d", "bollinger_position_20_1d"),
    *("resistance_distance", "support_distance"),  # no bar is above its neighbours
}


def still(candles: pd.DataFrame) -> pd.DataFrame:
    return candles.assign(**dict.fromkeys(PRICES, 12_345.67))


@pytest.mark.parametrize("price", [12_345.67, 0.1, 1e5 / 3])
def test_a_price_that_does_not_move_leaves_missing_what_it_does_not_define(long, price):
    table = build_features(long.assign(**dict.fromkeys(PRICES, price)), spec="technical")
    gone = set(table.columns[table.isna().all()])
    assert gone == UNDEFINED
    rest = table.drop(columns=list(gone)).iloc[TECHNICAL.warmup_at("1h") :]
    assert rest.notna().all().all()
    assert np.abs(rest.drop(columns="relative_volume_24").to_numpy()).max() < 10


def test_a_distance_in_a_market_that_does_not_move_is_0(long):
    table = build_features(still(long), spec="technical").iloc[-1]
    distances = [
        one.name for one in TECHNICAL.features if one.form.startswith("distance") and one.name not in UNDEFINED
    ]
    assert len(distances) > 20
    np.testing.assert_allclose(table[distances].to_numpy(dtype=float), 0, atol=1e-12)


def test_a_market_without_trade_leaves_missing_what_counts_it(long):
    table = build_features(long.assign(volume=0.0), spec="technical")
    counts_it = {
        *("mfi_14", "cmf_20", "obv_flow_24", "pvt_flow_24", "ad_flow_3_10", "vwap_distance", "vwap_24_distance"),
        *("vwap_168_distance", "volume_zscore_48", "relative_volume_24", "relative_volume_168", "return_volume_48"),
        *("illiquidity_rank", "obv_divergence_48"),
    }
    assert set(table.columns[table.isna().all()]) == counts_it


def test_an_undefined_value_is_missing_and_not_filled(long):
    constant = long.copy()
    constant.loc[constant.index[1000:1060], "volume"] = 5.1
    score = build_features(constant)["volume_zscore_48"]
    assert score.iloc[1047:1060].isna().all()
    assert score.iloc[1060:].notna().all()


def test_gaps_leave_features_present(long, features):
    assert features[TECHNICAL.columns].iloc[TECHNICAL.warmup_at("1h") :].notna().all().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda candles: candles.reset_index(drop=True), "need a DatetimeIndex"),
        (lambda candles: candles.tz_localize(None), "Timestamps are naive"),
        (lambda candles: candles.drop(columns="volume"), "volume"),
        (lambda candles: candles.iloc[::-1], "not sorted"),
        (lambda candles: candles.assign(low=candles["high"] + 1), "high below its low"),
        (lambda candles: candles.assign(close=np.nan), "missing or infinite"),
    ],
)
@pytest.mark.parametrize("last", [None, 1])
def test_candles_that_are_none_are_refused(candles, change, message, last):
    with pytest.raises(CandleError, match=message):
        build_features(change(candles), spec="core", last=last)


# A spec of one's own


def test_unknown_spec_names_the_valid_ones(candles):
    with pytest.raises(InputError, match=r"Unknown feature spec: 'defalt'\. Did you mean 'default'"):
        build_features(candles, spec="defalt")


def test_a_spec_of_ones_own_is_one_line_a_feature(candles):
    spec = bl.FeatureSpec("mine", (bl.Feature("rsi_7", "momentum", "rsi", {"length": 7}),))
    table = build_features(candles, spec=spec)
    assert list(table.columns) == ["rsi_7"]
    np.testing.assert_array_equal(table["rsi_7"].iloc[200:], bl.indicator("rsi", candles, length=7).iloc[200:])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("raw", lambda value, close: value),
        ("percent", lambda value, close: value / 100),
        ("oscillator", lambda value, close: value / 50 - 1),
        ("per_close", lambda value, close: value / close),
        ("distance", lambda value, close: np.log(close / value)),
        ("distance_now", lambda value, close: np.log(close / value)),
    ],
)
def test_forms_free_a_value_of_the_price_level(candles, form, expected):
    table = build_features(candles, spec=FeatureSpec("mine", (Feature("a", "g", "sma", {"length": 5}, form=form),)))
    value = bl.indicator("sma", candles, length=5)
    np.testing.assert_allclose(table["a"].iloc[4:], expected(value, candles["close"]).iloc[4:], rtol=1e-12)


@pytest.mark.parametrize(
    ("output", "line"), [(1, "MACDh_12_26_9"), ("MACDh", "MACDh_12_26_9"), ("MACD", "MACD_12_26_9")]
)
def test_a_line_is_taken_by_number_or_by_the_beginning_of_its_name(candles, output, line):
    spec = FeatureSpec("mine", (Feature("a", "g", "macd", output=output),))
    np.testing.assert_array_equal(
        build_features(candles, spec=spec)["a"].iloc[500:], bl.indicator("macd", candles)[line].iloc[500:]
    )


def test_lines_of_one_indicator_are_computed_once(candles, monkeypatch):
    asked = []
    compute = build.compute

    def counted(name, *rest, **parameters):
        asked.append(name)
        return compute(name, *rest, **parameters)

    monkeypatch.setattr(build, "compute", counted)
    build_features(candles, spec=DEFAULT.only(["macd", "macd_histogram", "adx_14", "plus_di_14", "minus_di_14"]))
    assert sorted(asked) == ["adx", "macd"]


def test_a_feature_of_pandas_ta_is_computed_as_the_others_are(candles):
    spec = FeatureSpec("mine", (Feature("a", "g", "vwma", {"length": 10}, form="distance", warmup=9),))
    table = build_features(candles, spec=spec)
    assert table["a"].notna().to_numpy().argmax() == 9
    assert_same(build_features(candles, spec=spec, last=3), table.iloc[-3:], size_of(table))


def test_other_columns_of_the_candles_are_left_out(candles):
    more = candles.assign(trades=1.0)
    assert list(build_features(more, spec="core").columns) == resolve_spec("core").columns
