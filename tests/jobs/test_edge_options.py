"""Options and keys of one command line that contradict each other are refused, idle ones told."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from trace_d2.complaints import Complaints
from trace_d2.jobs.edge_options import edge_cfg
from trace_d2.jobs.kinds.edges import PredictedEdgeJob, PseudoEdgeJob

TRACE, SOURCE = "MODEL.TRACE.", "MODEL.TRACE.EDGES.SOURCE"


def cfg_of(*opts: str, **options: object) -> CfgNode:
    """The config; raises what is said to be wrong."""
    wrong = Complaints()
    cfg = edge_cfg(wrong, Namespace(config_file=None, opts=list(opts), **options))
    wrong.end()
    return cfg.MODEL.TRACE


@pytest.mark.parametrize(
    ("options", "key", "asked", "what"),
    [
        ({"no_edges": True}, "EDGES.SOURCE", "canny", "--no-edges is given"),
        ({"edges": "."}, "EDGES.SOURCE", "canny", "--edges . are given"),
        ({"edges": "."}, "EDGES.DIR", "elsewhere", "--edges are ."),
        ({"sam": "one", "no_edges": True}, "SAM.WEIGHTS", "other", "--sam is one"),
        ({"weights": "one", "no_edges": True}, "STUDENT.WEIGHTS", "other", "--weights is one"),
        ({"method": "ncut", "no_edges": True}, "DISCOVERY.METHOD", "maskcut", "--method is ncut"),
    ],
)
def test_an_option_and_its_key_that_disagree_are_refused(options, key, asked, what) -> None:
    with pytest.raises(ValueError, match="leave out one") as refused:
        cfg_of(TRACE + key, asked, **options)
    assert str(refused.value) == f"{what}, but {TRACE}{key} is {asked}: leave out one"


def test_an_option_and_its_key_may_say_the_same(tmp_path: Path) -> None:
    own = str(tmp_path)
    trace = cfg_of(SOURCE, "files", TRACE + "EDGES.DIR", own, edges=own)
    assert ("files", own) == (trace.EDGES.SOURCE, trace.EDGES.DIR)
    trace = cfg_of(SOURCE, "none", TRACE + "SAM.WEIGHTS", "one", no_edges=True, sam="one")
    assert (trace.EDGES.SOURCE, trace.SAM.WEIGHTS) == ("none", "one")


def test_a_path_may_be_written_in_several_ways(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "E").mkdir()
    for written in ("E/", "./E", str(tmp_path / "E")):
        assert cfg_of(TRACE + "EDGES.DIR", written, edges="E").EDGES.DIR == "E"
    cfg_of(TRACE + "STUDENT.WEIGHTS", "S/", weights="S", no_edges=True)
    for other in ("E/E", ""):
        with pytest.raises(ValueError, match=r"--edges are E, but .* leave out one"):
            cfg_of(TRACE + "EDGES.DIR", other, edges="E")
    with pytest.raises(ValueError, match="--method is ncut"):  # which is no path
        cfg_of(TRACE + "DISCOVERY.METHOD", "./ncut", method="ncut", no_edges=True)


def test_an_empty_key_and_keys_of_what_is_refused_are_not_told(tmp_path: Path, capsys) -> None:
    cfg_of(TRACE + "EDGES.DIR", "", no_edges=True)
    opts = [SOURCE, "files", TRACE + "EDGES.DIR", "E"]
    output = str(tmp_path / "new")
    args = Namespace(
        config_file=None, opts=opts, images=str(tmp_path), output=output, limit=None,
        report_images=0, weights=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"{SOURCE} is files, but these edges are the student's"):
        PredictedEdgeJob.from_args(args)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "key", ["EDGES.DIR", "STUDENT.WEIGHTS", "EDGES.HED_WEIGHTS", "EDGES.CANNY"]
)
def test_keys_of_other_sources_are_told(key, capsys) -> None:
    cfg_of(SOURCE, "sobel", TRACE + key, "[60,90]" if key == "EDGES.CANNY" else "x")
    said = capsys.readouterr().err
    assert said == f"note: {TRACE}{key} means nothing, as {SOURCE} is sobel\n"
    cfg_of(SOURCE, "canny", TRACE + "EDGES.CANNY", "[60,90]")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "named", "own"),
    [
        (PredictedEdgeJob, "teacher", "student"),
        (PredictedEdgeJob, "files", "student"),
        (PseudoEdgeJob, "hed", "teacher"),
        (PredictedEdgeJob, "sobel", None),
        (PredictedEdgeJob, "", None),
        (PseudoEdgeJob, "student", None),  # as a config by which a student is trained has it
    ],
)
def test_a_source_of_the_file_that_does_not_count_is_told(kind, named, own, tmp_path, capsys):
    base, config = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(f"MODEL: {{TRACE: {{EDGES: {{SOURCE: {named}}}}}}}\n" if named else "{}\n")
    config.write_text("_BASE_: base.yaml\n")
    wrong = Complaints()
    used = kind._source(wrong, Namespace(config_file=str(config), opts=[]))
    wrong.end()
    said = capsys.readouterr().err
    if own is None:
        assert used == ("teacher" if kind is PseudoEdgeJob else named or "student")
        assert said == ""
    else:
        assert used == own
        assert (
            said == f"note: {SOURCE} {named} of {config} counts for nothing: here the {own} looks\n"
        )
