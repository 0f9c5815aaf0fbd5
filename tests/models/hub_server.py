"""A small Hub over HTTP: the endpoints that ``huggingface_hub`` calls to make, fill and read a model repository.

Like the real one it keeps large files apart, at a host of its own (here ``localhost`` instead of ``127.0.0.1``), which
must not see anybody's token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit: its content, or the sha256 of a large one."""

    content: bytes = b''
    lfs: str | None = None


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch, message, files):
        number = f'{len(self.commits)} {message} {sorted(files)}'
        sha = hashlib.sha1(number.encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.branches[branch] = files, message, sha
        return sha


class Hub:
    """The server and what it stores.

    Attributes:
        writers: Namespaces that a token may write to.
        blobs: Large files by sha256.
        calls: Method, path and whether a token came with it, of every request.
        faults: What happens to the next uploads of a large file: ``hold`` (never answered), ``drop`` (the connection
            breaks half-way), ``refuse`` (403, as of an address that has expired).
        held: Set when an upload is held.
        break_download: Break the next download of a large file half-way.
        down: Status of all answers, if it is not 0.
    """

    def __init__(self, writers):
        self.writers = writers
        self.repositories = {}
        self.blobs = {}
        self.calls = []
        self.faults = deque()
        self.held = threading.Event()
        self.break_download = False
        self.down = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), type('BoundHandler', (_Handler,), {'hub': self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.endpoint = f'http://127.0.0.1:{self.port}'
        self.storage = f'http://localhost:{self.port}/storage'
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def files(self, name, revision='main'):
        """Content of a repository."""
        repository = self.repositories[name]
        files = repository.commits[repository.branches[revision]]
        return {path: file.content if file.lfs is None else self.blobs[file.lfs] for path, file in files.items()}

    def count(self, method, pattern):
        """Number of requests so far."""
        return sum(verb == method and re.search(pattern, path) is not None for verb, path, _ in self.calls)


class _Answer(Exception):  # noqa: N818 - an error is only one kind of answer
    def __init__(self, status, error, code=None, body=None):
        self.status, self.body = status, {'error': error, **(body or {})}
        self.headers = {'X-Error-Message': error} | ({} if code is None else {'X-Error-Code': code})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    hub: Hub

    def log_message(self, *_):
        """Nothing on stderr."""

    def do_GET(self):
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server calls

    def route(self):
        path = unquote(urlsplit(self.path).path)
        self.unread = int(self.headers.get('Content-Length') or 0)
        self.hub.calls.append((self.command, path, 'Authorization' in self.headers))
        try:
            if self.hub.down:
                raise _Answer(self.hub.down, '')
            for methods, pattern, handle in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in methods.split():
                    handle(self, *found.groups())
                    return
            raise _Answer(404, f'no such endpoint: {self.command} {path}')
        except _Answer as answer:
            self.read_body()
            self.send(answer.status, answer.body, answer.headers)

    # Reading and answering

    def read_body(self, limit=None):
        length = self.unread if limit is None else min(limit, self.unread)
        self.unread -= length
        return self.rfile.read(length)

    def read_json(self):
        return json.loads(self.read_body())

    def send(self, status, body, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {'Content-Length': str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def break_off(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    # Who may do what

    @property
    def namespaces(self):
        kind, _, token = self.headers.get('Authorization', '').partition(' ')
        return self.hub.writers.get(token, set()) if kind == 'Bearer' else set()

    def check_writer(self, name):
        token = self.headers.get('Authorization', '').partition(' ')[2]
        if token not in self.hub.writers:
            raise _Answer(
                401, 'Invalid credentials in Authorization header' if token else 'Invalid username or password.'
            )
        namespace = name.partition('/')[0]
        if namespace not in self.namespaces:
            raise _Answer(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')

    def repository(self, name):
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and name.partition('/')[0] not in self.namespaces):
            raise _Answer(404 if self.namespaces else 401, 'Repository not found', 'RepoNotFound')
        return repository

    def resolve(self, name, revision):
        repository = self.repository(name)
        sha = repository.branches.get(revision, revision)
        if sha not in repository.commits:
            raise _Answer(404, f'Invalid rev id: {revision}', 'RevisionNotFound')
        return sha, repository.commits[sha]

    # Endpoints

    def website(self):
        self.read_body()
        self.send(200, b'<html>Something else</html>', {'Content-Type': 'text/html'})

    def create(self):
        request = self.read_json()
        name = f'{request["organization"]}/{request["name"]}'
        self.check_writer(name)
        url = {'url': f'{self.hub.endpoint}/{name}'}
        with self.hub.lock:
            if name in self.hub.repositories:
                raise _Answer(409, 'You already created this model repo', body=url)
            repository = self.hub.repositories[name] = Repository(private=request.get('visibility') == 'private')
            attributes = StoredFile(b'*.safetensors filter=lfs diff=lfs merge=lfs -text\n')
            repository.commit('main', 'initial commit', {'.gitattributes': attributes})
        self.send(200, url)

    def validate_card(self):
        self.read_body()
        self.send(200, {'errors': [], 'warnings': []})

    def create_branch(self, name, branch):
        self.check_writer(name)
        sha, _ = self.resolve(name, self.read_json().get('startingPoint', 'main'))
        if branch in self.repository(name).branches:
            raise _Answer(409, f'Reference already exists: {branch}')
        self.repository(name).branches[branch] = sha
        self.send(201, {})

    def info(self, name, revision=None):
        sha, files = self.resolve(name, revision or 'main')
        siblings = [{'rfilename': path} for path in files]
        private = self.repository(name).private
        self.send(200, {'_id': '0', 'id': name, 'sha': sha, 'private': private, 'siblings': siblings, 'tags': []})

    def tree(self, name, revision):
        entries = []
        for path, file in self.resolve(name, revision)[1].items():
            entry = {'type': 'file', 'path': path, 'oid': _git_hash(file.content), 'size': len(file.content)}
            if file.lfs is not None:
                size = len(self.hub.blobs[file.lfs])
                entry |= {'size': size, 'lfs': {'oid': file.lfs, 'size': size, 'pointerSize': 134}}
            entries.append(entry)
        self.send(200, entries)

    def preupload(self, name, revision):
        request = self.read_json()
        self.check_writer(name)
        _, files = self.resolve(name, revision)
        answers = []
        for file in request['files']:
            old = files.get(file['path'])
            answers.append(
                {
                    'path': file['path'],
                    'uploadMode': 'lfs' if file['path'].endswith('.safetensors') else 'regular',
                    'shouldIgnore': False,
                    'oid': old and (old.lfs or _git_hash(old.content)),
                }
            )
        self.send(200, {'files': answers})

    def lfs_batch(self, name):
        request = self.read_json()
        self.check_writer(name)
        objects = []
        for item in request['objects']:
            if item['oid'] not in self.hub.blobs:  # no actions: it is here
                upload = {'href': f'{self.hub.storage}/{item["oid"]}?signature=secret'}
                verify = {'href': f'{self.hub.endpoint}/{name}.git/info/lfs/verify'}
                item = {**item, 'actions': {'upload': upload, 'verify': verify}}
            objects.append(item)
        self.send(200, {'transfer': 'basic', 'objects': objects})

    def lfs_verify(self, name):
        request = self.read_json()
        if len(self.hub.blobs.get(request['oid'], b'')) != request['size']:
            raise _Answer(404, f'{name} has no such object')
        self.send(200, {})

    def store(self, oid):
        fault = self.hub.faults.popleft() if self.hub.faults else None
        if fault is not None:
            length = int(self.headers['Content-Length'])
            self.read_body(length if fault == 'refuse' else length // 2)
        if fault == 'refuse':
            self.send(403, b'<Error><Code>AccessDenied</Code></Error>', {'Content-Type': 'application/xml'})
        elif fault == 'drop':
            self.break_off()
        elif fault == 'hold':
            self.hub.held.set()
            with suppress(ConnectionError):
                self.rfile.read()  # returns when the client is gone
            self.close_connection = True
        else:
            data = self.read_body()
            if hashlib.sha256(data).hexdigest() != oid:
                self.send(400, b'<Error><Code>BadDigest</Code></Error>', {'Content-Type': 'application/xml'})
                return
            self.hub.blobs[oid] = data
            self.send(200, b'')

    def commit(self, name, revision):
        lines = [json.loads(line) for line in self.read_body().splitlines()]
        self.check_writer(name)
        files = dict(self.resolve(name, revision)[1])
        for line in lines[1:]:
            value = line['value']
            if line['key'] == 'file':
                files[value['path']] = StoredFile(base64.b64decode(value['content']))
            elif line['key'] == 'lfsFile' and len(self.hub.blobs.get(value['oid'], b'')) == value['size']:
                files[value['path']] = StoredFile(lfs=value['oid'])
            else:
                raise _Answer(400, f'cannot commit {line}')
        sha = self.repository(name).commit(revision, lines[0]['value']['summary'], files)
        url = f'{self.hub.endpoint}/{name}/commit/{sha}'
        self.send(200, {'success': True, 'commitOid': sha, 'commitUrl': url, 'hookOutput': ''})

    def download(self, name, revision, path):
        sha, files = self.resolve(name, revision)
        commit = {'X-Repo-Commit': sha}
        if path not in files:
            answer = _Answer(404, 'Entry not found', 'EntryNotFound')
            answer.headers |= commit
            raise answer
        file = files[path]
        if file.lfs is None:
            self.send(200, file.content, {'ETag': f'"{_git_hash(file.content)}"', **commit})
            return
        size = str(len(self.hub.blobs[file.lfs]))
        linked = {'X-Linked-Etag': f'"{file.lfs}"', 'X-Linked-Size': size, 'ETag': '"pointer"'}
        self.send(302, b'', {'Location': f'{self.hub.storage}/{file.lfs}', **linked, **commit})

    def download_large(self, oid):
        data, headers = self.hub.blobs[oid], {'ETag': f'"{oid}"', 'Accept-Ranges': 'bytes'}
        asked = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        start = int(asked[1]) if asked else 0
        if asked:
            headers['Content-Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
        if self.command == 'GET' and self.hub.break_download:
            self.hub.break_download = False
            self.send(200, data[: len(data) // 2], {'Content-Length': str(len(data)), **headers})
            self.break_off()
            return
        self.send(206 if asked else 200, data[start:], headers)


def _git_hash(content):
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


_REPO = r'([\w.-]+/[\w.-]+)'
_ROUTES = (
    ('GET HEAD POST', '/website/.*', _Handler.website),
    ('POST', '/api/repos/create', _Handler.create),
    ('POST', '/api/validate-yaml', _Handler.validate_card),
    ('GET', f'/api/models/{_REPO}', _Handler.info),
    ('GET', f'/api/models/{_REPO}/revision/(.+)', _Handler.info),
    ('GET', f'/api/models/{_REPO}/tree/(.+)', _Handler.tree),
    ('POST', f'/api/models/{_REPO}/branch/(.+)', _Handler.create_branch),
    ('POST', f'/api/models/{_REPO}/preupload/(.+)', _Handler.preupload),
    ('POST', f'/api/models/{_REPO}/commit/(.+)', _Handler.commit),
    ('POST', rf'/{_REPO}\.git/info/lfs/objects/batch', _Handler.lfs_batch),
    ('POST', rf'/{_REPO}\.git/info/lfs/verify', _Handler.lfs_verify),
    ('PUT', r'/storage/([0-9a-f]{64})', _Handler.store),
    ('GET HEAD', r'/storage/([0-9a-f]{64})', _Handler.download_large),
    ('GET HEAD', f'/{_REPO}/resolve/([^/]+)/(.+)', _Handler.download),
)
