"""What jobs share whose masks SAM redraws once they are cut.

The network sees an image in the process that looks, and so does the cut before it; workers get
what came of both, and write it. Without ``MODEL.TRACE.SAM.WEIGHTS`` workers cut, as ever.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_d2.io.remote import InputFolder
from trace_d2.jobs.job import EntryT, Read, ResultT
from trace_d2.jobs.kinds.cutting_job import CuttingJob
from trace_d2.jobs.kinds.edge_job import PhotoT, deciding_keys
from trace_d2.jobs.outcome import FactCounts, Outcome
from trace_d2.jobs.pinned_model import SAM, build_pinned
from trace_d2.jobs.report import Report
from trace_d2.jobs.store import JobStore
from trace_d2.masks.patches import Patch
from trace_d2.masks.sam_files import sam_print
from trace_d2.terminal import say

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from trace_d2.masks.sam import Redrawn, Sam

WEIGHTS = "MODEL.TRACE.SAM.WEIGHTS"
CUT = "cut"
"""The pane of what SAM was asked for."""


class RedrawingJob(CuttingJob[EntryT, PhotoT, ResultT]):
    """A job that cuts masks along edges, which SAM then redraws, where it is asked to.

    Args:
        cfg, images, output, entries, settings, save_edges: see ``EdgeTakingJob``.

    Attributes:
        sam: the network, in the process that looks, once edges are calibrated.
    """

    sam: Sam | None = None
    stays = (*CuttingJob.stays, "sam")

    def __init__(
        self,
        cfg: CfgNode,
        images: str | InputFolder,
        output: str | Path,
        entries: Sequence[EntryT],
        settings: Mapping[str, Any],
        save_edges: bool,
    ) -> None:
        super().__init__(
            cfg, images, output, entries, {**settings, **sam_settings(cfg)}, save_edges
        )
        self.looks = self.detects or bool(cfg.MODEL.TRACE.SAM.WEIGHTS)

    @abstractmethod
    def cut(self, entry: EntryT, inputs: PhotoT) -> ResultT:
        """The result of ``entry`` as edges cut it.

        Raises:
            ValueError: the inputs are not fit for one.
        """

    @abstractmethod
    def masks_of(self, result: ResultT) -> list[Patch]:
        """The masks of ``result`` that SAM is to be asked for."""

    @abstractmethod
    def redraw(self, result: ResultT, answers: Sequence[Redrawn | None]) -> ResultT:
        """``result`` with answers in place of some of its ``masks_of``, in their order."""

    def open_models(self) -> None:
        if self.cfg.MODEL.TRACE.SAM.WEIGHTS:
            self.sam = build_pinned(_build_sam, self.cfg, self.store, SAM)

    def look(
        self, images: Sequence[Read[EntryT, PhotoT]]
    ) -> list[tuple[PhotoT, Mapping[str, Any]] | Exception]:
        """The inputs with detected edges, if a model finds them; and with the result by SAM."""
        found: list[tuple[PhotoT, Mapping[str, Any]] | Exception]
        found = super().look(images) if self.detects else [(one.inputs, {}) for one in images]
        if self.sam is None:  # edges are being calibrated
            return found
        return [
            seen if isinstance(seen, Exception) else self._redrawn(image.entry, *seen)
            for image, seen in zip(images, found, strict=True)
        ]

    def _redrawn(
        self, entry: EntryT, inputs: PhotoT, facts: Mapping[str, Any]
    ) -> tuple[PhotoT, Mapping[str, Any]] | Exception:
        """The inputs with what SAM made of the cut, and how many masks it was asked for."""
        assert self.sam is not None
        try:
            before = self.cut(entry, inputs)
            masks = self.masks_of(before)
            answers = self.sam(inputs.photograph.pixels, masks)
            made = self.redraw(before, answers)
        except Exception as error:  # recorded with its cause; the other images go on
            return error
        shape = inputs.photograph.pixels.shape[:2]
        counts = {
            "asked": len(self.sam.asked(masks, shape)),
            "redrawn": sum(answer is not None for answer in answers),
        }
        inputs = replace(inputs, made=made, before=before if entry.pictured else None)
        return inputs, {**facts, **counts}

    def make(self, entry: EntryT, inputs: PhotoT) -> ResultT:
        made: ResultT = inputs.made
        return self.cut(entry, inputs) if made is None else made

    @classmethod
    def tell(cls, store: JobStore) -> None:
        super().tell(store)
        asked, redrawn = sam_counts(FactCounts(store.read_records().values()))
        if not asked:
            return
        say(f"SAM: {redrawn} of {asked} masks redrawn")
        if not redrawn:
            say(f"warning: {_NONE_REDRAWN}", error=True)

    @classmethod
    def trust_page(
        cls, outcome: Outcome, *args: Any, cards: Sequence[tuple[str, str]], **more: Any
    ) -> Report:
        asked, redrawn = sam_counts(outcome.counts)
        if asked:
            cards = [*cards, ("masks redrawn by SAM", f"{redrawn:,} of {asked:,}")]
        return super().trust_page(outcome, *args, cards=cards, **more)


_NONE_REDRAWN = (
    "SAM redrew no mask at all: it is not sure of any, or sees other objects. Look at the "
    "pictures; MODEL.TRACE.SAM.MIN_SCORE and MIN_AGREEMENT say what is believed"
)


def sam_rows(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Which SAM was asked, for the sources of a report page; nothing where none was."""
    return [("SAM", settings[WEIGHTS])] if WEIGHTS in settings else []


def sam_counts(counts: FactCounts) -> tuple[int, int]:
    """How many masks SAM was asked for, and how many it redrew."""
    return counts.sums["asked"], counts.sums["redrawn"]


def sam_settings(cfg: CfgNode) -> dict[str, Any]:
    """What decides results as far as SAM does; nothing where it is not asked."""
    if not cfg.MODEL.TRACE.SAM.WEIGHTS:
        return {}
    return {**deciding_keys(cfg, ("SAM",)), "sam": sam_print(cfg)}


def _build_sam(cfg: CfgNode) -> Sam:
    from trace_d2.masks.sam import build_sam  # needs PyTorch

    return build_sam(cfg)
