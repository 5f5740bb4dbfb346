"""Images with semantic masks (and edges) as dataset dicts, for labels that the mapper makes."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

from trace_d2.data.dataset_files import folder_names, paused_collector, tolerate_absent
from trace_d2.io.listing import list_images
from trace_d2.jobs.entries import build_entries

logger = logging.getLogger(__name__)

_PNG_HEAD = struct.Struct(">8sI4sII")  # signature, length, "IHDR", width, height
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@paused_collector()
def load_semantic_dicts(
    image_root: str | Path, semantic_root: str | Path, edges_root: str | Path | None, remedy: str
) -> list[dict[str, Any]]:
    """Dataset dicts of all images that have a mask, in order of their stems.

    Args:
        image_root: folder of the images (not below it).
        semantic_root: folder of ``<stem>.png``, pixel = category id, 255 = unknown.
        edges_root: folder of ``<stem>.png`` or ``<stem>.npy``, or None.
        remedy: what the user is to do if something is missing.

    Returns:
        ``{file_name, image_id, height, width (pixels, of the mask), trace_semantic_file_name}``
        each, and ``trace_edges_file_name`` if there is an ``edges_root``. An image's id is its
        stem if all stems are numbers, else its rank in the folder, from 1.

    Raises:
        FileNotFoundError: a folder is missing, or 1 % of the masks or more lack image or edges.
        ValueError: no image has a mask, a mask is no PNG, or two files share a stem.
    """
    masks = folder_names(semantic_root, "semantic masks", remedy)
    folder_names(image_root, "images", remedy)
    entries = build_entries(list_images(image_root), None)
    masked = [entry for entry in entries if f"{entry.stem}.png" in masks]
    if not masked:
        raise ValueError(
            f"no image of {image_root} has a mask <stem>.png in {semantic_root}: {remedy}"
        )
    if len(masked) < len(entries):
        logger.info(
            "%d of %d images of %s have no mask in %s and are left out",
            len(entries) - len(masked), len(entries), image_root, semantic_root,
        )  # fmt: skip
    known = {f"{entry.stem}.png" for entry in masked}
    strays = sorted(name for name in masks - known if name.endswith(".png"))
    tolerate_absent(
        strays, len(masks), f"masks of {semantic_root} have no image in {image_root}", remedy
    )
    edges = _edge_files(edges_root, remedy) if edges_root is not None else None
    records, bare = [], []
    for entry in masked:
        mask = f"{semantic_root}/{entry.stem}.png"
        height, width = png_size(mask)
        record = {
            "file_name": f"{image_root}/{entry.file_name}",
            "image_id": entry.image_id,
            "height": height,
            "width": width,
            "trace_semantic_file_name": mask,
        }
        if edges is not None:
            if entry.stem not in edges:
                bare.append(entry.file_name)
                continue
            record["trace_edges_file_name"] = f"{edges_root}/{edges[entry.stem]}"
        records.append(record)
    tolerate_absent(bare, len(masked), f"images with a mask have no edges in {edges_root}", remedy)
    return records


def png_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels from the head of a PNG file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no PNG.
    """
    with open(path, "rb") as file:
        head = file.read(_PNG_HEAD.size)
    if len(head) < _PNG_HEAD.size or not head.startswith(_PNG_SIGNATURE):
        raise ValueError(f"{path} is no PNG file: make it again")
    _, _, _, width, height = _PNG_HEAD.unpack(head)
    return height, width


def _edge_files(folder: str | Path, remedy: str) -> dict[str, str]:
    """Stem to name of the edge files in ``folder``."""
    files: dict[str, str] = {}
    for name in sorted(folder_names(folder, "edges", remedy)):
        stem, dot, suffix = name.rpartition(".")
        if not dot or suffix not in ("png", "npy"):
            continue
        if stem in files:
            raise ValueError(f"both {files[stem]} and {name} are in {folder}: remove one of them")
        files[stem] = name
    return files
