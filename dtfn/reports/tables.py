"""Tables as the field prints them: best in bold, second underlined, PSNR/SSIM in one cell."""

from __future__ import annotations

import html as html_escape
from collections.abc import Callable, Mapping
from typing import Literal

import pandas as pd

from dtfn.errors import InputError, nearest

Direction = Literal["max", "min"]

FORMS = {
    "psnr": "{:.2f}",
    "ssim": "{:.4f}",
    "seconds": "{:.2f}",
    "parameters": "{:,.0f}",
    "share": "{:.1%}",
    "harm_rate": "{:.1%}",
    "harm_rate_net": "{:+.1%}",
    "harm_mass": "{:.2f}",
    "harm_mass_net": "{:+.2f}",
    "lost_db": "{:.3f}",
    "lost_db_net": "{:+.3f}",
    "selection_gain": "{:.3f}",
    "selection_gain_net": "{:+.3f}",
    "fusion_gain": "{:.3f}",
    "fusion_gain_net": "{:+.3f}",
}
"""How a column is printed when the caller does not say; ``x_low`` and ``x_null`` as ``x``."""

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def by_dataset(summary: pd.DataFrame) -> pd.DataFrame:
    """Return PSNR and SSIM with a row a method and two columns a dataset, as papers print them.

    Parameters
    ----------
    summary
        Of `dtfn.evaluation.summary`, of one scale.
    """
    wide = summary.pivot(index="method", columns="dataset", values=["psnr", "ssim"])
    order = [(d, m) for d in summary["dataset"].unique() for m in ("psnr", "ssim")]
    wide = wide.swaplevel(axis=1)[order].loc[list(summary["method"].unique())]
    wide.insert(0, ("method", ""), wide.index)
    return wide.reset_index(drop=True)


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _markdown_text(text: str) -> str:
    return text.replace("|", "\\|")


def _leaf(column: object) -> str:
    """Return the last level of a column's name: ``("Set5", "psnr")`` -> ``"psnr"``."""
    return str(column[-1] if isinstance(column, tuple) else column)


def _print(value: object, form: str | None) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "–"
    if form is None:
        form = "{:.3f}" if isinstance(value, float) else "{}"
    return form.format(value)


def _marks(values: pd.Series, texts: pd.Series, direction: Direction) -> pd.Series:
    """Say of each row whether it is the ``"best"``, the ``"second"`` or neither (``""``).

    Rows that print the same share the mark: nobody can tell them apart in the table.
    """
    ordered = values.dropna().sort_values(ascending=direction == "min")
    distinct = list(dict.fromkeys(texts[ordered.index]))
    if len(distinct) < 2:
        return pd.Series("", index=texts.index)
    return texts.map({distinct[0]: "best", distinct[1]: "second"}).fillna("")


def _printed(
    frame: pd.DataFrame,
    best: Mapping[str, Direction],
    forms: Mapping[str, str],
    escape: Callable[[str], str],
    emphasis: Mapping[str, str],
) -> pd.DataFrame:
    """Return `frame` as escaped and emphasised text, related columns joined into one.

    ``x``, ``x_low``, ``x_high`` become one column "x [low, high]"; the second level of two-level
    columns becomes "a/b" under the first.
    """
    unknown = set(best) - {_leaf(c) for c in frame.columns}
    if unknown:
        name = sorted(unknown)[0]
        raise InputError(
            f"best[{name!r}]",
            expected="a column of the table",
            found=f"columns {', '.join(str(c) for c in frame.columns)}",
            remedy=nearest(name, {_leaf(c) for c in frame.columns}),
        )
    known = {**FORMS, **forms}
    cells: dict[object, pd.Series] = {}
    for column in frame.columns:
        leaf = _leaf(column)
        base = leaf.removesuffix("_low").removesuffix("_high")
        form = known.get(leaf) or known.get(base) or known.get(base.removesuffix("_null"))
        texts = pd.Series([_print(v, form) for v in frame[column]], frame.index, dtype=object)
        marks = pd.Series("", index=texts.index)
        if leaf in best:
            marks = _marks(frame[column], texts, best[leaf])
        cells[column] = pd.Series(
            [emphasis.get(m, "{}").format(escape(t)) for t, m in zip(texts, marks, strict=True)],
            index=texts.index,
            dtype=object,
        )
    return _joined(cells, escape)


def _title(name: str) -> str:
    if name in ("psnr", "ssim"):
        return name.upper()
    return name.replace("_null", ", null").replace("_net", ", net").replace("_", " ")


def _joined(cells: dict[object, pd.Series], escape: Callable[[str], str]) -> pd.DataFrame:
    out: dict[str, pd.Series] = {}
    for column, texts in cells.items():
        name = str(column[0]) if isinstance(column, tuple) else str(column)
        title = escape(_title(name))
        if name.endswith("_low") and name.removesuffix("_low") + "_high" in cells:
            title = escape(_title(name.removesuffix("_low")))
            texts = (
                "["
                + texts
                + ",\N{NO-BREAK SPACE}"
                + cells[name.removesuffix("_low") + "_high"]
                + "]"
            )
            out[title] = out[title] + " " + texts if title in out else texts
        elif name.endswith("_high") and name.removesuffix("_high") + "_low" in cells:
            continue
        else:
            out[title] = out[title] + "/" + texts if title in out else texts
    return pd.DataFrame(out)


def markdown(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
) -> str:
    """Return `frame` as a GitHub Markdown table.

    Parameters
    ----------
    frame
        One row a line; all columns are printed, the index is not. Two-level columns
        (dataset, metric) are printed as one "psnr/ssim" column a dataset.
    best
        Column (its last level) -> ``"max"`` or ``"min"``: best bold, second underlined.
    forms
        Column -> format string, e.g. ``{"harm": "{:+.2f} dB"}``; defaults in `FORMS`.

    Raises
    ------
    InputError
        `best` names a column that the table does not have.
    """
    emphasis = {"best": "**{}**", "second": "<ins>{}</ins>"}
    table = _printed(frame, best or {}, forms or {}, _markdown_text, emphasis)
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
    *,
    caption: str = "",
    label: str = "",
) -> str:
    r"""Return `frame` as a LaTeX table (package booktabs); parameters as `markdown`.

    ``\caption`` and ``\label`` are written where given.
    """
    emphasis = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
    table = _printed(frame, best or {}, forms or {}, _latex_text, emphasis)
    rows = [" & ".join(row) + r" \\" for row in table.to_numpy().tolist()]
    lines = [
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{_latex_text(caption)}}}"] if caption else []),
        *([rf"\label{{{label}}}"] if label else []),
        rf"\begin{{tabular}}{{{'l' * table.shape[1]}}}",
        r"\toprule",
        " & ".join(table.columns) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def html(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
) -> str:
    """Return `frame` as an HTML ``<table class="dtfn">``; parameters as `markdown`."""
    emphasis = {"best": "<b>{}</b>", "second": "<u>{}</u>"}
    table = _printed(frame, best or {}, forms or {}, html_escape.escape, emphasis)
    head = "".join(f"<th>{title}</th>" for title in table.columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n"
        for row in table.to_numpy().tolist()
    )
    return (
        f'<table class="dtfn">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n'
    )
