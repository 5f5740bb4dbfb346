#!/usr/bin/env python3
"""Compile Triton's kernels for GPUs that are not here, and show what they take.

Registers of a thread, bytes of its stack (0: nothing spills) and shared memory of a program, for
the architectures' numbers (80: A100, 86: RTX 30, 89: RTX 40, 90: H100) or names (gfx942: MI300).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TEXT_TOKENS = 333  # they lie between the queries of one image and the next
HEADS = 24


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes; ``shared`` and ``stack`` in bytes."""

    arch: str
    kernel: str
    dtype: str
    features: int
    tokens: int
    registers: int
    stack: int
    shared: int


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--arch", nargs="+", default=["80", "90"], help="default %(default)s")
    add("--dtype", nargs="+", default=["bfloat16"], help="default %(default)s")
    add("--features", type=int, nargs="+", default=[64], help="of a head; default %(default)s")
    add(
        "--tokens", type=int, nargs="+", default=[4096, 1023],
        help="1023 stands for sizes of which no tile is a divisor; default %(default)s",
    )  # fmt: skip
    add("--only", nargs="+", metavar="KERNEL", help="compile kernels of these names alone")
    add("--json", type=Path, help="write the table to this file as well")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Compile, and print the table; status 1 where a kernel spills."""
    args = parse_arguments(arguments)
    os.environ.pop("TRITON_INTERPRET", None)  # read when triton is imported
    import torch
    from tabulate import tabulate

    from trace_d2.io.atomic import write_json

    rows = []
    for arch in args.arch:
        for name in args.dtype:
            dtype = getattr(torch, name)
            for launch in all_launches(dtype, args.features, args.tokens):
                if not args.only or launch.kernel.__name__ in args.only:
                    rows.append(usage(launch, arch))
    table = [asdict(row) for row in rows]
    print(tabulate(table, "keys"))
    if args.json:
        write_json(args.json, table, indent=1)
    return int(any(row.stack for row in rows))


def all_launches(dtype: Any, features: list[int], tokens: list[int]) -> Iterator:
    """Launches of every kernel of maps, and of those that take maps or a VAE in one size."""
    import torch

    from trace_d2.attention.kernels import group_norm, maps

    for count in tokens:
        for width in features:
            yield from map_launches(dtype, width, count)
    side = int(tokens[0] ** 0.5)
    attention = torch.empty(2, side**2, side**2, device="meta")
    values = torch.empty(2, side, side, device="meta")
    yield maps.kl_launch(attention[0], attention[1], values[0].flatten(), 1e-12)
    for neighbourhood in (4, 8):
        yield maps.divergence_launch(attention, (side, side), neighbourhood, values, 1e-12)
    yield maps.divergence_gradient_launch(attention, values, attention, 1e-12)
    x = torch.empty(1, 128, 16 * side, 16 * side, dtype=dtype, device="meta")
    moments = torch.empty(group_norm.moments_shape(x, 32), device="meta")
    yield from group_norm.group_norm_launches(
        x, x[0, :, 0, 0], x[0, :, 0, 0], 1e-6, True, moments, x
    )


def map_launches(dtype: Any, features: int, tokens: int) -> Iterator:
    """Of tokens of a joint sequence as diffusers lays it out; odd sizes with column weights."""
    import torch

    from trace_d2.attention.kernels import mean_softmax as kernels

    shape = (1, tokens + TEXT_TOKENS, HEADS, features)
    query = torch.empty(shape, dtype=dtype, device="meta").transpose(1, 2)[:, :, :tokens]
    out = torch.empty(1, tokens, tokens, device="meta")
    log_sums = torch.empty(1, HEADS, tokens, device="meta")
    weights = out[0, 0] if tokens % 2 else None
    scale = features**-0.5
    yield from kernels.map_launches(query, query, out, scale, log_sums, column_weights=weights)
    grads = torch.empty(2, *query.shape, dtype=dtype, device="meta")
    yield from kernels.gradient_launches(query, query, out, scale, log_sums, *grads)


def usage(launch: Any, arch: str) -> Usage:
    """Compile ``launch`` and read what the assembler says of it."""
    compiled = compile_launch(launch, arch)
    registers, stack = _nvidia(compiled) if arch.isdigit() else _amd(compiled)
    named = launch.arguments
    return Usage(
        arch,
        launch.kernel.__name__,
        str(launch.tensor.dtype).removeprefix("torch."),
        named.get("D", 0),
        named["N"] if "N" in named else named["height"] * named["width"],
        registers,
        stack,
        compiled.metadata.shared,
    )


def compile_launch(launch: Any, arch: str) -> Any:
    """What Triton's compiler makes of the arguments' types and divisors, as at a launch."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    divisors: dict[tuple[int], Any] = {}
    for place, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        whole = type(value) is int
        if parameter.is_constexpr or value is None or (whole and value == 1):
            signature[parameter.name], constants[(place,)] = "constexpr", value
            continue
        kind = "i32" if whole else "fp32"
        signature[parameter.name] = types[value.dtype] if torch.is_tensor(value) else kind
        if torch.is_tensor(value) or (whole and value % 16 == 0):
            divisors[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, divisors)
    number = arch.isdigit()
    target = GPUTarget("cuda", int(arch), 32) if number else GPUTarget("hip", arch, 64)
    return triton.compile(source, target=target, options=launch.options)


def _nvidia(compiled: Any) -> tuple[int, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def _amd(compiled: Any) -> tuple[int, int]:
    text = compiled.asm["amdgcn"]
    fields = (".vgpr_count", ".private_segment_fixed_size")
    first, second = (int(re.findall(rf"{re.escape(f)}:\s*(\d+)", text)[0]) for f in fields)
    return first, second


if __name__ == "__main__":
    sys.exit(main())
