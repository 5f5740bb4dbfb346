"""Jobs whose inputs lie in an object store: the same results, and what is said of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trace_d2.edges.sources import EdgeOutput
from trace_d2.io import remote
from trace_d2.io.edge_maps import write_edges
from trace_d2.io.images import read_image
from trace_d2.io.listing import ImageFinder, list_images
from trace_d2.io.remote import RemoteFolder, StoreError
from trace_d2.io.subfolders import files_by_stem, walk_folder

STEMS = ("a", "in/b", "in/deep/c", "1")


class Uploaded:
    """The inputs of a job in a store, and the job on them.

    Args:
        job: of ``label_job`` or ``mask_job``.
        store: of ``bucket`` or ``memory_store``.
    """

    def __init__(self, job: Any, store: Any) -> None:
        self.job, self.store = job, store
        self.local = {"--images": job.root / "images", "--edges": job.root / "edges"}
        if hasattr(job, "categories"):
            self.local |= {"--semantic": job.root / "semantic", "--categories": job.categories}
        else:
            self.local["--masks"] = job.masks

    def upload(self) -> None:
        for path in self.local.values():
            if path.is_dir():
                self.store.put_folder(path, path.name)
            else:
                self.store.put(path.name, path.read_bytes())

    def arguments(self, *extra: str) -> list[str]:
        arguments = self.job.arguments(*extra)
        for option, path in self.local.items():
            arguments[arguments.index(option) + 1] = f"{self.store.url}/{path.name}"
        return arguments

    def run(self, *extra: str) -> int:
        return self.job.tool.main(self.arguments(*extra))

    def settings(self) -> dict[str, Any]:
        return json.loads((self.job.work / "settings.json").read_text())


@pytest.fixture
def labels(label_job: Any, bucket: Any) -> Uploaded:
    """Images, masks and edges of labels in a bucket, with some that are peculiar."""
    label_job.add(*STEMS, "turned")
    image = Image.open(label_job.root / "images/turned.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("semantic", "edges"):  # of the image as people see it
        path = label_job.root / kind / "turned.png"
        Image.open(path).transpose(Image.Transpose.ROTATE_270).save(path)
    image.save(label_job.root / "images/turned.jpg", exif=exif)
    (label_job.root / "images/turned.png").unlink()
    path = label_job.root / "edges/a.png"
    write_edges(path.with_suffix(".npy"), np.asarray(Image.open(path)) / np.float32(255))
    path.unlink()
    label_job.save("images/in/nomask.png", np.zeros((24, 32, 3), np.uint8))
    label_job.save("images/broken.png", np.zeros((24, 32, 3), np.uint8))
    label_job.save("semantic/broken.png", np.zeros((24, 32), np.uint8))
    label_job.save("edges/broken.png", np.zeros((24, 32), np.uint8))
    (label_job.root / "images/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    uploaded = Uploaded(label_job, bucket)
    uploaded.upload()
    return uploaded


def test_labels_from_a_bucket_are_those_of_files(labels, capsys) -> None:
    job, url = labels.job, labels.store.url
    assert job.run() == 3
    local, journal = job.contents(), job.journal()
    said = capsys.readouterr().out.replace(str(job.root), url)
    job.output = job.work = job.output.with_name("again")
    assert labels.run("--workers", "2") == 3
    by_address = capsys.readouterr().out.replace(str(job.output), f"{url}/out")
    assert by_address == said
    assert job.contents() == local
    assert labels.settings()["images"] == f"{url}/images"
    assert labels.settings()["semantic"] == f"{url}/semantic"
    assert labels.settings()["edges"] == f"{url}/edges"
    again = job.journal()
    for stem, record in journal.items():
        for key in ("status", "notes", "facts"):
            assert again[stem][key] == record[key]
        assert again[stem]["reason"] == record["reason"].replace(str(job.root), url)
    assert f"{url}/images/broken.png cannot be read" in job.reason("broken")
    assert f"no semantic mask at {url}/semantic/in/nomask.png" in job.reason("in/nomask")
    page = (job.output / "report.html").read_text()
    assert f"{url}/images" in page
    assert str(job.root / "images") not in page


def test_only_what_changed_is_made_again(labels, capsys) -> None:
    assert labels.run() == 3
    labels.job.save("edges/1.png", np.zeros((24, 32), np.uint8))
    labels.store.put("edges/1.png", (labels.job.root / "edges/1.png").read_bytes())
    labels.store.put("images/in/b.png", labels.store.get("images/a.png"))
    labels.store.put("images/a.png", labels.store.get("images/a.png"))  # the same again
    capsys.readouterr()
    assert labels.run() == 3
    assert "5 labelled (3 of them before), 1 skipped, 1 failed" in capsys.readouterr().out
    assert labels.job.run() == 2
    assert "images: " in capsys.readouterr().err


def test_masks_are_refined_from_a_store(mask_job, memory_store) -> None:
    mask_job.add("x.png", "in/y.png", "z.png")
    assert mask_job.run() == 0
    local = mask_job.refined()
    mask_job.output = mask_job.root / "out/again.json"
    mask_job.work = mask_job.root / "out/again.json.work"
    uploaded = Uploaded(mask_job, memory_store)
    uploaded.upload()
    assert uploaded.run() == 0
    assert mask_job.refined() == local
    assert uploaded.settings()["masks"] == f"{memory_store.url}/masks.json"
    by_name = ImageFinder(f"{memory_store.url}/images")
    assert [by_name.find(name) for name in ("x", "deep/in/y.png", "y")] == [
        *("x.png", "in/y.png", "in/y.png")
    ]


def test_edges_and_masks_are_found_in_images_of_a_store(
    label_job, memory_store, load_tool, tmp_path
) -> None:
    label_job.add("a", "in/b")
    url = memory_store.put_folder(label_job.root / "images", "images")
    edges = memory_store.put_folder(label_job.root / "edges", "edges")
    discover = load_tool("discover_masks").main
    for images, given, name in (
        (str(label_job.root / "images"), str(label_job.root / "edges"), "local.json"),
        (url, edges, "remote.json"),
    ):
        options = ["--images", images, "--method", "edges", "--edges", given, "--quiet"]
        assert discover([*options, "--workers", "1", "--output", str(tmp_path / name)]) == 0
    found = [json.loads((tmp_path / name).read_text()) for name in ("local.json", "remote.json")]
    assert found[0] == found[1]
    assert len(found[0]["images"]) == 2


def test_edges_are_detected_in_images_of_a_store(
    label_job, memory_store, load_tool, tmp_path, monkeypatch
) -> None:
    seen: list[tuple[str, int]] = []

    def find(image: np.ndarray, key: str) -> SimpleNamespace:
        seen.append((key, int(image.sum())))
        edges = image[..., 0] / np.float32(255)
        return EdgeOutput(edges=edges, abdiv=edges[::2, ::2], timestep=400)

    monkeypatch.setattr("trace_d2.jobs.kinds.edge_job.build_edge_source", lambda cfg: find)
    label_job.add("a", "in/b")
    url = memory_store.put_folder(label_job.root / "images", "images")
    detect, found = load_tool("make_pseudo_edges").main, []
    for images, name in ((str(label_job.root / "images"), "local"), (url, "remote")):
        options = ["--images", images, "--output", str(tmp_path / name), "--quiet"]
        assert detect([*options, "--workers", "1"]) == 0
        results = (tmp_path / name / "pseudo_edges").rglob("*.png")
        found.append({path.name: path.read_bytes() for path in results})
    assert found[0] == found[1]
    assert len(found[0]) == 2
    assert seen[:2] == seen[2:]


def test_what_is_wrong_with_addresses_is_said_at_once(label_job, bucket, capsys) -> None:
    label_job.add("a")
    uploaded = Uploaded(label_job, bucket)
    bucket.put("semantic/a.png", b"")
    assert uploaded.run() == 2
    said = capsys.readouterr().err
    assert f"no folder at {bucket.url}/edges: correct --edges" in said
    assert f"no folder of images at {bucket.url}/images: correct --images" in said
    assert f"no categories file at {bucket.url}/categories.json: give a JSON file" in said
    assert not label_job.output.exists()
    lost = f"{bucket.url}-no"
    assert uploaded.run("--images", f"{lost}/images", "--images-json", f"{lost}/list.json") == 2
    said = capsys.readouterr().err
    assert f"no folder of images at {lost}/images (there is no bucket {lost}): correct --im" in said
    assert f"no list of images at {lost}/list.json: correct --images-json" in said


def test_addresses_that_are_none_are_refused_by_option(label_job, capsys, monkeypatch) -> None:
    monkeypatch.chdir(label_job.root)
    label_job.add("a")
    label_job.output = "s3:/bucket/labels"
    assert label_job.run("--images", "s3://", "MODEL.TRACE.EDGES.DIR", "gs:/bucket/edges") == 2
    said = capsys.readouterr().err
    assert "--output is s3:/bucket/labels: an address is s3://BUCKET/PATH" in said
    assert "--images is s3://: it names no bucket; an address is s3://BUCKET/PATH" in said
    assert "MODEL.TRACE.EDGES.DIR is gs:/bucket/edges: an address is gs://BUCKET/PATH" in said
    for name, what in (("s3://", "it names no bucket"), ("s3://bucket//x", "it has // within")):
        label_job.output = name
        assert label_job.run() == label_job.merge() == 2
        said = capsys.readouterr().err
        assert f"--output is {name}: {what}; an address is" in said
        assert f"--merge is {name}: {what}; an address is" in said
    assert not list(label_job.root.glob("s3*"))


def test_a_store_that_ends_stops_the_job(label_job, memory_store, monkeypatch, capsys) -> None:
    label_job.add("a", "b", "c")
    uploaded = Uploaded(label_job, memory_store)
    uploaded.upload()
    fetch, left = remote.RemoteFile._fetch, ["b"]

    def interrupted(self: remote.RemoteFile) -> bytes:
        if self.stem in left and self.address.endswith(f"images/{self.name}"):
            raise ConnectionError(f"{self} cannot be read (reset): look whether")
        return fetch(self)

    monkeypatch.setattr(remote, "_WAITS", ())
    monkeypatch.setattr(RemoteFolder, "answers", lambda self: not left)
    monkeypatch.setattr(remote.RemoteFile, "_fetch", interrupted)
    assert uploaded.run() == 1
    said = capsys.readouterr().err
    assert f"stopped: {memory_store.url}/images/b.png cannot be read (reset)" in said
    assert "Finished images are safe, and the same command continues" in said
    assert not label_job.output.exists()  # as it was met before anything was written
    with monkeypatch.context() as patch:
        patch.setattr("trace_d2.jobs.command_line.look_at_some", lambda *_: None)
        assert uploaded.run() == 1
    assert "stopped: " in capsys.readouterr().err
    # It was met as edges were measured, which is not done with what is left of them.
    assert not (label_job.output / "calibration.json").exists()
    left.clear()
    assert uploaded.run() == 0
    whole = label_job.contents()
    left.append("c")
    memory_store.put("images/c.png", memory_store.get("images/b.png"))
    assert uploaded.run() == 1
    assert "stopped: " in capsys.readouterr().err
    left.clear()
    assert uploaded.run() == 0
    assert "3 labelled (2 of them before)" in capsys.readouterr().out
    assert label_job.contents().keys() == whole.keys()


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM", "WEBP", "JPEG", "PNG", "GIF"])
def test_images_of_all_kinds_are_read_as_files_are(kind, tmp_path, memory_store) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    path = tmp_path / f"x.{kind.lower()}"
    Image.fromarray(pixels).save(path, kind, **options)
    url = memory_store.put(f"p/{path.name}", path.read_bytes())
    folder, _, name = url.rpartition("/")
    found = read_image(RemoteFolder(folder) / name)
    assert (found.pixels == read_image(path).pixels).all()
    assert str(found.path) == url


def test_folders_are_searched_by_the_same_rules(tmp_path, memory_store) -> None:
    names = (
        *("x.png", "a/y.png", "a/.hidden/z.png", ".z.png", "__MACOSX/x.png", "A/q.JPG"),
        *("done/settings.json", "done/journal.jsonl", "done/panoptic/x.png", "masks/x.png"),
        *("masks/deep/u.png", "ü.png", "masks2/v.png", "a/no.txt"),
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    url = memory_store.put_folder(tmp_path, "images")
    local = list_images(tmp_path, [tmp_path / "masks", None, tmp_path])
    others = [f"{url}/masks", RemoteFolder(url), None, "memory://elsewhere", tmp_path, "s3://b/c"]
    assert list_images(url, others[:5]) == local
    assert [*local] == ["x", "ü", "A/q", "a/y", "masks2/v"]
    assert files_by_stem(url, (".png",)) == files_by_stem(tmp_path, (".png",))
    assert dict(walk_folder(f"{url}/a")) == {"": ["no.txt", "y.png"]}
    memory_store.put("images/x.jpg", b"")
    with pytest.raises(ValueError, match=rf"{url}/x\.jpg and {url}/x\.png share the stem 'x'"):
        list_images(url)


def test_lost_stores_are_no_missing_files() -> None:
    assert not issubclass(StoreError, (OSError, ValueError))
