"""Tables: the marks of the field, escaping, and joined columns."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from dtfn.errors import InputError
from dtfn.reports import tables

FRAME = pd.DataFrame(
    {"method": ["a_1", "b|c", "<d>"], "psnr": [30.001, 30.004, 31.0], "ssim": [0.9, 0.8, 0.7]}
)
BEST: dict[str, tables.Direction] = {"psnr": "max", "ssim": "min"}


def body(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table, without head and rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]


def test_best_is_bold_and_second_underlined_even_where_two_print_the_same() -> None:
    psnr = [row[1] for row in body(tables.markdown(FRAME, BEST))]
    assert psnr == ["<ins>30.00</ins>", "<ins>30.00</ins>", "**31.00**"]
    ssim = [row[2] for row in body(tables.markdown(FRAME, BEST))]
    assert ssim == ["0.9000", "<ins>0.8000</ins>", "**0.7000**"]


def test_nothing_is_best_of_one() -> None:
    assert "**" not in tables.markdown(FRAME.iloc[:1], BEST)
    assert "**" not in tables.markdown(FRAME.assign(psnr=30.0), {"psnr": "max"})


def test_a_missing_value_is_a_dash_and_has_no_mark() -> None:
    frame = pd.DataFrame({"psnr": [np.nan, 30.0, 29.0, np.nan]})
    assert body(tables.markdown(frame, {"psnr": "max"})) == [
        ["–"],
        ["**30.00**"],
        ["<ins>29.00</ins>"],
        ["–"],
    ]


def test_every_markup_escapes_text() -> None:
    assert r"b\|c" in tables.markdown(FRAME)
    assert r"\<d>" in tables.markdown(FRAME)
    assert r"a\_1" in tables.latex(FRAME)
    assert "<td>&lt;d&gt;</td>" in tables.html(FRAME)
    assert r"\caption{50 \% of \{x\}}" in tables.latex(FRAME, caption="50 % of {x}")


def test_latex_is_a_booktabs_table() -> None:
    text = tables.latex(FRAME, BEST, caption="c", label="tab:l")
    assert [line for line in text.splitlines() if line.startswith("\\")][:7] == [
        r"\begin{table}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",
        r"\caption{c}",
        r"\label{tab:l}",
        r"\begin{tabular}{lll}",
        r"\toprule",
    ]
    assert r"<d> & \textbf{31.00} & \textbf{0.7000} \\" in text
    assert text.count(r"\\") == len(FRAME) + 1


def test_an_estimate_and_its_interval_share_a_cell() -> None:
    low, high = np.array([0.1]) - 0.15, np.array([0.1]) + 0.15
    for name, title, cell in (
        ("harm_rate_net", "harm rate, net", "+10.0% [-5.0%,\xa0+25.0%]"),
        ("harm_rate_null", "harm rate, null", "10.0% [-5.0%,\xa025.0%]"),
        ("lost_db_net", "lost dB, net", "+0.100 [-0.050,\xa0+0.250]"),
    ):
        text = tables.markdown(
            pd.DataFrame({name: [0.1], f"{name}_low": low, f"{name}_high": high})
        )
        assert text.splitlines()[0] == f"| {title} |"
        assert body(text) == [[cell]]


def test_psnr_and_ssim_share_a_cell_a_dataset() -> None:
    summary = pd.DataFrame(
        {
            "method": ["bicubic", "net", "bicubic", "net"],
            "dataset": ["Set5", "Set5", "BSD100", "BSD100"],
            "psnr": [28.43, 32.0, 25.96, 27.0],
            "ssim": [0.8104, 0.89, 0.6675, 0.72],
        }
    )
    wide = tables.by_dataset(summary)
    text = tables.markdown(wide, {"psnr": "max", "ssim": "max"})
    assert text.splitlines()[0] == "| method | Set5 | BSD100 |"
    assert body(text)[0] == [
        "bicubic",
        "<ins>28.43</ins>/<ins>0.8104</ins>",
        "<ins>25.96</ins>/<ins>0.6675</ins>",
    ]
    assert body(text)[1] == ["net", "**32.00**/**0.8900**", "**27.00**/**0.7200**"]


def test_a_form_of_the_callers_wins() -> None:
    assert body(tables.markdown(FRAME[["psnr"]], forms={"psnr": "{:.0f} dB"}))[0] == ["30 dB"]


def test_a_mark_for_an_unknown_column_is_told() -> None:
    with pytest.raises(InputError, match="did you mean 'psnr'"):
        tables.markdown(FRAME, {"psmr": "max"})


SUMMARY = pd.DataFrame(
    {
        "method": ["bicubic", "net", "bicubic", "net"],
        "scale": [2, 2, 4, 4],
        "dataset": "Set5",
        "psnr": [33.67, 38.0, 28.43, 32.0],
        "ssim": [0.93, 0.96, 0.81, 0.89],
    }
)


def test_several_scales_are_groups_with_marks_of_their_own() -> None:
    wide = tables.by_dataset(SUMMARY)
    marked = body(tables.markdown(wide, {"psnr": "max"}, groups="scale"))
    assert [row[:2] for row in marked] == [
        ["2", "bicubic"],
        ["2", "net"],
        ["4", "bicubic"],
        ["4", "net"],
    ]
    assert [row[2].startswith("**") for row in marked] == [False, True, False, True]
    text = tables.latex(wide, groups="scale")
    assert text.count(r"\midrule") == 2
    assert re.findall(r"<tr><td>(.*?)\d</td>", tables.html(wide, groups="scale")) == [
        "",
        "",
        '<i class="rule"></i>',
        "",
    ]


def test_groups_by_an_unknown_column_are_told() -> None:
    with pytest.raises(InputError, match="did you mean 'method'"):
        tables.html(FRAME, BEST, groups="methud")


def test_a_cell_without_both_numbers_is_one_dash() -> None:
    summary = SUMMARY.assign(
        dataset=["Set5", "Set5", "Set5", "Set14"], scale=4, method=["a", "b", "c", "a"]
    )
    assert body(tables.markdown(tables.by_dataset(summary)))[1] == ["b", "38.00/0.9600", "–"]


def test_symbols_that_latex_lacks_are_spelled() -> None:
    frame = pd.DataFrame({"claim": ["×4 · τ ≤ 1 − x\N{NO-BREAK SPACE}✓ – done"]})
    assert (
        tables.latex(frame).splitlines()[6]
        == r"$\times$4 $\cdot$ $\tau$ $\leq$ 1 $-$ x~$\surd$ – done \\"
    )


def test_long_text_breaks_and_wide_tables_are_fitted_in_latex() -> None:
    long = pd.DataFrame({"a": ["word " * 30], "b": [1.0]})
    assert r"p{0.8" in tables.latex(long)
    assert "resizebox" not in tables.latex(long)
    wide = pd.DataFrame({f"column {i}": ["some text"] for i in range(10)})
    text = tables.latex(wide)
    assert text.index(r"\resizebox{\linewidth}{!}{%") < text.index(r"\begin{tabular}")
    assert r"\end{tabular}}" in text


def test_a_wide_table_says_that_it_scrolls() -> None:
    def size(columns: int, text: str) -> str:
        frame = pd.DataFrame({f"c{i}": [text] for i in range(columns)})
        return tables.html(frame).partition('class="scroll ')[2].partition('"')[0]

    assert [size(2, "x"), size(8, "some words"), size(20, "some words")] == [
        "small",
        "medium",
        "wide",
    ]
    assert size(7, "1.234 [1.111,\xa02.222]") == "broken", "it fits when intervals have a line"


def test_rows_of_one_name_are_not_multiplied() -> None:
    frame = pd.DataFrame({"pair": list("abc"), "psnr": [1.0, 2.0, 3.0]}, index=["x"] * 3)
    assert tables.html(frame).count("<tr>") == 4
    assert tables.latex(frame).count(r"\\") == 4
    assert len(tables.markdown(frame).splitlines()) == 5
