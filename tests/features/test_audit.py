"""The look-ahead audit: passes what is causal, names what is not, and says what it cannot know. The cheats: test_cheats.py."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.context.series import SERIES
from btclab.context.store import save_values
from btclab.errors import InputError, TooFewBars
from btclab.features.build import build_features
from btclab.features.cuts import choose_cuts, window_around
from btclab.features.indicators import CUSTOM
from btclab.features.noise import noisy_candles, noisy_context
from btclab.features.spec import Feature, FeatureSpec
from btclab.market.candles import COLUMNS, validate_candles

SMALL = FeatureSpec("small", (Feature("log_return_1", "momentum", "log_return", {"length": 1}),))


def with_column(function):
    """A build whose column `mine` is `function(candles)`, beside a sound one."""

    def build(candles, context=None, spec=SMALL):
        return build_features(candles, context, spec).assign(mine=function(candles))

    return build


def audit_of(function, candles, **options):
    return bl.audit_features(candles, SMALL, build=with_column(function), **options)


def tomorrow(candles):
    return candles["close"].shift(-1) / candles["close"]


@pytest.fixture
def own(monkeypatch):
    """Registers functions as indicators for the length of a test and gives the spec of their columns."""

    def spec(warmup=50, **functions):
        for name, function in functions.items():
            monkeypatch.setitem(CUSTOM, name, function)
        return FeatureSpec("own", tuple(Feature(name, "own", name, warmup=warmup) for name in functions))

    return spec


def test_the_default_features_pass():
    audit = bl.audit_features(bl.load_candles("simulated:7", end="2021-06-01"))
    assert audit.passed
    assert audit.table.empty
    assert audit.leaky == []
    assert audit.unverified == {}
    assert str(audit).startswith("Look-ahead audit passed: none of 127 features changed at 6 cuts")


@pytest.mark.parametrize("start", ["2017-12-01", "2022-12-01"])  # a halt that was filled flat; a missing hour
def test_the_features_of_candles_pass_on_real_hours(real_file, start):
    hours = bl.load_candles(f"file:{real_file}", start=start).iloc[:3500]
    assert bl.audit_features(hours, "technical", seed=1).passed


def test_core_passes_on_daily_bars():
    days = bl.load_candles("simulated:7", "1d")
    assert bl.audit_features(days, "core").passed


def test_a_leak_is_named_with_the_test_the_bar_and_the_size(candles):
    audit = audit_of(tomorrow, candles)
    assert not audit.passed
    assert audit.leaky == ["mine"]
    removed = audit.table.set_index("test").loc["later bars removed"]
    assert removed["first_bar"] in candles.index
    assert removed["size"] == np.inf  # the value of the newest bar went
    replaced = audit.table.set_index("test").loc["later bars replaced"]
    assert 0.5 < replaced["size"] < 10  # a quarter of the price, or four times
    said = "Look-ahead audit FAILED: mine changed at 24 cuts (later bars removed, later bars replaced)."
    assert str(audit) == said


def test_the_first_bar_is_the_first_that_moves(candles):
    end = candles.index[-1]
    audit = audit_of(lambda bars: float(bars.index[-1] == end) * (bars.index >= candles.index[500]), candles)
    assert audit.table.iloc[0]["first_bar"] == candles.index[500]


def test_the_certificate_is_json(candles):
    said = json.loads(json.dumps(audit_of(tomorrow, candles, seed=3, cuts=4).certificate()))
    assert said["passed"] is False
    assert said["leaky"] == ["mine"]
    assert (said["cuts"], said["bars"], said["seed"]) == (4, len(candles), 3)
    assert said["tests"] == ["recomputed on the same bars", "later bars removed", "later bars replaced"]
    assert said["sentence"].startswith("Look-ahead audit FAILED: mine")
    assert said["unverified"] == {}


def test_one_seed_is_one_audit(candles):
    one, other = (audit_of(tomorrow, candles, seed=5) for _ in range(2))
    pd.testing.assert_frame_equal(one.table, other.table)


def test_candles_and_context_are_left_as_they_were(candles):
    context = pd.DataFrame({"mine": 1.0}, index=candles.index)
    copies = candles.copy(), context.copy()
    bl.audit_features(candles, SMALL, context)
    pd.testing.assert_frame_equal(candles, copies[0])
    pd.testing.assert_frame_equal(context, copies[1])


def test_a_column_that_changes_by_itself_is_said_to(candles):
    random = np.random.default_rng(0)
    audit = audit_of(lambda bars: random.normal(size=len(bars)), candles)
    assert audit.table["test"].tolist() == ["recomputed on the same bars"]
    assert audit.leaky == ["mine"]


def test_a_column_that_comes_with_later_bars_is_a_leak(candles):
    def build(bars, spec):
        features = build_features(bars, spec=spec)
        return features.assign(mine=1.0) if len(bars) > 1000 else features

    assert bl.audit_features(candles, SMALL, build=build).leaky == ["mine"]


def test_rows_that_a_build_leaves_out_are_missing_ones(candles):
    audit = bl.audit_features(candles, SMALL, build=lambda bars, spec: build_features(bars, spec=spec).dropna())
    assert audit.passed
    assert audit.checked == 1


def test_true_and_false_are_numbers(candles):
    assert audit_of(lambda bars: bars["close"] > bars["open"], candles).passed
    assert not audit_of(lambda bars: bars["close"].shift(-1) > bars["open"], candles).passed


def test_only_the_leak_is_named_among_the_users_own(candles, own):
    spec = own(mine=lambda bars: bars["close"] / bars["close"].rolling(20).mean(), leak=tomorrow)
    audit = bl.audit_features(candles, spec)
    assert audit.leaky == ["leak"]
    assert audit.checked == 2


def test_the_users_own_are_audited_at_more_cuts(candles, own):
    spec = FeatureSpec("both", SMALL.features + own(mine=lambda bars: bars["close"].pct_change()).features)
    audit = bl.audit_features(candles, spec)
    assert (audit.cuts, audit.most_cuts) == (6, 60)
    assert "none of 2 features changed at 6 to 60 cuts" in str(audit)
    assert "at 8 cuts" in str(bl.audit_features(candles, spec, cuts=8))


def test_pandas_tas_indicators_go_through_the_same_audit(candles):
    spec = FeatureSpec("pandas-ta", (Feature("alma", "trend", "alma", warmup=50),))
    audit = bl.audit_features(candles, spec)
    assert audit.passed
    assert audit.cuts == 60


# What the audit cannot alter is not called sound


def test_what_is_read_from_elsewhere_by_date_is_not_verified(candles, own):
    outside = tomorrow(candles)
    audit = bl.audit_features(candles, own(outside=lambda bars: outside.reindex(bars.index)))
    assert "depends on the date" in audit.unverified["outside"]
    assert str(audit).endswith("Not verified: outside.")


def test_what_is_read_from_elsewhere_beside_the_bars_is_not_verified(candles, own):
    outside = tomorrow(candles)
    audit = bl.audit_features(candles, own(outside=lambda bars: bars["close"] * outside.reindex(bars.index)))
    assert list(audit.unverified) == ["outside"]


def test_what_is_read_from_elsewhere_by_number_is_not_verified(candles, own):
    outside = candles["close"].to_numpy()
    audit = bl.audit_features(candles, own(outside=lambda bars: pd.Series(outside[: len(bars)], bars.index)))
    assert "neither on the bars nor on their times" in audit.unverified["outside"]


def test_what_cannot_be_computed_at_other_dates_is_not_verified(candles, own):
    audit = bl.audit_features(candles, own(outside=lambda bars: candles["close"].loc[bars.index]))
    assert "KeyError" in audit.unverified["outside"]


def test_hour_and_weekday_are_known(candles, own):
    spec = own(
        hour=lambda bars: pd.Series(bars.index.hour, bars.index),
        weekday=lambda bars: pd.Series(bars.index.dayofweek, bars.index),
        one=lambda bars: pd.Series(1.0, bars.index),
    )
    audit = bl.audit_features(candles, spec)
    assert audit.passed
    assert audit.unverified == {}


def test_a_column_whose_warm_up_is_too_short_to_be_seen_is_not_verified(candles, own):
    audit = bl.audit_features(candles, own(slow=lambda bars: bars["close"].rolling(1500).mean()))
    assert "warm-up too short" in audit.unverified["slow"]


# Context


FEAR = FeatureSpec("fear", (Feature("fear", "sentiment", "level", inputs=("fear_greed",)), *SMALL.features))


@pytest.fixture
def real_market(candles):
    """Three months of hours that do not call themselves simulated, and the stored Fear & Greed values beside them."""
    bars = candles.copy()
    bars.attrs = {"source": "file:test", "symbol": "BTC/USDT", "timeframe": "1h", "simulated": False}
    days = pd.date_range("2020-12-25", "2021-04-01", freq="D", tz="UTC")
    values = pd.Series(np.random.default_rng(0).integers(10, 90, len(days)).astype(float), days)
    save_values(SERIES["fear_greed"], "alternative.me", values)
    return bars


def test_a_column_that_load_context_joined_passes(real_market):
    audit = bl.audit_features(real_market, FEAR, bl.load_context(real_market))
    assert audit.passed
    assert audit.unverified == {}
    assert audit.checked == 2
    assert "context as it was public" in str(audit)


def test_without_context_there_is_nothing_of_it_to_test(real_market):
    audit = bl.audit_features(real_market, FEAR)
    assert audit.checked == 1
    assert "context" not in str(audit)


def test_a_column_that_is_not_what_was_public_is_named_with_the_features_that_read_it(real_market):
    context = bl.load_context(real_market)
    audit = bl.audit_features(real_market, FEAR, context.assign(fear_greed=context["fear_greed"].shift(-24)))
    assert audit.leaky == ["fear"]
    assert audit.table["test"].tolist() == ["context as it was public: fear_greed"]
    assert "FAILED: fear changed at 6 cuts (context as it was public: fear_greed)" in str(audit)
    assert audit.table.loc[0, "first_bar"] == real_market.index[0]


def test_a_name_that_lost_its_attributes_is_still_looked_up_in_the_store(real_market):
    bare = pd.DataFrame({"fear_greed": bl.load_context(real_market)["fear_greed"].shift(-24)})
    assert bare.attrs == {}
    assert bl.audit_features(real_market, FEAR, bare).leaky == ["fear"]


def test_a_join_that_uses_values_too_early_is_caught_by_those_not_yet_public(real_market, monkeypatch):
    join = "btclab.features.publication.join_asof"
    monkeypatch.setattr(join, lambda bars, values, lag, age: early_join(bars, values))
    audit = bl.audit_features(real_market, FEAR, pd.DataFrame({"fear_greed": early_join(real_market, values_stored())}))
    assert audit.leaky == ["fear"]
    assert set(audit.table["test"]) == {"context as it was public: fear_greed"}


def values_stored():
    from btclab.context.store import read_values

    return read_values("alternative.me", "fear_greed")


def early_join(bars, values):
    return values.reindex(bars.index + pd.Timedelta(hours=1), method="bfill").set_axis(bars.index)


@pytest.mark.parametrize(
    ("name", "why"), [("mine", "no series that btclab knows"), ("fear_greed", "none of its values are stored")]
)
def test_a_column_that_cannot_be_joined_anew_is_not_verified_and_its_readers_are_named(candles, name, why):
    spec = FeatureSpec("fear", (Feature("fear", "sentiment", "level", inputs=(name,)),))
    context = pd.DataFrame({name: np.arange(len(candles), dtype=float), "unread": 1.0}, index=candles.index)
    audit = bl.audit_features(candles, spec, context)
    assert audit.passed
    assert list(audit.unverified) == [name]
    assert why in audit.unverified[name]
    assert "read by fear" in audit.unverified[name]


def test_a_build_of_the_users_own_may_read_any_column(candles):
    context = pd.DataFrame({"mine": 1.0}, index=candles.index)
    audit = bl.audit_features(candles, SMALL, context, build=with_column(lambda bars: bars["close"]))
    assert list(audit.unverified) == ["mine"]


def test_a_build_that_fills_context_from_later_rows_is_caught(candles):
    holed = pd.Series(np.arange(len(candles), dtype=float), candles.index).where(candles.index.hour < 6)

    def build(bars, context, spec):
        return build_features(bars, context, spec).assign(filled=context["mine"].bfill())

    assert bl.audit_features(candles, SMALL, holed.rename("mine").to_frame(), build=build).leaky == ["filled"]


# Wrong input


def test_too_few_bars_says_how_many_are_needed(candles):
    with pytest.raises(TooFewBars, match=r"needs at least 2,538 bars \(2,502 to warm up"):
        bl.audit_features(candles)


def test_as_few_bars_as_it_says_are_enough(candles):
    assert bl.audit_features(candles.iloc[: 1 + 36], SMALL).passed
    with pytest.raises(TooFewBars):
        bl.audit_features(candles.iloc[: 1 + 35], SMALL)


@pytest.mark.parametrize("cuts", [0, -1, 2.5, True, "5"])
def test_a_wrong_number_of_cuts_is_refused(candles, cuts):
    with pytest.raises(InputError, match="whole number of at least 1"):
        bl.audit_features(candles, SMALL, cuts=cuts)


def test_context_of_other_bars_is_refused(candles):
    with pytest.raises(InputError, match="a row for each bar"):
        bl.audit_features(candles, SMALL, pd.DataFrame({"mine": 1.0}, index=candles.index[1:]))


# The future that takes the place of the real one


@pytest.mark.parametrize("rises", [True, False])
def test_noise_is_valid_alters_every_later_bar_and_no_earlier(candles, rises):
    noisy = noisy_candles(candles, 1000, rises, np.random.default_rng(0))
    validate_candles(noisy, "1h")
    pd.testing.assert_frame_equal(noisy.iloc[:1000], candles.iloc[:1000])
    later, before = noisy.iloc[1000:], candles.iloc[1000:]
    assert (later[COLUMNS] != before[COLUMNS]).all(axis=None)
    above = (later["close"] > candles["close"].iloc[999]).mean()
    assert above == pytest.approx(1.0 if rises else 0.0, abs=0.01)
    assert (later["volume"] > before["volume"]).mean() > 0.95 if rises else (later["volume"] == 0).all()


def test_noise_of_context_fills_holes_and_makes_others():
    holed = pd.DataFrame({"a": [1.0, np.nan] * 50, "b": np.nan, "c": 0.0})
    filled = noisy_context(holed, 40, True, np.random.default_rng(0)).iloc[40:]
    assert filled.notna().all(axis=None)
    assert (filled != holed.iloc[40:]).all(axis=None)
    assert noisy_context(holed, 40, False, np.random.default_rng(0)).iloc[40:].isna().mean().tolist() == [0.5, 0.5, 0.5]


# Where it cuts


@pytest.fixture
def market(candles):
    """Three months of hours with a hole of a day, and a halt that was filled flat."""
    bars = candles.drop(index=candles.index[900:924])
    halt = slice(1500, 1510)
    bars.iloc[halt, :4] = bars["close"].iloc[1499]
    bars.iloc[halt, 4] = 0.0
    return bars


def cuts_of(market, count, seed=0, **columns):
    features = pd.DataFrame(columns or {"x": np.arange(len(market), dtype=float)}, index=market.index)
    return choose_cuts(market, None, features, 100, count, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(3))
def test_cuts_lie_beside_gaps_flat_bars_ends_of_days_and_weeks(market, seed):
    cuts = cuts_of(market, 24, seed)
    opens = market.index[cuts]
    assert len(set(cuts)) == 24
    assert min(cuts) >= 123
    assert max(cuts) < len(market) - 12
    assert {899, 900, 901} & set(cuts)
    assert set(range(1499, 1512)) & set(cuts)
    assert (opens.hour == 23).any()
    assert ((opens.dayofweek == 6) & (opens.hour >= 22)).any() or ((opens.dayofweek == 0) & (opens.hour == 0)).any()
    assert cuts[0] >= len(market) // 2 - 100


def test_cuts_lie_where_a_column_that_seldom_moves_does(market):
    pattern = np.zeros(len(market))
    pattern[[300, 1200]] = 1.0
    level = np.repeat([1.0, 2.0, 3.0], [400, 1000, len(market) - 1400])
    assert {400, 1400} & set(cuts := cuts_of(market, 16, pattern=pattern, level=level))
    assert {300, 1200} & set(cuts)


def test_cuts_lie_inside_holes(market):
    holed = np.arange(len(market), dtype=float)
    holed[1000:1003] = np.nan
    assert {1000, 1001, 1002} & set(cuts_of(market, 12, holed=holed))


def test_there_are_no_more_cuts_than_bars(market):
    assert sorted(cuts_of(market.iloc[:140], 50)) == [123, 124, 125, 126, 127]


def test_a_window_has_the_warm_up_before_and_a_month_after(candles):
    window = window_around(candles, 1000, 300)
    assert 1001 - window.start == 300 + 200
    assert window.stop - 1001 == 800
    assert window_around(candles, 10, 300).start == 0
