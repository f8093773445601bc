"""The live page in a real Chromium: its pictures for the documentation, and what it costs.

    python -m benchmarks.web_page --pictures docs/images     a shop on a bad night, light and dark, 5 and 500 breakers
    python -m benchmarks.web_page --measure                  500 breakers in each of 24 processes, all of them busy

Needs chromium and chromium-driver (Debian), and pillow for the pictures.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.web_scene import begin
from grpc_breaker._web.calls import Calls
from grpc_breaker._web.server import PageServer
from tests.support.chromium import Chromium

SECONDS = 30
FRAMES = """
  window.frames_ = []; window.long_ = [];
  const observer = new PerformanceObserver((list) => list.getEntries().forEach((it) => window.long_.push(it.duration)));
  observer.observe({type: 'longtask'});
  let last = performance.now();
  const next = (now) => { window.frames_.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
"""


def save(browser: Chromium, path: Path) -> None:
    """Save what is seen, with 128 colours."""
    from PIL import Image  # noqa: PLC0415 - only pictures need it

    picture = Image.open(io.BytesIO(browser.picture())).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def pictures(folder: Path) -> None:
    """Take all pictures."""
    for breakers, processes in ((5, 3), (500, 24)):
        fleet, scene = begin(breakers, processes)
        server = PageServer(0, fleet, Calls(fleet, scene.stub), "picture")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Chromium() as browser:
            for dark in (False, True):
                name = f"web-{breakers}-{'dark' if dark else 'light'}.png"
                browser.look(dark=dark, height=560 if breakers == 5 else 900, reduced_motion=True)
                browser.open(server.address)
                browser.wait(f"document.querySelectorAll('#rows .row').length === {breakers}")
                browser.wait("document.querySelector('#rows .c-strip canvas').getAttribute('aria-label')")
                save(browser, folder / name)
            browser.look(height=900, reduced_motion=True)
            browser.open(server.address)
            browser.wait("document.querySelector('#rows .row')")
            if breakers == 500:
                browser.run("document.querySelector('#rows .row').click()")
                browser.wait("document.querySelector('#pane table')")
                save(browser, folder / "web-details.png")
            else:
                browser.look(width=400, height=860, reduced_motion=True)
                save(browser, folder / "web-narrow.png")
                browser.look(height=560, reduced_motion=True)
                browser.run("document.querySelectorAll('#rows .row')[0].focus()")
                browser.press("o")
                browser.press("server is being replaced, INC-2290")
                save(browser, folder / "web-hold.png")
        fleet.close()
        server.shutdown()
        server.server_close()


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Megabytes that a process has."""
    (line,) = (it for it in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines() if it.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


def measure() -> None:
    """Measure the page with 24 busy processes of 500 breakers each."""
    load = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.web_load", "24", "500"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert load.stdout is not None
    targets = load.stdout.readline().split()
    options = [f"--target={it}" for it in targets]
    page = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.web_load", "page", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert page.stdout is not None
    address = page.stdout.readline().strip()
    try:
        time.sleep(5)
        for readers in (0, 1):
            if readers == 0:
                report("no page is open", page.pid, load.pid)
                continue
            with Chromium() as browser:
                browser.look()
                browser.open(address)
                browser.wait("document.querySelector('#rows .row').classList.contains('open')")
                print(f"500 rows, sorted, {browser.run('return performance.now()'):.0f} ms after the page was opened")
                time.sleep(3)
                browser.run(FRAMES)
                report("one page is open", page.pid, load.pid)
                frames = sorted(browser.run("return window.frames_"))
                long = browser.run("return window.long_")
                median, late, last = (frames[int(share * (len(frames) - 1))] for share in (0.5, 0.99, 1))
                print(f"{len(frames)} frames: median {median:.1f} ms, p99 {late:.1f} ms, longest {last:.1f} ms")
                print(f"tasks over 50 ms: {len(long)}, the longest {max(long, default=0):.0f} ms")
                heap = browser.run("return performance.memory.usedJSHeapSize") / 1e6
                print(f"heap of the page {heap:.0f} MB")
    finally:
        for process in (page, load):
            process.terminate()
            process.wait()


def report(what: str, page: int, load: int) -> None:
    """Say what the server and its processes cost for a while."""
    before = [cpu(page), cpu(load), time.monotonic()]
    time.sleep(SECONDS)
    passed = time.monotonic() - before[2]
    of_page, of_load = (100 * it / passed for it in (cpu(page) - before[0], cpu(load) - before[1]))
    print(f"{what}: its server uses {of_page:.0f} % of a core and {memory(page):.0f} MB; all stand-ins {of_load:.0f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    parser.add_argument("--measure", action="store_true")
    chosen = parser.parse_args()
    if chosen.pictures:
        pictures(chosen.pictures)
    if chosen.measure:
        measure()
