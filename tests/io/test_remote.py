"""Folders and files by address: what they hold, whether it changed, and what is said of faults."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trace_d2.io import addresses, remote
from trace_d2.io.remote import (
    RemoteFile,
    RemoteFolder,
    StoreError,
    input_file,
    input_folder,
    is_address,
)


@pytest.fixture(params=["bucket", "memory_store"])
def store(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_what_an_address_is(tmp_path):
    addresses = ("s3://b/x", "gs://b", "memory://x", "abfs://c/x")
    assert all(map(is_address, addresses))
    assert not any(map(is_address, ("C://x", "a/b", "/a", tmp_path, "s3:/b", None)))
    assert input_folder("a/b") == input_file("a/b")
    assert input_folder(f"file://{tmp_path}") == tmp_path
    folder = RemoteFolder("memory://x/")
    assert input_folder(folder) is folder
    assert (str(folder), str(folder / "a/b.png")) == ("memory://x", "memory://x/a/b.png")
    assert str(folder.resolve()) == "memory://x"


def test_a_folder_tells_what_it_holds(store):
    names = ("b.jpg", "a.png", "in/deep/ü 1#?.png", "in/c.npy", "in/.hidden/d.png")
    for name in names:
        store.put(f"photos/{name}", name.encode())
    store.put("photosets/x.png", b"of another folder")
    folder = RemoteFolder(f"{store.url}/photos/")
    assert folder.is_dir()
    assert not RemoteFolder(f"{store.url}/none").is_dir()
    assert folder.folders() == {
        "": ["a.png", "b.jpg"],
        "in/": ["c.npy"],
        "in/.hidden/": ["d.png"],
        "in/deep/": ["ü 1#?.png"],
    }
    for name in names:
        file = folder / name
        assert file.is_file()
        assert file.read_bytes() == name.encode()
    assert not (folder / "x.png").is_file()
    assert [folder.stamp(name) for name in ("in/", "in/deep/", "deep/", "in")] == [0, 0, None, None]
    file = folder / "in/deep/ü 1#?.png"
    assert (file.name, file.stem, file.suffix) == ("ü 1#?.png", "ü 1#?", ".png")


def test_markers_of_folders_are_no_files(bucket):
    bucket.put("photos/", b"")
    bucket.put("photos/in/", b"")
    bucket.put("photos/in/a.png", b"1")
    assert RemoteFolder(f"{bucket.url}/photos").folders() == {"in/": ["a.png"]}


def test_a_bucket_is_a_folder(bucket):
    bucket.put("a.png", b"1")
    folder = RemoteFolder(bucket.url)
    assert folder.is_dir()
    assert folder.folders() == {"": ["a.png"]}
    assert (folder / "a.png").read_bytes() == b"1"


def test_lists_of_many_pages_are_whole(bucket, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    names = [f"{number:02d}.png" for number in range(35)]
    for name in names:
        bucket.put(f"many/{name}", b"")
    assert RemoteFolder(f"{bucket.url}/many").folders() == {"": names}


def test_a_stamp_changes_with_its_file_alone(store):
    for name in ("a.png", "b.png"):
        store.put(f"p/{name}", b"1234")
    first = RemoteFolder(f"{store.url}/p")
    before = [first.stamp(name) for name in ("a.png", "b.png")]
    again = RemoteFolder(f"{store.url}/p")
    assert [again.stamp(name) for name in ("a.png", "b.png")] == before
    store.put("p/a.png", b"5678")  # of the same size
    assert first.stamp("a.png") == before[0]  # as it was listed
    changed = RemoteFolder(f"{store.url}/p")
    assert changed.stamp("a.png") not in (None, *before)
    assert changed.stamp("b.png") == before[1]


def test_names_in_either_form_of_unicode_are_found(memory_store):
    memory_store.put("p/u\u0308.png", b"1")
    folder = RemoteFolder(f"{memory_store.url}/p")
    assert (folder / folder.spelled("\u00fc.png")).read_bytes() == b"1"
    assert folder.spelled("a.png") == "a.png"


def test_workers_are_told_what_was_listed_but_no_contents(memory_store, monkeypatch):
    memory_store.put("p/a.png", b"1")
    folder = RemoteFolder(f"{memory_store.url}/p")
    file = folder / "a.png"
    file.read_bytes()
    copy = pickle.loads(pickle.dumps(file))
    monkeypatch.setattr(RemoteFolder, "folders", None)
    assert copy.stamp == file.stamp
    assert copy._content is None
    assert copy.read_bytes() == b"1"


def test_a_file_is_read_once(memory_store, monkeypatch):
    memory_store.put("p/a.png", b"1234")
    file = RemoteFolder(f"{memory_store.url}/p") / "a.png"
    with file.open() as opened:
        assert opened.read(2) == b"12"
    memory_store.remove("p/a.png")
    assert file.read_bytes() == b"1234"


def test_a_file_of_no_folder(store):
    address = store.put("list.json", b"[]")
    file = input_file(address)
    assert file.is_file()
    assert file.read_bytes() == b"[]"
    assert file.read_text("utf-8") == "[]"
    store.put("list.json", b"[1]")  # of which nothing is kept
    assert file.read_bytes() == b"[1]"
    assert not input_file(f"{store.url}/none.json").is_file()


def test_what_is_gone_is_named(store):
    store.put("p/a.png", b"1")
    file = RemoteFolder(f"{store.url}/p") / "a.png"
    assert file.is_file()
    store.remove("p/a.png")
    with pytest.raises(FileNotFoundError, match=f"no file at {store.url}/p/a.png.*: correct the"):
        file.read_bytes()


def test_a_missing_bucket_is_named(s3_server):
    folder = RemoteFolder("s3://no-such-bucket-here/p")
    assert not folder.is_dir()
    with pytest.raises(FileNotFoundError, match=r"no folder at s3://no-such-bucket.*bucket"):
        folder.folders()


def test_clients_ask_twice_unless_users_say_otherwise(s3_server, monkeypatch):
    import fsspec.config

    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"max_pool_connections": 7}})
    own = remote.open_store("s3://b/x")[0].config_kwargs
    assert own["max_pool_connections"] == 7
    assert own["retries"]["total_max_attempts"] == 2
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "9")
    assert "retries" not in remote.open_store("s3://b/x")[0].config_kwargs


def test_it_is_said_once_that_a_store_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(addresses, "_told", set())
    for address in ("s3://b/x", "s3://b/y", "s3://c/x"):
        addresses.tell_of_waiting(address, 5.0)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "s3://b/x does not answer: asked again in 5 s, and so on"
    assert len(said) == 2


def test_missing_packages_and_unknown_addresses_say_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(ImportError, match=r"gs://b/x needs .* pip install 'trace_d2\[gs\]'"):
        input_folder("gs://b/x")
    with pytest.raises(ValueError, match=r"S4://b/x cannot be read .*: correct the address"):
        input_folder("S4://b/x")
    with pytest.raises(ValueError, match="password in it, which would be written") as error:
        input_file("ftp://me:secret@host/x")
    assert "secret" not in str(error.value)


def test_without_credentials_it_is_said_how_they_are_given(s3_server, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/none")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ConnectionError, match=r"s3://b/x cannot .*NoCredentials.*: give cred"):
        RemoteFolder("s3://b/x").folders()
    s3fs.S3FileSystem.clear_instance_cache()


def test_stores_that_tell_no_changes_are_refused(memory_store, monkeypatch):
    memory_store.put("p/a.png", b"1")
    find = memory_store.fs.find
    told = {
        path: {**info, "created": None}
        for path, info in find(memory_store.root, detail=True).items()
    }
    monkeypatch.setattr(type(memory_store.fs), "find", lambda *_, **__: dict(told))
    with pytest.raises(ValueError, match=r"p/a\.png tells neither checksums nor times, so that"):
        RemoteFolder(f"{memory_store.url}/p").folders()


def test_several_files_are_fetched_at_once_and_faults_are_left_to_their_readers(
    memory_store, monkeypatch
):
    for name in ("a.png", "b.png", "c.png"):
        memory_store.put(f"p/{name}", name.encode())
    folder = RemoteFolder(f"{memory_store.url}/p")
    files = [folder / name for name in ("a.png", "b.png", "c.png", "none.png")]
    folder.folders()
    files[0].read_bytes()
    memory_store.remove("p/c.png")
    fetched, fetch = [], RemoteFile._fetch

    def noted(self: RemoteFile) -> bytes:
        fetched.append(self.name)
        return fetch(self)

    monkeypatch.setattr(RemoteFile, "_fetch", noted)
    remote.fetch_together([*files, Path("x")])
    assert sorted(fetched) == ["b.png", "c.png"]
    assert files[1].read_bytes() == b"b.png"
    assert sorted(fetched) == ["b.png", "c.png"]
    with pytest.raises(FileNotFoundError, match=r"no file at .*c\.png"):
        files[2].read_bytes()


class _Broken:
    """A file system of which files cannot be read so many times, and folders never, or always."""

    def __init__(self, error: Exception, times: int, lost: bool = True) -> None:
        self.error, self.times, self.lost, self.asked = error, times, lost, 0

    def info(self, path: str) -> dict[str, str]:
        self.asked += 1
        if self.lost:
            raise self.error
        return {"type": "directory"}

    def cat_file(self, path: str) -> bytes:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return b"1"


@pytest.mark.parametrize("error", [TimeoutError("slow"), RuntimeError("x"), OSError("reset")])
def test_a_store_is_asked_again_and_then_given_up(error, memory_store, monkeypatch):
    memory_store.put("p/a.png", b"1")
    folder = RemoteFolder(f"{memory_store.url}/p")
    assert (folder / "a.png").is_file()
    waited: list[float] = []
    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=waited.append))
    broken = _Broken(error, 2)
    monkeypatch.setattr(remote, "open_store", lambda address: (broken, "p"))
    assert (folder / "a.png").read_bytes() == b"1"
    assert waited == [5, 20]
    broken.times = 10
    message = rf"p/a.png cannot be read \({type(error).__name__}: "
    with pytest.raises(StoreError, match=message):
        (folder / "a.png").read_bytes()
    assert waited[2:] == [5, 20, 60]
    assert broken.asked == 1  # at the end, as each answer of a lost store takes its time
    broken.times, broken.lost = 10, False  # it is this file alone
    with pytest.raises(ConnectionError, match=message):
        (folder / "a.png").read_bytes()


def test_what_may_not_be_read_is_asked_for_once(memory_store, monkeypatch):
    memory_store.put("p/a.png", b"1")
    file = RemoteFolder(f"{memory_store.url}/p") / "a.png"
    assert file.is_file()
    broken = _Broken(PermissionError("403"), 9, lost=False)
    monkeypatch.setattr(remote, "open_store", lambda address: (broken, ""))
    message = r"p/a.png may not be read \(403\): give credentials"
    with pytest.raises(PermissionError, match=message):
        file.read_bytes()
    assert broken.times == 8
    broken.lost = True  # nothing may be read any more, as when credentials expire
    monkeypatch.setattr(remote, "_WAITS", (0,))
    with pytest.raises(StoreError, match=message):
        file.read_bytes()
    assert broken.times == 6
