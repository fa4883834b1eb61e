"""Settings: defaults, then `data/config.toml`, then `.env`, then `BTCLAB_<SECTION>__<NAME>` from the environment.

BTCLAB_HOME                     where data/, models/ and papermill_runs/ lie (default: the project folder)
BTCLAB_MARKET__SYMBOL=BTC/USD   overrides `symbol` in the section `[market]` of config.toml
BTCLAB_MARKET__EXCHANGE_URLS='{"binance": "http://127.0.0.1:9000"}'   another base address for an exchange

`config.toml` is written on first use, every setting in it explained and commented out. Secrets belong in `.env`, in
the same folder as data/, as `BTCLAB_CONTEXT__FRED_API_KEY=…`; no message, log or report repeats one.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from btclab.errors import InputError, StorageError, unknown
from btclab.files import write_atomically

PROJECT = Path(__file__).resolve().parent.parent
_FROZEN = ConfigDict(frozen=True, extra="forbid")
_PREFIX = "BTCLAB_"
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_SECRET = re.compile(r"key|secret|token|password|webhook", re.IGNORECASE)


def _said(meaning: str, **bounds: Any) -> Any:
    """A field's meaning, which config.toml prints, and its bounds."""
    return Field(description=meaning, **bounds)


def _check_addresses(urls: dict[str, str]) -> dict[str, str]:
    for name, url in urls.items():
        parts = urlsplit(url)
        try:
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
        except ValueError:  # a port that is no number
            good = False
        if not good:
            raise ValueError(f"the address of {name} is none; write it like http://127.0.0.1:9000")
    return urls


Addresses = Annotated[dict[str, str], AfterValidator(_check_addresses)]


class MarketSettings(BaseModel):
    """Which market, and where its candles come from when no source is named."""

    model_config = _FROZEN
    symbol: Annotated[str, _said("the market, in ccxt's spelling")] = "BTC/USDT"
    symbols: Annotated[
        tuple[str, ...], _said("more markets that `btclab fetch` keeps, e.g. ETH/USDT; they are not used unless named")
    ] = ()
    exchanges: Annotated[tuple[str, ...], _said("tried in this order; any that ccxt knows, or coingecko")] = (
        "binance",
        "kraken",
        "coinbase",
        "bitstamp",
    )
    exchange_urls: Annotated[
        Addresses, _said('another base address, e.g. { binance = "http://127.0.0.1:9000" }: a proxy or a mirror')
    ] = {}
    years: Annotated[float, _said("years of candles that are fetched unless a start is named", gt=0, le=20)] = 4.0
    timeout_s: Annotated[float, _said("seconds that an answer may take", gt=0, le=300)] = 10.0
    coingecko_api_key: Annotated[SecretStr | None, _said("CoinGecko's demo key (in .env)")] = None


class ContextSettings(BaseModel):
    """Series that are not candles: sentiment, on-chain, derivatives, macro."""

    model_config = _FROZEN
    urls: Annotated[
        dict[str, str],
        _said('another base address of a source, e.g. { fred = "http://127.0.0.1:9000", "alternative.me" = "…" }'),
    ] = {}
    fred_api_key: Annotated[SecretStr | None, _said("key for the macro series of FRED (in .env)")] = None


class CacheSettings(BaseModel):
    """Remote answers kept on disk, so that nothing is asked for twice."""

    model_config = _FROZEN
    size_mb: Annotated[float, _said("megabytes; the oldest answers go when it is full", ge=1, le=100_000)] = 256.0
    warn_hit_rate: Annotated[
        float, _said("warn when fewer of the requests are answered from the cache", ge=0, le=1)
    ] = 0.7
    warm: Annotated[
        tuple[str, ...],
        _said("exchanges and context series that maintenance asks for, so that they are there when needed"),
    ] = ()
    maintenance_h: Annotated[
        float, _said("hours between clean-ups, which `btclab fetch` does on its way; 0 turns them off", ge=0, le=8760)
    ] = 24.0


class TradingSettings(BaseModel):
    """What a trade costs and with how much the paper account starts (quote currency)."""

    model_config = _FROZEN
    fee_bps: Annotated[float, _said("fee of a trade in basis points of its value (10 = 0.10 %)", ge=0, lt=10_000)] = (
        10.0
    )
    slippage_bps: Annotated[float, _said("basis points by which a fill is worse than the open", ge=0, lt=10_000)] = 5.0
    initial_cash: Annotated[float, _said("start of the paper account", gt=0, allow_inf_nan=False)] = 10_000.0


class RetrainingSettings(BaseModel):
    """When a training is due: the signal report says so, nothing trains by itself."""

    model_config = _FROZEN
    age_days: Annotated[float, _said("days since the last bar that training saw", gt=0, le=3650)] = 90.0
    window_bars: Annotated[int, _said("newest unseen bars that are judged", ge=100, le=100_000)] = 720
    psi: Annotated[float, _said("population stability index above which a feature has drifted", gt=0, le=10)] = 0.5
    drifted_share: Annotated[float, _said("share of the features that may drift", ge=0, le=1)] = 0.5
    coverage_off: Annotated[
        float, _said("how far the coverage of the 90 % interval may be off (0.05: 85 to 95 %)", gt=0, le=0.9)
    ] = 0.05
    cusum: Annotated[
        float, _said("cumulative excess of errors, in standard deviations; volatility comes in clusters", gt=0, le=1000)
    ] = 30.0
    volatility_ratio: Annotated[
        float, _said("how many times as high or low as in training the volatility may be", gt=1, le=100)
    ] = 3.0


class DashboardSettings(BaseModel):
    """Where the dashboard is served; it always binds to 127.0.0.1."""

    model_config = _FROZEN
    port: Annotated[int, _said("port; 0 takes a free one", ge=0, le=65_535)] = 8866
    refresh_s: Annotated[float, _said("seconds between looks for a new bar", ge=1, allow_inf_nan=False)] = 30.0


class _Environment(EnvSettingsSource):
    """The environment, and below it the `BTCLAB_…` lines of `.env`; other lines there are other programs'."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in _variables().items() if value}


class Settings(BaseSettings):
    """All settings, frozen. Read them with `settings()`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", env_ignore_empty=True, frozen=True, extra="forbid"
    )
    home: Path = PROJECT
    market: MarketSettings = MarketSettings()
    context: ContextSettings = ContextSettings()
    cache: CacheSettings = CacheSettings()
    trading: TradingSettings = TradingSettings()
    retraining: RetrainingSettings = RetrainingSettings()
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
        return (
            init_settings,
            _Environment(settings_cls),
            TomlConfigSettingsSource(settings_cls, toml_file=config_path()),
        )

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


def _home() -> Path:
    return Path(os.environ.get("BTCLAB_HOME") or PROJECT)


def config_path() -> Path:
    """Where `config.toml` lies; `settings` writes it with comments if it is not there."""
    return _home() / "data" / "config.toml"


def dotenv_path() -> Path:
    """Where `.env` is looked for; it need not exist."""
    return _home() / ".env"


def _variables() -> dict[str, str | None]:
    """The BTCLAB_… variables of `.env` and, above them, of the environment."""
    given = {**(dotenv_values(dotenv_path()) if dotenv_path().is_file() else {}), **os.environ}
    return {name: value for name, value in given.items() if name.upper().startswith(_PREFIX)}


def settings() -> Settings:
    """The settings in force now. Raises `InputError` naming the setting, its value, its line and what is allowed."""
    _write_config()
    environment = tuple(item for item in os.environ.items() if item[0].upper().startswith(_PREFIX))
    return _read(environment, _version(config_path()), _version(dotenv_path()))


def _version(path: Path) -> tuple[str, int, int]:
    """What changes when a file does."""
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4)
def _read(*versions: object) -> Settings:
    """The settings, read anew when a file or the environment has changed: they are asked for at every turn."""
    try:
        variables = _variables()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{dotenv_path()} cannot be read: {error}. Write lines such as BTCLAB_MARKET__YEARS=4"
        ) from None
    for name in variables:
        section, nested, _rest = name.lower().removeprefix(_PREFIX.lower()).partition("__")
        if nested and section not in _sections():
            raise unknown("section of the settings", section, set(_sections()), f"Set by {name}.")
    try:
        return Settings()
    except ValidationError as error:
        lines = [_explained(item, variables) for item in error.errors()]
        raise InputError(
            f"Wrong setting: {'; '.join(lines)}. Set in {config_path()} or by BTCLAB_<SECTION>__<NAME>."
        ) from None
    except SettingsError as error:
        value = getattr(error.__cause__, "doc", "")
        names = [name for name, held in variables.items() if held == value]
        shown = "(hidden)" if any("__" not in name or _SECRET.search(name) for name in names) else repr(value)
        raise InputError(
            f"Wrong setting: {' or '.join(names)} = {shown} is no JSON. A list is written "
            '\'["binance", "kraken"]\', a table \'{"binance": "http://127.0.0.1:9000"}\'.'
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{config_path()} is not valid TOML: {error}.") from None


def _sections() -> dict[str, type[BaseModel]]:
    return {name: field.annotation for name, field in Settings.model_fields.items() if name != "home"}  # type: ignore[misc]


def _field(location: tuple[Any, ...]) -> FieldInfo | None:
    section = _sections().get(str(location[0])) if location else None
    return section.model_fields.get(str(location[1])) if section and len(location) > 1 else None


def _explained(item: ErrorDetails, variables: Mapping[str, str | None]) -> str:
    """One wrong setting: name, value, what pydantic says, what is allowed, and where it is written."""
    location = item["loc"]
    name, field = ".".join(map(str, location)) or "settings", _field(location)
    value = "(hidden)" if _may_hold_secret(location, item["input"]) else repr(item["input"])
    allowed = ""
    if item["type"] == "extra_forbidden":
        section = _sections().get(str(location[0])) if len(location) > 1 else None
        names = list(section.model_fields) if section else list(_sections())
        allowed = f" ({str(unknown('name', location[-1], names)).partition('. ')[2].rstrip('.')})"
    elif field is not None and (bounds := _bounds(field)):
        allowed = f" (allowed: {bounds})"
    variable = _PREFIX + "__".join(str(part) for part in location[:2]).upper()
    written = next((given for given in variables if given.upper() == variable), None)
    line = None if written else _line_of(location)
    place = f", set by {written}" if written else f", line {line}" if line else ""
    return f"{name} = {value}: {item['msg']}{allowed}{place}"


def _may_hold_secret(location: tuple[Any, ...], value: object) -> bool:
    """Whether a wrong setting may be a misspelt or misplaced secret: it is then not repeated."""
    if _SECRET.search(".".join(map(str, location))) or _SECRET.search(str(value)):
        return True
    section = _sections().get(str(location[0])) if location else None
    secrets = [name for name in section.model_fields if _SECRET.search(name)] if section else []
    if not secrets:
        return False
    if len(location) == 1:  # the whole section is something else than a table
        return isinstance(value, str | list | tuple | dict)
    known = str(location[1]) in (section.model_fields if section else {})
    return not known and any(name.startswith(str(location[1]).lower()[:4]) for name in secrets)


def _bounds(field: FieldInfo) -> str:
    found = [
        (sign, getattr(rule, name)) for rule in field.metadata for name, sign in _BOUNDS.items() if hasattr(rule, name)
    ]
    return " and ".join(f"{sign} {bound:,}" for sign, bound in found)


def _line_of(location: tuple[Any, ...]) -> int | None:
    """The line of config.toml on which a setting stands; None if it cannot be told."""
    try:
        lines = config_path().read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    here: list[str] = []
    wanted = [str(part) for part in location]
    for number, line in enumerate(lines, 1):
        if header := re.match(r"\s*\[([^\]]+)\]", line):
            here = header[1].strip().split(".")
            if here == wanted:
                return number
        elif (key := re.match(r"\s*([\w.\-]+)\s*=", line)) and [*here, *key[1].split(".")] in (wanted, wanted[:2]):
            return number
    return None


def _write_config() -> None:
    """config.toml with every setting explained, if there is none. A folder that cannot be written has none."""
    path = config_path()
    if not path.exists():
        with suppress(StorageError):
            write_atomically(path, lambda aside: aside.write_text("\n".join(_template()) + "\n", encoding="utf-8"))


def _template() -> Iterator[str]:
    yield "# Settings of btclab. To change one, take the # from its line."
    yield "# The environment goes first: BTCLAB_<SECTION>__<NAME>=…  Secrets belong in .env, not here."
    for name, section in _sections().items():
        yield f"\n[{name}]"
        yield f"# {(section.__doc__ or '').splitlines()[0]}"
        for key, field in section.model_fields.items():
            if _SECRET.search(key):
                continue
            bounds = _bounds(field)
            yield f"# {field.description}{f'; {bounds}' if bounds else ''}"
            yield f"#{key} = {json.dumps(field.default)}"  # the only tables among the defaults are empty
