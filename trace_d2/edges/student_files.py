"""Students on disk: adapters that peft and diffusers read, the decoder, and what they belong to.

student.json                             format, backbone, grid, blocks, decoder
lora/pytorch_lora_weights.safetensors    the adapters, as diffusers' load_lora_adapter reads them
decoder.safetensors                      the decoder's weights
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from trace_d2._version import __version__
from trace_d2.attention import forbid_cudnn_attention
from trace_d2.backbones.registry import canonical_name
from trace_d2.io.atomic import write_bytes, write_json

from .decoders import EdgeDecoder, build_decoder
from .lora import ADAPTER, float32_adapters, make_adaptable, merge_lora_adapters
from .student import EdgeStudent, blank_latent, check_trainable

if TYPE_CHECKING:
    from trace_d2.backbones import DiffusionBackbone

FORMAT = 1
JSON_NAME = "student.json"
LORA_FILE = "lora/pytorch_lora_weights.safetensors"
DECODER_FILE = "decoder.safetensors"
FILES = (JSON_NAME, LORA_FILE, DECODER_FILE)

_EMBEDDED = {
    "trace-tiny": Path(__file__).resolve().parent.parent / "model_zoo" / "trace_tiny" / "student"
}


def student_folder(cfg: Any) -> Path:
    """The folder of the student that ``MODEL.TRACE.STUDENT.WEIGHTS`` names.

    Empty stands for the student that comes with the backbone; trace-tiny has one.

    Raises:
        ValueError: none is named.
        FileNotFoundError: there is no such folder, or it lacks a file.
    """
    trace = cfg.MODEL.TRACE
    folder = Path(trace.STUDENT.WEIGHTS) if trace.STUDENT.WEIGHTS else None
    if folder is None:
        folder = _EMBEDDED.get(trace.BACKBONE.NAME)
    if folder is None:
        raise ValueError(
            f"no distilled student comes with {trace.BACKBONE.NAME}: train one (tools/train_net.py "
            "--config-file configs/edges/sd35_large_distill.yaml, with MODEL.TRACE.BACKBONE.NAME "
            "and RESOLUTION of yours) and name its folder in MODEL.TRACE.STUDENT.WEIGHTS, or set "
            "MODEL.TRACE.EDGES.SOURCE teacher"
        )
    if not (folder / JSON_NAME).is_file() and (folder / "student").is_dir():
        folder = folder / "student"  # the OUTPUT_DIR of its training was named
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no student: it has no {name}. MODEL.TRACE.STUDENT.WEIGHTS names the "
                'folder "student" that tools/train_net.py writes into its OUTPUT_DIR'
                f"{_former_hint(folder)}"
            )
    return folder


def _former_hint(folder: Path) -> str:
    """Where the student is if saving was interrupted between its two renames."""
    former = _former(folder)
    if folder.exists() or not former.is_dir():
        return ""
    return f". {former} is the one from before a save that was interrupted: rename it"


def _former(folder: Path) -> Path:
    return folder.with_name(folder.name + ".former")


def save_student(student: EdgeStudent, folder: str | Path) -> None:
    """Write ``student`` to ``folder``; an interruption leaves a former one whole.

    Args:
        student: with its adapters (not merged).
        folder: is replaced if it is there.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "lora").mkdir(parents=True)
    try:
        _write_files(student, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    former = _former(folder)
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    partial.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def _write_files(student: EdgeStudent, folder: Path) -> None:
    student.backbone.denoiser.save_lora_adapter(folder / "lora", adapter_name=ADAPTER)
    weights = {
        name: t.detach().cpu().contiguous() for name, t in student.decoder.state_dict().items()
    }
    write_bytes(folder / DECODER_FILE, save(weights))
    write_json(folder / JSON_NAME, describe(student), indent=1)
    # diffusers writes files that their owner alone can read.
    (folder / LORA_FILE).chmod((folder / JSON_NAME).stat().st_mode & 0o777)


def describe(student: EdgeStudent) -> dict[str, Any]:
    """What a student belongs to, as it stands in ``student.json``."""
    backbone = student.backbone
    return {
        "format": FORMAT,
        "version": __version__,
        "backbone": {
            "name": canonical_name(backbone.name),
            "denoiser": type(backbone.denoiser).__name__,
            "dtype": str(backbone.dtype).removeprefix("torch."),
        },
        "resolution": backbone.resolution,
        "grid": list(student.grid),
        "timestep": 0,
        "blocks": list(student.blocks),
        "decoder": {"name": student.decoder.name, "settings": student.decoder.settings},
    }


def load_student(
    folder: str | Path,
    backbone: DiffusionBackbone,
    *,
    merge_lora: bool = False,
    trainable: bool = False,
    scratch_mb: float = 16,
) -> EdgeStudent:
    """The student in ``folder``, in evaluation mode, on ``backbone`` (which gets its adapters).

    Args:
        folder: written by ``save_student``.
        backbone: the one it was trained on, at the resolution of its grid.
        merge_lora: add the adapters to the backbone's weights, for speed.
        trainable: adapters and decoder take gradients.
        scratch_mb: see ``SelfAttentionReader``.

    Raises:
        ValueError: a file is damaged, of a newer version, or belongs to another backbone or grid;
            the message says which and what to do.
    """
    folder = Path(folder)
    described = read_description(folder)
    _check_backbone(described, backbone, folder)
    layout = backbone.attention_layout(blank_latent(backbone))
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
    _load_lora(backbone, folder)
    student = EdgeStudent(backbone, decoder, blocks=described["blocks"], scratch_mb=scratch_mb)
    if not all(bool(weights.isfinite().all()) for weights in student.trainable().values()):
        raise ValueError(f"the student in {folder} has weights that are no numbers: train it again")
    if merge_lora:
        merge_lora_adapters(backbone.denoiser)
    return student.eval() if trainable else student.eval().requires_grad_(False)


def student_to_train(cfg: Any) -> EdgeStudent:
    """A new student by ``MODEL.TRACE.STUDENT``, or the one in its ``WEIGHTS`` to be trained on.

    From here on this process does without cuDNN's attention; see ``forbid_cudnn_attention``.

    Raises:
        ValueError, FileNotFoundError: see ``EdgeStudent.from_config`` and ``load_student``.
    """
    from trace_d2.backbones import build_backbone

    forbid_cudnn_attention()
    trace = cfg.MODEL.TRACE
    if trace.STUDENT.WEIGHTS:
        check_trainable(cfg)
        student = load_student(
            student_folder(cfg),
            build_backbone(cfg),
            trainable=True,
            scratch_mb=trace.ATTENTION.SCRATCH_MB,
        )
        if trace.STUDENT.GRADIENT_CHECKPOINTING:
            student.backbone.denoiser.enable_gradient_checkpointing()
        return student
    return EdgeStudent.from_config(cfg)


def read_description(folder: str | Path) -> dict[str, Any]:
    """The content of ``student.json``.

    Raises:
        ValueError: it is damaged, or of a newer version of this package.
    """
    path = Path(folder) / JSON_NAME
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(described["format"])
        complete = {"backbone", "resolution", "grid", "blocks", "decoder"} <= described.keys()
        complete = complete and {"name", "denoiser"} <= set(described["backbone"])
        complete = complete and {"name", "settings"} <= set(described["decoder"])
        complete = complete and len(described["grid"]) == 2
        complete = complete and isinstance(described["blocks"], list)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): train the student again") from error
    if version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, made by trace_d2 {described.get('version')}; this is "
            f"trace_d2 {__version__}, which reads up to {FORMAT}: install a newer one"
        )
    if not complete:
        raise ValueError(f"{path} is damaged (a part is missing): train the student again")
    return described


def _check_backbone(described: dict[str, Any], backbone: DiffusionBackbone, folder: Path) -> None:
    trained, name = described["backbone"], canonical_name(backbone.name)
    kind = type(backbone.denoiser).__name__
    if (trained["name"], trained["denoiser"]) != (name, kind):
        raise ValueError(
            f"the student in {folder} was trained on {trained['name']} ({trained['denoiser']}), "
            f"and the config asks for {name} ({kind}): change MODEL.TRACE.BACKBONE.NAME or "
            "MODEL.TRACE.STUDENT.WEIGHTS"
        )


def _described_decoder(described: dict[str, Any], tokens: int, folder: Path) -> EdgeDecoder:
    decoder = described["decoder"]
    try:
        return build_decoder(decoder["name"], tokens, decoder["settings"])
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{folder / JSON_NAME} describes a decoder that cannot be built ({error}): it was "
            "changed, or made by another version of trace_d2"
        ) from error


def _load_decoder(decoder: torch.nn.Module, path: Path) -> None:
    try:
        decoder.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit its {JSON_NAME} ({error})") from error


def _load_lora(backbone: DiffusionBackbone, folder: Path) -> None:
    """Adds the adapters of ``folder`` to the denoiser, once it is sure that all of them fit."""
    path = folder / LORA_FILE
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): copy it again") from error
    layers = dict(backbone.denoiser.named_modules())
    for key, tensor in weights.items():
        # A reads what the layer reads, B writes what it writes.
        name, _, matrix = key.partition(".lora_")
        side = 1 if matrix.startswith("A") else 0
        weight = getattr(layers.get(name), "weight", None)
        if weight is None or weight.shape[side] != tensor.shape[side]:
            raise ValueError(
                f"{path} has an adapter {key} of shape {tuple(tensor.shape)}, which no layer of "
                f"{backbone.name} takes: the student belongs to another backbone. Change "
                "MODEL.TRACE.BACKBONE or MODEL.TRACE.STUDENT.WEIGHTS"
            )
    make_adaptable(backbone.denoiser)
    backbone.denoiser.load_lora_adapter(
        str(path.parent),
        weight_name=path.name,
        use_safetensors=True,
        adapter_name=ADAPTER,
        prefix=None,
    )
    float32_adapters(backbone.denoiser)
    # diffusers makes adapters of the denoiser's type: what that rounded is put in its place again.
    for name, parameter in backbone.denoiser.named_parameters():
        if ".lora_" in name:
            key = name.replace(f".{ADAPTER}.", ".")
            if key not in weights:
                raise ValueError(f"{path} is damaged (it has no {key}): copy it again")
            parameter.data.copy_(weights[key])
