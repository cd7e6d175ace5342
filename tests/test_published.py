"""Published values: what the file holds, and how measured values are compared with them."""

from __future__ import annotations

import csv
from typing import Any

import pandas as pd
import pytest

from dtfn import evaluation, published, studies
from dtfn.published import DIFFERS, MATCHES, NOT_WHOLE, UNPUBLISHED


def summary(*rows: tuple[str, int, str, int, float, float]) -> pd.DataFrame:
    columns = ["method", "scale", "dataset", "images", "psnr", "ssim"]
    return pd.DataFrame(rows, columns=columns)


def test_every_line_of_the_file_is_a_value() -> None:
    with published.FILE.open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    values = published.values()
    assert len(values) == len(lines)
    assert values["psnr"].between(20, 45).all()
    assert values["ssim"].dropna().between(0.5, 1).all()
    assert set(values["scale"]) == {2, 3, 4}
    assert set(values["dataset"]) == set(published.SIZES)
    assert (values["source"].str.len() > 10).all()
    keys = values.groupby(["method", "scale", "dataset", "source", "remeasured"]).size()
    assert (keys == 1).all()


def test_what_others_measured_again_is_labelled() -> None:
    values = published.values()
    again = values[values["remeasured"] != ""]
    assert set(again["method"]) == {"EDSR", "EDSR-baseline", "RCAN", "RDN"}
    assert set(again["remeasured"]) == {"torchSR"}
    assert again["table"].str.contains("re-measured").all()
    assert not values.drop(again.index)["table"].str.contains("re-measured").any()
    field = published.of_the_field([4])
    (value,) = field[lambda t: (t["method"] == "EDSR") & (t["dataset"] == "Set5")]["psnr"]
    assert value == 32.46
    assert "EDSR (re-measured by torchSR)" in set(field["method"])


def test_the_field_has_one_value_a_cell() -> None:
    field = published.of_the_field([2, 3, 4])
    assert not field.duplicated(["method", "scale", "dataset"]).any()
    assert list(field["dataset"].unique()) == ["Set5", "Set14", "BSD100", "Urban100", "Manga109"]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (28.4149, MATCHES),
        (28.4349, MATCHES),
        (28.4051, MATCHES),
        (28.4049, DIFFERS),
        (28.4351, DIFFERS),
        (float("nan"), DIFFERS),
    ],
)
def test_a_match_is_to_a_hundredth_of_what_is_printed(measured: float, verdict: str) -> None:
    """Published: 28.42 dB."""
    table = summary(("bicubic", 4, "Set5", 5, measured, 0.8104))
    (row,) = published.compare(table, {"bicubic": "Bicubic"}).to_dict("records")
    assert row["verdict"] == verdict
    assert row["published_psnr"] == 28.42
    assert row["psnr_difference"] == pytest.approx(measured - 28.42, nan_ok=True)
    assert row["ssim_difference"] == pytest.approx(0)
    assert row["published_in"] == "RCAN paper table; RDN paper table"


def test_tables_that_disagree_are_rows_of_their_own() -> None:
    table = summary(("mine", 4, "Set5", 5, 32.48, 0.8985))
    rows = published.compare(table, {"mine": "EDSR"})
    again = rows["published_in"].str.contains("re-measured")
    assert rows[again]["published_psnr"].tolist() == [32.48]
    assert rows[again]["verdict"].tolist() == [MATCHES]
    assert 32.46 in rows[~again]["published_psnr"].tolist()
    (verdict,) = published.verdicts(rows)
    assert (verdict.holds, verdict.measured) == (True, "1 of 1 benchmarks")


def test_part_of_a_benchmark_is_not_judged() -> None:
    table = summary(("bicubic", 4, "Set5", 3, 28.42, 0.81))
    rows = published.compare(table, {"bicubic": "Bicubic"})
    assert rows["verdict"].tolist() == [NOT_WHOLE]
    assert [v.holds for v in published.verdicts(rows)] == [None]


def test_a_method_without_published_values_has_one_row() -> None:
    table = summary(
        ("nla", 4, "Set5", 5, 31.0, 0.8),
        ("nla", 4, "Set14", 14, 28.0, 0.8),
        ("bicubic", 4, "mini", 7, 28.0, 0.8),
    )
    rows = published.compare(table, {"bicubic": "Bicubic", "nla": "NLA"})
    assert rows["verdict"].tolist() == [UNPUBLISHED, UNPUBLISHED]
    assert rows["method"].tolist() == ["nla", "bicubic"]
    assert rows["published_psnr"].isna().all()


def test_both_names_of_one_benchmark_are_known() -> None:
    for name in ("B100", "BSD100"):
        table = summary(("bicubic", 2, name, 100, 29.56, 0.8431))
        (row,) = published.compare(table, {"bicubic": "Bicubic"}).to_dict("records")
        assert (row["dataset"], row["verdict"]) == (name, MATCHES)


def test_the_known_answers_are_the_published_ones() -> None:
    """Bicubic's values in `dtfn.studies`, found by measuring, against those of the tables."""
    rows: list[Any] = [
        ("bicubic", scale, dataset, pictures, psnr, 0.8)
        for (dataset, scale), (pictures, psnr) in studies.KNOWN_BICUBIC.items()
    ]
    table = published.compare(summary(*rows), {"bicubic": "Bicubic"})
    assert len(table) == 12
    assert set(table["verdict"]) == {MATCHES}


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.usefixtures("benchmarks")
def test_bicubic_matches_what_is_published(scale: int) -> None:
    results = evaluation.evaluate("bicubic", ["Set5", "Set14"], scale, grey="y")
    table = published.compare(evaluation.summary(results), {"bicubic": "Bicubic"})
    assert len(table) == 2
    assert set(table["verdict"]) == {MATCHES}
    assert table["ssim_difference"].abs().max() < 0.0015


def test_sources_are_those_of_the_scales() -> None:
    every, only = published.sources([2, 3, 4]), published.sources([3])
    assert every["values"].sum() == len(published.values())
    assert only["values"].sum() == (published.values()["scale"] == 3).sum()
    assert every["table"].str.len().max() < 45


def test_bicubic_has_a_row_for_each_rule_where_they_differ() -> None:
    """The first pictures of mini: one in colour, one grey."""
    results = studies.measure_all(["mini"], [4], methods=["bicubic"], count=2)
    means = results.groupby("method")["psnr"].mean()
    assert list(means.index) == ["bicubic", studies.CLASSICAL]
    assert means["bicubic"] - means[studies.CLASSICAL] == pytest.approx(1.3219 / 2, abs=1e-4)
    assert studies.published_names(results) == {studies.CLASSICAL: "Bicubic"}
    colour = studies.measure_all(["mini"], [4], methods=["bicubic"], count=1)
    assert studies.published_names(colour) == {"bicubic": "Bicubic"}
