"""A model hub on this machine: the few addresses that downloading a repository asks for, served from a folder.

It speaks the hub's real protocol over HTTP (set HF_ENDPOINT to `url`), so the real client downloads from it.
`cut` names files whose first answer breaks off in the middle, after which every answer is a 503 until `down` is
False again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """`repos` maps "owner/name" to a folder; `gated` names repositories that ask for consent."""

    def __init__(self, repos: dict[str, Path], gated: tuple[str, ...] = ()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.gated = repos, gated
        self.cut: set[str] = set()
        self.down = False
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range header

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> list[str]:
        """The files whose content was asked for, in order."""
        paths = [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in paths]


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if self.server.down:
            return self.refuse(503, "")
        repo = next((name for name in self.server.repos if f"/{name}/" in path + "/"), None)
        if repo is None:
            return self.refuse(404, "RepoNotFound")
        if repo in self.server.gated:
            return self.refuse(403, "GatedRepo")
        folder = self.server.repos[repo]
        if path.startswith(f"/api/models/{repo}/tree/"):
            return self.send_json([self.entry(folder, file) for file in self.files(folder)])
        if path.startswith(f"/api/models/{repo}"):
            if "/revision/" in path and path.rsplit("/", 1)[1] not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            entries = [self.entry(folder, file) for file in self.files(folder)]
            siblings = [{"rfilename": entry["path"], "size": entry["size"]} for entry in entries]
            return self.send_json({"id": repo, "sha": COMMIT, "siblings": siblings})
        name = path.split(f"/{repo}/resolve/")[1].split("/", 1)[1]
        if not (folder / name).is_file():
            return self.refuse(404, "EntryNotFound")
        return self.send_file(folder / name, name, with_body)

    @staticmethod
    def files(folder: Path) -> list[Path]:
        return sorted(path for path in folder.rglob("*") if path.is_file())

    @staticmethod
    def entry(folder: Path, file: Path) -> dict:
        content = file.read_bytes()
        entry = {
            "type": "file",
            "path": file.relative_to(folder).as_posix(),
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }
        if file.suffix == ".safetensors":
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, path: Path, name: str, with_body: bool) -> None:
        content = path.read_bytes()
        # The hub names large files by their sha256 and small ones by their git hash.
        digest = hashlib.sha256(content) if path.suffix == ".safetensors" else hashlib.sha1(content)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest.hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not with_body:
            return
        if name in self.server.cut:
            self.server.cut.discard(name)
            self.server.down = True
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(content[start:])


@contextmanager
def fake_hub(repos: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[FakeHub]:
    hub = FakeHub(repos, gated)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
