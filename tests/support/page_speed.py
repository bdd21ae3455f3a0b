"""Time how long a browser takes to draw the report and the plots of the pipeline's last run.

`python tests/support/page_speed.py` writes docs/figures/report.json. A time is from the start of the navigation until
all pictures are there, the median of RUNS.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from chromium import PROGRAM
from imports import ROOT

RUNS = 5
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
]  # fmt: skip
REPORTER = """<script>addEventListener("load", async () => {
  while (!(READY)) await new Promise(resume => setTimeout(resume, 5));
  await new Promise(requestAnimationFrame);
  fetch("/drawn?ms=" + performance.now());
});</script>"""


def drawn_s(page: str, ready: str) -> float:
    """Seconds until the expression `ready` of JavaScript is true in a page of HTML, in a new browser."""
    text, drawn, found = page.replace("<head>", "<head>" + REPORTER.replace("READY", ready), 1), threading.Event(), []

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlparse(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if asked.path == "/":
                self.wfile.write(text.encode())
            elif asked.path == "/drawn":
                found.append(float(parse_qs(asked.query)["ms"][0]))
                drawn.set()

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile:
        address = f"http://127.0.0.1:{server.server_port}/"
        browser = subprocess.Popen([PROGRAM, *FLAGS, f"--user-data-dir={profile}", address], stderr=subprocess.DEVNULL)
        try:
            assert drawn.wait(60), f"{ready} did not become true"
        finally:
            browser.kill()
            browser.wait()
            server.shutdown()
    return found[0] / 1000


def main() -> None:
    """Measure both pages and write the figures."""
    import torch

    from nanogpt.hardware.auto import describe_machine

    report = (ROOT / "metrics" / "report.html").read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dvc", "plots", "show", "--out", folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        plots = Path(folder, "index.html").read_text("utf-8")
    charts = (ROOT / "dvc.yaml").read_text().partition("\nplots:\n")[2].count("\n  - ") + 1
    figures = {
        "machine": ", ".join(f"{key} {value}" for key, value in describe_machine(torch.device("cpu")).items()),
        "command": "python tests/support/page_speed.py",
        "report_mib": len(report.encode()) / 2**20,
        "report_drawn_s": _median(report, "[...document.images].every(image => image.complete)"),
        "plots_drawn_s": _median(plots, f"document.querySelectorAll('svg.marks').length == {charts}"),
    }
    (ROOT / "docs/figures/report.json").write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))


def _median(page: str, ready: str) -> float:
    return round(statistics.median(drawn_s(page, ready) for _ in range(RUNS)), 3)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
