"""The simulated market is like the real one where it should be, and unpredictable unless told otherwise."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from btclab.errors import InputError
from btclab.market.candles import fingerprint, validate_candles
from btclab.market.simulated import END, LATEST, MARKET, ORIGIN, _plant, parse_simulated, simulate_candles

REAL = Path(__file__).parents[2].parent / "shared/candles/binance_btcusdt_1h_2017-08_2024-12.parquet"
SEEDS = range(5)


@pytest.fixture(scope="module")
def candles():
    return simulate_candles(1)


@pytest.fixture(scope="module")
def markets():
    return [simulate_candles(seed) for seed in SEEDS]


def log_returns(candles):
    return np.log(candles["close"]).diff().dropna()


def momentum_t(candles):
    """t-statistic of the slope of the next standardised return on the EWMA of past ones, all from the candles."""
    simple_return = candles["close"] / candles["open"] - 1
    past_volatility = (simple_return**2).ewm(halflife=48).mean().shift() ** 0.5
    shock = (simple_return / past_volatility).clip(-5, 5)
    pairs = pd.DataFrame({"signal": shock.ewm(halflife=6).mean().shift(), "next": shock}).iloc[300:]
    fit = stats.linregress(pairs["signal"], pairs["next"])
    return fit.slope / fit.stderr


# What a frame looks like


def test_default_is_four_years_of_hours(candles):
    assert len(candles) == 35_064
    assert candles.index[0] == ORIGIN and candles.index[-1] == END - pd.Timedelta(hours=1)
    assert candles.index.name == "timestamp"
    assert (np.diff(candles.index) == pd.Timedelta(hours=1)).all()


@pytest.mark.parametrize("edge", [0, 0.05, 0.5])
@pytest.mark.parametrize("timeframe", ["1h", "4h", "1d"])
def test_candles_keep_the_schema(edge, timeframe):
    validate_candles(simulate_candles(2, edge, timeframe), timeframe)


@pytest.mark.parametrize(("edge", "source"), [(0, "simulated:1"), (0.05, "simulated:1?edge=0.05")])
def test_attrs_say_that_it_is_simulated(edge, source):
    found = simulate_candles(1, edge, end="2021-02-01").attrs
    assert found == {"source": source, "symbol": "BTC/USDT", "timeframe": "1h", "simulated": True}


def test_source_name_leads_back_to_the_same_candles():
    candles = simulate_candles(7, 0.125, end="2021-02-01")
    again = simulate_candles(*parse_simulated(candles.attrs["source"].removeprefix("simulated:")), end="2021-02-01")
    pd.testing.assert_frame_equal(candles, again)


def test_open_is_the_close_before(candles):
    assert (candles["open"].iloc[1:].to_numpy() == candles["close"].iloc[:-1].to_numpy()).all()


def test_prices_are_whole_cents_and_volumes_whole_1e5ths(candles):
    assert (candles.drop(columns="volume").round(2) == candles.drop(columns="volume")).all(axis=None)
    assert (candles["volume"].round(5) == candles["volume"]).all()


def test_longest_window_stays_valid():
    validate_candles(simulate_candles(3, end=LATEST), "1h")


# One seed, one history


def test_same_seed_same_candles(candles):
    assert fingerprint(simulate_candles(1)) == fingerprint(candles)


def test_other_seed_other_candles(candles):
    assert fingerprint(simulate_candles(2)) != fingerprint(candles)


def test_global_random_state_is_neither_used_nor_touched(candles):
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert fingerprint(simulate_candles(1)) == fingerprint(candles)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize("edge", [0, 0.1])
@pytest.mark.parametrize("end", ["2021-01-01T05:00", "2022-03-04", "2026-01-01"])
def test_longer_window_extends_the_shorter(edge, end):
    shown, longest = simulate_candles(4, edge, end=end), simulate_candles(4, edge, end="2027-01-01")
    pd.testing.assert_frame_equal(shown, longest.iloc[: len(shown)], check_freq=False)


@pytest.mark.parametrize("timeframe", ["1h", "6h"])
def test_start_only_cuts(timeframe):
    whole, late = simulate_candles(4, timeframe=timeframe), simulate_candles(4, timeframe=timeframe, start="2023-05-06")
    pd.testing.assert_frame_equal(late, whole[whole.index >= "2023-05-06"], check_freq=False)


def test_longer_bars_are_groups_of_hours(candles):
    four = simulate_candles(1, timeframe="4h").iloc[10]
    hours = candles.iloc[40:44]
    assert four.name == hours.index[0]
    assert (four["open"], four["close"]) == (hours["open"].iloc[0], hours["close"].iloc[-1])
    assert (four["high"], four["low"]) == (hours["high"].max(), hours["low"].min())
    assert four["volume"] == pytest.approx(hours["volume"].sum(), abs=1e-5)


def test_only_whole_bars_are_shown():
    days = simulate_candles(1, timeframe="1d", start="2021-01-01T10:00", end="2021-01-04T23:00")
    assert [str(day.date()) for day in days.index] == ["2021-01-02", "2021-01-03"]


# Without edge: nothing to find


def test_returns_have_no_drift():
    simple_returns = pd.concat([c["close"] / c["open"] - 1 for c in map(simulate_candles, range(12))])
    assert abs(simple_returns.mean() / simple_returns.sem()) < 3


def test_returns_have_no_autocorrelation(markets):
    for candles in markets:
        # Fat tails and clusters make the usual 1/√n band too narrow, hence 0.05 rather than 0.01.
        assert max(abs(log_returns(candles).autocorr(lag)) for lag in (1, 2, 24)) < 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_momentum_finds_nothing(seed):
    assert abs(momentum_t(simulate_candles(seed))) < 3


def test_volatility_says_nothing_about_direction(markets):
    for candles in markets:
        simple_return = candles["close"] / candles["open"] - 1
        calm = (simple_return**2).ewm(halflife=168).mean().shift().rank(pct=True)
        for part in (simple_return[calm < 0.3], simple_return[calm > 0.85]):
            assert abs(part.mean() / part.sem()) < 3.5


@pytest.mark.parametrize("depth", [0.002, 0.005, 0.02])
def test_limit_orders_inside_the_bar_earn_nothing(markets, depth):
    bars = pd.concat(markets)
    dips, peaks = bars[bars["low"] < bars["open"] * (1 - depth)], bars[bars["high"] > bars["open"] * (1 + depth)]
    bought = dips["close"] / (dips["open"] * (1 - depth)) - 1
    sold = 1 - peaks["close"] / (peaks["open"] * (1 + depth))
    for gain in (bought, sold):
        assert abs(gain.mean() / gain.sem()) < 3


# With edge: what was planted


@pytest.mark.parametrize("seed", SEEDS)
def test_momentum_finds_an_edge_of_five_percent(seed):
    assert momentum_t(simulate_candles(seed, 0.05)) > 3


@pytest.mark.parametrize("edge", [0, 0.05, 0.3, 0.5])
def test_edge_is_the_correlation_of_signal_and_next_shock(edge):
    surprise = np.random.default_rng(0).standard_normal(200_000)
    z = _plant(surprise, edge)
    # The signal as the module's docstring gives it: from the past z alone, without the surprises.
    decay, signal = 0.5 ** (1 / 6), [0.0]
    for value in z[:-1]:
        signal.append(decay * signal[-1] + np.sqrt((1 - decay**2) / (1 - edge**2)) * (value - edge * signal[-1]))
    assert np.corrcoef(signal, z)[0, 1] == pytest.approx(edge, abs=0.01)
    assert np.std(signal) == pytest.approx(1, abs=0.02)
    assert np.std(z) == pytest.approx(1, abs=0.02)


# Like the real market


def test_tails_are_fat_but_finite(markets):
    assert all(8 < log_returns(candles).kurt() < 60 for candles in markets)
    assert all(log_returns(candles).abs().max() < 0.25 for candles in markets)


def test_volatility_clusters_and_decays_slowly(markets):
    size = [log_returns(candles).abs() for candles in markets]
    hour, day, week = (np.mean([one.autocorr(lag) for one in size]) for lag in (1, 24, 168))
    assert 0.35 > hour > day > week > 0.05


def test_annualised_volatility(markets):
    assert all(0.45 < log_returns(candles).std() * 8760**0.5 < 0.85 for candles in markets)


def test_range_per_return(markets):
    ratio = [(c["high"] / c["low"] - 1).mean() / (c["close"] / c["open"] - 1).abs().mean() for c in markets]
    assert all(1.9 < value < 2.3 for value in ratio)


def test_weekends_and_nights_are_quiet_in_price_and_volume(candles):
    size, volume = (candles["close"] / candles["open"] - 1).abs(), candles["volume"]
    weekend = candles.index.day_of_week >= 5
    for quantity in (size, volume):
        assert quantity[weekend].mean() < 0.85 * quantity[~weekend].mean()
        assert quantity[candles.index.hour == 4].mean() < 0.75 * quantity[candles.index.hour == 14].mean()


def test_volume_follows_range_and_persists(candles):
    log_volume, log_range = np.log(candles["volume"]), np.log(np.log(candles["high"] / candles["low"]))
    assert log_volume.corr(log_range) > 0.7
    assert log_volume.autocorr(1) > log_volume.autocorr(24) > 0.2


def test_stated_constants_of_the_cut_shock_are_its_moments():
    draw = np.random.default_rng(0)
    activity = np.minimum((MARKET.freedom - 2) / draw.chisquare(MARKET.freedom, 1_000_000), MARKET.max_activity)
    shock = np.sqrt(activity) * draw.standard_normal(len(activity)) / MARKET.shock_sd
    assert shock.std() == pytest.approx(1, abs=0.005)
    assert np.minimum(shock**2, MARKET.max_news**2).mean() == pytest.approx(MARKET.news_mean, abs=0.005)


def test_transitions_are_probabilities():
    assert np.sum(MARKET.transitions, axis=1) == pytest.approx(1, abs=1e-12)


@pytest.mark.skipif(not REAL.exists(), reason="the real hourly candles (../shared/candles) are not here")
def test_near_the_real_market(markets):
    real = pd.read_parquet(REAL)[str(ORIGIN) :]

    def facts(candles):
        log_return = log_returns(candles)
        spread = (candles["high"] / candles["low"] - 1).mean() / log_return.abs().mean()
        return np.array([log_return.std(), spread, log_return.abs().autocorr(24), log_return.kurt()])

    ratio = np.median([facts(candles) for candles in markets], axis=0) / facts(real)
    assert (ratio > [0.8, 0.9, 0.6, 0.7]).all() and (ratio < [1.25, 1.1, 1.4, 2.2]).all(), ratio


# What users type


@pytest.mark.parametrize(
    ("text", "expected"), [("1", (1, 0.0)), ("0", (0, 0.0)), ("12?edge=0.05", (12, 0.05)), ("1?edge=5e-2", (1, 0.05))]
)
def test_parse(text, expected):
    assert parse_simulated(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "abc", "²", "1.5", "-1", "1?", "1?edg=0.05"]
    + [f"1?edge={edge}" for edge in ("", "x", "1-1", "-0.1", "2", "nan")],
)
def test_unreadable_text_is_named_with_an_example(text):
    with pytest.raises(InputError) as error:
        parse_simulated(text)
    assert repr(text) in str(error.value) and "simulated:1?edge=0.05" in str(error.value)


@pytest.mark.parametrize("edge", [-0.01, 0.51, float("nan"), "0.05", None])
def test_edge_out_of_range(edge):
    with pytest.raises(InputError, match=r"correlation from 0 to 0\.5"):
        simulate_candles(1, edge)


@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True])
def test_seed_that_is_no_natural_number(seed):
    with pytest.raises(InputError, match="whole number"):
        simulate_candles(seed)


def test_timeframe_below_an_hour_names_the_valid_ones():
    with pytest.raises(InputError, match=r"'15m'.*1h, 2h, 4h"):
        simulate_candles(1, timeframe="15m")


@pytest.mark.parametrize(
    "window", [{"start": "2020-12-31"}, {"end": "2035-01-02"}, {"start": "2026-01-01"}, {"end": "2021-01-01"}]
)
def test_window_outside_the_simulation(window):
    with pytest.raises(InputError, match="both within 2021-01-01 and 2035-01-01"):
        simulate_candles(1, **window)


def test_window_too_short_for_a_bar():
    with pytest.raises(InputError, match="No whole 1d bar"):
        simulate_candles(1, timeframe="1d", start="2021-01-01T10:00", end="2021-01-02T20:00")
