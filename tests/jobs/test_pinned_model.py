"""Results of one folder are of one commit of the hub's model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from trace_d2.config import get_trace_cfg
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.kinds.edge_job import deciding_keys
from trace_d2.jobs.kinds.panoptic_labels import LabelJob
from trace_d2.jobs.pinned_model import SAM, build_pinned
from trace_d2.jobs.store import JobStore, SettingsChangedError

SETTINGS = {"images": "/images"}


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "out", LabelJob.layout)


def hub(newest: str, asked: list[str]):
    """Builds detectors whose backbone is of the commit that is asked for, or of the ``newest``."""

    def build(cfg):
        revision = cfg.MODEL.TRACE.BACKBONE.REVISION
        asked.append(revision)
        commit = newest if revision in ("", "main") else revision
        return SimpleNamespace(backbone=SimpleNamespace(commit=commit))

    return build


def test_a_folder_goes_on_with_the_commit_that_it_began_with(store):
    cfg, asked = get_trace_cfg(), []
    build_pinned(hub("aaa", asked), cfg, store)  # nothing is there to note it in
    store.open(SETTINGS)
    assert "commit" not in store.read_settings()
    build_pinned(hub("aaa", asked), cfg, store)
    assert store.read_settings()["commit"] == "aaa"
    store.check_settings(SETTINGS)  # it is no setting
    again = build_pinned(hub("bbb", asked), cfg, store)
    assert again.backbone.commit == "aaa"
    assert asked == ["", "", "aaa"]
    assert cfg.MODEL.TRACE.BACKBONE.REVISION == ""
    with pytest.raises(SettingsChangedError):
        store.check_settings({"images": "/others"})


def test_a_branch_that_moved_on_is_refused(store):
    cfg = get_trace_cfg()
    cfg.MODEL.TRACE.BACKBONE.REVISION = "main"
    store.open(SETTINGS)
    build_pinned(hub("aaa", []), cfg, store)
    with pytest.raises(
        UsageError, match=r"commit aaa .*REVISION main is bbb by now: set it to aaa"
    ):
        build_pinned(hub("bbb", []), cfg, store)


def test_backbones_of_folders_and_other_sources_have_no_commit(store):
    store.open(SETTINGS)
    for source in (object(), SimpleNamespace(backbone=SimpleNamespace(commit=None))):
        assert build_pinned(lambda cfg, s=source: s, get_trace_cfg(), store) is source
    assert "commit" not in json.loads(store.settings_path.read_text())


def test_an_empty_revision_is_as_before_there_was_the_key():
    cfg = get_trace_cfg()
    assert "MODEL.TRACE.BACKBONE.REVISION" not in deciding_keys(cfg, ("BACKBONE",))
    cfg.MODEL.TRACE.BACKBONE.REVISION = "v1"
    assert deciding_keys(cfg, ("BACKBONE",))["MODEL.TRACE.BACKBONE.REVISION"] == "v1"


def test_sam_has_a_commit_of_its_own(store):
    def build(cfg):
        return SimpleNamespace(commit=cfg.MODEL.TRACE.SAM.REVISION or "ccc")

    store.open(SETTINGS)
    cfg = get_trace_cfg()
    build_pinned(hub("aaa", []), cfg, store)
    build_pinned(build, cfg, store, SAM)
    assert (store.read_settings()["commit"], store.read_settings()["sam_commit"]) == ("aaa", "ccc")
    store.check_settings(SETTINGS)
    cfg.MODEL.TRACE.SAM.REVISION = "ddd"
    with pytest.raises(UsageError, match=r"commit ccc of SAM, and MODEL.TRACE.SAM.REVISION ddd"):
        build_pinned(build, cfg, store, SAM)


def test_of_two_processes_that_begin_at_once_the_first_is_followed(store):
    """The hub moves on between them: the second has loaded another commit when it looks again."""
    store.open(SETTINGS)
    asked: list[str] = []
    second = hub("bbb", asked)

    def build(cfg):
        found = second(cfg)
        if len(asked) == 1:  # meanwhile
            build_pinned(hub("aaa", []), get_trace_cfg(), store)
        return found

    assert build_pinned(build, get_trace_cfg(), store).backbone.commit == "aaa"
    assert asked == ["", "aaa"]
    assert store.read_settings()["commit"] == "aaa"
