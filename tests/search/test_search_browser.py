import pytest
from playwright import sync_api as playwright

from tests.search.pictures import picture

pytestmark = pytest.mark.browser


def browser_path():
    import shutil

    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@pytest.fixture
def page(address):
    found = browser_path()
    if found is None:
        pytest.skip("no Chromium is installed: pip cannot bring a browser; CI installs one with apt")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on(
            "request",
            lambda request: request.url.startswith((address, f"blob:{address}")) or page.wrong.append(request.url),
        )
        page.goto(address)
        yield page
        browser.close()


def until(page, condition):
    # wait_for_function needs eval, which the page's policy forbids.
    for _ in range(300):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came true: {condition}")


def draw(page, *points):
    box = page.locator("#canvas").bounding_box()
    for number, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def test_draw_undo_upload_and_more_like_this(page, tmp_path):
    photos = page.locator("#results li")
    assert page.locator("#undo").is_disabled()
    draw(page, (0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.2))
    photos.first.wait_for()
    assert photos.count() == 12
    until(page, "[...document.images].every(i => i.complete && i.naturalWidth)")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # fits a phone

    draw(page, (0.5, 0.1), (0.5, 0.9))
    page.locator("#undo").click()
    assert page.locator("#undo").is_enabled()
    page.keyboard.press("Control+z")
    until(page, "!document.querySelector('#results li')")
    assert page.locator("#undo").is_disabled()

    (tmp_path / "broken.png").write_bytes(b"no picture")
    page.set_input_files("#upload", tmp_path / "broken.png")
    until(page, "document.querySelector('#status').classList.contains('bad')")
    assert "no PNG" in page.locator("#status").inner_text()

    picture(4).save(tmp_path / "good.png")
    page.set_input_files("#upload", tmp_path / "good.png")
    photos.first.wait_for()
    first = photos.first.locator("p").first.inner_text()
    photos.first.locator("button").click()
    until(page, "document.querySelectorAll('#results li').length === 11")
    assert first not in page.locator("#results").inner_text()
    assert not page.wrong


def test_by_keyboard(page):
    names = []
    draw(page, (0.2, 0.2), (0.8, 0.8))
    page.locator("#results li").first.wait_for()
    page.locator("#canvas").focus()
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert names[:4] == ["undo", "clear", "upload", "width"]
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    until(page, "!document.querySelector('#results li')")
    assert not page.wrong
