"""What a trained model tells a job that predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image, with the category ids of the data set.

    Attributes:
        instances: COCO annotations without ``id`` and ``image_id``, by falling score; None: the
            model gives no instances.
        segment_ids: (H, W) int32, 0 = void; None: the model gives no panoptic segments.
        segments: of ``segment_ids``: COCO ``segments_info``.
        below: instances that were left out for their score.
        best: the highest score of an instance, 0..1; 0 without any.
        notes: remarks for the journal.
    """

    instances: list[dict[str, Any]] | None = None
    segment_ids: np.ndarray | None = None
    segments: tuple[dict[str, Any], ...] = ()
    below: int = 0
    best: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predicted:
    """What came out for one image.

    Attributes:
        found: the prediction.
        uncut: the same before it was cut along edges; None: it was not.
        edges: float32 (H, W) in 0..1, along which it was cut; None: it was not.
    """

    found: Prediction
    uncut: Prediction | None = None
    edges: np.ndarray | None = None


class Predictor(Protocol):
    """A trained model. Results do not depend on which images are seen together."""

    def ready(self, pixels: np.ndarray) -> Any:
        """What ``predict`` takes of an image uint8 (H, W, 3) RGB; any thread may do it ahead."""

    def predict(self, ready: Any, pixels: np.ndarray, file_name: str) -> Predicted:
        """What the model says of the image.

        Raises:
            UsageError: it gives nothing that could be written, whatever the image.
        """
