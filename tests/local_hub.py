"""
A small Hub on 127.0.0.1 for the real huggingface_hub client: models and Spaces (whose names begin with `spaces/`), branches,
commits, files large and small, tokens.
Everything is in memory; a commit is a table of all its files.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import ModelCard

LARGE = 10_000  # bytes, from which on a file goes the way of large files
NAME = "((?:spaces/)?[^/]+/[^/]+)"  # in addresses of the interface models stand in a folder of their own
IN_API = f"/api/(?:models/|(?=spaces/)){NAME}"
OWNERS = {"writer": "me", "stranger": "you"}  # by token


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # files by path, by commit
    messages: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch, files, message):
        sha = hashlib.sha1(repr((len(self.commits), branch)).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def sha(self, revision):
        revision = revision or "main"
        return self.branches.get(revision, revision if revision in self.commits else None)

    def files(self, revision="main"):
        return self.commits[self.sha(revision)]


class LocalHub(ThreadingHTTPServer):
    """Serves while it is entered as a context."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.refused_messages: set[str] = set()
        self.unknown_requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def environment(self, home: Path, token: str | None) -> dict[str, str]:
        """What a process needs that is to find this Hub; they are read when its client is imported."""
        found = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        found |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
        return found | ({} if token is None else {"HF_TOKEN": token})


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/whoami-v2", "who"),
        ("POST", IN_API + r"/preupload/([^/]+)", "preupload"),
        ("POST", IN_API + r"/commit/([^/]+)", "commit"),
        ("POST", IN_API + r"/branch/([^/]+)", "branch"),
        ("GET", IN_API + r"/tree/([^/]+)(?:/(.+))?", "tree"),
        ("GET", IN_API + r"(?:/revision/([^/]+))?", "information"),
        ("POST", f"/{NAME}" + r"\.git/info/lfs/objects/batch", "large_batch"),
        ("PUT", r"/large/(\w+)", "large_file"),
        ("GET", f"/{NAME}" + r"/resolve/([^/]+)/(.+)", "file"),
    )

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self.chunks()
        address = urlsplit(self.path)
        owner = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if owner and owner not in OWNERS:
            return self.send(401, {}, {"X-Error-Message": "Invalid credentials in Authorization header"})
        self.owner = OWNERS.get(owner)
        for method, pattern, name in self.ROUTES:
            found = re.fullmatch(pattern, address.path)
            if found and method == ("GET" if self.command == "HEAD" else self.command):
                return getattr(self, name)(*(None if part is None else unquote(part) for part in found.groups()))
        self.server.unknown_requests.append(f"{self.command} {self.path}")
        return self.send(501, {"error": f"{self.command} {self.path} is not known here"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def chunks(self):
        """The body of a request that is sent piece by piece."""
        pieces = []
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        return b"".join(pieces)

    def send(self, status, content, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        """Says nothing."""

    def repository(self, name, writes=False):
        """The repository where the token may see it, else None, and the refusal is sent."""
        found = self.server.repositories.get(name)
        is_own = self.owner == name.removeprefix("spaces/").split("/")[0]
        if found is None or (found.private and not is_own):
            self.send(401 if self.owner is None else 404, {}, {"X-Error-Code": "RepoNotFound"})
        elif writes and self.owner is None:
            self.send(401, {}, {"X-Error-Message": "Invalid username or password."})
        elif writes and not is_own:
            self.send(403, {"error": "not your repository"})
        else:
            return found
        return None

    def create(self):
        asked = json.loads(self.body)
        owner = asked.get("organization") or self.owner
        if self.owner is None:
            return self.send(401, {}, {"X-Error-Message": "Invalid username or password."})
        if owner != self.owner:
            return self.send(403, {"error": f"no rights in the namespace {owner}"})
        name = f"{owner}/{asked['name']}"
        if asked.get("type") == "space":
            if asked.get("sdk") != "gradio":
                return self.send(400, {"error": "a Space needs an sdk"})
            name = f"spaces/{name}"
        is_new = name not in self.server.repositories
        if is_new:
            repository = self.server.repositories[name] = Repository(private=asked.get("visibility") == "private")
            repository.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return self.send(200 if is_new else 409, {"url": f"{self.server.url}/{name}", "id": name, "name": name})

    def validate(self):
        card = ModelCard(json.loads(self.body)["content"])
        self.send(200, {"errors": [], "warnings": [], "found": card.data.to_dict()})

    def who(self):
        if self.owner is None:
            return self.send(401, {})
        return self.send(200, {"type": "user", "name": self.owner, "orgs": []})

    def branch(self, name, branch):
        if repository := self.repository(name, writes=True):
            is_new = branch not in repository.branches
            repository.branches.setdefault(branch, repository.branches["main"])
            self.send(200 if is_new else 409, {})

    def preupload(self, name, revision):
        if self.repository(name, writes=True):
            sizes = {asked["path"]: asked["size"] for asked in json.loads(self.body)["files"]}
            modes = {path: "lfs" if size >= LARGE else "regular" for path, size in sizes.items()}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self.send(200, {"files": files})

    def large_batch(self, name):
        if self.repository(name, writes=True):
            objects = json.loads(self.body)["objects"]
            for entry in objects:
                entry["actions"] = {"upload": {"href": f"{self.server.url}/large/{entry['oid']}"}}
            self.send(200, {"transfer": "basic", "objects": objects})

    def large_file(self, oid):
        is_right = hashlib.sha256(self.body).hexdigest() == oid
        self.server.large_files[oid] = self.body
        self.send(200 if is_right else 400, {})

    def commit(self, name, revision):
        repository = self.repository(name, writes=True)
        if repository is None:
            return
        if revision not in repository.branches:
            self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
            return
        files = dict(repository.files(revision))
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large_files[value["oid"]]
            else:
                del files[value["path"]]
        if message in self.server.refused_messages:
            self.send(413, {"error": message})
            return
        sha = repository.commit(revision, files, message)
        self.send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def at(self, name, revision):
        """Repository and commit; None where there is none, and that is sent."""
        repository = self.repository(name)
        sha = repository and repository.sha(revision)
        if repository is not None and sha is None:
            self.send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        return None if sha is None else (repository, sha)

    def information(self, name, revision):
        if found := self.at(name, revision):
            repository, sha = found
            files = repository.commits[sha]
            card = ModelCard(files["README.md"].decode()).data if "README.md" in files else None
            information = {
                "id": name.removeprefix("spaces/"),
                "sha": sha,
                "private": repository.private,
                "tags": (card and card.tags) or [],
            }
            self.send(200, information | {"siblings": [{"rfilename": path} for path in files]})

    def tree(self, name, revision, folder):
        if found := self.at(name, revision):
            files = found[0].commits[found[1]].items()
            inside = [(path, content) for path, content in files if path.startswith(f"{folder}/" if folder else "")]
            if inside:
                self.send(200, [{"type": "file", "path": p, "size": len(c), "oid": etag(c)} for p, c in inside])
            else:
                self.send(404, {}, {"X-Error-Code": "EntryNotFound"})

    def file(self, name, revision, path):
        if found := self.at(name, revision):
            content = found[0].commits[found[1]].get(path)
            commit = {"X-Repo-Commit": found[1]}
            if content is None:
                self.send(404, {}, commit | {"X-Error-Code": "EntryNotFound"})
            else:
                self.send(200, content, commit | {"ETag": f'"{etag(content)}"'})


def etag(content):
    return hashlib.sha1(content).hexdigest()
