"""Settings: defaults, then config.toml, then the environment; a wrong one is named with its value and its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from btclab.errors import InputError
from btclab.settings import PROJECT, config_path, settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the other tests set."""
    for name in ("BTCLAB_MARKET__EXCHANGE_URLS", "BTCLAB_MARKET__TIMEOUT_S"):
        monkeypatch.delenv(name)


def write_config(content: str | bytes) -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal() -> str:
    with pytest.raises(InputError) as caught:
        settings()
    assert caught.value.exit_code == 2
    return str(caught.value)


# What is in force


def test_defaults():
    market, trading = settings().market, settings().trading
    assert (market.symbol, market.years, market.timeout_s) == ("BTC/USDT", 4.0, 10.0)
    assert market.exchanges == ("binance", "kraken", "coinbase", "bitstamp")
    assert (trading.fee_bps, trading.slippage_bps, trading.initial_cash) == (10.0, 5.0, 10_000.0)


def test_folders_lie_in_the_home(home):
    here = settings()
    assert (here.home, here.data, here.models, here.runs) == (
        home,
        home / "data",
        home / "models",
        home / "papermill_runs",
    )


@pytest.mark.parametrize("value", [None, ""])
def test_home_is_the_project_unless_it_is_named(monkeypatch, value):
    monkeypatch.delenv("BTCLAB_HOME") if value is None else monkeypatch.setenv("BTCLAB_HOME", value)
    assert settings().home == PROJECT
    assert config_path() == PROJECT / "data" / "config.toml"


def test_config_overrides_defaults_and_leaves_the_others():
    write_config('[market]\nyears = 2\nexchanges = ["kraken"]\n')
    market = settings().market
    assert (market.years, market.exchanges, market.symbol) == (2.0, ("kraken",), "BTC/USDT")


def test_environment_overrides_the_config_name_by_name(monkeypatch):
    write_config('[market]\nyears = 2\nsymbol = "BTC/EUR"\n')
    monkeypatch.setenv("BTCLAB_MARKET__SYMBOL", "BTC/USD")
    assert (settings().market.symbol, settings().market.years) == ("BTC/USD", 2.0)


def test_environment_takes_lists_and_tables_as_json(monkeypatch):
    urls = {"binance": "http://127.0.0.1:9000"}
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGES", '["bitstamp", "kraken"]')
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", json.dumps(urls))
    assert settings().market.exchanges == ("bitstamp", "kraken")
    assert settings().market.exchange_urls == urls


def test_environment_takes_a_whole_section_as_json(monkeypatch):
    monkeypatch.setenv("BTCLAB_TRADING", '{"fee_bps": 3, "slippage_bps": 1}')
    assert (settings().trading.fee_bps, settings().trading.slippage_bps) == (3.0, 1.0)


def test_empty_environment_variable_is_as_if_unset(monkeypatch):
    monkeypatch.setenv("BTCLAB_MARKET__YEARS", "")
    assert settings().market.years == 4.0


def test_other_variables_of_btclab_are_left_alone(monkeypatch):
    monkeypatch.setenv("BTCLAB_SOMETHING_ELSE", "x")
    assert settings().market.symbol == "BTC/USDT"


def test_settings_are_read_anew_each_time(monkeypatch):
    assert settings().dashboard.port == 8866
    monkeypatch.setenv("BTCLAB_DASHBOARD__PORT", "9000")
    assert settings().dashboard.port == 9000


@pytest.mark.parametrize(
    "change",
    [
        lambda here: setattr(here, "home", Path("/")),
        lambda here: setattr(here.market, "symbol", "BTC/EUR"),
        lambda here: setattr(here.trading, "fee_bps", 0.0),
    ],
    ids=["home", "market", "trading"],
)
def test_settings_are_frozen(change):
    with pytest.raises(ValidationError, match="frozen"):
        change(settings())


# What is refused


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MARKET__YEARS", "many", "market.years = 'many': Input should be a valid number"),
        ("MARKET__YEARS", "-1", "market.years = '-1': Input should be greater than 0"),
        ("MARKET__TIMEOUT_S", "nan", "market.timeout_s = 'nan'"),
        ("TRADING__FEE_BPS", "10000", "trading.fee_bps = '10000': Input should be less than 10000"),
        ("TRADING__FEE_BPS", "-1", "trading.fee_bps = '-1'"),
        ("TRADING__INITIAL_CASH", "inf", "trading.initial_cash = 'inf': Input should be a finite number"),
        ("DASHBOARD__PORT", "65536", "dashboard.port = '65536'"),
        ("MARKET__SYMBL", "BTC/USD", "market.symbl = 'BTC/USD': Extra inputs are not permitted"),
    ],
)
def test_wrong_variable_is_named_with_its_value(monkeypatch, home, name, value, said):
    monkeypatch.setenv(f"BTCLAB_{name}", value)
    message = refusal()
    assert said in message
    assert f"Set in {home / 'data' / 'config.toml'} or by BTCLAB_<SECTION>__<NAME>" in message


@pytest.mark.parametrize("name", ["BTCLAB_MARKTE__SYMBOL", "btclab_markte__symbol"])
def test_variable_of_an_unknown_section_suggests_the_near_one(monkeypatch, name):
    monkeypatch.setenv(name, "BTC/USD")
    message = refusal()
    assert "'markte'. Did you mean 'market'?" in message
    assert f"Set by {name}" in message


@pytest.mark.parametrize(("name", "value"), [("MARKET__EXCHANGES", "kraken,binance"), ("MARKET", "{'years': 2}")])
def test_variable_that_is_no_json_is_named_with_an_example(monkeypatch, name, value):
    monkeypatch.setenv(f"BTCLAB_{name}", value)
    message = refusal()
    assert f"BTCLAB_{name} = {value!r} is no JSON" in message
    assert '["binance", "kraken"]' in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[market]\nyears = "x"\n', "market.years = 'x'"),
        ("[market]\nyeers = 2\n", "market.yeers = 2: Extra inputs are not permitted"),
        ("[mrket]\nyears = 2\n", "mrket = {'years': 2}: Extra inputs are not permitted"),
        ("market = 2\n", "market = 2: Input should be a valid dictionary"),
        ("[market\nyears = 2\n", "is not valid TOML: Expected ']'"),
        (b'[market]\nsymbol = "\xff"\n', "is not valid TOML: 'utf-8' codec can't decode"),
    ],
    ids=["value", "name", "section", "no table", "no TOML", "no text"],
)
def test_wrong_config_is_named_with_its_path(content, said):
    path = write_config(content)
    message = refusal()
    assert said in message
    assert str(path) in message


def test_every_wrong_setting_is_named_at_once(monkeypatch):
    write_config("[market]\nyears = -1\n")
    monkeypatch.setenv("BTCLAB_TRADING__FEE_BPS", "free")
    message = refusal()
    assert "market.years" in message and "trading.fee_bps" in message
