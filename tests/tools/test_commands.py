"""The project's commands as studies run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_a_process_of_its_own_prints_to_its_log(load_tool, tmp_path: Path, capfd) -> None:
    commands = load_tool("commands")
    log = tmp_path / "log.txt"
    commands.run_tool("make_scenes", "--help", log=log, threads=1)
    assert log.read_text().startswith("usage: make_scenes.py")
    message = rf"tools/make_scenes\.py ended with status 2: see {log}"
    with pytest.raises(commands.CommandError, match=message) as caught:
        commands.run_tool("make_scenes", "--size", "1", log=log)
    assert caught.value.status == 2
    assert "--size: expected 2 arguments" in log.read_text()
    assert capfd.readouterr() == ("", "")


def test_a_tool_in_this_process(load_tool, tmp_path: Path, capsys) -> None:
    commands = load_tool("commands")
    with pytest.raises(commands.CommandError, match=r"ended with status 2$"):
        commands.run_tool("train_net", "--config-file", tmp_path / "no.yaml")
    assert f"$ python tools/train_net.py --config-file {tmp_path}" in capsys.readouterr().out


def test_a_training_runs_until_it_is_done(load_tool, tmp_path: Path, monkeypatch) -> None:
    commands = load_tool("commands")
    runs: list[tuple[str, ...]] = []

    def run_tool(*words: object, log: Path, threads: int | None) -> None:
        runs.append((*map(str, words), str(log), str(threads)))
        if len(runs) == 1:
            raise commands.CommandError("killed", 137)

    monkeypatch.setattr(commands, "run_tool", run_tool)
    folder = tmp_path / "run"
    with pytest.raises(commands.CommandError):
        commands.train(folder, Path("a.yaml"), "SEED", 1, threads=3)
    for _ in range(2):
        commands.train(folder, Path("a.yaml"), "SEED", 1, threads=3)
    options = ("--resume", "--config-file", "a.yaml", "SEED", "1", "OUTPUT_DIR", str(folder))
    assert runs == 2 * [("train_net", *options, str(folder / "console.txt"), "3")]
    assert json.loads(commands.finished(folder).read_text()) >= 0


def test_the_status_of_a_study_says_how_it_ended(load_tool, capsys) -> None:
    commands = load_tool("commands")

    def failing(error: Exception):
        def work() -> None:
            raise error

        return work

    assert commands.exit_status("tiles", lambda: 5) == 0
    assert commands.exit_status("tiles", failing(FileNotFoundError("no folder"))) == 2
    assert commands.exit_status("tiles", failing(commands.CommandError("killed", 137))) == 137
    assert capsys.readouterr() == ("", "tiles: no folder\ntiles: killed\n")
    with pytest.raises(KeyError):  # a fault of the study itself
        commands.exit_status("tiles", failing(KeyError("row")))
