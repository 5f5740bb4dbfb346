"""What takes the place of what docs/reproduce.md publishes: sizes, the machine, and the weights."""

from __future__ import annotations

import shlex

from miniature.commands import Rules

_SMALL_MODEL = """
MODEL.DEVICE cpu  SOLVER.AMP.ENABLED False  SOLVER.MAX_ITER 1  SOLVER.STEPS ()
SOLVER.IMS_PER_BATCH 1  DATALOADER.NUM_WORKERS 0  TEST.PRECISE_BN.NUM_ITER 1
INPUT.TRACE.IMAGE_SIZE 64  INPUT.MIN_SIZE_TRAIN (64,)  INPUT.MIN_SIZE_TEST 64
MODEL.RESNETS.STEM_OUT_CHANNELS 8  MODEL.FPN.OUT_CHANNELS 16
MODEL.RPN.POST_NMS_TOPK_TRAIN 50  MODEL.RPN.POST_NMS_TOPK_TEST 20
MODEL.ROI_BOX_HEAD.FC_DIM 16  MODEL.ROI_MASK_HEAD.CONV_DIM 16
MODEL.TRACE.MASK2FORMER.HIDDEN_DIM 32  MODEL.TRACE.MASK2FORMER.NHEADS 2
MODEL.TRACE.MASK2FORMER.NUM_QUERIES 8  MODEL.TRACE.MASK2FORMER.DIM_FEEDFORWARD 32
MODEL.TRACE.MASK2FORMER.ENC_DIM_FEEDFORWARD 32  MODEL.TRACE.MASK2FORMER.TRAIN_NUM_POINTS 64
MODEL.TRACE.SWIN.EMBED_DIM 12  MODEL.TRACE.SWIN.DEPTHS (1,1,1,1)
MODEL.TRACE.SWIN.NUM_HEADS (1,2,2,4)  MODEL.TRACE.SWIN.WINDOW_SIZE 4  MODEL.TRACE.SWIN.WEIGHTS {}
MODEL.TRACE.SOLVER.SAMPLES_PERIOD 1
"""
SMALL_RESNET = ("MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8")
"""Keys of a narrow ResNet-50; Detectron2 has ResNet-18 in one width only."""


def small_model() -> list[str]:
    """Keys that make any detector or Mask2Former small, and its training an iteration."""
    return [word.replace("{}", "") for word in _SMALL_MODEL.split()]


_STUDENT = (
    "SOLVER.MAX_ITER 1 SOLVER.IMS_PER_BATCH 1 DATALOADER.NUM_WORKERS 0"
    " MODEL.TRACE.STUDENT.LORA.RANK 2 MODEL.TRACE.SOLVER.ACCUMULATION_STEPS 1"
)
_TRAIN, _MODELS = r"tools/train_net\.py ", r"configs/(?:panoptic|instance)/"
_JOBS = r"make_pseudo_\w+|refine_\w+|discover_masks|predict(?:_edges)?"
_BACKBONES = {  # a config of configs/edges: the tiny model that stands for its weights, and a size
    "sd15": ("sd15", 32),
    "sdxl": ("sdxl", 32),
    "pixart_alpha": ("pixart", 32),
    "sd35_large": ("sd3", 32),
    "sd35_large_distill": ("sd3", 32),
    "flux1_dev": ("flux", 32),
    "dino_vits16": ("vit", 64),
    "dino_vitb8": ("vit", 64),
    "dinov2_giant": ("dinov2", 64),
    "dinov3_7b": ("dinov3_vit", 64),
    "dinov3_7b_timm": ("dinov3-7b", 64),
    "eva02_e": ("eva02-e", 32),
    "llava15_13b": ("llava", 56),
    "qwen25_vl_72b": ("qwen2_5_vl", 168),
}


def _small_backbone(config: str, model: str, resolution: int) -> tuple[str, str]:
    instead = (
        rf"\g<0> MODEL.TRACE.BACKBONE.WEIGHTS {{{model}}} MODEL.DEVICE cpu"
        f" MODEL.TRACE.BACKBONE.RESOLUTION {resolution} MODEL.TRACE.EMERGENCE.STRIDE 400"
    )
    return rf".*configs/edges/{config}\.yaml.*", instead


def _named_backbone(config: str, model: str, resolution: int) -> tuple[str, str]:
    name = config.replace("_", "-")
    return rf".*BACKBONE\.NAME {name} .*", rf"\g<0> MODEL.TRACE.BACKBONE.WEIGHTS {{{model}}}"


RULES: Rules = (
    # the machine: no GPU, no network, one process; packages that take minutes to compile
    (r" --num-gpus \d+", ""),
    (rf"tools/({_JOBS}|evaluate_edges)\.py", r"\g<0> --workers 1 --quiet"),
    (r"datasets/prepare_\w+\.py", r"\g<0> --quiet"),
    (r"prepare_(voc|monuseg|tnbc|isaid|sem)_\w+\.py", r"\g<0> --workers 1"),
    (r"SHARPEN crf", "SHARPEN guided"),
    (r"TILES\.SIZE \d+", "TILES.SIZE 32"),
    # weights
    (r"(--baseline|EDGES\.SOURCE) hed", r"\1 gradient"),
    (
        r"--architecture \S+ --resolution \d+",
        "--config-file configs/edges/sd35_large.yaml --count 1 --repeats 1",
    ),
    *(_small_backbone(config, *small) for config, small in _BACKBONES.items()),
    *(_named_backbone(config, *small) for config, small in _BACKBONES.items()),
    (r"--sam \S+", "--sam {sam2_video}"),
    # trainings of an iteration
    (rf"{_TRAIN}.*configs/edges/.*", rf"\g<0> {_STUDENT}"),
    (rf"{_TRAIN}.*{_MODELS}.*", rf"\g<0> {shlex.join([*small_model(), *SMALL_RESNET])}"),
    (rf"{_TRAIN}(?!.*MODEL\.WEIGHTS).*{_MODELS}.*", r"\g<0> MODEL.WEIGHTS ''"),
)
