"""A stand-in for Hugging Face's hub: the few routes that fetching and pushing a model take.

Files are in memory, by repository and commit. There is no large-file storage: all are "regular".
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit


class HubServer:
    """The server, at `url`.

    Attributes:
        repositories: by name, the files of each commit, by name.
        branches: by (repository, branch) the commit.
        requests: method and path of each request.
        tokens: what the requests were authorized with.
    """

    def __init__(self, token: str):
        self.token = token
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def commit(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add files to a branch and return the commit."""
        commits = self.repositories.setdefault(repository, {})
        before = commits.get(self.branches.get((repository, branch), ""), {})
        name = hashlib.sha1(repr((len(commits), sorted(files))).encode()).hexdigest()
        commits[name] = before | files
        self.branches[repository, branch] = name
        return name

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, data: object, status: int = 200, **headers: str) -> None:
        self._answer(status, json.dumps(data).encode(), Content_Type="application/json", **headers)

    def _commit_of(self, repository: str, revision: str) -> str | None:
        commits = self.hub.repositories.get(repository, {})
        return revision if revision in commits else self.hub.branches.get((repository, revision))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+?))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or file
        repository = match[1] if match else ""
        revision = (match[2] if file else match[3] or "main") if match else ""
        if repository not in self.hub.repositories:
            return self._json({"error": "Repository not found"}, 404,
                              X_Error_Code="RepoNotFound")  # fmt: skip
        commit = self._commit_of(repository, revision)
        if commit is None:
            return self._json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        files = self.hub.repositories[repository][commit]
        if file:
            data = files.get(match[3])
            if data is None:
                return self._json({}, 404, X_Error_Code="EntryNotFound")
            return self._answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"',
                                X_Repo_Commit=commit)  # fmt: skip
        if match[2] == "tree":
            return self._json([
                {"type": "file", "path": name, "size": len(data),
                 "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ])  # fmt: skip
        self._json({"id": repository, "modelId": repository, "sha": commit, "private": False,
                    "downloads": 0, "likes": 0, "tags": [],
                    "siblings": [{"rfilename": name} for name in files]})  # fmt: skip

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            data = json.loads(body)
            name = f"{data.get('organization') or 'user'}/{data['name']}"
            if name in self.hub.repositories:
                return self._json({"error": "You already created this model repo",
                                   "url": f"{self.hub.url}/{name}"}, 409)  # fmt: skip
            self.hub.commit(name, {})
            return self._json({"url": f"{self.hub.url}/{name}", "name": name})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path)
        if match is None:
            return self._json({"error": f"no route {path}"}, 404)
        repository, action, branch = match.groups()
        if action == "branch":
            self.hub.branches[repository, branch] = self.hub.branches[repository, "main"]
            return self._json({})
        if action == "preupload":
            return self._json({"files": [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]})  # fmt: skip
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines if line["key"] == "file"
        }  # fmt: skip
        commit = self.hub.commit(repository, files, branch)
        self._json({"success": True, "commitOid": commit, "pullRequestUrl": None,
                    "commitUrl": f"{self.hub.url}/{repository}/commit/{commit}"})  # fmt: skip
