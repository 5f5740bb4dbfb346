"""UVO: masks of single frames of videos, by frame (FrameSet) or by video (VideoSparseSet)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trace_d2.data.prepare.one_class import prepare_class_agnostic
from trace_d2.io.json_files import (
    FieldError,
    checked,
    json_list,
    json_object,
    read_json,
    record_id,
    shown,
)

_AGAIN = "download UVO's annotations again"


def prepare_uvo(
    source: str | Path, folder: str | Path, output: str | Path, progress: bool = True
) -> tuple[int, int]:
    """Write the masks of UVO's frames as one class, ``output``.

    Of videos every frame with an object is an image: the sparse set draws three of a video.

    Args:
        source: ``UVO_frame_val.json``, or ``UVO_sparse_val_video.json``.
        folder: of the frames, ``<video>/<number>.png``, as UVO's ``video2frames.py`` writes them.
        output: the file that is written; names in it are relative to ``folder``.

    Returns:
        how many frames and masks were written.

    Raises:
        ValueError, FileNotFoundError: as ``prepare_class_agnostic``; it is no file of UVO.
    """
    path = Path(source)
    content = read_json(path, "annotations of UVO", "datasets/README.md says what to put where")
    if isinstance(content, dict) and "videos" in content:
        try:
            content = _frames(content, path)
        except FieldError as error:
            raise ValueError(f"{path} is no list of videos (it {error}): {_AGAIN}") from error
    return prepare_class_agnostic(
        content, output, progress=progress, folder=folder, name=str(path), leave_out=True
    )


def _frames(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """COCO instances of the frames that have objects, of annotations by video."""
    frames: dict[tuple[Any, int], dict[str, Any]] = {}
    for video in map(json_object, json_list(content["videos"])):
        where = f"{path}: video {shown(video.get('id'))}"
        own = checked({"id": video.get("id")}, "id", record_id, where)
        if (own, 0) in frames:
            raise ValueError(f"{where} is listed twice: {_AGAIN}")
        for rank, name in enumerate(_listed(video, "file_names", where)):
            sides = {key: video.get(key) for key in ("height", "width")}
            frames[own, rank] = {"id": len(frames) + 1, "file_name": name, **sides}
    rows = []
    for row in map(json_object, json_list(content.get("annotations"))):
        where = f"{path}: annotation {shown(row.get('id'))}"
        own = checked({"video_id": row.get("video_id")}, "video_id", record_id, where)
        for rank, mask in enumerate(_listed(row, "segmentations", where)):
            frame = frames.get((own, rank))
            if mask and frame is None:
                raise ValueError(
                    f"{where} has a mask of frame {rank} of video {own}, which is "
                    f"not listed: {_AGAIN}"
                )
            if mask and frame is not None:
                crowd = row.get("iscrowd", 0)
                rows.append({"image_id": frame["id"], "segmentation": mask, "iscrowd": crowd})
    drawn = {row["image_id"] for row in rows}
    images = [frame for frame in frames.values() if frame["id"] in drawn]
    return {"images": images, "annotations": rows}


def _listed(record: dict[str, Any], key: str, where: str) -> Iterator[Any]:
    return iter(checked({key: record.get(key)}, key, json_list, where))
