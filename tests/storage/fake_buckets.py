"""Buckets in the memory of this process, served on loopback as Google Cloud Storage's JSON API serves them.

Only what our libraries ask of it: metadata, media with ranges, pages of a list, uploads (at once, in two parts, in
chunks), deletes, rewrites, and preconditions on generations, which tensorstore lives by. What is not known is answered
with 501 and noted in ``unexpected``: a test must not pass because a request was misunderstood.
"""

import base64
import hashlib
import itertools
import json
import re
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 7
"""Items of a page where a client takes any number: few, so that clients must ask for the next."""


class Stored(NamedTuple):
    """An object: its bytes, and the number that every write of it makes anew."""

    content: bytes
    generation: int


class RefusedError(Exception):
    """A status that is no success."""


class FakeBuckets:
    """The server. Buckets are dicts from names to objects.

    Attributes:
        buckets: by name; a test makes its own.
        log: method and path of each request, oldest first.
        unexpected: the requests that no client of ours should make.
        denied: substrings of names that may not be written, as a bucket's policy would say it.
    """

    def __init__(self):
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.log: list[str] = []
        self.unexpected: list[str] = []
        self.denied: set[str] = set()
        self.uploads: dict[str, tuple[str, str, dict, bytearray]] = {}
        self.lock = threading.Lock()
        self.generations = itertools.count(1_700_000_000_000_000)
        handler = type("Handler", (Handler,), {"fake": self})
        self.server = Server(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def put(self, bucket: str, name: str, content: bytes, query: dict) -> Stored:
        """Writes an object whole, as the real one does: no reader ever sees a part of it."""
        if any(part in name for part in self.denied):
            raise RefusedError(403)
        with self.lock:
            self.check_generation(self.objects(bucket).get(name), query)
            stored = self.objects(bucket)[name] = Stored(bytes(content), next(self.generations))
        return stored

    def objects(self, bucket: str) -> dict[str, Stored]:
        if bucket not in self.buckets:
            raise RefusedError(404)
        return self.buckets[bucket]

    def find(self, bucket: str, name: str) -> Stored:
        if name not in self.objects(bucket):
            raise RefusedError(404)
        return self.objects(bucket)[name]

    @staticmethod
    def check_generation(stored: Stored | None, query: dict, not_modified: int = 412) -> None:
        generation = str(stored.generation if stored else 0)
        if query.get("ifGenerationMatch", generation) != generation:
            raise RefusedError(412)
        if query.get("ifGenerationNotMatch") == generation:
            raise RefusedError(not_modified)


class Server(ThreadingHTTPServer):
    """Passes over clients that leave before their answer: gcsfs asks two things at once and takes the first."""

    daemon_threads = True
    # Of connections that wait; with the usual five a client that opens many waits for whole seconds.
    request_queue_size = 256

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    fake: FakeBuckets
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *message):
        """Says nothing; ``log`` holds it."""

    def answer(self):
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.fake.log.append(f"{self.command} {unquote(parts.path)}")
        for (method, pattern), respond in ROUTES.items():
            found = re.fullmatch(pattern, parts.path)
            if found and self.command == method:
                try:
                    respond(self, *map(unquote, found.groups()), query=query, body=body)
                except RefusedError as refusal:
                    self.reply({"error": {"code": refusal.args[0], "message": "refused"}}, refusal.args[0])
                except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                    self.fake.unexpected.append(f"{self.command} {self.path}: {error!r}")
                    self.reply({"error": {"code": 400, "message": "not understood"}}, 400)
                return
        self.fake.unexpected.append(f"{self.command} {self.path}")
        self.reply({"error": {"code": 501, "message": "not of this fake"}}, 501)

    def reply(self, content=b"", status=200, headers=None):
        if isinstance(content, dict):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(content)

    def describe(self, bucket, name, stored):
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(stored.content)),
            "generation": str(stored.generation),
            "metageneration": "1",
            "contentType": "application/octet-stream",
            "md5Hash": base64.b64encode(hashlib.md5(stored.content).digest()).decode(),
            "timeCreated": moment(stored),
            "updated": moment(stored),
        }

    def get_bucket(self, bucket, query, body):
        self.fake.objects(bucket)
        self.reply({"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "NOWHERE"})

    def list(self, bucket, query, body):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start = query.get("pageToken", query.get("startOffset", ""))
        found: dict[str, bool] = {}
        for name in sorted(self.fake.objects(bucket)):
            if name.startswith(prefix) and name < query.get("endOffset", "\U0010ffff"):
                rest = name[len(prefix) :]
                cut = rest.find(delimiter) if delimiter else -1
                found[name if cut < 0 else prefix + rest[: cut + len(delimiter)]] = cut >= 0
        shown = [name for name in found if name >= start]
        count = min(int(query.get("maxResults", PAGE)), PAGE)
        page = shown[:count]
        items = [self.describe(bucket, name, self.fake.find(bucket, name)) for name in page if not found[name]]
        reply = {"kind": "storage#objects", "items": items, "prefixes": [name for name in page if found[name]]}
        if len(shown) > count:
            reply["nextPageToken"] = shown[count]
        self.reply({key: value for key, value in reply.items() if value})

    def get(self, bucket, name, query, body):
        stored = self.fake.find(bucket, name)
        self.fake.check_generation(stored, query, not_modified=304)
        if query.get("generation", str(stored.generation)) != str(stored.generation):
            raise RefusedError(404)
        if query.get("alt") != "media":
            self.reply(self.describe(bucket, name, stored))
            return
        headers = {"x-goog-generation": str(stored.generation), "x-goog-stored-content-length": len(stored.content)}
        content, status = stored.content, 200
        if requested := self.headers.get("Range"):
            first, last = parse_range(requested, len(content))
            if first >= len(content):
                raise RefusedError(416)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self.reply(content, status, headers)

    def upload(self, bucket, query, body):
        if "upload_id" in query:
            self.continue_upload(query["upload_id"], body)
        elif query.get("uploadType") == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            self.fake.objects(bucket)
            key = str(next(self.fake.generations))
            self.fake.uploads[key] = (bucket, name, query, bytearray())
            location = f"{self.fake.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={key}"
            self.reply(headers={"Location": location})
        elif query.get("uploadType") == "multipart":
            boundary = re.search('boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            _, described, content = body.split(b"--" + boundary, 2)
            # Google's library ends lines as HTTP wants it, gcsfs does not.
            end = b"\r\n" if described.startswith(b"\r\n") else b"\n"
            name = json.loads(described.split(end * 2, 1)[1])["name"]
            content = content[: content.rindex(end + b"--" + boundary)].split(end * 2, 1)[1]
            self.stored(bucket, name, content, query)
        elif query.get("uploadType") == "media":
            self.stored(bucket, query["name"], body, query)
        else:
            raise RefusedError(400)

    def continue_upload(self, key, body):
        bucket, name, query, content = self.fake.uploads[key]
        first, total = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers["Content-Range"]).groups()
        if first is not None:
            if int(first) != len(content):
                raise ValueError("a chunk does not follow upon the one before")
            content += body
        if total != "*" and len(content) == int(total):
            del self.fake.uploads[key]
            self.stored(bucket, name, content, query)
        else:
            self.reply(status=308, headers={"Range": f"bytes=0-{len(content) - 1}"} if content else {})

    def stored(self, bucket, name, content, query):
        self.reply(self.describe(bucket, name, self.fake.put(bucket, name, content, query)))

    def delete(self, bucket, name, query, body):
        if any(part in name for part in self.fake.denied):
            raise RefusedError(403)
        with self.fake.lock:
            self.fake.check_generation(self.fake.find(bucket, name), query)
            del self.fake.buckets[bucket][name]
        self.reply(status=204)

    def rewrite(self, bucket, name, to_bucket, to_name, query, body):
        stored = self.fake.put(to_bucket, to_name, self.fake.find(bucket, name).content, query)
        self.reply(
            {"kind": "storage#rewriteResponse", "done": True, "resource": self.describe(to_bucket, to_name, stored)}
        )


for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"):
    setattr(Handler, f"do_{method}", Handler.answer)

OBJECT = r"/b/([^/]+)/o/([^/]+)"
ROUTES = {
    ("GET", r"/storage/v1/b/([^/]+)"): Handler.get_bucket,
    ("GET", r"/storage/v1/b/([^/]+)/o"): Handler.list,
    ("GET", rf"/storage/v1{OBJECT}"): Handler.get,
    ("GET", rf"/download/storage/v1{OBJECT}"): Handler.get,
    ("DELETE", rf"/storage/v1{OBJECT}"): Handler.delete,
    ("POST", r"/upload/storage/v1/b/([^/]+)/o"): Handler.upload,
    ("PUT", r"/upload/storage/v1/b/([^/]+)/o"): Handler.upload,
    ("POST", rf"/storage/v1{OBJECT}/rewriteTo{OBJECT}"): Handler.rewrite,
}


def parse_range(requested: str, size: int) -> tuple[int, int]:
    """First and last byte of ``bytes=2-5``, ``bytes=2-`` or ``bytes=-4``."""
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", requested).groups()
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last or size), size - 1)


def moment(stored: Stored) -> str:
    return datetime.fromtimestamp(stored.generation / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
