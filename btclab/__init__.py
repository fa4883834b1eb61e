"""btclab: Bitcoin research with which you cannot fool yourself. `import btclab as bl`.

Names are loaded when they are first used, so that importing btclab costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from btclab.analysis.backtest import Result, backtest, backtest_many, buy_and_hold, cost_sensitivity
    from btclab.analysis.drift import Drift, check_drift
    from btclab.context.fetch import fetch_context
    from btclab.context.join import load_context, stored_context
    from btclab.features.audit import Audit, audit_features, audit_warmup
    from btclab.features.build import build_features
    from btclab.features.indicators import indicator, register_indicator
    from btclab.features.selection import select_features
    from btclab.features.spec import Feature, FeatureSpec, resolve_spec
    from btclab.forecasting.audit import audit_checkpoint
    from btclab.forecasting.checkpoints import Checkpoint, load_checkpoint, promote
    from btclab.forecasting.forecaster import forecast, forecast_latest, naive_forecast, out_of_sample
    from btclab.forecasting.importance import feature_importance
    from btclab.forecasting.labels import forward_log_return
    from btclab.forecasting.learn import train
    from btclab.market.candles import describe, fingerprint, resample, validate_candles
    from btclab.market.check import check_candles
    from btclab.market.feed import ReplayFeed
    from btclab.market.fetch import update_candles
    from btclab.market.importing import import_candles, inspect_file
    from btclab.market.live_feed import LiveFeed
    from btclab.market.quality import quality_summary
    from btclab.market.rules import trading_rules
    from btclab.market.sources import load_candles, mark_if_stale
    from btclab.records import Costs, Margin, Market, Order
    from btclab.trading.broker import PaperBroker
    from btclab.trading.filters import Filters
    from btclab.trading.ledger import Ledger
    from btclab.trading.risk import RiskRules
    from btclab.trading.scores import category_scores
    from btclab.trading.sizing import Sizing, size_signals
    from btclab.trading.strategies import audit_strategy, register_strategy, run_strategy, strategy
    from btclab.trading.strategy import Rules, latest_signal, make_signals

_HOMES = {
    "analysis.backtest": ("Result", "backtest", "backtest_many", "buy_and_hold", "cost_sensitivity"),
    "analysis.drift": ("Drift", "check_drift"),
    "context.fetch": ("fetch_context",),
    "context.join": ("load_context", "stored_context"),
    "features.audit": ("Audit", "audit_features", "audit_warmup"),
    "features.build": ("build_features",),
    "features.indicators": ("indicator", "register_indicator"),
    "features.selection": ("select_features",),
    "features.spec": ("Feature", "FeatureSpec", "resolve_spec"),
    "forecasting.audit": ("audit_checkpoint",),
    "forecasting.checkpoints": ("Checkpoint", "load_checkpoint", "promote"),
    "forecasting.importance": ("feature_importance",),
    "forecasting.forecaster": ("forecast", "forecast_latest", "naive_forecast", "out_of_sample"),
    "forecasting.learn": ("train",),
    "forecasting.labels": ("forward_log_return",),
    "market.candles": ("describe", "fingerprint", "resample", "validate_candles"),
    "market.check": ("check_candles",),
    "market.feed": ("ReplayFeed",),
    "market.fetch": ("update_candles",),
    "market.importing": ("import_candles", "inspect_file"),
    "market.live_feed": ("LiveFeed",),
    "market.quality": ("quality_summary",),
    "market.rules": ("trading_rules",),
    "market.sources": ("load_candles", "mark_if_stale"),
    "records": ("Costs", "Margin", "Market", "Order"),
    "trading.broker": ("PaperBroker",),
    "trading.ledger": ("Ledger",),
    "trading.filters": ("Filters",),
    "trading.risk": ("RiskRules",),
    "trading.scores": ("category_scores",),
    "trading.sizing": ("Sizing", "size_signals"),
    "trading.strategies": ("audit_strategy", "register_strategy", "run_strategy", "strategy"),
    "trading.strategy": ("Rules", "latest_signal", "make_signals"),
}
_HOME_OF = {name: f"btclab.{home}" for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'btclab' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
