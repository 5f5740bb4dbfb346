"""Configs: what is read, and what is said of keys, values and files that cannot be used."""

from __future__ import annotations

import pytest

from trace_d2.config import ConfigError, load_trace_cfg


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["MODEL.TRACE.SED", "1"], r"MODEL\.TRACE\.SED \(did you mean MODEL\.TRACE\.SEED\?\)"),
        (["model.trace.seed", "1"], r"did you mean MODEL\.TRACE\.SEED\?"),
        (["MODEL.TRACE.BACKBONE.NMAE", "1"], r"did you mean MODEL\.TRACE\.BACKBONE\.NAME\?"),
        (["NULL_PROMPT", "zeros"], r"did you mean MODEL\.TRACE\.BACKBONE\.NULL_PROMPT\?"),
        (
            ["MODEL.TRACE.SED", "1", "MODEL.TRACE.SEED", "1", "INPUT.TRACE.MAPPR", "x"],
            r"SED \(did .*SEED\?\); INPUT\.TRACE\.MAPPR \(did you mean INPUT\.TRACE\.MAPPER\?\)",
        ),
        (["QUITE.SOMETHING.ELSE", "1"], r"QUITE\.SOMETHING\.ELSE\. docs/config\.md"),
        (["MODEL.TRACE.SEED.X", "1"], r"do not exist: MODEL\.TRACE\.SEED\.X"),
        (["MODEL.TRACE.SEED"], "come as KEY VALUE pairs"),
        (["MODEL.TRACE.SEED", "[1]"], r"SEED must be a whole number, as 0, not '\[1\]'"),
        (["MODEL.TRACE.SEED", "1.5"], r"SEED must be a whole number"),
        (["MODEL.TRACE.BGP.BETA", "{}"], r"BETA must be a number with a decimal point, as 10\.0"),
        (["MODEL.TRACE.BACKBONE.NAME", "[1]"], r"BACKBONE\.NAME must be a text"),
        (["MODEL.TRACE.BACKBONE.CPU_OFFLOAD", "1"], r"CPU_OFFLOAD must be True or False"),
        (["MODEL.TRACE.ATTENTION.BLOCKS", "1"], r"BLOCKS must be a list, as \[\], not '1'"),
        (["MODEL.TRACE.SEED", "None"], r"SEED must be a whole number, as 0, not None"),
        (["MODEL.TRACE.EDGES.DIR", "None"], r"EDGES\.DIR must be a text, not None"),
        (["MODEL.TRACE.BGP", "1"], r"MODEL\.TRACE\.BGP must be a group of keys \(CUT, "),
    ],
)
def test_wrong_pairs_name_the_key_and_what_is_meant(pairs, message):
    with pytest.raises(ConfigError, match=rf"the command line.*{message}|{message}"):
        load_trace_cfg(None, pairs)


def test_whole_numbers_of_the_command_line_are_taken_for_floats():
    sigma = "MODEL.TRACE.DISCOVERY.EDGES.SIGMA"
    value = load_trace_cfg(None, [sigma, "0"]).MODEL.TRACE.DISCOVERY.EDGES.SIGMA
    assert (type(value), value) == (float, 0.0)
    with pytest.raises(ConfigError) as error:  # of wrong keys alone
        load_trace_cfg(None, [sigma, "0", "MODEL.TRACE.SEED", "x"])
    assert "SIGMA" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {TRACE: {SED: 1}}", r"MODEL\.TRACE\.SED \(did you mean MODEL\.TRACE\.SEED\?\)"),
        ("MODEL: {TRACE: {SEED: [1]}}", r"SEED must be a whole number, as 0, not \[1\]"),
        ("MODEL: {TRACE: {SEED: }}", r"SEED must be a whole number, as 0, not None"),
        ("MODEL: {TRACE: }", r"MODEL\.TRACE must be a group of keys .*, not None"),
        ("MODEL: {TRACE: 3}", r"MODEL\.TRACE must be a group of keys"),
        ("MODEL: {TRACE: [1, 2]}", r"MODEL\.TRACE must be a group of keys"),
        ("MODEL: {META_ARCHITECTURE: x, TRACE: 3}", r"MODEL\.TRACE must be a group of keys"),
        ("MODEL: 5", r"MODEL must be a group of keys"),
        ("", "is no config"),
        ("- 1\n- 2", "is no config"),
        ("just text", "is no config"),
        ("MODEL: [", "is no config"),
        ("MODEL: {1: 2}", r"a\.yaml"),
        ("_BASE_: a.yaml", "is its own _BASE_"),
        ("_BASE_: 5", "is no config"),
    ],
)
def test_files_that_are_no_config_name_file_and_place(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.yaml.*{message}|{message}"):
        load_trace_cfg(path)


def test_a_base_that_is_absent(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: nowhere.yaml")
    with pytest.raises(FileNotFoundError, match=r"a\.yaml has a _BASE_ that is absent .*nowhere"):
        load_trace_cfg(tmp_path / "a.yaml")


@pytest.mark.parametrize("where", ["file", "base"])
def test_python_in_yaml_is_not_run(tmp_path, where):
    trace = tmp_path / "trace"
    (tmp_path / "evil.yaml").write_text(
        f"MODEL: {{DEVICE: !!python/object/apply:os.system ['touch {trace}']}}"
    )
    (tmp_path / "good.yaml").write_text("_BASE_: evil.yaml")
    with pytest.raises(ConfigError, match="is no config, which is YAML of keys and plain values"):
        load_trace_cfg(tmp_path / ("evil.yaml" if where == "file" else "good.yaml"))
    assert not trace.exists()


def test_the_device_of_detectron2_is_known_without_it(tmp_path):
    assert load_trace_cfg().MODEL.DEVICE == "auto"
    assert load_trace_cfg(None, ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"
    (tmp_path / "a.yaml").write_text("MODEL: {DEVICE: cpu, META_ARCHITECTURE: x, MASK_ON: True}")
    assert load_trace_cfg(tmp_path / "a.yaml").MODEL.DEVICE == "cpu"
