"""Tables: the marks of the field, escaping, and joined columns."""

import re

import numpy as np
import pandas as pd
import pytest

from dtfn.reports import tables

FRAME = pd.DataFrame(
    {"method": ["a_1", "b|c", "<d>"], "psnr": [30.001, 30.004, 31.0], "ssim": [0.9, 0.8, 0.7]}
)
BEST: dict[str, tables.Direction] = {"psnr": "max", "ssim": "min"}
SUMMARY = pd.DataFrame(
    {
        "method": ["bicubic", "net", "bicubic", "net"],
        "scale": [2, 2, 4, 4],
        "dataset": "Set5",
        "psnr": [33.67, 38.0, 28.43, 32.0],
        "ssim": [0.93, 0.96, 0.81, 0.89],
    }
)


def body(text: str) -> list[list[str]]:
    """Return the cells of a Markdown table, without head and rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]


def latex(frame: pd.DataFrame, groups: str | None = None) -> str:
    return tables.latex(frame, best=BEST, groups=groups, caption="50 % of {x}", label="tab:l")


def test_best_is_bold_and_second_underlined_even_where_two_print_the_same() -> None:
    cells = body(tables.markdown(FRAME, best=BEST))
    assert [row[1] for row in cells] == ["<ins>30.00</ins>", "<ins>30.00</ins>", "**31.00**"]
    assert [row[2] for row in cells] == ["0.9000", "<ins>0.8000</ins>", "**0.7000**"]
    assert "**" not in tables.markdown(FRAME.iloc[:1], best=BEST), "nothing is best of one"
    assert "**" not in tables.markdown(FRAME.assign(psnr=30.0), best={"psnr": "max"})
    assert body(tables.markdown(FRAME[["psnr"]], forms={"psnr": "{:.0f} dB"}))[0] == ["30 dB"]


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_a_missing_value_is_a_dash_and_has_no_mark(missing: object) -> None:
    frame = pd.DataFrame({"psnr": [missing, 30.0, 29.0, missing]})
    marked = [["–"], ["**30.00**"], ["<ins>29.00</ins>"], ["–"]]
    assert body(tables.markdown(frame, best={"psnr": "max"})) == marked


def test_every_notation_escapes_text() -> None:
    assert r"b\|c" in tables.markdown(FRAME)
    assert r"\<d>" in tables.markdown(FRAME)
    assert "<td>&lt;d&gt;</td>" in tables.html(FRAME)
    assert r"a\_1" in latex(FRAME)
    symbols = pd.DataFrame({"claim": ["×4 · τ ≤ 1 − x\N{NO-BREAK SPACE}✓ – done, -1"]})
    printed = r"$\times$4 $\cdot$ $\tau$ $\leq$ 1 $-$ x~$\surd$ – done, $-$1 \\"
    assert printed in latex(symbols).splitlines()


def test_latex_is_a_booktabs_table_in_which_long_text_breaks_and_wide_rows_are_fitted() -> None:
    text = latex(FRAME)
    head = [r"\setlength{\belowcaptionskip}{6pt}", r"\caption{50 \% of \{x\}}", r"\label{tab:l}"]
    head += [r"\begin{tabular}{lll}", r"\toprule"]
    assert [line for line in text.splitlines() if line.startswith("\\")][2:7] == head
    assert r"<d> & \textbf{31.00} & \textbf{0.7000} \\" in text
    assert text.count(r"\\") == len(FRAME) + 1
    long = latex(pd.DataFrame({"a": ["word " * 30], "b": [1.0]}))
    assert r"p{0.8" in long
    assert "resizebox" not in long
    text = latex(pd.DataFrame({f"column {i}": ["some text"] for i in range(10)}))
    assert text.index(r"\resizebox{\linewidth}{!}{%") < text.index(r"\begin{tabular}")
    assert r"\end{tabular}}" in text


def test_an_estimate_and_its_interval_share_a_cell() -> None:
    frame = pd.DataFrame({"own_gain": [0.1, 0.2], "own_gain_low": [-0.05, np.nan]})
    text = tables.markdown(frame.assign(own_gain_high=[0.25, np.nan]))
    assert text.splitlines()[0] == "| own gain |"
    assert body(text) == [["0.100 [-0.050,\xa00.250]"], ["0.200"]]


def test_psnr_and_ssim_share_a_cell_a_dataset() -> None:
    summary = SUMMARY.assign(scale=4, dataset=["Set5", "Set5", "BSD100", "BSD100"])
    wide = tables.by_dataset(summary)
    assert list(wide) == ["method", "Set5 psnr", "Set5 ssim", "BSD100 psnr", "BSD100 ssim"]
    text = tables.markdown(wide, best={"psnr": "max", "ssim": "max"})
    assert text.splitlines()[0] == "| method | Set5 | BSD100 |"
    second = "<ins>33.67</ins>/<ins>0.9300</ins>", "<ins>28.43</ins>/<ins>0.8100</ins>"
    first = "**38.00**/**0.9600**", "**32.00**/**0.8900**"
    assert body(text) == [["bicubic", *second], ["net", *first]]
    half = tables.markdown(tables.by_dataset(summary.iloc[:3]))
    assert body(half)[1] == ["net", "38.00/0.9600", "–"]


def test_several_scales_are_groups_with_marks_of_their_own() -> None:
    wide = tables.by_dataset(SUMMARY)
    marked = body(tables.markdown(wide, best={"psnr": "max"}, groups="scale"))
    rows = [["2", "bicubic"], ["2", "net"], ["4", "bicubic"], ["4", "net"]]
    assert [row[:2] for row in marked] == rows
    assert [row[2].startswith("**") for row in marked] == [False, True, False, True]
    assert latex(wide, "scale").count(r"\midrule") == 2
    first = re.findall(r"<tr><td>(.*?)\d</td>", tables.html(wide, groups="scale"))
    assert first == ["", "", '<i class="rule"></i>', ""]


def test_rows_of_one_name_are_not_multiplied() -> None:
    frame = pd.DataFrame({"pair": list("abc"), "psnr": [1.0, 2.0, 3.0]}, index=["x"] * 3)
    assert tables.html(frame).count("<tr>") == 4
    assert latex(frame).count(r"\\") == 4
    assert len(tables.markdown(frame).splitlines()) == 5
