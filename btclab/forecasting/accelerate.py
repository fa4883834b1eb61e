"""Which device, precision and threads a network runs with. The choice is a rule, so that a training can be repeated;
the rule comes from measurements, and `measure` repeats them on any machine (`btclab doctor --accelerators`).
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from btclab.errors import InputError, unknown

DEVICES = ("auto", "cpu", "cuda", "xpu", "mps")
PRECISIONS = ("auto", "float32", "bfloat16")
WIDE = 64  # states; narrower networks gain nothing from bfloat16 on a processor (measured: 2×50 alike, 2×100 1.5 times as fast)


@dataclass(frozen=True)
class Choice:
    """A device ("cpu", "cuda", …), the precision of the matrix products, and whether Intel's extension prepares the network."""

    device: str = "cpu"
    precision: str = "float32"
    ipex: bool = False

    @contextmanager
    def products(self) -> Iterator[None]:
        """Within it, matrix products are of this precision; weights and losses stay float32."""
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            yield

    def prepare(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The network on its device, prepared for training."""
        if not self.ipex:
            return network, optimiser
        import intel_extension_for_pytorch as ipex

        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        return ipex.optimize(network, optimizer=optimiser, dtype=dtype)


def choose(device: str = "auto", precision: str = "auto", hidden: int = 100) -> Choice:
    """The fastest correct choice for a network of `hidden` states: CUDA, then Intel's GPU, then Apple's, then the processor.

    bfloat16 where the device computes in it and the network is wide enough to gain. Raises `InputError` for a device that is
    not there. Two choices are never taken: Intel's extension, which was measured to train slower than PyTorch alone and has no
    derivatives of its own for the layers that it replaces; and `torch.compile`, which leaves an LSTM as it is.
    """
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    there = available()
    if device == "auto":
        device = there[0]
    elif device not in there:
        raise InputError(f"device is {device!r}, which this machine or PyTorch has not; there are {', '.join(there)}.")
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(device) and (device != "cpu" or hidden >= WIDE) else "float32"
    return Choice(device, precision)


def available() -> list[str]:
    """The devices that PyTorch can use here, the fastest first; "cpu" is always there."""
    there = ["cuda"] if torch.cuda.is_available() else []
    there += ["xpu"] if hasattr(torch, "xpu") and torch.xpu.is_available() else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    return [*there, "cpu"]


def has_bfloat16(device: str) -> bool:
    """Whether the device has instructions for bfloat16, rather than emulating it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        facts = Path("/proc/cpuinfo")
        text = facts.read_text(encoding="utf-8", errors="replace") if facts.exists() else ""
        return "avx512_bf16" in text or "amx_bf16" in text
    return device == "xpu"


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within it a network computes on one thread of the processor; side by side, several networks or batches use them all.

    Threads of one small network wait for each other at every step of an LSTM: two gained nothing at 2×50 and half at 2×100,
    and lost twentyfold while another process used a core. One thread also gives the same bits on any number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_ipex() -> bool:
    return importlib.util.find_spec("intel_extension_for_pytorch") is not None


@dataclass(frozen=True)
class Measured:
    """What a choice did here: targets trained and bars forecast per second, and how far its losses and forecasts strayed."""

    choice: Choice
    trained: float
    forecast: float
    difference: float


def measure(hidden: int = 100, features: int = 35, repeats: int = 3) -> list[Measured]:
    """Every choice of this machine with a network of two layers of `hidden`, context 60; the plain processor comes first.

    `difference` is the largest deviation of a forecast from that of float32 on the processor, in volatilities.
    """
    choices = [Choice()]
    for device in reversed(available()):
        choices += [Choice(device, name) for name in PRECISIONS[1:] if name == "float32" or has_bfloat16(device)]
    if has_ipex():
        choices += [Choice("cpu", "float32", True), Choice("cpu", "bfloat16", True)]
    reference: Tensor | None = None
    found = []
    for choice in dict.fromkeys(choices):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            trained, forecast, output = _measure(choice, hidden, features, repeats)
        reference = output if reference is None else reference
        found.append(Measured(choice, trained, forecast, float((output - reference).abs().max())))
    return found


def _measure(choice: Choice, hidden: int, features: int, repeats: int) -> tuple[float, float, Tensor]:
    from btclab.forecasting.networks import make_network

    stretch, context, batch = 180, 60, 32
    network: Any = make_network("base", features, 1, hidden)
    nn.init.normal_(network.head.weight, std=0.1)
    inputs = torch.randn(batch, context - 1 + stretch, features)
    targets = torch.randn(batch, stretch, 1)
    network, inputs, targets = (one.to(choice.device) for one in (network, inputs, targets))
    optimiser: Any = torch.optim.AdamW(network.parameters(), lr=0.0, weight_decay=0.0)  # weights stay, to be compared
    network, optimiser = choice.prepare(network, optimiser)

    def train() -> None:
        with choice.products():
            output = network(inputs)[:, context - 1 :]
        loss = network.loss(output.float(), targets).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        _wait(choice)

    def infer() -> Tensor:
        with torch.inference_mode(), choice.products():
            answer: Tensor = network(inputs).float()
        _wait(choice)
        return answer

    with one_thread_each():
        network.train()
        trained = batch * stretch / _seconds(train, repeats)
        network.eval()
        forecast = batch * inputs.shape[1] / 3 / _seconds(infer, repeats)  # a third of the steps are forecasts
        return trained, forecast, infer().cpu()


def _wait(choice: Choice) -> None:
    if choice.device == "cuda":
        torch.cuda.synchronize()
    elif choice.device == "xpu":
        torch.xpu.synchronize()


def _seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)
