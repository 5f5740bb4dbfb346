"""TRACE's edges as a Detectron2 meta-architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from trace_d2.edges.sources import EdgeSource, build_edge_source

from .input_images import find_image_edges, output_size

_TAG_BYTES = 256


@META_ARCH_REGISTRY.register()
class TraceEdgePredictor(nn.Module):
    """Images to instance edges, through the interface of Detectron2's models.

    The frozen diffusion model of the teacher is no part of the state dict: its weights come from
    ``MODEL.TRACE.BACKBONE``, and it stays on ``MODEL.TRACE.DEVICE`` ("auto": ``MODEL.DEVICE``).
    What a checkpoint holds is the trainable weights of the source, of which the teacher has none,
    and the source's name, so that loading another model's checkpoint is an error.

    Args:
        edge_source: finds the edges of an image; an ``nn.Module`` becomes a submodule.
        source_name: of the source, for checkpoints.
        input_format: of the images, as ``cfg.INPUT.FORMAT`` names it.
    """

    edge_source_tag: Tensor

    @configurable
    def __init__(
        self, *, edge_source: EdgeSource, source_name: str, input_format: str = "BGR"
    ) -> None:
        super().__init__()
        self.edge_source = edge_source
        self.source_name = source_name
        self.input_format = input_format
        # Checkpointers of Detectron2 take tensors only.
        text = source_name.encode()[-_TAG_BYTES:].ljust(_TAG_BYTES, b"\0")
        self.register_buffer("edge_source_tag", torch.tensor(list(text), dtype=torch.uint8))

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Arguments from ``MODEL.TRACE.EDGES``, ``MODEL.TRACE.BACKBONE`` and ``INPUT.FORMAT``."""
        trace = cfg.MODEL.TRACE
        name = trace.EDGES.SOURCE
        if name == "teacher":
            # Of a folder its own name: the same model may lie elsewhere on another machine.
            name = f"{name} {Path(trace.BACKBONE.NAME).name}"
        return {
            "edge_source": build_edge_source(cfg),
            "source_name": name,
            "input_format": cfg.INPUT.FORMAT,
        }

    @property
    def device(self) -> torch.device:
        """Where the edges are returned."""
        return self.edge_source_tag.device

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Edges of each image.

        Args:
            batched_inputs: dicts with ``image`` (C, h, w), uint8 or float in 0..255; ``height``
                and ``width`` of the output where they differ from it; ``file_name``, whose stem
                fixes the noise (a hash of the pixels does without it).

        Returns:
            One dict an image: ``edges`` (height, width) float32 in 0..1 on the model's device; an
            edge is above 0.5.

        Raises:
            ValueError: edges are read from files and ``file_name`` is missing.
        """
        results = []
        for record in batched_inputs:
            size = output_size(record)
            edges = find_image_edges(record, self.edge_source, self.input_format, size)
            results.append({"edges": torch.from_numpy(edges).to(self.device)})
        return results

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
        super()._load_from_state_dict(state_dict, prefix, *args, **options)
