"""Images with pseudo edges as dataset dicts, for training an edge predictor."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from trace_d2.data.dataset_files import folder_names, paused_collector, tolerate_absent
from trace_d2.data.label_folder import UnfinishedLabelsError, is_label_folder
from trace_d2.data.semantic_dicts import png_size
from trace_d2.io.listing import list_images
from trace_d2.jobs.entries import build_entries
from trace_d2.jobs.journal import DONE, FAILED
from trace_d2.jobs.kinds.edge_store import PseudoEdgeStore

logger = logging.getLogger(__name__)

EDGES_KEY = "trace_pseudo_edges_file_name"
"""Where a record names its file of pseudo edges."""

SUBFOLDER = "pseudo_edges"
"""Where ``tools/make_pseudo_edges.py`` puts the maps in its output folder."""


@paused_collector()
def load_edge_dicts(
    image_root: str | Path, edges_root: str | Path, remedy: str
) -> list[dict[str, Any]]:
    """Dataset dicts of all images that have pseudo edges, in order of their stems.

    Args:
        image_root: folder of the images (not below it).
        edges_root: output folder of ``tools/make_pseudo_edges.py``, or a folder of 8-bit
            ``<stem>.png``: 0 no edge, 255 edge, 128 ignored.
        remedy: what the user is to do if something is missing.

    Returns:
        ``{file_name, image_id, height, width (pixels, of the map),
        trace_pseudo_edges_file_name}`` each. An image's id is its stem if all stems are numbers,
        else its rank in the folder, from 1.

    Raises:
        FileNotFoundError: a folder is missing, or 1 % of the images or of the maps, or more.
        UnfinishedLabelsError: images of the folder are yet to be done.
        ValueError: no image has a map, a map is no PNG, or two files share a stem.
    """
    folder = edges_folder(edges_root)
    done = _done_stems(folder.parent) if folder.name == SUBFOLDER else None
    maps = folder_names(folder, "pseudo edges", remedy)
    present = {name[: -len(".png")] for name in maps if name.endswith(".png")}
    wanted = present if done is None else done
    folder_names(image_root, "images", remedy)
    entries = build_entries(list_images(image_root), None)
    absent = sorted(wanted - present)
    strays = sorted(wanted - {entry.stem for entry in entries})
    used = [entry for entry in entries if entry.stem in wanted & present]
    if not used:
        raise ValueError(
            f"no image of {image_root} has pseudo edges <stem>.png in {folder}: {remedy}"
        )
    tolerate_absent(absent, len(wanted), f"maps of {folder} are missing", remedy)
    tolerate_absent(strays, len(wanted), f"maps of {folder} have no image in {image_root}", remedy)
    if len(used) < len(entries):
        logger.warning(
            "%d of %d images of %s have no pseudo edges in %s and are left out",
            len(entries) - len(used), len(entries), image_root, folder,
        )  # fmt: skip
    records = []
    for entry in used:
        path = f"{folder}/{entry.stem}.png"
        height, width = png_size(path)
        records.append(
            {
                "file_name": f"{image_root}/{entry.file_name}",
                "image_id": entry.image_id,
                "height": height,
                "width": width,
                EDGES_KEY: path,
            }
        )
    return records


def edges_folder(edges_root: str | Path) -> Path:
    """The folder of the maps: ``edges_root`` itself, or its ``pseudo_edges/`` if it has one."""
    inner = Path(edges_root) / SUBFOLDER
    return inner if inner.is_dir() or is_label_folder(edges_root) else Path(edges_root)


def _done_stems(root: Path) -> set[str] | None:
    """Stems of the images that the job of the folder ``root`` is through with.

    None: no job wrote the folder. Images that failed are named in a warning.

    Raises:
        UnfinishedLabelsError: images are yet to be done.
    """
    store = PseudoEdgeStore(root)
    if not is_label_folder(root) or not store.images_path.is_file():
        return None
    entries, limit = store.read_images()
    records = store.read_records()
    pending = [entry for entry in entries[:limit] if entry.stem not in records]
    if pending:
        raise UnfinishedLabelsError(
            f"{root} lacks the pseudo edges of {len(pending)} of {limit} images, such as "
            f"{pending[0].file_name}: wait for the job that makes them, or run its command again, "
            "it continues"
        )
    failed = [record for record in records.values() if record.status == FAILED]
    if failed:
        logger.warning(
            "%s: the pseudo edges of %d of %d images failed (%s: %s ...); they are left out. Run "
            "the command that made them again to try once more",
            root, len(failed), limit, failed[0].file_name, failed[0].reason,
        )  # fmt: skip
    return {stem for stem, record in records.items() if record.status == DONE}
