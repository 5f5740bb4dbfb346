"""What strengths of edges mean, as a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from edge_statistics import calibration_of, street

from trace_d2.propagation.calibration import EdgeCalibration


class TestFiles:
    @pytest.mark.parametrize(
        "calibration", [EdgeCalibration.assumed(), calibration_of([street(0, noise=0.3)])]
    )
    def test_round_trip(self, tmp_path: Path, calibration: EdgeCalibration):
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(calibration.to_json()))
        assert EdgeCalibration.load(path) == calibration
        assert EdgeCalibration.load(str(path)) == calibration
        # What a job adds is nothing to it.
        path.write_text(json.dumps({**calibration.to_json(), "sample": ["a"]}))
        assert EdgeCalibration.load(path) == calibration

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 2},
            {"format": None},
            {"strengths": [0.0, 0.5]},
            {"strengths": [0.0, 0.6, 0.5]},
            {"strengths": [0.0, 0.5, 0.5]},
            {"strengths": [-0.1, 0.5, 1.0]},
            {"strengths": [0.0, 0.5, 1.1]},
            {"strengths": [0.0, math.nan, 1.0]},
            {"strengths": ["a", "b", "c"]},
            {"strengths": 1.0},
            {"strengths": [], "log_odds": []},
            {"log_odds": [-8.0, math.inf, 1.0]},
            {"log_odds": [[-8.0], [-1.0], [1.0]]},
            {"log_odds": [-8.0, 1.0, 0.5]},
            {"prior": math.nan},
            {"trust": 1.5},
            {"trust": math.nan},
            {"trust": None},
            {"images": "many"},
            {"images": math.inf},
        ],
    )
    def test_values_out_of_range_are_refused(self, tmp_path: Path, change: dict[str, Any]):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({**EdgeCalibration.assumed().to_json(), **change}))
        with pytest.raises(ValueError, match=r"mine\.json is no calibration of edges"):
            EdgeCalibration.load(path)

    @pytest.mark.parametrize("key", EdgeCalibration.assumed().to_json())
    def test_a_missing_key_is_refused(self, tmp_path: Path, key: str):
        content = EdgeCalibration.assumed().to_json()
        del content[key]
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=rf"mine\.json is no calibration .*{key}"):
            EdgeCalibration.load(path)

    @pytest.mark.parametrize("text", ["", "{", '{"format": 1', "[" * 100_000, b"\xff\xfe{}"])
    def test_a_damaged_file_is_refused(self, tmp_path: Path, text: str | bytes):
        path = tmp_path / "mine.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=r"mine\.json is damaged .*: make it again"):
            EdgeCalibration.load(path)

    @pytest.mark.parametrize("text", ["[]", "1", "null", '"x"', "{}"])
    def test_json_of_another_kind_is_refused(self, tmp_path: Path, text: str):
        path = tmp_path / "mine.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"mine\.json is no calibration of edges"):
            EdgeCalibration.load(path)

    def test_no_file(self, tmp_path: Path):
        for path in (tmp_path / "nowhere.json", tmp_path):
            with pytest.raises(FileNotFoundError, match=r"no calibration of edges at .*: name the"):
                EdgeCalibration.load(path)
