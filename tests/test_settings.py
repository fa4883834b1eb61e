"""Settings: defaults, then config.toml, then the environment; a wrong one is named, never ignored."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from btclab.errors import InputError
from btclab.settings import PROJECT, config_path, settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """No setting from the environment but the home of this test."""
    for name in [name for name in os.environ if name.startswith("BTCLAB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BTCLAB_HOME", str(home))


@pytest.fixture
def config(home: Path) -> Callable[[str], Path]:
    """Writes config.toml."""

    def write(text: str) -> Path:
        path = home / "data" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def refusal() -> str:
    with pytest.raises(InputError) as caught:
        settings()
    assert caught.value.exit_code == 2
    return str(caught.value)


# Where a setting comes from


def test_defaults():
    own = settings()
    assert own.market.symbol == "BTC/USDT"
    assert own.market.exchanges == ("binance", "kraken", "coinbase", "bitstamp")
    assert (own.trading.fee_bps, own.trading.slippage_bps, own.trading.initial_cash) == (10, 5, 10_000)
    assert own.dashboard.port == 8866


def test_home_is_the_project_unless_named(monkeypatch):
    monkeypatch.delenv("BTCLAB_HOME")
    assert settings().home == PROJECT
    assert config_path() == PROJECT / "data" / "config.toml"


def test_folders_lie_in_the_home(home):
    own = settings()
    assert (own.data, own.models, own.runs) == (home / "data", home / "models", home / "papermill_runs")


def test_notebooks_lie_in_the_project():
    assert settings().notebooks == PROJECT / "notebooks"


def test_config_overrides_the_default(config):
    config('[market]\nsymbol = "BTC/EUR"\nexchanges = ["kraken"]\n[trading]\nfee_bps = 26\n')
    own = settings()
    assert (own.market.symbol, own.market.exchanges, own.trading.fee_bps) == ("BTC/EUR", ("kraken",), 26)


def test_what_config_does_not_name_keeps_its_default(config):
    config('[market]\nsymbol = "BTC/EUR"\n')
    assert settings().market.years == 4


def test_environment_overrides_the_default(monkeypatch):
    monkeypatch.setenv("BTCLAB_MARKET__YEARS", "2.5")
    assert settings().market.years == 2.5


def test_environment_overrides_config_and_leaves_its_neighbours(config, monkeypatch):
    config('[market]\nsymbol = "BTC/EUR"\nyears = 3\n')
    monkeypatch.setenv("BTCLAB_MARKET__YEARS", "1")
    assert (settings().market.symbol, settings().market.years) == ("BTC/EUR", 1)


def test_environment_holds_tables_and_lists_as_json(monkeypatch):
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", '{"binance": "http://127.0.0.1:9000"}')
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGES", '["bitstamp", "kraken"]')
    own = settings().market
    assert own.exchange_urls == {"binance": "http://127.0.0.1:9000"}
    assert own.exchanges == ("bitstamp", "kraken")


def test_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("BTCLAB_MARKET__YEARS", "")
    assert settings().market.years == 4


def test_settings_are_read_anew_each_time(config):
    config("[market]\nyears = 3\n")
    assert settings().market.years == 3
    config("[market]\nyears = 2\n")
    assert settings().market.years == 2


# What is refused


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[market]\nsymbl = "BTC/EUR"\n', "market.symbl = 'BTC/EUR'"),
        ('[markt]\nsymbol = "BTC/EUR"\n', "markt = {'symbol': 'BTC/EUR'}"),
        ("[market]\nyears = -1\n", "market.years = -1: Input should be greater than 0"),
        ("[trading]\nfee_bps = 'ten'\n", "trading.fee_bps = 'ten'"),
        ("[dashboard]\nport = 70000\n", "dashboard.port = 70000: Input should be less than or equal to 65535"),
        ("market = 3\n", "market = 3"),
    ],
)
def test_wrong_config_is_named_with_value_and_place(config, text, named):
    path = config(text)
    message = refusal()
    assert named in message
    assert f"Set in {path} or by BTCLAB_<SECTION>__<NAME>" in message


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BTCLAB_MARKET__YEARS", "0", "market.years = '0': Input should be greater than 0"),
        ("BTCLAB_MARKET__YEARS", "four", "market.years = 'four'"),
        ("BTCLAB_MARKET__YEARS", "nan", "market.years = 'nan'"),
        ("BTCLAB_MARKET__SYMBL", "BTC/EUR", "market.symbl = 'BTC/EUR'"),
        ("BTCLAB_TRADING__FEE_BPS", "-1", "trading.fee_bps = '-1'"),
        ("BTCLAB_TRADING__INITIAL_CASH", "0", "trading.initial_cash = '0'"),
        ("BTCLAB_TRADING__INITIAL_CASH", "inf", "trading.initial_cash = 'inf'"),
        ("BTCLAB_MARKET__EXCHANGES", "kraken", "BTCLAB_MARKET__EXCHANGES = 'kraken' is no JSON"),
        ("BTCLAB_MARKET__EXCHANGE_URLS", "{broken", "BTCLAB_MARKET__EXCHANGE_URLS = '{broken' is no JSON"),
        ("BTCLAB_MARKET__EXCHANGE_URLS", '{"binance": 3}', "market.exchange_urls.binance = 3"),
        ("BTCLAB_MARKT__YEARS", "2", "'markt'. Did you mean 'market'?"),
    ],
)
def test_wrong_variable_is_named_with_its_value(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    assert said in refusal()


@pytest.mark.parametrize("content", [b"[market\n", b"symbol = \n", b"\xff\xfe\x00"])
def test_broken_toml_is_named_with_its_path(config, content):
    path = config("")
    path.write_bytes(content)
    assert f"{path} is not valid TOML" in refusal()


def test_all_wrong_settings_are_named_at_once(config):
    config("[market]\nyears = -1\n[trading]\nfee_bps = -1\n")
    message = refusal()
    assert "market.years" in message and "trading.fee_bps" in message


@pytest.mark.parametrize("section", ["market", "trading", "dashboard"])
def test_settings_are_frozen(section):
    own = settings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(own, section, None)
    part = getattr(own, section)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part, next(iter(type(part).model_fields)), None)
