"""Fit the predictor, and let it predict what it never saw. Users find it in `dtfn.predictor`.

Calibrated gradient boosting of scikit-learn. All splits are by picture: positions of one picture
share its texture, and a predictor tested on the picture it was fitted to would only remember it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from dtfn.errors import InputError
from dtfn.predictor.features import FEATURES, SIGNALS

FOLDS = 5
PER_PICTURE = 2000  # positions a picture to fit on: neighbours tell the same
Split = Literal["picture", "dataset"]
PREDICTED, COSTS = "unseen picture", "costs, unseen picture"


def fit(table: pd.DataFrame, *, costs: bool = False, seed: int = 0) -> CalibratedClassifierCV:
    """Fit a predictor of harm, to the positions where the two do not tie.

    Ties are neither harm nor help, and lie in flat places: told apart from harm, they would make
    any predictor look good.

    Parameters
    ----------
    table
        Of `dtfn.predictor.collect`; two pictures or more.
    costs
        Weigh each position by how much is at stake, |e_N - e_L|. The probability is then not that
        of harm but the share of harm in what is at stake; above 0.5, taking L costs less.
    seed
        Of the boosting and of the positions drawn, at most `PER_PICTURE` a picture.

    Returns
    -------
    A scikit-learn classifier of `FEATURES`, calibrated by isotonic regression on pictures that its
    trees were not fitted to; ``dtfn_signals`` are those of the network that some position had.

    Raises
    ------
    InputError
        For fewer than two pictures, or pictures without any harm or without any help.
    """
    drawn = _drawn(decided(table), seed)
    harm = (drawn["error_n"] - drawn["error_l"]).to_numpy()
    groups = drawn["picture"].nunique()
    kinds = np.unique(harm > 0).size
    if groups < 2 or kinds < 2:
        raise InputError(
            "pictures to learn harm from", expected="two or more, with harm and with help",
            found=f"{groups}, {'with both' if kinds > 1 else 'with one of them only'}",
            remedy="take more pictures",
        )  # fmt: skip
    folds = GroupKFold(min(FOLDS, groups)).split(drawn, groups=drawn["picture"])
    trees = HistGradientBoostingClassifier(
        learning_rate=0.06, max_iter=150, max_leaf_nodes=15, min_samples_leaf=60,
        l2_regularization=1.0, early_stopping=False, random_state=seed,
    )  # fmt: skip
    model = CalibratedClassifierCV(trees, method="isotonic", cv=list(folds), ensemble=False)
    weights = np.abs(harm) if costs else None
    model.fit(_known(drawn), harm > 0, sample_weight=weights)
    model.dtfn_signals = tuple(name for name in SIGNALS if drawn[name].notna().any())
    return model


def probability(model: Any, features: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return the predicted probability of harm at each LR position of one picture, ``(H, W)``.

    Parameters
    ----------
    model
        Of `fit`.
    features
        Of `dtfn.predictor.describe`: maps ``(H, W)``; with the network's signals if the model was
        fitted to them.

    Returns
    -------
    In [0, 1]; what `dtfn.predictor.gated_output` takes. Of a picture that the model was fitted to,
    it says little.

    Raises
    ------
    InputError
        If a feature is missing, or a signal of the network that the model was fitted to.
    """
    missing = [name for name in FEATURES if name not in features] or [
        name for name in model.dtfn_signals if np.isnan(features[name]).all()
    ]
    if missing:
        raise InputError(
            "features", expected=", ".join(FEATURES), found=f"no {', '.join(missing)}",
            remedy="pass dtfn.predictor.signals.of_network's to dtfn.predictor.describe",
        )  # fmt: skip
    table = pd.DataFrame({name: np.ravel(features[name]) for name in FEATURES})
    chance: NDArray[np.float64] = model.predict_proba(_known(table))[:, 1]
    return chance.reshape(np.shape(features[FEATURES[0]]))


def held_out(
    table: pd.DataFrame, by: Split = "picture", *, costs: bool = False, seed: int = 0
) -> NDArray[np.float64]:
    """Return what is predicted for each position by a predictor that never saw its picture.

    Parameters
    ----------
    table
        Of `dtfn.predictor.collect`.
    by
        ``"picture"``: fitted to the pictures of other folds; ``"dataset"``: fitted to all other
        datasets.
    costs, seed
        As for `fit`.

    Returns
    -------
    In [0, 1], a number a row.

    Raises
    ------
    InputError
        As `fit`; or for fewer than three pictures, or than two datasets.
    """
    groups = table[by]
    least = 3 if by == "picture" else 2
    if groups.nunique() < least:
        raise InputError(
            f"{by}s to hold out", expected=f"{least} or more", found=groups.nunique(),
            remedy="take more",
        )  # fmt: skip
    splitter: Any = LeaveOneGroupOut()
    if by == "picture":
        splitter = GroupKFold(min(FOLDS, groups.nunique()))
    probability = np.full(len(table), np.nan)
    for train, test in splitter.split(table, groups=groups):
        seen = table.iloc[train]
        # A picture may be in two datasets.
        seen = seen[~seen["picture"].isin(table["picture"].iloc[test].unique())]
        model = fit(seen, costs=costs, seed=seed)
        probability[test] = model.predict_proba(_known(table.iloc[test]))[:, 1]
    return probability


def judged(table: pd.DataFrame, splits: Sequence[Split] = ("picture",)) -> pd.DataFrame:
    """Return the table with predictions in columns of their own.

    Parameters
    ----------
    table
        Of `dtfn.predictor.collect`.
    splits
        What to hold out, see `held_out`.

    Returns
    -------
    With ``unseen <split>`` (probability of harm) for each split, and ``costs, unseen picture``.

    Raises
    ------
    InputError
        As `held_out`.
    """
    found = {f"unseen {split}": held_out(table, split) for split in splits}
    return table.assign(**found, **{COSTS: held_out(table, costs=True)})


def importance(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return by how much the AUC falls when a feature is shuffled, on pictures held out.

    Columns: feature, importance; the largest first. One half of the pictures is fitted to.
    """
    pictures = sorted(table["picture"].unique())
    seen = table["picture"].isin(pictures[::2])
    test = _drawn(decided(table[~seen]), seed)
    found = permutation_importance(
        fit(table[seen], seed=seed), _known(test), test["error_n"] > test["error_l"],
        scoring="roc_auc", n_repeats=3, random_state=seed,
    )  # fmt: skip
    frame = pd.DataFrame({"feature": FEATURES, "importance": found.importances_mean})
    return frame.sort_values("importance", ascending=False, ignore_index=True)


def decided(table: pd.DataFrame) -> pd.DataFrame:
    """Return the positions where N and L do not err the same: the rest is neither harm nor help."""
    return table[table["error_n"] != table["error_l"]]


def _drawn(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Draw positions of each picture, the same for the same table and seed."""
    rng = np.random.default_rng(seed)
    parts = []
    for _, part in table.groupby("picture", sort=True):
        at = rng.permutation(len(part))[:PER_PICTURE]
        parts.append(part.iloc[np.sort(at)])
    return pd.concat(parts) if parts else table.head(0)


def _known(table: pd.DataFrame) -> NDArray[np.float32]:
    """Return the features as numbers; what is missing is -1, which no signal of a network is."""
    values = table[list(FEATURES)].to_numpy(np.float32)
    return np.where(np.isnan(values), np.float32(-1), values)
