"""The installer of Detectron2, on a miniature source archive and without any network."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREE = {
    "LICENSE": "Apache License\n",
    "setup.py": "raise SystemExit('must not run')\n",
    "tools/train_net.py": "",
    "detectron2/__init__.py": '__version__ = "0.6"\n',
    "detectron2/layers/csrc/vision.cpp": "",
    "detectron2/model_zoo/__init__.py": "",
    "detectron2/data/__init__.py": "import numpy as np\nkind = np.int\nwide = np.int32\n",
    "detectron2/evaluation/__init__.py": "",
    "detectron2/projects/__init__.py": "",
    "projects/PointRend/point_rend/__init__.py": "",
    "projects/PointRend/train_net.py": "",
    "configs/Base-RCNN-FPN.yaml": "MODEL: {}\n",
}


@pytest.fixture(scope="module")
def installer(load_tool):
    return load_tool("install_detectron2")


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "source.tar"
    with tarfile.open(path, "w") as tar:
        for name, text in TREE.items():
            member = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def target(installer):
    return installer.Target(sys.executable, ("false",), "--reinstall")


def test_only_python_files_and_configs_enter_the_wheel(installer, archive):
    assert sorted(installer.read_package(archive)) == [
        "LICENSE",
        "detectron2/__init__.py",
        "detectron2/data/__init__.py",
        "detectron2/evaluation/__init__.py",
        "detectron2/model_zoo/__init__.py",
        "detectron2/model_zoo/configs/Base-RCNN-FPN.yaml",
        "detectron2/projects/__init__.py",
        "detectron2/projects/point_rend/__init__.py",
    ]


def test_an_archive_of_something_else_is_refused(installer, tmp_path):
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w"):
        pass
    with pytest.raises(installer.InstallError, match=r"other\.tar is no Detectron2"):
        installer.read_package(path)


@pytest.mark.parametrize(
    "name",
    [
        "pb1-detectron2-0.6/detectron2/../../evil.py",
        "../evil.py",
        "/detectron2/evil.py",
        "pb1-detectron2-0.6//detectron2/evil.py",
        "detectron2/..\\evil.py",
        "detectron2/a\nevil.py",
    ],
)
def test_an_archive_whose_files_lead_out_of_their_folder_is_refused(installer, archive, name):
    with tarfile.open(archive, "a") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(installer.InstallError, match=r"source\.tar holds a file named"):
        installer.read_package(archive)


def test_patches_replace_whole_words_and_say_so(installer):
    files = {"a.py": b"np.int, np.int32, xnp.int, a.np.int\n"}
    patched = installer.apply_patches(files, {"np.int": "int"})
    lines = patched["a.py"].decode().splitlines()
    assert lines[0] == "int, np.int32, xnp.int, a.np.int"
    assert lines[1].startswith("# Changed by trace_d2")
    assert files["a.py"].startswith(b"np.int,")


@pytest.mark.parametrize("files", [{}, {"a.py": b""}, {"a.py": b"np.int32"}])
def test_a_patch_that_finds_nothing_fails_loudly(installer, files):
    with pytest.raises(installer.InstallError, match=r"'np\.int' was found nowhere"):
        installer.apply_patches(files, {"np.int": "int"})


def test_the_wheel_is_a_proper_distribution(installer, archive, tmp_path):
    wheel = installer.build_wheel(installer.read_package(archive), "0.6+patched", tmp_path)
    assert wheel.name == "detectron2-0.6+patched-py3-none-any.whl"
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    [found] = importlib.metadata.distributions(name="detectron2", path=[str(site)])
    assert found.version == "0.6+patched"
    assert set(found.requires) == set(installer.REQUIREMENTS)
    listed = {str(file): file for file in found.files}
    on_disk = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert set(listed) == on_disk
    for name, file in listed.items():
        if not name.endswith("RECORD"):
            digest = hashlib.sha256((site / name).read_bytes()).digest()
            assert file.hash.value == base64.urlsafe_b64encode(digest).decode().rstrip("=")
            assert file.size == (site / name).stat().st_size


def test_the_wheel_is_the_same_every_time(installer, archive, tmp_path):
    files = installer.read_package(archive)
    first = installer.build_wheel(files, "0.6", tmp_path).read_bytes()
    assert installer.build_wheel(files, "0.6", tmp_path).read_bytes() == first


def test_missing_operators_explain_themselves_when_used(installer, tmp_path):
    (tmp_path / "_C.py").write_text(installer.MISSING_OPERATORS)
    spec = importlib.util.spec_from_file_location("stand_in", tmp_path / "_C.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.has_cuda() is False
    assert not hasattr(module, "__wrapped__")
    with pytest.raises(ImportError, match="nms_rotated is a compiled operator"):
        _ = module.nms_rotated


def test_a_wrong_hash_is_refused(installer, tmp_path):
    path = tmp_path / "copy.tar.gz"
    path.write_bytes(b"anything")
    installer.check_sha256(path, hashlib.sha256(b"anything").hexdigest())
    with pytest.raises(installer.InstallError, match=r"copy\.tar\.gz has SHA-256"):
        installer.check_sha256(path, "0" * 64)


def test_setup_states_the_same_requirements(installer):
    text = (ROOT / "setup.py").read_text()
    extra = re.search(r"DETECTRON2_REQUIREMENTS = \[(.*?)\]", text, re.DOTALL)[1]
    core = re.search(r"\nREQUIREMENTS = \[(.*?)\]", text, re.DOTALL)[1]
    stated = re.findall(r'"([^"]+)"', extra + core)
    names = {re.split("[<>=]", requirement)[0] for requirement in stated}
    needed = {re.split("[<>=]", requirement)[0] for requirement in installer.REQUIREMENTS}
    assert needed <= names
    assert set(re.findall(r'"([^"]+)"', extra)) <= set(installer.REQUIREMENTS)


def test_pip_config_is_read_and_the_environment_wins(installer):
    listing = (
        ":env:.index-url='https://mine.example/simple'\n"
        "global.cert='/etc/ssl/cert.pem'\n"
        "global.extra-index-url='file:///a file:///b'\n"
        "global.index-url='https://theirs.example/simple'\n"
    )
    assert installer.parse_pip_config(listing) == {
        "index-url": ["https://mine.example/simple"],
        "extra-index-url": ["file:///a", "file:///b"],
    }


def test_each_index_of_the_user_is_an_attempt(installer, monkeypatch):
    monkeypatch.delenv("UV_DEFAULT_INDEX", raising=False)
    monkeypatch.delenv("UV_INDEX_URL", raising=False)
    listing = "global.extra-index-url='https://a.example'\nglobal.find-links='/wheels'\n"
    monkeypatch.setattr(installer, "run", lambda *_: listing)
    assert installer.index_options("python") == [[], ["-i", "https://a.example"], ["-f", "/wheels"]]
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://b.example")
    assert installer.index_options("python")[0] == ["-i", "https://b.example"]


def fake_git(folder: Path, script: str, monkeypatch) -> None:
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_repository_that_does_not_answer_is_given_up(installer, tmp_path, monkeypatch):
    fake_git(tmp_path / "bin", "exec sleep 60", monkeypatch)
    monkeypatch.setattr(installer, "PROBE_TIMEOUT", 0.2)
    start = time.monotonic()
    with pytest.raises(installer.SourceUnavailableError, match=r"no answer within 0\.2 s"):
        installer.fetch_git(tmp_path)
    assert time.monotonic() - start < 20


def test_an_unreachable_repository_says_why(installer, tmp_path, monkeypatch):
    fake_git(tmp_path / "bin", "echo 'fatal: no route' >&2; exit 128", monkeypatch)
    with pytest.raises(installer.SourceUnavailableError, match="cannot be read: fatal: no route"):
        installer.fetch_git(tmp_path)


def test_without_git_the_index_copy_is_taken(installer, archive, target, monkeypatch, capsys):
    commands = []

    def run(command, *_):
        commands.append(command)
        return ""

    monkeypatch.setattr(installer, "PATCHES", {"np.int": "int"})
    monkeypatch.setattr(installer.shutil, "which", lambda _: None)
    monkeypatch.setattr(installer, "fetch_index_copy", lambda *_: archive)
    monkeypatch.setattr(installer, "installed_version", lambda _: ("0.6", "somewhere"))
    monkeypatch.setattr(installer, "run", run)
    assert installer.install("auto", target) == "pypi"
    assert "git is not installed" in capsys.readouterr().out
    assert commands[0][1:] == list(installer.REQUIREMENTS)
    assert commands[1][1:3] == ["--no-deps", "--reinstall"]
    assert commands[1][3].endswith("detectron2-0.6+patched-py3-none-any.whl")
    with pytest.raises(installer.InstallError, match="git is not installed"):
        installer.install("git", target)


def test_a_failing_installation_is_reported(installer, archive, target, monkeypatch):
    monkeypatch.setattr(installer, "fetch_git", lambda _: archive)
    with pytest.raises(installer.InstallError, match="the installation failed: exit status 1"):
        installer.install("git", target)


def test_what_is_importable_is_left_alone(installer, target, monkeypatch, capsys):
    monkeypatch.setattr(installer.Target, "of", lambda _: target)
    monkeypatch.setattr(installer, "installed_version", lambda _: ("0.6", "/site/detectron2"))
    assert installer.main([]) == 0
    assert "0.6 is importable already (/site/detectron2)" in capsys.readouterr().out


def test_import_check_reads_the_given_interpreter(installer, archive, tmp_path):
    wheel = installer.build_wheel(installer.read_package(archive), "0.6", tmp_path)
    # numpy is stubbed: the interpreter must find Detectron2 in the wheel and nowhere else.
    (tmp_path / "numpy.py").write_text("int = int32 = None\n")
    python = tmp_path / "python"
    paths = os.pathsep.join([str(wheel), str(tmp_path)])
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{paths}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    version, place = installer.installed_version(str(python))
    assert (version, place) == ("0.6", str(wheel / "detectron2"))
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    version, reason = installer.installed_version(str(python))
    assert version is None
    assert "No module named 'detectron2'" in reason


def test_an_interpreter_that_does_not_run_is_named():
    command = [sys.executable, str(ROOT / "tools/install_detectron2.py"), "--python", "/no/python"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/no/python does not run" in done.stderr
