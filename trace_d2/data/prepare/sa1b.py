"""SA-1B, which has a JSON file beside every photograph, as one COCO file of one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from trace_d2.data.dataset_files import folder_names
from trace_d2.data.prepare.class_agnostic import ONE_CLASS
from trace_d2.io.atomic import read_json, write_json
from trace_d2.io.coco_panoptic import coco_dataset, image_entry


def prepare_sa1b(
    folder: str | Path, output: str | Path, limit: int | None = None, progress: bool = True
) -> tuple[int, int]:
    """Join the annotations of SA-1B's photographs in ``folder`` to one COCO file.

    Args:
        folder: holds ``sa_<n>.jpg`` and ``sa_<n>.json``, as its archives do.
        output: file to write.
        limit: the first photographs only, in order of their numbers; None: all.
        progress: show a progress bar.

    Returns:
        how many images and annotations were written.

    Raises:
        FileNotFoundError: no such folder, or no annotations in it.
        ValueError: a file is not one of SA-1B's.
    """
    names = folder_names(folder, "SA-1B photographs and annotations", "unpack an archive there")
    stems = [name[: -len(".json")] for name in names if name.endswith(".json")]
    stems = sorted((s for s in stems if f"{s}.jpg" in names), key=lambda s: (len(s), s))[:limit]
    if not stems:
        raise FileNotFoundError(
            f"no sa_<n>.json with its sa_<n>.jpg in {folder}: unpack an archive of SA-1B there"
        )
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for stem in tqdm(stems, unit="image", disable=not progress):
        path = Path(folder) / f"{stem}.json"
        content = read_json(path, remedy="unpack the archive again")
        if not isinstance(content, dict) or not {"image", "annotations"} <= content.keys():
            raise ValueError(f'{path} has no "image" and "annotations": it is not of SA-1B')
        image = content["image"]
        image_id = image["image_id"]
        images.append(image_entry(image_id, f"{stem}.jpg", image["height"], image["width"]))
        for annotation in content["annotations"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ONE_CLASS[0].id,
                    "iscrowd": 0,
                    **{key: annotation[key] for key in ("segmentation", "area", "bbox")},
                }
            )
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    description = "SA-1B as one class, joined by trace_d2"
    write_json(output, coco_dataset(images, annotations, ONE_CLASS, description))
    return len(images), len(annotations)
