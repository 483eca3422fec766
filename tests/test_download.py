"""Downloads from a loopback server that breaks off, lies, knows ranges or does not."""

import http.server
import re
import threading

import official
import pytest

from kipx import checks
from kipx.commands import prepare as command
from kipx.data import download

NAME = "train-images-idx3-ubyte.gz"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `faults` are functions (handler, content, start) -> None for the first requests, in turn."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests, self.ranges = {}, [], [], True


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content, asked = self.server.files.get(self.path[1:]), self.headers.get("Range")
        self.server.requests.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.ranges else 0
        if content is None:
            return self.send_error(404)
        if self.server.faults:
            return self.server.faults.pop(0)(self, content, start)
        if start and start >= len(content):
            return self.send_error(416)
        whole(self, content, start)

    def log_message(self, *_):
        pass


def whole(handler, content, start, stop=None):
    """Announces everything from `start`, and sends it up to `stop`."""
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    handler.wfile.write(content[start:stop])


def cut(share):
    """Breaks off after a share of what is left."""
    return lambda handler, content, start: whole(handler, content, start, start + int(share * (len(content) - start)))


def error(code):
    return lambda handler, content, start: handler.send_error(code)


def page(handler, content, start):
    """A portal's page instead of the file."""
    whole(handler, b"<html>please log in</html>", 0)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def small(server):
    made = official.make("mnist", url=f"http://127.0.0.1:{server.server_port}/")
    server.files = dict(made.files)
    return made


def fetch(small, folder, **more):
    archive = small.source.archives[0]
    return download.fetch(archive, folder, command="kipx prepare dataset=mnist", pauses=(0, 0), timeout=2, **more)


def test_a_file_arrives_and_is_not_asked_for_again(server, small, tmp_path):
    done = []
    path = fetch(small, tmp_path / "new", advance=done.append)
    assert path.read_bytes() == small.files[NAME]
    assert done == sorted(done) and done[-1] == len(small.files[NAME])
    assert fetch(small, tmp_path / "new") == path
    assert server.requests == [None]
    assert [p.name for p in path.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on_by_itself(server, small, tmp_path, ranges):
    server.ranges, server.faults = ranges, [cut(0.5), error(503), cut(0.9)]
    assert fetch(small, tmp_path).read_bytes() == small.files[NAME]
    assert len(server.requests) == 4
    assert all(re.fullmatch(r"bytes=[1-9]\d*-", asked) for asked in server.requests[1:])


def test_an_interrupted_download_goes_on_in_another_call(server, small, tmp_path):
    server.faults = [cut(0.5), error(500), error(500), error(500)]
    with pytest.raises(
        checks.UserError, match=r"500.*; kipx prepare dataset=mnist goes on from there, or get it other"
    ):
        fetch(small, tmp_path)
    have = (tmp_path / f"{NAME}.part").stat().st_size
    assert 0 < have < len(small.files[NAME])
    assert not (tmp_path / NAME).exists()
    fetch(small, tmp_path)
    assert server.requests[-1] == f"bytes={have}-"
    assert (tmp_path / NAME).read_bytes() == small.files[NAME]


def test_a_download_killed_between_its_end_and_its_name_is_taken(server, small, tmp_path):
    (tmp_path / f"{NAME}.part").write_bytes(small.files[NAME])
    assert fetch(small, tmp_path).read_bytes() == small.files[NAME]
    assert server.requests == []


def changed(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    "lie",
    [changed, lambda content: content[:-9], lambda content: content + b"more" * 99999, lambda content: b""],
    ids=["corrupted", "truncated", "longer", "empty"],
)
def test_wrong_content_is_refused_and_removed(server, small, tmp_path, lie):
    server.files[NAME] = lie(small.files[NAME])
    sha256 = small.source.archives[0].sha256
    with pytest.raises(checks.UserError, match=rf"{NAME} is not .* expected sha256 {sha256} .*, found [0-9a-f]{{64}} "):
        fetch(small, tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.files[NAME] = small.files[NAME]
    fetch(small, tmp_path)


def test_a_page_instead_of_the_file_is_refused_and_removed(server, small, tmp_path):
    server.faults = [page]
    with pytest.raises(checks.UserError, match=r"found [0-9a-f]{64} \(26 bytes\); removed it, run kipx prepare"):
        fetch(small, tmp_path)
    server.faults = [cut(0.5), page]
    with pytest.raises(checks.UserError, match=r"found [0-9a-f]{64} \(26 bytes\); removed it, run kipx prepare"):
        fetch(small, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_something_else_is_noticed(server, small, tmp_path):
    part = tmp_path / f"{NAME}.part"
    part.write_bytes(b"x" * 1000)
    with pytest.raises(checks.UserError, match="removed it"):
        fetch(small, tmp_path)
    fetch(small, tmp_path)
    server.files[NAME] = server.files[NAME][:100]  # the server has less than there is already: no such range
    (tmp_path / NAME).unlink()
    part.write_bytes(b"x" * 1000)
    with pytest.raises(checks.UserError, match=r"found [0-9a-f]{64} \(100 bytes\)"):
        fetch(small, tmp_path)


def test_a_file_damaged_on_the_disk_is_noticed(server, small, tmp_path):
    path = fetch(small, tmp_path)
    path.write_bytes(changed(path.read_bytes()))
    with pytest.raises(checks.UserError, match="removed it, run kipx prepare dataset=mnist again"):
        fetch(small, tmp_path)
    fetch(small, tmp_path)


@pytest.mark.parametrize("code", [403, 404])
def test_a_server_that_does_not_have_it_is_not_asked_again(server, small, tmp_path, code):
    server.faults = [error(code)] * 9
    with pytest.raises(
        checks.UserError, match=rf"HTTP Error {code}.*expected \d+ bytes with sha256 [0-9a-f]{{64}}, found 0"
    ):
        fetch(small, tmp_path)
    assert len(server.requests) == 1


def test_no_network_at_all(small, server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(checks.UserError, match=r"cannot be downloaded \(.*refused.*add dataset\.raw_dir=<its folder>"):
        fetch(small, tmp_path)


def test_prepare_downloads_what_it_needs_once(server, small, tmp_path):
    said = []
    arguments = {"name": "mnist", "data_dir": str(tmp_path), "raw_dir": None, "source": small.source}
    assert command.run(**arguments, say=said.append)["new"]
    assert [line.partition(", ")[0] for line in said] == [f"mnist: {a.url}" for a in small.source.archives]
    assert len(server.requests) == 4
    assert not command.run(**arguments, say=said.append)["new"]
    assert len(server.requests) == 4
