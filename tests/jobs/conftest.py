"""Report pages in a real, headless Chromium; and a job that other processes can import."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def sketching() -> Iterator[ModuleType]:
    """The module ``sketching_job``, which processes that start here find as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield importlib.import_module("sketching_job")


@pytest.fixture(scope="session")
def browser(load_tool: Callable) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    chromium = load_tool("benchmark_report").find_chromium()
    if chromium is None:
        pytest.skip("no Chromium here: on Debian, apt install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Callable[..., Any]]:
    """``show(path, **options of the context)``: the page; it must complain of nothing."""
    contexts, complaints = [], []

    def show(path: Path, **options: Any) -> Any:
        contexts.append(
            browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        )
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: complaints.append(request.url)
                if not request.url.startswith(("file:", "data:")) else None)  # fmt: skip
        page.goto(path.as_uri())
        page.locator("#images canvas").first.wait_for()
        _wait(page)
        return page

    yield show
    for context in contexts:
        context.close()
    # The tests themselves read what is painted back.
    assert [text for text in complaints if "readback operations" not in text] == []


def _wait(page: Any) -> None:
    """Wait until what is in sight is painted."""
    page.evaluate(
        """async () => {
          const wait = () => new Promise((resume) => setTimeout(resume, 10));
          await wait();
          while (document.querySelector("#images").ariaBusy === "true") await wait();
        }"""
    )


@pytest.fixture
def drawn() -> Callable[[Any], None]:
    """``drawn(page)`` waits until what is in sight is painted."""
    return _wait
