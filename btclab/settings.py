"""Settings: defaults, then `data/config.toml`, then `BTCLAB_<SECTION>__<NAME>` from the environment.

BTCLAB_HOME                     where data/, models/ and papermill_runs/ lie (default: the project folder)
BTCLAB_MARKET__SYMBOL=BTC/USD   overrides `symbol` in the section `[market]` of config.toml
BTCLAB_MARKET__EXCHANGE_URLS='{"binance": "http://127.0.0.1:9000"}'   another base address for an exchange
"""

from __future__ import annotations

import os
import tomllib
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from btclab.errors import InputError, unknown

PROJECT = Path(__file__).resolve().parent.parent
_FROZEN = ConfigDict(frozen=True, extra="forbid")


class MarketSettings(BaseModel):
    """Which market, and where its candles come from when no source is named."""

    model_config = _FROZEN
    symbol: str = "BTC/USDT"
    exchanges: tuple[str, ...] = ("binance", "kraken", "coinbase", "bitstamp")
    exchange_urls: dict[str, str] = {}
    years: Annotated[float, Field(gt=0, le=20)] = 4.0
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0


class TradingSettings(BaseModel):
    """What a trade costs and with how much the paper account starts (quote currency)."""

    model_config = _FROZEN
    fee_bps: Annotated[float, Field(ge=0, lt=10_000)] = 10.0
    slippage_bps: Annotated[float, Field(ge=0, lt=10_000)] = 5.0
    initial_cash: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10_000.0


class DashboardSettings(BaseModel):
    """Where the dashboard is served; it always binds to 127.0.0.1."""

    model_config = _FROZEN
    port: Annotated[int, Field(ge=0, le=65_535)] = 8866
    refresh_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 30.0


class Settings(BaseSettings):
    """All settings, frozen. Read them with `settings()`."""

    model_config = SettingsConfigDict(
        env_prefix="BTCLAB_", env_nested_delimiter="__", env_ignore_empty=True, frozen=True, extra="forbid"
    )
    home: Path = PROJECT
    market: MarketSettings = MarketSettings()
    trading: TradingSettings = TradingSettings()
    dashboard: DashboardSettings = DashboardSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_path())

    @cached_property
    def data(self) -> Path:
        return self.home / "data"

    @cached_property
    def models(self) -> Path:
        return self.home / "models"

    @cached_property
    def runs(self) -> Path:
        return self.home / "papermill_runs"

    @cached_property
    def notebooks(self) -> Path:
        return PROJECT / "notebooks"


def config_path() -> Path:
    """Where `config.toml` is looked for; it need not exist."""
    return Path(os.environ.get("BTCLAB_HOME") or PROJECT) / "data" / "config.toml"


def settings() -> Settings:
    """The settings in force now. Raises `InputError` naming the setting, its value and what is allowed."""
    for name in os.environ:
        section, nested, _ = name.lower().removeprefix("btclab_").partition("__")
        if name.lower().startswith("btclab_") and nested and section not in Settings.model_fields:
            raise unknown("section of the settings", section, set(Settings.model_fields) - {"home"}, f"Set by {name}.")
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'])) or 'settings'} = {item['input']!r}: {item['msg']}"
            for item in error.errors()
        ]
        raise InputError(
            f"Wrong setting: {'; '.join(lines)}. Set in {config_path()} or by BTCLAB_<SECTION>__<NAME>."
        ) from None
    except SettingsError as error:
        value = getattr(error.__cause__, "doc", "")
        names = [name for name in os.environ if name.lower().startswith("btclab_") and os.environ[name] == value]
        raise InputError(
            f"Wrong setting: {' or '.join(names)} = {value!r} is no JSON. A list is written "
            '\'["binance", "kraken"]\', a table \'{"binance": "http://127.0.0.1:9000"}\'.'
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{config_path()} is not valid TOML: {error}.") from None
