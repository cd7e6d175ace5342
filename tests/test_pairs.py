"""Tables of pairs: the right rows, net of the right control, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dtfn import images, pairs, subpixel
from dtfn.datasets import Sample
from dtfn.errors import InputError


def toy(dataset: str, image: str, scale: int, hr: Any, outputs: Mapping[str, Any]) -> Sample:
    return Sample(dataset, image, scale, images.as_rgb(images.degrade(hr, scale)), hr, outputs)


PAIRS = {"nla": ("N", "L"), "null pair": ("L2", "L")}


def pictures(count: int = 3, scale: int = 2) -> Iterator[Sample]:
    rng = np.random.default_rng(2)
    for i in range(count):
        hr = rng.integers(0, 256, (24, 20 + 2 * i, 3), np.uint8)
        made = {
            name: np.clip(hr + rng.normal(0, sigma, hr.shape), 0, 255).astype(np.uint8)
            for name, sigma in {"N": 12.0, "L": 10.0, "L2": 10.0}.items()
        }
        yield toy("toy", f"p{i}", scale, hr, made)


def test_measure_gives_a_row_a_pair_and_picture() -> None:
    table = pairs.measure(pictures(), PAIRS)

    assert len(table) == 6
    assert list(table)[:6] == ["pair", "with", "without", "dataset", "image", "scale"]
    for picture in pictures():
        rows = table[table["image"] == picture.image].set_index("pair")
        e, e2 = (
            subpixel.interior(subpixel.block_error(picture.outputs[m], picture.hr, 2))
            for m in ("L", "L2")
        )
        tau = np.median(np.abs(e - e2))
        assert rows["tau"].to_numpy() == pytest.approx([tau, tau])
        row = rows.loc["nla"]
        assert (row["with"], row["without"]) == ("N", "L")
        alone = pairs.figures(picture.outputs["N"], picture.outputs["L"], picture.hr, 2, tau)
        assert row[list(alone)].to_dict() == pytest.approx(alone)


def test_measure_without_a_null_takes_a_threshold_of_zero() -> None:
    table = pairs.measure(pictures(), {"nla": ("N", "L")}, null=None)

    assert (table["tau"] == 0).all()
    assert (table["harm_rate_tau"] == table["harm_rate"]).all()


def test_net_takes_each_picture_s_own_null_off() -> None:
    table = pairs.measure(pictures(), PAIRS)
    net = pairs.net(table.sample(frac=1, random_state=0))

    assert set(net["pair"]) == {"nla"}
    assert len(net) == 3
    for _, row in net.iterrows():
        rows = table[table["image"] == row["image"]].set_index("pair")
        for column in ("harm_rate", "lost_db", "selection_gain", "harm_rate_tau"):
            control = rows.loc["null pair", column]
            assert row[f"{column}_null"] == control
            assert row[f"{column}_net"] == pytest.approx(rows.loc["nla", column] - control)
    assert "psnr_with_net" not in net


def test_net_of_a_pair_that_is_its_null_is_nothing() -> None:
    table = pairs.measure(pictures(), {"again": ("L2", "L"), "null pair": ("L2", "L")})
    net = pairs.net(table)

    assert (net[[column for column in net if column.endswith("_net")]] == 0).all(axis=None)


def test_net_refuses_a_missing_null() -> None:
    table = pairs.measure(pictures(), PAIRS)
    lacking = table[~((table["pair"] == "null pair") & (table["image"] == "p1"))]

    with pytest.raises(InputError, match=r"none for \{'dataset': 'toy', 'image': 'p1'"):
        pairs.net(lacking)
    with pytest.raises(
        InputError, match=r"expected a pair named 'nul pair'.*did you mean 'null pair'"
    ):
        pairs.net(table, "nul pair")


def test_curve_is_the_table_in_long_form_and_can_be_netted() -> None:
    table = pairs.measure(pictures(), PAIRS)
    long = pairs.bound_table(table)

    assert len(long) == len(table) * len(pairs.CURVE)
    one = long[(long["pair"] == "nla") & (long["image"] == "p0")].set_index("granularity")
    row = table[(table["pair"] == "nla") & (table["image"] == "p0")].iloc[0]
    assert one.loc["1", "bound"] == row["selection_bound"]
    assert one.loc["fusion", "gain"] == pytest.approx(row["fusion_gain"])
    assert one.loc["image", "gain"] == 0
    assert list(long.sort_values("granularity")["granularity"].unique()) == list(pairs.CURVE)

    net = pairs.net(long)
    assert len(net) == 3 * len(pairs.CURVE)
    control = long[(long["pair"] == "null pair") & (long["image"] == "p2")].set_index("granularity")
    mine = net[net["image"] == "p2"].set_index("granularity")
    assert mine.loc["8", "gain_null"] == control.loc["8", "gain"]


def test_curve_of_perfect_pictures_gains_nothing() -> None:
    flat = np.full((12, 12), 7, np.uint8)
    picture = toy("toy", "flat", 2, flat, {"N": flat, "L": flat + np.uint8(1)})
    long = pairs.bound_table(pairs.measure([picture], {"nla": ("N", "L")}, null=None))

    assert (long["gain"] == 0).all()


def test_one_and_the_same_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"pair 'nla'.*N and N are one and the same network"):
        pairs.measure(pictures(), {"nla": ("N", "N"), "null pair": ("L2", "L")})

    def copied() -> Iterator[Sample]:
        for p in pictures():
            yield toy(p.dataset, p.image, 2, p.hr, {**p.outputs, "N": p.outputs["L"].copy()})

    with pytest.raises(InputError, match="equal outputs on every picture"):
        pairs.measure(copied(), PAIRS)


def test_two_networks_may_agree_on_a_flat_picture() -> None:
    flat = np.full((24, 24, 3), 9, np.uint8)
    same = toy("toy", "flat", 2, flat, dict.fromkeys(("N", "L", "L2"), flat))
    table = pairs.measure([*pictures(), same], PAIRS)

    assert len(table) == 8


def test_measure_refuses_what_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="pictures: expected one or more"):
        pairs.measure([], PAIRS)
    with pytest.raises(InputError, match="pairs: expected one or more"):
        pairs.measure(pictures(), {})
    with pytest.raises(InputError, match="null pair: expected a pair named 'null pair'"):
        pairs.measure(pictures(), {"nla": ("N", "L")})
    first, second, *_ = pictures()
    wrong = toy("toy", "odd", 2, first.hr, second.outputs)
    with pytest.raises(InputError, match=r"toy/odd x2: .*one size"):
        pairs.measure([first, wrong], PAIRS)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_published_network_against_bicubic(benchmarks: Path, scale: int) -> None:
    """RCAN beats bicubic nearly everywhere: rates and bounds have to say so."""

    def published() -> Iterator[Sample]:
        for file in sorted((benchmarks.parent / f"reference_sr/RCAN/Set5/X{scale}").glob("*.png")):
            name = file.name.split("_")[0]
            picture = np.asarray(images.read(benchmarks / f"Set5/HR/{name}.png"), np.uint8)
            hr = images.modcrop(picture, scale)
            bicubic = images.imresize(images.degrade(hr, scale), scale)
            rcan = np.asarray(images.read(file), np.uint8)
            yield toy("Set5", name, scale, hr, {"rcan": rcan, "bicubic": bicubic})

    table = pairs.measure(published(), {"rcan": ("rcan", "bicubic")}, null=None)
    means = table.select_dtypes("number").mean()

    published_psnr = {2: 38.274, 3: 34.742, 4: 32.634}[scale]
    assert means["psnr_with"] == pytest.approx(published_psnr, abs=5e-4)
    assert (table["harm_rate"] < 0.4).all()
    assert (table["harm_share"] < 0.2).all()
    assert (table["lost_db"] < 0.6).all()
    assert means["psnr_with"] < means["selection_bound"] < means["fusion_bound"]


def test_the_table_survives_a_csv_file(tmp_path: Path) -> None:
    table = pairs.measure(pictures(), PAIRS)
    table.to_csv(tmp_path / "table.csv", index=False)

    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), table, check_dtype=False)
