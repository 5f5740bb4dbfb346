"""What can be known to be wrong with a training before PyTorch and Detectron2 are imported.

Both take many seconds. Detectron2's defaults are read from its file, and data sets are looked at by
``data.known``.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.config import add_trace_config, merge_pairs, merge_usable, read_config
from trace_d2.data.known import learn
from trace_d2.edges.preflight import check_edges, check_student_to_train
from trace_d2.engine.checks import check_data
from trace_d2.engine.machine import check_machine, check_processes
from trace_d2.engine.names import EDGE_PREDICTOR, META_ARCHITECTURES
from trace_d2.engine.run_folder import check_free, check_writable, how_to_start
from trace_d2.io.hints import did_you_mean

_VERSION = 2  # of Detectron2's configs; older ones are upgraded by Detectron2


def check_command(args: argparse.Namespace) -> list[str]:
    """Raise all that is known to be wrong with the training of a command line, at once.

    Configs of the official Mask2Former, and of former versions of Detectron2, pass unseen: only
    Detectron2 can read them.

    Args:
        args: of ``tools/train_net.py``.

    Returns:
        Remarks that users should see before training.

    Raises:
        ConfigError, ValueError, OSError, ImportError: what is wrong, and what to do.
    """
    wrong, train = Complaints(), not args.eval_only
    if args.fresh and args.eval_only:
        wrong.say("--fresh starts a training over, and --eval-only trains nothing")
    cfg = readable_config(wrong, args.config_file, args.opts)
    if cfg is None:
        wrong.end()
        return []
    go_on = not args.fresh and (train or args.resume)
    wrong.of(check_processes, cfg, args.num_gpus, args.num_machines, args.machine_rank)
    wrong.of(check_machine, cfg, train=train, resume=go_on)
    wrong.of(_check_architecture, cfg)
    names = (*(cfg.DATASETS.TRAIN if train else ()), *cfg.DATASETS.TEST)
    remarks = learn(wrong, cfg, names)
    wrong.of(check_data, cfg, train=train)
    wrong.of(_check_networks, cfg, train)
    wrong.of(check_writable, cfg)
    if train and args.machine_rank == 0:
        wrong.of(check_free, cfg)
    if go_on and train:
        wrong.of(_check_folder, cfg, args.resume)
    wrong.end()
    return remarks


def readable_config(wrong: Complaints, config_file: str, opts: Sequence[str]) -> CfgNode | None:
    """The config as far as it can be used; None where it takes Detectron2 to read it.

    ``wrong`` is told what is not right about it.
    """
    cfg = _detectron2_defaults()
    if cfg is None:
        return None
    add_trace_config(cfg)
    if config_file:
        content: dict[str, Any] | None = wrong.of(read_config, config_file)
        if content is None or "://" in config_file or _needs_detectron2(content):
            return None
        merge_usable(wrong, cfg, content, config_file)
    wrong.of(merge_pairs, cfg, opts)
    cfg.freeze()
    return cfg


def _detectron2_defaults() -> CfgNode | None:
    """Detectron2's default config, from its file; None where that is not as we know it."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "config" / "defaults.py"
    if not path.is_file():
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # Its one import is that of the class of nodes, which brings PyTorch.
    tree.body = [n for n in tree.body if not isinstance(n, (ast.Import, ast.ImportFrom))]
    content: dict[str, Any] = {"CN": CfgNode}
    try:
        exec(compile(tree, str(path), "exec"), content)
    except NameError:
        return None
    found = content.get("_C")
    return found if isinstance(found, CfgNode) and found.get("VERSION") == _VERSION else None


def _needs_detectron2(content: Mapping[str, Any]) -> bool:
    model = content.get("MODEL")
    model = model if isinstance(model, Mapping) else {}
    official = "MASK_FORMER" in model or model.get("META_ARCHITECTURE") == "MaskFormer"
    return official or content.get("VERSION", _VERSION) != _VERSION


def _check_folder(cfg: CfgNode, resume: bool) -> None:
    """Raise if ``OUTPUT_DIR`` holds a training that cannot go on."""
    cfg = cfg.clone()
    cfg.defrost()
    del cfg.MODEL.TRACE["CATEGORIES"]  # which data sets tell once they are registered

    def defaults() -> CfgNode:
        made = _detectron2_defaults() or CfgNode()
        add_trace_config(made)
        return made

    how_to_start(cfg, defaults, resume=resume)


def _check_architecture(cfg: CfgNode) -> None:
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCHITECTURES:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {name!r} is none of {', '.join(META_ARCHITECTURES)}"
            f"{did_you_mean(name, META_ARCHITECTURES)}"
        )


def _check_networks(cfg: CfgNode, train: bool) -> None:
    """Raise what is wrong with the backbone, the teacher or the student, if any will be built."""
    trace, source = cfg.MODEL.TRACE, cfg.INPUT.TRACE
    predictor = cfg.MODEL.META_ARCHITECTURE == EDGE_PREDICTOR
    online = train and source.TARGETS == "online" and source.EDGES == "source"
    if predictor and trace.STUDENT.TRAIN and trace.EDGES.SOURCE == "student":
        check_student_to_train(cfg)
    elif predictor or online or trace.POSTPROCESSOR.ENABLED:
        check_edges(cfg)
