"""The page in a real browser: asked by keyboard, streamed, compared under noise, in two schemes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.live import QUESTION, Live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HOSTILE = "<script>document.title='owned'</script>"


@pytest.fixture
def page(browser: Any, front: Live) -> Iterator[Any]:
    yield from opened_at(browser, front.url)


@pytest.fixture
def own(browser: Any, live: Live) -> Iterator[Any]:
    """The page of the gateway whose engine holds adapters."""
    yield from opened_at(browser, live.url)


def opened_at(browser: Any, url: str) -> Iterator[Any]:
    from playwright.sync_api import expect

    opened = browser.new_page(viewport={"width": 1200, "height": 820})
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.goto(url)
    expect(opened.locator("#status")).to_have_attribute("data-state", "ready")
    yield opened
    opened.close()
    assert problems == []


def test_it_asks_by_keyboard_and_shows_passages_as_text(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false", timeout=60_000)
    expect(page.locator("#passages li")).to_have_count(3)
    assert page.locator("#answer").inner_text().strip()
    _is_harmless(page)
    light = _look(page, "light")
    assert _look(page, "dark") != light
    _picture(page, tmp_path, "page-dark", "dark")
    _picture(page, tmp_path, "page-light", "light")


def test_the_answer_grows_before_it_is_whole(page: Any) -> None:
    from playwright.sync_api import expect

    page.route("**/v1/chat/completions", _longer)
    # The page itself notes how long the answer is at each change: none is missed.
    page.evaluate(
        """() => {
            const answer = document.querySelector("#answer");
            window.lengths = [];
            new MutationObserver(() => window.lengths.push(answer.innerText.length))
                .observe(answer, {childList: true, characterData: true, subtree: true});
        }"""
    )
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false", timeout=60_000)
    whole = len(page.locator("#answer").inner_text())
    lengths = page.evaluate("window.lengths")
    assert len({length for length in lengths if 0 < length < whole}) >= 2, (lengths, whole)


def _longer(route: Any) -> None:
    route.continue_(post_data={**route.request.post_data_json, "max_tokens": 800})


def test_it_compares_under_noise_by_keyboard(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    assert page.locator("#random").is_disabled()
    page.keyboard.type(QUESTION)
    page.focus("#compare")
    page.keyboard.press("Space")
    page.focus("#distractor")
    page.keyboard.press("Home")
    page.focus("#random")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#random-value").inner_text() == "1"
    page.focus("#question")
    page.keyboard.press("Enter")
    expect(page.locator(".side")).to_have_count(2, timeout=60_000)
    expect(page.locator("#result")).to_have_attribute("aria-busy", "false")
    answers = page.locator(".side .text").all_inner_texts()
    assert answers[0].strip()
    # One model plays both sides here.
    assert answers[0] == answers[1]
    expect(page.locator("#passages li")).to_have_count(4)
    expect(page.locator("#passages .badge", has_text="random")).to_have_count(1)
    _is_harmless(page)
    _picture(page, tmp_path, "page-compare", "light")
    _picture(page, tmp_path, "page-compare-dark", "dark")


def test_an_adapter_answers_and_is_compared_with_its_base(own: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    expect(own.locator("#model option")).to_have_text(["tiny", "a", "b"])
    own.keyboard.type(QUESTION)
    answers = []
    for name in ("tiny", "b"):
        own.select_option("#model", name)
        own.focus("#question")
        own.keyboard.press("Enter")
        expect(own.locator("#facts li").first).to_be_visible(timeout=60_000)
        expect(own.locator("#result")).to_have_attribute("aria-busy", "false", timeout=60_000)
        answers.append(own.locator("#answer").inner_text())
    assert answers[0] != answers[1]
    own.focus("#compare")
    own.keyboard.press("Space")
    for noise in ("#distractor", "#random"):
        own.focus(noise)
        own.keyboard.press("Home")
    own.focus("#question")
    own.keyboard.press("Enter")
    expect(own.locator(".side")).to_have_count(2, timeout=60_000)
    expect(own.locator(".side .note")).to_have_text([re.compile("^tiny ·"), re.compile("^b ·")])
    _is_harmless(own)
    _picture(own, tmp_path, "page-adapters", "light")
    _picture(own, tmp_path, "page-adapters-dark", "dark")
    own.set_viewport_size({"width": 390, "height": 800})
    assert own.evaluate("document.documentElement.scrollWidth") <= 390
    _picture(own, tmp_path, "page-adapters-phone", "light")


def test_the_reason_of_an_abstention_is_shown(page: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page.route("**/v1/chat/completions", _nothing_near)
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    expect(page.locator("#facts li", has_text="no passage above 5")).to_be_visible(timeout=60_000)
    expect(page.locator("#passages li")).to_have_count(3)
    expect(page.locator("#passages .badge", has_text="not near enough")).to_have_count(3)
    expect(page.locator("#no-passages")).to_be_hidden()
    _is_harmless(page)
    _picture(page, tmp_path, "page-abstained", "light")


def test_what_is_asked_of_a_server_that_starts_is_asked_when_it_is_ready(
    browser: Any, front: Live
) -> None:
    from playwright.sync_api import expect

    starting = {"ready": False, "phase": "starting vLLM", "model": "", "adapters": []}
    refused = {"error": {"message": "the server is not ready", "code": "not_ready"}}
    opened = browser.new_page()
    opened.route("**/ready", lambda route: route.fulfill(status=503, json=starting))
    opened.route("**/chat/completions", lambda route: route.fulfill(status=503, json=refused))
    opened.goto(front.url)
    expect(opened.locator("#status")).to_have_text("starting vLLM")
    opened.keyboard.type(QUESTION)
    opened.keyboard.press("Enter")
    expect(opened.locator("#problem")).to_contain_text("as soon as it is ready")
    opened.unroute("**/chat/completions")
    opened.unroute("**/ready")
    expect(opened.locator("#passages li")).to_have_count(3, timeout=60_000)
    expect(opened.locator("#problem")).to_be_hidden()
    expect(opened.locator("#asked")).to_have_text(QUESTION)
    opened.close()


def _nothing_near(route: Any) -> None:
    asked = route.request.post_data_json
    route.continue_(post_data={**asked, "neurorit": {**asked["neurorit"], "min_score": 5}})


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(page: Any) -> None:
    page.check("#compare")
    controls = page.locator("input, select, button, summary").all()
    for control in controls:
        if control.is_visible():
            assert control.evaluate("e => e.labels?.length || e.textContent.trim().length")
    page.focus("#question")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    for name in ("send", "compare", "distractor", "random"):
        assert name in reached


def _is_harmless(page: Any) -> None:
    assert HOSTILE in page.locator("#passages").inner_text()
    assert page.title() == "Ask · neurorit-rag"
    assert page.locator("#passages script, #passages b").count() == 0


def _look(page: Any, scheme: str) -> str:
    page.emulate_media(color_scheme=scheme)
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def _picture(page: Any, folder: Path, name: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    target = Path(os.environ.get("NEURORIT_SCREENSHOTS", folder))
    page.screenshot(path=target / f"{name}.png", full_page=True)
