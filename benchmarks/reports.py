"""The reports of the demo and of a sweep over digits, and what they look like: python benchmarks/reports.py docs

Each is built as a user would, from runs in outputs/distill/ that are made where they are not there; Chromium then draws
it as wide as a desktop's window beside a phone's, into docs/report.png and docs/report_sweep.png.
"""

import io
import pathlib
import shutil
import subprocess
import sys
import tempfile

from PIL import Image

from kipx import artifacts, cli

HOME = pathlib.Path("outputs/distill")
DEMO, SWEEP = HOME / "demo", HOME / "digits_sweep"
SWEPT = ("-m", "kernel=fc", "kernel.depth=1,3", "optimizer.learning_rate=0.003,0.03", "logger.progress=false")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"),
    "--run-all-compositor-stages-before-draw",  # else parts of the picture stay blank
)
DESKTOP, PHONE, GAP, HEIGHT, COLORS = 900, 390, 30, 1400, 256
FRAMES = """<!doctype html><body style="margin: 0; display: flex; gap: {gap}px; background: #d9d9e0">
<iframe src="{page}" style="border: 0; width: {desktop}px; height: {height}px"></iframe>
<iframe src="{page}" style="border: 0; width: {phone}px; height: {height}px"></iframe>"""


def main(docs):
    if not (DEMO / "summary.json").is_file():
        kipx("distill", f"resume={DEMO}" if (DEMO / "config.yaml").is_file() else f"hydra.run.dir={DEMO}")
    if not (SWEEP / "multirun.yaml").is_file():
        kipx("distill", *SWEPT, f"hydra.sweep.dir={SWEEP}")
    for folder, name in ((DEMO, "report"), (SWEEP, "report_sweep")):
        kipx("report", f"run={folder}")
        artifacts.write(pathlib.Path(docs) / f"{name}.png", picture(folder / "report.html"))


def kipx(command, *arguments):
    print("kipx", command, *arguments, flush=True)
    if code := cli.run(command, list(arguments)):
        sys.exit(code)


def picture(page):
    """What a browser shows of a page, wide and narrow, as a PNG of few colours."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"reports: expected one of {', '.join(BROWSERS)} on the path, got none; install one")
    with tempfile.TemporaryDirectory() as folder:
        both, drawn = pathlib.Path(folder) / "both.html", pathlib.Path(folder) / "drawn.png"
        where = page.resolve().as_uri()
        both.write_text(FRAMES.format(page=where, desktop=DESKTOP, phone=PHONE, gap=GAP, height=HEIGHT))
        size = f"--window-size={DESKTOP + GAP + PHONE},{HEIGHT}"
        own = [f"--user-data-dir={folder}/own", size, f"--screenshot={drawn}", both.as_uri()]
        subprocess.run([browser, *FLAGS, *own], check=True, capture_output=True, timeout=300)
        buffer = io.BytesIO()
        fewer = Image.open(drawn).convert("RGB").quantize(COLORS, Image.Quantize.MEDIANCUT, dither=0)
        fewer.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main(sys.argv[1])
