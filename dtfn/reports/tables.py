"""Tables as the field prints them: best in bold, second underlined, PSNR/SSIM in one cell."""

from __future__ import annotations

import html as html_escape
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import pandas as pd

from dtfn.errors import InputError, nearest

Direction = Literal["max", "min"]
MISSING = "–"
WIDE = 8  # columns, above which HTML breaks a cell before its interval

WRAPPED = 40  # characters from which a column's text breaks into lines
WIDEST = 72  # characters of a line that LaTeX's standard page holds
LEAST_SHARE = 0.27  # of the line, for a column whose text breaks

FORMS = {
    "psnr": "{:.2f}",
    "ssim": "{:.4f}",
    "seconds": "{:.2f}",
    "parameters": "{:,.0f}",
    "share": "{:.1%}",
    "harm_rate": "{:.1%}",
    "harm_rate_net": "{:+.1%}",
    "help_rate": "{:.1%}",
    "help_rate_net": "{:+.1%}",
    "harm_untied": "{:.1%}",
    "harm_untied_net": "{:+.2%}",
    "harm_mass": "{:.2f}",
    "harm_mass_net": "{:+.2f}",
    "help_mass": "{:.2f}",
    "help_mass_net": "{:+.2f}",
    "lost_db": "{:.3f}",
    "lost_db_net": "{:+.3f}",
    "won_db": "{:.3f}",
    "won_db_net": "{:+.3f}",
    "harm_share": "{:.1%}",
    "harm_share_net": "{:+.2%}",
    "price": "{:.3f}",
    "price_net": "{:+.3f}",
    "correlation": "{:+.3f}",
    "correlation_net": "{:+.3f}",
    "selection_gain": "{:.3f}",
    "selection_gain_net": "{:+.3f}",
    "fusion_gain": "{:.3f}",
    "fusion_gain_net": "{:+.3f}",
    "published_psnr": "{:.2f}",
    "psnr_difference": "{:+.3f}",
    "published_ssim": "{:.4f}",
    "ssim_difference": "{:+.4f}",
    "memory": "{:,.0f}",
}
"""How a column is printed when the caller does not say; ``x_low``, ``x_null`` and
``x_tau`` as ``x``."""

Groups = str | None


def by_dataset(summary: pd.DataFrame) -> pd.DataFrame:
    """Return PSNR and SSIM with a row a method and two columns a dataset, as papers print them.

    Parameters
    ----------
    summary
        Of `dtfn.evaluation.summary`. Of several scales, the first column is the scale.
    """
    several = "scale" in summary and summary["scale"].nunique() > 1
    keys = ["scale", "method"] if several else ["method"]
    wide = summary.pivot(index=keys, columns="dataset", values=["psnr", "ssim"])
    order = [(d, m) for d in summary["dataset"].unique() for m in ("psnr", "ssim")]
    rows = summary[keys].drop_duplicates()
    wide = wide.swaplevel(axis=1)[order].loc[
        list(rows.itertuples(index=False, name=None)) if several else list(rows["method"])
    ]
    for place, key in enumerate(keys):
        wide.insert(place, (key, ""), rows[key].to_numpy())
    return wide.reset_index(drop=True)


def _markdown_text(text: str) -> str:
    return text.replace("|", "\\|")


def _leaf(column: object) -> str:
    """Return the last level of a column's name: ``("Set5", "psnr")`` -> ``"psnr"``."""
    return str(column[-1] if isinstance(column, tuple) else column)


def _print(value: object, form: str | None) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return MISSING
    if form is None:
        form = "{:.3f}" if isinstance(value, float) else "{}"
    return form.format(value)


def _grouped(frame: pd.DataFrame, groups: Groups) -> list[pd.Index]:
    """Return the numbers of each group's rows, in the table's order; one group if none is asked."""
    frame = frame.reset_index(drop=True)
    if groups is None:
        return [frame.index]
    known = {_leaf(c) or str(c[0]): c for c in frame.columns}
    if groups not in known:
        raise InputError(
            "groups", expected="a column of the table", found=groups,
            remedy=nearest(groups, known),
        )  # fmt: skip
    return [part.index for _, part in frame.groupby(known[groups], sort=False)]


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
    groups: Groups = None,
) -> pd.DataFrame:
    """Return `frame` as escaped and emphasised text, related columns joined into one.

    ``x``, ``x_low``, ``x_high`` become one column "x [low, high]"; the second level of two-level
    columns becomes "a/b" under the first. The index is the rows' number.
    """
    frame = frame.reset_index(drop=True)
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
        base = leaf.removesuffix("_low").removesuffix("_high").replace("_tau", "")
        form = known.get(leaf) or known.get(base) or known.get(base.removesuffix("_null"))
        texts = pd.Series([_print(v, form) for v in frame[column]], frame.index, dtype=object)
        marks = pd.Series("", index=texts.index)
        if leaf in best:
            parts = [
                _marks(frame[column][rows], texts[rows], best[leaf])
                for rows in _grouped(frame, groups)
            ]
            marks = pd.concat(parts)[texts.index]
        cells[column] = pd.Series(
            [emphasis.get(m, "{}").format(escape(t)) for t, m in zip(texts, marks, strict=True)],
            index=texts.index,
            dtype=object,
        )
    return _joined(cells, escape)


def _title(name: str) -> str:
    text = name.replace("_null", ", null").replace("_net", ", net").replace("_", " ")
    text = re.sub(r"\b(psnr|ssim)\b", lambda found: found[0].upper(), text)
    return re.sub(r"\bdb\b", "dB", text).replace(" tau", " beyond τ")


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
            out[title] = _pair(out[title], texts) if title in out else texts
    return pd.DataFrame(out)


def _pair(first: pd.Series, second: pd.Series) -> pd.Series:
    """Join two cells as "a/b"; one dash where both are missing."""
    return (first + "/" + second).where((first != MISSING) | (second != MISSING), MISSING)


def markdown(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
    groups: Groups = None,
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
    groups
        A column: rows that have the same value are marked among themselves, and in LaTeX and HTML
        a rule stands between groups.

    Raises
    ------
    InputError
        `best` or `groups` names a column that the table does not have.
    """
    emphasis = {"best": "**{}**", "second": "<ins>{}</ins>"}
    table = _printed(frame, best or {}, forms or {}, _markdown_text, emphasis, groups)
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
    groups: Groups = None,
    *,
    caption: str = "",
    label: str = "",
) -> str:
    r"""Return `frame` as a LaTeX table (packages booktabs, array and graphicx).

    Parameters as `markdown`; ``\caption`` and ``\label`` are written where given.
    """
    emphasis = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
    table = _printed(frame, best or {}, forms or {}, _latex_text, emphasis, groups)
    parts = [table.loc[rows].to_numpy().tolist() for rows in _grouped(frame, groups)]
    return _latex_table(list(table.columns), parts, caption, label)


def html(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
    groups: Groups = None,
) -> str:
    """Return `frame` as an HTML ``<table class="dtfn">``; parameters as `markdown`."""
    emphasis = {"best": "<b>{}</b>", "second": "<u>{}</u>"}
    table = _printed(frame, best or {}, forms or {}, html_escape.escape, emphasis, groups)
    head = "".join(f"<th>{title}</th>" for title in table.columns)
    bodies = []
    for rows in _grouped(frame, groups):
        cells = table.loc[rows].to_numpy().tolist()
        lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in cells)
        bodies.append(f"<tbody>\n{lines}</tbody>\n")
    wide = " wide" if len(table.columns) > WIDE else ""
    return (
        f'<table class="dtfn{wide}">\n<thead><tr>{head}</tr></thead>\n{"".join(bodies)}</table>\n'
    )


def _cell(text: str) -> str:
    long = ' class="long"' if len(text) > WRAPPED else ""
    return f"<td{long}>{text}</td>"


_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    # What the fonts lack without further packages.
    "\N{NO-BREAK SPACE}": "~",
    "×": r"$\times$",
    "−": "$-$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\to$",
    "τ": r"$\tau$",
    "✓": r"$\surd$",
    "✗": r"$\times$",
}


def _latex_text(plain: str) -> str:
    """Return plain text escaped, with a true minus before numbers."""
    signed = re.sub(r"(?<![\w-])-(?=\d)", "−", plain)
    return "".join(_ESCAPED.get(c, c) for c in signed)


def _latex_table(
    columns: Sequence[str], groups: Sequence[Sequence[Sequence[str]]], caption: str, label: str
) -> str:
    r"""Return a table for the packages booktabs and, if it is wide, graphicx.

    Parameters
    ----------
    columns
        Titles, escaped.
    groups
        Rows of escaped cells, in groups that are separated by rules.
    caption
        Plain text, or empty.
    label
        For ``\label``, or empty.
    """
    rows = [row for group in groups for row in group]
    widths = [max(map(_width, cells)) for cells in zip(columns, *rows, strict=True)]
    wrapped = [width > WRAPPED for width in widths]
    plain = sum(width + 2 for width, wraps in zip(widths, wrapped, strict=True) if not wraps)
    left = 0.9 * (1 - plain / WIDEST) / max(sum(wrapped), 1)
    share = max(LEAST_SHARE, round(left, 2))
    kinds = "".join(
        rf">{{\raggedright\arraybackslash}}p{{{share}\linewidth}}" if wraps else "l"
        for wraps in wrapped
    )
    line = sum(min(width, WRAPPED) + 2 for width in widths)
    fitted = [r"\resizebox{\linewidth}{!}{%"] if line > WIDEST else []
    body: list[str] = []
    for group in groups:
        body += [r"\midrule", *(" & ".join(row) + r" \\" for row in group)]
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",  # standard classes have none above a table
        *([rf"\caption{{{_latex_text(caption)}}}"] if caption else []),
        *([rf"\label{{{label}}}"] if label else []),
        *fitted,
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        " & ".join(columns) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}" + ("}" if fitted else ""),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _width(cell: str) -> int:
    """Return about how many characters a cell takes when it is set."""
    return len(re.sub(r"\\[a-z]+\{?|[{}$\\]", "", cell))
