"""The warm-up audit, and that every declared warm-up is at least what it measures."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError, TooFewBars
from btclab.features.build import build_features
from btclab.features.compare import rows_until_equal
from btclab.features.indicators import CUSTOM
from btclab.features.registry import INDICATORS, REQUIRED, chain_memory, ema_memory, memory
from btclab.features.spec import CONTEXT_GROUPS, Feature, FeatureSpec, resolve_spec
from btclab.market.candles import COLUMNS

# For indicators whose parameters have no default
SAMPLE = {"length": 40, "fast": 10, "slow": 50, "within": 100, "side": 5, "bars": 5, "lag": 1}


def measured(candles, *features, **options):
    return bl.audit_warmup(candles, FeatureSpec("tried", features), **options).set_index("feature")


@pytest.fixture(scope="module")
def year():
    return bl.load_candles("simulated:7", end="2022-01-01")


@pytest.fixture(scope="module")
def beside(year):
    """Random walks in steps of a day for the series of the default spec, each with missing weeks."""
    random, days = np.random.default_rng(0), year.index.floor("D").unique()
    names = {name for one in resolve_spec("default").features for name in one.inputs} - set(COLUMNS)
    columns = {}
    for name in sorted(names):
        values = pd.Series(np.exp(np.cumsum(random.normal(0, 0.05, len(days)))), days)
        for first in random.integers(0, len(days) - 10, 3):
            values.iloc[first : first + 7] = np.nan
        columns[name] = values.reindex(year.index.floor("D")).to_numpy()
    return pd.DataFrame(columns, index=year.index)


def test_a_window_is_measured_to_the_bar(year):
    table = measured(
        year,
        Feature("mean", "trend", "sma", {"length": 20}),
        Feature("change", "momentum", "log_return", {"length": 4}),
        Feature("body", "candles", "shape"),
    )
    assert table["measured"].tolist() == [19, 4, 0]
    assert table["declared"].tolist() == [19, 4, 0]
    assert table["passed"].all()


def test_a_warm_up_that_is_declared_too_short_fails(year):
    table = measured(
        year,
        Feature("short", "trend", "ema", {"length": 20}, warmup=20),
        Feature("long", "trend", "ema", {"length": 20}),
    )
    assert table["passed"].tolist() == [False, True]
    assert 20 < table.loc["short", "measured"] == table.loc["long", "measured"] <= ema_memory(20)


def test_what_never_forgets_its_beginning_is_infinite(year, monkeypatch):
    monkeypatch.setitem(CUSTOM, "volume_so_far", lambda candles: candles["volume"].cumsum())
    row = measured(year, Feature("so_far", "volume", "volume_so_far", warmup=500)).loc["so_far"]
    assert row["measured"] == np.inf
    assert not row["passed"]


def test_a_longer_timeframe_counts_in_bars_of_the_candles(year):
    row = measured(year, Feature("mean", "cross", "sma", {"length": 20}, timeframe="1d")).loc["mean"]
    assert 19 * 24 < row["measured"] <= row["declared"] == 21 * 24 - 2


def test_features_without_values_are_left_out(year):
    table = measured(
        year, Feature("fear", "sentiment", "level", inputs=("fear_greed",)), Feature("body", "candles", "shape")
    )
    assert table.index.tolist() == ["body"]


@pytest.mark.parametrize("seed", range(2))
def test_the_default_spec_declares_enough(year, beside, seed):
    table = bl.audit_warmup(year, "default", beside, starts=12, seed=seed)
    assert len(table) == len(resolve_spec("default").columns)
    assert table[~table["passed"]].empty, table[~table["passed"]]


def test_the_default_spec_declares_enough_for_real_hours(real_file):
    table = bl.audit_warmup(bl.load_candles(f"file:{real_file}"), "technical", starts=20)
    assert table[~table["passed"]].empty, table[~table["passed"]]


def test_context_features_need_what_they_declare_and_no_more(year, beside):
    readers = resolve_spec("default")
    readers = readers.only([one.name for one in readers.features if one.group in CONTEXT_GROUPS])
    table = bl.audit_warmup(year, readers, beside, starts=40)
    assert (table["measured"] == table["declared"]).all(), table[table["measured"] != table["declared"]]


@pytest.mark.parametrize("timeframe", ["1h", "4h"])
def test_every_indicator_declares_enough(year, timeframe):
    features = []
    for name, one in INDICATORS.items():
        if set(one.inputs) <= {*COLUMNS, "times"}:
            given = {key: SAMPLE[key] for key, default in one.parameters.items() if default is REQUIRED}
            features += [Feature(f"{name} {line}", "any", name, given, output=line) for line in range(len(one.lines))]
    candles = year if timeframe == "1h" else bl.load_candles("simulated:3", timeframe)
    table = bl.audit_warmup(candles, FeatureSpec("any", tuple(features)), starts=25)
    assert len(table) > 100
    assert table[~table["passed"]].empty, table[~table["passed"]]


def test_declared_warm_ups_are_not_far_longer_than_what_is_measured(year):
    """But where a value may have to be looked up far back: stops that meet by chance, swings within a month."""
    table = bl.audit_warmup(year, "technical", starts=25).set_index("feature")
    rare = ["psar_distance", "supertrend_10_distance", "support_distance", "resistance_distance"]
    rare += [name for name in table.index if name.startswith("ichimoku")]  # the slowest of its lines counts for all
    rows = table.drop(index=rare)
    long = rows[rows["declared"] > 1.6 * rows["measured"] + 30]
    assert long.empty, long


def test_a_live_row_is_that_of_the_whole_history(year):
    newest = build_features(year, spec="technical", last=1)
    whole = build_features(year, spec="technical").iloc[[-1]]
    np.testing.assert_allclose(newest, whole, rtol=1e-9, atol=1e-9)


def test_too_few_bars_says_how_many_are_needed(candles):
    with pytest.raises(TooFewBars, match=r"needs at least 7,578 bars, three warm-ups; there are 2,160"):
        bl.audit_warmup(candles)


def test_a_wrong_number_of_starts_is_refused(candles):
    with pytest.raises(InputError, match="starts is 0"):
        bl.audit_warmup(candles, "core", starts=0)


def test_rows_until_equal_counts_to_the_last_that_differs():
    one = np.array([[1.0, 1.0, np.nan, 1.0], [2.0, 2.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    other = one.copy()
    other[1, 1], other[0, 2], other[2, 3] = 9.0, 1.0, np.nan
    assert rows_until_equal(one, other).tolist() == [0, 2, 1, np.inf]


# How long averages of averages remember


@pytest.mark.parametrize("smoothings", [(0.1,), (1 / 14, 1 / 14), (2 / 26, 2 / 14, 2 / 14), (1.0, 0.2)])
def test_chain_memory_is_when_the_weight_of_what_came_before_is_gone(smoothings):
    """Fed a step from 1 to 0, the last average has fallen to the tolerance after so many bars, and not one earlier."""
    bars = chain_memory(*smoothings, tolerance=1e-6)
    step = np.zeros(bars)
    for smoothing in smoothings:
        step = pd.Series(np.concatenate([[1.0], step])).ewm(alpha=smoothing, adjust=False).mean().to_numpy()[1:]
    assert step[-1] <= 1e-6 < step[-2]


def test_a_chain_of_one_is_a_single_average():
    assert chain_memory(0.1) == memory(0.1)


def test_warm_ups_are_known_without_building_anything():
    script = "from btclab.features.spec import resolve_spec; print(resolve_spec('core').table()['warmup'].max())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) == resolve_spec("core").warmup_at("1h")
