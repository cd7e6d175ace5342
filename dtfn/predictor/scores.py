"""How good predictions are, and what acting on them wins. Users find it in `dtfn.predictor`.

Tables are those of `dtfn.predictor.collect` with a column of what `dtfn.predictor.judged` predicted
for what was held out. Replicates are pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics

from dtfn import statistics
from dtfn.errors import InputError
from dtfn.predictor.learning import PREDICTED, decided
from dtfn.subpixel.blocks import decibels

POINTS = 101  # of a curve
IMAGE = ["dataset", "image"]


def areas(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return how good the predictions in some columns are.

    Returns
    -------
    A row a column: held out (the column), pictures, auc (mean over pictures), auc_low, auc_high (95
    % interval over pictures), brier, and brier_base, that of always telling the base rate.
    """
    rows = []
    for column in columns:
        found = statistics.mean_interval(auc(table, column)["auc"])
        row: dict[str, object] = {"held out": column, "pictures": found.clusters}
        row |= found.columns("auc")
        row["brier"], row["brier_base"] = brier(table, column)
        rows.append(row)
    return pd.DataFrame(rows)


def auc(table: pd.DataFrame, column: str = PREDICTED) -> pd.DataFrame:
    """Return the area under the ROC curve of each picture: dataset, image, auc.

    Within a picture, so that a predictor gains nothing by telling pictures apart; 0.5 is a coin.
    Where N and L err the same there is neither harm nor help, and nothing to predict: flat places
    would make any predictor look good. Pictures without both harm and help are left out.
    """
    rows = []
    for (dataset, image), part in decided(table).groupby(IMAGE, sort=False):
        harmed = _harmed(part)
        if harmed.any() and not harmed.all():
            area = float(metrics.roc_auc_score(harmed, part[column]))
            rows.append({"dataset": dataset, "image": image, "auc": area})
    return pd.DataFrame(rows, columns=[*IMAGE, "auc"])


def brier(table: pd.DataFrame, column: str = PREDICTED) -> tuple[float, float]:
    """Return the Brier score (mean squared error of the probability), and that of the base rate.

    Ties are left out here, in `reliability` and in `risk_coverage`, as in `auc`.
    """
    table = decided(table)
    harmed = _harmed(table)
    score = float(np.mean((table[column].to_numpy() - harmed) ** 2))
    return score, float(harmed.mean() * (1 - harmed.mean()))


def roc(table: pd.DataFrame, column: str = PREDICTED) -> pd.DataFrame:
    """Return the ROC curve of all positions, as `auc`: false_positive, true_positive, in [0, 1]."""
    table = decided(table)
    false, true, _ = metrics.roc_curve(_harmed(table), table[column])
    at = np.linspace(0, 1, POINTS)
    return pd.DataFrame({"false_positive": at, "true_positive": np.interp(at, false, true)})


def reliability(table: pd.DataFrame, column: str = PREDICTED, bins: int = 10) -> pd.DataFrame:
    """Return what was observed where a probability was predicted.

    Positions are cut into bins of about equal number, equal probabilities staying together.

    Returns
    -------
    A row a bin: predicted (mean), observed (harm rate), observed_low, observed_high (95 % interval
    over pictures), positions.
    """
    table = decided(table)
    bin_of = pd.qcut(table[column], bins, labels=False, duplicates="drop")
    frame = table[[*IMAGE, column]].assign(harmed=_harmed(table), bin=bin_of.fillna(0))
    rows = []
    for _, part in frame.groupby("bin", sort=True):
        each = part.groupby(IMAGE)["harmed"].agg(["sum", "size"])
        found = statistics.ratio_interval(each["sum"], each["size"])
        rows.append(
            {
                "predicted": part[column].mean(),
                "observed": part["harmed"].mean(),
                "observed_low": found.low,
                "observed_high": found.high,
                "positions": len(part),
            }
        )
    return pd.DataFrame(rows)


def risk_coverage(table: pd.DataFrame, column: str = PREDICTED, points: int = 20) -> pd.DataFrame:
    """Return the harm rate among the positions where N is trusted, by how many these are.

    N is trusted where the predicted harm is least, picture by picture.

    Returns
    -------
    A row a coverage (share of positions, in (0, 1]): coverage, risk, risk_low, risk_high (mean over
    pictures and its 95 % interval), coin (N trusted at random), ideal (by the truth).
    """
    coverage = np.linspace(1 / points, 1, points)
    curves, ideals, coins = [], [], []
    for _, part in decided(table).groupby(IMAGE, sort=False):
        harmed = _harmed(part)
        order = np.argsort(part[column].to_numpy(), kind="stable")
        number = np.maximum(1, np.round(coverage * len(part)).astype(int))
        curves.append(np.cumsum(harmed[order])[number - 1] / number)
        ideals.append(np.cumsum(np.sort(harmed))[number - 1] / number)
        coins.append(harmed.mean())
    found = [statistics.mean_interval(values) for values in np.transpose(curves)]
    return pd.DataFrame(
        {
            "coverage": coverage,
            "risk": [one.estimate for one in found],
            "risk_low": [one.low for one in found],
            "risk_high": [one.high for one in found],
            "coin": np.mean(coins),
            "ideal": np.mean(ideals, axis=0),
        }
    )


def gate(table: pd.DataFrame, column: str = PREDICTED, threshold: float = 0.5) -> pd.DataFrame:
    """Return what taking L where harm is predicted wins on each picture.

    Parameters
    ----------
    table
        Of `dtfn.predictor.judged`.
    column
        The predictions that it goes by. Those of costs are made for it: one wrong block can cost
        more than ten right ones save.
    threshold
        L is taken above it.

    Returns
    -------
    A row a picture: dataset, image, positions; rate (share of the positions where L is taken); and
    PSNRs in dB, border left out: psnr_with (N), psnr_without (L), psnr_gate, psnr_coin (L taken at
    random as often: that of the expected squared error, which is the mean of both weighed by the
    rate), psnr_mean (the mean of both outputs, which needs no prediction), selection_bound.
    """
    rows = []
    for (dataset, image), part in table.groupby(IMAGE, sort=False):
        n, l = part["error_n"].to_numpy(), part["error_l"].to_numpy()
        takes_l = part[column].to_numpy() > threshold
        rate = float(takes_l.mean())
        errors = {
            "psnr_with": n.mean(),
            "psnr_without": l.mean(),
            "psnr_gate": np.where(takes_l, l, n).mean(),
            "psnr_coin": (1 - rate) * n.mean() + rate * l.mean(),
            "psnr_mean": part["error_mean"].mean(),
            "selection_bound": np.minimum(n, l).mean(),
        }
        identity = {"dataset": dataset, "image": image, "positions": len(part), "rate": rate}
        rows.append(identity | {name: decibels(float(e)) for name, e in errors.items()})
    return pd.DataFrame(rows)


def gated_output(
    sr_n: NDArray[np.uint8],
    sr_l: NDArray[np.uint8],
    probability: NDArray[np.float64],
    threshold: float = 0.5,
) -> NDArray[np.uint8]:
    """Return the picture that takes L's block where harm is predicted, and N's elsewhere.

    Parameters
    ----------
    sr_n, sr_l
        uint8 ``(sH, sW, 3)`` or ``(sH, sW)``.
    probability
        Of harm, ``(H, W)``; NaN (as at the border) takes N.
    threshold
        As for `gate`.

    Raises
    ------
    InputError
        For sizes that do not fit.
    """
    height, width = probability.shape
    scale = sr_n.shape[0] // max(height, 1)
    if sr_n.shape != sr_l.shape or sr_n.shape[:2] != (scale * height, scale * width):
        raise InputError(
            "outputs to gate", expected="two of one size, a whole multiple of the map's",
            found=f"{sr_n.shape}, {sr_l.shape} and {probability.shape}",
            remedy="take the outputs of one picture",
        )  # fmt: skip
    takes_l = np.kron(probability > threshold, np.ones((scale, scale), bool))
    return np.where(takes_l.reshape(takes_l.shape + (1,) * (sr_n.ndim - 2)), sr_l, sr_n)


def _harmed(table: pd.DataFrame) -> NDArray[np.bool_]:
    return (table["error_n"] > table["error_l"]).to_numpy()
