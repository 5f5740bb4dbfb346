"""Every command and every Python snippet of README.md and docs/tutorial.md is run.

What is published is run as it stands but for the replacements below: placeholders become files,
numbers become small, and real diffusion models become tiny ones of the same family with random
weights. Commands run in their order, in one folder, as a reader would run them. ``make`` is asked
what it would do; pip and the shell are not bothered.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from doc_commands import Block, blocks
from miniature.commands import in_miniature
from miniature.commands import run as run_here

pytest.importorskip("detectron2")

pytestmark = pytest.mark.detectron2

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/tutorial.md")

# What is published, and what takes its place. {sd3} is a folder with a tiny Stable Diffusion 3.
MINIATURE = [
    # numbers
    (r"--count \d+", "--count 2"),
    (r"--size \d+ \d+", "--size 48 64"),
    (r"tools/make_pseudo_panoptic\.py", r"\g<0> --workers 1 --quiet"),
    (r"tools/train_net\.py .*--config-file \w+\.yaml", r"\g<0> SOLVER.MAX_ITER 2"),
    # what a reader puts there
    (r"--images DIR", "--images fruits/images"),
    (r"--semantic DIR", "--semantic fruits/semantic"),
    (r"--categories (voc|classes\.txt)", "--categories fruits/classes.txt"),
    (r"--masks maskcut\.json", "--masks fruits/instances.json"),
    (r"--edges DIR", "--edges fruits/edges_oracle"),
    (r"--truth-json FILE", "--truth-json fruits/panoptic.json"),
    (r"--truth-dir DIR", "--truth-dir fruits/panoptic"),
    (r"--output DIR", "--output predicted"),
    (r"datasets/coco/train2014", "fruits/images"),
    (r"datasets/trace/coco_2014_train_edges", "pseudo_edges"),
    # the machine: no GPU, and no network
    (r"--num-gpus \d+", ""),
    (r"tools/new_config\.py", r"\g<0> --weights none"),
    # models of many gigabytes
    (
        r".*configs/edges/sd35_large\S*\.yaml.*",
        r"\g<0> MODEL.TRACE.BACKBONE.NAME {sd3} MODEL.TRACE.BACKBONE.RESOLUTION 32"
        " MODEL.TRACE.EMERGENCE.STRIDE 400 MODEL.TRACE.DEVICE cpu",
    ),
    (
        r"tools/train_net\.py .*sd35_large_distill\.yaml.*",
        r"\g<0> MODEL.DEVICE cpu SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0"
        " MODEL.TRACE.STUDENT.LORA.RANK 2"
        " DATASETS.TRACE.EDGES \"[['pseudo_edges', '{cwd}/fruits/images', '{cwd}/pseudo_edges']]\"",
    ),
    (r"tools/train_net\.py .*voc_mask2former_R50\.yaml.*", r"\g<0> {voc}"),
]
SNIPPETS = [
    (r'"sd35-medium".*', '"{sd3}"; cfg.MODEL.TRACE.BACKBONE.RESOLUTION = 32'),
]


@pytest.fixture
def sandbox(
    tmp_path: Path, tiny_folder, small_options, monkeypatch
) -> Iterator[Callable[[str, list[tuple[str, str]]], str]]:
    """A folder that commands run in; gives what makes a text a miniature.

    Pages that bring no data of their own find still lifes, as many as the tutorial makes.
    """
    for name in ("tools", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    from detectron2.data import DatasetCatalog

    for name in DatasetCatalog.list():  # of other tests in this process
        if name == "pseudo_edges":
            DatasetCatalog.remove(name)
    config = ROOT / "configs/panoptic/voc_mask2former_R50.yaml"
    known = {
        "sd3": str(tiny_folder("sd3")),
        "cwd": str(tmp_path),
        "voc": shlex.join(small_options(config, tmp_path / "voc")),
    }
    return lambda text, rules: in_miniature(text, rules, lambda n: known.get(n, f"{{{n}}}"))


def plain(line: str) -> str:
    """``line`` of output without what depends on sizes and on the machine.

    That is numbers, remarks, what weights can be had, and what long lines lost.
    """
    line = re.sub(r"(weights: |  # |-- ).*", "", re.sub(r"\d+(\.\d+)?", "0", line))
    return re.sub(r"\s+", " ", line).strip()[:80]


def run(command: str, published: str) -> None:
    """Run one command in this process; ``make`` is asked what it would do."""
    words = shlex.split(command)
    if words[0] in ("python", "cat"):
        assert run_here(command) == 0, f"{published}\nrun as: {command}"
    elif words[0] == "make":
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{published}: {done.stderr}"
    else:
        assert shutil.which(words[0]) or words[0] == ".", published


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(page, sandbox, capsys):
    found = list(blocks((ROOT / page).read_text(encoding="utf-8")))
    if page == "README.md":
        from trace_d2.scenes.dataset import SceneSettings, write_scenes

        settings = SceneSettings(0, (48, 64), style="still-life")
        write_scenes(Path("fruits"), 2, settings, progress=False)
    count, printed = 0, ""
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.kind == "sh":
            capsys.readouterr()
            for published in block.commands:
                run(sandbox(published, MINIATURE), published)
                count += 1
            printed = capsys.readouterr().out
        if after is not None and block.kind == "sh" and after.kind == "text":
            check_output(block, after, printed)
    assert count > 10


def check_output(block: Block, shown: Block, printed: str) -> None:
    """Each line that the page shows is printed, whatever its numbers; logs and warnings apart."""
    if any("train_net" in command for command in block.commands):
        return
    printed = printed.replace(f"{Path.cwd()}/", "").replace(f"{ROOT}/", "")
    known = {plain(line) for line in printed.splitlines()}
    for line in shown.lines:
        if not line.lstrip().startswith(("warning:", "note:", "#")):
            assert plain(line) in known, f"{block.commands[-1]} does not print {line!r}"
    assert shown.lines, f"nothing is shown of {block.commands}: tools/studies/write_tutorial.py"


def test_every_snippet_runs(sandbox):
    from detectron2.config import CfgNode, get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()  # of a reader's project
    small = yaml.safe_load((ROOT / "configs/instance/Base-RCNN-R18-FPN.yaml").read_text())
    small["MODEL"].pop("TRACE"), small["INPUT"].pop("TRACE")
    cfg.merge_from_other_cfg(CfgNode(small))
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    names = {"cfg": cfg, "image": np.zeros((48, 64, 3), np.uint8)}
    names["semantic"] = np.zeros((48, 64), np.uint8)
    pages = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    snippets = [block for block in blocks(pages) if block.kind == "python"]
    assert len(snippets) >= 3
    for block in snippets:
        text = sandbox("\n".join(block.lines), SNIPPETS)
        exec(compile(text, "\n".join(block.lines), "exec"), names)
        if names["cfg"] is cfg:  # of the reader's own project, which builds its model then
            assert build_model(cfg).training
    assert names["edges"].shape == (48, 64)


def test_code_within_sentences_runs(monkeypatch):
    from trace_d2.config import load_trace_cfg

    monkeypatch.chdir(ROOT)
    names = {"load_trace_cfg": load_trace_cfg, "cfg": load_trace_cfg()}
    pages = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    found = re.findall(r"`((?:cfg\.|load_trace_cfg\()[^`]+)`", pages)
    assert found
    for code in found:
        exec(compile(code, code, "exec"), names)


def test_what_is_published_is_what_is_meant():
    page = "    python a.py --x \\\n        1    # why\n\n"
    page += "```sh\nmake setup && . .venv/bin/activate\n```"
    first, second = blocks(page)
    assert first.commands == ["python a.py --x 1"]
    assert second.commands == ["make setup", ". .venv/bin/activate"]
    assert page.split("\n")[second.start : second.stop] == [
        "```sh", "make setup && . .venv/bin/activate", "```",
    ]  # fmt: skip
