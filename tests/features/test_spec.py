"""Which features there are: the shipped sets, a file of one's own, and what is wrong in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import btclab as bl
from btclab.context.series import SERIES
from btclab.errors import InputError
from btclab.features.registry import INDICATORS
from btclab.features.spec import CONTEXT_GROUPS, NAMES, Feature, FeatureSpec, call_text, read_spec, resolve_spec
from btclab.market.candles import COLUMNS

GROUPS = ["trend", "momentum", "volatility", "volume", "levels", "candles", "statistics", "calendar", "regime", "cross"]


@pytest.fixture
def written(tmp_path: Path):
    """Write a spec file; its path."""

    def write(text: str, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


# What ships


def test_the_default_set_has_a_hundred_columns_of_candles_alone():
    spec = resolve_spec("default")
    assert len(spec.without(CONTEXT_GROUPS).columns) >= 100
    assert spec.name == "default"


def test_the_default_set_has_every_group():
    assert list(dict.fromkeys(one.group for one in resolve_spec("default").features)) == [*GROUPS, *CONTEXT_GROUPS]


def test_technical_is_the_default_set_without_context():
    spec = resolve_spec("technical")
    assert spec.columns == resolve_spec("default").without(CONTEXT_GROUPS).columns
    assert not [one for one in spec.features if set(one.inputs) - set(COLUMNS)]


def test_core_is_part_of_it_and_is_warm_within_three_weeks():
    spec = resolve_spec("core")
    assert set(spec.columns) < set(resolve_spec("technical").columns)
    assert spec.warmup_at("1h") <= 3 * 7 * 24


@pytest.mark.parametrize("feature", resolve_spec("default").features, ids=lambda one: one.name)
def test_every_default_feature_says_what_it_is(feature):
    one = INDICATORS[feature.indicator]
    assert len(one.function.__doc__ or "") > 20
    without_unit = ("skewness", "kurtosis", "time_of_day", "day_of_week")  # pure numbers by their nature
    assert feature.unit or feature.name.startswith(without_unit)
    assert set(feature.inputs) <= {*COLUMNS, *SERIES}
    assert feature.warmup is None  # the indicator knows its own


@pytest.mark.parametrize("feature", resolve_spec("default").features, ids=lambda one: one.name)
def test_every_default_feature_is_free_of_the_price_level(feature):
    """Those in price have a form that frees them; those of context are told by the series."""
    in_price = {
        "sma",
        "ema",
        "macd",
        "supertrend",
        "ichimoku",
        "kc",
        "atr",
        "ao",
        "vwap",
        "rolling_vwap",
        "pivots",
        "swings",
    }
    if feature.indicator in in_price:
        assert feature.form in ("distance", "distance_now", "per_close")


def test_the_default_set_names_no_cumulative_indicator():
    """On-balance volume and its kin depend on where the history begins: they enter as differences over a window."""
    assert not {one.indicator for one in resolve_spec("default").features} & {"obv", "pvt", "ad", "adosc", "nvi", "pvi"}


# A spec


SPEC = FeatureSpec(
    "mine",
    (
        Feature("rsi_7", "momentum", "rsi", {"length": 7}, form="oscillator"),
        Feature("rsi_14_4h", "cross", "rsi", {"length": 14}, timeframe="4h"),
        Feature("hash_rate_7", "on-chain", "log_change", {"days": 7}, ("hash_rate",), unit="log ratio"),
    ),
)


def test_columns_are_the_names_in_order():
    assert SPEC.columns == ["rsi_7", "rsi_14_4h", "hash_rate_7"]


def test_only_keeps_the_order_of_the_spec():
    assert SPEC.only(["hash_rate_7", "rsi_7"]).columns == ["rsi_7", "hash_rate_7"]


def test_without_takes_names_and_groups():
    assert SPEC.without(["on-chain", "rsi_7"]).columns == ["rsi_14_4h"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SPEC.only(["rsi_8"]), r"Unknown feature of spec 'mine': 'rsi_8'\. Did you mean 'rsi_7'"),
        (
            lambda: SPEC.without(["momentun"]),
            r"Unknown feature or group of spec 'mine': 'momentun'\. Did you mean 'momentum'",
        ),
        (lambda: SPEC.without(["momentum", "cross", "on-chain"]), "is empty"),
        (lambda: FeatureSpec("mine", ()), "is empty"),
        (lambda: FeatureSpec("mine", (SPEC.features[0],) * 2), r"names \['rsi_7'\] twice"),
    ],
)
def test_a_name_that_it_has_not_or_has_twice_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_its_table_says_how_each_column_is_computed():
    table = SPEC.table("1h")
    assert table.loc["rsi_14_4h", "indicator"] == "rsi(length=14) on 4h"
    assert table.loc["hash_rate_7"].tolist() == ["on-chain", "log_change(days=7)", "hash_rate", "log ratio", 7 * 24]
    assert call_text(SPEC.features[0]) == "rsi(length=7)"


def test_its_table_needs_no_candles_and_nothing_imported_before():
    words = [sys.executable, "-c", "import btclab as bl; print(len(bl.resolve_spec('core').table('4h')))"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(len(resolve_spec("core").columns))]


@pytest.mark.parametrize("spec", [SPEC, *map(resolve_spec, NAMES)], ids=lambda one: one.name)
def test_a_spec_survives_json(spec):
    assert FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_unit_follows_from_the_form_unless_it_is_given():
    assert Feature("a", "g", "rsi", form="oscillator").unit == "−1…1"
    assert Feature("a", "g", "rsi", form="oscillator", unit="points").unit == "points"


# Warm-up


def test_a_warm_up_is_the_indicators_own_in_bars_of_the_candles():
    feature = Feature("a", "g", "log_change", {"days": 7}, ("hash_rate",))
    assert [feature.warmup_at(timeframe) for timeframe in ("1h", "4h", "1d")] == [168, 42, 7]


def test_a_warm_up_on_longer_bars_counts_that_the_first_may_be_cut():
    """49 whole days before the first of its own; the first day of the history, which may be half; all but the last hour."""
    feature = Feature("a", "g", "sma", {"length": 50}, timeframe="1d")
    assert feature.warmup_at("1h") == (49 + 2) * 24 - 2


def test_the_warm_up_of_a_spec_is_the_longest():
    assert SPEC.warmup_at("1h") == SPEC.features[1].warmup_at("1h")


def test_a_feature_of_pandas_ta_declares_its_warm_up():
    assert Feature("a", "g", "vwma", {"length": 10}, warmup=9).warmup_at("1h") == 9
    with pytest.raises(InputError, match=r"'vwma', whose warm-up btclab does not know: declare it, e\.g\. warmup=200"):
        Feature("a", "g", "vwma").warmup_at("1h")


# A file of one's own


def test_a_feature_is_one_line_of_a_file(written, candles):
    path = written('[momentum]\nfast_rsi = { indicator = "rsi", length = 7, form = "oscillator", unit = "−1…1" }\n')
    spec = resolve_spec(path)
    assert spec == resolve_spec(str(path))
    assert spec.name == "mine"
    assert spec.features == (Feature("fast_rsi", "momentum", "rsi", {"length": 7}, form="oscillator"),)
    features = bl.build_features(candles, spec=str(path))
    pd.testing.assert_series_equal(
        features["fast_rsi"].iloc[200:], (bl.indicator("rsi", candles, length=7) / 50 - 1).iloc[200:], check_names=False
    )


def test_a_file_says_output_inputs_timeframe_and_warm_up(written):
    path = written(
        '[mine]\na = { indicator = "macd", output = "MACDh", timeframe = "4h", inputs = ["volume"], warmup = 9 }\n'
        'b = { indicator = "macd", output = 2, inputs = "volume" }\n'
    )
    one, other = resolve_spec(path).features
    assert (one.output, one.timeframe, one.inputs, one.warmup) == ("MACDh", "4h", ("volume",), 9)
    assert (other.output, other.timeframe, other.inputs, other.warmup) == (2, "", ("volume",), None)


def test_a_file_may_include_a_set_and_leave_out_part_of_it(written):
    path = written('include = "core"\nleave_out = ["rsi_14", "calendar"]\n[mine]\na = { indicator = "sma" }\n')
    core = resolve_spec("core")
    assert resolve_spec(path).columns == [*core.without(["rsi_14", "calendar"]).columns, "a"]


def test_a_file_may_include_another_beside_it(written):
    written('[mine]\na = { indicator = "sma" }\n', "other.toml")
    path = written('include = "other.toml"\n[mine]\nb = { indicator = "ema" }\n')
    assert resolve_spec(path).columns == ["a", "b"]


def test_a_line_replaces_the_included_one_of_its_name_in_its_place(written):
    path = written('include = "core"\n[momentum]\nrsi_14 = { indicator = "rsi", length = 14, form = "percent" }\n')
    spec = resolve_spec(path)
    assert spec.columns == resolve_spec("core").columns
    assert spec.only(["rsi_14"]).features[0].form == "percent"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mine]\na = { indicator = \n", r"is no valid TOML: .*line 2"),
        ('[mine]\na = { indicator = "sma" }\na = { indicator = "ema" }\n', r"is no valid TOML: .*line 3"),
        ("[mine]\na = { length = 3 }\n", r"Feature 'a' names no indicator; write e\.g\. a = \{ indicator"),
        ('a = { indicator = "sma" }\n', r"'a' is no group of features; write \[a\]"),
        ('include = "defalt"\n', r"Unknown feature spec: 'defalt'\. Did you mean 'default'"),
        ("include = 3\n", "include is 3; it must be the name of a spec or of a file"),
        ('include = "mine.toml"\n', "includes itself"),
        ('include = "gone.toml"\n', "gone.toml cannot be read: No such file"),
        ('include = "core"\nleave_out = ["rsi_15"]\n', r"Unknown feature or group of spec 'core': 'rsi_15'"),
        ('include = "core"\nleave_out = "rsi_14"\n', "leave_out must be a list"),
        ('include = "core"\nleave_out = [14]\n', "leave_out must be a list"),
        ('leave_out = ["rsi_14"]\n[mine]\na = { indicator = "sma" }\n', "of the spec that is included"),
        (
            '[one]\na = { indicator = "sma" }\n[two]\na = { indicator = "ema" }\n',
            r"'a' is declared twice, in \[one\] and \[two\]",
        ),
        ("", "is empty"),
        (
            '[mine]\na = { indicator = "sma", form = "distanse" }\n',
            r"Unknown form of feature 'a': 'distanse'\. Did you mean 'distance'",
        ),
        ('[mine]\na = { indicator = "sma", form = ["raw"] }\n', "Unknown form of feature 'a'"),
        (
            '[mine]\na = { indicator = "sma", timeframe = "4 h" }\n',
            r"Unknown timeframe of feature 'a': '4 h'\. Did you mean '4h'",
        ),
        ('[mine]\na = { indicator = "sma", output = 1.5 }\n', "output of feature 'a' is 1.5"),
        ('[mine]\na = { indicator = "sma", inputs = 5 }\n', "inputs of feature 'a' are 5"),
        ('[mine]\na = { indicator = "sma", inputs = [5] }\n', r"inputs of feature 'a' are \[5\]"),
        ('[mine]\na = { indicator = "sma", warmup = -1 }\n', "warmup of feature 'a' is -1"),
        ('[mine]\na = { indicator = "sma", warmup = "long" }\n', "warmup of feature 'a' is 'long'"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_the_files_name(written, text, message):
    with pytest.raises(InputError, match=message) as raised:
        resolve_spec(written(text))
    assert "mine.toml" in str(raised.value)


def test_files_that_include_each_other_are_refused(written):
    written('include = "mine.toml"\n', "other.toml")
    with pytest.raises(InputError, match="includes itself"):
        read_spec(written('include = "other.toml"\n'))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.toml cannot be read: No such file"):
        resolve_spec(tmp_path / "nowhere.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no valid TOML"):
        resolve_spec(tmp_path / "mine.toml")


@pytest.mark.parametrize("spec", ["defalt", "", None, 3, ["default"]])
def test_an_unknown_spec_names_the_valid_ones(spec):
    with pytest.raises(InputError, match=r"Unknown feature spec: .*Valid: default, core, technical.*ends in \.toml"):
        resolve_spec(spec)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{ indicator = "rsii" }', r"Unknown indicator: 'rsii'\. Did you mean 'rsi'"),
        ('{ indicator = "rsi", lenght = 7 }', r"Unknown parameter of 'rsi': 'lenght'\. Did you mean 'length'"),
        ('{ indicator = "rsi", length = 0 }', "length of 'rsi' is 0; it must be a whole number of at least 1"),
        ('{ indicator = "sma_cross", fast = 5 }', "Indicator 'sma_cross' needs slow"),
        (
            '{ indicator = "sma", inputs = ["volumee"] }',
            r"Unknown input of feature 'a': 'volumee'\. Did you mean 'volume'",
        ),
        ('{ indicator = "sma", inputs = ["close", "volume"] }', "too many"),
        ('{ indicator = "log_change", days = 7 }', "reads a series that candles do not have"),
        ('{ indicator = "vwma" }', "declare it, e.g. warmup=200"),
        ('{ indicator = "vp", warmup = 5 }', "looks ahead"),
        ('{ indicator = "rsi", output = 3 }', r"Feature 'a' asks for output 3; valid: 0…0"),
        ('{ indicator = "macd", output = "signal" }', r"Unknown output of feature 'a': 'signal'.*MACDs_12_26_9"),
    ],
)
def test_what_cannot_be_computed_is_said_when_it_is_built(written, candles, line, message):
    with pytest.raises(InputError, match=message) as raised:
        bl.build_features(candles, spec=written(f"[mine]\na = {line}\n"))
    assert "eature 'a'" in str(raised.value)  # which line of the file it was
