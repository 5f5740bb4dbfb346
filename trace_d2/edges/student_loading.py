"""A student's folder: written, and read onto the backbone that it belongs to."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from trace_d2._version import __version__
from trace_d2.attention import AttentionSettings, forbid_cudnn_attention
from trace_d2.backbones import AttentionBackbone, build_backbone
from trace_d2.backbones.backbone import square_layout
from trace_d2.backbones.offloading import renew_groups
from trace_d2.backbones.registry import canonical_name
from trace_d2.io.atomic import write_bytes, write_json
from trace_d2.io.json_files import shown

from .decoders import EdgeDecoder, build_decoder
from .lora import (
    ADAPTER,
    adapter_file,
    float32_adapters,
    make_adaptable,
    merge_lora_adapters,
    partly_adapted,
)
from .preflight import check_trainable
from .student import EdgeStudent
from .student_files import (
    DECODER_FILE,
    FORMAT,
    JSON_NAME,
    LORA_FILE,
    former_folder,
    read_description,
    student_folder,
)

logger = logging.getLogger(__name__)


def save_student(student: EdgeStudent, folder: str | Path) -> None:
    """Write ``student``, not merged, to ``folder``; an interruption leaves a former one whole."""
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "lora").mkdir(parents=True)
    try:
        _write_files(student, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    former = former_folder(folder)
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    partial.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def _write_files(student: EdgeStudent, folder: Path) -> None:
    write_bytes(folder / LORA_FILE, adapter_file(student.backbone.network))
    weights = {
        name: t.detach().cpu().contiguous() for name, t in student.decoder.state_dict().items()
    }
    write_bytes(folder / DECODER_FILE, save(weights))
    write_json(folder / JSON_NAME, _description(student), indent=1)


def _description(student: EdgeStudent) -> dict[str, Any]:
    """What a student belongs to, as it stands in ``student.json``."""
    backbone = student.backbone
    return {
        "format": FORMAT,
        "version": __version__,
        "backbone": {
            "name": canonical_name(backbone.name),
            "denoiser": type(backbone.network).__name__,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            **({"quantization": backbone.quantization} if backbone.quantization else {}),
            **({"commit": backbone.commit} if backbone.commit else {}),
            **backbone.conditions,
        },
        "resolution": backbone.resolution,
        "grid": list(student.grid),
        "timestep": 0,
        "blocks": list(student.blocks),
        "decoder": {"name": student.decoder.name, "settings": student.decoder.settings},
    }


def load_student(
    folder: str | Path,
    backbone: AttentionBackbone,
    *,
    merge_lora: bool = False,
    trainable: bool = False,
    attention: AttentionSettings = AttentionSettings(),
) -> EdgeStudent:
    """The student in ``folder``, in evaluation mode, on ``backbone`` (which gets its adapters).

    Args:
        backbone: the one it was trained on, at the resolution of its grid.
        merge_lora: add the adapters to the backbone's weights, for speed; not to quantised ones.
        trainable: adapters and decoder take gradients.
        attention: see ``EdgeStudent``.

    Raises:
        ValueError: a file is damaged, of a newer version, or belongs to another backbone or grid.
    """
    folder = Path(folder)
    described = read_description(folder)
    _check_backbone(described, backbone, folder)
    layout = square_layout(backbone)
    decoder = _described_decoder(described, layout.tokens, folder)
    grid = tuple(described["grid"])
    if decoder.of_one_grid and (layout.largest != grid or backbone.aspect != "square"):
        raise ValueError(
            f"the student in {folder} was trained on a grid of {grid[0]} x {grid[1]} tokens, which "
            f"its decoder {decoder.name!r} is tied to, and the backbone makes {layout.largest[0]} "
            f"x {layout.largest[1]} ({backbone.aspect}): set MODEL.TRACE.BACKBONE.RESOLUTION "
            f"{described['resolution']} and ASPECT square, or train a student with the decoder "
            "'relative'"
        )
    _load_decoder(decoder, folder / DECODER_FILE)
    _load_lora(backbone, folder / LORA_FILE)
    student = EdgeStudent(backbone, decoder, blocks=described["blocks"], attention=attention)
    if not all(bool(weights.isfinite().all()) for weights in student.trainable().values()):
        raise ValueError(f"the student in {folder} has weights that are no numbers: train it again")
    if merge_lora and backbone.quantization:
        logger.info("adapters stay apart: %s weights would round them", backbone.quantization)
    elif merge_lora:
        merge_lora_adapters(backbone.network)
    renew_groups(backbone.network)
    return student.eval() if trainable else student.eval().requires_grad_(False)


def student_to_train(cfg: Any) -> EdgeStudent:
    """A new student by ``MODEL.TRACE.STUDENT``, or the one in its ``WEIGHTS`` to be trained on.

    From here on this process does without cuDNN's attention, see ``forbid_cudnn_attention``, and
    multiplies float32 matrices in TF32 on CUDA: those are the adapters', and what they meet is
    bfloat16, of which TF32 loses nothing.
    """
    forbid_cudnn_attention()
    torch.backends.cuda.matmul.allow_tf32 = True
    trace = cfg.MODEL.TRACE
    if not trace.STUDENT.WEIGHTS:
        return EdgeStudent.from_config(cfg)
    check_trainable(cfg)
    folder, backbone = student_folder(cfg), build_backbone(cfg)
    attention = AttentionSettings.from_config(cfg)
    student = load_student(folder, backbone, trainable=True, attention=attention)
    if trace.STUDENT.GRADIENT_CHECKPOINTING:
        backbone.network.enable_gradient_checkpointing()
    return student


def _check_backbone(described: dict[str, Any], backbone: AttentionBackbone, folder: Path) -> None:
    trained, name = described["backbone"], canonical_name(backbone.name)
    kind = type(backbone.network).__name__
    if (trained["name"], trained["denoiser"]) != (name, kind):
        raise ValueError(
            f"the student in {folder} was trained on {trained['name']} ({trained['denoiser']}), "
            f"and the config asks for {name} ({kind}): change MODEL.TRACE.BACKBONE.NAME or "
            "MODEL.TRACE.STUDENT.WEIGHTS"
        )
    precision, own = trained.get("quantization") or "full", backbone.quantization or "full"
    if precision != own:
        logger.warning(
            "the student in %s was trained on weights in %s precision, and these are in %s: its "
            "edges may differ a little",
            *(folder, shown(precision), own),
        )
    # Students of former versions tell of no prompts, as they had none.
    former = {"prompts": "none"}
    for key, value in {**former, **backbone.conditions}.items():
        if trained.get(key, former.get(key, value)) != value:
            logger.warning(
                "the student in %s was trained with MODEL.TRACE.BACKBONE.%s %s, and this is %s: "
                "its edges may be worse",
                *(folder, key.upper(), shown(str(trained.get(key, former.get(key)))), value),
            )
    commit = trained.get("commit")
    if commit and backbone.commit and commit != backbone.commit:
        logger.warning(
            "the student in %s was trained on commit %s of %s, and this is commit %s: set "
            "MODEL.TRACE.BACKBONE.REVISION to the former",
            *(folder, shown(commit), name, backbone.commit),
        )


def _described_decoder(described: dict[str, Any], tokens: int, folder: Path) -> EdgeDecoder:
    decoder, weights = described["decoder"], folder / DECODER_FILE
    try:
        for name, value in decoder["settings"].items():
            if isinstance(value, int) and value > 4096:  # far above any decoder
                raise ValueError(f"{name} is {shown(value)}, above 4096")
        # Without memory first: settings may ask for any number of weights.
        with torch.device("meta"):
            sketch = build_decoder(decoder["name"], tokens, decoder["settings"])
        asked = sum(parameter.numel() for parameter in sketch.parameters())
        if weights.is_file() and asked > weights.stat().st_size:
            raise ValueError(f"it has {asked} weights, more than {weights} can hold")
        return build_decoder(decoder["name"], tokens, decoder["settings"])
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{folder / JSON_NAME} describes a decoder that cannot be built ({error}): it was "
            "changed, or made by another version of trace_d2; train it again, or install that one"
        ) from error


def _load_decoder(decoder: torch.nn.Module, path: Path) -> None:
    try:
        decoder.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not fit its {JSON_NAME} ({error}): copy the folder again"
        ) from error


def _load_lora(backbone: AttentionBackbone, path: Path) -> None:
    """Adds the adapters, once it is sure that all of them fit."""
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): copy it again") from error
    layers = dict(backbone.network.named_modules())
    for key, tensor in weights.items():
        # A reads what the layer reads, B writes what it writes.
        name, _, matrix = key.partition(".lora_")
        side = 1 if matrix.startswith("A") else 0
        layer = layers.get(name)  # of quantised weights, the shape is another
        sides = getattr(layer, "out_features", None), getattr(layer, "in_features", None)
        if sides[side] != tensor.shape[side]:
            raise ValueError(
                f"{path} has an adapter {key} of shape {tuple(tensor.shape)}, which no layer of "
                f"{backbone.name} takes: the student belongs to another backbone. Change "
                "MODEL.TRACE.BACKBONE or MODEL.TRACE.STUDENT.WEIGHTS"
            )
    adapted = {key.partition(".lora_")[0] for key in weights}
    lacking = partly_adapted(backbone.network, adapted)
    if lacking:
        raise ValueError(
            f"{path} is damaged: it has adapters of {len(adapted)} layers, and none of "
            f"{len(lacking)} others of their kinds ({lacking[0]}, ...): copy it again"
        )
    make_adaptable(backbone.network)
    try:
        backbone.network.load_lora_adapter(
            str(path.parent),
            weight_name=path.name,
            use_safetensors=True,
            adapter_name=ADAPTER,
            prefix=None,
        )
    except Exception as error:  # ranks and settings that disagree end in any kind of error
        raise ValueError(f"{path} is damaged ({error}): copy it again") from error
    float32_adapters(backbone.network)
    # diffusers makes adapters of the denoiser's type: what that rounded is put in its place again.
    for name, parameter in backbone.network.named_parameters():
        if ".lora_" in name:
            key = name.replace(f".{ADAPTER}.", ".")
            if key not in weights:
                raise ValueError(f"{path} is damaged (it has no {key}): copy it again")
            parameter.data.copy_(weights[key])
