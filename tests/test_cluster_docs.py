"""What docs/cluster.md tells to hand to schedulers: scripts that are whole, commands that parse."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from doc_commands import Block, blocks

from trace_d2.jobs.locks import Shard
from trace_d2.jobs.sharding import parse_shard

PAGE = Path(__file__).parents[1] / "docs/cluster.md"
TOOL = "tools/make_pseudo_panoptic.py"


@pytest.fixture(scope="module")
def parsed(load_tool: Callable[[str], ModuleType]) -> Callable[[list[str]], argparse.Namespace]:
    """``parsed(words)``: the options of a command of labels, from its name on."""
    parser = load_tool("make_pseudo_panoptic").build_parser()
    return lambda words: parser.parse_intermixed_args(words[words.index(TOOL) + 1 :])


def found(kind: str) -> list[Block]:
    return [block for block in blocks(PAGE.read_text(encoding="utf-8")) if block.kind == kind]


def test_scripts_of_slurm(parsed) -> None:
    for block in found("bash"):
        subprocess.run(["bash", "-n"], input="\n".join(block.lines), text=True, check=True)
    script = next(block for block in found("bash") if block.lines[0] == "#!/bin/bash")
    command = "\n".join(script.lines).split("exec ")[1].replace("\\\n", "")
    args = parsed(shlex.split(command))
    part = parse_shard(args.shard, {"SLURM_ARRAY_TASK_ID": "7"})
    assert part.claims
    options = " ".join(line for line in script.lines if line.startswith("#SBATCH")).split()
    tasks = next(o for o in options if o.startswith("--array=")).partition("=")[2]
    assert part.shard.count == 10 * int(tasks.partition("%")[0].partition("-")[2])
    cpus = next(o for o in options if o.startswith("--cpus-per-task=")).partition("=")[2]
    assert args.workers == int(cpus) - 1


def test_commands_of_the_page(parsed) -> None:
    lines = [line for block in found("sh") for line in "\n".join(block.lines).replace(
        "\\\n", "").split("\n") if TOOL in line and "..." not in line]  # fmt: skip
    ranks = {"TORCHELASTIC_RUN_ID": "1", "GROUP_WORLD_SIZE": "1", "RANK": "5", "WORLD_SIZE": "8"}
    launched = 0
    for line in lines:
        words = shlex.split(line.removesuffix('"').replace('--wrap "', ""))
        if words[0] == "torchrun":
            assert parse_shard(parsed(words).shard, ranks).shard == Shard(6, 8)
        launched += bool(parsed(words).merge or parsed(words).output)
    assert launched == len(lines) >= 3


def test_the_manifest_of_kubernetes(parsed) -> None:
    (block,) = found("yaml")
    job = yaml.safe_load("\n".join(block.lines))["spec"]
    (container,) = job["template"]["spec"]["containers"]
    args = parsed([*container["command"], *container["args"]])
    assert job["completionMode"] == "Indexed"
    parts = [
        parse_shard(args.shard, {"JOB_COMPLETION_INDEX": str(index)}).shard
        for index in range(job["completions"])
    ]
    assert parts == [Shard(index, job["completions"]) for index in range(1, len(parts) + 1)]
    (exits,) = [r["onExitCodes"] for r in job["podFailurePolicy"]["rules"] if "onExitCodes" in r]
    assert exits["containerName"] == container["name"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which that policy needs
    volumes = {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_script_of_submitit(parsed, monkeypatch, capsys) -> None:
    (block,) = found("python")
    ran: list[list[str]] = []

    class Executor:
        def __init__(self, folder: str) -> None: ...

        def update_parameters(self, **options: int) -> None:
            assert options["slurm_array_parallelism"] == 16

        def map_array(self, part: Any, commands: list[list[str]]) -> list[SimpleNamespace]:
            return [SimpleNamespace(result=lambda c=c: part(c)) for c in commands]

    def run(command: list[str], check: bool) -> SimpleNamespace:
        assert not check
        ran.append(command)
        return SimpleNamespace(returncode=3)

    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=Executor))
    monkeypatch.setattr(subprocess, "run", run)
    exec(compile("\n".join(block.lines), str(PAGE), "exec"), {})
    assert capsys.readouterr().out == f"{[3] * 64}\n"
    assert parse_shard(parsed(ran[0]).shard, {}).claims
    assert len(ran) == 64
