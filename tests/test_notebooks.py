"""Every notebook through the runner: the smoke tier from plan to index, and papermill by hand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from PIL import Image

from dtfn import gate, harm, reports, suite

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(file.stem for file in NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    assert suite.reproduce("smoke", folder=folder, jobs=2) == []
    return folder


@pytest.fixture(scope="module")
def runs(report: Path) -> dict[Path, dict[str, Any]]:
    found = sorted(reports.finished(report / "runs"), key=lambda run: run.parent.name)
    return {run: json.loads((run / "manifest.json").read_text()) for run in found}


@pytest.mark.parametrize("tier", [tier for tier in suite.TIERS if tier != "paper"])
def test_every_tier_runs_every_notebook_on_pairs_of_the_zoo(tier: str) -> None:
    asked = [name for name in NAMES if tier == "smoke" or name != "09_audit"]  # of a user's folders
    assert sorted({step.notebook.stem for step in suite.plan(tier)}) == asked
    compared = ("03_subpixel_quality", "04_upper_bound", "05_attention_maps")
    planned = [step for step in suite.plan(tier) if step.notebook.stem in compared]
    assert planned
    for step in planned:
        values = step.parameters
        pairs = harm.pairs_of_zoo(values.get("scale", 4), values.get("variants", ()), ("switch",))
        assert any(gate.chooses(pair.on) for pair in pairs)


def test_smoke_leaves_one_complete_run_each(report: Path, runs: dict[Path, dict[str, Any]]) -> None:
    assert [run.parent.name for run in runs] == NAMES
    for run, content in runs.items():
        assert (content["status"], content["tier"]) == ("complete", "smoke")
        assert content["notebook"] == run.parent.name
        assert any(key.startswith("mini/astronaut/x4/") for key in content["inputs"])
    (compared,) = (one for one in runs.values() if one["notebook"] == "03_subpixel_quality")
    weights = {key for key in compared["inputs"] if key.endswith(".safetensors")}
    assert weights == {"nlsa-x4-s0.safetensors"}, "attention on and off are one network"
    assert [p for p in report.rglob("*") if ".partial" in p.name] == []
    for run, content in runs.items():
        gallery = run.parent.name == "06_texture_distortion"
        assert content["verdicts"] or gallery
        assert {"checks", "verdicts"} & {table["name"] for table in content["tables"]} or gallery
        for table in content["tables"]:
            for ending in tiny.TABLES:
                assert (run / "tables" / f"{table['name']}.{ending}").stat().st_size
        assert content["figures"] or run.parent.name == "08_tables", "which is tables alone"
        for figure in content["figures"]:
            stem = run / "figures" / figure["name"]
            assert not pd.read_csv(stem.with_suffix(".csv")).empty
            assert stem.with_suffix(".svg").read_text().lstrip().startswith("<?xml")
            with Image.open(stem.with_suffix(".png")) as image:
                assert 600 < image.width <= 1920
            assert "×4, Y, " in figure["caption"], "scale and channel"
            assert "border" in figure["caption"]


def test_pages_make_no_request_and_lead_to_what_is_there(report: Path) -> None:
    index = report / "index.html"
    pages = {page: page.read_text() for page in [index, *report.glob("runs/*/*/*.html")]}
    assert len(pages) == 1 + len(NAMES)
    for page, text in pages.items():
        assert tiny.requests(page) == []
        assert "default-src 'none'" in tiny.policy(page)
        assert "Warning" not in text, page.name
        assert text.count("step/s]") <= 1, f"every step of a bar in {page.name}"
    for link in re.findall(r'href="([^"]+)"', pages[index]):
        target, _, anchor = link.partition("#")
        assert not target or (report / target).exists(), link
        assert not anchor or f'id="{anchor}"' in pages[report / (target or "index.html")], link


def test_numbers_of_two_runs_are_the_same(runs: dict[Path, dict[str, Any]], tmp_path: Path) -> None:
    first = next(one for one in runs.values() if one["notebook"] == "03_subpixel_quality")
    second = suite.run("03_subpixel_quality", first["parameters"], runs=tmp_path)
    one, two = (record["outputs"] for record in (first, reports.read(second)))
    data = {name for name in one if name.endswith((".csv", ".svg", ".png", ".tex"))}
    assert data
    assert {name: one[name] for name in data} == {name: two[name] for name in data}


@pytest.mark.parametrize("message", ["", "did you mean 'datasets'"])
def test_papermill_alone(message: str, tmp_path: Path) -> None:
    given = ["-p", "count", "1", "-y", "methods: [local-x4-s0]"]
    given, folder = (["-p", "datasts", "Set5"], NOTEBOOKS) if message else (given, NOTEBOOKS.parent)
    notebook = (NOTEBOOKS / "02_benchmark.ipynb").relative_to(folder)
    command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "out.ipynb")]
    environment = os.environ | {"DTFN_REPORTS": str(tmp_path)}
    done = subprocess.run([*command, *given], cwd=folder, env=environment, capture_output=True)
    assert (done.returncode != 0) == bool(message)
    assert message in done.stderr.decode()
    assert len(reports.finished(tmp_path / "runs")) == (not message)
