"""Uploads to a model hub: a small one that speaks its HTTP, one that refuses, and none."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from wdl.cli import main
from wdl.training.hub import contents

TOKEN = "hf_verysecret0123"
PUSH = """
import sys
from pathlib import Path
from wdl.errors import UserError
from wdl.training.hub import push
try:
    print(push(Path("model"), "me/tiny", private=sys.argv[1] == "private"))
except UserError as error:
    sys.exit(str(error))
"""


@contextmanager
def hub(refuses: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Its address, and what was asked of it by path; small files travel within the commit."""
    asked: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = self.headers["Content-Length"]
            body = self.rfile.read(int(length)).decode() if length else self._chunks()
            asked[self.path] = body
            asked["token"] = self.headers["Authorization"]
            said: dict[str, Any] = {"url": f"http://{self.headers['Host']}/me/tiny"}
            if self.path.endswith("/preupload/main"):
                said = {"files": [{**f, "uploadMode": "regular"} for f in _files(body)]}
            elif self.path.endswith("/commit/main"):
                said = {"success": True, "commitOid": "abc", "commitUrl": f"{said['url']}/commit/a"}
            elif self.path.endswith("validate-yaml"):
                said = {"errors": [], "warnings": []}
            self._say(said)

        def do_GET(self) -> None:
            self._say({"id": "me/tiny", "sha": "abc", "siblings": []})

        def _chunks(self) -> str:
            text = b""
            while size := int(self.rfile.readline(), 16):
                text += self.rfile.read(size)
                self.rfile.readline()
            return text.decode()

        def _say(self, said: dict[str, Any]) -> None:
            payload = json.dumps(said).encode()
            self.send_response(401 if refuses else 200)
            if refuses:
                self.send_header("X-Error-Message", f"bad token {TOKEN}")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def _files(body: str) -> list[dict[str, Any]]:
    return [{"path": one["path"], "shouldIgnore": False} for one in json.loads(body)["files"]]


def push(address: str, visibility: str) -> subprocess.CompletedProcess[str]:
    os.makedirs("model/adapter", exist_ok=True)
    for name in ("README.md", "model.safetensors", "adapter/a.json"):
        Path("model", name).write_text(f"of {name}")
    own = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    command = [sys.executable, "-c", PUSH, visibility]
    return subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)


@pytest.mark.parametrize("visibility", ["private", "public"])
def test_a_folder_becomes_one_commit_of_a_model(visibility: str) -> None:
    with hub() as (address, asked):
        child = push(address, visibility)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == f"{address}/me/tiny"
    made = json.loads(asked["/api/repos/create"])
    assert made["visibility"] == visibility
    lines = [json.loads(x) for x in asked["/api/models/me/tiny/commit/main"].splitlines()]
    sent = {x["value"]["path"]: x["value"]["content"] for x in lines if x["key"] == "file"}
    assert {name: base64.b64decode(text).decode() for name, text in sent.items()} == {
        name: f"of {name}" for name in ("README.md", "model.safetensors", "adapter/a.json")
    }
    assert asked["token"] == f"Bearer {TOKEN}"
    assert TOKEN not in child.stdout + child.stderr


def test_a_hub_that_refuses_is_one_line_without_the_token() -> None:
    with hub(refuses=True) as (address, _):
        child = push(address, "private")
    assert child.returncode and child.stderr.startswith("push_to_hub: me/tiny: ")
    assert "the model stays in model: hf upload me/tiny model" in child.stderr
    assert TOKEN not in child.stderr and len(child.stderr.splitlines()) == 1
    nowhere = push("http://127.0.0.1:9", "private")
    assert "Connection refused" in nowhere.stderr and len(nowhere.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--push_to_hub", "tiny"], "push_to_hub: tiny: give ORGANISATION/NAME"),
        (["--push_to_hub", "a/b/c"], "push_to_hub: Repo id must be in the form"),
        (["--push_to_hub", "me/a b"], "push_to_hub: Repo id must use alphanumeric"),
        (["--dry_run", "true"], "dry_run: is of an upload; give push_to_hub too"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_read(
    options: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "--ckpt", "missing.ckpt", "--out", "out", *options])
    assert fault in capsys.readouterr().err


def test_what_would_be_uploaded_is_listed_with_sizes(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "a.bin").write_bytes(bytes(2_500_000))
    (tmp_path / "b.json").write_text("{}")
    lines = [line.split() for line in contents(tmp_path)]
    assert lines == [
        ["2.500", "MB", "adapter/a.bin"],
        ["0.000", "MB", "b.json"],
        ["2.500", "MB", "in", "2", "files"],
    ]
