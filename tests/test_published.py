"""Published values, how measured values are compared with them, and who beats whom."""

import numpy as np
import pandas as pd
import pytest

from dtfn import evaluation, published
from dtfn.published import DIFFERS, MATCHES, NOT_WHOLE, UNPUBLISHED
from dtfn.statistics import LEAST


def results(
    name: str, scale: int, dataset: str, pictures: int, psnr: float, ssim: float = 0.8
) -> pd.DataFrame:
    """A table of `Study.measure` for one method, ``mine``, with a mean PSNR."""
    spread = np.linspace(-2, 2, pictures)
    columns = {"dataset": dataset, "scale": scale, "published": name, "ssim": ssim, "seconds": 0.0}
    images = [f"{i:03}" for i in range(pictures)]
    return pd.DataFrame({"image": images, "method": "mine", "psnr": psnr + spread, **columns})


def test_every_line_of_the_file_is_a_value_and_the_field_has_one_a_cell() -> None:
    values = published.values()
    assert len(values) == 471
    assert values["psnr"].between(20, 45).all()
    assert values["ssim"].dropna().between(0.5, 1).all()
    assert set(values["scale"]) == {2, 3, 4}
    assert set(values["dataset"]) == set(published.SIZES)
    assert not values.duplicated(["method", "scale", "dataset", "table", "remeasured"]).any()
    every, only = published.sources([2, 3, 4]), published.sources([3])
    assert every["values"].sum() == len(values)
    assert only["values"].sum() == (values["scale"] == 3).sum()
    field = published.of_the_field([2, 3, 4])
    assert not field.duplicated(["method", "scale", "dataset"]).any()
    assert list(field["dataset"].unique()) == ["Set5", "Set14", "BSD100", "Urban100", "Manga109"]
    cells = field[(field["scale"] == 4) & (field["dataset"] == "Set5")].set_index("method")["psnr"]
    assert cells["EDSR"] == 32.46
    assert cells["EDSR (re-measured by torchSR)"] == 32.48


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(28.4349, MATCHES), (28.4051, MATCHES)]
    + [(28.4049, DIFFERS), (28.4351, DIFFERS), (float("inf"), DIFFERS)],
)
def test_a_match_is_to_a_hundredth_of_what_is_printed(measured: float, verdict: str) -> None:
    """Published: 28.42 dB."""
    table = published.compare(results("Bicubic", 4, "Set5", 5, measured, 0.8104))
    (row,) = table.to_dict("records")
    assert row["verdict"] == verdict
    assert row["published psnr"] == 28.42
    assert row["difference psnr"] == pytest.approx(measured - 28.42)
    assert row["difference ssim"] == pytest.approx(0)
    assert row["published in"] == "RCAN paper table; RDN paper table"
    (judged,) = published.verdicts(table)
    assert judged.holds == (verdict == MATCHES)


def test_tables_that_disagree_are_rows_of_their_own() -> None:
    rows = published.compare(results("EDSR", 4, "Set5", 5, 32.48))
    again = rows["published in"].str.contains("re-measured")
    assert rows[again]["published psnr"].tolist() == [32.48]
    assert rows[again]["verdict"].tolist() == [MATCHES]
    assert 32.46 in rows[~again]["published psnr"].tolist()
    (verdict,) = published.verdicts(rows)
    assert (verdict.holds, verdict.measured) == (True, "1 of 1 benchmarks")


def test_part_of_a_benchmark_is_not_judged() -> None:
    rows = published.compare(results("Bicubic", 4, "Set5", 3, 28.42))
    assert rows["verdict"].tolist() == [NOT_WHOLE]
    (verdict,) = published.verdicts(rows)
    assert verdict.holds is None
    assert str(verdict.measured).startswith("no whole benchmark")


def test_a_method_without_published_values_has_one_row() -> None:
    parts = [
        results("NLA", 4, "Set5", 5, 31.0).assign(method="nla"),
        results("NLA", 4, "Set14", 14, 28.0).assign(method="nla"),
        results("Bicubic", 4, "mini", 7, 28.0),
        results("Bicubic", 2, "B100", 100, 29.56),  # BSD100 by its other name
    ]
    rows = published.compare(pd.concat(parts))
    assert rows["method"].tolist() == ["nla", "mine", "mine"]
    assert rows["verdict"].tolist() == [UNPUBLISHED, UNPUBLISHED, MATCHES]
    assert rows["published psnr"].isna().tolist() == [True, True, False]
    assert rows["dataset"].isna().tolist() == [True, True, False]
    assert rows["dataset"].iloc[2] == "B100"


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.usefixtures("benchmarks")
def test_bicubic_matches_what_is_published(scale: int) -> None:
    measured = evaluation.evaluate("bicubic", ["Set5", "Set14"], scale, grey="y")
    table = published.compare(measured.assign(published="Bicubic"))
    assert len(table) == 2
    assert set(table["verdict"]) == {MATCHES}
    assert table["difference ssim"].abs().max() < 0.0015


def test_bicubic_has_a_row_for_each_rule_where_they_differ() -> None:
    """The first pictures of mini: one in colour, one grey."""
    both = published.Study(["mini"], [4], methods=["bicubic"], count=2).measure()
    means = both.groupby("method")["psnr"].mean()
    assert list(means.index) == ["bicubic", published.CLASSICAL]
    assert means["bicubic"] - means[published.CLASSICAL] == pytest.approx(1.3219 / 2, abs=1e-4)
    named = both.drop_duplicates("method").set_index("method")["published"]
    assert named.to_dict() == {"bicubic": "", published.CLASSICAL: "Bicubic"}
    colour = published.Study(["mini"], [4], methods=["bicubic"], count=1).measure()
    assert set(colour["published"]) == {"Bicubic"}


def test_a_gain_holds_a_loss_does_not_and_noise_is_open() -> None:
    base = results("", 4, "mini", 20, 25.0).assign(method="bicubic")
    shifts = {"up": 1.0, "down": -1.0, "noise": np.random.default_rng(0).normal(0, 1, 20)}
    others = [base.assign(method=name, psnr=base["psnr"] + up) for name, up in shifts.items()]
    table = pd.concat([base, *others])
    verdicts = published.beats(table, list(shifts))
    assert [v.holds for v in verdicts] == [True, False, None]
    assert verdicts[0].measured == pytest.approx(1.0)
    assert verdicts[0].interval is not None
    few = table[table["image"] < f"{LEAST - 1:03}"]
    (verdict,) = published.beats(few, ["up"])
    assert (verdict.holds, verdict.interval) == (None, None)
