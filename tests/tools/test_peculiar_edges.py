"""Edges that cut nothing, or claim a size that no edges have, as the label tools take them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image


def test_labels_of_edges_that_cut_nothing_are_counted_and_noted(label_job, capsys) -> None:
    label_job.add("a", "b", "c", "d")
    for stem, low in (("a", np.uint8(1)), ("b", np.uint16(255))):
        edges = np.array(Image.open(label_job.root / f"edges/{stem}.png")) > 0
        label_job.save(f"edges/{stem}.png", edges.astype(low.dtype) * low)
    blank = label_job.root / "edges/c.png"
    np.save(blank.with_suffix(".npy"), np.array(Image.open(blank), np.float32) / 255**2)
    blank.unlink()
    assert label_job.run() == 0
    said = "the edges of 3 of 4 images are empty, or fainter than 1/60 everywhere, and cut nothing"
    assert f"warning: {said}" in capsys.readouterr().err
    assert said in (label_job.output / "report.html").read_text(encoding="utf-8")
    journal = label_job.journal()
    for stem in "abc":
        assert "the edges are nowhere stronger than 0.0039 of 1" in journal[stem]["notes"][0]
    assert journal["d"]["notes"] == []
    assert label_job.run() == 0  # nothing is left to do, and it is said again
    assert f"warning: {said}" in capsys.readouterr().err


def test_inverted_edges_are_counted(label_job, capsys) -> None:
    label_job.add("a", "b", "c")
    path = label_job.root / "edges/b.png"
    edges = np.array(Image.open(path))
    label_job.save("edges/b.png", np.iinfo(edges.dtype).max - edges)
    assert label_job.run() == 0
    said = "warning: in 1 of 3 images most pixels are edges: is the map inverted? Edges are bright"
    assert said in capsys.readouterr().err


def test_a_bomb_among_the_edges_costs_nothing(label_job) -> None:
    label_job.add("x", "y")
    path = label_job.root / "edges/x.png"
    content = path.read_bytes()
    for side, message in ((14000, "14000x14000 pixels, but the image"), (30000, "are not read")):
        head = b"IHDR" + struct.pack(">2I", side, side) + content[24:29]
        checksum = struct.pack(">I", zlib.crc32(head))
        path.write_bytes(content[:12] + head + checksum + content[33:])
        assert label_job.run() == 3
        assert message in label_job.journal()["x"]["reason"]
        assert label_job.journal()["y"]["status"] == "done"


def test_masks_refined_by_edges_that_cut_nothing_are_counted_and_noted(mask_job, capsys) -> None:
    mask_job.add("a.png", "b.png")
    path = mask_job.root / "edges/a.png"
    Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8)).save(path)
    assert mask_job.run() == 0
    assert "the edges of 1 of 2 images are empty, or fainter" in capsys.readouterr().err
    assert "nowhere stronger than 0.0039" in mask_job.journal()["a"]["notes"][0]
