"""What no network is made of, and what no network takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dtfn.errors import InputError
from dtfn.models import create


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "dtnf"}, r"'dtnf'; did you mean 'dtfn'\?"),
        ({"name": "mini_nlsa"}, "did you mean 'mini-nlsa'"),
        ({"name": "edsr+tfs"}, "edsr"),  # no attention that TFS could limit
        ({"name": "dtfn+tfs"}, "dtfn"),  # it is inside already
        ({"scale": 8}, "scale: expected 2, 3 or 4; found 8"),
        ({"scale": "2"}, "scale"),
        ({"n_feat": 3}, r"hyperparameter of dtfn.*'n_feat'.*did you mean 'n_feats'"),
        ({"topk": 3}, "hyperparameter of dtfn"),
        ({"n_feats": 0}, "n_feats of dtfn: expected a positive integer; found 0"),
        ({"n_feats": 32.0}, "expected a positive integer; found 32.0"),
        ({"n_feats": True}, "expected a positive integer; found True"),
        ({"res_scale": "0.1"}, "expected a positive number; found '0.1'"),
        ({"chunk_size": -1}, "chunk_size of dtfn"),
        ({"rgb_range": math.nan}, "rgb_range of dtfn"),
        ({"rgb_range": math.inf}, "rgb_range of dtfn"),
        ({"reduction": 33, "n_feats": 32}, "reduction of dtfn: expected at most n_feats, 32"),
    ],
)
def test_arguments_that_make_no_network(arguments: dict[str, Any], match: str) -> None:
    defaults: dict[str, Any] = {"name": "dtfn", "scale": 2}
    with pytest.raises(InputError, match=match), torch.device("meta"):
        create(**defaults | arguments)


@pytest.mark.parametrize("name", ["mini-local", "edsr"])
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 8, 8, 3),
        torch.zeros(3, 8, 8),
        torch.zeros(1, 1, 8, 8),
        torch.zeros(1, 3, 0, 8),
    ],
    ids=["integers", "hwc", "no-batch", "grey", "empty"],
)
def test_images_that_no_network_takes(name: str, x: Tensor) -> None:
    with pytest.raises(InputError, match=r"network input: expected a floating \(N, 3, H, W\)"):
        create(name, 2, n_feats=8, n_resblocks=1)(x)
