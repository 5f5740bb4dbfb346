"""A job takes what its edges mean from a file, if told to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cutting import CALIBRATION, contents, job_of, run

from trace_d2.jobs.output import SettingsChangedError
from trace_d2.propagation.calibration import EdgeCalibration


class TestGiven:
    @pytest.fixture
    def given(self, few: Path) -> Path:
        """A calibration that believes no edge."""
        path = few / "given.json"
        content = replace(EdgeCalibration.assumed(), log_odds=(-8.0,) * 4 + (-7.0,), trust=0.5)
        path.write_text(json.dumps(content.to_json()))
        return path

    def test_it_is_used_and_written_into_the_settings(self, few: Path, given: Path):
        job = job_of(few, "out", *CALIBRATION, str(given))
        run(job)
        assert not (few / "out/calibration.json").exists()
        assert {record.facts["things"] for record in job.store.read_records().values()} == {1}
        settings = json.loads((few / "out/settings.json").read_text())
        assert settings["calibration"] == json.loads(given.read_text())
        assert "MODEL.TRACE.EDGES.CALIBRATION" not in settings

    def test_that_of_another_job_gives_its_labels(self, few: Path):
        run(job_of(few, "first"))
        path = few / "first/calibration.json"
        run(job_of(few, "second", *CALIBRATION, str(path)))
        expected = contents(few / "first")
        del expected["calibration.json"]
        path.rename(few / "second/calibration.json")  # for the comparison
        found = contents(few / "second")
        del found["calibration.json"]
        assert found == expected

    def test_another_one_is_refused_unless_overwritten(self, few: Path, given: Path):
        job = job_of(few, "out", *CALIBRATION, str(given))
        run(job)
        # The same elsewhere is no change; none, and other values in the same file, are.
        moved = few / "moved.json"
        moved.write_bytes(given.read_bytes())
        assert run(job_of(few, "out", *CALIBRATION, str(moved))).earlier == 9
        with pytest.raises(SettingsChangedError, match=r"calibration: .* there, absent now"):
            run(job_of(few))
        content = EdgeCalibration.assumed()
        given.write_text(json.dumps(content.to_json()))
        with pytest.raises(SettingsChangedError, match="calibration: "):
            run(job_of(few, "out", *CALIBRATION, str(given)))
        run(job_of(few, "out", *CALIBRATION, str(given)), overwrite=True)
        assert job.store.read_records()["s4"].facts["things"] == 2

    def test_one_cannot_be_added_later(self, few: Path, given: Path):
        run(job_of(few))
        with pytest.raises(SettingsChangedError, match=r"calibration: absent there"):
            run(job_of(few, "out", *CALIBRATION, str(given)))

    def test_a_bad_one_is_told_before_anything_is_written(self, few: Path, given: Path):
        given.write_text("{")
        with pytest.raises(ValueError, match=r"given\.json is damaged"):
            job_of(few, "out", *CALIBRATION, str(given))
        with pytest.raises(FileNotFoundError, match=r"no calibration of edges at nowhere\.json"):
            job_of(few, "out", *CALIBRATION, "nowhere.json")
        assert not (few / "out").exists()

    def test_without_edges_none_is_read(self, few: Path):
        run(job_of(few, "out", *CALIBRATION, "nowhere.json", edges="none"))
        assert "calibration" not in json.loads((few / "out/settings.json").read_text())
