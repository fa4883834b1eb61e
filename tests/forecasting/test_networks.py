"""Networks: causal, naive before training, and the same answer however the windows are batched."""

from __future__ import annotations

import pytest
import torch

from btclab.forecasting.networks import VARIANTS, predict


@pytest.fixture(params=sorted(VARIANTS))
def network(request):
    torch.manual_seed(0)
    made = VARIANTS[request.param](features=3, hidden=8)
    torch.nn.init.normal_(made.head.weight)
    return made.eval()


def test_an_untrained_network_is_the_naive_forecast():
    assert VARIANTS["base"](features=3)(torch.randn(2, 10, 3)).abs().max() == 0


def test_the_shape_is_one_forecast_a_step(network):
    assert network(torch.randn(4, 10, 3)).shape == (4, 10)


def test_a_step_depends_on_no_later_step(network):
    one = torch.randn(1, 20, 3)
    other = one.clone()
    other[:, 12:] = 9.0
    assert torch.equal(network(one)[:, :12], network(other)[:, :12])


def test_a_forecast_is_a_function_of_the_last_context_bars_alone(network):
    features = torch.randn(200, 3)
    whole = predict(network, features, context=16)
    alone = predict(network, features[100 - 15 : 101], context=16)
    assert whole[100] == pytest.approx(float(alone[-1]), abs=1e-6)


def test_batching_does_not_change_a_forecast(network):
    features = torch.randn(100, 3)
    one, other = predict(network, features, 16, batch=7), predict(network, features, 16, batch=64)
    torch.testing.assert_close(one, other, equal_nan=True, rtol=0, atol=1e-6)


def test_rows_without_a_full_window_have_no_forecast(network):
    assert predict(network, torch.randn(20, 3), context=16).isnan().sum() == 15
    assert predict(network, torch.randn(10, 3), context=16).isnan().all()
