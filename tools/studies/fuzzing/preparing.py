"""Readers of the scripts in ``datasets/``, of students' folders and of checkpoints."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from trace_d2.config import get_trace_cfg
from trace_d2.edges.student_files import CALIBRATION_NAME, FILES, student_folder
from trace_d2.engine.checkpointer import TraceCheckpointer
from trace_d2.propagation.calibration import EdgeCalibration

from . import files
from .readers import Reader, load_json, pixels_print

_SCRIPTS = Path(__file__).resolve().parents[3] / "datasets"
_read_students: dict[Path, Any] = {}  # what the last reading gave, by folder
_read_weights: dict[Path, Any] = {}


def _prepare(script: str, folder: Path, *more: str) -> int:
    spec = importlib.util.spec_from_file_location(script, _SCRIPTS / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    status: int = module.main(["--root", str(folder), "--quiet", *more])
    return status


def _make_coco(folder: Path) -> None:
    files.write_instances(folder / "coco/annotations/instances_val2017.json")


def _coco_one_class(folder: Path) -> Any:
    return load_json(folder / "coco/annotations/coco_cls_agnostic_instances_val2017.json")


def _make_sa1b(folder: Path) -> None:
    files.write_images(folder / "sa1b/images")
    for entry in files.image_entries():
        rows = [row for row in files.instances() if row["image_id"] == entry["id"]]
        stem = f"sa_{entry['id']}"
        source = folder / "sa1b/images" / entry["file_name"]
        source.rename(source.with_name(f"{stem}.jpg"))
        image = {**entry, "image_id": entry["id"], "file_name": f"{stem}.jpg"}
        content = {"image": image, "annotations": rows}
        files.write_json(folder / f"sa1b/images/{stem}.json", content)


def _sa1b(folder: Path) -> Any:
    return load_json(folder / "sa1b/annotations/sa1b_cls_agnostic.json")


def _make_coco_2014(folder: Path) -> None:
    own = folder / "coco/annotations"
    files.write_panoptic(own / "panoptic_train2017.json", folder / "unused")
    shutil.rmtree(folder / "unused")
    content = json.loads((own / "panoptic_train2017.json").read_text())
    for part, chosen in (("train", slice(2)), ("val", slice(2, None))):
        part_of = {**content, "annotations": content["annotations"][chosen]}
        files.write_json(own / f"panoptic_{part}2017.json", part_of)
    files.write_json(own / "instances_val2014.json", {"images": files.image_entries()})


def _coco_2014(folder: Path) -> Any:
    return load_json(folder / "coco/annotations/panoptic_val2014.json")


def _make_voc(folder: Path) -> None:
    voc, sbd = folder / "VOC2012", folder / "sbd"
    lists = voc / "ImageSets/Segmentation"
    for path, text in (
        (lists / "train.txt", "2007_000001\n"), (lists / "val.txt", "2007_000002\n"),
        (sbd / "train.txt", "2008_000003\n"), (sbd / "val.txt", "2007_000002\n"),
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    ids = files.segment_map("1")
    objects = np.select((ids == 1, ids == 300), (1, 2), 0).astype(np.uint8)
    classes = (objects > 0).astype(np.uint8) * 12
    for kind, mask in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        image = Image.fromarray(mask)
        image.putpalette([value for i in range(256) for value in (i, 255 - i, 7 * i % 256)])
        (voc / kind).mkdir()
        image.save(voc / kind / "2007_000001.png")
    for stem in ("2007_000001", "2008_000003"):
        files.save(voc / f"JPEGImages/{stem}.jpg", np.zeros((*ids.shape, 3), np.uint8))
    (sbd / "inst").mkdir()
    truth = {"Segmentation": objects, "Categories": np.array([[12], [15]], np.uint8)}
    savemat(sbd / "inst/2008_000003.mat", {"GTinst": truth})


def _voc(folder: Path) -> Any:
    own = folder / "VOC2012/panoptic_train_aug"
    names = ("panoptic.json", "instances.json", "class_agnostic.json", "categories.json")
    pixels = {path.name: pixels_print(path) for path in sorted(own.glob("panoptic/*.png"))}
    return [*(load_json(own / name) for name in names), pixels]


def _make_student(folder: Path) -> None:
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.NAME = "trace-tiny"
    source = student_folder(cfg)
    for name in (*FILES, CALIBRATION_NAME):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _load_student(folder: Path) -> int:
    from trace_d2.edges.detector import StudentDetector  # with all of diffusers

    cfg = get_trace_cfg()
    trace = cfg.MODEL.TRACE
    trace.DEVICE, trace.BACKBONE.NAME, trace.EDGES.SOURCE = "cpu", "trace-tiny", "student"
    trace.STUDENT.WEIGHTS = str(folder)
    try:
        student = StudentDetector.from_config(cfg).student
        calibration = EdgeCalibration.load(folder / CALIBRATION_NAME)
    except (ValueError, OSError) as error:
        print(f"error: {error}")
        return 2
    _read_students[folder] = [
        _print_of(student.state_dict()), list(student.blocks), student.decoder.settings,
        calibration.to_json(),
    ]  # fmt: skip
    return 0


def _student(folder: Path) -> Any:
    return _read_students.pop(folder)


def _net() -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Module()
    net.backbone = torch.nn.Linear(3, 2)
    return net


def _make_checkpoints(folder: Path) -> None:
    import pickle

    saver = TraceCheckpointer(_net(), str(folder / "out"))
    (folder / "out").mkdir()
    saver.save("model_0000001", iteration=1)
    state = {name: tensor.numpy() for name, tensor in _net().state_dict().items()}
    with open(folder / "weights.pkl", "wb") as file:
        pickle.dump({"model": state, "__author__": "zoo"}, file)


def _load_checkpoints(folder: Path) -> int:
    found = []
    try:
        for resume in (False, True):
            net = _net()
            loader = TraceCheckpointer(net, str(folder / "out"))
            loader.resume_or_load(str(folder / "weights.pkl"), resume=resume)
            found.append(_print_of(net.state_dict()))
    except (ValueError, OSError) as error:
        print(f"error: {error}")
        return 2
    _read_weights[folder] = found
    return 0


def _weights(folder: Path) -> Any:
    return _read_weights.pop(folder)


def _print_of(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode() + tensor.float().numpy().tobytes())
    return digest.hexdigest()[:12]


PREPARING_READERS: Sequence[Reader] = (
    Reader(
        "prepare-coco", _make_coco, lambda folder: _prepare("prepare_coco_class_agnostic", folder),
        _coco_one_class, ("coco/annotations/*",),
    ),
    Reader(
        "prepare-sa1b", _make_sa1b, lambda folder: _prepare("prepare_sa1b_class_agnostic", folder),
        _sa1b, ("sa1b/images/*.json",),
    ),
    Reader(
        "prepare-coco-2014", _make_coco_2014,
        lambda folder: _prepare("prepare_coco_2014_panoptic", folder, "--splits", "val"),
        _coco_2014, ("coco/annotations/*",),
    ),
    Reader(
        "prepare-voc", _make_voc,
        lambda folder: _prepare(
            "prepare_voc_panoptic", folder, "--splits", "train_aug", "--workers", "1"
        ),
        _voc, ("VOC2012/ImageSets/*/*", "VOC2012/Segmentation*/*", "sbd/*.txt", "sbd/inst/*"),
    ),
    Reader("student", _make_student, _load_student, _student, (*FILES, CALIBRATION_NAME)),
    Reader(
        "checkpoints", _make_checkpoints, _load_checkpoints, _weights,
        ("out/*", "weights.pkl"),
    ),
)  # fmt: skip
