"""The whole check: planted defects are found, clean candles have none, and what is known of each shared file is told."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

import btclab as bl
from btclab.errors import CandleError, InputError
from btclab.market.check import Report, check_candles, load_for_check, load_reference
from btclab.market.simulated import simulate_candles
from tests.conftest import SHARED
from tests.market.test_venues import dated, second_venue

FILES = {
    "binance 1h": "binance_btcusdt_1h_2017-08_2024-12.parquet",
    "binance 1d": "binance_btcusdt_1d_2017-08_2024-12.csv",
    "bitstamp 1h": "bitstamp_btcusd_1h.csv",
    "coinbase 1d": "coinbase_btcusd_1d.csv",
    "coingecko 1d": "coingecko_btc_1d.csv",
}


def found(report: Report, finding: str) -> list[tuple[str, str, int]]:
    """(start, end, bars) of each row of one finding."""
    rows = report.findings[report.findings["finding"] == finding]
    return [(f"{row.start:%Y-%m-%d %H:%M}", f"{row.end:%Y-%m-%d %H:%M}", row.bars) for row in rows.itertuples()]


def detail(report: Report, finding: str) -> str:
    return report.findings.set_index("finding").loc[[finding], "detail"].iloc[0]


# Clean candles


@pytest.mark.parametrize("seed", range(1, 7))
def test_simulated_candles_have_no_findings(seed):
    hourly = bl.load_candles(f"simulated:{seed}")
    for frame in (hourly, bl.resample(hourly, "1d")):
        report = check_candles(frame, second_venue(frame, seed=seed))
        assert report.findings.empty, report.findings
        assert report.ok
    assert check_candles(hourly).findings.empty


def test_candles_are_not_changed(candles):
    before = candles.copy()
    check_candles(candles, candles)
    pd.testing.assert_frame_equal(candles, before)


def test_sixty_thousand_hours_take_less_than_two_seconds():
    hours = simulate_candles(1, 0.0, "1h", end="2028-05-15")
    other = second_venue(hours)
    assert len(hours) > 64_500
    began = time.perf_counter()
    check_candles(hours, other)
    assert time.perf_counter() - began < 2


# Planted defects


def test_a_gap_says_how_long_it_is_and_whether_the_other_venue_has_the_bars(candles):
    other = second_venue(candles)
    frame = candles.drop(index=candles.index[100:160])
    report = check_candles(frame, other.drop(index=other.index[100:110]))
    assert found(report, "gap") == [("2021-01-05 04:00", "2021-01-07 15:00", 60)]
    assert detail(report, "gap") == "2 days 12 h; elsewhere has 50 of these bars"
    assert detail(check_candles(frame), "gap") == "2 days 12 h"
    assert not report.ok


def test_a_short_gap_is_suspicious_only(candles):
    report = check_candles(candles.drop(index=candles.index[100:102]))
    assert report.findings[["finding", "severity"]].values.tolist() == [["gap", "suspicious"]]
    assert report.ok


def test_low_coverage_is_a_finding(candles):
    assert "low coverage" in check_candles(candles.drop(index=candles.index[100:160])).counts["finding"].tolist()


def test_raw_defects_are_told_and_the_rest_is_examined(candles):
    frame = pd.concat([candles, candles.iloc[[5]]]).drop(index=candles.index[50])
    report = check_candles(frame)
    assert report.counts["finding"].tolist() == ["duplicate", "unsorted", "gap"]
    assert len(report.candles) == len(candles) - 1


def test_a_halt_filled_flat_by_a_line_or_without_volume_is_found(candles):
    frame = candles.copy()
    price = frame["close"].iloc[199]
    frame.iloc[200:206] = [price, price, price, price, 0.0]
    steps = np.linspace(0, 1, 9)[1:-1, None]
    frame.iloc[301:308] = frame.iloc[300].to_numpy() + steps * (frame.iloc[308] - frame.iloc[300]).to_numpy()
    report = check_candles(frame)
    assert found(report, "flat-filled") == [("2021-01-09 08:00", "2021-01-09 13:00", 6)]
    assert found(report, "zero volume") == [("2021-01-09 08:00", "2021-01-09 13:00", 6)]
    ((start, end, bars),) = found(report, "interpolated")
    assert (start, end, bars) == ("2021-01-13 14:00", "2021-01-13 20:00", 7)


def crashed(candles: pd.DataFrame) -> pd.DataFrame:
    """`candles` that fall by half in bar 500 and stay there."""
    frame = candles.copy()
    frame.iloc[500:, :4] *= 0.5
    frame.iloc[500, [0, 1]] = frame["close"].iloc[499]
    return frame


def test_a_crash_alone_is_suspicious(candles):
    report = check_candles(crashed(candles))
    assert report.findings[["finding", "severity"]].values.tolist() == [["outlier", "suspicious"]]
    assert "move to" in detail(report, "outlier")
    assert "no reference there to tell" in detail(report, "outlier")


def test_a_crash_that_the_other_venue_shows_is_none(candles):
    frame = crashed(candles)
    assert check_candles(frame, second_venue(frame)).findings.empty


def test_a_crash_that_the_other_venue_does_not_show_is_bad(candles):
    report = check_candles(crashed(candles), second_venue(candles))
    assert ("outlier", "bad") in report.findings[["finding", "severity"]].itertuples(index=False, name=None)


def test_a_bad_tick_is_suspicious_alone_and_bad_where_the_other_venue_has_none(candles):
    frame = candles.copy()
    frame.iloc[700, 2] *= 0.6
    alone, compared = check_candles(frame), check_candles(frame, second_venue(candles))
    assert found(alone, "outlier") == found(compared, "outlier") == [("2021-01-30 04:00", "2021-01-30 04:00", 1)]
    assert (alone.ok, compared.ok) == (True, False)
    assert "% away" in detail(compared, "outlier")


def test_a_tick_that_the_other_venue_saw_too_is_none(candles):
    frame = candles.copy()
    frame.iloc[700, 2] *= 0.6
    assert check_candles(frame, second_venue(frame)).findings.empty


def test_a_tick_that_the_other_venue_saw_for_the_most_part_is_no_outlier(candles):
    frame, other = candles.copy(), second_venue(candles)
    frame.iloc[700, 2] *= 0.6
    other.iloc[700, 2] *= 0.7
    assert check_candles(frame, other).counts["finding"].tolist() == ["disagreement"]


def test_a_reference_that_does_not_reach_there_cannot_clear_a_tick(candles):
    frame = candles.copy()
    frame.iloc[700, 2] *= 0.6
    report = check_candles(frame, second_venue(frame).iloc[:600])
    assert report.findings[["finding", "severity"]].values.tolist() == [["outlier", "suspicious"]]


def test_a_late_series_is_compared_at_its_true_dates(candles):
    report = check_candles(dated(crashed(candles), 1), second_venue(crashed(candles)))
    assert report.counts["finding"].tolist() == ["date shift"]
    assert "dated 1 bar (1h) late: correlation with elsewhere is" in detail(report, "date shift")
    assert "+1 from 2021-01" in report.summary.set_index("finding").loc["date shift", "value"]


def test_an_early_series_is_called_early(candles):
    assert "dated 2 bars (1h) early" in detail(check_candles(dated(candles, -2), second_venue(candles)), "date shift")


def test_markets_that_have_nothing_in_common_are_not_called_shifted(candles):
    report = check_candles(candles, bl.load_candles("simulated:8", end="2021-04-01"))
    assert "date shift" not in report.counts["finding"].tolist()
    assert "too low to tell" in detail(report, "dates not confirmed")


def test_too_few_bars_in_common_are_said_and_the_rest_is_checked(candles):
    report = check_candles(candles.drop(index=candles.index[50]), second_venue(candles).iloc[:40])
    assert report.counts["finding"].tolist() == ["gap", "date shift not examined"]
    assert "at least 60 are needed" in detail(report, "date shift not examined")
    assert report.shifts is None


def test_a_scaled_stretch_is_another_price_level(candles):
    frame = candles.copy()
    frame.iloc[900:1500, :4] *= 100
    report = check_candles(frame, second_venue(candles))
    ((start, end, bars),) = found(report, "price level")
    assert (start[:10], end[:10]) == ("2021-02-07", "2021-03-04")
    assert bars == pytest.approx(600, abs=4)
    assert not report.ok


def test_the_worst_comes_first(candles):
    frame = candles.drop(index=[*candles.index[10:12], *candles.index[100:160]])
    severities = check_candles(frame).findings["severity"].tolist()
    assert severities == sorted(severities)
    assert set(severities) == {"bad", "suspicious"}


def test_a_reference_with_longer_bars_is_refused(candles):
    with pytest.raises(InputError, match="cannot judge bars of 1h"):
        check_candles(candles, bl.resample(candles, "1d"))


# Loading


def test_a_file_that_is_refused_is_examined_as_it_stands(candles, tmp_path):
    frame = candles.iloc[:100]
    pd.concat([frame, 2 * frame.iloc[[3]]]).to_csv(tmp_path / "twice.csv")
    loaded = load_for_check(f"file:{tmp_path / 'twice.csv'}")
    report = check_candles(loaded)
    assert {"conflicting duplicate", "not taken as candles"} <= set(report.findings["finding"])
    assert "comes twice" in detail(report, "not taken as candles") or "row 102" in detail(
        report, "not taken as candles"
    )


def test_what_is_no_file_of_prices_is_refused(tmp_path):
    (tmp_path / "names.csv").write_text("date,name\n2024-01-01,a\n2024-01-02,b\n")
    with pytest.raises(CandleError, match=r"needs a column of times and one of closes; found date, name"):
        load_for_check(f"file:{tmp_path / 'names.csv'}")


def test_a_wrong_source_that_is_no_file_is_refused():
    with pytest.raises(InputError):
        load_for_check("simulated:x")


def test_the_reference_spans_the_candles_and_a_margin(candles):
    reference = load_reference("simulated:7", candles.iloc[100:200])
    assert (reference.index[0], reference.index[-1]) == (candles.index[96], candles.index[202])
    assert load_reference("", candles) is None


# What is known of the real files


@pytest.fixture(scope="module")
def real():
    if not (SHARED / "candles").is_dir():
        pytest.skip(f"no real candles at {SHARED / 'candles'}")
    frames = {name: load_for_check(f"file:{SHARED / 'candles' / file}", name[-2:]) for name, file in FILES.items()}
    for name, frame in frames.items():
        frame.attrs["source"] = name.split()[0]
    return frames


def test_real_hours_of_binance_have_the_halt_of_march_2023(real):
    report = check_candles(real["binance 1h"])
    assert found(report, "gap") == [("2023-03-24 13:00", "2023-03-24 13:00", 1)]
    assert found(report, "zero volume") == [("2023-03-24 12:00", "2023-03-24 12:00", 1)]


def test_real_hours_of_binance_have_the_line_of_february_2018(real):
    report = check_candles(real["binance 1h"])
    assert ("2018-02-08 02:00", "2018-02-09 10:00", 33) in found(report, "interpolated")


def test_real_hours_of_binance_part_from_bitstamp_in_the_filled_halt(real):
    report = check_candles(real["binance 1h"], real["bitstamp 1h"])
    assert any(start.startswith("2018-02-08") for start, _, _ in found(report, "disagreement"))


def test_real_days_of_binance_disagree_with_the_hours_in_the_filled_halt_only(real):
    report = check_candles(real["binance 1d"], real["binance 1h"])
    assert found(report, "disagreement") == [("2018-02-08 00:00", "2018-02-09 00:00", 2)]
    assert report.findings["finding"].tolist() == ["disagreement"]


def test_the_crash_of_2020_03_12_is_suspicious_alone_and_real_beside_another_venue(real):
    day = ("2020-03-12 00:00", "2020-03-12 00:00", 1)
    for own, other in (("binance 1d", "coinbase 1d"), ("coinbase 1d", "binance 1d")):
        assert day in found(check_candles(real[own]), "outlier")
        assert day not in found(check_candles(real[own], real[other]), "outlier")
    hours = found(check_candles(real["bitstamp 1h"], real["binance 1h"]), "outlier")
    assert not [start for start, _, _ in hours if start.startswith("2020-03-12")]


def test_bitstamp_has_the_hole_of_autumn_2017_and_binance_has_its_bars(real):
    report = check_candles(real["bitstamp 1h"], real["binance 1h"])
    assert found(report, "gap") == [("2017-09-22 20:00", "2017-11-12 04:00", 1209)]
    assert detail(report, "gap") == "50 days 9 h; binance has 1,209 of these bars"


def test_coinbase_lacks_twelve_days_of_march_2019(real):
    report = check_candles(real["coinbase 1d"])
    assert found(report, "gap") == [("2019-03-20 00:00", "2019-03-31 00:00", 12)]


def test_the_low_of_coinbase_on_2015_01_14_is_suspicious(real):
    rows = check_candles(real["coinbase 1d"], real["binance 1d"]).findings
    row = rows[rows["start"] == pd.Timestamp("2015-01-14", tz="UTC")].set_index("finding").loc["outlier"]
    assert row["severity"] == "suspicious"
    assert row["detail"].startswith("low to 109.87")


@pytest.mark.parametrize("other", ["binance 1d", "coinbase 1d", "binance 1h"])
def test_coingecko_is_dated_a_day_late_from_2018_01_30_on(real, other):
    report = check_candles(real["coingecko 1d"], real[other])
    ((start, _, _),) = found(report, "date shift")
    assert start == "2018-01-30 00:00"
    assert "dated 1 bar (1d) late" in detail(report, "date shift")
    assert report.shifts["lag"].tolist() == [0, 1]


@pytest.mark.parametrize(("own", "other"), [("bitstamp 1h", "binance 1h"), ("coinbase 1d", "binance 1d")])
def test_the_exchanges_are_dated_right(real, own, other):
    report = check_candles(real[own], real[other])
    assert report.shifts[["lag", "told"]].values.tolist() == [[0, True]]
