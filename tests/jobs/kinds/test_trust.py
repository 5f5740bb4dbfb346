"""A job tells how far its edges are to be trusted, and warns where they say little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cutting import add, job_of, run, written

from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.outcome import FactCounts
from trace_d2.jobs.trust import trust_facts, trust_warnings
from trace_d2.propagation.calibration import EdgeCalibration


class TestTrust:
    def test_good_edges(self, few: Path, capsys: pytest.CaptureFixture[str]):
        job = job_of(few)
        run(job)
        records = list(job.store.read_records().values())
        trust = written(few)["trust"]
        assert trust > 0.5
        assert trust_facts(job.store, FactCounts(records)) == [
            ("trust in the edges, of 1", f"{trust:.2f}"),
            ("pieces that edges would cut off a stuff mask", "0.00"),
            ("things an image if edges cut nothing", "1.0"),
        ]
        assert trust_warnings(job.store) == []
        LabelJob.tell(job.store)
        said = capsys.readouterr()
        assert said.out.startswith(f"edges: {trust:.2f} trust in the edges, of 1; ")
        assert said.err == ""
        page = (few / "out/report.html").read_text()
        assert f"<b>{trust:.2f}</b><span>trust in the edges, of 1</span>" in page
        assert '<p class="warning">' not in page

    def test_useless_edges(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        add(tmp_path, *(f"s{number}" for number in range(9)), useless=True)
        job = job_of(tmp_path)
        run(job)
        assert written(tmp_path)["trust"] < 0.1
        assert {record.facts["things"] for record in job.store.read_records().values()} == {1}
        LabelJob.tell(job.store)
        warned = f"warning: these edges say little here (trust {written(tmp_path)['trust']:.2f} of"
        assert warned in capsys.readouterr().err
        assert '<p class="warning">these edges say' in (tmp_path / "out/report.html").read_text()

    def test_without_edges_there_is_nothing_to_say(self, few: Path, capsys):
        job = job_of(few, edges="none")
        run(job)
        LabelJob.tell(job.store)
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", "")
        assert "trust" not in (few / "out/report.html").read_text()

    @pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', "NaN"])
    def test_a_damaged_calibration_is_measured_again(self, few: Path, content: str, capsys):
        run(job_of(few))
        path = few / "out/calibration.json"
        whole = path.read_bytes()
        path.write_text(content)
        job = job_of(few)
        records = list(job.store.read_records().values())
        assert [name for name, _ in trust_facts(job.store, FactCounts(records))] == [
            "things an image if edges cut nothing"
        ]
        assert trust_warnings(job.store) == []
        next((few / "out/panoptic").glob("*.png")).unlink()  # so that something is left to do
        run(job)
        assert path.read_bytes() == whole
        assert f"{path} is" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("calibration", "words"),
        [
            (EdgeCalibration.assumed(), "the sample has too few outlines"),
            (EdgeCalibration((0.0,), (-4.0,), -4.0, 0.0, 9), "the edges are empty, or fainter"),
        ],
    )
    def test_what_cannot_be_measured_is_said(self, few: Path, calibration, words, capsys):
        job = job_of(few)
        run(job)
        (job.store.root / "calibration.json").write_text(json.dumps(calibration.to_json()))
        LabelJob.tell(job.store)
        said = capsys.readouterr()
        assert said.err.startswith(f"warning: {words}")
        assert ("trust" in said.out) == (calibration.images > 0)
