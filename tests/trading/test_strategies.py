"""Strategies by name: those that ship, and one's own from a notebook or a file, with errors that say what is wrong."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import InputError, LookAheadError
from btclab.features.spec import resolve_spec
from btclab.trading import strategies
from btclab.trading.filters import Filters
from btclab.trading.scores import READINGS, Weights
from btclab.trading.strategies import (
    STRATEGIES,
    Strategy,
    audit_strategy,
    register_strategy,
    resolve_strategy,
    run_strategy,
    strategy,
)
from tests.analysis.reference import make_candles

NAN = math.nan
COLUMNS = ["side", "exposure", "confidence", "reasons", "in_sample"]
SHIPPED = ("forecast", "composite", "sma_cross", "rsi_reversion", "buy_and_hold")
SHORTED = SHIPPED[:-1]  # those that may sell short


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(strategies, "STRATEGIES", dict(STRATEGIES))


@pytest.fixture(scope="module")
def inputs(candles):
    """Candles, features and forecasts of three simulated months."""
    read = [name for name, one in READINGS.items() if one.category == "technical"]
    features = bl.build_features(candles, spec=resolve_spec("default").only(read))
    random = np.random.default_rng(1)
    prob_up = 0.5 + 0.03 * random.standard_normal(len(candles))
    prob_up[:50] = NAN
    forecasts = pd.DataFrame({"prob_up": prob_up, "mean": 1e-4, "in_sample": True}, candles.index)
    return candles, features, forecasts


def closes(*values):
    return make_candles([100.0, *values[:-1]], values)


# All of them


@pytest.mark.parametrize("name", SHIPPED)
def test_every_strategy_gives_the_columns_of_signals(name, inputs):
    signals = run_strategy(name, *inputs)
    assert list(signals.columns) == COLUMNS
    assert signals.index.equals(inputs[0].index)
    assert signals.exposure.dropna().isin([0.0, 1.0]).all()
    assert set(signals.side) <= {"buy", "sell", "hold"}
    assert signals.reasons.str.len().min() > 0
    assert (signals.exposure == 1).any()
    assert signals.attrs["strategy"]["name"] == name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_strategy_can_be_traded(name, inputs):
    result = bl.backtest(inputs[0], run_strategy(name, *inputs))
    assert len(result.fills) > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_no_strategy_knows_the_future(name, inputs):
    audit_strategy(name, *inputs, cuts=5)


@pytest.mark.parametrize("name", SHORTED)
def test_no_strategy_that_sells_short_knows_the_future(name, inputs):
    audit_strategy(name, *inputs, cuts=5, short=0.5)


@pytest.mark.parametrize("name", SHORTED)
def test_every_strategy_sells_short_what_it_would_hold_in_cash(name, inputs):
    cash, short = (run_strategy(name, *inputs, short=short) for short in (0.0, 0.25))
    np.testing.assert_array_equal(short.exposure, cash.exposure.replace(0.0, -0.25).where(seen(cash), cash.exposure))
    assert not np.signbit(cash.exposure).any()
    pd.testing.assert_frame_equal(cash, run_strategy(name, *inputs))
    assert (short.exposure < 0).any()


def seen(signals):
    """The bars from the first at which the strategy had an opinion: before, it holds nothing to either side."""
    told = signals.reasons.str.contains("hold|mean of", regex=True)
    return told.cummax()


def test_a_strategy_of_both_sides_says_so(candles):
    signals = run_strategy("rsi_reversion", candles, length=3, enter=20.0, exit=60.0, short=1.0)
    words = signals.reasons.str.rpartition(": ")[2]
    assert words[signals.exposure < 0].isin(["sell short", WAITS]).all()
    assert words[signals.exposure > 0].isin(["hold BTC", "above enter 20, waits for exit 60"]).all()
    assert (signals.exposure < 0).any() and (words == WAITS).any()


WAITS = "below exit 60, keeps the short position until enter 20"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_parameter_says_what_it_is(name):
    for key, one in STRATEGIES[name].parameters.items():
        assert one.help, f"{name}.{key}"
    assert STRATEGIES[name].about.endswith(".") or ";" in STRATEGIES[name].about


def test_what_a_strategy_needs():
    assert {name: STRATEGIES[name].needs for name in SHIPPED} == {
        "forecast": ("forecasts",),
        "composite": (),
        "sma_cross": (),
        "rsi_reversion": (),
        "buy_and_hold": (),
    }


def test_a_strategy_that_fails_on_fewer_bars_cannot_be_audited(inputs):
    def needs(candles, features, forecasts):
        if len(candles) < len(inputs[0]):
            raise ValueError("too short")
        return pd.Series(1.0, candles.index)

    with pytest.raises(
        InputError, match=r"cannot be audited: on the first [\d,]+ bars it raised ValueError: too short"
    ):
        audit_strategy(Strategy("needs", needs), inputs[0])


def test_a_name_may_say_the_parameters(inputs):
    named = run_strategy("sma_cross(fast=5, slow=20, max_exposure=0.5)", inputs[0])
    pd.testing.assert_frame_equal(named, run_strategy("sma_cross", inputs[0], fast=5, slow=20, max_exposure=0.5))
    assert resolve_strategy("sma_cross(fast=5)").having(fast=7).values == {"fast": 7}
    assert resolve_strategy("buy_and_hold()").values == {}
    assert resolve_strategy("composite(weights={'technical': 2.0})").values == {"weights": {"technical": 2.0}}


@pytest.mark.parametrize(
    "name",
    [
        "sma_cross(5)",
        "sma_cross(fast=2)(slow=9)",
        "sma_cross(fast=2, fast=3)",
        "sma_cross(fast={[]: 1})",
        "sma_cross(fast=)",
        "sma_cross(fast=open('x'))",
        "sma_cross(**{})",
    ],
)
def test_a_name_with_parameters_that_cannot_be_read_is_refused(name):
    with pytest.raises(InputError, match=r"cannot be read; write its parameters as in 'sma_cross\(fast=20"):
        resolve_strategy(name)


def test_a_missing_input_is_named_with_what_gives_it(inputs):
    with pytest.raises(InputError, match=r"'forecast' needs forecasts: bl.forecast\(checkpoint, candles\)"):
        run_strategy("forecast", inputs[0])
    with pytest.raises(InputError, match="'composite' needs features"):
        run_strategy("composite", inputs[0])


def test_only_what_looks_at_forecasts_is_in_sample(inputs):
    assert run_strategy("forecast", *inputs).in_sample.any()
    assert not run_strategy("sma_cross", *inputs).in_sample.any()
    assert run_strategy("sma_cross", *inputs, filters=Filters(min_confidence=0.4)).in_sample.any()


def test_confidence_is_that_of_the_forecast_and_missing_without(inputs):
    candles, _, forecasts = inputs
    signals = run_strategy("buy_and_hold", candles, None, forecasts)
    pd.testing.assert_series_equal(signals.confidence, forecasts.prob_up, check_names=False)
    assert run_strategy("buy_and_hold", candles).confidence.isna().all()


# One by one


def test_forecast_is_make_signals(inputs):
    candles, _, forecasts = inputs
    ours = run_strategy("forecast", *inputs, enter=0.55, exit=0.5)
    pd.testing.assert_frame_equal(ours, bl.make_signals(candles, forecasts, bl.Rules(0.55, 0.5)))


@pytest.mark.parametrize(
    ("name", "given"),
    [("buy_and_hold", {})]
    + [(name, given) for name in ("composite", "forecast", "sma_cross") for given in ({}, {"short": 0.5})],
)
def test_a_run_goes_on_from_what_was_held(name, given, inputs):
    filters = Filters(cooldown_bars=5, avoid=("down/wild",), agree=("4h",))
    name = strategy(name, **given)
    whole = run_strategy(name, *inputs, filters=filters)
    assert (whole.exposure > 0).any()
    assert (whole.exposure < 0).any() == bool(given)
    kept, parts = run_strategy(name, *(one[:1200] for one in inputs), filters=filters), []
    for start, end in itertools.pairwise((1200, 1201, 1202, 1500, 1503, len(inputs[0]))):
        before = json.loads(json.dumps(kept.attrs["strategy"]))["held"]
        window = [one[start - 1000 : end] for one in inputs]  # as a live account has it: the last bars alone
        kept = run_strategy(name, *window, filters=filters, before=before)
        parts.append(kept)
    pd.testing.assert_frame_equal(pd.concat(parts), whole[1200:], check_freq=False)


def test_a_run_cannot_go_on_from_a_bar_that_is_not_there(candles):
    before = run_strategy("buy_and_hold", candles[:100]).attrs["strategy"]["held"]
    with pytest.raises(InputError, match=r"cannot go on from 2021-01-05 03:00:00\+00:00"):
        run_strategy("buy_and_hold", candles[100:], before=before)
    assert len(run_strategy("buy_and_hold", candles[:100], before=before)) == 0


def test_sma_cross_holds_while_the_quick_average_is_above():
    candles = closes(100, 100, 100, 110, 120, 100, 80, 80)
    signals = run_strategy("sma_cross", candles, fast=1, slow=3)
    # means of three: 100, 103.3, 110, 110, 100, 86.7
    assert signals.exposure.tolist() == pytest.approx([NAN, NAN, 0, 1, 1, 0, 0, 0], nan_ok=True)
    assert signals.reasons.iloc[3] == "mean of 1 bars +6.25 % from that of 3"  # log(110 / 103.33)
    assert signals.reasons.iloc[0] == "fewer than 3 bars are known"


def test_rsi_reversion_buys_weakness_and_sells_the_recovery(candles):
    signals = run_strategy("rsi_reversion", candles, length=3, enter=20.0, exit=60.0)
    rsi = bl.indicator("rsi", candles, length=3)
    held = 0.0
    for bar in range(200, len(candles)):
        if bar == 200:
            held = signals.exposure.iloc[bar]
        held = 1.0 if rsi.iloc[bar] <= 20 else 0.0 if rsi.iloc[bar] >= 60 else held
        assert signals.exposure.iloc[bar] == held
    assert signals.side.isin(["buy", "sell"]).sum() > 10


def test_rsi_is_not_used_before_its_warm_up(candles):
    signals = run_strategy("rsi_reversion", candles)
    assert signals.exposure.iloc[:300].isna().all()
    later = run_strategy("rsi_reversion", candles[7:])
    both = later.exposure.dropna().index
    rsi = bl.indicator("rsi", candles)[both]
    assert ((rsi <= 30) | (rsi >= 55)).any()
    first = both[np.flatnonzero(((rsi <= 30) | (rsi >= 55)).to_numpy())[0]]
    pd.testing.assert_series_equal(later.exposure[first:], signals.exposure[first:], check_freq=False)


def test_buy_and_hold_buys_once(candles):
    signals = run_strategy("buy_and_hold", candles)
    assert (signals.exposure == 1).all()
    assert (signals.side == "buy").sum() == 1


def test_composite_says_which_score_pushed_how_far(candles):
    candles = candles[:2]
    features = pd.DataFrame({"rsi_14": [0.3, NAN], "fear_greed": [-0.5, NAN]}, candles.index)
    forecasts = pd.DataFrame({"prob_up": [0.45, NAN], "mean": [0.0, NAN]}, candles.index)
    weights = Weights(forecast=1, technical=2, sentiment=1, on_chain=5, macro=0, derivatives=0)
    signals = run_strategy("composite", candles, features, forecasts, weights=weights, enter=0.3, exit=0.0)
    # root of a half: −0.18 of the forecast, +0.35 of the trend, +0.18 of the fear
    assert signals.reasons.iloc[0] == (
        "score +0.35 = -0.18 forecast +0.35 technical +0.18 sentiment; at or above enter +0.3: hold BTC"
    )
    assert signals.reasons.iloc[1] == "no score: no category that weighs anything is known yet"
    assert signals.exposure.tolist() == pytest.approx([1, NAN], nan_ok=True)


def test_composite_takes_weights_by_name(candles):
    features = pd.DataFrame({"trend_state": [1.0], "mvrv": [9.0]}, candles.index[:1])
    assert run_strategy("composite", candles[:1], features, weights={"technical": 1}).exposure.tolist() == [1]
    assert run_strategy("composite", candles[:1], features, weights={"on-chain": 1}).exposure.tolist() == [0]


def test_composite_keeps_between_its_thresholds(candles):
    candles = candles[:5]
    features = pd.DataFrame({"trend_state": [0.2, 1.0, 0.2, -0.1, 0.2]}, candles.index)
    signals = run_strategy("composite", candles, features, enter=0.5, exit=0.0)
    assert signals.exposure.tolist() == [0, 1, 1, 0, 0]
    assert [text.partition("; ")[2] for text in signals.reasons] == [
        "between exit +0 and enter +0.5: keep cash",
        "at or above enter +0.5: hold BTC",
        "between exit +0 and enter +0.5: keep the position",
        "at or below exit +0: hold cash",
        "between exit +0 and enter +0.5: keep cash",
    ]


def test_composite_takes_thresholds_and_weights_from_the_settings(candles, monkeypatch):
    candles = candles[:1]
    features = pd.DataFrame({"trend_state": [1.0], "mvrv": [9.0]}, candles.index)
    assert run_strategy("composite", candles, features).exposure.tolist() == [1]
    monkeypatch.setenv("BTCLAB_STRATEGY__ENTER", "0.9")
    assert run_strategy("composite", candles, features).exposure.tolist() == [0]
    monkeypatch.setenv("BTCLAB_STRATEGY__ENTER", "0.15")
    monkeypatch.setenv("BTCLAB_STRATEGY__WEIGHT_ON_CHAIN", "10")
    assert run_strategy("composite", candles, features).exposure.tolist() == [0]


def test_filters_come_from_the_settings_unless_given(candles, monkeypatch):
    monkeypatch.setenv("BTCLAB_STRATEGY__AVOID", '["*/*"]')
    signals = run_strategy("buy_and_hold", candles)
    assert (signals.exposure == 0).all()
    assert signals.reasons.iloc[0] == "buy and hold; no entry: the regime is not known yet"
    assert (run_strategy("buy_and_hold", candles, filters=Filters()).exposure == 1).all()


# One's own


def above_mean(candles, features, forecasts, *, length=20):
    """Holds while the close is above its mean."""
    mean = candles["close"].rolling(length).mean()
    return (candles["close"] > mean).astype(float).where(mean.notna())


def test_a_function_is_used_by_its_name(candles):
    register_strategy("above_mean", above_mean)
    signals = run_strategy("above_mean", candles, length=5)
    expected = above_mean(candles, None, None, length=5)
    np.testing.assert_array_equal(signals.exposure.iloc[4:], expected.iloc[4:])
    assert signals.exposure.iloc[:4].tolist() == [0, 0, 0, 0]  # no opinion: keeps what is held, nothing
    assert signals.reasons.iloc[0] == "no opinion: keeps what is held"
    assert set(signals.reasons.iloc[4:]) == {"wants 100 %", "wants 0 %"}
    audit_strategy("above_mean", candles)


def test_a_function_may_give_its_reasons(candles):
    register_strategy("mine", lambda c, f, p: (pd.Series(0.5, c.index), [f"bar {i}" for i in range(len(c))]))
    assert run_strategy("mine", candles).reasons.iloc[7] == "bar 7"


def test_a_function_says_what_it_needs(candles):
    register_strategy("mine", lambda c, f, p: pd.Series(1.0, c.index), needs=("features",))
    with pytest.raises(InputError, match="'mine' needs features"):
        run_strategy("mine", candles)
    with pytest.raises(InputError, match="Did you mean 'features'"):
        register_strategy("mine", above_mean, needs=("feature",))


def test_a_function_in_a_file_is_used_by_its_path(candles, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport pandas as pd\n"
        "@dataclass\nclass Half:\n    size: float = 0.5\n"
        "def my_rule(candles, features, forecasts, *, size=0.5):\n    return pd.Series(size, candles.index)\n"
    )
    name = f"{path}:my_rule"
    assert set(run_strategy(name, candles).exposure) == {0.5}
    assert set(run_strategy(name, candles, size=0.25).exposure) == {0.25}
    path.write_text(path.read_text().replace("pd.Series(size", "pd.Series(size / 5"))
    assert set(run_strategy(name, candles).exposure) == {0.1}  # what was edited counts


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("def my_rule(c, f, p): pass", "my_rul", r"Unknown function in mine.py: 'my_rul'. Did you mean 'my_rule'"),
        ("def my_rule(:", "my_rule", "could not be run: SyntaxError"),
        ("import nothing_of_the_kind", "my_rule", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("my_rule = 3", "my_rule", "my_rule in mine.py is 3, which is no function"),
        ("def my_rule(candles): pass", "my_rule", r"takes \(candles\); it must take \(candles, features, forecasts\)"),
        ("def my_rule(c, f, p, *, size): pass", "my_rule", "each with a default"),
    ],
)
def test_a_file_that_holds_no_strategy_says_why(tmp_path, text, name, said):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(InputError, match=said):
        resolve_strategy(f"{tmp_path / 'mine.py'}:{name}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"There is no file .*none\.py"):
        resolve_strategy(f"{tmp_path / 'none.py'}:rule")


def without_return(candles, features, forecasts):
    pd.Series(1.0, candles.index)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (without_return, "returned nothing; .* Is there a 'return'"),
        (lambda c, f, p: 1.0, "returned a float; it must return a Series"),
        (lambda c, f, p: np.ones(len(c)), "returned a ndarray"),
        (lambda c, f, p: c, "a frame with the columns open, high, low, close, volume"),
        (lambda c, f, p: pd.Series(1.0, c.index[1:]), "returned 2,159 values for 2,160 bars"),
        (lambda c, f, p: pd.Series(1.0, c.index).sort_index(ascending=False), "row 0 is 2021-03-31 23:00"),
        (lambda c, f, p: pd.Series(1.0, range(len(c))), "other timestamps than the candles'"),
        (lambda c, f, p: pd.Series(1.5, c.index), r"the exposure 1.5 at 2021-01-01.*must lie in −1…1"),
        (lambda c, f, p: pd.Series(-1.01, c.index), "the exposure -1.01 at"),
        (lambda c, f, p: pd.Series(np.inf, c.index), "the exposure inf at .* or be missing: no opinion"),
        (lambda c, f, p: pd.Series("buy", c.index), "which are no numbers"),
        (lambda c, f, p: (pd.Series(1.0, c.index), ["a"]), "returned 1 reasons for 2,160 bars"),
        (lambda c, f, p: (pd.Series(1.0, c.index), "why"), "reasons as a str"),
        (lambda c, f, p: (pd.Series(1.0, c.index), [1] * len(c)), "the reason 1 at .*, which is no text"),
        (lambda c, f, p: (pd.Series(1.0, c.index), None, None), "a tuple of 3"),
    ],
)
def test_a_wrong_return_value_is_explained(candles, function, said):
    register_strategy("mine", function)
    with pytest.raises(InputError, match=rf"Strategy 'mine' .*{said.removeprefix('returned ')}"):
        run_strategy("mine", candles)


def test_true_and_false_and_missing_ones_are_exposures(candles):
    register_strategy("mine", lambda c, f, p: (c["close"] > c["open"]).astype("boolean").mask(c["close"] == c["open"]))
    exposure = run_strategy("mine", candles).exposure
    assert exposure[candles["close"] > candles["open"]].eq(1).all()
    assert exposure[candles["close"] < candles["open"]].eq(0).all()


def test_a_strategy_that_knows_the_future_is_found_out(candles):
    register_strategy("oracle", lambda c, f, p: (c["close"].shift(-1) > c["close"]).astype(float))
    with pytest.raises(
        LookAheadError, match=r"Strategy 'oracle' knows the future: at 2021-.* it wants 0 when the history ends"
    ):
        audit_strategy("oracle", candles)


# Names and parameters


def test_an_unknown_name_is_told_its_neighbours(candles):
    with pytest.raises(InputError, match=r"Unknown strategy: 'sma_crss'\. Did you mean 'sma_cross'.*mine\.py:my_rule"):
        run_strategy("sma_crss", candles)


def test_an_unknown_parameter_is_told_its_neighbours():
    with pytest.raises(InputError, match=r"Unknown parameter of strategy 'sma_cross': 'fst'\. Did you mean 'fast'"):
        strategy("sma_cross", fst=3)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"fast": 2.5}, "fast of strategy 'sma_cross' is 2.5; it must be a whole number of at least 1"),
        ({"fast": True}, "fast of strategy 'sma_cross' is True"),
        ({"slow": 1}, "whole number of at least 2"),
        ({"max_exposure": 1.5}, r"max_exposure .* is 1.5; it must be a number in 0…1 \(of equity\)"),
        ({"max_exposure": "all"}, "is 'all'"),
        ({"short": -0.5}, r"short .* is -0.5; it must be a number in 0…1 \(of equity\)"),
    ],
)
def test_a_wrong_value_is_told_what_is_allowed(parameters, said):
    with pytest.raises(InputError, match=said):
        strategy("sma_cross", **parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("sma_cross", {"fast": 200}, "fast is 200; it must be less than slow"),
        ("rsi_reversion", {"enter": 70.0}, "enter is 70; it must be less than exit"),
        ("composite", {"enter": 0.1, "exit": 0.2}, "exit < enter"),
        ("forecast", {"enter": 0.4, "exit": 0.5}, "exit < enter"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(inputs, name, parameters, said):
    with pytest.raises(InputError, match=said):
        run_strategy(name, *inputs, **parameters)


def test_a_strategy_keeps_its_parameters(candles):
    quick = strategy("sma_cross", fast=2, slow=5)
    assert quick.values == {"fast": 2, "slow": 5}
    assert strategy(quick, fast=3).values == {"fast": 3, "slow": 5}
    pd.testing.assert_frame_equal(
        run_strategy(quick, candles), run_strategy("sma_cross", candles, fast=2, slow=5), check_freq=False
    )


@pytest.mark.parametrize("name", ["composite", "", "mine.py:rule"])
def test_a_name_that_is_taken_or_none_is_refused(name):
    with pytest.raises(InputError, match=r"which ships with btclab|cannot be called"):
        register_strategy(name, above_mean)


def test_tables_of_other_bars_are_refused(inputs):
    candles, features, forecasts = inputs
    with pytest.raises(InputError, match="candles and features have different timestamps"):
        run_strategy("composite", candles, features[1:])
    with pytest.raises(InputError, match="candles and forecasts have different timestamps"):
        run_strategy("sma_cross", candles, None, forecasts[1:])


def test_signals_since_a_bar_begin_with_nothing_held_and_know_the_bars_before(candles):
    since = candles.index[500]
    whole = run_strategy("sma_cross", candles, filters=Filters(), fast=5, slow=20)
    late = run_strategy("sma_cross", candles, filters=Filters(), since=since, fast=5, slow=20)
    assert late.index[0] == since
    assert late["exposure"].notna().all()
    pd.testing.assert_series_equal(late["exposure"].iloc[100:], whole.loc[since:, "exposure"].iloc[100:])
    first = late["side"][late["side"] != "hold"].iloc[0]
    assert first == "buy"
