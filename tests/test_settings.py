"""Settings: defaults, then config.toml, then the environment; a wrong one is named, never ignored."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from btclab.errors import InputError
from btclab.records import Costs
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


# What is said about a wrong one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[market]\n\nyears = 40\n",
            "market.years = 40: Input should be less than or equal to 20 (allowed: > 0 and ≤ 20), line 3",
        ),
        ('[trading]\nfee_bps = 1\n[market]\nsymbl = "BTC/EUR"\n', "Did you mean 'symbol' or 'symbols'?"),
        ('[trading]\nfee_bps = 1\n[market]\nsymbl = "BTC/EUR"\n', "line 4"),
        ("[markt]\nyears = 4\n", "Did you mean 'market'?"),
        ("[markt]\nyears = 4\n", "line 1"),
        ("market.years = 40\n", "line 1"),
        ("[market]\nexchange_urls = { binance = 3 }\n", "line 2"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_allowed(config, text, said):
    config(text)
    assert said in refusal()


def test_a_wrong_variable_is_named_and_no_line(config, monkeypatch):
    config("[market]\nyears = 4\n")
    monkeypatch.setenv("BTCLAB_MARKET__YEARS", "40")
    message = refusal()
    assert "set by BTCLAB_MARKET__YEARS" in message
    assert "line" not in message


@pytest.mark.parametrize("name", ["market.coingeko_api_key", "market.coingecko", "context.fred_token", "context.fred"])
def test_a_misspelt_secret_is_not_repeated(config, name):
    section, _, key = name.partition(".")
    config(f'[{section}]\n{key} = "s3cr3t"\n')
    message = refusal()
    assert name in message
    assert "s3cr3t" not in message


@pytest.mark.parametrize("line", ['ledgr = "{0}"', 'ledger = ["{0}"]', 'fee_bps = "{0}"'])
def test_the_address_of_a_misplaced_ledger_is_not_repeated(config, line):
    config("[trading]\n" + line.format("postgresql://joe:s3cr3t@host/db") + "\n")
    assert "Wrong setting: trading." in refusal()
    assert "s3cr3t" not in refusal()


@pytest.mark.parametrize("value", ['{"fred_api_key": "s3cr3t"', '["s3cr3t"]', "s3cr3t"])
def test_a_section_that_may_hold_a_secret_is_not_repeated(monkeypatch, value):
    monkeypatch.setenv("BTCLAB_CONTEXT", value)
    assert "s3cr3t" not in refusal()


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "ftp://a.b", "http://", "http://a.b:port"])
def test_an_address_that_is_none_is_named(monkeypatch, address):
    monkeypatch.setenv("BTCLAB_MARKET__EXCHANGE_URLS", f'{{"binance": "{address}"}}')
    assert "market.exchange_urls" in refusal()
    assert "http://127.0.0.1:9000" in refusal()


# config.toml and .env


def test_config_is_written_on_first_use_and_changes_nothing(home):
    before = settings().model_dump()
    text = config_path().read_text(encoding="utf-8")
    assert tomllib.loads(text) == {name: {} for name in before if name != "home"}
    assert settings().model_dump() == before
    for line in ('#symbol = "BTC/USDT"', "#size_mb = 256.0", "#port = 8866", "#urls = {}"):
        assert line in text.splitlines()
    assert "api_key" not in text


def test_every_line_of_the_written_config_is_a_setting_with_its_default(config):
    defaults = settings().model_dump()
    lines = config_path().read_text(encoding="utf-8").splitlines()
    uncommented = "\n".join(line.removeprefix("#") for line in lines if line[:2] != "# ")
    for section, held in tomllib.loads(uncommented).items():
        assert set(defaults[section]) - set(held) <= {"coingecko_api_key", "fred_api_key", "secret_urls"}
    config(uncommented)
    assert settings().model_dump() == defaults


def test_what_may_be_left_open_is_empty_or_a_number_within_its_bounds(config):
    config('[trading]\nmaker_fee_bps = ""\nparticipation = ""\n')
    assert (settings().trading.maker_fee_bps, settings().trading.participation) == (None, None)
    config("[trading]\nmaker_fee_bps = 0\nparticipation = 0.1\n")
    assert (settings().trading.maker_fee_bps, settings().trading.participation) == (0.0, 0.1)
    config("[trading]\nparticipation = 0\n")
    assert "trading.participation = 0: Input should be greater than 0 (allowed: > 0 and ≤ 1), line 2" in refusal()


def test_the_costs_of_the_settings_are_those_of_their_section(config):
    assert Costs.from_settings() == Costs(10, 5)
    config("[trading]\nfee_bps = 7\nslippage_bps = 3\nmaker_fee_bps = 2\nimpact_bps = 20\nparticipation = 0.1\n")
    assert Costs.from_settings() == Costs(7, 3, maker_fee_bps=2, impact_bps=20, participation=0.1)


def test_a_config_that_is_there_is_left_alone(config):
    path = config("[market]\nyears = 3\n")
    settings()
    assert path.read_text() == "[market]\nyears = 3\n"


def test_dotenv_is_read_below_the_environment_and_above_config(config, home, monkeypatch):
    config("[market]\nyears = 3\n[trading]\nfee_bps = 1\n")
    (home / ".env").write_text("# mine\nBTCLAB_MARKET__YEARS=2\nexport BTCLAB_TRADING__FEE_BPS='7'\nOTHER_PROGRAM=1\n")
    assert (settings().market.years, settings().trading.fee_bps) == (2, 7)
    monkeypatch.setenv("BTCLAB_MARKET__YEARS", "1")
    assert settings().market.years == 1


def test_secrets_of_dotenv_can_be_had_and_are_not_shown(home):
    (home / ".env").write_text("BTCLAB_CONTEXT__FRED_API_KEY=s3cr3t\n")
    own = settings()
    assert own.context.fred_api_key.get_secret_value() == "s3cr3t"
    assert "s3cr3t" not in repr(own) + str(own) + own.model_dump_json()


def test_a_changed_dotenv_is_read_anew(home):
    assert settings().market.years == 4
    (home / ".env").write_text("BTCLAB_MARKET__YEARS=2\n")
    assert settings().market.years == 2


def test_a_wrong_section_in_dotenv_is_named(home):
    (home / ".env").write_text("BTCLAB_MARKT__YEARS=2\n")
    assert "'markt'. Did you mean 'market'?" in refusal()


def test_a_dotenv_that_is_no_text_is_named(home):
    (home / ".env").write_bytes(b"\xff\xfe\x00BTCLAB")
    assert f"{home / '.env'} cannot be read" in refusal()
