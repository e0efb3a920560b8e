"""The page for everybody: axe finds nothing in it, and all of it is reached by keyboard."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neurorit.serving.gateway.app import Gateway, create_app
from tests.serving.fakes import Upstream
from tests.serving.listening import listening

pytestmark = pytest.mark.slow
QUESTION = "Where was Mira Solden born?"
WIDE, PHONE = {"width": 1200, "height": 820}, {"width": 390, "height": 800}
STATES = ("before", "answered", "compared", "abstained", "far", "refused")
LOOKS = {"light": WIDE, "dark": WIDE, "light-phone": PHONE, "dark-phone": PHONE}


@pytest.fixture(scope="module")
def url(beside: Gateway) -> Iterator[str]:
    with listening(create_app(beside)) as address:
        yield address


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    from playwright.sync_api import expect

    opened = browser.new_page(viewport=WIDE)
    opened.goto(url)
    expect(opened.locator("#models")).to_be_visible()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core, which looks for what keeps people out."""
    if not shutil.which("npm"):
        pytest.skip("no node with npm on this machine")
    source = Path(sys.prefix) / "clients/node_modules/axe-core/axe.min.js"
    assert source.exists(), "make clients installs what this test needs"
    return source.read_text(encoding="utf-8")


@pytest.fixture
def answers(upstream: Upstream) -> Iterator[list[str]]:
    """The pieces of the model's answer, to be changed."""
    pieces = ["Karvel", " [1], as", " another [2, 3] says; not a[1] or [9]."]
    upstream.answers = [pieces]
    yield pieces
    upstream.answers = [["Kar", "vel"]]


def ask(page: Any) -> None:
    from playwright.sync_api import expect

    page.fill("#question", QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false", timeout=20_000)
    expect(page.locator("#passages li").first).to_be_visible(timeout=20_000)


@pytest.mark.parametrize("state", STATES)
def test_axe_finds_nothing_in_any_look(
    page: Any, axe: str, answers: list[str], state: str, tmp_path: Path
) -> None:
    page.select_option("#model", "city")
    page.click("summary")
    if state == "abstained":
        answers[:] = [""]
    if state == "compared":
        page.check("#compare")
        for name in ("top-k", "distractor", "random"):  # there are four passages
            page.fill(f"#{name}", "1")
    if state == "far":
        page.route("**/v1/chat/completions", nothing_near)
    if state == "refused":
        page.route("**/v1/chat/completions", lambda route: route.fulfill(status=500, body="no"))
        page.fill("#question", QUESTION)
        page.keyboard.press("Enter")
        page.locator("#problem").wait_for()
    elif state != "before":
        ask(page)
    assert page.locator(".text.abstained").count() == (state in ("abstained", "far"))
    page.evaluate(axe)
    found = {}
    for look, size in LOOKS.items():
        page.emulate_media(color_scheme=look.split("-")[0])
        page.set_viewport_size(size)
        result = page.evaluate("axe.run(document)")
        assert len(result["passes"]) > 15
        found[look] = [
            (one["id"], one["impact"], [node["html"] for node in one["nodes"]])
            for one in result["violations"]
        ]
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        folder = Path(os.environ.get("NEURORIT_SCREENSHOTS", tmp_path))
        page.screenshot(path=folder / f"access-{state}-{look}.png", full_page=True)
    assert found == {look: [] for look in LOOKS}


def test_a_citation_is_reached_and_followed_by_keyboard_alone(
    page: Any, answers: list[str]
) -> None:
    from playwright.sync_api import expect

    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator("#answer a")).to_have_text(["1", "2", "3"], timeout=20_000)
    assert page.locator("#answer").inner_text() == "".join(answers)
    expect(page.locator("#facts a")).to_have_text(["1", "2", "3"])
    assert focused(page) == "question"
    reached = []
    while not reached or (len(reached) < 30 and reached[-1] != "#passage-2"):
        page.keyboard.press("Tab")
        reached.append(focused(page))
    assert reached[:2] == ["send", "model"]
    assert reached[-2:] == ["#passage-1", "#passage-2"]
    page.keyboard.press("Enter")
    expect(page.locator("#passage-2")).to_be_focused()
    assert page.locator("#passage-2").evaluate("e => e.matches(':focus-visible')")
    assert "Tolm" in page.locator("#passage-2").inner_text()


def nothing_near(route: Any) -> None:
    route.continue_(post_data=route.request.post_data_json | {"neurorit": {"min_score": 5}})


def focused(page: Any) -> str:
    """The id of what has the focus, or where it leads."""
    return str(
        page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href')")
    )
