"""Tables as papers print them: best in bold, second underlined, PSNR and SSIM in one cell.

One text in three notations: Markdown, LaTeX (booktabs) and HTML.
"""

from __future__ import annotations

import html as html_escape
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from dtfn.errors import InputError, nearest

Direction = Literal["max", "min"]

MISSING = "–"
LONG = 40  # characters from which a cell breaks into lines
PAGE = 72  # characters of a line that LaTeX's standard page holds
SCREEN, PHONE = 105, 40  # characters of a row that fit a report on a screen, and on a phone

# How a column prints when the caller does not say; "x" is also for x_low, x_high, x_null, x_tau,
# and for x_net with a sign. Other floats print with three decimals.
FORMS = {
    "psnr": ".2f",
    "ssim": ".4f",
    "published_psnr": ".2f",
    "psnr_difference": "+.3f",
    "published_ssim": ".4f",
    "ssim_difference": "+.4f",
    "correlation": "+.3f",
    "seconds": ".2f",
    "memory": ",.0f",
    "parameters": ",.0f",
    "share": ".1%",
    "harm_rate": ".1%",
    "help_rate": ".1%",
}

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "[": "{[}",  # first in a row, it would begin an option of the row's end above
    # What the standard fonts lack.
    "\N{NO-BREAK SPACE}": "~",
    **{"×": r"$\times$", "−": "$-$", "·": r"$\cdot$", "±": r"$\pm$", "≤": r"$\leq$"},
    **{"≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\to$", "τ": r"$\tau$", "✓": r"$\surd$"},
    "✗": r"$\times$",
}


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
    labels = list(rows.itertuples(index=False, name=None)) if several else list(rows["method"])
    wide = wide.swaplevel(axis=1)[order].loc[labels]
    for place, key in enumerate(keys):
        wide.insert(place, (key, ""), rows[key].to_numpy())
    return wide.reset_index(drop=True)


def markdown(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
    groups: str | None = None,
) -> str:
    """Return a table in GitHub's Markdown.

    Parameters
    ----------
    frame
        The table; its index is not printed. Columns of one dataset, (dataset, metric), share a
        cell: "psnr/ssim". So do a value and its interval: "x [low, high]".
    best
        Column (its last level) -> ``"max"`` or ``"min"``: best bold, second underlined. What
        prints the same has the same mark.
    forms
        Column -> format string, e.g. ``{"harm": "{:+.2f} dB"}``; defaults in `FORMS`.
    groups
        A column: rows with the same value are marked among themselves, and LaTeX and HTML draw a
        rule between groups.

    Raises
    ------
    InputError
        `best` or `groups` names a column that the table does not have.
    """
    table, _ = _printed(frame, best, forms, groups, _MARKDOWN)
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escape(plain: str) -> str:
    """Return text in which Markdown sees neither columns nor tags."""
    return re.sub(r"[|<]", r"\\\g<0>", plain)


def latex(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
    groups: str | None = None,
    *,
    caption: str = "",
    label: str = "",
) -> str:
    r"""Return a LaTeX table for the packages booktabs and array, and graphicx if it is wide.

    Parameters as `markdown`; ``\caption`` and ``\label`` are written where given.
    """
    from pandas.io.formats.style import Styler

    table, widths = _printed(frame, best, forms, groups, _LATEX_MARKUP)
    breaks = [width > LONG for width in widths]
    line = sum(min(width, LONG) + 2 for width in widths)
    taken = sum(width + 2 for width, long in zip(widths, breaks, strict=True) if not long)
    share = max(0.27, round(0.9 * (1 - taken / PAGE) / max(sum(breaks), 1), 2))
    paragraph = rf">{{\raggedright\arraybackslash}}p{{{share}\linewidth}}"
    text = (
        Styler(table, uuid_len=0)
        .hide(axis="index")
        .to_latex(
            hrules=True,
            column_format="".join(paragraph if long else "l" for long in breaks),
            position_float="centering",
            caption=_latex_text(caption) or None,
            label=label or None,
        )
    )
    # Standard classes leave no room between a caption and the table below it.
    text = text.replace("\\caption", "\\setlength{\\belowcaptionskip}{6pt}\n\\caption")
    if line > PAGE:
        text = text.replace("\\begin{tabular}", "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}")
        text = text.replace("\\end{tabular}", "\\end{tabular}}")
    return text


def html(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None = None,
    forms: Mapping[str, str] | None = None,
    groups: str | None = None,
) -> str:
    """Return a table in HTML that scrolls where it is too wide; parameters as `markdown`."""
    from pandas.io.formats.style import Styler

    table, widths = _printed(frame, best, forms, groups, _HTML)
    line = sum(min(width, LONG) + 2 for width in widths)
    size = "small" if line <= PHONE else "medium" if line <= SCREEN else "broken"
    if size == "broken":  # before intervals, and between the words of a title
        pieces = [[*title.split(), *" [".join(table[title]).split(" [")] for title in table]
        if sum(min(max(map(_width, piece)), LONG) + 2 for piece in pieces) > SCREEN:
            size = "wide"
    text = Styler(table, uuid_len=0).hide(axis="index").to_html(exclude_styles=True)
    text = re.sub(r">\n *<(?=t[dh]|/tr)", "><", text).replace("<th >", "<th>")
    return f'<div class="scroll {size}">{text.replace("<td >", "<td>").strip()}</div>\n'


@dataclass(frozen=True)
class _Markup:
    """A notation: how text is escaped, the marks, and what begins a group."""

    escape: Callable[[str], str]
    best: str
    second: str
    rule: str = ""


def _latex_text(plain: str) -> str:
    """Return plain text escaped, with a true minus before numbers."""
    signed = re.sub(r"(?<![\w-])-(?=\d)", "−", plain)
    return "".join(_LATEX.get(c, c) for c in signed)


def _html_text(plain: str) -> str:
    text = html_escape.escape(plain)
    return f'<div class="long">{text}</div>' if len(plain) > LONG else text


_MARKDOWN = _Markup(escape, "**{}**", "<ins>{}</ins>")
_LATEX_MARKUP = _Markup(_latex_text, r"\textbf{{{}}}", r"\underline{{{}}}", "\\midrule\n")
_HTML = _Markup(_html_text, "<b>{}</b>", "<u>{}</u>", '<i class="rule"></i>')


def _printed(
    frame: pd.DataFrame,
    best: Mapping[str, Direction] | None,
    forms: Mapping[str, str] | None,
    groups: str | None,
    markup: _Markup,
) -> tuple[pd.DataFrame, list[int]]:
    """Return a table as marked text, with related columns joined, and each column's width."""
    frame = frame.reset_index(drop=True)
    columns = {_leaf(c) or str(c[0]): c for c in frame.columns}
    for name, what in [*((b, f"best[{b!r}]") for b in best or {}), (groups, "groups")]:
        if name is not None and name not in columns:
            found = f"columns {', '.join(columns)}"
            remedy = nearest(name, columns)
            raise InputError(what, "a column of the table", found, remedy)
    key = pd.Series(0, frame.index) if groups is None else frame[columns[groups]]
    parts = [part.index for _, part in key.groupby(key, sort=False)]
    cells: dict[str, pd.Series] = {}
    for column in frame.columns:
        values, leaf = frame[column], _leaf(column)
        form = (forms or {}).get(leaf) or _form(leaf)
        texts = pd.Series([_print(v, form) for v in values], frame.index, dtype=object)
        shapes = dict.fromkeys(frame.index, "{}")
        direction = (best or {}).get(leaf)
        for part in parts if direction else []:
            first, second = _leaders(values[part], texts[part], direction)
            shapes |= dict.fromkeys(part[texts[part] == first], markup.best)
            shapes |= dict.fromkeys(part[texts[part] == second], markup.second)
        marked = [shapes[row].format(markup.escape(text)) for row, text in texts.items()]
        marked = pd.Series(marked, frame.index, dtype=object)
        _join(cells, str(column[0] if isinstance(column, tuple) else column), marked, markup.escape)
    table = pd.DataFrame(cells, index=frame.index)
    widths = [max(map(_width, [title, *table[title]])) for title in table]
    for part in parts[1:]:
        table.iloc[part[0], 0] = markup.rule + table.iloc[part[0], 0]
    return table, widths


def _leaf(column: object) -> str:
    """Return the last level of a column's name: ``("Set5", "psnr")`` -> ``"psnr"``."""
    return str(column[-1] if isinstance(column, tuple) else column)


def _form(name: str) -> str | None:
    base = re.sub(r"_tau|(_null)?(_low|_high)?$", "", name)
    net = FORMS.get(base.removesuffix("_net"), ".3f").removeprefix("+")
    spec = FORMS.get(base) or (f"+{net}" if base.endswith("_net") else "")
    return f"{{:{spec}}}" if spec else None


def _print(value: Any, form: str | None) -> str:
    if value is None or value is pd.NA or value != value:  # NaN
        return MISSING
    return (form or ("{:.3f}" if isinstance(value, float) else "{}")).format(value)


def _leaders(values: pd.Series, texts: pd.Series, direction: str | None) -> list[str | None]:
    """Return how the best and the second value print; None twice where all print the same."""
    ordered = values.dropna().sort_values(ascending=direction == "min")
    distinct = list(dict.fromkeys(texts[ordered.index]))
    return distinct[:2] if len(distinct) > 1 else [None, None]


def _width(cell: str) -> int:
    """Return about how many characters a cell takes when it is set."""
    return len(re.sub(r"\\[a-z]+\{?|[{}$\\]|<[^>]*>", "", cell))


def _join(
    cells: dict[str, pd.Series], name: str, texts: pd.Series, escape: Callable[[str], str]
) -> None:
    """Add a column, or join it to the one it belongs to: ends of an interval, a second metric."""
    end = re.search(r"_(low|high)$", name)
    title = re.sub(r"_low$|_high$", "", name) if end else name
    title = title.replace("_null", ", null").replace("_net", ", net").replace("_", " ")
    title = re.sub(r"\b(psnr|ssim)\b", lambda word: word[0].upper(), title)
    title = escape(re.sub(r"\bdb\b", "dB", title).replace(" tau", " beyond τ"))
    known = cells.get(title)
    if end and end[1] == "low":
        texts = "[" + texts
        cells[title] = texts if known is None else known + " " + texts
    elif end:
        cells[title] = texts + "]" if known is None else known + ",\N{NO-BREAK SPACE}" + texts + "]"
    elif known is None:
        cells[title] = texts
    else:  # one dash where both are missing
        both = (known != MISSING) | (texts != MISSING)
        cells[title] = (known + "/" + texts).where(both, MISSING)
