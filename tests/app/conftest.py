"""A server in a thread and a browser, once for all tests here; and what no page may ever do."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

fastapi = pytest.importorskip("fastapi", reason="LLMXAI needs the extra [app]")
import uvicorn  # noqa: E402

from sae_lens_med.app.create import create_app  # noqa: E402
from sae_lens_med.app.live.routes import Acting  # noqa: E402
from sae_lens_med.app.maps.opened import OpenMap  # noqa: E402
from sae_lens_med.app.opened import OpenStudy  # noqa: E402
from sae_lens_med.app.settings import Settings  # noqa: E402
from tests.app.reading_study import write_reading_study  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
WAIT = 20_000
"""Milliseconds: what a machine under load needs, and never what a test is about."""


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reading_study(tmp_path_factory.mktemp("study") / "first")


@pytest.fixture(scope="session")
def second_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reading_study(tmp_path_factory.mktemp("other") / "second", seed=1)


@pytest.fixture(scope="session")
def study(study_folder: Path) -> OpenStudy:
    return OpenStudy.open(study_folder)


@contextmanager
def serving(
    studies: list[OpenStudy],
    settings: Settings,
    acting: Acting | None = None,
    maps: Mapping[int, OpenMap] | None = None,
) -> Iterator[str]:
    """The address of a server of `studies`; `acting`: what runs their models; `maps`: their knowledge maps."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # before the server runs, so that whoever asks early waits
    server = uvicorn.Server(uvicorn.Config(create_app(studies, settings, acting, maps), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def server(study: OpenStudy, second_folder: Path) -> Iterator[str]:
    with serving([study, OpenStudy.open(second_folder)], Settings()) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    if CHROMIUM is None:
        absent = "there is no browser: apt-get install chromium fonts-noto-cjk"
        if os.environ.get("LLMXAI_BROWSER") == "required":
            pytest.fail(absent)
        pytest.skip(absent)
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield opened
        opened.close()


class Visits:
    """Makes pages, and holds that none of them logs anything, fails, or asks another origin."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser, self.address = browser, address
        self.wrong: list[str] = []
        self._contexts: list[Any] = []

    def __call__(
        self, path: str = "/", *, size: tuple[int, int] = (1280, 800), errors: bool = False, **how: Any
    ) -> Any:
        """A page that is at `path`; `errors`: its address may be answered with an error, which browsers log."""
        context = self.browser.new_context(
            **{"locale": "ko-KR", "viewport": {"width": size[0], "height": size[1]}} | how
        )
        context.set_default_timeout(WAIT)
        self._contexts.append(context)
        page = context.new_page()
        if not errors:
            page.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", self._asked)
        page.goto(path if "://" in path else self.address + path)
        return page

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "file:")):
            self.wrong.append(f"asked for {request.url}")

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert self.wrong == []


@pytest.fixture
def visit(browser: Any, server: str) -> Iterator[Visits]:
    visits = Visits(browser, server)
    yield visits
    visits.close()


_PAINTED = """() => {
  const found = [];
  for (let step = 1; step <= 8; step++) {
    const ranges = CSS.highlights.get('h' + step);
    if (ranges) for (const each of ranges) {
      const range = document.createRange();
      range.setStart(each.startContainer, each.startOffset);
      range.setEnd(each.endContainer, each.endOffset);
      found.push([range.startContainer.parentElement.dataset.part, range.toString(), step]);
    }
  }
  return found;
}"""


def painted(page: Any) -> list[tuple[str, str, int]]:
    """What the page's script has painted: part, characters, step."""
    page.locator("main.has-tabs").wait_for()  # until then the server's marks may stand there
    return [tuple(each) for each in page.evaluate(_PAINTED)]
