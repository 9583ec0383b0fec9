"""Chromium for tests of pages: layout at three widths, and findings of axe-core."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = (1400, 900, 400)
"""Widths of the window in pixels: a desktop, a tablet, a telephone."""
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_CLIPPED = """() => [...document.querySelectorAll("main *, form *")].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width > 0 && box.right > innerWidth + 1 && !one.closest(".scroll, svg, [hidden]");
}).map(one => one.outerHTML.slice(0, 120))"""
"""Elements that reach beyond the window and are in no area that scrolls."""
_SERIOUS = {"serious", "critical"}


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Start Chromium; the test is skipped where it or Playwright is missing."""
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def check_layout(view: Any) -> None:
    """Check at every width that nothing is clipped and that the page does not scroll sideways."""
    for width in WIDTHS:
        view.set_viewport_size({"width": width, "height": 900})
        assert view.evaluate("document.documentElement.scrollWidth") <= width, width
        assert view.evaluate(_CLIPPED) == [], width


def check_accessibility(view: Any) -> None:
    """Check that axe-core has no serious finding in the light and the dark colours."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for scheme in ("light", "dark"):
        view.emulate_media(color_scheme=scheme)
        found = axe.run(view).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in _SERIOUS]
        assert not serious, f"{scheme}: {serious}"
