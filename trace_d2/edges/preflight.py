"""What can be known to be wrong with where edges come from before PyTorch is imported."""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode

from trace_d2.attention.settings import AttentionSettings
from trace_d2.backbones.preflight import check_backbone
from trace_d2.backbones.registry import canonical_name, without_diffusion
from trace_d2.backbones.settings import PassSettings
from trace_d2.complaints import Complaints
from trace_d2.devices import backbone_device, check_device
from trace_d2.io.weight_files import tensor_shapes
from trace_d2.propagation.calibration import EdgeCalibration
from trace_d2.settings import NodeSettings

from .settings import AbdivSettings, EmergenceSettings, LoraSettings, TileSettings
from .sources import check_edge_source
from .student_files import DECODER_FILE, LORA_FILE, read_description, student_folder


def check_edges(cfg: CfgNode) -> None:
    """Raise what ``build_edge_source`` would, as far as it can be known; all of it at once.

    Raises:
        ConfigError, ValueError, OSError, ImportError: as ``build_edge_source``.
    """
    source = cfg.MODEL.TRACE.EDGES.SOURCE
    wrong = Complaints()
    if source != "student":
        wrong.of(check_edge_source, cfg)
    if cfg.MODEL.TRACE.EDGES.CALIBRATION:
        wrong.of(EdgeCalibration.load, cfg.MODEL.TRACE.EDGES.CALIBRATION)
    if source in ("teacher", "student"):
        kinds: list[type[NodeSettings]] = [AttentionSettings, PassSettings, TileSettings]
        if source == "teacher":
            kinds += [EmergenceSettings, AbdivSettings]
        for kind in kinds:
            wrong.of(kind.from_config, cfg)
        wrong.of(check_backbone, cfg)
    elif source == "hed":
        name, key = backbone_device(cfg)
        if name != "auto":
            wrong.of(check_device, name, key)
    if source == "student":
        folder = wrong.of(student_folder, cfg)
        if folder is not None:
            wrong.of(_check_student, cfg, folder)
    wrong.end()


def check_student_to_train(cfg: CfgNode) -> None:
    """Raise what building the student that ``MODEL.TRACE.STUDENT`` describes would, all at once."""
    trace, wrong = cfg.MODEL.TRACE, Complaints()
    wrong.of(AttentionSettings.from_config, cfg)
    wrong.of(LoraSettings.from_config, cfg)
    wrong.of(check_backbone, cfg)
    wrong.of(check_trainable, cfg)
    if trace.STUDENT.WEIGHTS:
        folder = wrong.of(student_folder, cfg)
        if folder is not None:
            wrong.of(_check_student, cfg, folder)
    wrong.end()


def check_trainable(cfg: CfgNode) -> None:
    """Raise a ValueError for keys of ``cfg`` with which no student can be trained."""
    trace = cfg.MODEL.TRACE
    if without_diffusion(trace.BACKBONE.NAME):
        raise ValueError(
            f"MODEL.TRACE.BACKBONE.NAME {trace.BACKBONE.NAME} is no diffusion model, and"
            " reconstructs no image: students are trained on diffusion models; edges of this one"
            " are its teacher's, of one pass (MODEL.TRACE.EDGES.SOURCE teacher)"
        )
    if trace.BACKBONE.CPU_OFFLOAD:
        raise ValueError("MODEL.TRACE.BACKBONE.CPU_OFFLOAD is for inference: set it to False")
    if trace.BACKBONE.OFFLOAD != "none":
        raise ValueError('MODEL.TRACE.BACKBONE.OFFLOAD is for inference: set it to "none"')
    if trace.BACKBONE.COMPILE:
        raise ValueError("MODEL.TRACE.BACKBONE.COMPILE is for inference: set it to False")
    loss = trace.STUDENT.LOSS
    if min(loss.DICE, loss.RECONSTRUCTION) < 0 or loss.DICE + loss.RECONSTRUCTION == 0:
        raise ValueError(
            "MODEL.TRACE.STUDENT.LOSS: DICE and RECONSTRUCTION are 0 or more, and not both 0; they "
            f"are {loss.DICE} and {loss.RECONSTRUCTION}"
        )


def _check_student(cfg: CfgNode, folder: Path) -> None:
    """Raise unless the student in ``folder`` is whole, and of the backbone of ``cfg``."""
    described, wrong = read_description(folder), Complaints()
    trained, name = described["backbone"]["name"], cfg.MODEL.TRACE.BACKBONE.NAME
    if trained != canonical_name(name):
        wrong.say(
            f"the student in {folder} was trained on {trained}, and MODEL.TRACE.BACKBONE.NAME is "
            f"{name}: change that, or MODEL.TRACE.STUDENT.WEIGHTS"
        )
    for file in (DECODER_FILE, LORA_FILE):
        wrong.of(tensor_shapes, folder / file)
    wrong.end()
