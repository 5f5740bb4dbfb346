#!/usr/bin/env python3
"""Train or evaluate a model on labels that TRACE made, or a student on pseudo edges.

    python tools/train_net.py --config-file configs/panoptic/voc_mask2former_R50.yaml \\
        [--num-gpus N] [--num-machines M] [--resume | --fresh] [--eval-only] [KEY VALUE ...]

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
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from trace_d2.io.hints import nearest_path
from trace_d2.terminal import say

logger = logging.getLogger("trace_d2.train_net")


EPILOG = """examples:
  one GPU, or the CPU:  tools/train_net.py --config-file FILE [MODEL.DEVICE cpu]
  8 GPUs:               tools/train_net.py --config-file FILE --num-gpus 8
  2 machines:           tools/train_net.py ... --num-machines 2 --machine-rank 0 (or 1) \\
                            --dist-url tcp://HOST:PORT
  evaluate:             tools/train_net.py ... --eval-only MODEL.WEIGHTS FILE

The same command goes on where it was interrupted. With other settings it is refused: --resume goes
on with them, --fresh moves the former training to OUTPUT_DIR/before-N and starts over.
"""

_USAGE, _DONE, _INTERRUPTED = 2, 0, 130  # exit statuses


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``.

    Returns:
        The exit status: 2 for what the user can mend, 130 after Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    if not Path(args.config_file).is_file() and "://" not in args.config_file:
        wrong = "it is missing"
        if args.config_file:
            wrong = f"no config file at {args.config_file}{nearest_path(args.config_file)}"
        example = "configs/panoptic/voc_mask2former_R50.yaml"
        say(f"error: --config-file: {wrong}: name a file, as {example}", error=True)
        return _USAGE
    folders: list[str] = []  # OUTPUT_DIR, once it is known
    try:
        return _command(args, folders)
    except KeyboardInterrupt:
        say(f"interrupted{_going_on(args, folders[0]) if folders else ''}", error=True)
        return _INTERRUPTED


def _command(args: argparse.Namespace, folders: list[str]) -> int:
    """``main``; the folder of the training is added to ``folders``."""
    from trace_d2.engine.preflight import check_command  # --help loads nothing

    try:
        for remark in check_command(args):
            say(f"note: {remark}", error=True)
    except (ValueError, OSError, ImportError) as error:
        say(f"error: {error}", error=True)
        return _USAGE
    from detectron2.engine import launch
    from torch.multiprocessing import ProcessExitedException

    from trace_d2.engine.run_folder import FINISHED, GO_ON, held, make_folder

    try:
        # Here as well as in each process, so that a mistake costs no start of many processes.
        cfg = prepare(args)
        make_folder(cfg)
        # One process writes, of the first machine; an evaluation may look at a training that runs.
        writes = args.machine_rank == 0 and not args.eval_only
        with held(cfg) if writes else nullcontext():
            start = _start(args, cfg)
            folders.append(cfg.OUTPUT_DIR)
            if start == FINISHED:
                say(_finished(cfg))
                return _DONE
            args.resume = args.resume if args.eval_only else start == GO_ON
            many = args.num_gpus * args.num_machines > 1
            launch(
                run_apart if many else run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except _mendable() as error:
        say(f"error: {error}", error=True)
        return _USAGE
    except ProcessExitedException as error:
        if error.exit_code == _USAGE:  # it said why
            return _USAGE
        if error.exit_code == _INTERRUPTED:
            raise KeyboardInterrupt from error
        raise
    return _DONE


def _finished(cfg: CfgNode) -> str:
    """What to do with a training of which nothing is left to do."""
    folder = cfg.OUTPUT_DIR
    return (
        f"this training is finished ({cfg.SOLVER.MAX_ITER} iterations): {folder}/model_final.pth. "
        "This command has nothing left to do; to\n"
        f"  evaluate it: add --eval-only, and MODEL.WEIGHTS {folder}/model_final.pth at the end\n"
        f"  train on: add --resume, and SOLVER.MAX_ITER N at the end, N > {cfg.SOLVER.MAX_ITER}\n"
        f"  start over: add --fresh, which moves it to {folder}/before-N"
    )


def _going_on(args: argparse.Namespace, folder: str) -> str:
    """Where the command goes on after an interruption; empty for an evaluation."""
    from trace_d2.engine.last_checkpoint import last_checkpoint

    if args.eval_only:
        return ""
    command = "the same command, without --fresh," if args.fresh else "the same command"
    try:
        return f": {command} goes on from {last_checkpoint(folder)}"
    except (OSError, ValueError):
        return (
            ": there is no checkpoint yet, so that the same command starts over. A smaller "
            "SOLVER.CHECKPOINT_PERIOD writes them sooner"
        )


def _mendable() -> tuple[type[Exception], ...]:
    """What the user can mend; the message says how."""
    from trace_d2.config import ConfigError
    from trace_d2.data.bad_records import NoUsableRecordError
    from trace_d2.engine.checkpointer import UnfitCheckpointError

    return ConfigError, UnfitCheckpointError, NoUsableRecordError


def build_parser() -> argparse.ArgumentParser:
    """The options of Detectron2's ``default_argument_parser``, whose import takes many seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="path to config file")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", action="store_true", help="go on in OUTPUT_DIR although settings differ"
    )
    add("--eval-only", action="store_true", help="perform evaluation only")
    add("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    add("--num-machines", type=int, default=1, help="total number of machines")
    add("--machine-rank", type=int, default=0, help="the rank of this machine, from 0")
    # A port of each user's own: processes that an earlier training left behind are noticed.
    user = hash(os.getuid() if sys.platform != "win32" else 1)
    port = 2**15 + 2**14 + user % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the machines meet")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, at the end")
    start.add_argument(
        "--fresh",
        action="store_true",
        help="start over; a former training in OUTPUT_DIR is moved to OUTPUT_DIR/before-N",
    )
    return parser


def prepare(args: argparse.Namespace) -> CfgNode:
    """The frozen config of ``args``, with its data sets registered, checked."""
    from trace_d2.complaints import check_all
    from trace_d2.data.registration import register_from_config
    from trace_d2.engine.checks import check_data
    from trace_d2.engine.configs import complete_categories, load_cfg
    from trace_d2.engine.machine import check_machine, check_processes

    with blamed_on_user(KeyError, AssertionError, ImportError):
        cfg = load_cfg(args.config_file, args.opts)
        train = not args.eval_only
        go_on = not args.fresh and (train or args.resume)

        def data() -> None:
            register_from_config(cfg, None if train else cfg.DATASETS.TEST)
            check_data(cfg, train=train)

        check_all(
            lambda: check_processes(cfg, args.num_gpus, args.num_machines, args.machine_rank),
            lambda: check_machine(cfg, train=train, resume=go_on),
            data,
        )
        return complete_categories(cfg, train=train, resume=go_on)


def _start(args: argparse.Namespace, cfg: CfgNode) -> str | None:
    """How a training starts in ``OUTPUT_DIR``; None: it is none."""
    from trace_d2.engine.configs import load_cfg
    from trace_d2.engine.run_folder import NEW, how_to_start, move_aside

    if args.eval_only:
        return None
    if args.fresh:
        aside = move_aside(cfg) if args.machine_rank == 0 else None
        if aside:
            say(f"the former training is in {aside}")
        return NEW
    with blamed_on_user():
        return how_to_start(cfg, lambda: load_cfg("", ()), resume=args.resume)


@contextmanager
def blamed_on_user(*kinds: type[Exception]) -> Iterator[None]:
    """Turn what bad configs and data raise into a ConfigError.

    The log file keeps the traceback where it may tell more than the message.
    """
    from trace_d2.config import ConfigError
    from trace_d2.data.label_folder import UnfinishedLabelsError

    foreseen: tuple[type[Exception], ...] = (ValueError, OSError, *kinds)
    try:
        yield
    except _mendable():
        raise
    except foreseen as error:
        if not isinstance(error, (OSError, UnfinishedLabelsError)):
            logger.debug("where it came from", exc_info=True)
        message = error.args[0] if isinstance(error, KeyError) else error
        raise ConfigError(str(message)) from error


def run_apart(args: argparse.Namespace) -> None:
    """``run`` as one of several processes: what the user can mend ends it by status 2.

    Ctrl-C, which all of them get, ends it by status 130.
    """
    try:
        run(args)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except _mendable() as error:
        say(f"error: {error}", error=True)
        sys.exit(_USAGE)


def run(args: argparse.Namespace) -> Any:
    """Train or evaluate in this process; returns what the trainer does."""
    from detectron2.engine import default_setup
    from detectron2.utils import comm

    from trace_d2.config import configured_categories
    from trace_d2.engine.builders import check_test_data
    from trace_d2.engine.checkpointer import TraceCheckpointer
    from trace_d2.engine.logs import set_up_logs
    from trace_d2.engine.run_folder import note
    from trace_d2.engine.trainer import TraceTrainer

    cfg = prepare(args)
    set_up_logs(cfg.OUTPUT_DIR, comm.get_rank())
    default_setup(cfg, args)
    _quieten()
    with blamed_on_user():  # all data sets are read here
        check_test_data(cfg)
        if args.eval_only:
            model = TraceTrainer.build_model(cfg)
        else:
            trainer = TraceTrainer(cfg)
    if not args.eval_only:
        trainer.resume_or_load(resume=args.resume)
        if comm.is_main_process():
            note(cfg, finished=False)
        results = trainer.train()
        if comm.is_main_process():
            note(cfg, finished=True)
        return results
    checkpointer = TraceCheckpointer(
        model, cfg.OUTPUT_DIR, whole=True, categories=configured_categories(cfg)
    )
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    return TraceTrainer.test(cfg, model)


def _quieten() -> None:
    """Keep tracebacks of what ends with a message of its own off the terminal."""
    for handler in logging.getLogger("trace_d2").handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.setLevel(logging.INFO)
    mendable = _mendable()

    def foreign(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], mendable))

    logging.getLogger("detectron2.engine.train_loop").addFilter(foreign)


if __name__ == "__main__":
    sys.exit(main())
