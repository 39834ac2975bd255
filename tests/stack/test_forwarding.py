"""Who the client is: nginx's word counts, the client's own does not. And what is written down."""

import json
import re

import pytest
from stacks import Lab
from wire import Answer, fetch

FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "444",
    "X-Forwarded-Prefix": "/evil",
    "X-Real-IP": "203.0.113.9",
    "X-Request-ID": "forged-1",
    "Forwarded": "for=203.0.113.9;host=evil.example;proto=https",
}
# sent by a container of the stack's network, which knows its own address
NEIGHBOUR = """
import json, socket, sys
nginx = socket.create_connection(("nginx", 8080), 10)
fields = "".join(f"{name}: {value}\\r\\n" for name, value in json.loads(sys.argv[1]).items())
head = "GET /echo HTTP/1.1\\r\\nHost: here\\r\\nConnection: close\\r\\n"
nginx.sendall(f"{head}{fields}\\r\\n".encode())
answer = b"".join(iter(lambda: nginx.recv(65536), b""))
print(json.dumps([nginx.getsockname()[0], answer.partition(b"\\r\\n\\r\\n")[2].decode()]))
"""


def ask_as_neighbour(lab: Lab, fields: dict[str, str]) -> tuple[str, dict]:
    """The client's real address, and the request as the app saw it."""
    container = lab.beside("python", "-c", NEIGHBOUR, json.dumps(fields))
    try:
        assert container.wait(timeout=30)["StatusCode"] == 0, container.logs()
        address, seen = json.loads(container.logs(stderr=False))
    finally:
        container.remove(force=True)
    return address, json.loads(seen)


@pytest.mark.parametrize("fields", [{}, FORGED], ids=["plain", "forged"])
def test_the_app_sees_the_clients_real_address_and_scheme(lab: Lab, fields):
    address, seen = ask_as_neighbour(lab, fields)
    assert seen["client"] == address
    assert seen["scheme"] == "http"
    assert (seen["script_name"], seen["path_info"]) == ("/echo", "")
    assert seen["fields"]["HTTP_HOST"] == "here"
    assert "203.0.113" not in json.dumps(seen)
    assert "evil" not in json.dumps(seen)
    assert "forged" not in json.dumps(seen)
    for service in ("nginx", "gateway"):
        assert lab.record(service, seen["request_id"])["client"] == address


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("spelling", [str, str.lower, lambda name: name.replace("-", "_")])
def test_a_forged_field_changes_nothing(lab: Lab, name, spelling):
    def seen(*fields: tuple[str, str]) -> dict:
        seen = lab.fetch("/echo", "GET", *fields).json()
        for differs in ("request_id", "worker"):
            del seen[differs]
        del seen["fields"]["HTTP_X_REQUEST_ID"]
        return seen

    assert seen((spelling(name), FORGED[name])) == seen()


def test_a_repeated_forged_field_changes_nothing(lab: Lab):
    plain = lab.fetch("/echo").json()
    twice = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "203.0.113.10, 10.0.0.1")]
    assert lab.fetch("/echo", "GET", *twice).json()["client"] == plain["client"]


def test_a_trusted_proxy_is_believed(lab: Lab):
    fields = [(name, value) for name, value in FORGED.items() if name != "Forwarded"]
    seen = fetch(lab.direct, "/echo/a", "GET", *fields).json()
    assert seen["client"] == "203.0.113.9"
    assert seen["scheme"] == "https"
    assert seen["fields"]["HTTP_HOST"] == "evil.example"
    assert seen["script_name"] == "/evil/echo"
    assert seen["request_id"] == "forged-1"


def test_an_app_cannot_pass_for_nginx(lab: Lab):
    fields = "".join(f"{name}: {value}\r\n" for name, value in FORGED.items())
    head = f"GET /echo HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{fields}\r\n"
    answers = lab.fetch("/forger", "POST", content=head.encode()).json()
    assert len(answers) >= 2, answers
    for seen in answers.values():
        assert (seen["scheme"], seen["fields"]["HTTP_HOST"]) == ("http", "here")
        assert not re.search("203.0.113|evil|forged", str(seen))


def test_one_request_id_is_in_both_logs_the_answer_and_the_app(lab: Lab):
    answer = lab.fetch(
        "/echo/id", "GET", ("User-Agent", "test/1"), ("Referer", "http://r.example/")
    )
    request_id = answer["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", request_id)
    assert answer.json()["request_id"] == request_id
    outer, inner = lab.record("nginx", request_id), lab.record("gateway", request_id)
    for name in ("client", "method", "target", "status", "user_agent", "referer"):
        assert outer[name] == inner[name]


@pytest.mark.parametrize(("target", "status"), [("/broken/x", 503), ("/fails", 500)])
def test_an_error_page_shows_the_id_that_is_logged(lab: Lab, target, status):
    answer = lab.fetch(target)
    assert answer.status == status
    assert answer["X-Request-ID"] in answer.text
    assert lab.record("gateway", answer["X-Request-ID"])["status"] == status


def test_requests_have_different_ids(lab: Lab):
    answers: list[Answer] = [lab.fetch("/echo") for _ in range(10)]
    assert len({answer["X-Request-ID"] for answer in answers}) == 10


def test_an_access_record_tells_what_happened(lab: Lab):
    fields = [("User-Agent", 'a "b"\\'), ("Referer", "http://r.example/?\u00e9")]
    answer = lab.fetch("/echo/deeper/x?q=1", "POST", *fields, content=b"12345")
    record = lab.record("gateway", answer["X-Request-ID"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
    assert record.pop("duration_ms") >= 0
    assert record.pop("bytes_out") > len(answer.content)
    assert record == {
        "request_id": answer["X-Request-ID"],
        "mount": "/echo/deeper",
        "client": answer.json()["client"],
        "method": "POST",
        "target": "/echo/deeper/x?q=1",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes_in": 5,
        "host": lab.address[0],
        "referer": "http://r.example/?\u00e9",
        "user_agent": 'a "b"\\',
    }


def test_a_request_that_nothing_answers_has_a_record_too(lab: Lab):
    answer = lab.fetch("/nothing")
    record = lab.record("gateway", answer["X-Request-ID"])
    assert (record["status"], record["mount"], record["target"]) == (404, "", "/nothing")
