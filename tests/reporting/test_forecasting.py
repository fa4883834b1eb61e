"""Figures and tables of forecasts: what they show follows from the checkpoint and the bars."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from IPython.display import HTML

import btclab as bl
from btclab.reporting import forecasting
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def several(trained_candles):
    return bl.train(trained_candles, horizon="1, 4, 24", placebo=2, **SMALL)


@pytest.fixture(scope="module")
def forecasts(several, trained_candles):
    return bl.forecast(several, trained_candles)


@pytest.fixture(scope="module")
def outcomes(trained_candles):
    return bl.forward_log_return(trained_candles, 1)


@pytest.fixture(scope="module")
def drift(several, trained_candles, forecasts):
    return forecasting.measured_drift(several, trained_candles, forecasts)


@pytest.fixture(scope="module")
def figures(several, trained_candles, forecasts, outcomes, drift):
    row = forecasts.iloc[-1]
    return {
        "curves": forecasting.learning_curves(several),
        "placebo": forecasting.skill_beside_placebo(several),
        "skill": forecasting.skill_by_forecast(several, forecasts, outcomes),
        "coverage": forecasting.coverage_over_time(forecasts, outcomes),
        "reliability": forecasting.reliability_diagram(forecasts, outcomes),
        "distribution": forecasting.distribution(several, row, trained_candles.attrs),
        "fan": forecasting.fan(several, trained_candles, row),
        "drift": forecasting.drifted_features(drift, trained_candles.attrs),
    }


NAMES = ["curves", "placebo", "skill", "coverage", "reliability", "distribution", "fan", "drift"]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_of_simulated_data_says_so_and_has_a_title(figures, name):
    figure = figures[name]
    assert isinstance(figure, go.Figure)
    assert any("SIMULATED MARKET · simulated:7?edge=0.3" in (a.text or "") for a in figure.layout.annotations)
    assert figure.layout.title.text
    sideways = ("placebo", "drift")  # whose rows carry their names
    assert all(axis.title.text for axis in figure.select_yaxes()) or name in sideways


def naive(checkpoint):
    calm = dataclasses.replace(checkpoint.calibrations[0], slope=0.0, method="even")
    return dataclasses.replace(checkpoint, calibrations=(calm, *checkpoint.calibrations[1:]))


def test_a_forecast_that_never_changes_is_said_rather_than_drawn(several, trained_candles, outcomes):
    flat = bl.forecast(naive(several), trained_candles)
    assert "it is the naive one" in forecasting.skill_by_forecast(several, flat, outcomes).data
    assert "50 % at every bar" in forecasting.reliability_diagram(flat, outcomes).data


def test_the_chances_of_the_distribution_add_up_and_their_quantiles_are_those_of_the_forecast(figures, forecasts):
    bars = figures["distribution"].data[0]
    assert sum(bars.y) == pytest.approx(99.6, abs=0.2)  # the outermost 0.2 % on each side are not drawn
    below = sum(
        chance for middle, chance in zip(bars.x, bars.y, strict=True) if middle < 100 * forecasts["q25"].iloc[-1]
    )
    assert below == pytest.approx(25, abs=6)  # to a bin


def test_equal_quantiles_have_a_distribution_too():
    edges, chance = forecasting._chances(np.array([-1.0, 0.0, 0.0, 0.0, 2.0]))
    assert np.isfinite(edges).all()
    assert chance.sum() == pytest.approx(1, abs=0.01)


def test_no_distribution_and_no_fan_are_drawn_where_there_is_no_forecast(several, trained_candles, forecasts):
    row = forecasts.iloc[-1].copy()
    row["mean"] = float("nan")
    assert not forecasting.distribution(several, row, trained_candles.attrs).data
    figure = forecasting.fan(several, trained_candles, row)
    assert "No forecast" in figure.layout.title.text
    assert [trace.name for trace in figure.data] == ["close"]


def test_the_fan_opens_from_the_last_close_to_every_horizon(figures, trained_candles, forecasts):
    median = next(trace for trace in figures["fan"].data if trace.name == "median")
    close, row = trained_candles["close"].iloc[-1], forecasts.iloc[-1]
    assert list(median.y) == pytest.approx([close, *(close * np.exp(row[q]) for q in ("q50", "q50_4", "q50_24"))])
    hours = [(time - median.x[0]) / pd.Timedelta("1h") for time in map(pd.Timestamp, median.x)]
    assert hours == [0, 1, 4, 24]


def test_coverage_counts_the_outcomes_inside(figures, forecasts, outcomes):
    rows = forecasts[~forecasts["in_sample"] & outcomes.notna()]
    happened = outcomes[rows.index]
    inside = ((happened >= rows["adaptive_low"]) & (happened <= rows["adaptive_high"])).mean()
    assert f"following drift ({100 * inside:.1f} %)" in [trace.name for trace in figures["coverage"].data]


def test_the_placebos_stand_beside_the_network(figures, several):
    assert [next(iter(trace.y)) for trace in figures["placebo"].data] == ["network", "ridge", "placebo"]
    assert list(figures["placebo"].data[2].x) == several.metrics["placebo"]


def test_the_skill_table_stands_beside_ridge_and_naive(several):
    table = forecasting.skill_table(several).set_index("measure")
    assert table.loc["information coefficient", "network"] == f"{several.metrics['ic']:+.4f}"
    assert table.loc["information coefficient", "ridge"] == f"{several.metrics['ridge']['ic']:+.4f}"
    assert table.loc["error ratio (RMSE)", "naive"] == "1"


def test_each_horizon_has_a_row(several, trained):
    page = forecasting.horizon_table(several).data
    assert all(f"<td>{horizon}</td>" in page for horizon in (1, 4, 24))
    assert f"{several.metrics['horizons']['24']['ic']:+.3f}" in page
    assert "-p horizon=1,4,24" in forecasting.horizon_table(trained).data


def test_the_folds_say_how_many_outcomes_rose(several, trained_candles, outcomes):
    table = forecasting.fold_list(several).set_index("fold")
    assert list(table.index) == ["train", "validation", "test"]
    span = outcomes[several.folds["test_start"] : several.folds["test_stop"]]
    assert table.loc["test", "rose (%)"] == f"{100 * (span > 0).mean():.1f}"
    assert table.loc["train", "to (UTC)"] < table.loc["validation", "from (UTC)"]


def test_drift_is_a_table_of_rules_and_a_figure_with_the_limit(drift, figures):
    table = forecasting.drift_table(drift)
    assert set(table["past it"]) <= {"yes", "no"}
    assert figures["drift"].layout.shapes[0].x0 == drift.features.attrs["limit"]


def test_where_too_few_bars_are_unseen_drift_is_not_told(several, trained_candles, forecasts):
    seen = forecasts.assign(in_sample=True)
    assert forecasting.measured_drift(several, trained_candles, seen) is None
    assert forecasting.drift_table(None).empty
    assert isinstance(forecasting.drifted_features(None, {}), HTML)
