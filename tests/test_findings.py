"""What a report says first: the verdicts of all runs, in words and in a table, and the page."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from test_reports import add_run, drawn

from dtfn import verdicts
from dtfn.errors import InputError
from dtfn.reports import findings, page

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "reports" / "baseline"
CLAIMS = {"attention chooses": "yes", "harm grows": "no", "donors help": "open"}


def rows(scale: int, verdicts: dict[str, str], measured: float = 0.2334) -> pd.DataFrame:
    numbers = {"measured": measured, "low": measured - 0.05, "high": measured + 0.1}
    about = {"scale": scale, "unit": "dB", "seeds": 3, "pictures": 100} | numbers
    frame = pd.DataFrame({"claim": list(verdicts), "verdict": list(verdicts.values()), **about})
    frame.loc[frame["verdict"] == "not testable", ["measured", "low", "high"]] = None
    more = {"quantity": "PSNR lost", "least": 0.01, "networks": "nlsa s0 s1", "reason": ""}
    return frame[list(findings.COLUMNS)].assign(**more)


def judged(
    reports: Path, name: str, frame: pd.DataFrame, key: str = "k" * 16, **more: object
) -> Path:
    """Write a run with a table of verdicts, and the two figures of the first screen."""
    figures = [{"name": n, "caption": f"Of {n}."} for n in ("harm_curve", "textures")]
    content: dict[str, Any] = {"figures": figures, "key": key}
    content["tables"] = [{"name": "verdicts", "caption": "V"}]
    content["inputs"] = {f"mini/{image}/x4/hr": "0" for image in "abc"}
    home = add_run(reports, name, key, {"verdicts": frame}, **(content | more))
    for figure in figures:
        drawn().savefig(home / "figures" / f"{figure['name']}.png")
    return home


def suite(reports: Path, tier: str, *folders: Path) -> None:
    names = {folder.parent.name: {"key": folder.name} for folder in folders}
    (reports / f"suite-{tier}.json").write_text(json.dumps({"tier": tier, "runs": names}))


FEW = "{} on 1 training seed; 3 are needed"


def test_every_claim_is_in_one_sentence_whatever_its_answer() -> None:
    four = rows(4, CLAIMS | {"TFS lowers the harm": "not testable"})
    assert findings.sentences(four) == [
        "Yes at ×4: attention chooses (0.233 dB).",
        "No at ×4: harm grows (0.233 dB).",
        "Open at ×4: donors help (0.233 dB).",
        "Not testable at ×4: TFS lowers the harm.",
    ]
    assert findings.sentences(four.iloc[:0]) == []
    open_ = rows(4, dict.fromkeys(["a", "b", "c", "d"], "open"))
    reasons = [FEW.format("yes"), f"{FEW.format('no')}; donors harm: +1.15 %", "", "PSNR falls"]
    few = "on fewer seeds or pictures than a verdict needs"
    assert findings.sentences(open_.assign(reason=reasons)) == [
        f"Yes so far at ×4, {few}: a (0.233 dB).",
        f"No so far at ×4, {few}: b (0.233 dB; donors harm: +1.15 %).",
        "Open at ×4: c (0.233 dB); d (0.233 dB; PSNR falls).",
    ]


def test_only_what_another_scale_answers_otherwise_is_said_of_it() -> None:
    four, two = rows(4, CLAIMS), rows(2, CLAIMS | {"harm grows": "open", "else": "yes"})
    both = findings.sentences(pd.concat([four, two, rows(3, CLAIMS)]))
    assert both[3:] == ["Answered otherwise at ×2: harm grows (open)."]
    untested = rows(2, dict.fromkeys(CLAIMS, "not testable"))
    assert findings.sentences(pd.concat([four, untested])) == findings.sentences(four)


def test_runs_are_merged_into_at_most_eight_rows_a_scale(tmp_path: Path) -> None:
    many = {f"claim {number}": "yes" for number in range(9)}
    one = judged(tmp_path, "a", rows(2, many))
    two = judged(tmp_path, "b", rows(4, CLAIMS))
    again = judged(tmp_path, "c", rows(4, {"harm grows": "yes"}))
    other = judged(tmp_path, "d", pd.DataFrame({"claim": ["of another kind"], "holds": [True]}))
    found = findings.merged([one, two, again, other, tmp_path])
    assert found["scale"].value_counts().to_dict() == {2: 8, 4: 3}
    assert found.set_index("claim").loc["harm grows", "verdict"] == "yes"


def test_few_discoveries_of_all_rows_are_false(tmp_path: Path) -> None:
    one = judged(tmp_path, "a", rows(4, {"harm grows": "yes"}).assign(p=0.04))
    two = judged(tmp_path, "b", rows(4, {"donors help": "open"}).assign(p=0.6, reason="two seeds"))
    assert findings.merged([one])["verdict"].tolist() == ["yes"]
    both = findings.merged([one, two])
    assert both["verdict"].tolist() == ["open", "open"]
    assert both["reason"].tolist() == ["no discovery among all claims", "two seeds"]
    noted = judged(tmp_path, "c", rows(4, {"harm grows": "yes"}).assign(p=0.04, reason="noted"))
    reason = findings.merged([noted, two])["reason"][0]
    assert reason == "no discovery among all claims; noted"


def test_numbers_are_printed_to_three_digits_with_what_they_rest_on() -> None:
    about, basis = "PSNR lost; counts from 0.01 dB", "(nlsa s0 s1; 100 pictures)"
    for measured, text in {
        0.2334: "0.233 dB [0.183, 0.333]",
        1234.5: "1234 dB [1234, 1235]",
    }.items():
        frame = rows(4, {"harm grows": "yes"}, measured)
        assert f"| harm grows | {about} | **yes** {text} {basis} |" in findings.markdown(frame)


def test_every_term_of_the_claims_is_defined_before_the_table() -> None:
    text = findings.markdown(rows(4, CLAIMS))
    before = text[: text.index("| claim")]
    for claim, *_, quantity in verdicts.CLAIMS:
        for term in ("chance", "control", "placebo", "donors", "TFS", "attention off"):
            assert term not in f"{claim} {quantity}" or f"*{term[0].upper()}{term[1:]}*: " in before


def test_a_readers_run_takes_no_place_of_the_suite(tmp_path: Path) -> None:
    run = judged(tmp_path, "a", rows(4, CLAIMS), title="The suite's")
    suite(tmp_path, "demo", run)
    judged(tmp_path, "a", rows(4, {"harm grows": "yes"}), "o" * 16, title="A reader's", tier=None)
    index = page.write_index(tmp_path)
    text = index.read_text()
    assert tiny.requests(index) == []
    assert text.index("No at ×4: harm grows") < text.index("The suite&#39;s")
    for part in (*findings.WORDS, "nlsa s0 s1; 100 pictures", "counts from 0.01 dB"):
        assert part in text[: text.index("Contents")]
    assert text.index("The suite&#39;s") < text.index("A reader&#39;s")
    assert pd.read_csv(tmp_path / "verdicts.csv")["claim"].tolist() == list(CLAIMS)
    assert text.count("<figcaption>") == 2
    assert "Measured on 3 pictures: enough to see how, too few to judge." in text


def test_a_baseline_is_a_report_and_the_readme_is_cut_from_it(tmp_path: Path) -> None:
    reports, out, readme = tmp_path / "reports", tmp_path / "kept", tmp_path / "README.md"

    def keep(*more: str) -> int:
        return tiny.call("report", "keep", "--reports", str(reports), "--out", str(out), *more)

    assert keep() == 2, "there is nothing to keep"
    suite(reports, "bench", judged(reports, "a", rows(4, CLAIMS), tier="bench"))
    readme.write_text(
        "# R\n<!-- picture, by x -->\nstale\n<!-- end -->\n<!-- verdicts -->\n<!-- end -->\n"
    )
    assert keep("--readme", str(readme)) == 0
    text = readme.read_text()
    assert "](kept/runs/a/kkkkkkkkkkkkkkkk/figures/textures.webp)\n\n*Of textures.*" in text
    assert "| attention chooses | PSNR lost; counts from 0.01 dB | **yes** 0.233 dB" in text
    assert "stale" not in text
    assert page.cut(text, out, "kept") == text
    kept = pd.read_csv(out / "verdicts.csv")
    assert tuple(kept) == (*findings.COLUMNS, *findings.MORE)
    assert len(kept) == 3
    assert "too few" not in (out / "index.html").read_text()
    assert "(./runs/a/" in (out / "README.md").read_text()

    (out / "old.png").write_text("of an older run")
    assert keep() == 0
    assert not (out / "old.png").exists()
    (out / "README.md").write_text("mine")
    with pytest.raises(InputError, match="choose another folder"):
        page.keep(reports, out)


@pytest.mark.skipif(not KEPT.is_dir(), reason="no baseline is kept")
def test_the_readme_says_what_the_baseline_says() -> None:
    readme = (ROOT / "README.md").read_text()
    assert page.cut(readme, KEPT, "reports/baseline") == readme, "run `make baseline`"
    assert sum(f.stat().st_size for f in KEPT.rglob("*") if f.is_file()) <= page.LARGEST
