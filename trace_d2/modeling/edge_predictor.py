"""TRACE's edges as a Detectron2 meta-architecture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from trace_d2.backbones.registry import canonical_name
from trace_d2.edges.distillation import dice_loss, reconstruction_loss
from trace_d2.edges.sources import EdgeSource, FileEdges, build_edge_source
from trace_d2.io.edge_maps import edge_stem

if TYPE_CHECKING:
    from trace_d2.edges.student import EdgeStudent

_TAG_BYTES = 256


@META_ARCH_REGISTRY.register()
class TraceEdgePredictor(nn.Module):
    """Images to instance edges, through the interface of Detectron2's models.

    With ``MODEL.TRACE.STUDENT.TRAIN`` it is a student in training: called in training mode on
    images with pseudo edges, it gives the losses of distillation.

    The frozen diffusion model is no part of the state dict: its weights come from
    ``MODEL.TRACE.BACKBONE``, and it stays on ``MODEL.TRACE.DEVICE`` ("auto": ``MODEL.DEVICE``).
    What a checkpoint holds is adapters and decoder of a student in training, nothing for other
    sources, and the source's name, so that loading another model's checkpoint is an error.

    Args:
        edge_source: finds the edges of an image.
        source_name: of the source, for checkpoints.
        input_format: of the images, as ``cfg.INPUT.FORMAT`` names it.
        student: what is trained, and what ``edge_source`` runs; None: nothing is.
        dice_weight, reconstruction_weight: of the two losses.
    """

    edge_source_tag: Tensor

    @configurable
    def __init__(
        self,
        *,
        edge_source: EdgeSource,
        source_name: str,
        input_format: str = "BGR",
        student: EdgeStudent | None = None,
        dice_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.student = student
        self.dice_weight = dice_weight
        self.reconstruction_weight = reconstruction_weight
        self.edge_source = edge_source
        self.source_name = source_name
        self.input_format = input_format
        # Checkpointers of Detectron2 take tensors only.
        text = source_name.encode()[-_TAG_BYTES:].ljust(_TAG_BYTES, b"\0")
        self.register_buffer("edge_source_tag", torch.tensor(list(text), dtype=torch.uint8))

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments from ``MODEL.TRACE`` and ``INPUT.FORMAT``."""
        trace = cfg.MODEL.TRACE
        name = trace.EDGES.SOURCE
        if name in ("teacher", "student"):
            name = f"{name} {canonical_name(trace.BACKBONE.NAME)}"
        arguments = {"source_name": name, "input_format": cfg.INPUT.FORMAT}
        if trace.EDGES.SOURCE != "student" or not trace.STUDENT.TRAIN:
            return arguments | {"edge_source": build_edge_source(cfg)}
        # Most models have no student: diffusion models take seconds to import.
        from trace_d2.edges.detector import StudentDetector
        from trace_d2.edges.student_loading import student_to_train
        from trace_d2.edges.tiles import in_tiles

        student = student_to_train(cfg)
        return arguments | {
            "edge_source": in_tiles(StudentDetector(student, trace.SEED), cfg),
            "student": student,
            "dice_weight": trace.STUDENT.LOSS.DICE,
            "reconstruction_weight": trace.STUDENT.LOSS.RECONSTRUCTION,
        }

    @property
    def device(self) -> torch.device:
        """Where the edges are returned."""
        return self.edge_source_tag.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Edges of each image, or the losses of a batch where a student is trained.

        Args:
            batched_inputs: dicts with ``image`` (C, h, w), uint8 or float in 0..255.

                To find edges: ``height`` and ``width`` of the output where they differ from it;
                ``file_name``, whose stem fixes the noise (a hash of the pixels does without it).

                To train: images of one size, and ``pseudo_edges`` (h, w): 1 edge, 0 none, -1
                ignored.

        Returns:
            One dict an image: ``edges`` (height, width) float32 in 0..1 on the model's device; an
            edge is above 0.5. Or, in training, ``loss_dice`` and ``loss_reconstruction``, scalars.

        Raises:
            ValueError: edges are read from files and ``file_name`` is missing; in training, the
                model has nothing to train, or images are of another size than the backbone takes.
        """
        # What is built by build_model is in training mode; that alone asks for no losses.
        taught = self.student is not None or "pseudo_edges" in batched_inputs[0]
        if self.training and taught:
            return self._losses(batched_inputs)
        return self._edges(batched_inputs)

    @torch.no_grad()
    def _edges(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        results = []
        for record in batched_inputs:
            height, width = record["image"].shape[-2:]
            size = int(record.get("height", height)), int(record.get("width", width))
            edges = find_image_edges(record, self.edge_source, self.input_format, size)
            results.append({"edges": torch.from_numpy(edges).to(self.device)})
        return results

    def _losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        if self.student is None:
            raise ValueError(
                "there is nothing to train: set MODEL.TRACE.EDGES.SOURCE student and "
                "MODEL.TRACE.STUDENT.TRAIN True"
            )
        device = self.student.backbone.device
        pixels = self._pixels(batched_inputs).to(device)
        pseudo = torch.stack([record["pseudo_edges"] for record in batched_inputs]).to(device)
        stems = (Path(record.get("file_name", "")).stem for record in batched_inputs)
        prompts = [self.student.backbone.prompt_of(stem) for stem in stems]
        output = self.student(pixels, prompts=prompts)
        # A weight of 0 keeps its term: without it the last layers would have no gradient at all,
        # which distributed training takes for an error.
        return {
            "loss_dice": self.dice_weight * dice_loss(output.logits, pseudo),
            "loss_reconstruction": self.reconstruction_weight
            * reconstruction_loss(output.latent, output.reconstruction),
        }

    def _pixels(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """The images (B, 3, H, W) as float32 RGB in -1..1."""
        assert self.student is not None
        sizes = {tuple(record["image"].shape[-2:]) for record in batched_inputs}
        multiple = self.student.backbone.size_multiple
        if len(sizes) > 1 or any(side % multiple for side in next(iter(sizes))):
            raise ValueError(
                f"images of a batch must be of one size, a multiple of {multiple} pixels for "
                f"{self.student.backbone.name}, not {sorted(sizes)}: see "
                "INPUT.TRACE.PSEUDO_EDGES.SIZE"
            )
        images = torch.stack([record["image"] for record in batched_inputs]).float()
        if self.input_format == "BGR":
            images = images.flip(1)
        return images / 127.5 - 1

    def save_student(self, folder: Path) -> None:
        """Write what is trained as a folder for ``MODEL.TRACE.STUDENT.WEIGHTS``.

        Raises:
            ValueError: nothing is trained.
        """
        if self.student is None:
            raise ValueError("this model has no student in training to save")
        from trace_d2.edges.student_loading import save_student

        save_student(self.student, folder)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any
    ) -> None:
        key = f"{prefix}edge_source_tag"
        if key not in state_dict:
            raise ValueError(
                f"the checkpoint is not one of a TraceEdgePredictor (it has no {key}): set "
                "MODEL.WEIGHTS to one that is, or to '' for the teacher, which needs none"
            )
        found = bytes(state_dict[key].tolist()).rstrip(b"\0").decode(errors="replace")
        if found != bytes(self.edge_source_tag.tolist()).rstrip(b"\0").decode(errors="replace"):
            raise ValueError(
                f"the checkpoint is of edges by {found!r}, and the config asks for "
                f"{self.source_name!r}: change MODEL.TRACE.EDGES.SOURCE and "
                "MODEL.TRACE.BACKBONE.NAME, or MODEL.WEIGHTS"
            )
        if self.student is None and any(k.startswith(f"{prefix}student.") for k in state_dict):
            raise ValueError(
                "the checkpoint holds a student in training: set MODEL.TRACE.STUDENT.TRAIN True, "
                'or name the folder "student" beside it in MODEL.TRACE.STUDENT.WEIGHTS and leave '
                "MODEL.WEIGHTS empty"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **options)


def find_image_edges(
    record: dict[str, Any], source: EdgeSource, input_format: str, size: tuple[int, int]
) -> np.ndarray:
    """Edges of the image of a Detectron2 input dict, at the size of the output.

    The key of the noise is the stem of ``file_name``, or a hash of the pixels where it is missing.

    Args:
        record: with ``image`` (C, h, w), uint8 or float in 0..255, and perhaps ``file_name``.
        source: what finds them.
        input_format: ``cfg.INPUT.FORMAT``: BGR, RGB, L or YUV-BT.601.
        size: (height, width) in pixels.

    Returns:
        (height, width) float32 in 0..1.
    """
    name = record.get("file_name")
    if not name and isinstance(source, FileEdges):
        raise ValueError(
            'MODEL.TRACE.EDGES.SOURCE is "files", and the input dict has no "file_name" to find '
            "them by (DefaultPredictor gives none): add it, or set another SOURCE"
        )
    rgb = _rgb_image(record["image"], input_format, size)
    if name and isinstance(source, FileEdges):
        key = edge_stem(source.folder, name)
    else:
        key = Path(name).stem if name else hashlib.sha256(rgb.tobytes()).hexdigest()
    edges = np.asarray(source(rgb, key).edges, np.float32)
    if edges.shape != size:
        raise ValueError(
            f"the edge source gave {edges.shape} for an image of {size}: it must keep the size"
        )
    return edges


def _rgb_image(image: Tensor, input_format: str, size: tuple[int, int]) -> np.ndarray:
    """The image (C, h, w), uint8 or float in 0..255, as RGB (height, width, 3) uint8."""
    rgb = convert_image_to_rgb(image.detach().permute(1, 2, 0), input_format)
    rgb = np.ascontiguousarray(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))
    if rgb.shape[:2] == size:
        return rgb
    shrinks = size[0] * size[1] < rgb.shape[0] * rgb.shape[1]
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(rgb, (size[1], size[0]), interpolation=way)
