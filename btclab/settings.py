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
from datetime import time
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
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
_SECRET = re.compile(r"key|secret|token|password|webhook|://\S*@", re.IGNORECASE)  # also an address with a password


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
OrEmpty = BeforeValidator(lambda value: None if value == "" else value)  # TOML has no word for nothing


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
    maker_fee_bps: Annotated[
        float | None,
        _said('fee of a limit order that rested in the book, basis points; "": the same as fee_bps', ge=0, lt=10_000),
        OrEmpty,
    ] = None
    slippage_bps: Annotated[float, _said("basis points by which a fill is worse than the open", ge=0, lt=10_000)] = 5.0
    impact_bps: Annotated[
        float, _said("further slippage for each whole bar volume that is traded, basis points", ge=0, lt=10_000)
    ] = 0.0
    participation: Annotated[
        float | None,
        _said('share of a bar\'s volume that may be traded, e.g. 0.1; "": no limit', gt=0, le=1),
        OrEmpty,
    ] = None
    latency_bars: Annotated[int, _said("bars by which an order or its cancellation arrives late", ge=0, le=1000)] = 0
    initial_cash: Annotated[float, _said("start of the paper account", gt=0, allow_inf_nan=False)] = 10_000.0
    ledger: Annotated[str, _said("where paper trading is kept; a relative path begins at BTCLAB_HOME")] = (
        "sqlite:///data/ledger.db"
    )
    allow_short: Annotated[bool, _said("whether BTC may be sold short: exposure from -1 on instead of 0")] = False
    short_interest_pct: Annotated[
        float, _said("interest on what is sold short, % a year of its value", ge=0, lt=10_000)
    ] = 10.0
    maintenance_margin: Annotated[
        float, _said("all is bought back when equity falls to this fraction of what is sold short", gt=0, lt=1)
    ] = 0.1


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


class StrategySettings(BaseModel):
    """Which strategy trades, what its scores weigh, and when it may not enter."""

    model_config = _FROZEN
    name: Annotated[str, _said("`btclab.trading.strategies` lists them; your own: path/to/mine.py:my_rule")] = (
        "forecast"
    )
    weight_forecast: Annotated[
        float, _said("weight of the calibrated forecast in the composite; of what is there, shares of the sum", ge=0)
    ] = 0.4
    weight_technical: Annotated[float, _said("weight of price and volume", ge=0)] = 0.3
    weight_on_chain: Annotated[float, _said("weight of what the chain says", ge=0)] = 0.1
    weight_sentiment: Annotated[float, _said("weight of fear and greed, read against the crowd", ge=0)] = 0.1
    weight_macro: Annotated[float, _said("weight of stocks, the dollar, rates and the VIX", ge=0)] = 0.05
    weight_derivatives: Annotated[float, _said("weight of funding and open interest", ge=0)] = 0.05
    enter: Annotated[float, _said("the composite score from which on it is in the market", ge=-1, le=1)] = 0.15
    exit: Annotated[float, _said("the composite score down from which it is out of it", ge=-1, le=1)] = 0.0
    min_confidence: Annotated[
        float, _said("no entry while the forecast gives its side a smaller probability; 0: none needed", ge=0, lt=1)
    ] = 0.0
    cooldown_bars: Annotated[int, _said("bars without an entry after the strategy has left the market", ge=0)] = 0
    avoid: Annotated[
        tuple[str, ...],
        _said(
            "regimes without an entry, trend/volatility: up, flat or down / calm, normal or wild; */wild is any trend"
        ),
    ] = ()
    agree: Annotated[
        tuple[str, ...], _said('no entry unless these timeframes trend its way, too, e.g. ["4h", "1d"]')
    ] = ()


class RiskSettings(BaseModel):
    """How much is held, and what ends it. 0 turns a rule off; fractions are of 1 (0.05 = 5 %)."""

    model_config = _FROZEN
    sizing: Annotated[
        Literal["fixed", "volatility", "kelly_binary", "kelly_normal"],
        _said("fixed, volatility, kelly_binary or kelly_normal"),
    ] = "fixed"
    fraction: Annotated[float, _said("fixed: fraction of equity of a position", gt=0, le=1)] = 1.0
    target_volatility: Annotated[
        float, _said("volatility: of the account, a year of 365 days (0.4 = 40 %)", gt=0, le=10)
    ] = 0.4
    half_life_days: Annotated[float, _said("of the volatility's exponential average", gt=0, le=365)] = 10.0
    kelly_fraction: Annotated[float, _said("kelly_…: share of the full Kelly bet", gt=0, le=1)] = 0.25
    resize_band: Annotated[float, _said("a position is resized when its size is off by more of equity", ge=0, le=1)] = (
        0.1
    )
    max_position: Annotated[float, _said("most of equity in BTC", gt=0, le=1)] = 1.0
    distance: Annotated[
        Literal["fraction", "atr"],
        _said("unit of the three distances below: fraction (of the price) or atr (multiples)"),
    ] = "fraction"
    stop_loss: Annotated[float, _said("distance of the stop below the entry", ge=0, le=100)] = 0.0
    take_profit: Annotated[float, _said("distance of the target above the entry", ge=0, le=100)] = 0.0
    trailing_stop: Annotated[float, _said("distance of the stop below the best price since entry", ge=0, le=100)] = 0.0
    atr_length: Annotated[int, _said("bars of the average true range", ge=1, le=1000)] = 14
    max_drawdown: Annotated[
        float,
        _said("fraction below the highest equity at which all is sold and trading halts until it is reset", ge=0, lt=1),
    ] = 0.0
    daily_loss: Annotated[
        float, _said("fraction lost since 00:00 UTC at which all is sold until the next day", ge=0, lt=1)
    ] = 0.0
    stop_guard: Annotated[int, _said("so many stops within the bars below pause entries", ge=0, le=8)] = 0
    stop_guard_within: Annotated[int, _said("bars in which the stops are counted", ge=1)] = 48
    stop_guard_pause: Annotated[int, _said("bars without an entry then", ge=1)] = 24
    cooldown_bars: Annotated[int, _said("bars without an entry after a position has been sold", ge=0)] = 0
    reenter: Annotated[
        bool, _said("whether the signal that a stop has ended may enter again; false: only a new signal")
    ] = False
    min_trade: Annotated[float, _said("least value of a trade, quote currency; all may be sold always", ge=0)] = 10.0
    lot: Annotated[float, _said("least quantity of a trade, BTC; all may be sold always", ge=0)] = 0.0


class DashboardSettings(BaseModel):
    """Where the dashboard is served; it always binds to 127.0.0.1."""

    model_config = _FROZEN
    port: Annotated[int, _said("port; 0 takes a free one", ge=0, le=65_535)] = 8866
    refresh_s: Annotated[float, _said("seconds between looks for a new bar", ge=1, allow_inf_nan=False)] = 30.0


def _check_channels(urls: dict[str, SecretStr]) -> dict[str, SecretStr]:
    if wrong := [name for name in urls if not re.fullmatch(r"[a-z0-9_-]{1,40}", name)]:
        raise ValueError(f"a channel's name consists of a-z, 0-9, _ and -; {len(wrong)} do not")
    return urls


def _check_quiet_hours(text: str) -> str:
    if text and quiet_span(text) is None:
        raise ValueError("write it like 22:00-07:00, or leave it empty")
    return text


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("there is no such time zone; write it like Europe/Berlin, or UTC") from None
    return name


def quiet_span(text: str) -> tuple[time, time] | None:
    """Begin and end of quiet hours such as '22:00-07:00', local time; None if `text` names no span."""
    try:
        begin, end = (time.fromisoformat(part.strip()) for part in text.split("-"))
    except ValueError:
        return None
    return (begin, end) if begin != end and begin.tzinfo is None and end.tzinfo is None else None


class NotificationSettings(BaseModel):
    """What is told, and when. Where to is in .env, one line a channel: BTCLAB_NOTIFICATIONS__SECRET_URLS__<NAME>=<address>."""

    model_config = _FROZEN
    secret_urls: Annotated[
        dict[str, SecretStr],
        AfterValidator(_check_channels),
        _said("a channel's address, as Apprise reads it (in .env)"),
    ] = {}
    off: Annotated[tuple[str, ...], _said("kinds that are not told; `btclab notify list` shows all")] = ()
    channels: Annotated[
        dict[str, tuple[str, ...]],
        _said(
            'where a kind goes, e.g. { fill = ["discord"], error = ["discord", "mail"] }; others go to every channel'
        ),
    ] = {}
    urgent: Annotated[tuple[str, ...], _said("kinds that are told in quiet hours, too")] = (
        "stop",
        "triggered",
        "drawdown",
        "error",
    )
    quiet_hours: Annotated[
        str,
        AfterValidator(_check_quiet_hours),
        _said("e.g. 22:00-07:00: what happens then is told afterwards, in one digest; empty: none"),
    ] = ""
    time_zone: Annotated[
        str, AfterValidator(_check_zone), _said("of the quiet hours and of times in messages, e.g. Europe/Berlin")
    ] = "UTC"
    per_minute: Annotated[int, _said("messages a minute and channel; more come as one digest", ge=1, le=60)] = 10
    cooldown_min: Annotated[
        dict[str, float],
        _said(
            "minutes from one message of a kind to the next, e.g. { price_move = 30 }; `btclab notify list` shows all"
        ),
    ] = {}
    same_h: Annotated[
        float, _said("hours within which the same event (a bar's signal, an order's fill) is told once", ge=0, le=8760)
    ] = 24.0
    keep_h: Annotated[float, _said("hours for which an undelivered message is kept", gt=0, le=8760)] = 24.0
    most_waiting: Annotated[
        int, _said("undelivered messages kept for a channel; the oldest go first", ge=1, le=100_000)
    ] = 500
    timeout_s: Annotated[float, _said("seconds that a delivery may take", gt=0, le=300)] = 10.0
    price_move_pct: Annotated[float, _said("percent of price, since it was last told, that are told", gt=0, le=100)] = (
        3.0
    )
    profit_pct: Annotated[
        float, _said("percent of profit or loss since the start: each further multiple is told", gt=0, le=1000)
    ] = 5.0
    drawdown_pct: Annotated[
        float, _said("percent below the highest equity: each further multiple is told", gt=0, le=100)
    ] = 5.0


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
    strategy: StrategySettings = StrategySettings()
    risk: RiskSettings = RiskSettings()
    dashboard: DashboardSettings = DashboardSettings()
    notifications: NotificationSettings = NotificationSettings()

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
        secret = any("__" not in name or _SECRET.search(name) or _may_be_channel(name, value) for name in names)
        shown = "(hidden)" if secret else repr(value)
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
    if _may_be_channel(".".join(map(str, location)), value):
        return True
    section = _sections().get(str(location[0])) if location else None
    secrets = [name for name in section.model_fields if _SECRET.search(name)] if section else []
    if not secrets:
        return False
    if len(location) == 1:  # the whole section is something else than a table
        return isinstance(value, str | list | tuple | dict)
    known = str(location[1]) in (section.model_fields if section else {})
    return not known and any(name.startswith(str(location[1]).lower()[:4]) for name in secrets)


def _may_be_channel(name: str, value: object) -> bool:
    """Whether a wrong setting may be the misplaced address of a channel, which is as good as a password."""
    return "notifications" in name.lower() and "://" in str(value)


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
            default = "" if field.default is None else field.default
            yield f"#{key} = {json.dumps(default)}"  # the only tables among the defaults are empty
