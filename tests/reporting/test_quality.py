"""The data-quality report: figures say what they show and of what, sentences follow from the numbers."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import pytest

import btclab as bl
from btclab.market.check import check_candles
from btclab.reporting import quality
from tests.market.test_venues import dated, second_venue


@pytest.fixture(scope="module")
def clean(candles):
    return check_candles(candles, second_venue(candles))


@pytest.fixture(scope="module")
def spoiled(candles):
    """A hole of 60 hours, a bad tick, and dates an hour late from February on; against the same market elsewhere."""
    frame = dated(candles, 1, 800)
    frame.iloc[300, 2] *= 0.5
    return check_candles(frame.drop(index=frame.index[100:160]), second_venue(candles))


@pytest.fixture(scope="module")
def alone(candles):
    return check_candles(candles)


FIGURES = ["coverage", "price_with_findings", "premium", "lag_correlations"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_that_its_market_is_simulated_and_names_its_axes(spoiled, name):
    figure = getattr(quality, name)(spoiled)
    assert isinstance(figure, go.Figure)
    assert figure.layout.title.text
    assert all(axis.title.text for axis in figure.select_yaxes())
    assert any("SIMULATED MARKET" in (note.text or "") for note in figure.layout.annotations)


@pytest.mark.parametrize("name", ["premium", "lag_correlations"])
def test_without_a_second_venue_there_is_a_sentence_instead_of_a_figure(alone, name):
    assert "No second venue was named" in getattr(quality, name)(alone).data


def test_coverage_shows_the_share_of_each_day_of_a_short_span(spoiled):
    cells = quality.coverage(spoiled).data[0]
    assert list(cells.y) == ["Jan 2021", "Feb 2021", "Mar 2021", "Apr 2021"]
    january = dict(zip(cells.x, cells.z[0], strict=True))
    assert (january["4"], january["6"], january["8"]) == (100, 0, 100)
    assert january["5"] == pytest.approx(100 * 4 / 24)


def test_coverage_shows_the_share_of_each_month_of_a_long_span():
    frame = bl.load_candles("simulated:1", end="2023-01-01")
    cells = quality.coverage(check_candles(frame.drop(index=frame["2021-10":"2021-11"].index))).data[0]
    assert list(cells.y) == ["2021", "2022"]
    assert list(cells.z[0][8:]) == [100, 0, 0, 100]
    assert cells.text[0][9] == "0"
    assert cells.text[1][0] == ""


def test_a_month_that_is_not_quite_there_is_not_rounded_to_whole():
    frame = bl.load_candles("simulated:1", end="2023-01-01")
    cells = quality.coverage(check_candles(frame.drop(index=frame.index[3000]))).data[0]
    assert cells.text[0][4] == "99.8"


def test_each_finding_is_marked_once_in_the_price(spoiled):
    figure = quality.price_with_findings(spoiled)
    marked = {trace.name: len(trace.x) for trace in figure.data[1:]}
    shown = spoiled.findings[spoiled.findings["finding"] != "low coverage"]
    assert sum(marked.values()) == len(shown)
    assert marked[f"bad ({(shown['severity'] == 'bad').sum()})"] == (shown["severity"] == "bad").sum()


def test_lag_correlations_have_a_group_of_bars_for_each_span(spoiled):
    bars = quality.lag_correlations(spoiled).data
    peaks = [bar.x[list(bar.y).index(max(bar.y))] for bar in bars]
    assert peaks == [0, 1]


def test_too_few_bars_in_common_are_said_instead_of_drawn(candles):
    report = check_candles(candles, second_venue(candles).iloc[:30])
    assert "Too few bars in common with elsewhere" in quality.lag_correlations(report).data
    assert "cannot be told" in quality.dates(report).data


def test_a_reference_of_another_time_is_said(candles):
    report = check_candles(candles.iloc[:500], second_venue(candles).iloc[600:])
    assert "no bar in common" in quality.premium(report).data
    assert "no bar in common" in quality.prices(report).data


# Tables


def test_the_list_of_findings_says_what_it_leaves_out(spoiled):
    text = quality.findings_list(spoiled, most=1).data
    assert f"and {len(spoiled.findings) - 1} more" in text
    assert "more:" not in quality.findings_list(spoiled, most=100).data


def test_the_table_of_findings_has_no_index_and_readable_times(spoiled):
    table = quality.findings_table(spoiled)
    row = table[table["finding"] == "gap"].iloc[0]
    assert (row["from (UTC)"], row["bars"]) == ("2021-01-05 04:00", "60")
    assert not quality.counts_table(spoiled).empty


def test_closes_alone_have_a_data_window(candles):
    closes = candles[["close"]]
    closes.attrs = candles.attrs
    table = quality.data_window(check_candles(closes))
    assert table.set_index("data").loc["bars", "value"] == f"{len(candles):,}"


# Sentences


def test_sentences_of_clean_candles(clean):
    assert "Nothing was found" in quality.verdict(clean).data
    assert quality.holes(clean).data == "No bar between the first and the last is missing."
    assert "dated as those of elsewhere" in quality.dates(clean).data
    assert "Half of the closes are within **0.0" in quality.prices(clean).data


def test_sentences_of_spoiled_candles(spoiled):
    assert "would mislead" in quality.verdict(spoiled).data
    assert "**61 bars**" in quality.holes(spoiled).data  # one more where the dates begin to be late
    assert "2 days 12 h" in quality.holes(spoiled).data
    assert "**1 bar late** from 2021-02-03" in quality.dates(spoiled).data


def test_sentences_of_candles_alone_claim_nothing(alone):
    assert "nobody can tell" in quality.dates(alone).data
    assert "may be a crash or a bad tick" in quality.prices(alone).data


def test_what_is_only_suspicious_is_not_called_bad(candles):
    report = check_candles(candles.drop(index=candles.index[40]))
    assert quality.verdict(report).data.startswith("**Nothing bad was found**; 1 more")


def test_a_report_is_not_changed_by_showing_it(spoiled):
    before = spoiled.findings.copy()
    for name in FIGURES:
        getattr(quality, name)(spoiled)
    pd.testing.assert_frame_equal(spoiled.findings, before)
