"""Every reader: the sound files that it reads, how it is run, and what it makes of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import files

Main = Callable[[list[str]], int]


@dataclass(frozen=True)
class Reading:
    """How a reader came out.

    Attributes:
        status: exit status; None where an exception left the reader.
        results: ids, classes, segments, scores: what must not change in silence.
        words: all that it said, folders left out.
        error: the traceback of such an exception, or one within the words; else empty.
    """

    status: int | None
    results: Any
    words: str
    error: str = ""


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        name: for the command line.
        make: writes its sound files to a folder.
        run: reads them; returns an exit status. What it prints and logs is collected.
        results: what it made of them.
        spoiled: patterns of the files below the folder that are spoiled.
        table: it prints its results, so only the last paragraph counts as words.
    """

    name: str
    make: Callable[[Path], None]
    run: Callable[[Path], int]
    results: Callable[[Path], Any]
    spoiled: tuple[str, ...]
    table: bool = False

    def read(self, folder: Path) -> Reading:
        """Read what is in ``folder``, in this process."""
        out, said = io.StringIO(), io.StringIO()
        status: int | None = None
        error = ""
        with _collected(out, said):
            try:
                status = self.run(folder)
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
                if status != 2:
                    error = f"SystemExit({end.code!r})"
            except Exception:
                error = traceback.format_exc()
        printed = out.getvalue()
        words = said.getvalue() + (printed.rpartition("\n\n")[2] if self.table else printed)
        results = None
        if status in (0, 3) and not error:
            results = self.results(folder)
        words = words.replace(str(folder), "")
        if "Traceback (most recent call last)" in words:
            error = error or words
        return Reading(status, results, words, error)


@contextlib.contextmanager
def _collected(out: io.StringIO, said: io.StringIO) -> Iterator[None]:
    """Collect what is printed in ``out``; errors, warnings and logged warnings in ``said``."""
    handler = logging.StreamHandler(said)
    handler.setLevel(logging.WARNING)
    own = logging.getLogger("trace_d2")
    # Where Detectron2 has set up its log, what is said to ours goes no further.
    loggers = [logging.getLogger(), *([] if own.propagate else [own])]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            yield
            for warning in caught:
                said.write(f"warning: {warning.message}\n")
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def pixels_print(path: Path) -> str:
    """A text that is equal for equal pixels."""
    pixels = np.asarray(Image.open(path))
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:12]


def load_json(path: Path) -> Any:
    """The content of ``path``; None if it is not there."""
    return json.loads(path.read_text()) if path.is_file() else None


# --- the label maker and the refiner


def _label_arguments(folder: Path) -> list[str]:
    return [
        *("--images", str(folder / "images"), "--semantic", str(folder / "semantic")),
        *("--edges", str(folder / "edges"), "--categories", str(folder / "categories.json")),
        *("--images-json", str(folder / "images.json"), "--output", str(folder / "out")),
        *("--quiet", "--workers", "1", "--report-images", "1"),
    ]


def _make_label_inputs(folder: Path) -> None:
    files.write_images(folder / "images")
    files.write_semantic(folder / "semantic")
    files.write_edges(folder / "edges")
    files.write_json(folder / "categories.json", files.CATEGORIES)
    files.write_json(folder / "images.json", {"images": files.image_entries()})


def _run_labels(folder: Path) -> int:
    import make_pseudo_panoptic

    status = make_pseudo_panoptic.main(_label_arguments(folder))
    return _tell_notes(folder / "out", status)


def _tell_notes(folder: Path, status: int) -> int:
    """Print what the journal says of images, which users see in the report."""
    journal = folder / "journal.jsonl"
    for line in journal.read_text().splitlines() if journal.is_file() else []:
        record = json.loads(line)
        print(record["stem"], record["status"], record["reason"], *record["notes"])
    return status


def _label_results(folder: Path) -> Any:
    """Ids, classes and pixels of the labels."""
    out = folder / "out"
    panoptic, instances = load_json(out / "panoptic.json"), load_json(out / "instances.json")
    pixels = {
        f"{kind}/{path.name}": pixels_print(path)
        for kind in ("panoptic", "semantic")
        for path in sorted((out / kind).glob("*.png"))
    }
    return [panoptic, instances, pixels]


def make_labels(folder: Path) -> None:
    _make_label_inputs(folder)
    if _run_labels(folder) != 0:
        raise RuntimeError("the sound files cannot be labelled")


def _merge_labels(folder: Path) -> int:
    import make_pseudo_panoptic

    status = make_pseudo_panoptic.main(["--merge", str(folder / "out")])
    return _tell_notes(folder / "out", status)


def _mask_arguments(folder: Path) -> list[str]:
    return [
        *("--images", str(folder / "images"), "--masks", str(folder / "masks.json")),
        *("--edges", str(folder / "edges"), "--output", str(folder / "refined.json")),
        *("--quiet", "--workers", "1", "--report-images", "1"),
    ]


def _make_mask_inputs(folder: Path) -> None:
    files.write_images(folder / "images")
    files.write_edges(folder / "edges")
    files.write_instances(folder / "masks.json")


def _make_list_inputs(folder: Path) -> None:
    _make_mask_inputs(folder)
    files.write_json(folder / "masks.json", files.results())
    files.write_json(folder / "images.json", {"images": files.image_entries()})


def _run_masks(folder: Path, *more: str) -> int:
    import refine_masks

    status = refine_masks.main([*_mask_arguments(folder), *more])
    return _tell_notes(folder / "refined.json.work", status)


def _run_list(folder: Path) -> int:
    return _run_masks(folder, "--images-json", str(folder / "images.json"))


def _mask_results(folder: Path) -> Any:
    content = load_json(folder / "refined.json")
    # What else is said of categories is passed on as it is.
    return {**content, "categories": [one["id"] for one in content["categories"]]}


def _make_refined(folder: Path) -> None:
    _make_mask_inputs(folder)
    if _run_masks(folder) != 0:
        raise RuntimeError("the sound masks cannot be refined")


def _merge_masks(folder: Path) -> int:
    import refine_masks

    status = refine_masks.main(["--merge", str(folder / "refined.json")])
    return _tell_notes(folder / "refined.json.work", status)


# --- evaluation


def _make_panoptic_pair(folder: Path) -> None:
    files.write_panoptic(folder / "truth.json", folder / "truth")
    files.write_panoptic(folder / "found/panoptic.json", folder / "found/panoptic")


def _evaluate_panoptic(folder: Path) -> int:
    import evaluate_panoptic

    return evaluate_panoptic.main(
        [
            *("--truth-json", str(folder / "truth.json"), "--truth-dir", str(folder / "truth")),
            *("--predictions", str(folder / "found"), "--json", str(folder / "scores.json")),
            *("--workers", "1"),
        ]
    )


def _scores(folder: Path) -> Any:
    return load_json(folder / "scores.json")


def _make_edge_truth(folder: Path) -> None:
    files.write_panoptic(folder / "truth.json", folder / "truth")
    files.write_edges(folder / "edges")


def _evaluate_edges(folder: Path) -> int:
    import evaluate_edges

    return evaluate_edges.main(
        [
            *("--truth-json", str(folder / "truth.json"), "--truth-dir", str(folder / "truth")),
            *("--edges", str(folder / "edges"), "--output", str(folder / "scores.json")),
            *("--workers", "1", "--thresholds", "3", "--truth-kind", "things"),
        ]
    )


def _make_instance_pair(folder: Path) -> None:
    files.write_instances(folder / "truth.json")
    files.write_json(folder / "found.json", files.results())


def _make_coco_pair(folder: Path) -> None:
    files.write_instances(folder / "truth.json")
    files.write_instances(folder / "found.json")


def _evaluate_masks(folder: Path) -> int:
    import evaluate_masks

    return evaluate_masks.main(
        [
            *("--truth", str(folder / "truth.json"), "--predictions", str(folder / "found.json")),
            *("--output", str(folder / "scores.json")),
        ]
    )


def _make_self_training(folder: Path) -> None:
    files.write_instances(folder / "labels.json")
    found = files.results()[::2]
    files.write_json(folder / "found.json", found)


def _self_training(folder: Path) -> int:
    import make_self_training

    return make_self_training.main(
        [
            *("--labels", str(folder / "labels.json"), "--predictions", str(folder / "found.json")),
            *("--output", str(folder / "next.json")),
        ]
    )


def _next_labels(folder: Path) -> Any:
    return load_json(folder / "next.json")


def _make_truth(folder: Path) -> None:
    files.write_panoptic(folder / "truth.json", folder / "truth")


def _make_oracle(folder: Path) -> int:
    import make_oracle

    return make_oracle.main(
        [
            *("--truth-json", str(folder / "truth.json"), "--truth-dir", str(folder / "truth")),
            *("--output", str(folder / "oracle")),
        ]
    )


def _oracle_files(folder: Path) -> Any:
    pixels = {
        str(path.relative_to(folder)): pixels_print(path)
        for path in sorted((folder / "oracle").rglob("*.png"))
    }
    return [pixels, load_json(folder / "oracle/categories.json")]


_INPUTS = ("images/*", "semantic/*", "edges/*", "categories.json", "images.json")
_LABELS = (
    "out/settings.json", "out/images.json", "out/journal.jsonl", "out/annotations/*.json",
    "out/previews/*.json", "out/calibration.json",
)  # fmt: skip
_REFINED = (
    "refined.json.work/settings.json", "refined.json.work/images.json",
    "refined.json.work/journal.jsonl", "refined.json.work/annotations/*.json",
    "refined.json.work/previews/*.json", "refined.json.work/calibration.json",
    "refined.json.work/left_out.jsonl", "refined.json",
)  # fmt: skip
_PAIR = ("truth.json", "truth/*", "found/panoptic.json", "found/panoptic/*")

TOOL_READERS: Sequence[Reader] = (
    Reader("labels", _make_label_inputs, _run_labels, _label_results, _INPUTS),
    Reader("labels-merge", make_labels, _merge_labels, _label_results, _LABELS),
    Reader("labels-again", make_labels, _run_labels, _label_results, (*_LABELS, *_INPUTS)),
    Reader(
        "masks", _make_mask_inputs, _run_masks, _mask_results,
        ("images/*", "edges/*", "masks.json", "masks.json"),
    ),
    Reader(
        "masks-list", _make_list_inputs, _run_list, _mask_results, ("masks.json", "images.json")
    ),
    Reader("masks-merge", _make_refined, _merge_masks, _mask_results, _REFINED),
    Reader("masks-again", _make_refined, _run_masks, _mask_results, _REFINED),
    Reader("panoptic", _make_panoptic_pair, _evaluate_panoptic, _scores, _PAIR, table=True),
    Reader(
        "edges", _make_edge_truth, _evaluate_edges, _scores,
        ("truth.json", "truth/*", "edges/*"), table=True,
    ),
    Reader(
        "instances", _make_instance_pair, _evaluate_masks, _scores,
        ("truth.json", "found.json"), table=True,
    ),
    Reader(
        "instances-coco", _make_coco_pair, _evaluate_masks, _scores,
        ("truth.json", "found.json"), table=True,
    ),
    Reader(
        "self-training", _make_self_training, _self_training, _next_labels,
        ("labels.json", "found.json"),
    ),
    Reader("oracle", _make_truth, _make_oracle, _oracle_files, ("truth.json", "truth/*")),
)  # fmt: skip
