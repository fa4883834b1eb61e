"""The networks. Each maps `[batch, time, feature]` to `[batch, time, horizon, output]`: at every step, from its past alone.

Outputs are in units of the volatility known at the step. Untrained, each is the naive forecast: no change, normal spread.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from btclab.forecasting.accelerate import cores, one_thread_each
from btclab.forecasting.calibration import LEVELS, NORMAL_QUANTILES
from btclab.forecasting.dataset import stretches, window_begins

BATCH = 256  # windows that are forecast at a time: more do not fit the processor's cache
DIRECTION_WEIGHT = 0.3  # of the direction's loss beside that of the quantiles


class LSTMNetwork(nn.Module):
    """Layers of LSTM; what a variant adds is its read-out and its loss."""

    HIDDEN: ClassVar[int] = 50
    LAYERS: ClassVar[int] = 2
    OUTPUTS: ClassVar[int] = 1  # per horizon
    LOSS: ClassVar[str] = "squared error"
    QUANTILES: ClassVar[bool] = False  # whether the outputs are quantiles and a direction, or a point forecast

    def __init__(
        self, features: int, horizons: int = 1, hidden: int = 0, layers: int = 0, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.hidden, self.horizons = hidden or self.HIDDEN, horizons
        layers = layers or self.LAYERS
        self.lstm = nn.LSTM(features, self.hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)

    def _read(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (self.horizons, self.OUTPUTS))  # [batch, time, horizon, output]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss [batch, time, horizon] of `output` [batch, time, horizon, output] at `target` [batch, time, horizon]."""
        return (output[..., 0] - target) ** 2


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class BaseLSTM(LSTMNetwork):
    """Two layers of 50 and a linear read-out: a point forecast of the coming return."""

    def __init__(
        self, features: int, horizons: int = 1, hidden: int = 0, layers: int = 0, dropout: float = 0.1
    ) -> None:
        super().__init__(features, horizons, hidden, layers, dropout)
        self.head = _zero_linear(self.hidden, horizons * self.OUTPUTS)

    def forward(self, features: Tensor) -> Tensor:
        states, _ = self.lstm(features)  # [batch, time, hidden]
        return self._read(self.head(self.dropout(states)))


class AttentionLSTM(LSTMNetwork):
    """Two layers of 100, attention of each state over the recent ones, layer norm; a point forecast with its own doubt.

    At inference the read-out is averaged over `MASKS` dropout masks (Gal & Ghahramani 2016), drawn once and kept, so that a
    forecast is repeatable; `spread` is their standard deviation.
    """

    HIDDEN = 100
    SPAN, MASKS = 24, 16
    masks: Tensor

    def __init__(
        self, features: int, horizons: int = 1, hidden: int = 0, layers: int = 0, dropout: float = 0.1
    ) -> None:
        super().__init__(features, horizons, hidden, layers, dropout)
        width = self.hidden
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(2 * width)
        self.inner = nn.Linear(2 * width, width)
        self.head = _zero_linear(width, horizons * self.OUTPUTS)
        kept = torch.rand(self.MASKS, width) >= dropout
        self.register_buffer("masks", kept / (1 - dropout))

    def _mixed(self, features: Tensor) -> Tensor:
        """State and attended states after the inner layer [batch, time, hidden], before dropout."""
        states, _ = self.lstm(features)  # [batch, time, hidden]
        step = torch.arange(states.shape[1], device=states.device)
        behind = step[:, None] - step[None, :]
        seen = (behind >= 0) & (behind < self.SPAN)  # each step attends to itself and the steps before
        attended = functional.scaled_dot_product_attention(self.query(states), self.key(states), states, attn_mask=seen)
        return functional.gelu(self.inner(self.norm(torch.cat([states, attended], -1))))

    def forward(self, features: Tensor) -> Tensor:
        mixed = self._mixed(features)
        if self.training:
            return self._read(self.head(self.dropout(mixed)))
        return self._read(self.head(mixed * self.masks.mean(0)))

    def spread(self, features: Tensor) -> Tensor:
        """Standard deviation [batch, time, horizon] of the forecast over the dropout masks."""
        mixed = self._mixed(features)
        draws = torch.stack([self.head(mixed * mask) for mask in self.masks])
        return self._read(draws.std(0))[..., 0]


class QuantileLSTM(LSTMNetwork):
    """Two layers of 64: the 5, 25, 50, 75 and 95 % quantiles, which cannot cross, and the log odds of up."""

    HIDDEN = 64
    OUTPUTS = len(LEVELS) + 1
    LOSS = f"pinball loss + {DIRECTION_WEIGHT} × cross-entropy"
    QUANTILES = True
    gaps: Tensor
    levels: Tensor

    def __init__(
        self, features: int, horizons: int = 1, hidden: int = 0, layers: int = 0, dropout: float = 0.1
    ) -> None:
        super().__init__(features, horizons, hidden, layers, dropout)
        self.head = _zero_linear(self.hidden, horizons * self.OUTPUTS)
        gaps = torch.tensor(np.diff(NORMAL_QUANTILES), dtype=torch.float32)
        self.register_buffer("gaps", torch.log(torch.expm1(gaps)))  # softplus of 0 + these is the normal distribution
        self.register_buffer("levels", torch.tensor(LEVELS, dtype=torch.float32))

    def forward(self, features: Tensor) -> Tensor:
        states, _ = self.lstm(features)
        raw = self._read(self.head(self.dropout(states)))  # [batch, time, horizon, output]
        middle, odds = raw[..., 2:3], raw[..., 5:6]
        below = functional.softplus(raw[..., [0, 1]] + self.gaps[:2])
        above = functional.softplus(raw[..., [3, 4]] + self.gaps[2:])
        q25, q75 = middle - below[..., 1:2], middle + above[..., 0:1]
        return torch.cat([q25 - below[..., 0:1], q25, middle, q75, q75 + above[..., 1:2], odds], -1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean pinball loss of the quantiles (Koenker & Bassett 1978) and cross-entropy of the direction."""
        error = target[..., None] - output[..., :5]
        pinball = torch.maximum(self.levels * error, (self.levels - 1) * error).mean(-1)
        up = (target > 0).to(output.dtype)
        return pinball + DIRECTION_WEIGHT * functional.binary_cross_entropy_with_logits(
            output[..., 5], up, reduction="none"
        )


VARIANTS: dict[str, type[LSTMNetwork]] = {"base": BaseLSTM, "attention": AttentionLSTM, "quantile": QuantileLSTM}


def make_network(
    variant: str, features: int, horizons: int, hidden: int = 0, layers: int = 0, dropout: float = 0.1
) -> LSTMNetwork:
    """An untrained network of `variant`; 0 for `hidden` and `layers` means the variant's own."""
    return VARIANTS[variant](features, horizons, hidden, layers, dropout)


def predict(network: LSTMNetwork, features: Tensor, bars: np.ndarray, context: int, spread: bool = False) -> np.ndarray:
    """Outputs [time, horizon, output] (or the spread [time, horizon]) for scaled `features` [time, feature].

    `bars` are the numbers of the bars (open time over timeframe), increasing. The window of a row begins where
    `dataset.window_begins` says: so it reads `context` bars at the most and nothing else, is the same live and in a backtest,
    and each bar is computed three times rather than `context` times. Rows whose window is not all in `features` are missing,
    at most the first `context` − 1.
    """
    stride, reach = stretches(context)
    stretch = bars // stride
    first = np.flatnonzero(np.concatenate([[True], stretch[1:] != stretch[:-1]]))
    past = np.concatenate([first[1:], [len(bars)]])
    begins = window_begins(bars, context)[first]
    device = next(network.parameters()).device
    shape = (len(bars), network.horizons) + (() if spread else (network.OUTPUTS,))
    result = np.full(shape, np.nan, dtype=np.float32)
    network.eval()
    padded = torch.cat([features, features.new_zeros(reach, features.shape[1])]).to(device)

    def run(batch: int) -> None:
        chosen = slice(batch, batch + BATCH)
        rows = torch.from_numpy(begins[chosen])[:, None] + torch.arange(reach)  # [batch, time]
        with torch.inference_mode():
            window = padded[rows.to(device)]  # [batch, time, feature]
            answer = (network.spread(window) if spread else network(window)).float().cpu().numpy()  # type: ignore[operator]
        for number, start, stop, begin in zip(
            range(len(window)), first[chosen], past[chosen], begins[chosen], strict=True
        ):
            result[start:stop] = answer[number, start - begin : stop - begin]

    batches = range(0, len(first), BATCH)
    with one_thread_each():
        if device.type == "cpu" and len(batches) > 1:
            with ThreadPoolExecutor(cores()) as pool:
                list(pool.map(run, batches))  # waits, and raises what one of them raised
        else:
            for batch in batches:
                run(batch)
    result[: context - 1] = np.nan
    return result


def point(network: LSTMNetwork, output: np.ndarray) -> np.ndarray:
    """The point forecast [time, horizon] in `output` [time, horizon, output]: the median, where it has quantiles."""
    return output[..., 2] if network.QUANTILES else output[..., 0]
