"""The report in a real browser: nothing loaded, no error, every figure there and legible, wide and narrow."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kdtune.records.storage import Storage
from kdtune.report.page import Section, page
from tests.report.test_report import STATUSES, evil_study
from tests.support import report_study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")

# of each text in a figure: is it inside, does it touch another, how many pixels high are its letters
LOOK = """() => [...document.querySelectorAll('figure[data-figure] > svg')].map(svg => {
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  const texts = [...svg.querySelectorAll('text')].map(t => {
    const r = t.getBoundingClientRect();
    return {text: t.textContent, x0: r.left, x1: r.right, y0: r.top, y1: r.bottom,
            size: parseFloat(getComputedStyle(t).fontSize) * scale};
  });
  return {name: svg.parentElement.dataset.figure, x0: box.left, x1: box.right, y0: box.top, y1: box.bottom, texts};
})"""


@dataclass
class Seen:
    """What a browser did with a page."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    page_width: int = 0
    figures: list[dict[str, Any]] = field(default_factory=list)
    images: list[tuple[str, int]] = field(default_factory=list)  # alt, natural width


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


def opened(browser: Any, file: Path, width: int = 1400) -> Seen:
    """Opens a page with every part of it unfolded."""
    seen = Seen()
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.on(
        "console", lambda message: seen.errors.append(message.text) if message.type in ("error", "warning") else None
    )
    tab.on("pageerror", lambda error: seen.errors.append(str(error)))
    tab.on("dialog", lambda dialog: (seen.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    tab.on("request", lambda request: seen.requests.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_load_state("load")
    seen.figures = tab.evaluate(LOOK)
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    seen.page_width = tab.evaluate("document.documentElement.scrollWidth")
    seen.images = tab.evaluate("[...document.images].map(i => [i.alt, i.naturalWidth])")
    tab.close()
    return seen


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opens")
    storage = Storage(str(folder), "demo")
    for record in report_study.write(storage, report_study.demo(), statuses=STATUSES):
        if record["row"]["stage"] in ("teacher", "final"):
            report_study.weights(storage, record)
    (folder / "report.html").write_text(report_study.page(storage), encoding="utf-8")
    return folder / "report.html"


def foreign(seen: Seen, file: Path) -> list[str]:
    """Requests for anything but the page itself and what is in it."""
    return [url for url in seen.requests if url != file.as_uri() and not url.startswith("data:")]


@pytest.mark.parametrize("width", [1400, 400])
def test_opens_without_error_and_request(browser: Any, file: Path, width: int) -> None:
    seen = opened(browser, file, width)
    assert seen.errors == []
    assert foreign(seen, file) == []
    assert seen.page_width <= width  # tables scroll in their own boxes
    names = [figure["name"] for figure in seen.figures]
    expected = ["final", "gains", "per-seconds", "per-kwh", "grid-0", "grid-1", "temperature-0"]
    assert names[: len(expected) + 4] == [*expected, *(f"weights-{i}" for i in range(4))]
    assert {*(f"curves-{i}" for i in range(11)), "classes-0", "energy"} <= set(names)
    assert all(figure["x1"] - figure["x0"] > 300 and figure["y1"] - figure["y0"] > 100 for figure in seen.figures)
    assert len(seen.images) == 20
    assert all(alt and natural == 96 for alt, natural in seen.images)


@pytest.mark.parametrize("width", [1400, 400])
def test_no_text_of_a_figure_is_cut_or_covered(browser: Any, file: Path, width: int) -> None:
    faults = [fault for figure in opened(browser, file, width).figures for fault in unreadable(figure)]
    assert faults == []


def unreadable(figure: dict[str, Any]) -> list[str]:
    """Texts that leave the figure, lie on each other, or are too small."""
    found, texts = [], figure["texts"]
    for i, one in enumerate(texts):
        if one["size"] < 7.5:
            found.append(f"{figure['name']}: '{one['text']}' is {one['size']:.1f} px high")
        if min(one["x0"] - figure["x0"], figure["x1"] - one["x1"], one["y0"] - figure["y0"]) < -2:
            found.append(f"{figure['name']}: '{one['text']}' is cut")
        for other in texts[:i]:
            across = min(one["x1"], other["x1"]) - max(one["x0"], other["x0"])
            down = min(one["y1"], other["y1"]) - max(one["y0"], other["y0"])
            if across > 1 and down > 0.35 * min(one["y1"] - one["y0"], other["y1"] - other["y0"]):
                found.append(f"{figure['name']}: '{one['text']}' lies on '{other['text']}'")
    return found


def test_hostile_texts_do_nothing(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.html").write_text(report_study.page(evil_study(tmp_path, monkeypatch)), encoding="utf-8")
    seen = opened(browser, tmp_path / "evil.html", 400)
    assert seen.errors == []
    assert foreign(seen, tmp_path / "evil.html") == []
    assert seen.page_width <= 400


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Its address on loopback, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}", asked
        serving.shutdown()


def test_the_checks_see_what_is_wrong(browser: Any, tmp_path: Path, server: tuple[str, list[str]]) -> None:
    bad, (address, asked) = tmp_path / "bad.html", server
    look = 'y="20" style="font-size: 6px"'
    texts = f'<text x="10" {look}>a</text><text x="10" {look}>b</text><text x="90" y="40">much too long</text>'
    figure = f'<figure data-figure="f"><svg viewBox="0 0 100 50" width="100">{texts}</svg></figure>'
    bad.write_text(
        f'<!DOCTYPE html><body>{figure}<div style="width: 900px">wide</div><img src="{address}/x.png">'
        "<script>console.error('bad'); alert('x'); throw new Error('worse')</script>"
    )
    seen = opened(browser, bad, 400)
    assert {"bad", "dialog: x", "worse"} <= set(seen.errors)
    assert foreign(seen, bad) == [f"{address}/x.png"]
    assert asked == ["/x.png"]
    assert seen.page_width > 400
    told = " ".join(unreadable(seen.figures[0]))
    assert "'b' lies on 'a'" in told
    assert "'much too long' is cut" in told
    assert "'a' is 6.0 px high" in told


def test_the_policy_stops_what_a_page_would_do(browser: Any, tmp_path: Path, server: tuple[str, list[str]]) -> None:
    """The report's own policy, on a page that has what no report has."""
    file, (address, asked) = tmp_path / "policy.html", server
    content = f"<script>alert(1)</script><img src='{address}/x.png'>"
    file.write_text(page("t", "", [Section("a", "b", content)]), encoding="utf-8")
    seen = opened(browser, file)
    assert asked == []
    assert not [error for error in seen.errors if error.startswith("dialog")]
    assert len([error for error in seen.errors if "Content Security Policy" in error]) >= 2
