"""A job measures what its edges mean on a sample of its images, once, and all shards alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from trace_d2.config import get_trace_cfg
from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.categories import Category
from trace_d2.io.edge_maps import read_edges
from trace_d2.io.listing import list_images
from trace_d2.jobs.engine import RunOptions, merge_folder, run_job
from trace_d2.jobs.journal import FAILED, ImageEntry
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.locks import Shard
from trace_d2.jobs.looking import look_through
from trace_d2.jobs.outcome import FactCounts
from trace_d2.jobs.output import OutputError, SettingsChangedError
from trace_d2.jobs.store import JobStore
from trace_d2.jobs.trust import trust_facts, trust_warnings
from trace_d2.propagation.calibration import SAMPLE_IMAGES, EdgeCalibration

CATEGORIES = (
    Category(0, "ground", False, (90, 90, 90)),
    Category(3, "cat", True, (220, 20, 60)),
)
CALIBRATION = ("MODEL.TRACE.EDGES.CALIBRATION",)
DETECTOR = "trace_d2.jobs.kinds.edge_job.build_edge_source"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


def add(root: Path, *stems: str, useless: bool = False) -> None:
    """Images of 48 x 64 with a cat of its own place each, or two that touch in every fourth."""
    for stem in stems:
        rng = np.random.default_rng([ord(letter) for letter in stem])
        mask, edges = np.zeros((48, 64), np.uint8), np.zeros((48, 64))
        top, left = int(rng.integers(2, 8)), int(rng.integers(2, 8))
        mask[top : top + 36, left : left + 50] = 3
        edges[top : top + 36, [left - 1, left + 49]] = rng.uniform(0.8, 1)
        edges[[top - 1, top + 35], left : left + 50] = rng.uniform(0.8, 1)
        if int(stem[-1]) % 4 == 0:
            edges[top : top + 36, left + 25] = 1
        edges += 0.1 * rng.random(edges.shape)
        if useless:
            edges = rng.random(edges.shape)
        save(root / f"images/{stem}.png", rng.integers(0, 256, (48, 64, 3), np.uint8))
        save(root / f"semantic/{stem}.png", mask)
        save(root / f"edges/{stem}.png", (255 * edges.clip(0, 1)).astype(np.uint8))


def job_of(
    root: Path, output: str = "out", *pairs: object, edges: str | None = None, keep: bool = False
) -> LabelJob:
    cfg = get_trace_cfg()
    cfg.merge_from_list(list(pairs))
    cfg.MODEL.TRACE.EDGES.SOURCE = edges or "files"
    cfg.MODEL.TRACE.EDGES.DIR = str(root / "edges")
    folders = (root / "images", root / "semantic")
    return LabelJob(cfg, *folders, CATEGORIES, root / output, entries_of(root), save_edges=keep)


def entries_of(root: Path) -> list[ImageEntry]:
    names = list_images(root / "images").items()
    return [ImageEntry(stem, name, rank) for rank, (stem, name) in enumerate(names, start=1)]


def run(
    job: LabelJob,
    entries: Sequence[ImageEntry] | None = None,
    build: Callable[[], Detector] | None = None,
    **options: object,
):
    job.entries = entries_of(job.images.parent) if entries is None else entries
    with patch(DETECTOR, lambda cfg: build()):
        return run_job(job, RunOptions(**options))


def written(root: Path, output: str = "out") -> dict:
    return json.loads((root / output / "calibration.json").read_text())


def contents(output: Path) -> dict[str, bytes]:
    """All that must not depend on how the job was run."""
    names = ("panoptic", "semantic", "annotations")
    paths = [output / name for name in ("panoptic.json", "instances.json", "calibration.json")]
    paths += [path for name in names for path in (output / name).iterdir()]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


class Detector:
    """Edges from the files, with some noise, and how often each image was looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: Counter[str] = Counter()
        self.built = 0

    def build(self) -> Detector:
        self.built += 1
        return self

    def __call__(self, image: np.ndarray, stem: str) -> SimpleNamespace:
        self.seen[stem] += 1
        noise = np.random.default_rng(ord(stem[-1])).random(image.shape[:2], dtype=np.float32)
        edges = 0.95 * read_edges(self.root / f"edges/{stem}.png") + 0.05 * noise
        return EdgeOutput(edges=edges, timestep=300 + int(stem[-1]))


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of more images than are sampled, one of them without a mask."""
    add(tmp_path, *(f"s{number:02}" for number in range(SAMPLE_IMAGES + 12)))
    (tmp_path / "semantic/s05.png").unlink()
    return tmp_path


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder of nine images."""
    add(tmp_path, *(f"s{number}" for number in range(9)))
    return tmp_path


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
