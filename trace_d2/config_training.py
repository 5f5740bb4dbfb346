"""The ``TRACE`` keys of training, see ``config``: models, solver, input and data sets."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def add_student(trace: CfgNode) -> None:
    """MODEL.TRACE.STUDENT: the distilled one-pass edge predictor."""
    node = trace.STUDENT = CfgNode()
    # Folder of the distilled student. Empty: the one that comes with the backbone (trace-tiny).
    # It states its own decoder, blocks and rank: BLOCKS, LORA, LOSS, GRADIENT_CHECKPOINTING and
    # DECODER are for training one.
    node.WEIGHTS = ""
    # META_ARCHITECTURE TraceEdgePredictor: build a student to be trained, new where WEIGHTS is
    # empty. tools/train_net.py writes it to OUTPUT_DIR/student.
    node.TRAIN = False
    # Add the adapters to the backbone's weights when a student is loaded. Faster; edges change by
    # rounding.
    node.MERGE_LORA = True
    # Which self-attention calls the student reads, as ATTENTION.BLOCKS; empty: all. What comes
    # after the last of them is not computed when edges are predicted.
    node.BLOCKS = []
    node.LORA = CfgNode()
    # Rank of the adapters, and their strength times the rank; ALPHA 0: as RANK.
    node.LORA.RANK = 64
    node.LORA.ALPHA = 0.0
    # Layers of the denoiser that get one: "attention", "feed_forward".
    node.LORA.LAYERS = ["attention", "feed_forward"]
    # Weights of the losses: Dice on pseudo edges, squared error of the reconstructed latent.
    node.LOSS = CfgNode()
    node.LOSS.DICE = 1.0
    node.LOSS.RECONSTRUCTION = 1.0
    # Recompute the denoiser's blocks in the backward pass: a quarter more time, far less memory.
    node.GRADIENT_CHECKPOINTING = False

    decoder = node.DECODER = CfgNode()
    # "relative" (reads grids of any size), or "cnn" (the paper's), "unet", "mask2former", which
    # belong to one grid.
    decoder.NAME = "relative"
    decoder.RELATIVE = CfgNode()
    # Side in tokens of the window of attention around each token.
    decoder.RELATIVE.WINDOW = 7
    # Width, and residual blocks on the grid.
    decoder.RELATIVE.CHANNELS = 48
    decoder.RELATIVE.LAYERS = 3
    # Edges have the resolution of the grid times this.
    decoder.RELATIVE.UPSAMPLE = 4
    # Show the image to the last convolutions, which place an edge between two tokens.
    decoder.RELATIVE.IMAGE = True
    decoder.CNN = CfgNode()
    # Side of the one convolution in tokens.
    decoder.CNN.KERNEL = 3
    decoder.UNET = CfgNode()
    # Width of the first level; each of three reductions doubles it.
    decoder.UNET.CHANNELS = 64
    decoder.MASK2FORMER = CfgNode()
    decoder.MASK2FORMER.CHANNELS = 128
    decoder.MASK2FORMER.QUERIES = 100
    decoder.MASK2FORMER.LAYERS = 9
    decoder.MASK2FORMER.HEADS = 8


def add_mask2former(trace: CfgNode) -> None:
    """MODEL.TRACE.MASK2FORMER and MODEL.TRACE.SWIN."""
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


def add_roi_heads(trace: CfgNode) -> None:
    """MODEL.TRACE.ROI_HEADS."""
    # Keys of MODEL.ROI_HEADS.NAME "DropLossROIHeads" and "DropLossCascadeROIHeads".
    trace.ROI_HEADS = CfgNode()
    # No loss for proposals that overlap no label: they may show an object that the labels miss.
    trace.ROI_HEADS.DROP_LOSS = True
    # ... which are those whose best IoU (0..1) with any label's box is not above this.
    trace.ROI_HEADS.DROP_IOU = 0.01


def add_solver(trace: CfgNode) -> None:
    """MODEL.TRACE.SOLVER."""
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
    # Parts that the images of an iteration (SOLVER.IMS_PER_BATCH) are taken in, one after another,
    # for one step of the optimizer: the same gradient in less memory. 1: all at once. More than a
    # process has images: one by one.
    trace.SOLVER.ACCUMULATION_STEPS = 1


def add_input(node: CfgNode) -> None:
    """INPUT.TRACE."""
    # What turns a training record into input: "trace" (TraceDatasetMapper), "detectron2" (its
    # DatasetMapper, made to bear bad records, for data sets of plain instances) or "trace_edges"
    # (TraceEdgeDatasetMapper, for DATASETS.TRACE.EDGES).
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

    # MAPPER "trace_edges": crop, resize to a square, flip by INPUT.RANDOM_FLIP, turn, recolour.
    edges = node.PSEUDO_EDGES = CfgNode()
    # Side in pixels of the square that images are resized to, where MODEL.TRACE.BACKBONE.RESOLUTION
    # is 0. 0 here as well: images keep their size, which must be the same for all.
    edges.SIZE = 0
    # Side in pixels of a random crop of the image, before it is resized; 0: no crop. Images that
    # are smaller are taken whole.
    edges.CROP = 0
    # Turn by 0, 90, 180 or 270 degrees and mirror at random: for images without an upside.
    edges.ROTATE = False
    # Permute the colour channels and invert them half of the time, at random: for images whose
    # colours mean nothing. INPUT.TRACE.COLOR_JITTER is the gentle way.
    edges.RECOLOR = False


def add_copy_paste(node: CfgNode) -> None:
    """INPUT.TRACE.COPY_PASTE."""
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


def add_datasets(node: CfgNode) -> None:
    """DATASETS.TRACE."""
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
    # Pseudo edges to train an edge predictor on, [NAME, IMAGES, PSEUDO_EDGES] each: the last is
    # the output folder of tools/make_pseudo_edges.py.
    node.EDGES = []
