"""Students on disk: adapters that peft and diffusers read, the decoder, and what they belong to.

student.json                             format, backbone, grid, blocks, decoder
lora/pytorch_lora_weights.safetensors    the adapters, as diffusers' load_lora_adapter reads them
decoder.safetensors                      the decoder's weights
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from trace_d2._version import __version__
from trace_d2.io.json_files import FieldError, quoted, read_json, shown, whole_number

FORMAT = 1
JSON_NAME = "student.json"
LORA_FILE = "lora/pytorch_lora_weights.safetensors"
DECODER_FILE = "decoder.safetensors"
FILES = (JSON_NAME, LORA_FILE, DECODER_FILE)
CALIBRATION_NAME = "calibration.json"  # what its strengths mean; beside the others, if at all

_PARTS: tuple[tuple[str, type], ...] = (  # of the description
    ("backbone.name", str),
    ("backbone.denoiser", str),
    ("decoder.name", str),
    ("decoder.settings", dict),
    ("grid", list),
    ("blocks", list),
    ("resolution", int),
)
_HASHED_ENDINGS = (".json", ".safetensors")
_MODEL_ZOO = Path(__file__).resolve().parent.parent / "model_zoo"
_EMBEDDED = {"trace-tiny": _MODEL_ZOO / "trace_tiny" / "student"}


def student_folder(cfg: Any) -> Path:
    """The folder of the student that ``MODEL.TRACE.STUDENT.WEIGHTS`` names.

    Empty stands for the student that comes with the backbone; trace-tiny has one.
    """
    trace = cfg.MODEL.TRACE
    named = trace.STUDENT.WEIGHTS or _EMBEDDED.get(trace.BACKBONE.NAME)
    if not named:
        raise ValueError(
            f"no distilled student comes with {trace.BACKBONE.NAME}: train one (tools/train_net.py "
            "--config-file configs/edges/sd35_large_distill.yaml, with MODEL.TRACE.BACKBONE.NAME "
            "and RESOLUTION of yours) and name its folder in MODEL.TRACE.STUDENT.WEIGHTS, or set "
            "MODEL.TRACE.EDGES.SOURCE teacher"
        )
    folder = Path(named)
    if not (folder / JSON_NAME).is_file() and (folder / "student").is_dir():
        folder = folder / "student"  # the OUTPUT_DIR of its training was named
    # Where the student is if saving was interrupted between its two renames.
    former, hint = former_folder(folder), ""
    if former.is_dir() and not folder.exists():
        hint = f". {former} is the one from before a save that was interrupted: rename it"
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no student: it has no {name}. MODEL.TRACE.STUDENT.WEIGHTS names the "
                f'folder "student" that tools/train_net.py writes into its OUTPUT_DIR{hint}'
            )
    return folder


def student_print(cfg: Any) -> str:
    """A short text that is equal for equal files of the student that ``cfg`` names."""
    folder = student_folder(cfg)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _HASHED_ENDINGS):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def former_folder(folder: Path) -> Path:
    """What a save of the student in ``folder`` calls the one before, until it is done."""
    return folder.with_name(folder.name + ".former")


def read_description(folder: str | Path) -> dict[str, Any]:
    """The content of ``student.json``; a ValueError if it is damaged or of a newer version."""
    path = Path(folder) / JSON_NAME
    remedy = "copy the folder or train the student again"
    described = read_json(path, "student", remedy)
    try:
        version = whole_number(described["format"])
        if version > FORMAT:
            raise ValueError(
                f"{path} has format {version}, made by trace_d2 "
                f"{shown(described.get('version'))}; this is trace_d2 {__version__}, which reads "
                f"up to {FORMAT}: install a newer one"
            )
        for part, kind in _PARTS:
            node = described
            for key in part.split("."):
                node = node[key]
            if not isinstance(node, kind):
                raise TypeError(f"{part} is {quoted(node)}")
        if len(described["grid"]) != 2:
            raise TypeError(f"grid is {quoted(described['grid'])}")
        for number in (*described["grid"], *described["blocks"]):
            whole_number(number)
    except (KeyError, TypeError, IndexError, FieldError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is damaged ({what}): {remedy}") from error
    return described
