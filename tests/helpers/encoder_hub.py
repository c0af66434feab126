"""A model hub on this machine with revisions and pull requests: what choosing a safetensors conversion takes.

(helpers.fake_hub has one commit a repository, and interrupted downloads.)
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class EncoderHub:
    """`add` puts a folder up as a repository's revision; `requests` lists the paths that were asked for."""

    url: str = ""
    revisions: dict[tuple[str, str], Path] = field(default_factory=dict)
    commits: dict[tuple[str, str], str] = field(default_factory=dict)
    discussions: dict[str, list[dict]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    def add(self, repo: str, folder: Path, *, revision: str = "main") -> str:
        """Returns the commit."""
        commit = hashlib.sha1(f"{repo} {revision} {folder}".encode()).hexdigest()
        for name in (revision, commit):
            self.revisions[repo, name], self.commits[repo, name] = folder, commit
        return commit

    def propose(self, repo: str, number: int, folder: Path, *, author: str, status: str = "open") -> str:
        """A pull request with the files of `folder`; returns its commit."""
        request = {"num": number, "title": "Adding `safetensors` variant", "status": status, "isPullRequest": True}
        request |= {"author": {"name": author}, "createdAt": "2023-01-01T00:00:00.000Z"}
        request |= {"repo": {"name": repo, "type": "model"}}
        self.discussions.setdefault(repo, []).append(request)
        return self.add(repo, folder, revision=f"refs/pr/{number}")


@contextmanager
def serving() -> Iterator[EncoderHub]:
    """An EncoderHub that answers at `hub.url` until the block ends."""
    hub = EncoderHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: EncoderHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(path)
            if path.startswith("api/models/"):
                self.api(path.removeprefix("api/models/").split("/"))
            elif "/resolve/" in path:
                self.file(*path.split("/resolve/", 1))
            else:
                self.refuse("EntryNotFound")

        do_HEAD = do_GET

        def api(self, parts: list[str]) -> None:
            repo, kind, revision = "/".join(parts[:2]), "".join(parts[2:3]), "/".join(parts[3:]) or "main"
            if repo in hub.gated:
                self.refuse("GatedRepo", 403)
            elif kind == "discussions":
                found = hub.discussions.get(repo, [])
                self.answer({"discussions": found, "count": len(found), "start": 0})
            elif not any(name == repo for name, _ in hub.revisions):
                self.refuse("RepoNotFound")
            elif (repo, revision) not in hub.revisions:
                self.refuse("RevisionNotFound")
            else:
                files = [(p.name, p.read_bytes()) for p in hub.revisions[repo, revision].iterdir()]
                if kind == "tree":
                    oids = [(name, content, hashlib.sha1(content).hexdigest()) for name, content in files]
                    self.answer([{"type": "file", "path": n, "size": len(c), "oid": oid} for n, c, oid in oids])
                else:
                    siblings = [{"rfilename": name, "size": len(content)} for name, content in files]
                    self.answer({"id": repo, "sha": hub.commits[repo, revision], "siblings": siblings})

        def file(self, repo: str, rest: str) -> None:
            revision, _, name = rest.rpartition("/")
            folder = hub.revisions.get((repo, revision))
            if folder is None or not (folder / name).is_file():
                self.refuse("EntryNotFound" if folder else "RevisionNotFound")
                return
            content = (folder / name).read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            self.answer(content, {"ETag": f'"{tag}"', "X-Repo-Commit": hub.commits[repo, revision]})

        def refuse(self, code: str, status: int = 404) -> None:
            self.answer({"error": code}, {"X-Error-Code": code}, status)

        def answer(self, content: object, headers: dict[str, str] | None = None, status: int = 200) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    return Handler
