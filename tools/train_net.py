#!/usr/bin/env python3
"""Train or evaluate a model on labels that TRACE made.

    python tools/train_net.py --config-file configs/panoptic/voc_mask2former_R50.yaml \\
        [--num-gpus N] [--num-machines M] [--resume] [--eval-only] [KEY VALUE ...]

Data sets lie under the folder that DETECTRON2_DATASETS names (default: datasets); a config can
register more by DATASETS.TRACE. Everything goes to OUTPUT_DIR: the config, logs, TensorBoard
events, sample sheets, checkpoints, predictions and results.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch

import trace_d2
from trace_d2.data.label_folder import UnfinishedLabelsError
from trace_d2.data.registration import register_from_config
from trace_d2.engine.checkpointer import TraceCheckpointer, UnfitCheckpointError
from trace_d2.engine.checks import check_config
from trace_d2.engine.trainer import TraceTrainer
from trace_d2.modeling.mask2former.official import add_official_mask2former_config


class ConfigError(ValueError):
    """A config that cannot be used."""


# What the user can mend; the message says how. Any other error keeps its traceback.
USER_ERRORS = (ConfigError, UnfitCheckpointError)


EPILOG = """examples:
  one GPU, or the CPU:  tools/train_net.py --config-file FILE [MODEL.DEVICE cpu]
  8 GPUs:               tools/train_net.py --config-file FILE --num-gpus 8
  2 machines:           tools/train_net.py ... --num-machines 2 --machine-rank 0|1 --dist-url tcp://HOST:PORT
  go on:                tools/train_net.py ... --resume
  evaluate:             tools/train_net.py ... --eval-only MODEL.WEIGHTS FILE
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; returns the exit status: 2 for what the user can mend."""
    args = build_parser().parse_args(argv)
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
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Detectron2's command line."""
    parser = default_argument_parser(epilog=EPILOG)
    parser.description = __doc__
    return parser


def prepare(args: argparse.Namespace) -> CfgNode:
    """The frozen config of ``args``, with its data sets registered, checked.

    Raises:
        ConfigError: the config cannot be used, and why.
    """
    try:
        cfg = load_cfg(args.config_file, args.opts)
        register_from_config(cfg)
        check_config(cfg, train=not args.eval_only)
    except (ValueError, AssertionError, KeyError, OSError, ImportError) as error:
        raise ConfigError(error.args[0] if isinstance(error, KeyError) else str(error)) from error
    return cfg


def load_cfg(config_file: str, opts: Sequence[str]) -> CfgNode:
    """Detectron2's defaults, ours, the official Mask2Former's where it is installed, then the file.

    Raises:
        KeyError, ValueError: a key does not exist, or a value has the wrong type.
        FileNotFoundError: there is no such file.
        ImportError: the config is of the official Mask2Former, which is not installed.
    """
    cfg = get_cfg()
    trace_d2.add_trace_config(cfg)
    if config_file:
        add_official_mask2former_config(cfg, config_file)
        cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(opts))
    cfg.freeze()
    return cfg


def run(args: argparse.Namespace) -> Any:
    """Train or evaluate in this process; returns what the trainer does.

    Raises:
        ConfigError: the config, its data or its weights cannot be used, and why.
    """
    cfg = prepare(args)
    default_setup(cfg, args)
    if args.eval_only:
        model = TraceTrainer.build_model(cfg)
        checkpointer = TraceCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return TraceTrainer.test(cfg, model)
    try:  # all data sets are read here
        trainer = TraceTrainer(cfg)
    except (ValueError, OSError, UnfinishedLabelsError) as error:
        raise ConfigError(str(error)) from error
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    sys.exit(main())
