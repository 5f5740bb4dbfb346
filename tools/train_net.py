#!/usr/bin/env python3
"""Train or evaluate a model on labels that TRACE made, or a student on pseudo edges.

    python tools/train_net.py --config-file configs/panoptic/voc_mask2former_R50.yaml \\
        [--num-gpus N] [--num-machines M] [--resume] [--eval-only] [KEY VALUE ...]

Data sets lie under the folder that DETECTRON2_DATASETS names (default: datasets); a config can
register more by DATASETS.TRACE. Everything goes to OUTPUT_DIR: the config, logs, TensorBoard
events, sample sheets, checkpoints, student/, predictions and results.json.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fvcore.common.config import CfgNode

logger = logging.getLogger("trace_d2.train_net")


class ConfigError(ValueError):
    """A config that cannot be used; the message says how to mend it."""


EPILOG = """examples:
  one GPU, or the CPU:  tools/train_net.py --config-file FILE [MODEL.DEVICE cpu]
  8 GPUs:               tools/train_net.py --config-file FILE --num-gpus 8
  2 machines:           tools/train_net.py ... --num-machines 2 --machine-rank 0 (or 1) \\
                            --dist-url tcp://HOST:PORT
  go on:                tools/train_net.py ... --resume
  evaluate:             tools/train_net.py ... --eval-only MODEL.WEIGHTS FILE
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status: 2 for what the user can mend."""
    args = build_parser().parse_args(argv)
    from detectron2.engine import launch  # --help loads nothing

    from trace_d2.data.bad_records import NoUsableRecordError
    from trace_d2.engine.checkpointer import UnfitCheckpointError

    try:
        # Here as well as in each process, so that a mistake costs no start of many processes.
        prepare(args)
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except (ConfigError, UnfitCheckpointError, NoUsableRecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The options of Detectron2's ``default_argument_parser``, whose import takes many seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="path to config file")
    add("--resume", action="store_true", help="go on from the last checkpoint of OUTPUT_DIR")
    add("--eval-only", action="store_true", help="perform evaluation only")
    add("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    add("--num-machines", type=int, default=1, help="total number of machines")
    add("--machine-rank", type=int, default=0, help="the rank of this machine, from 0")
    # A port of each user's own: processes that an earlier training left behind are noticed.
    user = hash(os.getuid() if sys.platform != "win32" else 1)
    port = 2**15 + 2**14 + user % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the machines meet")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")
    return parser


def prepare(args: argparse.Namespace) -> CfgNode:
    """The frozen config of ``args``, with its data sets registered, checked."""
    from trace_d2.data.registration import register_from_config
    from trace_d2.engine.checks import check_config

    with blamed_on_user(KeyError, AssertionError, ImportError):
        cfg = load_cfg(args.config_file, args.opts)
        register_from_config(cfg, cfg.DATASETS.TEST if args.eval_only else None)
        check_config(cfg, train=not args.eval_only, resume=args.resume)
    return cfg


@contextmanager
def blamed_on_user(*kinds: type[Exception]) -> Iterator[None]:
    """Turn what bad configs and data raise into a ConfigError; the log keeps the traceback."""
    from trace_d2.data.label_folder import UnfinishedLabelsError

    foreseen: tuple[type[Exception], ...] = (ValueError, OSError, UnfinishedLabelsError, *kinds)
    try:
        yield
    except foreseen as error:
        logger.debug("where it came from", exc_info=True)
        message = error.args[0] if isinstance(error, KeyError) else error
        raise ConfigError(str(message)) from error


def load_cfg(config_file: str, opts: Sequence[str]) -> CfgNode:
    """Detectron2's defaults, ours, the official Mask2Former's where needed, then the file."""
    from detectron2.config import get_cfg

    import trace_d2
    from trace_d2.config import explained, merge_pairs, read_config
    from trace_d2.modeling.mask2former.official import (
        add_official_mask2former_config,
        adopt_official_input,
    )
    from trace_d2.settings import flatten

    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    official = False
    if config_file:
        content = read_config(config_file, type(cfg))
        official = add_official_mask2former_config(cfg, config_file)
        with explained(cfg, flatten(content), config_file):
            cfg.merge_from_file(config_file, allow_unsafe=False)
    merge_pairs(cfg, opts)
    if official:
        adopt_official_input(cfg)
    cfg.freeze()
    return cfg


def run(args: argparse.Namespace) -> Any:
    """Train or evaluate in this process; returns what the trainer does."""
    from detectron2.engine import default_setup
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from trace_d2.engine.checkpointer import TraceCheckpointer
    from trace_d2.engine.checks import check_test_data
    from trace_d2.engine.trainer import TraceTrainer

    cfg = prepare(args)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="trace_d2")
    with blamed_on_user():  # all data sets are read here
        check_test_data(cfg)
        if args.eval_only:
            model = TraceTrainer.build_model(cfg)
        else:
            trainer = TraceTrainer(cfg)
    if not args.eval_only:
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    checkpointer = TraceCheckpointer(model, save_dir=cfg.OUTPUT_DIR, whole=True)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    return TraceTrainer.test(cfg, model)


if __name__ == "__main__":
    sys.exit(main())
