"""The OUTPUT_DIR of trainings: the same command goes on, another one is refused."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from trace_d2._version import __version__
from trace_d2.config import ConfigError
from trace_d2.data.known import KEY
from trace_d2.engine.last_checkpoint import last_checkpoint
from trace_d2.io.atomic import write_json
from trace_d2.io.json_files import quoted, read_json, shown
from trace_d2.jobs import output
from trace_d2.jobs.locks import FolderInUseError, NoLocksError, Shard, folder_lock, who_writes
from trace_d2.settings import flatten

NEW, GO_ON, FINISHED = "new", "go on", "finished"

logger = logging.getLogger(__name__)

_NOTE = "training.json"
_FORMAT = 1
_LAST = "last_checkpoint"
_CHECKPOINTS = ("model_final.pth", "model_averaged.pth", "model_[0-9]*.pth")
# What a training writes; INPUT.TRACE's label cache is none of it, as any training may use it.
_OWN = (
    *(_LAST, *_CHECKPOINTS, _NOTE, "config.yaml", "metrics.json", "results.json"),
    *("log.txt", "log.txt.rank*", "events.out.tfevents.*"),
    *("samples", "inference", "student", "student.former", "student.partial"),
)
# Keys that decide nothing about the model that is trained.
_FREE = frozenset(
    {
        *("OUTPUT_DIR", "VERSION", "VIS_PERIOD", "CUDNN_BENCHMARK", "DATALOADER.NUM_WORKERS"),
        *("MODEL.DEVICE", "MODEL.TRACE.DEVICE", "MODEL.TRACE.ATTENTION.SCRATCH_MB"),
        "MODEL.TRACE.ATTENTION.KERNELS",
        "MODEL.TRACE.EDGES.BATCH",
        *("SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD", "MODEL.TRACE.SOLVER.SAMPLES_PERIOD"),
    }
)
_SHOWN = 12  # differing keys in a message


@contextlib.contextmanager
def held(cfg: CfgNode) -> Iterator[None]:
    """Keep other trainings (and jobs) out of ``OUTPUT_DIR`` within the block; it is made if absent.

    Raises:
        ConfigError: another one writes there; or it cannot be written to, or not be locked.
    """
    folder = Path(cfg.OUTPUT_DIR)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(folder, Shard()))
        except FolderInUseError as error:
            raise _in_use(folder, who_writes(folder)) from error
        except NoLocksError as error:
            raise ConfigError(
                f"OUTPUT_DIR: the file system of {shown(str(folder))} has no locks, without which "
                "two trainings could write there at once: choose one on a local disk, or have the "
                "file system mounted with locks (NFS: version 4, or a lock service)"
            ) from error
        except output.OutputError as error:
            raise _unwritable(folder, getattr(error.__cause__, "strerror", "")) from error
        yield


def check_free(cfg: CfgNode) -> None:
    """Raise a ConfigError if another training writes to ``OUTPUT_DIR`` now."""
    folder = Path(cfg.OUTPUT_DIR)
    if holder := who_writes(folder):
        raise _in_use(folder, holder)


def check_writable(cfg: CfgNode) -> None:
    """Raise a ConfigError if ``OUTPUT_DIR`` cannot be written to or made, as far as can be told."""
    folder = Path(cfg.OUTPUT_DIR)
    try:
        output.check_writable(folder)
    except OSError as error:
        raise _unwritable(folder, f"{shown(str(error.filename))}: {error.strerror}") from error


def make_folder(cfg: CfgNode) -> None:
    """Make ``OUTPUT_DIR`` if it is absent; raises a ConfigError where it cannot be written to."""
    try:
        Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(Path(cfg.OUTPUT_DIR), error.strerror or str(error)) from error
    check_writable(cfg)


def how_to_start(cfg: CfgNode, defaults: Callable[[], CfgNode], *, resume: bool) -> str:
    """What a training by ``cfg`` does in its ``OUTPUT_DIR``: ``NEW``, ``GO_ON`` or ``FINISHED``.

    Args:
        cfg: of the training.
        defaults: gives the config of which no key was set, for keys that came since.
        resume: go on although settings differ.

    Raises:
        ConfigError: there is a training with other settings; the keys that differ are named. Or
            there are checkpoints, and nothing says which is the last.
        UnfitCheckpointError: ``last_checkpoint`` names none of the folder.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if not (folder / _LAST).is_file():
        left = [path.name for name in _CHECKPOINTS for path in sorted(folder.glob(name))]
        if left:
            raise ConfigError(
                f"{folder} holds {left[0]} of a former training, and no {_LAST}, which would say "
                f"what to go on from: choose another OUTPUT_DIR, write a file's name into {_LAST}, "
                "or add --fresh to move that training aside and start over"
            )
        return NEW
    last_checkpoint(folder)
    stored, finished = _stored(folder)
    if stored is None and not resume:
        raise ConfigError(
            f"{folder} holds a training whose settings nothing tells ({_NOTE} and config.yaml are "
            "absent): add --resume to go on with it, or --fresh to move it aside and start over"
        )
    changed = _differences(stored or {}, _settings(cfg), defaults)
    if changed and not resume:
        more = f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise ConfigError(
            f"{folder} holds a training with other settings:\n  "
            + "\n  ".join(changed[:_SHOWN])
            + more
            + "\nUse those settings or another OUTPUT_DIR, add --resume to go on with the new "
            "ones, or --fresh to move that training aside and start over"
        )
    return FINISHED if finished and not changed else GO_ON


def note(cfg: CfgNode, *, finished: bool) -> None:
    """Write the settings of the training in ``OUTPUT_DIR`` beside its checkpoints."""
    content = {
        "format": _FORMAT,
        "version": __version__,
        "finished": finished,
        "settings": _settings(cfg),
    }
    write_json(Path(cfg.OUTPUT_DIR) / _NOTE, content, indent=1)


def move_aside(cfg: CfgNode) -> Path | None:
    """Move the files of former trainings in ``OUTPUT_DIR`` to a folder ``before-N`` in it.

    Files of others stay where they are.

    Returns:
        That folder; None where there was nothing to move.

    Raises:
        ConfigError: the new training starts from one of these files.
    """
    folder = Path(cfg.OUTPUT_DIR)
    found = sorted({path for name in _OWN for path in folder.glob(name)})
    for key, value in (
        ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS),
        ("MODEL.TRACE.STUDENT.WEIGHTS", cfg.MODEL.TRACE.STUDENT.WEIGHTS),
    ):
        start = Path(value).resolve() if value and "://" not in value else None
        if start and any(path.resolve() in (start, *start.parents) for path in found):
            raise ConfigError(
                f"{key} is {value}, which --fresh would move aside: copy it elsewhere, or choose "
                "another OUTPUT_DIR"
            )
    if not found:
        return None
    number = 1
    while (aside := folder / f"before-{number}").exists():
        number += 1
    aside.mkdir()
    # First what says that there is a training, so that an interruption leaves none half.
    for path in sorted(found, key=lambda path: path.name != _LAST):
        path.rename(aside / path.name)
    return aside


def _in_use(folder: Path, holder: str) -> ConfigError:
    who = f" ({holder})" if holder else ""
    return ConfigError(
        f"OUTPUT_DIR {shown(str(folder))} is in use by another training or job{who}: wait until it "
        "ends, or choose another OUTPUT_DIR"
    )


def _unwritable(folder: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"OUTPUT_DIR: cannot write to {shown(str(folder))} ({reason}): make it writable, or choose "
        "another OUTPUT_DIR"
    )


def _settings(cfg: CfgNode) -> dict[str, Any]:
    """The keys that decide about the model, as JSON has them."""
    kept = {key: value for key, value in flatten(cfg).items() if key not in _FREE}
    settings: dict[str, Any] = json.loads(json.dumps(kept))
    return settings


def _stored(folder: Path) -> tuple[dict[str, Any] | None, bool]:
    """The settings of the training in ``folder``, if anything tells, and whether it is finished."""
    path, before = folder / _NOTE, folder / "config.yaml"
    if path.is_file():
        content = read_json(path)
        settings = content.get("settings") if isinstance(content, dict) else None
        if not isinstance(settings, dict):
            raise ConfigError(f"{path} is damaged: remove it, and add --resume to go on")
        return settings, content.get("finished") is True
    if not before.is_file():
        return None, False
    try:  # trainings from before there was a note
        loaded = yaml.safe_load(before.read_text(encoding="utf-8"))
        return flatten(loaded), False
    except (yaml.YAMLError, UnicodeError, AttributeError) as error:
        raise ConfigError(
            f"{before} is damaged ({error}): remove it, and add --resume to go on"
        ) from error


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], defaults: Callable[[], CfgNode]
) -> list[str]:
    """A line for each key that has another value now; keys that are gone decided nothing new."""
    # What the categories of older trainings were is not known.
    new = {k: v for k, v in new.items() if k in old or k != KEY}
    came = new.keys() - old.keys()
    before = {**(_settings(defaults()) if came else {}), **old}
    return [
        f"{key}: {quoted(before[key])} there, {quoted(value)} now"
        for key, value in sorted(new.items())
        if key in before and before[key] != value
    ]
