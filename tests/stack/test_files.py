"""Static files through nginx: conditions, ranges, packed siblings, and compression on the way."""

import gzip

import pytest
from compose_stack import ROOT
from stacks import Example
from wire import Answer

PUBLIC = ROOT / "apps" / "public"
TARGET = "/files/status-codes.txt"
AS_IT_IS = ("Accept-Encoding", "identity")


@pytest.fixture(scope="module")
def plain(example: Example) -> Answer:
    answer = example.fetch(TARGET, "GET", AS_IT_IS)
    assert answer.status == 200
    return answer


def test_a_file_is_sent_whole_with_what_caches_need(plain: Answer):
    assert plain.content == (PUBLIC / "status-codes.txt").read_bytes()
    assert plain["Content-Type"].startswith("text/plain")
    assert "max-age=3600" in plain["Cache-Control"]
    assert plain["Accept-Ranges"] == "bytes"
    assert "Accept-Encoding" in plain["Vary"]
    assert plain["ETag"].startswith('"')
    assert plain["Last-Modified"].endswith("GMT")


@pytest.mark.parametrize("coding", ["br", "gzip"])
def test_a_packed_sibling_is_sent_as_it_lies(example: Example, plain, coding):
    answer = example.fetch(TARGET, "GET", ("Accept-Encoding", coding))
    suffix = {"br": ".br", "gzip": ".gz"}[coding]
    assert answer["Content-Encoding"] == coding
    assert answer.content == (PUBLIC / f"status-codes.txt{suffix}").read_bytes()
    assert answer["ETag"] != plain["ETag"]
    assert answer["Content-Type"] == plain["Content-Type"]


def test_what_the_client_has_already_is_304(example: Example, plain):
    for condition in (
        ("If-None-Match", plain["ETag"]),
        ("If-None-Match", f'"other", W/{plain["ETag"]}'),
        ("If-Modified-Since", plain["Last-Modified"]),
    ):
        answer = example.fetch(TARGET, "GET", AS_IT_IS, condition)
        assert (answer.status, answer.content) == (304, b"")
        assert answer["ETag"] == plain["ETag"]
    assert example.fetch(TARGET, "GET", AS_IT_IS, ("If-None-Match", '"other"')).status == 200


def test_a_failed_precondition_is_412(example: Example, plain):
    assert example.fetch(TARGET, "GET", AS_IT_IS, ("If-Match", '"other"')).status == 412
    assert example.fetch(TARGET, "GET", AS_IT_IS, ("If-Match", plain["ETag"])).status == 200


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("0-0", slice(0, 1)),
        ("5-9", slice(5, 10)),
        ("10-", slice(10, None)),
        ("-7", slice(-7, None)),
    ],
)
def test_a_range_is_206_with_those_bytes(example: Example, plain, asked, part):
    answer = example.fetch(TARGET, "GET", AS_IT_IS, ("Range", f"bytes={asked}"))
    assert (answer.status, answer.content) == (206, plain.content[part])
    start, stop, _ = part.indices(len(plain.content))
    assert answer["Content-Range"] == f"bytes {start}-{stop - 1}/{len(plain.content)}"


def test_a_range_beyond_the_end_is_416(example: Example, plain):
    size = len(plain.content)
    answer = example.fetch(TARGET, "GET", AS_IT_IS, ("Range", f"bytes={size}-"))
    assert answer.status == 416
    assert answer["Content-Range"] == f"bytes */{size}"


def test_a_range_of_a_file_that_has_changed_is_the_whole(example: Example, plain):
    part = ("Range", "bytes=0-3")
    for same in (plain["ETag"], plain["Last-Modified"]):
        assert example.fetch(TARGET, "GET", AS_IT_IS, part, ("If-Range", same)).status == 206
    changed = example.fetch(TARGET, "GET", AS_IT_IS, part, ("If-Range", '"other"'))
    assert (changed.status, changed.content) == (200, plain.content)


def test_head_says_the_same_without_the_content(example: Example, plain):
    answer = example.fetch(TARGET, "HEAD", AS_IT_IS)
    assert (answer.status, answer.content) == (200, b"")
    for name in ("Content-Length", "ETag", "Last-Modified", "Content-Type", "Accept-Ranges"):
        assert answer[name] == plain[name]


@pytest.mark.parametrize(
    "target",
    [
        "/files/../mounts.yaml",
        "/files/%2e%2e/mounts.yaml",
        "/files/..%2Fmounts.yaml",
        "/files/..%5Cmounts.yaml",
        "/files//etc/passwd",
        "/files/.hidden",
    ],
)
def test_there_is_no_way_out_of_the_directory(example: Example, target):
    assert example.fetch(target).status == 404


def test_files_are_only_read(example: Example):
    answer = example.fetch(TARGET, "POST", content=b"x")
    assert answer.status == 405
    assert "GET" in answer["Allow"]


def test_text_of_an_app_is_compressed_on_its_way(example: Example):
    packed = example.fetch("/", "GET", ("Accept-Encoding", "gzip"))
    plain = example.fetch("/", "GET", AS_IT_IS)
    assert packed["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in packed["Vary"]
    assert plain["Content-Encoding"] == ""
    assert gzip.decompress(packed.content) == plain.content
