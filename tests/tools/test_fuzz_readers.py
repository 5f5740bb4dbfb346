"""Spoiled files of every kind: no reader ends in a traceback or gives something else in silence."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.detectron2

SEED = 11
TRIALS = {
    "labels": 40, "labels-merge": 60, "labels-again": 30, "masks": 40, "masks-list": 50,
    "masks-merge": 50, "masks-again": 20, "panoptic": 40, "edges": 40, "instances": 60,
    "instances-coco": 60, "self-training": 60, "oracle": 40, "train-panoptic": 40,
    "train-semantic": 25, "train-instances": 40, "train-edges": 30, "prepare-coco": 40,
    "prepare-sa1b": 40, "prepare-coco-2014": 40, "prepare-voc": 40, "checkpoints": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def fuzz(load_tool):
    return load_tool("fuzz_readers")


@pytest.mark.parametrize("name", TRIALS)
def test_no_traceback_no_silence_and_no_poor_message(
    name: str, fuzz, load_tool, tmp_path: Path
) -> None:
    trials = load_tool("fuzzing.trials")
    bench = trials.Bench(fuzz.all_readers()[name], tmp_path / "files")
    faults = [bench.judge(bench.draw(SEED, number)) for number in range(TRIALS[name])]
    wrong = [f"{fault.title}\n{fault.text}" for fault in faults if fault]
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize(
    ("reader", "file", "data"),
    [
        ("labels", "edges/2.npy", lambda h: h._npy("(20000, 20000)")),
        ("labels", "images/3.tif", lambda h: h._jpeg(65535)),
        ("labels", "semantic/1.png", lambda h: h.png(9000)),
        ("masks", "edges/1.png", lambda h: h._lying_png()),
        ("masks", "masks.json", lambda h: h._with_mask({"size": [1, 10**9], "counts": [10**9]})),
        ("panoptic", "truth/2.png", lambda h: h.png(5000, 3)),
        ("instances", "truth.json", lambda h: h._deep()),
        ("self-training", "labels.json", lambda h: h._digits()),
        ("prepare-voc", "VOC2012/SegmentationClass/2007_000001.png", lambda h: h.png(9000)),
    ],
)
def test_huge_content_is_refused_before_it_is_decoded(
    reader: str, file: str, data, fuzz, load_tool, tmp_path: Path
) -> None:
    hostile, trials = load_tool("fuzzing.hostile"), load_tool("fuzzing.trials")
    bench = trials.Bench(fuzz.all_readers()[reader], tmp_path / "files")
    spoiled = load_tool("fuzzing.mutations").Spoiled(file, "huge", "", data(hostile), True)
    memory = load_tool("measuring").PeakMemory()
    reading = bench.answer(spoiled)
    assert not reading.error
    new = [line for line in reading.words.splitlines() if line not in bench.undisturbed.words]
    assert Path(file).name in "\n".join(new)
    assert memory.growth() < 2**26


def test_spoiled_files_hang_on_seed_and_number(load_tool) -> None:
    mutations = load_tool("fuzzing.mutations")
    data = json.dumps({"a": [1, {"id": 2.5, "name": "x"}], "b": None}).encode()

    def draw(number: int) -> list[bytes]:
        rng = np.random.default_rng(number)
        return [mutations.spoil(rng, "a.json", data).data for _ in range(50)]

    assert draw(3) == draw(3)
    assert len(set(draw(3) + draw(4))) > 60


def test_repaired_checksums_are_right(load_tool) -> None:
    repair = load_tool("fuzzing.mutations").repair_checksums
    chunk = b"IEND"
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0) + chunk
    assert repair(png + b"oops") == png + struct.pack(">I", zlib.crc32(chunk))


def test_what_fails_is_kept_and_can_be_repeated(fuzz, load_tool, tmp_path: Path, capsys) -> None:
    trials, mutations = load_tool("fuzzing.trials"), load_tool("fuzzing.mutations")
    spoiled = mutations.Spoiled("truth.json", "garbage", "all of it", b"\xff\x00", True)
    case = trials.keep(trials.Fault("oracle", spoiled, trials.SILENT, "text"), tmp_path)
    assert trials.kept(case) == ("oracle", spoiled)
    assert fuzz.main(["--repeat", str(case)]) == 0
    assert "no fault any more" in capsys.readouterr().out


def test_silence_is_a_fault_and_a_word_is_none(load_tool, tmp_path: Path) -> None:
    trials, readers = load_tool("fuzzing.trials"), load_tool("fuzzing.readers")
    spoiled = load_tool("fuzzing.mutations").Spoiled("a.txt", "cut", "all", b"other", True)

    def bench(run) -> object:
        def make(folder: Path) -> None:
            (folder / "a.txt").write_text("sound")

        def read(folder: Path) -> int:
            (folder / "new").mkdir()
            return run((folder / "a.txt").read_text())

        def results(folder: Path) -> str:
            return (folder / "a.txt").read_text()

        return trials.Bench(
            readers.Reader("own", make, read, results, ("a.txt",)), tmp_path / "own"
        )

    def kind(run) -> str:
        fault = bench(run).judge(spoiled)
        assert not (tmp_path / "own/new").exists()
        assert (tmp_path / "own/a.txt").read_text() == "sound"
        return fault.kind if fault else ""

    def refuse(text: str) -> int:
        if text == "other":
            raise KeyError(text)
        return 0

    def say(text: str, status: int = 0) -> int:
        print("note: it is strange" if text == "other" else "fine")
        return 0 if text == "sound" else status

    assert kind(lambda text: 0) == trials.SILENT
    assert kind(say) == ""
    assert kind(refuse) == trials.TRACEBACK
    assert kind(lambda text: say(text, 2)) == trials.COMPLAINT
    assert kind(lambda text: 7 * (text == "other")) == trials.TRACEBACK
