"""The teacher's pseudo edges as users make them."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from edge_tools import DETECTOR, SIZE, STEMS, ToolJob, find_edges
from PIL import Image

from trace_d2.edges.abdiv import ternary_edges
from trace_d2.edges.sources import EdgeOutput
from trace_d2.io.edge_maps import quantise_edges, read_edges, read_ternary
from trace_d2.jobs.kinds.edges import PseudoEdgeJob


def test_files_of_pseudo_edges(edge_job, capsys) -> None:
    assert edge_job.run() == 0
    said = capsys.readouterr().out
    assert "5 finished (0 of them before), 0 skipped, 0 failed" in said
    assert re.search(r"pseudo edges: \d+\.\d% edge, \d+\.\d% none, \d+\.\d% ignored", said)
    for stem, record in edge_job.journal().items():
        found = find_edges(np.asarray(Image.open(edge_job.images / f"{stem}.png")), stem)
        labels = read_ternary(edge_job.output / f"pseudo_edges/{stem}.png")
        np.testing.assert_array_equal(labels, ternary_edges(found.abdiv, SIZE))
        edges = read_edges(edge_job.output / f"edges/{stem}.png")
        np.testing.assert_array_equal(edges, quantise_edges(found.edges))
        assert (record["status"], record["timestep"]) == ("done", 400)
        shares = [(labels == label).mean() for label in (1, 0, -1)]
        np.testing.assert_allclose(record["shares"], shares, atol=1e-6)
        note = json.loads((edge_job.output / f"annotations/{stem}.json").read_text())
        assert note == {"height": 12, "width": 16}
    page = (edge_job.output / "report.html").read_text()
    assert "<h1>Pseudo edges</h1>" in page
    assert "Instance emergence point" in page
    assert page.count("<figure>") == 3 * len(STEMS)


def test_images_without_negatives_are_told(edge_job, monkeypatch, capsys) -> None:
    tail = np.full((3, 4), 0.01, np.float32)
    tail[1, 1] = 1.0

    def detect(image: np.ndarray, key: str) -> SimpleNamespace:
        return EdgeOutput(edges=find_edges(image, key).edges, abdiv=tail, timestep=0)

    monkeypatch.setattr(DETECTOR, lambda cfg: detect)
    assert edge_job.run() == 0
    said = capsys.readouterr().out
    assert "5 of 5 images have no negative (none) pixel" in said
    assert "MODEL.TRACE.ABDIV.THRESHOLD upper_band takes" in said
    assert "no negative (none) pixel" in (edge_job.output / "report.html").read_text()
    assert edge_job.run("--overwrite", "MODEL.TRACE.ABDIV.THRESHOLD", "mean") == 0
    assert "no negative" not in capsys.readouterr().out
    assert edge_job.run("--overwrite", "MODEL.TRACE.ABDIV.THRESHOLD", "mean") == 0
    assert "5 finished (5 of them before)" in capsys.readouterr().out


def expected_contents(edge_job: ToolJob) -> dict[str, bytes]:
    """What an undisturbed run gives; removes it again."""
    assert edge_job.run() == 0
    contents = edge_job.contents()
    shutil.rmtree(edge_job.output)
    return contents


@pytest.mark.parametrize("target", ["keep_edges", "pictures", "write", "facts"])
def test_after_an_interrupt_the_same_command_goes_on(edge_job, target, monkeypatch, capsys) -> None:
    expected = expected_contents(edge_job)
    plain, calls = getattr(PseudoEdgeJob, target), []

    def interrupt(self, *inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(PseudoEdgeJob, target, interrupt)
        assert edge_job.run() == 130
    assert edge_job.merge() == 3
    assert "3 not finished yet" in (said := capsys.readouterr()).out
    assert "the same command continues" in said.err
    assert edge_job.run() == 0
    assert "5 finished (2 of them before)" in capsys.readouterr().out
    assert edge_job.contents() == expected


def test_shards_and_workers_make_the_files_of_one_run(edge_job, capsys) -> None:
    expected = expected_contents(edge_job)
    assert edge_job.run("--shard", "2/2", "--workers", "2") == 0
    said = capsys.readouterr().out
    assert "--merge" in said
    assert "pseudo edges: " in said
    assert edge_job.merge() == 3
    assert "3 not finished yet: run the missing shards" in capsys.readouterr().out
    assert edge_job.run("--shard", "1/2") == 0
    assert edge_job.merge() == 0
    assert "5 finished" in capsys.readouterr().out
    assert edge_job.contents() == expected
    assert not list((edge_job.output / "shards").iterdir())
    assert sorted(edge_job.journal()) == STEMS


def test_changed_settings_need_overwrite(edge_job, capsys) -> None:
    assert edge_job.run() == 0
    before = edge_job.contents()
    assert edge_job.run("MODEL.TRACE.ABDIV.THRESHOLD", "mean") == 2
    assert "THRESHOLD: mean_std there, mean now" in capsys.readouterr().err
    assert edge_job.contents() == before
    (edge_job.images / "s4.png").unlink()
    assert edge_job.run("MODEL.TRACE.ABDIV.THRESHOLD", "mean", "--overwrite") == 0
    assert -1 not in read_ternary(edge_job.output / "pseudo_edges/s0.png")
    assert not (edge_job.output / "pseudo_edges/s4.png").exists()


def test_a_damaged_image_is_recorded_and_made_once_it_is_whole(edge_job, capsys) -> None:
    path = edge_job.images / "s2.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:-60])
    assert edge_job.run() == 3
    assert "4 finished (0 of them before), 0 skipped, 1 failed" in (said := capsys.readouterr()).out
    assert re.search(r"failed: s2\.png: .*cannot be read", said.err)
    assert "s2.png" in (edge_job.output / "report.html").read_text()
    assert not (edge_job.output / "edges/s2.png").exists()
    path.write_bytes(whole)
    assert edge_job.run() == 0
    assert "5 finished (4 of them before)" in capsys.readouterr().out
    assert len(edge_job.contents()) == 4 * len(STEMS)


def test_a_changed_image_and_a_lost_file_are_made_again(edge_job, capsys) -> None:
    expected = expected_contents(edge_job)
    assert edge_job.run() == 0
    (edge_job.output / "pseudo_edges/s1.png").unlink()
    time.sleep(0.01)
    (edge_job.images / "s3.png").write_bytes((edge_job.images / "s3.png").read_bytes())
    assert edge_job.run() == 0
    assert "5 finished (3 of them before)" in capsys.readouterr().out
    assert edge_job.contents() == expected


def test_the_next_image_is_read_while_one_is_looked_at(edge_job, monkeypatch) -> None:
    read: dict[str, threading.Event] = {stem: threading.Event() for stem in STEMS}
    plain = PseudoEdgeJob.load

    def load(self, entry):
        read[entry.stem].set()
        return plain(self, entry)

    def detect(image: np.ndarray, key: str) -> SimpleNamespace:
        following = STEMS.index(key) + 1
        if following < len(STEMS):
            assert read[STEMS[following]].wait(30), f"{STEMS[following]} is not read ahead"
        if following + 1 < len(STEMS):  # and memory stays bounded
            assert not read[STEMS[following + 1]].is_set()
        return find_edges(image, key)

    monkeypatch.setattr(PseudoEdgeJob, "load", load)
    monkeypatch.setattr(PseudoEdgeJob, "probe", lambda *_: None)  # which reads some before
    monkeypatch.setattr(DETECTOR, lambda cfg: detect)
    assert edge_job.run() == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shard", "3/2"], r"--shard is I/N"),
        (["--config-file", "nowhere.yaml"], r"no config file at nowhere\.yaml"),
        (["MODEL.TRACE.NONSENSE", "1"], r"NONSENSE"),
        (["--images", "nowhere"], r"no folder of images at nowhere"),
    ],
)
def test_usage_errors(edge_job, capsys, extra: list[str], message: str) -> None:
    assert edge_job.run(*extra) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not edge_job.output.exists()
    assert edge_job.tool.main([]) == 2
    assert "--images, --output missing" in capsys.readouterr().err


def test_the_teacher_looks_whatever_the_source_is(edge_job, tmp_path, capsys) -> None:
    config = tmp_path / "distill.yaml"
    config.write_text(
        "MODEL: {META_ARCHITECTURE: X, TRACE: {SEED: 7, EDGES: {SOURCE: student}}}\n"
        "SOLVER: {MAX_ITER: 9}\nINPUT: {FORMAT: RGB}\nVERSION: 2\n"
    )
    assert edge_job.run("--config-file", str(config)) == 0
    settings = json.loads((edge_job.output / "settings.json").read_text())
    assert (settings["edges"], settings["MODEL.TRACE.SEED"]) == ("teacher", 7)
    config.write_text("MODEL: {TRACE: {SEED: 7}}\nSOLVER: {MAX_ITER: 9}\n")
    assert edge_job.run("--config-file", str(config)) == 2  # no training config, so a misspelt key
    assert "SOLVER" in capsys.readouterr().err
