"""A crew of actors does what one process does, whichever of them die. They are threads here."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from trace_d2.jobs.actors import (
    DO,
    LOOK,
    Actor,
    Batch,
    Begin,
    Ended,
    Failed,
    FromActor,
    Gone,
    Hello,
    Ready,
    ToActor,
    packed,
)
from trace_d2.jobs.claiming import run_free_shards
from trace_d2.jobs.crew import ActorError, Crew
from trace_d2.jobs.engine import RunOptions, merge_folder, run_job
from trace_d2.jobs.executors import WorkerDiedError
from trace_d2.jobs.job import UsageError
from trace_d2.jobs.journal import DONE, ImageEntry
from trace_d2.jobs.locks import Shard
from trace_d2.jobs.output import SettingsChangedError

IMAGES = 30


class Death(BaseException):
    """Of a thread, in place of a process."""


class Threads:
    """Actors that are threads; one that dies is started again, unless ``mortal``."""

    def __init__(self, count: int, mortal: bool = False) -> None:
        self.count, self.mortal = count, mortal
        self.came: queue.SimpleQueue[tuple[int, FromActor]] = queue.SimpleQueue()
        self.inboxes: dict[int, queue.SimpleQueue[ToActor]] = {}
        self.sent: list[tuple[int, ToActor]] = []
        self.threads: list[threading.Thread] = []
        self.dead: set[int] = set()

    def start(self) -> None:
        for _ in range(self.count):
            self._start()

    def _start(self) -> None:
        key = len(self.inboxes)
        self.inboxes[key] = queue.SimpleQueue()
        self.threads.append(threading.Thread(target=self._live, args=(key,), daemon=True))
        self.threads[-1].start()

    def _live(self, key: int) -> None:
        try:
            Actor(self.inboxes[key], partial(self.say, key), 1, f"host:{key}").run()
        except Death:
            self.say(key, Gone("it died"))

    def say(self, key: int, message: FromActor) -> None:
        self.came.put((key, message))

    def wait(self) -> Iterable[tuple[int, FromActor]]:
        key, message = self.came.get(timeout=60)
        yield key, message
        if isinstance(message, Gone) and key not in self.dead:
            self.dead.add(key)
            if not self.mortal:
                self._start()

    def send(self, key: int, message: ToActor) -> None:
        self.sent.append((key, message))
        self.inboxes[key].put(message)

    def stop(self) -> None:
        for inbox in self.inboxes.values():
            inbox.put(None)
        for thread in self.threads:  # none may be killed once death is what it was
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def threads_die(sketching: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is killed dies as a thread does."""

    def die() -> None:
        raise Death

    monkeypatch.setattr(sketching, "die", die)


@pytest.fixture
def root(tmp_path: Path, sketching: ModuleType) -> Path:
    sketching.add_images(tmp_path, IMAGES)
    return tmp_path


@pytest.fixture(scope="module")
def expected(sketching: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    root = tmp_path_factory.mktemp("alone")
    sketching.add_images(root, IMAGES)
    result = run_job(sketching.sketching_job(root), RunOptions())
    assert result.done == IMAGES
    return sketching.contents(root / "out")


def run(job: Any, actors: Threads) -> Any:
    return run_job(job, RunOptions(actors=lambda: actors))


def test_actors_make_the_same(root, sketching, expected, monkeypatch) -> None:
    job, actors = sketching.sketching_job(root), Threads(3)
    plain, began, all_begin = sketching.SketchingJob.cut, set(), threading.Barrier(3)

    def cut(job: Any, *inputs: Any) -> Any:
        """None makes labels before each of them has an image, however slow one is."""
        if threading.get_ident() not in began:
            began.add(threading.get_ident())
            all_begin.wait(60)
        return plain(job, *inputs)

    monkeypatch.setattr(sketching.SketchingJob, "cut", cut)
    assert run(job, actors).done == IMAGES
    assert sketching.contents(root / "out") == expected
    records = job.store.read_records().values()
    assert {record.worker for record in records} == {"host:0", "host:1", "host:2"}
    # The model was theirs alone, and nobody was sent much ahead.
    assert "detector" not in vars(job)
    assert max(len(m.entries) for _, m in actors.sent if isinstance(m, Batch)) <= 8
    # The images of the sample were looked at once: nothing of them is left.
    assert not (root / "out/calibration").exists()


def test_those_who_claim_shards_keep_their_actors(root, sketching, expected) -> None:
    job, actors = sketching.sketching_job(root), Threads(2)
    (root / "kill/s20").write_text("once")
    options = RunOptions(Shard(2, 5), actors=lambda: actors)
    claimed = run_free_shards(job, options)
    assert (claimed.result.done, len(claimed.done), claimed.taken) == (IMAGES, 5, ())
    assert len(actors.threads) == 3  # one died
    merge_folder(type(job), job.store)
    assert sketching.contents(root / "out") == expected
    again = Threads(2)
    assert not run_free_shards(job, RunOptions(Shard(1, 5), actors=lambda: again)).done
    assert not again.threads


def test_a_finished_job_starts_none(root, sketching) -> None:
    run(sketching.sketching_job(root), Threads(2))
    again = Threads(2)
    assert run(sketching.sketching_job(root), again).earlier == IMAGES
    assert not again.inboxes


@pytest.mark.parametrize("mortal", [False, True])
def test_what_a_dead_one_held_is_done_by_others(root, sketching, expected, mortal) -> None:
    for stem in ("s03", "s20"):  # the first look is for the calibration
        (root / "kill" / stem).write_text("once")
    actors = Threads(3, mortal)
    assert run(sketching.sketching_job(root), actors).done == IMAGES
    assert len(actors.dead) == 2
    assert sketching.contents(root / "out") == expected


@pytest.mark.parametrize("phase", [LOOK, DO])
def test_one_that_loads_its_model_holds_nothing_meanwhile(root, sketching, monkeypatch, phase):
    """Else images would wait for it that others could do."""
    job, actors = sketching.sketching_job(root), Threads(2)
    job.store.open(job.settings)
    loaded = threading.Event()

    def load(job: Any) -> None:
        if threading.current_thread() is actors.threads[1]:
            assert loaded.wait(60)

    monkeypatch.setattr(sketching.SketchingJob, "open_detector", load)
    with Crew(actors) as crew:
        run = crew.look(job, job.entries) if phase == LOOK else crew.do(job, job.entries)
        ended = []
        for one in run:
            ended.append(one.stem)
            if len(ended) == IMAGES:
                loaded.set()
    assert sorted(ended) == [entry.stem for entry in job.entries]
    assert {key for key, message in actors.sent if isinstance(message, Batch)} == {0}


def test_an_image_that_always_kills_fails_alone(root, sketching) -> None:
    for stem in ("s07", "s08"):
        (root / "kill" / stem).write_text("always")
    job, actors = sketching.sketching_job(root), Threads(2)
    result = run(job, actors)
    assert sorted(record.stem for record in result.failed) == ["s07", "s08"]
    assert result.done == IMAGES - 2
    assert "3 processes died with it in work" in next(iter(result.failed)).reason
    # Three deaths each, while edges are measured and after; fewer where one death was of both.
    assert 6 <= len(actors.dead) <= 12
    # Once it is mended, the same command does what failed, and no more.
    (root / "kill/s07").unlink()
    (root / "kill/s08").unlink()
    again = run(sketching.sketching_job(root), Threads(2))
    assert (again.done, again.earlier) == (IMAGES, IMAGES - 2)


def test_where_all_die_the_job_stops(root, sketching) -> None:
    for number in range(IMAGES):
        (root / f"kill/s{number:02}").write_text("always")
    actors = Threads(2)
    with pytest.raises(WorkerDiedError, match="died one after the other without a result"):
        run(sketching.sketching_job(root), actors)
    assert len(actors.dead) <= 10


def test_what_is_no_fault_of_an_image_stops_the_job(root, sketching) -> None:
    (root / "no_model").touch()
    with pytest.raises(
        UsageError, match=r"cannot be loaded: there is none \(told by host:"
    ) as told:
        run(sketching.sketching_job(root), Threads(2))
    assert isinstance(told.value.__cause__, ActorError)
    assert "in __init__" in str(told.value.__cause__)
    assert not (root / "out/panoptic").exists()


class TestActor:
    """One actor, told by hand."""

    def answers(self, *messages: ToActor, workers: int = 1) -> list[FromActor]:
        inbox: queue.SimpleQueue[ToActor] = queue.SimpleQueue()
        for message in (*messages, None):
            inbox.put(message)
        said: list[FromActor] = []
        Actor(inbox, said.append, workers, "node-7").run()
        return said

    def test_it_answers_each_message(self, root, sketching) -> None:
        job = sketching.sketching_job(root)
        job.store.open(job.settings)
        entries = job.entries
        batches = [Batch(tuple(entries[:3])), Batch(tuple(entries[3:4]))]
        hello, ready, *ended = self.answers(Begin(packed(job), LOOK), *batches)
        assert hello == Hello("node-7")
        assert ready == Ready(8)
        assert ended == [Ended(entry.stem, None, 8) for entry in entries[:4]]
        assert len(list((root / "out/calibration").iterdir())) == 4

    def test_it_goes_with_its_workers(self, root, sketching) -> None:
        job = sketching.sketching_job(root)
        job.store.open(job.settings)
        (root / "kill/s06.cut").write_text("always")
        hello, ready, *ended, gone = self.answers(
            Begin(packed(job), DO), Batch(tuple(job.entries[:9])), workers=2
        )
        assert (hello, ready) == (Hello("node-7"), Ready(12))
        assert {one.record.status for one in ended} <= {DONE}
        assert len(ended) < 9
        assert isinstance(gone, Gone)
        assert "s06.png" in gone.reason

    def test_it_must_see_the_folder(self, root, sketching) -> None:
        job = sketching.sketching_job(root)
        _, failed = self.answers(Begin(packed(job), LOOK))
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, UsageError)
        assert "choose an --output on a file system that all machines share" in str(failed.error)

    def test_it_must_see_the_same_inputs(self, root, sketching) -> None:
        job = sketching.sketching_job(root)
        job.store.open(job.settings)
        entry = job.entries[3]
        seen = ((entry, job.fingerprint(entry)),)
        _, ready = self.answers(Begin(packed(job), LOOK, seen))
        assert isinstance(ready, Ready)
        (root / "semantic/s03.png").unlink()  # elsewhere it would be skipped, as if it had none
        _, failed = self.answers(Begin(packed(job), LOOK, seen))
        assert isinstance(failed.error, UsageError)
        assert "the files of s03.png (image, masks, edges) are not there" in str(failed.error)

    def test_the_folder_must_be_that_of_the_job(self, root, sketching) -> None:
        job = sketching.sketching_job(root)
        job.store.open({**job.settings, "MODEL.TRACE.SEED": 5})
        _, failed = self.answers(Begin(packed(job), LOOK))
        assert isinstance(failed, Failed)
        assert isinstance(failed.error, SettingsChangedError)

    def test_an_error_that_cannot_travel_is_told_in_words(self, root, sketching, monkeypatch):
        class LocalError(Exception):
            pass

        def fail(*inputs: object) -> None:
            raise LocalError("of a class that nobody can import")

        monkeypatch.setattr("trace_d2.jobs.actors.look_through", fail)
        job = sketching.sketching_job(root)
        job.store.open(job.settings)
        *_, failed = self.answers(Begin(packed(job), LOOK), Batch(tuple(job.entries[:1])))
        assert type(failed.error) is RuntimeError
        assert str(failed.error) == "LocalError: of a class that nobody can import"
        assert "in fail" in failed.trace


class Script:
    """Actors that end an image whenever one of them is asked to; each has its pace."""

    def __init__(self, paces: dict[str, int]) -> None:
        self.paces, self.clock = paces, 0
        self.held: dict[str, list[str]] = {key: [] for key in paces}
        self.done: Counter[str] = Counter()
        self.last: dict[str, int] = {}

    def start(self) -> None:
        self.news = [(key, Hello(key)) for key in self.paces]

    def wait(self) -> Iterable[tuple[str, FromActor]]:
        while not self.news:
            self.clock += 1
            for key, pace in self.paces.items():
                if self.held[key] and self.clock % pace == 0:
                    self.done[key] += 1
                    self.last[key] = self.clock
                    self.news.append((key, Ended(self.held[key].pop(0), None, 8)))
        self.news, news = [], self.news
        return news

    def send(self, key: str, message: ToActor) -> None:
        if isinstance(message, Begin):
            self.news.append((key, Ready(8)))
        elif message is not None:
            self.held[key] += [entry.stem for entry in message.entries]
            assert len(self.held[key]) <= 8

    def stop(self) -> None:
        pass


def test_the_faster_one_does_more_and_all_end_together(root, sketching) -> None:
    job, script = sketching.sketching_job(root), Script({"fast": 1, "slow": 4})
    entries = [ImageEntry(f"s{number:03}", f"s{number:03}.png", number) for number in range(120)]
    with Crew(script) as crew:
        ended = [entry.stem for entry in crew.look(job, entries)]
    assert sorted(ended) == [entry.stem for entry in entries]
    assert script.done["fast"] >= 2.5 * script.done["slow"]
    assert abs(script.last["fast"] - script.last["slow"]) <= 4 * 4


class Broken(Threads):
    """One of three GPUs fails whatever it is given; its process ends and is started again.

    The others tell nothing before five end; from then on as many more may as images are done.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.may_end, self.five_end = threading.Semaphore(5), threading.Event()

    def _live(self, key: int) -> None:
        if 0 < key < self.count:
            super()._live(key)
            return
        self.say(key, Hello("host:broken"))
        while isinstance(message := self.inboxes[key].get(), Begin):
            self.say(key, Ready(8))
        if message is not None:
            assert self.may_end.acquire(timeout=60)
            if key == self.count + 3:  # the fifth, after 0
                self.five_end.set()
            self.say(key, Gone("the GPU fails", of_place=True))
            self.say(key, Gone("it ended with status 0"))

    def say(self, key: int, message: FromActor) -> None:
        if isinstance(message, Ended):
            assert self.five_end.wait(60)
            self.may_end.release()
        super().say(key, message)


def test_images_are_not_blamed_for_a_gpu_that_fails(root, sketching, expected) -> None:
    actors = Broken(3)
    result = run(sketching.sketching_job(root), actors)
    assert (result.done, list(result.failed)) == (IMAGES, [])
    assert len(actors.dead) >= 5
    assert sketching.contents(root / "out") == expected
