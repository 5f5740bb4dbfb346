#!/usr/bin/env python3
"""Train trace-tiny, the embedded backbone, from scratch on procedural scenes.

The run can be interrupted at any time; the same command continues it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trace_d2.model_zoo import TrainingSettings


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = TrainingSettings()
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoint, log, weights")
    parser.add_argument("--steps", type=int, default=default.steps, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=default.batch, help="default %(default)s")
    parser.add_argument("--scenes", type=int, default=default.scenes, help="default %(default)s")
    parser.add_argument("--zoom", type=float, default=default.zoom, help="default %(default)s")
    parser.add_argument(
        "--decoder-steps", type=int, default=600, help="of the VAE's decoder; default %(default)s"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a compiler")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train, or go on training, and write the diffusers folder ``WORK_DIR/trace_tiny``."""
    args = parse_arguments(arguments)
    import torch

    from trace_d2.model_zoo.tiny_flux import build_pixel_vae, save_flux_folder
    from trace_d2.model_zoo.training import TinyTrainer, train, train_decoder

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = TrainingSettings(
        seed=args.seed, steps=args.steps, batch=args.batch, scenes=args.scenes, zoom=args.zoom
    )
    args.work_dir.mkdir(parents=True, exist_ok=True)
    trainer = TinyTrainer(settings, device)
    checkpoint = args.work_dir / "checkpoint.pt"
    if checkpoint.is_file():
        trainer.resume(checkpoint)
        print(f"continuing {checkpoint} at step {trainer.step}")
    if args.compile:
        trainer.denoiser.compile()
    folder = args.work_dir / "trace_tiny"
    vae = build_pixel_vae(settings.seed)
    train(trainer, args.work_dir, on_save=lambda t: save_flux_folder(t.averaged, vae, folder))
    if args.decoder_steps:
        error = train_decoder(vae, trainer.pool, args.decoder_steps, device)
        save_flux_folder(trainer.averaged, vae, folder)
        print(f"decoder: error {error:.4f} of a pixel range of 2")
    print(f"{trainer.step} steps in {trainer.seconds / 60:.0f} minutes: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
