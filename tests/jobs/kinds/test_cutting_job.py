"""A job measures what its edges mean on a sample of its images, once, and all shards alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cutting import DETECTOR, Detector, add, contents, entries_of, job_of, run, save, written

from trace_d2.jobs.engine import merge_folder
from trace_d2.jobs.journal import FAILED, ImageEntry
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.locks import Shard
from trace_d2.jobs.looking import look_through
from trace_d2.jobs.output import OutputError
from trace_d2.jobs.store import JobStore
from trace_d2.propagation.calibration import SAMPLE_IMAGES, EdgeCalibration


class TestSample:
    def test_it_hangs_on_the_names_alone(self, many: Path):
        entries = entries_of(many)
        run(job_of(many), limit=1)
        sample = written(many)["sample"]
        assert len(sample) == SAMPLE_IMAGES == written(many)["images"]
        assert sample == sorted(set(sample)) != [entry.stem for entry in entries[:SAMPLE_IMAGES]]
        assert set(sample) <= {entry.stem for entry in entries} - {"s05"}
        expected = (many / "out/calibration.json").read_bytes()

        run(job_of(many, "reversed"), entries[::-1], limit=1)
        run(job_of(many, "shard"), entries, shard=Shard(3, 60))
        threaded = job_of(many, "threads")
        (many / "threads/.locks").mkdir(parents=True)
        threaded.entries = entries[::2] + entries[1::2]
        threaded.prepare(entries, workers=4, progress=False)
        for output in ("reversed", "shard", "threads"):
            assert (many / output / "calibration.json").read_bytes() == expected

    def test_another_seed_draws_others(self, many: Path):
        for output, seed in (("one", 1), ("two", 2)):
            run(job_of(many, output, "MODEL.TRACE.SEED", seed), limit=1)
        assert written(many, "one")["sample"] != written(many, "two")["sample"]

    def test_images_that_are_few_are_all_in_it(self, few: Path):
        run(job_of(few))
        assert written(few)["sample"] == [entry.stem for entry in entries_of(few)]
        assert EdgeCalibration.load(few / "out/calibration.json").images == 9

    def test_what_cannot_be_read_is_passed_over_and_fails_later(self, few: Path):
        (few / "images/s3.png").write_bytes(b"no image")
        (few / "edges/s7.png").unlink()
        result = run(job_of(few))
        assert [record.stem for record in result.failed] == ["s3", "s7"]
        assert result.done == 7
        content = written(few)
        assert content["images"] == 7
        # They stay on the list: repaired or not, another shard draws the same.
        assert {"s3", "s7"} < set(content["sample"])
        assert 'class="warning"' not in (few / "out/report.html").read_text()

    def test_nothing_can_be_read(self, few: Path):
        for path in (few / "edges").iterdir():
            path.write_bytes(b"no image")
        result = run(job_of(few))
        assert len(result.failed) == 9
        assert EdgeCalibration.load(few / "out/calibration.json") == EdgeCalibration.assumed()


class TestWrittenOnce:
    def test_a_job_that_goes_on_keeps_it(self, few: Path, monkeypatch: pytest.MonkeyPatch):
        run(job_of(few), limit=3)
        before = (few / "out/calibration.json").read_bytes()
        (few / "semantic/s8.png").write_bytes((few / "semantic/s7.png").read_bytes())
        add(few, "t0", "t4")

        def refuse(*inputs: object) -> None:
            raise AssertionError("measured again")

        monkeypatch.setattr(LabelJob, "_measure", refuse)
        job = job_of(few)
        run(job)
        assert (few / "out/calibration.json").read_bytes() == before
        assert job.cutter.calibration == EdgeCalibration.load(few / "out/calibration.json")
        with pytest.raises(AssertionError, match="measured again"):
            run(job_of(few, "elsewhere"))

    def test_overwriting_drops_it(self, few: Path):
        run(job_of(few))
        before = written(few)
        add(few, "t0", "t4", "t8")
        run(job_of(few, "out", "MODEL.TRACE.LABELS.NECK_DEPTH", 3.0), overwrite=True)
        assert before["images"] == 9
        assert written(few)["images"] == 12

    def test_shards_give_what_a_whole_run_gives(self, few: Path):
        run(job_of(few, "whole"))
        for index in (2, 1):
            run(job_of(few, "parts"), shard=Shard(index, 2))
        store = job_of(few, "parts").store
        assert merge_folder(LabelJob, store).pending == 0
        assert contents(few / "parts") == contents(few / "whole")
        # It does part the cats of every fourth image.
        things = [record.facts["things"] for _, record in sorted(store.read_records().items())]
        assert things == [2, 1, 1, 1] * 2 + [2]
        assert {record.facts["uncut"] for record in store.read_records().values()} == {1}

    def test_workers_give_the_same(self, few: Path):
        run(job_of(few, "one"))
        run(job_of(few, "two"), workers=2)
        assert contents(few / "two") == contents(few / "one")

    def test_jobs_that_need_none(self, few: Path):
        run(job_of(few, "none", edges="none"))
        run(job_of(few, "components", "MODEL.TRACE.LABELS.CUT", "components"))
        for output in ("none", "components"):
            assert not (few / output / "calibration.json").exists()
        records = job_of(few, "none", edges="none").store.read_records()
        assert {record.facts["uncut"] for record in records.values()} == {0}

    def test_false_pieces_of_stuff_are_counted(self, few: Path):
        # One ground an image, cut by nothing; then one cut in two.
        run(job_of(few, "plain"))
        assert (written(few, "plain")["stuff_masks"], written(few, "plain")["false_pieces"]) == (
            9, 0,
        )  # fmt: skip
        for stem in ("s1", "s2"):
            save(few / f"semantic/{stem}.png", np.zeros((48, 64), np.uint8))
            edges = np.zeros((48, 64), np.uint8)
            edges[:, 32] = 255
            save(few / f"edges/{stem}.png", edges)
        run(job_of(few, "cut"))
        assert (written(few, "cut")["stuff_masks"], written(few, "cut")["false_pieces"]) == (9, 2)


class TestDetectedEdges:
    def test_each_image_is_looked_at_once(self, few: Path):
        detector = Detector(few)
        run(job_of(few, edges="teacher", keep=True), build=detector.build)
        assert detector.seen == {f"s{number}": 1 for number in range(9)}
        assert detector.built == 1
        assert not (few / "out/calibration").exists()
        records = job_of(few, edges="teacher").store.read_records()
        assert [record.facts["timestep"] for _, record in sorted(records.items())] == list(
            range(300, 309)
        )

    def test_labels_are_those_of_edges_that_were_not_kept(
        self, few: Path, monkeypatch: pytest.MonkeyPatch
    ):
        detector = Detector(few)
        run(job_of(few, "kept", edges="teacher", keep=True), build=detector.build)
        job = job_of(few, "anew", edges="teacher", keep=True)
        monkeypatch.setattr("trace_d2.jobs.kinds.cutting_job._write_sampled", lambda *_: None)
        run(job, build=detector.build)
        assert min(detector.seen.values()) >= 3
        assert contents(few / "anew") == contents(few / "kept")
        for stem in (entry.stem for entry in entries_of(few)):
            paths = [few / output / f"edges/{stem}.png" for output in ("kept", "anew")]
            assert paths[0].read_bytes() == paths[1].read_bytes()
        # Kept edges give the same labels and the same calibration again.
        (few / "edges").rename(few / "old edges")
        (few / "kept/edges").rename(few / "edges")
        run(job_of(few, "files"))
        assert contents(few / "files") == contents(few / "anew")

    def test_what_was_sampled_waits_for_its_turn_in_a_job_that_goes_on(self, few: Path):
        detector = Detector(few)
        job = job_of(few, edges="teacher")
        for index in (1, 2):
            run(job, shard=Shard(index, 2), build=detector.build)
        assert detector.seen.most_common(1)[0][1] == 1

    def test_merging_shards_drops_what_was_sampled(self, few: Path):
        detector = Detector(few)
        job = job_of(few, edges="teacher")
        for index in (1, 2):
            run(job, shard=Shard(index, 2), build=detector.build)
        merge_folder(LabelJob, job.store)
        assert not list((few / "out").rglob("*.npz"))

    def test_an_image_that_changed_meanwhile_is_looked_at_again(self, few: Path):
        detector = Detector(few)
        job = job_of(few, edges="teacher")
        run(job, shard=Shard(1, 2), build=detector.build)
        save(few / "images/s1.png", np.zeros((48, 64, 3), np.uint8))
        run(job, shard=Shard(2, 2), build=detector.build)
        assert {stem for stem, count in detector.seen.items() if count > 1} == {"s1"}

    def test_a_detector_that_fails_is_told_once_the_image_is_due(self, few: Path):
        detector = Detector(few)

        def broken(image: np.ndarray, stem: str) -> SimpleNamespace:
            if stem == "s2":
                raise RuntimeError("out of memory")
            return detector(image, stem)

        result = run(job_of(few, edges="teacher"), build=lambda: broken)
        assert [(record.stem, record.status) for record in result.failed] == [("s2", FAILED)]
        assert next(iter(result.failed)).reason.endswith("RuntimeError: out of memory")
        assert written(few)["images"] == 8

    def test_an_output_that_is_lost_is_no_fault_of_images(
        self, few: Path, monkeypatch: pytest.MonkeyPatch
    ):
        detector = Detector(few)
        fetch = JobStore.fetch

        def lost(self: JobStore, path: Path) -> Path:
            if path.suffix == ".npz" and path.is_file():
                raise OutputError("lost")
            return fetch(self, path)

        monkeypatch.setattr(JobStore, "fetch", lost)
        job = job_of(few, edges="teacher")
        with pytest.raises(OutputError, match="lost"):  # as kept edges are measured, or are due
            run(job, build=detector.build)
        assert not job.store.read_records()

        class Others:
            def look(self, job: LabelJob, entries: Sequence[ImageEntry]):
                for entry, looked in look_through(job, entries):
                    job.keep_seen(entry, looked)
                    yield entry

        job = job_of(few, "other", edges="teacher")
        monkeypatch.setattr(DETECTOR, lambda cfg: detector)
        with pytest.raises(OutputError, match="lost"):
            job.prepare(job.entries, 1, False, Others())
        assert not list(few.rglob("calibration.json"))

    def test_nothing_left_builds_no_detector(self, few: Path):
        detector = Detector(few)
        for built in (1, 1):
            run(job_of(few, edges="teacher"), build=detector.build)
            assert detector.built == built
