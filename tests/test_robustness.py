"""Damaged files and killed commands: one clear line, and a second start that succeeds."""

import io
import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_networks
import tiny_training
import torch
from PIL import Image
from safetensors.torch import load_file, save
from tiny import pillow, png, tiff

from dtfn import images, models, training
from dtfn.errors import InputError

SEED = 20260101
KILLS = int(os.environ.get("DTFN_KILLS", "1"))  # pairs; more of them find what is rare
PICTURES, NETWORKS = 140, 60  # mutated files
SECONDS = 5.0  # for one file of a few kilobytes, on a busy machine
MEMORY = 600 * 2**20  # bytes that all of them may add

Files = dict[str, bytes]


# --- sound files, and damaged ones made of them ---
def _packed(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _sound_pictures() -> Files:
    noise = np.random.default_rng(SEED).integers(0, 256, (23, 31, 3), np.uint8)
    rgb = Image.fromarray(noise)
    return {
        "rgb.png": pillow(rgb, "PNG"),
        "grey.png": images.encode(noise[..., 0].astype(np.uint16) * 257),
        "palette.png": pillow(rgb.quantize(16), "PNG"),
        "rgb.jpg": pillow(rgb, "JPEG"),
        "progressive.jpeg": pillow(rgb, "JPEG", progressive=True),
        "rgb.bmp": pillow(rgb, "BMP"),
        "rgb.tif": pillow(rgb, "TIFF", compression="tiff_lzw"),
        "deep.tiff": tiff(noise.astype(np.uint16) * 257, photometric="rgb", compression="zlib"),
    }


BUILD = {"name": "nlsn", "scale": 2, "hyperparameters": tiny_networks.SMALL["nlsn"]}


def _sound_networks() -> Files:
    states = {name: tiny_networks.small(name).state_dict() for name in ("edsr", "nlsn", "dtfn")}
    made = {f"{name}.pt": _packed(state) for name, state in states.items()}
    notes = {"build": json.dumps(BUILD), "notes": "{}"}
    return made | {"saved.safetensors": save(states["nlsn"], notes)}


def _mutated(sound: Files, count: int, endings: list[str]) -> Files:
    """Return damaged copies: cut short, with flipped bits (in the head or anywhere), renamed."""
    rng = np.random.default_rng(SEED)
    made: Files = {}
    for index in range(count):
        name = sorted(sound)[index % len(sound)]
        data, kind = bytearray(sound[name]), ("cut", "bits", "head", "gap", "name")[index % 5]
        ending, start = Path(name).suffix, int(rng.integers(0, len(data)))
        if kind == "cut":
            del data[start:]
        elif kind == "gap":
            del data[start : start + int(rng.integers(1, 300))]
        elif kind == "name":
            ending = str(rng.choice([other for other in endings if other != ending]))
        else:
            for place in rng.integers(0, len(data) if kind == "bits" else 200, rng.integers(1, 9)):
                data[place] ^= 1 << int(rng.integers(0, 8))
        made[f"{index:03d}-{kind}-{Path(name).stem}{ending}"] = bytes(data)
    return made


def _altered(pixels: np.ndarray, tags: dict[int, int], **options: Any) -> bytes:
    data = bytearray(tiff(pixels, photometric="rgb", **options))
    for tag, number in tags.items():
        place = data.index(struct.pack("<H", tag), 8)
        data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, number)
    return bytes(data)


def _special_pictures() -> Files:
    side, sound, one = 30_000, _sound_pictures(), Image.new("RGB", (1, 1))
    bmp, jpeg = bytearray(sound["rgb.bmp"]), bytearray(sound["rgb.jpg"])
    bmp[18:26] = struct.pack("<ii", side, side)
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    tags = dict.fromkeys((256, 257, 278), side)  # width, height, rows of a strip
    tall = np.ones((23, 31, 3), np.uint16)
    return {
        "large.png": png(side, side, bytes(1000)),
        "large.bmp": bytes(bmp),
        "large.jpg": bytes(jpeg),
        "large.tif": _altered(np.zeros((8, 8, 3), np.uint8), tags),
        "large16.tif": _altered(np.zeros((8, 8, 3), np.uint16), tags),
        "tall.tif": _altered(tall, {257: 2**20}, compression="zlib"),  # it has 23 rows
        "middle.png": png(10_000, 10_000, bytes(1000)),  # Pillow warns, and would read it
        "one.png": pillow(one),
        "one.tif": pillow(one, "TIFF"),
    }


class _Creates:
    """What would create a file if it were unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.file), "w")


def _special_networks(trap: Path) -> Files:
    states = {name: tiny_networks.small(name).state_dict() for name in ("edsr", "nlsn", "dtfn")}
    network, weight = states["nlsn"], "head.0.weight"
    far, block = 10**8, torch.zeros(16, 16, 3, 3)
    contents: dict[str, object] = {
        "trap-in-zip": {"state_dict": _Creates(trap)},
        "meta": network | {weight: network[weight].to("meta")},
        "sparse": network | {weight: network[weight].to_sparse()},
        "integer": network | {weight: network[weight].to(torch.int32)},
        "scalar": network | {weight: torch.zeros(())},
        "deep": states["edsr"] | {f"body.{far}.body.0.weight": block},
        "deep-groups": states["dtfn"] | {f"body.{far}.body.{far}.body.0.weight": block},
        "flat": {key: value.flatten() for key, value in network.items()},
        "numbers": dict(enumerate(network.values())),
    }
    sizes: dict[str, Any] = tiny_networks.SMALL["nlsn"]
    builds: dict[str, dict[str, Any]] = {"name": {"name": "nosuch"}, "scale": {"scale": "two"}}
    changes = {"wide": {"n_feats": 10**6}, "long": {"n_resblocks": 10**9}}
    builds |= {name: {"hyperparameters": sizes | change} for name, change in changes.items()}
    builds |= {"list": {"hyperparameters": [1]}}
    notes = {name: json.dumps(BUILD | one) for name, one in builds.items()} | {"text": "[]"}
    about = {name: {"build": one, "notes": "{}"} for name, one in notes.items()}
    made = {f"{name}.safetensors": save(network, one) for name, one in about.items()}
    made |= {f"{name}.pt": _packed(content) for name, content in contents.items()}
    return made | {
        "trap.pt": pickle.dumps(_Creates(trap)),
        "pointer.ckpt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "head.safetensors": struct.pack("<Q", 2**62) + b"{}",
    }


# --- read through the public readers ---
def _tried(folder: Path, contents: Files, read: Callable[[Path], object]) -> dict[str, str]:
    """Read every file; return the message of each that is refused, "" for the others."""
    said = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in contents.items():
        file = folder / name
        file.write_bytes(data)
        began, said[name] = time.process_time(), ""
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                read(file)
            except InputError as error:
                said[name] = str(error)
                assert name in said[name]
        assert "\n" not in said[name], name
        assert not warned, f"{name} warns {warned[0].message}"
        assert time.process_time() - began <= SECONDS, name
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 <= MEMORY, name
        file.unlink()
    return said


def _read_picture(file: Path) -> None:
    pixels = images.read(file)
    assert pixels.dtype in (np.uint8, np.uint16)
    assert pixels.ndim in (2, 3)
    assert images.as_rgb(pixels).shape[2] == 3


def test_a_damaged_picture_is_a_picture_or_one_line(tmp_path: Path) -> None:
    damaged = _mutated(_sound_pictures(), PICTURES, list(images.SUFFIXES))
    said = _tried(tmp_path, damaged, _read_picture)
    renamed = [message for name, message in said.items() if "-name-" in name]
    assert not any(renamed), "the content decides"
    assert sum(map(bool, said.values())) > PICTURES // 3
    said = _tried(tmp_path, _special_pictures(), _read_picture)
    assert {name for name, message in said.items() if not message} == {"one.png", "one.tif"}


def test_a_damaged_checkpoint_is_a_network_or_one_line(tmp_path: Path) -> None:
    endings = [".pt", ".pth", ".ckpt", ".bin", ".safetensors"]
    said = _tried(tmp_path, _mutated(_sound_networks(), NETWORKS, endings), models.load)
    assert sum(map(bool, said.values())) > NETWORKS // 3
    trap = tmp_path / "created"
    said = _tried(tmp_path, _special_networks(trap), models.load)
    assert all(said.values())
    assert not trap.exists()


# --- a full disk ---
@pytest.mark.filterwarnings("ignore:(no cache of outputs|output not cached)")
@pytest.mark.skipif(sys.platform == "win32", reason="has no limit of files")
def test_a_full_disk_leaves_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_training.make(tmp_path)
    tiny_training.enter(monkeypatch, tmp_path)
    network, recipe = tiny_networks.small("edsr"), tiny_training.recipe()
    training.train(recipe, tmp_path / "one", accelerator="cpu", threads=1)  # fills the cache
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            models.save(network, tmp_path / "weights.safetensors")
        with pytest.raises(OSError, match="File too large"):
            training.train(recipe, tmp_path / "other", accelerator="cpu", threads=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("*.safetensors"))
    training.train(recipe, tmp_path / "other", accelerator="cpu", threads=1)
    mine, its = (load_file(tmp_path / out / "weights.safetensors") for out in ("one", "other"))
    assert all(torch.equal(value, its[key]) for key, value in mine.items())


# --- killed at any moment ---
CODE = """import pathlib, sys
from dtfn import cli, paths
folder = pathlib.Path(sys.argv[1])
paths.CACHE, paths.WEIGHTS = folder / "cache", folder / "weights"
cli.main(sys.argv[2:])
"""


def _result(folder: Path) -> dict[str, Any]:
    left: dict[str, Any] = {}
    for file in folder.rglob("[!.]*.safetensors"):
        left[file.name] = {key: value.tolist() for key, value in load_file(file).items()}
    for file in folder.rglob("*.csv"):
        left[file.name] = pd.read_csv(file).drop(columns="seconds").to_csv()
    for file in folder.rglob("registry.json"):
        left[file.name] = [row | {"sha256": ""} for row in json.loads(file.read_text())]
    return left


IMPORT = "weights import {0}/nlsn.pt --name mine"
EVALUATE = "evaluate bicubic {0}/edsr.safetensors --count 3 --scale 2 --csv {1}/all.csv"


@pytest.mark.slow
@pytest.mark.parametrize("job", [IMPORT, EVALUATE])
def test_what_is_killed_succeeds_when_started_again(job: str, tmp_path: Path) -> None:
    (tmp_path / "nlsn.pt").write_bytes(_sound_networks()["nlsn.pt"])
    tiny_networks.saved(tmp_path, "edsr")

    def started(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        words = job.format(tmp_path, folder).split()
        command = [sys.executable, "-c", CODE, str(folder), *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    began = time.monotonic()
    assert started(tmp_path / "whole").wait() == 0
    took, expected = time.monotonic() - began, _result(tmp_path / "whole")
    assert expected
    chance = random.Random(f"{SEED} {job[:3]}")
    for number in range(KILLS):
        folder = tmp_path / f"killed-{number}"
        for _ in range(2):
            process = started(folder)
            time.sleep(chance.uniform(took / 3, took))  # before, it imports
            process.kill()
            process.wait()
        assert started(folder).wait(60) == 0
        assert _result(folder) == expected
