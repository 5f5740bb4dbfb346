"""Every command of docs/reproduce.md and its pages runs, in miniature, and none is left out.

Each for all rows of its section's tables, but for those of divergences: one row a table there.
"""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from doc_commands import Block, Section, blocks, sections

from trace_d2.edges.settings import AbdivSettings, EmergenceSettings

pytest.importorskip("detectron2")

pytestmark = pytest.mark.detectron2

TABLES = (
    ("1", "sam", "pictures", "stride"),
    ("2", "3", "10", "14", "15"),
    ("4", "6", "13", "trajectory"),
    ("5", "7", "9", "12"),
)


@pytest.fixture(scope="module")
def reproduce(load_tool):
    return load_tool("reproduce")


def check(reproduce: ModuleType, folder: Path, chosen: list[Section]) -> None:
    """Run the commands of ``chosen`` in ``folder``: each in its turn, and each does its work."""
    printed = io.StringIO()
    with reproduce.inside(folder), contextlib.redirect_stdout(printed):
        status = reproduce.run_sections(chosen)
    text = printed.getvalue()
    assert status == 0, text
    ran = re.findall(r"^\$ (.*)\n  as: .*\n  [\d.]+ s, done$", text, re.MULTILINE)
    assert ran == [command for section in chosen for command in section.commands]


@pytest.fixture(scope="module")
def folder(reproduce, tmp_path_factory):
    """Where what all tables share has been run; each of them writes files of its own there."""
    made = reproduce.prepare(tmp_path_factory.mktemp("reproduce"))
    check(reproduce, made, reproduce.shared_sections())
    return made


def one_divergence(section: Section) -> Section:
    """``section``, of rows that differ in the divergence alone with the last of each key."""
    rows = {row.get("KEY", str(row)): row for row in section.settings}
    return replace(section, settings=tuple(rows.values()))


@pytest.mark.parametrize("names", TABLES, ids="-".join)
def test_every_command_of_tables_runs(names, reproduce, folder):
    chosen = [one_divergence(reproduce.table_sections()[name]) for name in names]
    check(reproduce, folder, chosen)


def test_divergences_of_rows_that_are_not_run_are_known(reproduce):
    section = reproduce.table_sections()["4"]
    for key, kind in (("EMERGENCE", EmergenceSettings), ("ABDIV", AbdivSettings)):
        named = [row["METRIC"] for row in section.settings if row["KEY"] == f"{key}.METRIC"]
        assert len(named) > 2
        for metric in named:
            assert kind(metric=metric).metric == metric
    kept = one_divergence(section)
    assert [row["KEY"] for row in kept.settings] == ["EMERGENCE.METRIC", "ABDIV.METRIC"]
    assert len(kept.commands) == 2 * len(section.blocks[0].commands) == 8
    other = reproduce.table_sections()["5"]
    assert one_divergence(other).commands == other.commands


def test_tables_are_run_behind_what_they_share(reproduce, tmp_path, monkeypatch):
    asked: list[list[str]] = []
    run = lambda chosen: asked.append([section.title[:7] for section in chosen])  # noqa: E731
    monkeypatch.setattr(reproduce, "run_sections", run)
    reproduce.main(["5", "4", "11", "--folder", str(tmp_path / "run")])
    assert asked == [["Data", "The stu", "Masks w", "Table 5", "Tables "]]
    assert (tmp_path / "run/datasets/coco/val2014").is_dir()


def test_no_command_is_left_out(reproduce):
    tested = [*reproduce.shared_sections(), *reproduce.table_sections().values()]
    assert {name for names in TABLES for name in names} | {"11"} == set(reproduce.table_sections())
    held = {id(b): b for s in tested for b in s.blocks}.values()
    published = [
        b for page in reproduce.pages() for b in blocks(page.read_text()) if b.kind == "sh"
    ]
    assert sorted(b.lines for b in held) == sorted({b.lines for b in published})
    for block in published:
        assert block.commands == block.statements  # nothing that is passed over
    for section in tested:
        assert section.commands, section.title


def test_each_row_of_a_table_is_set_for_its_commands():
    page = """# Page
## One: this
| a | `SET=x DIR=x/1` |
| b | `SET=y DIR=y/1` |
| c | `SET=z DIR=z/1` |

| `K=1` | not `in=small letters` |
| `K=2` | |

    python a.py $SET $DIR
    python b.py $K \\
        -c $SET
    python c.py $K
## Two

    python d.py
"""
    one, two = sections(page)
    assert (one.title, two.title) == ("One: this", "Two")
    assert one.commands == [
        "python a.py x x/1", "python b.py 1 -c x", "python c.py 1",
        "python a.py y y/1", "python b.py 2 -c y", "python c.py 2",
        "python a.py z z/1", "python b.py 1 -c z",
    ]  # fmt: skip
    assert two.commands == ["python d.py"]
    with pytest.raises(KeyError, match="NONE"):
        _ = Section("", (Block("sh", ("python $NONE",), 0, 1),), ({"SET": "x"},)).commands


def test_hours_are_milliseconds_times_images(reproduce):
    """The table of GPU hours, by the times that stand above it."""
    (hours,) = (s for s in re.split("^## ", reproduce.INDEX.read_text(), flags=re.MULTILINE)
                if s.startswith("GPU hours"))  # fmt: skip
    times = [float(ms.replace(",", "")) for ms in re.findall(r"([\d,]+) ms (?:by|in)", hours)]
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| (\S+) \| (\S+) \| (\S+) / (\S+) \|$", hours, re.M)
    assert len(times) == 4
    assert len(rows) > 5
    for count, *shown in rows:
        for ms, text in zip(times, shown, strict=True):
            value = int(count.replace(",", "")) * ms / 3.6e6
            assert float(text.replace(",", "")) == pytest.approx(value, rel=0.05), (count, text)


def test_what_there_is_and_what_there_is_not(reproduce, capsys):
    assert reproduce.main(["--list"]) == 0
    assert re.search(r"^stride +Figure: stride \(\d+ commands\)$", capsys.readouterr().out, re.M)
    for names, said in ((["99", "1"], "or all; not '99'\n"), ([""], "not ''\n"), ([], "or all\n")):
        with pytest.raises(SystemExit):
            reproduce.main(names)
        assert capsys.readouterr().err.endswith(said)


def test_a_folder_that_holds_something_is_refused(reproduce, tmp_path, capsys):
    (tmp_path / "datasets").mkdir()
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["14", "--folder", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"--folder {tmp_path} holds something: name a new one" in capsys.readouterr().err


def test_a_command_that_fails_is_told_and_the_others_go_on(
    reproduce, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text("def main(words):\n    print('why')\n    return 2\n")
    Path("worse.py").write_text("def main(words):\n    raise ValueError('its reason')\n")
    Path("good.py").write_text("def main(words):\n    return 0\n")
    lines = ("python bad.py", "python worse.py", "python good.py")
    assert reproduce.run_sections([Section("It", (Block("sh", lines, 0, 3),), ({},))]) == 1
    said = capsys.readouterr()
    assert "why" in said.err
    assert "its reason" in said.err
    assert "status 2" in said.out
    assert "3 commands of 1 sections" in said.out
    assert "2 failed" in said.out
