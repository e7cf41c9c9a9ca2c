"""A real ComfyUI server in a temporary base directory that holds this pack, and the tests' own nodes."""

import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from support.paths import ROOT

PACKS = {"asyncdiff": ROOT, "stand_in_nodes": ROOT / "tests" / "support" / "stand_in_nodes"}
FLAGS = ("--cpu", "--use-pytorch-cross-attention", "--disable-auto-launch", "--disable-api-nodes")


class RequestError(Exception):
    """The server's answer was an HTTP error; `status` and the decoded `body` say which."""

    def __init__(self, status, body):
        super().__init__(f"HTTP {status}: {body if isinstance(body, str) else json.dumps(body, indent=1)}")
        self.status = status
        self.body = body


class ServerEndedError(Exception):
    """The server process ended; the message is the end of its log."""

    def missing_import(self):
        """The log's last line about a module that the host could not import, or nothing."""
        lines = [
            line
            for line in str(self).splitlines()
            if line.startswith(("ModuleNotFoundError:", "ImportError:", "OSError:"))
        ]
        return lines[-1] if lines else ""


class ExecutionError(Exception):
    """A prompt ended with an error or an interruption; `entry` is its place in the history."""

    def __init__(self, entry):
        super().__init__(json.dumps(entry["status"], indent=1))
        self.entry = entry


class ComfyServer:
    """One server process; its folders, its log, and its HTTP interface as methods."""

    def __init__(self, host, base):
        self.host, self.base = Path(host), Path(base)
        self.models, self.input, self.output = (self.base / name for name in ("models", "input", "output"))
        self.log_file = self.base / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        for folder in (self.models, self.input, self.output, self.base / "custom_nodes", self.base / "user"):
            folder.mkdir(parents=True, exist_ok=True)
        for name, folder in PACKS.items():
            (self.base / "custom_nodes" / name).symlink_to(folder, target_is_directory=True)
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                self._command(), cwd=self.base, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()

    def log(self):
        """Everything the server has printed, without terminal colours."""
        return re.sub(r"\x1b\[\d+m", "", self.log_file.read_text(encoding="utf-8", errors="replace"))

    def object_info(self, node=""):
        """The description of every node, or of the one named."""
        info = self.get(f"/object_info/{node}" if node else "/object_info")
        return info[node] if node else info

    def settings(self, **values):
        """Settings of the front end, e.g. `settings(**{"Comfy.VueNodes.Enabled": True})`."""
        self.post("/settings", values)

    def queue(self, prompt):
        """The prompt's id; `RequestError` with the server's reasons where it does not validate."""
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    def wait(self, prompt_id, timeout=600):
        """The prompt's history entry, whether it ended well, failed or was interrupted."""
        return self._poll(lambda: self.get(f"/history/{prompt_id}").get(prompt_id), timeout, f"prompt {prompt_id}")

    def run(self, prompt, timeout=600):
        """Queues, waits, and returns the history entry; `ExecutionError` unless it succeeded."""
        entry = self.wait(self.queue(prompt), timeout)
        if entry["status"]["status_str"] != "success":
            raise ExecutionError(entry)
        return entry

    def image(self, ref):
        """The picture behind a reference `{"filename", "subfolder", "type"}` of a history entry."""
        from PIL import Image

        return Image.open(io.BytesIO(self.fetch(f"/view?{urllib.parse.urlencode(ref)}")))

    def images(self, entry, node=None):
        """Every picture an entry shows, or those of one node, in the order of its outputs."""
        outputs = entry["outputs"] if node is None else {node: entry["outputs"].get(str(node), {})}
        return [self.image(ref) for output in outputs.values() for ref in output.get("images", [])]

    def interrupt(self):
        self.post("/interrupt", {})

    def running(self):
        """Ids of the prompts under way."""
        return [item[1] for item in self.get("/queue")["queue_running"]]

    def get(self, path):
        return json.loads(self.fetch(path))

    def post(self, path, body):
        answer = self.fetch(path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def fetch(self, path, data=None, timeout=60):
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RequestError(error.code, decoded(error.read())) from None

    def _command(self):
        known = (self.host / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        flags = [flag for flag in FLAGS if f'"{flag}"' in known]
        flags += ["--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        if '"--database-url"' in known:
            flags += ["--database-url", "sqlite:///:memory:"]
        launcher = Path(__file__).with_name("launch.py")
        return [sys.executable, "-u", str(launcher), str(self.host / "main.py"), *flags]

    def _wait_until_ready(self):
        self._poll(self._answers, 600, "the server's first answer")

    def _answers(self):
        try:
            return self.fetch("/system_stats", timeout=10)
        except (urllib.error.URLError, OSError):
            return None

    def _poll(self, question, timeout, what):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServerEndedError(self.log()[-4000:])
            if answer := question():
                return answer
            time.sleep(0.1)
        raise TimeoutError(f"{what} took longer than {timeout} s; the log ends with\n{self.log()[-2000:]}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def decoded(body):
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
