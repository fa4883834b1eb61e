"""The networks. Each maps `[batch, time, feature]` to `[batch, time]`: one forecast at every step, from that step's past."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BaseLSTM(nn.Module):
    """Two layers of LSTM and a linear read-out; point forecast of the coming return in units of volatility.

    The read-out starts at zero, so that an untrained network is the naive forecast.
    """

    def __init__(self, features: int, hidden: int = 50, layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor) -> Tensor:
        states, _ = self.lstm(features)  # [batch, time, hidden]
        forecast: Tensor = self.head(self.dropout(states)).squeeze(-1)  # [batch, time]
        return forecast


VARIANTS: dict[str, type[nn.Module]] = {"base": BaseLSTM}


def predict(network: nn.Module, features: Tensor, context: int, batch: int = 2048) -> Tensor:
    """Forecast [time] for scaled `features` [time, feature]: row *t* from the rows t−context+1 … t and nothing else.

    The first context − 1 rows are NaN. Every window starts from an empty state, so that a forecast made live equals the
    one made in a backtest.
    """
    result = torch.full((len(features),), float("nan"))
    if len(features) < context:
        return result
    windows = features.unfold(0, context, 1).transpose(1, 2)  # [window, context, feature], a view
    network.eval()
    with torch.inference_mode():
        for first in range(0, len(windows), batch):
            last_step = network(windows[first : first + batch])[:, -1]
            result[context - 1 + first : context - 1 + first + len(last_step)] = last_step
    return result
