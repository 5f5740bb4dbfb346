#!/usr/bin/env python3
"""Hashes of what every job, evaluator, mapper and scene gives, to hold while code is moved.

    python tests/golden.py write    # before: tests/golden.json
    python tests/golden.py check    # after: names every result that differs; exit status 1

Runs the command lines that users run on a few small scenes, in minutes on two cores. Times,
absolute paths and what follows from them stay out. The hashes belong to one machine and one set of
library versions (floating-point kernels differ), so write them where they are checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
REPOSITORY = Path(__file__).resolve().parents[1]
HASHES = Path(__file__).with_suffix(".json")
CONFIG = str(REPOSITORY / "configs" / "edges" / "trace_tiny.yaml")
SOURCE = "MODEL.TRACE.EDGES.SOURCE"
# Of a record in the journal: what does not hang on clocks, paths and file times.
RECORD_KEYS = ("file_name", "status", "reason", "segments", "things", "given", "notes", "timestep")
COUNTS = {"segments": 0, "things": 0, "given": 0}  # what format 1 had where there were none
UNSTABLE = {"report.html", "settings.json", "images.json"}


def main() -> int:
    """Make all results and write or check their hashes; returns the exit status."""
    mode = sys.argv[1] if len(sys.argv) == 2 else ""
    if mode not in ("write", "check"):
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        found = make_all(Path(folder))
    if mode == "write":
        HASHES.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{len(found)} hashes in {HASHES}")
        return 0
    expected = json.loads(HASHES.read_text(encoding="utf-8"))
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    print("\n".join(f"differs: {key}" for key in wrong) or f"{len(found)} results as before")
    return 1 if wrong else 0


def make_all(folder: Path) -> dict[str, str]:
    """Results by name, hashed; everything is written below ``folder``."""
    os.chdir(folder)  # so that messages and files name relative paths
    os.environ["TRACE_D2_CACHE"] = str(folder / "cache")
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    sys.path.insert(0, str(REPOSITORY / "tools"))
    texts = {}
    for name, command in COMMANDS:
        texts[name] = run(name.split()[0], command.split())
    hashes = {f"{name}: output": digest(text) for name, text in texts.items()}
    for path in sorted(p for p in Path().rglob("*") if p.is_file()):
        hidden = any(part.startswith(".") for part in path.parts) or path.parts[0] == "cache"
        if not hidden and path.name not in UNSTABLE:
            hashes[path.as_posix()] = digest(stable(path, folder))
    return {**hashes, **mapped()}


TRUTH = "--truth-json scenes/panoptic.json --truth-dir scenes/panoptic"
LABELS = "--images scenes/images --semantic scenes/semantic --categories scenes/categories.json"
FAST = f"--config-file {CONFIG} --workers 1 --quiet"
# Seven masks an image that merge what touches, with and without categories.
MASKS = "--images scenes/images --masks merged.json"
COMMANDS = [
    ("make_scenes", "--output scenes --count 6 --size 96 112 --semantic-noise 0.3 --workers 1"),
    ("make_oracle", f"{TRUTH} --output oracle --gaps 0.2"),
    *(
        (f"make_pseudo_panoptic {name}", f"{LABELS} --output {name} {FAST} {options}")
        for name, options in {
            "none": "--no-edges",
            "oracle_edges": "--edges oracle/edges",
            "components": "--edges oracle/edges MODEL.TRACE.LABELS.CUT components",
            "void": "--edges oracle/edges MODEL.TRACE.LABELS.TINY_PIECES void",
            "teacher": f"--save-edges {SOURCE} teacher MODEL.TRACE.EMERGENCE.STRIDE 250",
            "student": f"--save-edges --report-images 2 {SOURCE} student",
            "shards": "--edges oracle/edges --shard 1/2",
        }.items()
    ),
    ("make_pseudo_panoptic more", f"{LABELS} --output shards {FAST} --edges oracle/edges "
     "--shard 2/2"),
    ("make_pseudo_panoptic merge", "--merge shards"),
    ("make_pseudo_edges", f"--images scenes/images --output pseudo {FAST} "
     "MODEL.TRACE.EMERGENCE.FIXED_TIMESTEP 0"),
    ("predict_edges", f"--images scenes/images --output predicted {FAST}"),
    *(
        (f"refine_masks {name}", f"{MASKS} --output refined_{name}.json {FAST} {options}")
        for name, options in {
            "oracle": "--edges oracle/edges",
            "none": "--no-edges",
            "grown": "--edges oracle/edges MODEL.TRACE.BGP.GROW True MODEL.TRACE.BGP.CUT "
            "components",
            "student": f"{SOURCE} student",
        }.items()
    ),
    ("make_self_training", "--predictions predictions.json --labels scenes/instances.json "
     "--output self.json"),
    *(
        (f"evaluate_panoptic {name}", f"{TRUTH} --predictions {name} --workers 1 --per-category "
         f"--json pq_{name}.json")
        for name in ("none", "oracle_edges", "teacher", "student")
    ),
    ("evaluate_masks", "--truth scenes/instances.json --predictions refined_oracle.json "
     "--output ap.json"),
    ("evaluate_masks results", "--truth scenes/instances.json --predictions predictions.json "
     "--output ap2.json"),
    ("evaluate_edges", f"{TRUTH} --edges student --workers 1 --quiet --output ods.json"),
    ("evaluate_edges things", f"{TRUTH} --edges teacher --workers 1 --quiet --output ods2.json "
     "--truth-kind things --thresholds 20"),
    ("evaluate_edges sobel", f"{TRUTH} --baseline sobel --images scenes/images --workers 1 "
     "--quiet --output ods3.json"),
]  # fmt: skip


def run(tool: str, arguments: list[str]) -> str:
    """Standard output of ``tools/<tool>.py``. Raises SystemExit with its errors if it fails."""
    print(tool, *arguments, flush=True)
    if "merged.json" in arguments or "predictions.json" in arguments:
        write_masks()
    out, err = StringIO(), StringIO()
    main: Callable[[list[str]], int] = import_module(tool).main
    with redirect_stdout(out), redirect_stderr(err):
        status = main(arguments)
    if status:
        raise SystemExit(f"{tool} ended with {status}:\n{err.getvalue()}")
    return out.getvalue()


def write_masks() -> None:
    """merged.json: truth joined in pairs; predictions.json: parts of the truth, with scores."""
    from pycocotools import mask as coco_mask

    truth = json.loads(Path("scenes/instances.json").read_text(encoding="utf-8"))
    heights = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    by_image: dict[int, list[np.ndarray]] = {}
    for annotation in truth["annotations"]:
        rle, size = annotation["segmentation"], heights[annotation["image_id"]]
        if isinstance(rle, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(rle, *size))
        elif isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, *size)
        mask = coco_mask.decode(rle).astype(bool)
        by_image.setdefault(annotation["image_id"], []).append(mask)

    def encoded(mask: np.ndarray) -> dict[str, Any]:
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}

    merged, predictions = [], []
    for image_id, masks in sorted(by_image.items()):
        for rank, mask in enumerate(masks):
            pair = mask | masks[(rank + 1) % len(masks)]
            merged.append({"id": len(merged) + 1, "image_id": image_id, "category_id": 1,
                           "iscrowd": 0, "segmentation": encoded(pair)})  # fmt: skip
            shorter = mask.copy()
            shorter[int(mask.shape[0] * (0.5 + 0.1 * rank)) :] = False
            if shorter.any():
                predictions.append({"image_id": image_id, "category_id": 1,
                                    "segmentation": encoded(shorter),
                                    "score": 0.95 - 0.05 * rank})  # fmt: skip
    content = {"images": truth["images"], "annotations": merged,
               "categories": [{"id": 1, "name": "object"}]}  # fmt: skip
    Path("merged.json").write_text(json.dumps(content), encoding="utf-8")
    Path("predictions.json").write_text(json.dumps(predictions), encoding="utf-8")


def mapped() -> dict[str, str]:
    """Records of every kind of data set, and what the training mappers make of the first ones."""
    import torch
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog

    import trace_d2

    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    cfg.merge_from_file(CONFIG)
    cfg.MODEL.META_ARCHITECTURE = "TraceMask2Former"
    cfg.INPUT.TRACE.IMAGE_SIZE = 64
    cfg.DATASETS.TRACE.PANOPTIC = [["golden_panoptic", "oracle_edges", "scenes/images"]]
    cfg.DATASETS.TRACE.SEMANTIC = [["golden_semantic", "scenes/images", "scenes/semantic",
                                    "scenes/categories.json", "oracle/edges"]]  # fmt: skip
    cfg.DATASETS.TRACE.INSTANCES = [["golden_instances", "refined_oracle.json", "scenes/images"]]
    cfg.DATASETS.TRACE.EDGES = [["golden_edges", "scenes/images", "pseudo"]]
    trace_d2.register_from_config(cfg)
    hashes = {}
    for kind, mapper_class in {
        "panoptic": trace_d2.TraceDatasetMapper,
        "semantic": trace_d2.TraceDatasetMapper,
        "instances": None,
        "edges": trace_d2.TraceEdgeDatasetMapper,
    }.items():
        records = DatasetCatalog.get(f"golden_{kind}")
        text = describe(records).replace(str(Path.cwd()), "FOLDER")
        hashes[f"records {kind}"] = digest(text)
        if mapper_class is None:
            continue
        own = cfg.clone()
        own.DATASETS.TRAIN = (f"golden_{kind}",)
        own.INPUT.TRACE.TARGETS = "online" if kind == "semantic" else "offline"
        own.INPUT.TRACE.CACHE_DIR = "none"
        own.INPUT.TRACE.STRICT = True
        mapper = mapper_class(own, is_train=True)
        np.random.seed(1)
        torch.manual_seed(1)
        for rank, record in enumerate(records[:3]):
            mapped = {**mapper(record), "file_name": ""}
            text = describe(mapped).replace(str(Path.cwd()), "FOLDER")
            hashes[f"mapper {kind} {rank}"] = digest(text)
    return hashes


def describe(value: Any) -> str:
    """A text that is equal for equal records, tensors by their bytes."""
    if isinstance(value, dict):
        parts = (f"{key}={describe(value[key])}" for key in sorted(value))
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(describe, value)) + "]"
    if hasattr(value, "get_fields"):  # detectron2's Instances
        fields = {name: getattr(v, "tensor", v) for name, v in value.get_fields().items()}
        return describe(fields)
    if hasattr(value, "numpy"):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{digest(np.ascontiguousarray(value).tobytes())}"
    return repr(value)


def stable(path: Path, folder: Path) -> bytes:
    """The bytes of a result, without what hangs on clocks and places."""
    data = path.read_bytes()
    if path.name.startswith("journal"):
        records = [json.loads(line) for line in data.splitlines()]
        records = [{**COUNTS, **record, **record.get("facts", {})} for record in records]
        kept = [{key: record.get(key) for key in RECORD_KEYS} for record in records]
        data = json.dumps(sorted(kept, key=lambda record: record["file_name"])).encode()
    return data.replace(str(folder).encode(), b"FOLDER").replace(str(REPOSITORY).encode(), b"REPO")


def digest(content: str | bytes) -> str:
    """A short SHA-256."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
