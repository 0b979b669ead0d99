import base64
import csv
import io
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright import sync_api as playwright

import zsbir
from tests.search.conftest import serving
from tests.search.pictures import CLIP, picture
from zsbir.search.index import Index
from zsbir.search.web.guard import Settings

pytestmark = pytest.mark.browser


def browser_path():
    import shutil

    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@pytest.fixture
def launch():
    found = browser_path()
    if found is None:
        pytest.skip("no Chromium is installed: pip cannot bring a browser; CI installs one with apt")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])

        def start(address):
            page = browser.new_page(viewport={"width": 390, "height": 844})
            page.wrong = []
            own = (address, f"blob:{address}", "data:")
            page.on("pageerror", lambda error: page.wrong.append(str(error)))
            page.on("request", lambda request: request.url.startswith(own) or page.wrong.append(request.url))
            page.goto(address)
            return page

        yield start
        browser.close()


@pytest.fixture
def page(address, launch):
    return launch(address)


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
    until(page, "[...document.querySelectorAll('#results img')].slice(0, 2).every(i => i.complete && i.naturalWidth)")
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
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    photos.first.locator("button").click()
    until(page, "document.querySelectorAll('#results li').length === 11")
    assert first not in page.locator("#results").inner_text()
    assert first in page.locator("#queried").inner_text()
    until(page, "document.querySelector('#query').naturalWidth > 0")
    until(page, "document.querySelector('#like').getBoundingClientRect().top >= -1")
    page.reload()
    until(page, "document.querySelectorAll('#results li').length === 11")
    for back in (lambda: page.locator("#back").click(), page.go_back):
        back()
        until(page, "document.querySelectorAll('#results li').length === 12")
        assert page.locator("#like").is_hidden()
        photos.first.locator("button").click()
        until(page, "document.querySelectorAll('#results li').length === 11")
    assert not page.wrong


def test_by_keyboard(page):
    names = []
    draw(page, (0.2, 0.2), (0.8, 0.8))
    page.locator("#results li").first.wait_for()
    page.locator("#canvas").focus()
    for _ in range(6):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert names[:5] == ["undo", "eraser", "clear", "upload", "width"]
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    until(page, "!document.querySelector('#results li')")
    assert not page.wrong


def dark(page):
    return page.evaluate(
        "[...document.querySelector('#canvas').getContext('2d').getImageData(0, 0, 384, 384).data]"
        ".filter((value, i) => i % 4 === 0 && value < 100).length"
    )


def test_undo_brings_back_clear_and_redo_eraser_reload(page):
    draw(page, (0.2, 0.2), (0.8, 0.8))
    page.locator("#results li").first.wait_for()
    drawn = dark(page)
    assert drawn > 500
    page.keyboard.press("Escape")
    assert dark(page) == 0
    assert page.locator("#clear").is_disabled()
    page.locator("#undo").click()
    assert dark(page) == drawn
    page.locator("#redo").click()
    assert dark(page) == 0
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    assert dark(page) == 0
    page.locator("#undo").click()
    page.locator("#eraser").click()
    assert page.locator("#eraser").get_attribute("aria-pressed") == "true"
    draw(page, (0.8, 0.2), (0.2, 0.8))
    assert 0 < dark(page) < drawn
    kept = dark(page)
    page.reload()
    until(page, "document.querySelectorAll('#results li').length === 12")
    assert dark(page) == kept
    page.locator("#undo").click()
    assert dark(page) == drawn
    assert not page.wrong


def test_draw_by_keyboard(page):
    page.locator("#canvas").focus()
    page.keyboard.press("Space")
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.locator("#results li").first.wait_for()
    page.locator("#undo").focus()
    assert dark(page) > 100
    assert not page.wrong


GIVE = """([kind, data]) => {
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), moved = new DataTransfer();
    moved.items.add(new File([bytes], "drawing.png", { type: "image/png" }));
    const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: moved, bubbles: true })
        : new DragEvent(kind, { dataTransfer: moved, bubbles: true, cancelable: true });
    document.querySelector("#canvas").dispatchEvent(event);
}"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_drop_and_paste(page, index, kind):
    stream = io.BytesIO()
    picture(4).save(stream, "PNG")
    page.evaluate(GIVE, [kind, base64.b64encode(stream.getvalue()).decode()])
    page.locator("#results li").first.wait_for()
    first = Path(index.search(picture(4), 1)[0].path).name
    assert first in page.locator("#results li").first.inner_text()
    until(page, "!document.querySelector('#undo').disabled")
    page.reload()
    until(page, "document.querySelectorAll('#results li').length === 12")
    assert not page.wrong


@pytest.mark.parametrize(("width", "height"), [(844, 390), (667, 375), (568, 320), (390, 844), (1280, 800)])
def test_nothing_is_off_the_screen(page, width, height):
    page.set_viewport_size({"width": width, "height": height})
    draw(page, (0.2, 0.2), (0.8, 0.8))
    page.locator("#results li").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("#canvas", "#undo", "#redo", "#eraser", "#clear", "label.file"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height, name


def test_what_went_wrong_is_said(page, index, photos):
    (photos / "03.png").unlink()
    draw(page, (0.2, 0.2), (0.8, 0.8))
    until(page, "document.querySelector('.gone')")
    assert "no longer there" in page.locator(".gone").inner_text()
    page.route("**/search*", lambda route: route.fulfill(status=502, body="<html>bad gateway</html>"))
    draw(page, (0.1, 0.2), (0.7, 0.8))
    until(page, "document.querySelector('#status').classList.contains('bad')")
    assert "error 502" in page.locator("#status").inner_text()
    page.unroute("**/search*")
    page.route("**/search*", lambda route: route.abort())
    draw(page, (0.1, 0.3), (0.7, 0.9))
    until(page, "document.querySelector('#status').innerText.includes('still running')")
    assert not page.wrong


def test_more_results_folders_and_the_list(method, tmp_path, launch):
    for number in range(70):
        place = tmp_path / "p" / ("cats" if number % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number}, odd.png")
    index = Index.build(method, tmp_path / "p", tmp_path / "i")
    with serving(index, Settings(originals=True)) as port:
        page = launch(f"http://127.0.0.1:{port}/")
        draw(page, (0.2, 0.2), (0.8, 0.8))
        count = "document.querySelectorAll('#results li').length"
        until(page, f"{count} === 30")
        page.locator("#more").click()
        until(page, f"{count} === 60")
        page.locator("#more").click()
        until(page, f"{count} === 70")
        assert page.locator("#more").is_hidden()
        with page.expect_download() as download:
            page.locator("#list").click()
        rows = list(csv.reader(download.value.path().read_text().splitlines()))
        assert rows[0] == ["path", "score", "id"]
        assert len(rows) == 71
        assert {len(row) for row in rows} == {3}
        page.locator("#folder").select_option("cats")
        until(page, "document.querySelector('#status').innerText === '30 photos'")
        page.locator("#more").click()
        until(page, f"{count} === 35")
        assert "dogs" not in page.locator("#results").inner_text()
        address = page.locator("#results .links a").first.get_attribute("href")
        assert page.request.get(f"http://127.0.0.1:{port}/{address}").headers["content-type"] == "image/png"
        assert not page.wrong
    index.close()


def test_a_matcher_and_words_beside_the_drawing(tmp_path, photos, launch):
    clip = zsbir.build("frozen", backbone={"name": "open-clip", "model": CLIP})
    index = Index.build(clip.eval(), photos, tmp_path / "i")
    index.fit_matcher("one-to-many")
    assert index.fitted_matchers() == ["one-to-many"]
    with serving(index, Settings(matchers=("k-reciprocal", "one-to-many"))) as port:
        page = launch(f"http://127.0.0.1:{port}/")
        asked = []
        page.on("request", lambda request: asked.append(parse_qs(urlsplit(request.url).query)))
        draw(page, (0.2, 0.2), (0.8, 0.8))
        page.locator("#results li").first.wait_for()
        until(page, "document.querySelector('#status').innerText === '12 photos'")
        scores = page.locator("#results .score").all_inner_texts()
        options = page.locator("#matcher option").all_inner_texts()
        assert options == ["cosine", "k-reciprocal", "one-to-many"]
        for name in options[1:]:
            page.locator("#matcher").select_option(name)
            until(page, f"document.querySelector('#results .score').innerText !== '{scores[0]}'")
            assert any(query.get("matcher") == [name] for query in asked)
            scores = page.locator("#results .score").all_inner_texts()
        page.locator("#text").fill("a red bicycle")
        until(page, f"document.querySelector('#results .score').innerText !== '{scores[0]}'")
        words = [query for query in asked if "text" in query]
        assert words[-1]["text"] == ["a red bicycle"]
        assert words[-1]["mix"] == ["0.5"]
        assert words[-1]["matcher"] == ["one-to-many"]
        page.locator("#results button").first.click()  # like this one: by cosine
        until(page, "document.querySelectorAll('#results li').length === 11")
        assert not page.wrong
    index.close()


def test_without_a_choice_none_is_shown(page):
    draw(page, (0.2, 0.2), (0.8, 0.8))
    page.locator("#results li").first.wait_for()
    assert page.locator("#matcher").is_hidden()
    assert page.locator("#text").count() == 0
