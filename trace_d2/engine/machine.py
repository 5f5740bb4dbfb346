"""What can be known to be wrong with device, weights and solver, before PyTorch is imported."""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode

from trace_d2.complaints import check_all
from trace_d2.devices import check_device, cuda_devices
from trace_d2.io.hints import nearest_path
from trace_d2.io.weight_files import tensor_shapes

KEY = "MODEL.TRACE.SOLVER"


def check_machine(cfg: CfgNode, *, train: bool, resume: bool) -> None:
    """The part of ``check_config`` that looks at no data: device, weights, solver."""
    goes_on = resume and (Path(cfg.OUTPUT_DIR) / "last_checkpoint").is_file()
    check_all(
        lambda: check_devices(cfg),
        lambda: _check_precision(cfg, train),
        lambda: None if goes_on else check_weights(cfg.MODEL.WEIGHTS),
        lambda: _check_solver(cfg) if train else None,
    )


def check_processes(cfg: CfgNode, num_gpus: int, num_machines: int = 1, rank: int = 0) -> None:
    """Raise a ValueError for numbers of processes that this machine or the config cannot have."""
    if num_gpus < 1 or num_machines < 1 or not 0 <= rank < num_machines:
        raise ValueError(
            f"--num-gpus {num_gpus}, --num-machines {num_machines} and --machine-rank {rank}: the "
            "first two are 1 or more, the last counts from 0. On a CPU leave them out, and put "
            "`MODEL.DEVICE cpu` at the end of the command"
        )
    processes = num_gpus * num_machines
    if processes == 1:
        return
    visible = cuda_devices()
    if visible is not None and visible < num_gpus:
        raise ValueError(
            f"--num-gpus is {num_gpus}, but {visible} CUDA devices are visible: lower it, or leave "
            "it out and put `MODEL.DEVICE cpu` at the end of the command"
        )
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(
            f"--num-gpus {num_gpus} and --num-machines {num_machines} are for CUDA, but "
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}: leave out one or the other"
        )
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, no multiple of {processes} "
            "processes: make it one"
        )


def check_weights(weights: str, option: str = "MODEL.WEIGHTS") -> None:
    """Raise unless what ``option`` names is a file of weights, as far as its first bytes tell."""
    if not weights or "://" in weights:  # fetched by Detectron2, which names the address
        return
    path = Path(weights)
    if path.is_dir():
        raise ValueError(
            f"{option}: {path.absolute()} is a folder: name the file of weights in it, as "
            "model_final.pth"
        )
    if not path.is_file():
        more = ", or leave it empty to start from random weights" if "." in option else ""
        raise FileNotFoundError(
            f"{option}: no file at {path.absolute()}{nearest_path(path)}; correct the path{more}"
        )
    try:
        tensor_shapes(path)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def check_devices(cfg: CfgNode) -> None:
    """Raise a ValueError unless the devices of ``cfg`` are there, as far as can be told."""
    check_device(cfg.MODEL.DEVICE, "MODEL.DEVICE")
    if cfg.MODEL.TRACE.DEVICE != "auto":
        check_device(cfg.MODEL.TRACE.DEVICE, "MODEL.TRACE.DEVICE")


def _check_precision(cfg: CfgNode, train: bool) -> None:
    if train and cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ValueError(
            f"SOLVER.AMP.ENABLED needs CUDA, but MODEL.DEVICE is {cfg.MODEL.DEVICE}: put "
            "`SOLVER.AMP.ENABLED False` at the end of the command"
        )
    if train and cfg.SOLVER.AMP.ENABLED and cuda_devices() == 0:
        raise ValueError(
            "SOLVER.AMP.ENABLED needs CUDA, and no CUDA device is visible: put "
            "`SOLVER.AMP.ENABLED False` at the end of the command"
        )


def _check_solver(cfg: CfgNode) -> None:
    node = cfg.MODEL.TRACE.SOLVER
    if node.ACCUMULATION_STEPS < 1:
        raise ValueError(
            f"{KEY}.ACCUMULATION_STEPS is {node.ACCUMULATION_STEPS}; it must be at least 1"
        )
    for name in ("IMS_PER_BATCH", "MAX_ITER", "CHECKPOINT_PERIOD"):
        if cfg.SOLVER[name] < 1:
            raise ValueError(f"SOLVER.{name} is {cfg.SOLVER[name]}; it must be at least 1")
    if not 0 <= node.EMA_DECAY < 1:
        raise ValueError(
            f"{KEY}.EMA_DECAY is {node.EMA_DECAY}; it lies in 0 (no average) to 1, without 1"
        )
    if node.SAMPLES_PERIOD < 0:
        raise ValueError(f"{KEY}.SAMPLES_PERIOD is {node.SAMPLES_PERIOD}; it must be 0 or more")
    check_optimizer(cfg)


def check_optimizer(cfg: CfgNode) -> tuple[str, CfgNode, float]:
    """The optimizer's name, the node of its keys and the clipping norm that a config asks for.

    Raises:
        ValueError: a key has a value that it cannot have.
    """
    prefix, node = KEY, cfg.MODEL.TRACE.SOLVER
    if "OPTIMIZER" in cfg.SOLVER:
        prefix, node = "SOLVER", cfg.SOLVER
    name = node.OPTIMIZER.lower()
    if name not in ("sgd", "adamw"):
        raise ValueError(f"{prefix}.OPTIMIZER is {node.OPTIMIZER}: it must be sgd or adamw")
    for key in ("BACKBONE_MULTIPLIER", "WEIGHT_DECAY_EMBED"):
        if node[key] < 0:
            raise ValueError(f"{prefix}.{key} is {node[key]}: it must be 0 or more")
    clip_norm = _clip_norm(cfg)
    return name, node, clip_norm


def _clip_norm(cfg: CfgNode) -> float:
    """The clipping norm that the config's two places agree on; 0: none."""
    norm = cfg.MODEL.TRACE.SOLVER.CLIP_NORM
    if norm < 0:
        raise ValueError(f"{KEY}.CLIP_NORM is {norm}: it must be 0 (off) or more")
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return norm
    if norm:
        raise ValueError(
            f"{KEY}.CLIP_NORM is {norm} and SOLVER.CLIP_GRADIENTS.ENABLED is True: use one of them"
        )
    if clip.CLIP_TYPE != "full_model":
        return 0.0
    if clip.NORM_TYPE != 2.0 or clip.CLIP_VALUE <= 0:
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS has NORM_TYPE {clip.NORM_TYPE} and CLIP_VALUE "
            f"{clip.CLIP_VALUE}: full_model needs NORM_TYPE 2.0 and a positive CLIP_VALUE"
        )
    return clip.CLIP_VALUE
