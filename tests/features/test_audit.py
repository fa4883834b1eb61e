"""The look-ahead audit: passes what is causal, names what is not."""

from __future__ import annotations

import pytest

import btclab as bl
from btclab.errors import TooFewBars
from btclab.features.build import build_features


def test_the_default_features_pass(candles):
    audit = bl.audit_features(candles)
    assert audit.passed
    assert audit.table.empty
    assert "passed" in str(audit)


CHEATS = {
    "tomorrow's close": lambda features, candles: candles["close"].shift(-1) / candles["close"],
    "a centred mean": lambda features, candles: candles["close"].rolling(5, center=True).mean() / candles["close"],
    "full-sample scaling": lambda features, candles: features["rsi_14"] - features["rsi_14"].mean(),
    "back-fill": lambda features, candles: features["rsi_14"].bfill(),
    "the last value broadcast": lambda features, candles: features["rsi_14"] * 0 + candles["close"].iloc[-1],
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_caught_and_named(candles, cheat):
    def leaky(window, spec):
        features = build_features(window, spec=spec)
        holed = features.assign(rsi_14=features["rsi_14"].where(features.index.hour % 2 == 0))  # for back-fill to fill
        return features.assign(cheat=CHEATS[cheat](holed, window))

    audit = bl.audit_features(candles, cuts=12, build=leaky)
    assert not audit.passed
    assert set(audit.table["feature"]) == {"cheat"}
    assert "FAILED: cheat" in str(audit)


def test_the_table_says_where_it_leaks_and_how_much(candles):
    def leaky(window, spec):
        return build_features(window, spec=spec).assign(cheat=window["close"].shift(-1))

    row = bl.audit_features(candles, build=leaky).table.iloc[0]
    assert row["first_bar"] in candles.index
    assert row["size"] > 0


def test_too_few_bars_says_how_many_are_needed(candles):
    with pytest.raises(TooFewBars, match="needs at least"):
        bl.audit_features(candles.iloc[:600])
