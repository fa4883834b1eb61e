"""What SIGINT and SIGTERM do while a command loads."""

from __future__ import annotations

import signal

import pytest

from btclab.operations.interrupts import held_back, on_signals

SIGNS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("sign", SIGNS)
def test_a_signal_interrupts_and_the_handler_before_is_there_again(sign):
    before = signal.getsignal(sign)
    with pytest.raises(KeyboardInterrupt), on_signals():
        signal.raise_signal(sign)
    assert signal.getsignal(sign) is before


@pytest.mark.parametrize("sign", SIGNS)
def test_one_that_is_held_back_interrupts_at_the_end(sign):
    before, done = signal.getsignal(sign), False
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.raise_signal(sign)
        done = True
    assert done
    assert signal.getsignal(sign) is before
