"""The demo's server ends with the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SERVER = f"""#!{sys.executable}
import http.server, os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # `serve` reads its keys again
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
open(os.environ["PID_FILE"], "w").write(str(os.getpid()))
http.server.HTTPServer(("127.0.0.1", port), Ready).serve_forever()
"""
DEMO = """
import sys, time
from pathlib import Path
from neurorit.cli import end_on_signals
from neurorit.pipelines.demo.serving import served
end_on_signals()
folder = Path(sys.argv[1])
sys.executable = str(folder / "server")
with served(folder, folder, folder / "log") as url:
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_ends_its_server(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "server").write_text(SERVER)
    (tmp_path / "server").chmod(0o755)
    demo = subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path)],
        env={**os.environ, "PID_FILE": str(tmp_path / "pid")},
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    assert demo.stdout is not None and demo.stdout.readline() == "up\n"
    os.killpg(demo.pid, number) if number == signal.SIGHUP else demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == 128 + number
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
