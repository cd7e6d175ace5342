"""Tables as papers print them: best in bold, second underlined, PSNR and SSIM in one cell.

One text in three notations, Markdown, LaTeX and HTML. Marks are control characters in it until a
notation translates them together with what it must escape.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from dtfn.methods import labels

MISSING = "–"
LONG = 40  # characters from which a cell of LaTeX breaks into lines, and one of HTML is wide
PAGE = 72  # characters of a line that LaTeX's standard page holds

# How a column prints if the caller does not say; one such as "Set5 psnr" by its last word. Other
# floats print with three decimals.
FORMS = {"psnr": ".2f", "ssim": ".4f", "seconds": ".2f", "memory": ",.0f"}
FORMS |= {"difference psnr": "+.3f", "difference ssim": "+.4f"}

# What becomes of the marks (around best and second, before a group) and of text.
_MARKDOWN = str.maketrans({"\1": "**", "\2": "**", "\3": "<ins>", "\4": "</ins>", "\5": ""})
_MARKDOWN |= str.maketrans({"|": r"\|", "<": r"\<"})
_HTML = str.maketrans(
    {"\1": "<b>", "\2": "</b>", "\3": "<u>", "\4": "</u>", "\5": '<i class="rule"></i>'}
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)
_LATEX = str.maketrans(
    {"\1": r"\textbf{", "\2": "}", "\3": r"\underline{", "\4": "}", "\5": "\\midrule\n"}
    | {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"[": "{[}", "\N{NO-BREAK SPACE}": "~"}  # a row that begins with [ would be an option
    # What the standard fonts lack.
    | {"×": r"$\times$", "−": "$-$", "·": r"$\cdot$", "±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$"}
    | {"≈": r"$\approx$", "→": r"$\to$", "τ": r"$\tau$", "✓": r"$\surd$", "✗": r"$\times$"}
)


def number(form: str, value: object) -> str:
    """Return a value as ``form`` prints it; a number that rounds to 0 has no sign."""
    return re.sub(r"^[+-](?=[0.]+(?![\d.e]))", "", form.format(value))


def by_dataset(summary: pd.DataFrame) -> pd.DataFrame:
    """Return PSNR and SSIM with a row a method and two columns a dataset, as papers print them.

    ``summary`` is of `dtfn.evaluation.summary`. Of several scales, the first column is the scale.
    """
    keys = ["scale", "method"] if summary["scale"].nunique() > 1 else ["method"]
    wide = summary.pivot(index=keys, columns="dataset", values=["psnr", "ssim"])
    wide.columns = [f"{dataset} {metric}" for metric, dataset in wide.columns]
    order = [f"{dataset} {m}" for dataset in summary["dataset"].unique() for m in ("psnr", "ssim")]
    return summary[keys].drop_duplicates().merge(wide[order].reset_index(), "left", on=keys)


def printed(
    frame: pd.DataFrame,
    best: Collection[str] = (),
    forms: Mapping[str, str] | None = None,
    groups: str | None = None,
) -> pd.DataFrame:
    """Return a table as text with its marks, related columns joined and named by their titles.

    The columns "Set5 psnr" and "Set5 ssim" share a cell, "psnr/ssim", and so do a value and its
    interval, x, x_low and x_high: "x [low, high]". The index is not printed; networks of a user's
    own have their short labels.

    ``best`` are last words of columns whose largest is bold, and the second underlined; what prints
    the same has the same mark. ``forms`` is column -> format string; defaults are in `FORMS`.
    ``groups`` is a column: rows of one value are marked among themselves, and LaTeX and HTML draw
    rules between groups.
    """
    frame = frame.reset_index(drop=True)
    key = frame[groups] if groups else pd.Series(0, frame.index)

    def texts(column: str) -> pd.Series:
        last = column.rpartition(" ")[2]
        spec = FORMS.get(column, FORMS.get(re.sub("_(low|high)$", "", last)))
        form = (forms or {}).get(column) or (f"{{:{spec}}}" if spec else None)
        known = frame[column].dropna().astype(object)
        known = known.replace(labels(value for value in known if isinstance(value, str)))
        found = known.map(
            lambda value: number(form or ("{:.3f}" if isinstance(value, float) else "{}"), value)
        ).reindex(frame.index, fill_value=MISSING)
        for _, part in frame[column].groupby(key) if last in best else ():
            ordered = part.dropna().sort_values(ascending=False)
            distinct = list(dict.fromkeys(found[ordered.index]))
            if len(distinct) > 1:  # nothing is best where all print the same
                for text, begin, end in zip(distinct, "\1\3", "\2\4", strict=False):
                    found[part.index[found[part.index] == text]] = f"{begin}{text}{end}"
        return found

    table: dict[str, pd.Series] = {}
    for column in map(str, frame):
        stem, _, last = column.rpartition(" ")
        base = re.sub("_(low|high)$", "", column)
        if (base != column and base in frame) or (last == "ssim" and f"{stem} psnr" in frame):
            continue
        cells, title = texts(column), column
        if f"{column}_low" in frame:
            ends = " [" + texts(f"{column}_low") + ",\N{NO-BREAK SPACE}" + texts(f"{column}_high")
            cells = cells + (ends + "]").where(frame[f"{column}_low"].notna(), "")
        if last == "psnr" and f"{stem} ssim" in frame:
            title, second = stem, texts(f"{stem} ssim")
            neither = (cells == MISSING) & (second == MISSING)
            cells = (cells + "/" + second).mask(neither, MISSING)
        title = re.sub(r"\b(psnr|ssim)\b", lambda word: word[0].upper(), title.replace("_", " "))
        table[title] = cells
    text = pd.DataFrame(table, index=frame.index)
    begins = key.ne(key.shift()) & (frame.index > 0)
    text.iloc[:, 0] = text.iloc[:, 0].mask(begins, "\5" + text.iloc[:, 0])
    return text


def markdown(frame: pd.DataFrame, **how: Any) -> str:
    """Return a table in GitHub's Markdown; what ``how`` may say, see `printed`."""
    table = _translated(printed(frame, **how), _MARKDOWN)
    lines = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escape(plain: str) -> str:
    """Return text in which Markdown sees neither columns nor tags."""
    return plain.translate(_MARKDOWN)


def latex(frame: pd.DataFrame, *, caption: str, label: str, **how: Any) -> str:
    """Return a LaTeX table for the packages booktabs and array, and graphicx if it is wide."""
    from pandas.io.formats.style import Styler

    plain = printed(frame, **how)
    widths = [max(map(len, [name, *plain[name]])) for name in plain]
    breaks = [width > LONG for width in widths]
    taken = sum(width + 2 for width in widths if width <= LONG)
    share = max(0.27, round(0.9 * (1 - taken / PAGE) / max(sum(breaks), 1), 2))
    paragraph = rf">{{\raggedright\arraybackslash}}p{{{share}\linewidth}}"
    # A true minus before numbers.
    signed = plain.map(lambda text: re.sub(r"(?<![\w-])-(?=\d)", "−", text))
    text = (
        Styler(_translated(signed, _LATEX), uuid_len=0)
        .hide(axis="index")
        .to_latex(
            hrules=True,
            column_format="".join(paragraph if long else "l" for long in breaks),
            position_float="centering",
            caption=caption.translate(_LATEX),
            label=label,
        )
    )
    # Standard classes leave no room between a caption and the table below it.
    text = text.replace("\\caption", "\\setlength{\\belowcaptionskip}{6pt}\n\\caption")
    if sum(min(width, LONG) + 2 for width in widths) > PAGE:
        text = text.replace("\\begin{tabular}", "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}")
        text = text.replace("\\end{tabular}", "\\end{tabular}}")
    return text


def html(frame: pd.DataFrame, **how: Any) -> str:
    """Return a table in HTML that scrolls where it is too wide."""
    from pandas.io.formats.style import Styler

    plain = printed(frame, **how)
    plain = plain.map(lambda t: t if len(t) > 12 else t.replace(" ", "\N{NO-BREAK SPACE}"))
    # Cells break at spaces, so that the longest word decides whether a phone or a screen fits.
    words = [" ".join([name, *plain[name]]).split(" ") for name in plain]
    line = sum(max(map(len, part)) + 2 for part in words)
    size = "small" if line <= 40 else "medium" if line <= 105 else "wide"
    table = Styler(_translated(plain, _HTML), uuid_len=0).hide(axis="index")
    text = re.sub(r">\n *<(?=t[dh]|/tr)", "><", table.to_html(exclude_styles=True))
    text = text.replace("<th >", "<th>").replace("<td >", "<td>").strip()
    text = re.sub(rf"<td>(?=[^<]{{{LONG},}})", '<td class="long">', text)
    return f'<div class="scroll {size}">{text}</div>\n'


def _translated(table: pd.DataFrame, codes: Mapping[int, str]) -> pd.DataFrame:
    table = table.map(lambda text: text.translate(codes))
    return table.rename(columns=lambda title: title.translate(codes))
