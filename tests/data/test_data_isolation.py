import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image

from zsbir.data.isolation import IsolatedError, isolated
from zsbir.data.strokes import load_drawing
from zsbir.errors import ZsbirError

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 99 99">{}</svg>'
LINE = '<path d="M10 10L90 90" stroke="#000" stroke-width="6"/>'


def write(tmp_path, shapes):
    path = tmp_path / "drawing.svg"
    path.write_text(SVG.format(shapes))
    return str(path)


def dark(image):
    return sum(image.convert("L").histogram()[:100])


def test_a_drawing_is_drawn(tmp_path):
    assert dark(load_drawing(write(tmp_path, LINE))) > 100
    assert dark(load_drawing(write(tmp_path, '<a href="https://example.org">' + LINE + "</a>"))) > 100
    assert dark(load_drawing(write(tmp_path, f'<g id="l">{LINE}</g><use href="#l"/>'))) > 100


@pytest.mark.parametrize("key", ["href", "xlink:href", "x:href"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_no_other_file_is_read(tmp_path, key, scheme):
    Image.new("RGB", (9, 9), "black").save(tmp_path / "secret.png")
    image = (
        f'<image xmlns:x="http://www.w3.org/1999/xlink" {key}="{scheme}{tmp_path}/secret.png" width="99" height="99"/>'
    )
    with pytest.raises(ZsbirError, match="another file"):
        load_drawing(write(tmp_path, image))


def test_a_file_named_by_an_entity_is_not_read(tmp_path):
    Image.new("RGB", (9, 9), "black").save(tmp_path / "secret.png")
    path = tmp_path / "drawing.svg"
    path.write_text(
        f'<!DOCTYPE svg [<!ENTITY s "{tmp_path}/secret.png">]>'
        + SVG.format('<image href="&s;" width="99" height="99"/>')
    )
    with pytest.raises(ZsbirError, match="another file"):
        load_drawing(str(path))


def test_a_child_opens_no_file(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    with pytest.raises(IsolatedError, match="Too many open files"):
        isolated("builtins:open", bytes(tmp_path / "secret"))


def test_deep_groups_are_refused(tmp_path):
    with pytest.raises(ZsbirError, match="nests more than"):
        load_drawing(write(tmp_path, "<g>" * 250 + LINE + "</g>" * 250))


def test_time_is_limited_and_others_go_on():
    began = time.perf_counter()
    with pytest.raises(IsolatedError, match="longer than"):
        isolated("re:compile", b"x", seconds=0.0)
    noise = SVG.format(
        '<filter id="f"><feTurbulence baseFrequency=".5" numOctaves="9000"/></filter>'
        '<rect width="99" height="99" filter="url(#f)"/>'
    )
    with pytest.raises(IsolatedError, match="longer than"):
        isolated("zsbir.data.strokes:rasterise_svg", noise.encode(), seconds=0.5, size=2000)
    assert time.perf_counter() - began < 10
    assert isolated("zsbir.data.strokes:rasterise_svg", SVG.format(LINE).encode(), size=32).size == (32, 32)


def crash(data):
    os.abort()


def test_a_child_that_ends_is_said():
    with pytest.raises(IsolatedError, match="ended the process"):
        isolated(f"{__name__}:crash", b"")


def test_many_threads(tmp_path):
    record, done = write(tmp_path, LINE), []
    threads = [threading.Thread(target=lambda: done.append(load_drawing(record).tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8
    assert len(set(done)) == 1


def _in_a_daemon(record, queue):
    queue.put(load_drawing(record).size)


def test_inside_a_daemonic_forked_process(tmp_path):
    record = write(tmp_path, LINE)
    load_drawing(record)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_in_a_daemon, args=(record, queue), daemon=True)
    process.start()
    assert queue.get(timeout=60) == (256, 256)
    process.join()
    assert load_drawing(record).size == (256, 256)


def test_a_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"from zsbir.data.images import load_image\nprint(load_image({write(tmp_path, LINE)!r}).size)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("(256, 256)\n", "")
