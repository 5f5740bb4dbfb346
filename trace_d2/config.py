"""Every ``TRACE`` key, with its meaning, unit and default.

The keys live under ``MODEL.TRACE``, so that one file configures a Detectron2 model and the label
maker alike. Nothing here needs Detectron2: its ``CfgNode`` is a subclass of fvcore's.
"""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode


def add_trace_config(cfg: CfgNode) -> None:
    """Add the ``TRACE`` nodes to ``cfg`` in place; call it before ``cfg.merge_from_file``.

    Args:
        cfg: a Detectron2 or fvcore config. ``MODEL``, ``INPUT`` and ``DATASETS`` are made if they
            are missing.
    """
    for node in ("MODEL", "INPUT", "DATASETS"):
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
    _add_postprocessor(trace)
    _add_mask2former(trace)
    _add_roi_heads(trace)
    _add_solver(trace)
    _add_input(cfg.INPUT.TRACE)
    _add_copy_paste(cfg.INPUT.TRACE)
    _add_datasets(cfg.DATASETS.TRACE)
    for node in ("MODEL", "INPUT", "DATASETS"):
        # Detectron2 merges files only into nodes of its own class.
        cfg[node].TRACE = _of_kind(cfg[node].TRACE, type(cfg))
    _register_plugin(cfg)


def _of_kind(node: CfgNode, kind: type[CfgNode]) -> CfgNode:
    """``node`` with every node in it of the class ``kind``."""
    return kind(
        {key: _of_kind(v, kind) if isinstance(v, CfgNode) else v for key, v in node.items()}
    )


def _register_plugin(cfg: CfgNode) -> None:
    """Register everything with Detectron2 where ``cfg`` is a config of its own."""
    if any(kind.__module__.startswith("detectron2.") for kind in type(cfg).__mro__):
        from trace_d2.plugin import register

        register()


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
    # Which self-attention calls to average, counted from 0 in the order they run. Empty: all.
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
    # "mean_std": edge above mu+sigma, none below mu-sigma, ignored between; "mean": edge above mu.
    trace.ABDIV.THRESHOLD = "mean_std"


def _add_propagation(trace: CfgNode) -> None:
    trace.BGP = CfgNode()
    # How a mask is cut: "basins" or "components" (the paper's), as LABELS.CUT has it.
    trace.BGP.CUT = "basins"
    # Of the basins, with the meaning and units of the same keys in LABELS. Those were chosen on
    # class masks with the errors of tag-supervised models, these on masks that merge instances.
    trace.BGP.NECK_DEPTH = 2.0
    trace.BGP.CONTRAST = 0.15
    trace.BGP.EVIDENCE = 0.0
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
    # By how much the mean edge strength (0..1) of a border must exceed that of the regions beside.
    trace.LABELS.CONTRAST = 0.2
    # In widths of the image's edges: a border of this length needs a contrast greater by 1, one
    # of twice the length by 1/2, and so on. Short borders are the ones that texture fakes.
    trace.LABELS.EVIDENCE = 0.25
    # Tiny pieces of a thing class: "join" the nearest segment of the class, "void" (those that
    # touch a segment of the class still join it), or "keep" them as segments.
    trace.LABELS.TINY_PIECES = "join"
    # A piece is tiny below this many pixels in an image of 640 x 480 (in proportion in others) ...
    trace.LABELS.TINY_AREA = 40.0
    # ... or below this share of the largest segment of its class in the image.
    trace.LABELS.TINY_SHARE = 0.05


def _add_edge_source(trace: CfgNode) -> None:
    trace.EDGES = CfgNode()
    # Where edges come from: "teacher" (emergence point and ABDiv), "files" (EDGES.DIR).
    trace.EDGES.SOURCE = "teacher"
    # Folder of <stem>.png or <stem>.npy for SOURCE "files".
    trace.EDGES.DIR = ""


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


def _add_mask2former(trace: CfgNode) -> None:
    node = trace.MASK2FORMER = CfgNode()
    # Keys of META_ARCHITECTURE "TraceMask2Former". Its classes are MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    # its things those of the first data set in DATASETS.TRAIN.
    # Feature maps of the backbone, finest first; each of twice the stride of the one before.
    node.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Batches are padded to a multiple of this many pixels. 0: as the backbone asks.
    node.SIZE_DIVISIBILITY = 32
    # Width of the decoders and of the mask embeddings: a multiple of 32 and of NHEADS.
    node.HIDDEN_DIM = 256
    # Attention heads of both decoders.
    node.NHEADS = 8
    # Masks an image at most.
    node.NUM_QUERIES = 100
    # Deformable attention layers of the pixel decoder, and their inner width.
    node.ENC_LAYERS = 6
    node.ENC_DIM_FEEDFORWARD = 1024
    # Predictions of the transformer decoder: its layers, and one of the learned queries alone.
    node.DEC_LAYERS = 10
    # Inner width of the transformer decoder's layers.
    node.DIM_FEEDFORWARD = 2048
    # A loss for each of those predictions; False: for the last one.
    node.DEEP_SUPERVISION = True
    # Weights of the losses, and of their parts in the matching.
    node.CLASS_WEIGHT = 2.0
    node.MASK_WEIGHT = 5.0
    node.DICE_WEIGHT = 5.0
    # Weight of "no object" among the classes.
    node.NO_OBJECT_WEIGHT = 0.1
    # Points a mask at which mask and Dice loss are computed.
    node.TRAIN_NUM_POINTS = 12544
    # Candidates a point, of which the least certain are taken ...
    node.OVERSAMPLE_RATIO = 3.0
    # ... for this share (0..1) of the points; the others are random.
    node.IMPORTANCE_SAMPLE_RATIO = 0.75
    node.TEST = CfgNode()
    # Which results to compute. The greatest number of instances is TEST.DETECTIONS_PER_IMAGE.
    node.TEST.SEMANTIC_ON = True
    node.TEST.PANOPTIC_ON = True
    node.TEST.INSTANCE_ON = True
    # Panoptic results: a query needs a higher class score (0..1) ...
    node.TEST.OBJECT_MASK_THRESHOLD = 0.8
    # ... and must show at least this share (0..1) of its own mask.
    node.TEST.OVERLAP_THRESHOLD = 0.8

    # Keys of BACKBONE.NAME "build_swin_backbone"; the defaults are Swin-L's at 384 x 384.
    swin = trace.SWIN = CfgNode()
    # Width of the first stage; each stage doubles it.
    swin.EMBED_DIM = 192
    # Blocks and attention heads of the four stages.
    swin.DEPTHS = [2, 2, 18, 2]
    swin.NUM_HEADS = [6, 12, 24, 48]
    # Side of the attention windows in tokens (of 4, 8, 16, 32 pixels).
    swin.WINDOW_SIZE = 12
    # Greatest probability (0..1) of skipping a block in training.
    swin.DROP_PATH = 0.3
    # Weights of transformers: a folder or a hub id ("microsoft/swin-large-patch4-window12-384").
    # Empty: random; MODEL.WEIGHTS is loaded afterwards in any case.
    swin.WEIGHTS = ""


def _add_roi_heads(trace: CfgNode) -> None:
    # Keys of MODEL.ROI_HEADS.NAME "DropLossROIHeads" and "DropLossCascadeROIHeads".
    trace.ROI_HEADS = CfgNode()
    # No loss for proposals that overlap no label: they may show an object that the labels miss.
    trace.ROI_HEADS.DROP_LOSS = True
    # ... which are those whose best IoU (0..1) with any label's box is not above this.
    trace.ROI_HEADS.DROP_IOU = 0.01


def _add_solver(trace: CfgNode) -> None:
    trace.SOLVER = CfgNode()
    # "sgd": Detectron2's own. "adamw": as Mask2Former's recipes, with the two keys below.
    trace.SOLVER.OPTIMIZER = "sgd"
    # Learning rate of the backbone over that of the rest ("adamw").
    trace.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Weight decay of embeddings ("adamw"). That of norms is SOLVER.WEIGHT_DECAY_NORM.
    trace.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # Greatest L2 norm of the gradient over all parameters, either optimizer; 0: not clipped.
    # SOLVER.CLIP_GRADIENTS with CLIP_TYPE "full_model" says the same.
    trace.SOLVER.CLIP_NORM = 0.0
    # Decay of the average of the weights, which evaluation then uses; 0: no average.
    trace.SOLVER.EMA_DECAY = 0.0
    # Iterations from one sheet of targets and predictions to the next; 0: none.
    trace.SOLVER.SAMPLES_PERIOD = 0


def _add_input(node: CfgNode) -> None:
    # What turns a training record into input: "trace" (TraceDatasetMapper) or "detectron2" (its
    # DatasetMapper, made to bear bad records, for data sets of plain instances).
    node.MAPPER = "trace"
    # What the dataset mapper's targets come from: "offline" (labels that were made before) or
    # "online" (semantic masks and edges, labelled in the mapper).
    node.TARGETS = "offline"
    # Online: edges from the file that the record names ("record"), as MODEL.TRACE.EDGES.SOURCE
    # says ("source"), or no edges ("none": connected components of the semantic mask).
    node.EDGES = "record"
    # Online: folder where labels are kept. Empty: OUTPUT_DIR/label_cache. "none": made each time.
    node.CACHE_DIR = ""
    # "mask2former": things and stuff, masks as one tensor (N, H, W); also for MaskFormer.
    # "bitmask": things only, as BitMasks; for Mask R-CNN, with INPUT.MASK_FORMAT bitmask.
    node.FORMAT = "mask2former"
    # With FORMAT bitmask: every instance is of class 0.
    node.CLASS_AGNOSTIC = False
    # The map sem_seg: "segments" (their categories), "file" (sem_seg_file_name of the record, 8-bit
    # contiguous ids, 255 = void) or "none" (no sem_seg).
    node.SEMANTIC = "segments"
    # Training images: "lsj" (large-scale jitter and fixed-size crop, Mask2Former's recipe) or
    # "resize" (short edge by INPUT.MIN_SIZE_TRAIN, then INPUT.CROP). Both flip by
    # INPUT.RANDOM_FLIP. Evaluation resizes by INPUT.MIN_SIZE_TEST.
    node.AUGMENTATION = "lsj"
    # lsj: side of the square that images are cropped and padded to, in pixels ...
    node.IMAGE_SIZE = 1024
    # ... after they were scaled to fit a square of this range of multiples of that side.
    node.MIN_SCALE = 0.1
    node.MAX_SCALE = 2.0
    # Random brightness, contrast, saturation and hue, with the strengths of SSD.
    node.COLOR_JITTER = False
    # A training image whose files cannot be used: True raises, False logs it and takes another.
    node.STRICT = False


def _add_copy_paste(node: CfgNode) -> None:
    node.COPY_PASTE = CfgNode()
    # Paste instances of one image of the batch into another.
    node.COPY_PASTE.ENABLED = False
    # Share (0..1) of the images that get instances pasted.
    node.COPY_PASTE.PROBABILITY = 1.0
    # Instances to paste into an image at most; from 1 on, how many is random. 0: no limit.
    node.COPY_PASTE.MAX_INSTANCES = 0
    # What is pasted is resized by a random factor of this range.
    node.COPY_PASTE.MIN_SCALE = 0.3
    node.COPY_PASTE.MAX_SCALE = 1.0
    # Instances that keep less than this share (0..1) of their pixels are dropped.
    node.COPY_PASTE.MIN_VISIBLE = 0.1


def _add_datasets(node: CfgNode) -> None:
    # Data sets to register when training or evaluation starts, besides the built-in names.
    # Relative paths start at the environment's DETECTRON2_DATASETS (default: "datasets").
    # Panoptic labels, [NAME, OUTPUT, IMAGES] each: OUTPUT holds panoptic.json and panoptic/. A
    # fourth part, the categories (a built-in name or a JSON file), must agree with the folder's.
    node.PANOPTIC = []
    # Semantic masks, for INPUT.TRACE.TARGETS "online": [NAME, IMAGES, SEMANTIC, CATEGORIES] each;
    # a fifth part is the folder of edges.
    node.SEMANTIC = []
    # COCO instances as one class, [NAME, JSON, IMAGES] each.
    node.INSTANCES = []


def get_trace_cfg() -> CfgNode:
    """A config that holds the ``TRACE`` keys at their defaults and nothing else."""
    cfg = CfgNode()
    add_trace_config(cfg)
    return cfg


def load_trace_cfg(config_file: str | Path, overrides: list[str] | None = None) -> CfgNode:
    """Defaults, then ``config_file`` (with its ``_BASE_``), then ``KEY VALUE`` pairs; frozen.

    Raises:
        FileNotFoundError: there is no such file.
        KeyError: the file or a pair names a key that does not exist.
    """
    if not Path(config_file).is_file():
        raise FileNotFoundError(f"no config file at {config_file}")
    cfg = get_trace_cfg()
    cfg.merge_from_file(str(config_file))
    cfg.merge_from_list(list(overrides or []))
    cfg.freeze()
    return cfg
