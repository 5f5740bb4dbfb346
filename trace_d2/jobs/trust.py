"""How far the edges of a folder of results were trusted, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trace_d2.edges.sources import EDGE_SOURCES
from trace_d2.io.edge_maps import INVERTED, SCALE
from trace_d2.io.json_files import read_json, whole_number
from trace_d2.jobs.command_line import NONE
from trace_d2.jobs.journal import Record
from trace_d2.jobs.outcome import FactCounts
from trace_d2.jobs.store import JobStore
from trace_d2.masks.preflight import EDGES
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.terminal import say

CALIBRATION = "calibration.json"
MAPS = "refined class maps"
"""The kind of results whose edges are measured near outlines, not inside of masks."""
DISCOVERED_BY = "masks discovered by"
"""The setting that names the method, of masks that were discovered along edges."""
BLIND = (
    "these masks were drawn along edges (discover_masks --method edges), so that what edges mean "
    "cannot be measured on them, and no trust in them says anything: name a calibration.json by "
    "MODEL.TRACE.EDGES.CALIBRATION, or take the masks as they are, without refining them"
)

_INSIDE = (
    "most of those inside the masks are no borders between objects, so masks are cut by their "
    "shape almost alone"
)
_NEAR = "they are hardly denser near outlines of the class maps than elsewhere, so maps stay"
_USELESS = 0.1  # of trust
_COUNTED = ("stuff_masks", "false_pieces")  # in calibration.json besides the calibration


def trust_facts(store: JobStore, counts: FactCounts) -> list[tuple[str, str]]:
    """How far the edges of a folder of results were trusted, as names and values."""
    facts = []
    content = read_measured(store)
    if content is not None and content["images"] and not _blind(store):
        facts.append(("trust in the edges, of 1", f"{content['trust']:.2f}"))
        if content.get("stuff_masks"):
            false = content["false_pieces"] / content["stuff_masks"]
            facts.append(("pieces that edges would cut off a stuff mask", f"{false:.2f}"))
    if uncut := counts.nonzero["uncut"]:
        each = counts.sums["uncut"] / uncut
        facts.append(("things an image if edges cut nothing", f"{each:.1f}"))
    return facts


def trust_warnings(store: JobStore, records: Iterable[Record] = ()) -> list[str]:
    """Sentences where the edges of a folder of results say little, or nothing."""
    warnings = []
    edged = blunt = inverted = 0
    for record in records:
        if "blunt" in record.facts:
            edged += 1
            blunt += record.facts["blunt"]
            inverted += any(note.endswith(INVERTED) for note in record.notes)
    if blunt:
        warnings.append(
            f"the edges of {blunt} of {edged} images are empty, or fainter than 1/60 "
            f"everywhere, and cut nothing of their own{_remedy(store)}"
        )
    if inverted:
        warnings.append(f"in {inverted} of {edged} images most pixels are edges: {INVERTED}")
    if _blind(store):
        return [*warnings, BLIND]
    content = read_measured(store)
    if content is None or (content["trust"] >= _USELESS and content["images"]):
        return warnings
    if not content["images"]:
        warnings.append(
            "the sample has too few outlines, or nothing inside them, to measure edges on: an edge "
            "is taken to be one above 0.5. Name a calibration.json by MODEL.TRACE.EDGES.CALIBRATION"
        )
    elif len(content["strengths"]) > 1:
        warnings.append(
            f"these edges say little here (trust {content['trust']:.2f} of 1): "
            f"{_NEAR if store.layout.kind == MAPS else _INSIDE}. Look at the pictures, and try "
            "another detector"
        )
    elif not blunt:
        warnings.append(
            "the edges are empty, or fainter than 1/60 everywhere, and cut nothing of their own"
            f"{_remedy(store)}"
        )
    return warnings


def is_blind(settings: Mapping[str, Any]) -> bool:
    """Whether the job of ``settings`` cuts masks along the edges that drew them, by themselves."""
    measured = settings.get("edges") not in (None, NONE) and "calibration" not in settings
    measured = measured and settings.get("MODEL.TRACE.BGP.CUT") == "basins"
    return measured and settings.get(DISCOVERED_BY) == EDGES


def _blind(store: JobStore) -> bool:
    return store.has_settings() and is_blind(store.read_settings())


def _remedy(store: JobStore) -> str:
    """What to do about faint edges, which no detector of ours has scaled wrongly."""
    settings = store.read_settings() if store.has_settings() else {}
    return "" if settings.get("edges") in EDGE_SOURCES else f": {SCALE}"


def read_measured(store: JobStore, tell: bool = False) -> dict[str, Any] | None:
    """What a job measured; None where there is nothing, or nothing whole: ``tell`` prints that."""
    path = store.fetch(store.root / CALIBRATION)
    if not path.is_file():
        return None
    try:
        calibration = EdgeCalibration.load(path)
        counted = {name: whole_number(read_json(path).get(name, 0)) for name in _COUNTED}
        return {**calibration.to_json(), **counted}
    except ValueError as error:
        if tell:
            say(f"note: {error}; measured again", error=True)
        return None
