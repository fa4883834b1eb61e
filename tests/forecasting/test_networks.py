"""Networks: causal, naive before training, and the same answer however the history is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from btclab.forecasting.calibration import LEVELS, NORMAL_QUANTILES
from btclab.forecasting.networks import VARIANTS, make_network, point, predict

CONTEXT = 12


@pytest.fixture(params=sorted(VARIANTS))
def variant(request):
    return request.param


@pytest.fixture
def network(variant):
    torch.manual_seed(0)
    made = make_network(variant, features=3, horizons=2, hidden=8)
    nn.init.normal_(made.head.weight)
    return made.eval()


def inputs(bars, seed=1):
    return torch.randn(bars, 3, generator=torch.Generator().manual_seed(seed))


def test_the_shapes_of_the_variants_are_as_published():
    said = {name: (kind(3).lstm.num_layers, kind(3).hidden) for name, kind in VARIANTS.items()}
    assert said == {"base": (2, 50), "attention": (2, 100), "quantile": (2, 64)}


def test_an_untrained_network_is_the_naive_forecast(variant):
    output = make_network(variant, 3, 2)(inputs(10)[None])
    made = make_network(variant, 3, 2)
    assert np.abs(point(made, output.detach().numpy())).max() < 1e-6
    if made.QUANTILES:
        np.testing.assert_allclose(output[0, 4, 1, :5].detach(), NORMAL_QUANTILES, atol=1e-5)
        assert output[..., 5].abs().max() == 0


def test_the_shape_is_outputs_for_each_horizon_at_each_step(network):
    assert network(torch.randn(4, 10, 3)).shape == (4, 10, 2, network.OUTPUTS)


def test_quantiles_never_cross():
    torch.manual_seed(0)
    made = make_network("quantile", 3, 1, hidden=8)
    nn.init.normal_(made.head.weight, std=20.0)
    output = made(100 * torch.randn(50, 20, 3))[..., : len(LEVELS)]
    assert (output.diff(dim=-1) >= 0).all()


def test_the_quantile_loss_is_lowest_at_the_quantiles():
    made = make_network("quantile", 3, 1)
    target = torch.randn(20_000, 1, 1, generator=torch.Generator().manual_seed(2))

    def loss(shift):
        output = torch.cat([torch.tensor(NORMAL_QUANTILES + shift, dtype=torch.float32), torch.zeros(1)])
        return float(made.loss(output.expand(20_000, 1, 1, 6), target).mean())

    assert loss(0.0) < min(loss(0.1), loss(-0.1))


def test_a_step_depends_on_no_later_step(network):
    one = inputs(20)[None]
    other = one.clone()
    other[:, 12:] = 9.0
    assert torch.equal(network(one)[:, :12], network(other)[:, :12])


def test_attention_reaches_a_stated_number_of_steps_back():
    made = VARIANTS["attention"](3)
    assert made.SPAN < 60  # within the window of a forecast


def test_a_forecast_is_a_function_of_the_last_context_bars_and_nothing_else(network):
    features, bars = inputs(200), np.arange(1000, 1200)
    whole = predict(network, features, bars, CONTEXT)
    for last in range(150, 164):  # every place on the grid
        window = slice(last - CONTEXT + 1, last + 1)
        alone = predict(network, features[window], bars[window], CONTEXT)
        np.testing.assert_allclose(alone[-1], whole[last], atol=1e-6)
    older = features.clone()
    older[: 163 - CONTEXT + 1] = 50.0
    np.testing.assert_allclose(predict(network, older, bars, CONTEXT)[163], whole[163], atol=1e-6)


def test_every_forecast_sees_at_least_two_thirds_of_the_context(network):
    features, bars = inputs(200), np.arange(200)
    whole = predict(network, features, bars, CONTEXT)
    for last in range(150, 164):
        other = features.clone()
        other[last - 2 * CONTEXT // 3] += 1.0
        assert np.abs(predict(network, other, bars, CONTEXT)[last] - whole[last]).max() > 0


def test_a_later_bar_changes_no_earlier_forecast(network):
    features, bars = inputs(100), np.arange(100)
    later = features.clone()
    later[60:] = -5.0
    np.testing.assert_array_equal(
        predict(network, later, bars, CONTEXT)[:60], predict(network, features, bars, CONTEXT)[:60]
    )


@pytest.mark.parametrize("gap", [1, 3, 5, 40])
def test_over_a_gap_the_cut_history_still_gives_the_same(network, gap):
    features = inputs(120)
    bars = np.concatenate([np.arange(60), np.arange(60 + gap, 120 + gap)])
    whole = predict(network, features, bars, CONTEXT)
    for last in range(58, 90):
        window = slice(last - CONTEXT + 1, last + 1)
        np.testing.assert_allclose(
            predict(network, features[window], bars[window], CONTEXT)[-1], whole[last], atol=1e-6
        )


def test_rows_without_a_whole_window_have_no_forecast(network):
    assert np.isnan(predict(network, inputs(20), np.arange(20), CONTEXT)[: CONTEXT - 1]).all()
    assert np.isfinite(predict(network, inputs(20), np.arange(20), CONTEXT)[CONTEXT - 1 :]).all()
    assert np.isnan(predict(network, inputs(5), np.arange(5), CONTEXT)).all()


@pytest.mark.parametrize("context", [1, 2, 4, 7, 60])
def test_any_context_gives_a_forecast_for_every_row_with_a_whole_window(network, context):
    found = predict(network, inputs(150), np.arange(7, 157), context)
    assert np.isfinite(found[context - 1 :]).all()


def test_the_attention_network_says_how_much_it_doubts():
    torch.manual_seed(0)
    made = make_network("attention", 3, 2, hidden=8, dropout=0.3)
    nn.init.normal_(made.head.weight)
    features, bars = inputs(60), np.arange(60)
    spread = predict(made, features, bars, CONTEXT, spread=True)
    assert spread.shape == (60, 2)
    assert (spread[CONTEXT:] > 0).all()
    np.testing.assert_array_equal(spread, predict(made, features, bars, CONTEXT, spread=True))  # the masks are kept
