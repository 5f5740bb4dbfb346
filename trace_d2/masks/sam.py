"""SAM, SAM 2 and SAM-HQ of transformers, asked for one mask after another that is there already.

The paper takes masks after BGP "as seeds for SAM" (section 1) and does not say how. Here each mask
is asked for by its tight box and some points (``seeds``), and the answer takes its place only where
the network is sure of it and it agrees with what was asked for: what edges gained is not lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn import functional
from transformers import Sam2Model, SamHQModel, SamModel

from trace_d2.backbones.loading import load_folder
from trace_d2.devices import pick_device
from trace_d2.propagation.grid import REFERENCE_PIXELS

from .patches import Patch, iou, patch_of
from .sam_files import check_sam_sizes, open_sam, own_keys, sam_statistics
from .seeds import Seed, make_seeds
from .settings import SamSettings

_CLASSES = {
    "sam": SamModel,
    "sam_hq": SamHQModel,
    "sam2": Sam2Model,
    "sam2_video": Sam2Model,  # of whose weights it takes what it needs for single images
}
PADDED = ("sam", "sam_hq")
"""Model types that see an image in its own shape, padded to a square; others see it squashed."""


@dataclass(frozen=True)
class Redrawn:
    """An answer that takes the place of the mask that was asked for.

    Attributes:
        patch: the new mask.
        score: the network's estimate of its IoU.
        agreement: IoU with the mask that was asked for, in 0..1.
    """

    patch: Patch
    score: float
    agreement: float


class Sam:
    """A promptable network that redraws masks.

    Args:
        model: ``SamModel``, ``Sam2Model`` or ``SamHQModel`` of transformers.
        mean, std: of the pixels that it was trained with, in 0..1, by channel.
        settings: what is asked, and what is believed.
        device: where it runs.

    Attributes:
        commit: of a hub's model.
    """

    commit: str | None = None

    def __init__(
        self,
        model: Any,
        mean: Sequence[float],
        std: Sequence[float],
        settings: SamSettings,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.settings = settings
        self.side = int(model.prompt_encoder.input_image_size)
        self.padded = model.config.model_type in PADDED
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std)
        )

    @torch.no_grad()
    def __call__(self, image: np.ndarray, masks: Sequence[Patch]) -> list[Redrawn | None]:
        """An answer for each mask; None where the mask stays as it is.

        Args:
            image: uint8 (H, W, 3) RGB.
            masks: of the image; they may overlap.

        Raises:
            ValueError: the network gives scores that are no numbers.
        """
        shape = image.shape[:2]
        asked = self.asked(masks, shape)
        found: list[Redrawn | None] = [None] * len(masks)
        if not asked:
            return found
        embeddings = self.embed(image)
        own = self.settings
        seeds = make_seeds(masks, shape, own.points, own.negatives, asked)
        for ranks in _calls(seeds, own.batch):
            logits, scores = self.ask(embeddings, [seeds[rank] for rank in ranks], shape)
            for rank, candidates, sure in zip(ranks, logits, scores, strict=True):
                mask = masks[asked[rank]]
                found[asked[rank]] = self._choose(mask, candidates, sure.tolist(), shape)
        return found

    def asked(self, masks: Sequence[Patch], shape: tuple[int, int]) -> list[int]:
        """Ranks of the masks that are large enough to be asked for, in an image of ``shape``."""
        least = self.settings.min_area * max(1.0, shape[0] * shape[1] / REFERENCE_PIXELS)
        return [rank for rank, mask in enumerate(masks) if mask.area >= least]

    def frame(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The size (h, w) that an image of ``shape`` has in the network's square."""
        if not self.padded:
            return self.side, self.side
        scale = self.side / max(shape)
        height, width = (max(1, int(size * scale + 0.5)) for size in shape)
        return height, width

    def embed(self, image: np.ndarray) -> dict[str, Any]:
        """What the network keeps of an image, uint8 (H, W, 3) RGB, for any number of questions."""
        owned = np.require(image, requirements=["C", "W"])  # PyTorch warns of what is read-only
        pixels = torch.from_numpy(owned).to(self.device).float()
        height, width = self.frame(image.shape[:2])
        resized = functional.interpolate(
            pixels.permute(2, 0, 1)[None], (height, width), mode="bilinear", antialias=True
        )
        normed = (resized / 255 - self.mean) / self.std
        square = functional.pad(normed, (0, self.side - width, 0, self.side - height))
        found = self.model.get_image_embeddings(square)
        if self.model.config.model_type == "sam_hq":
            return {"image_embeddings": found[0], "intermediate_embeddings": found[1]}
        return {"image_embeddings": found}

    def ask(
        self, embeddings: dict[str, Any], seeds: Sequence[Seed], shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Masks of several objects of one image, in one call; all have as many points.

        Args:
            embeddings: see ``embed``.
            seeds: of the objects, (K).
            shape: (H, W) of the image.

        Returns:
            logits (K, M, h, w) of M masks an object over the network's square, which are above 0
            inside; the network's estimates of their IoU, (K, M).
        """
        frame = self.frame(shape)
        points = self._placed(np.stack([seed.points for seed in seeds]), shape, frame)
        boxes = self._placed(np.stack([seed.box.reshape(2, 2) for seed in seeds]), shape, frame)
        inside = torch.from_numpy(np.stack([seed.inside for seed in seeds]))
        output = self.model(
            **embeddings,
            input_points=points[None],
            input_labels=inside[None].long().to(self.device),
            input_boxes=boxes.flatten(1)[None],
            multimask_output=True,
        )
        scores = output.iou_scores[0].float()
        if not torch.isfinite(scores).all():
            raise ValueError(
                "the network of MODEL.TRACE.SAM.WEIGHTS gives scores that are no numbers: its "
                "weights may be damaged; copy or download the model again"
            )
        return output.pred_masks[0].float(), scores

    def to_image(self, logits: Tensor, shape: tuple[int, int]) -> np.ndarray:
        """Masks bool (M, H, W) of an image of ``shape``, of logits (M, h, w) over the square."""
        if self.padded:
            square = (self.side, self.side)
            logits = functional.interpolate(logits[None], square, mode="bilinear")[0]
            height, width = self.frame(shape)
            logits = logits[:, :height, :width]
        whole = functional.interpolate(logits[None], shape, mode="bilinear")[0]
        return (whole > 0).cpu().numpy()

    def _placed(self, places: np.ndarray, shape: tuple[int, int], frame: tuple[int, int]) -> Tensor:
        """Pixels x, y (..., 2) of the image, as pixels of the square.

        Both count from the centre of their first pixel, which lies half a pixel inside.
        """
        scale = np.array([frame[1] / shape[1], frame[0] / shape[0]], np.float32)
        return torch.from_numpy((places + 0.5) * scale - 0.5).to(self.device)

    def _choose(
        self, mask: Patch, logits: Tensor, scores: Sequence[float], shape: tuple[int, int]
    ) -> Redrawn | None:
        """Of the masks that the network is sure of, the one that agrees best, if it does enough."""
        best: Redrawn | None = None
        for candidate, score in zip(logits, scores, strict=True):
            if score < self.settings.min_score:
                continue
            patch = patch_of(self.to_image(candidate[None], shape)[0])
            agreement = iou(mask, patch) if patch is not None else 0.0
            if patch is not None and agreement > (best.agreement if best else 0.0):
                best = Redrawn(patch, score, agreement)
        return best if best and best.agreement >= self.settings.min_agreement else None


def build_sam(cfg: CfgNode) -> Sam:
    """The network of ``cfg.MODEL.TRACE.SAM.WEIGHTS``, in float32 on the device of the backbone.

    Raises:
        ValueError, OSError: it cannot be had, is of another kind, or its weights are not whole.
    """
    settings, device = SamSettings.from_config(cfg), pick_device(cfg)
    with own_keys():
        source = open_sam(settings)
        check_sam_sizes(source)
        folder = source.whole()
        statistics = sam_statistics(folder)
        model = load_folder(folder, _CLASSES[str(source.model_type)], torch.float32)
    sam = Sam(model, *statistics, settings, device)
    sam.commit = source.revision
    return sam


def _calls(seeds: Sequence[Seed], batch: int) -> Iterator[list[int]]:
    """Ranks of seeds that share a call: at most ``batch``, which have as many points.

    Nothing is padded: what SAM is given in place of a point changes its masks.
    """
    alike: dict[int, list[int]] = defaultdict(list)
    for rank, seed in enumerate(seeds):
        alike[len(seed.points)].append(rank)
    for ranks in alike.values():
        for start in range(0, len(ranks), batch):
            yield ranks[start : start + batch]
