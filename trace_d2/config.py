"""Every ``TRACE`` key, with its meaning, unit and default.

The keys live under ``MODEL.TRACE``, so that one file configures a Detectron2 model and the label
maker alike. Those of training are in ``config_training``. Nothing here
needs Detectron2: its ``CfgNode`` is a subclass of fvcore's.
"""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode

from .config_training import (
    add_copy_paste,
    add_datasets,
    add_input,
    add_mask2former,
    add_roi_heads,
    add_solver,
    add_student,
)

# Taken and passed over with a warning: calibration of the edges took their place.
_FORMER_KEYS = tuple(
    f"MODEL.TRACE.{node}.{key}" for node in ("LABELS", "BGP") for key in ("CONTRAST", "EVIDENCE")
)

# Of Detectron2's config, those that have a node TRACE.
_NODES = ("MODEL", "INPUT", "DATASETS")


def add_trace_config(cfg: CfgNode) -> None:
    """Add the ``TRACE`` nodes to ``cfg`` in place; call it before ``cfg.merge_from_file``.

    Args:
        cfg: a Detectron2 or fvcore config. ``MODEL``, ``INPUT`` and ``DATASETS`` are made if they
            are missing.
    """
    for node in _NODES:
        if node not in cfg:
            cfg[node] = CfgNode()
        cfg[node].TRACE = CfgNode()
    trace = cfg.MODEL.TRACE

    # Seed of the noise. The noise of an image is fixed by (SEED, file stem) alone.
    trace.SEED = 0
    # Where the diffusion backbone runs. "auto" follows MODEL.DEVICE of a Detectron2 config (a
    # post-processor follows its model), and takes CUDA where there is one without Detectron2.
    # Else a torch device: "cpu", "cuda:1", ...
    trace.DEVICE = "auto"
    _add_backbone(trace)
    _add_edges(trace)
    _add_propagation(trace)
    _add_labels(trace)
    _add_edge_source(trace)
    add_student(trace)
    _add_postprocessor(trace)
    add_mask2former(trace)
    add_roi_heads(trace)
    add_solver(trace)
    add_input(cfg.INPUT.TRACE)
    add_copy_paste(cfg.INPUT.TRACE)
    add_datasets(cfg.DATASETS.TRACE)
    for node in _NODES:
        # Detectron2 merges files only into nodes of its own class.
        cfg[node].TRACE = _of_kind(cfg[node].TRACE, type(cfg))
    for key in _FORMER_KEYS:
        cfg.register_deprecated_key(key)


def _of_kind(node: CfgNode, kind: type[CfgNode]) -> CfgNode:
    """``node`` with every node in it of the class ``kind``."""
    return kind(
        {key: _of_kind(v, kind) if isinstance(v, CfgNode) else v for key, v in node.items()}
    )


def _add_backbone(trace: CfgNode) -> None:
    trace.BACKBONE = CfgNode()
    # A registered name (sd15, sdxl, pixart-alpha, sd35-medium, sd35-large, flux1-dev, trace-tiny)
    # or the path of a diffusers folder (its family is read from model_index.json).
    trace.BACKBONE.NAME = "sd35-large"
    # Weights of a registered name: a hub id or a folder. Empty: the hub id the name stands for.
    trace.BACKBONE.WEIGHTS = ""
    # "auto": float32 on the CPU, bfloat16 on CUDA. Else float32, float16, bfloat16.
    trace.BACKBONE.DTYPE = "auto"
    # Keep VAE and denoiser in main memory, and move each to the device while it runs.
    trace.BACKBONE.CPU_OFFLOAD = False
    # "encoded": the empty string through the text encoders, once, cached as a file.
    # "zeros": zeros of the same shape, no text encoder needed.
    trace.BACKBONE.NULL_PROMPT = "encoded"
    # Side of the square in pixels (or, for ASPECT "keep", the square root of the area).
    # 0: the native resolution of the backbone.
    trace.BACKBONE.RESOLUTION = 0
    # "square" resizes to a square as the paper does; "keep" keeps the aspect ratio at equal area.
    trace.BACKBONE.ASPECT = "square"

    trace.ATTENTION = CfgNode()
    # Which self-attention calls to average, counted from 0 in the order they run. Empty: all. A
    # student has BLOCKS of its own.
    trace.ATTENTION.BLOCKS = []
    # Scratch memory of the reader in MiB, on top of the accumulated map itself.
    trace.ATTENTION.SCRATCH_MB = 16


def _add_edges(trace: CfgNode) -> None:
    trace.EMERGENCE = CfgNode()
    # Stride of the trajectory tau_0 < ... < tau_N in timesteps, of 1000 (Algorithm 1).
    trace.EMERGENCE.STRIDE = 100
    # Divergence between steps: kl, jsd, l1, l2, entropy, wasserstein.
    trace.EMERGENCE.METRIC = "kl"
    # A timestep in 0..999 to read instead of searching; -1 searches (IEP).
    trace.EMERGENCE.FIXED_TIMESTEP = -1
    # Timesteps a forward pass. 0: as many as MEMORY_MB allows.
    trace.EMERGENCE.BATCH = 0
    # Memory in MiB that a batch of accumulated maps may take when BATCH is 0.
    trace.EMERGENCE.MEMORY_MB = 256

    trace.ABDIV = CfgNode()
    # 4 (the paper's default) or 8 neighbours (adds the diagonals).
    trace.ABDIV.NEIGHBOURHOOD = 4
    # "mean_std": edge above mu+sigma, none below mu-sigma, ignored between. "upper_band": none
    # below mu, for maps of which nothing lies below mu-sigma. "mean": edge above mu, else none.
    trace.ABDIV.THRESHOLD = "mean_std"


def _add_propagation(trace: CfgNode) -> None:
    trace.BGP = CfgNode()
    # How a mask is cut: "basins" or "components" (the paper's), as LABELS.CUT has it.
    trace.BGP.CUT = "basins"
    # Of the basins, as LABELS.NECK_DEPTH.
    trace.BGP.NECK_DEPTH = 2.0
    # Radius of the affinities in grid cells, and their exponent beta (IRNet: 5 and 10).
    trace.BGP.RADIUS = 5
    trace.BGP.BETA = 10.0
    # Steps of the random walk (IRNet: 2^8).
    trace.BGP.STEPS = 256
    # The walk runs on a grid of this stride in pixels: (H-1)//STRIDE + 1 cells.
    trace.BGP.STRIDE = 4
    # Masks with a higher IoU are merged.
    trace.BGP.MERGE_IOU = 0.5
    # Pad the edge map with 1 on the left, right and bottom as IRNet does. Changes no result.
    trace.BGP.IRNET_PADDING = False
    # A piece covers the pixels where its walk has at least this share of its maximum.
    trace.BGP.REACH = 0.5
    # Pieces of fewer pixels are left out; their pixels join a neighbour.
    trace.BGP.MIN_AREA = 16
    # False: instances stay inside their masks. True: they spread to the edges around them.
    trace.BGP.GROW = False
    # Threads of one walk. Workers of the label maker are processes of their own.
    trace.BGP.THREADS = 1


def _add_labels(trace: CfgNode) -> None:
    trace.LABELS = CfgNode()
    # How the mask of a thing class is cut. "basins": basins between edges, merged where the border
    # between them is weak, so that a gap in an edge does not leak. "components": the connected
    # components that edges leave, as the paper does.
    trace.LABELS.CUT = "basins"
    # Pixels: two basins part only where the way between them narrows by this much.
    trace.LABELS.NECK_DEPTH = 2.0
    # Tiny pieces of a thing class: "join" the nearest segment of the class, "void" (those that
    # touch a segment of the class still join it), or "keep" them as segments.
    trace.LABELS.TINY_PIECES = "join"
    # A piece is tiny below this many pixels in an image of 640 x 480 (in proportion in others) ...
    trace.LABELS.TINY_AREA = 40.0
    # ... or below this share of the largest segment of its class in the image.
    trace.LABELS.TINY_SHARE = 0.05


def _add_edge_source(trace: CfgNode) -> None:
    trace.EDGES = CfgNode()
    # Where edges come from: "teacher" (emergence point and ABDiv), "student" (the distilled
    # predictor, one forward pass, see STUDENT.WEIGHTS) or "files" (EDGES.DIR).
    trace.EDGES.SOURCE = "teacher"
    # Folder of <stem>.png or <stem>.npy for SOURCE "files".
    trace.EDGES.DIR = ""
    # A calibration.json of a label job (what strengths of this detector's edges mean). Empty:
    # jobs measure it on a sample of their images; the post-processor takes the one in the
    # student's folder, else measures it on the masks of each image.
    trace.EDGES.CALIBRATION = ""


def _add_postprocessor(trace: CfgNode) -> None:
    trace.POSTPROCESSOR = CfgNode()
    # Cut the masks that a model predicts along edges (EDGES.SOURCE), whatever its architecture.
    trace.POSTPROCESSOR.ENABLED = False
    # Which outputs to cut: "instances" and "panoptic_seg". What a model lacks is left out.
    trace.POSTPROCESSOR.INSTANCES = True
    trace.POSTPROCESSOR.PANOPTIC = True
    # Predicted instances of a lower score (0..1) are left out before the others are cut.
    trace.POSTPROCESSOR.MIN_SCORE = 0.05
    # The instances of the highest scores that an image keeps, after the cut.
    trace.POSTPROCESSOR.MAX_INSTANCES = 100
    # An instance's score is that of its mask times (its share of the mask's area) ^ this. 0 keeps
    # the mask's score, with which specks rank as high as objects.
    trace.POSTPROCESSOR.SHARE_POWER = 0.5


def get_trace_cfg() -> CfgNode:
    """A config that holds the ``TRACE`` keys at their defaults and nothing else."""
    cfg = CfgNode()
    add_trace_config(cfg)
    return cfg


def load_trace_cfg(config_file: str | Path, overrides: list[str] | None = None) -> CfgNode:
    """Defaults, then ``config_file`` (with its ``_BASE_``), then ``KEY VALUE`` pairs; frozen.

    Of a file for training (it names a META_ARCHITECTURE) only the TRACE keys are taken: the
    others are Detectron2's, which need not be installed.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: the file or a pair names a key that does not exist.
    """
    if not Path(config_file).is_file():
        raise FileNotFoundError(f"no config file at {config_file}")
    cfg = get_trace_cfg()
    loaded = cfg.load_yaml_with_base(str(config_file))
    if "META_ARCHITECTURE" in (loaded.get("MODEL") or {}):
        loaded = {
            node: {"TRACE": loaded[node]["TRACE"]}
            for node in _NODES
            if "TRACE" in (loaded.get(node) or {})
        }
    cfg.merge_from_other_cfg(CfgNode(loaded))
    cfg.merge_from_list(list(overrides or []))
    cfg.freeze()
    return cfg
