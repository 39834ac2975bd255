"""The TLS recipe of docs/operations.md, as it stands there, in the shipped nginx. The rules are
Mozilla's intermediate configuration, version 5: https://wiki.mozilla.org/Security/Server_Side_TLS"""

import re
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import wire
from compose_stack import ROOT
from stacks import Example

PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
SECTION = PAGE.partition("\n## TLS\n")[2].partition("\n## ")[0]
[RECIPE] = re.findall(r"```nginx\n(.*?)```", SECTION, re.DOTALL)
NAME = "www.example.com"
KEYS = {"ECDSA": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "RSA": ["rsa:2048"]}
SUITES = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]


def is_answered(address: wire.Address) -> bool:
    """By an error where it is TLS."""
    try:
        with socket.create_connection(address, 5) as connection:
            return ask(connection, NAME).startswith("HTTP/1.1 ")
    except OSError:
        return False


class Edge:
    """nginx alone, with the recipe; ``tls`` and ``plain`` are where its two ports are published."""

    def __init__(self, image: str, folder: Path, key: str) -> None:
        self.key = key
        self._make_certificate(folder)
        (folder / "tls.conf").write_text(RECIPE)
        mounts = {"tls.conf": "/etc/nginx/extra/tls.conf", "certificates": "/run/certificates"}
        self._engine = docker.from_env()
        self._container = self._engine.containers.run(
            image,
            detach=True,
            read_only=True,
            tmpfs={"/tmp": ""},
            labels={"com.docker.compose.project": "", "com.docker.compose.service": ""},
            ports={"8443/tcp": ("127.0.0.1", None), "8088/tcp": ("127.0.0.1", None)},
            volumes={str(folder / n): {"bind": to, "mode": "ro"} for n, to in mounts.items()},
        )

    def _make_certificate(self, folder: Path) -> None:
        certificates = folder / "certificates"
        certificates.mkdir()
        folder.chmod(0o755)
        made = ["-keyout", certificates / "privkey.pem", "-out", certificates / "fullchain.pem"]
        whose = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        command = ["openssl", "req", "-x509", "-nodes", "-days", "90", *whose, *made, "-newkey"]
        subprocess.run([*command, *KEYS[self.key]], check=True, capture_output=True)
        (certificates / "privkey.pem").chmod(0o644)  # where the tests may not chown

    def find(self, port: int) -> wire.Address:
        """Where the port is published, once nginx answers there: Docker accepts before."""

        def ask() -> wire.Address | None:
            self._container.reload()
            found = self._container.ports.get(f"{port}/tcp")
            address = ("127.0.0.1", int(found[0]["HostPort"])) if found else None
            return address if address and is_answered(address) else None

        address: wire.Address = wire.wait_until(ask, "nginx answers", 30)
        return address

    def shake(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        """A connection, past its handshake. Raises OSError."""
        plain = socket.create_connection(self.find(8443), 10)
        try:
            return context.wrap_socket(plain, server_hostname=NAME)
        except OSError:
            plain.close()
            raise

    def end(self) -> None:
        self._container.remove(force=True)
        self._engine.close()


@pytest.fixture(scope="module", params=list(KEYS))
def edge(
    example: Example, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Edge]:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    image = example.container("nginx").image.id
    edge = Edge(image, tmp_path_factory.mktemp("edge"), request.param)
    try:
        yield edge
    finally:
        edge.end()


def client(version: str, ciphers: str = "ALL:COMPLEMENTOFALL:@SECLEVEL=0") -> ssl.SSLContext:
    """A client of this version of TLS alone, which trusts anyone."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(ciphers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return context


def accepts(edge: Edge, context: ssl.SSLContext) -> bool:
    try:
        edge.shake(context).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("version", "is_accepted"),
    [("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)],
)
def test_versions(edge: Edge, version: str, is_accepted: bool) -> None:
    assert accepts(edge, client(version)) is is_accepted


def test_cipher_suites_of_tls_1_2_have_forward_secrecy_and_are_authenticated(edge: Edge) -> None:
    known = [c["name"] for c in client("TLSv1_2").get_ciphers() if c["protocol"] != "TLSv1.3"]
    assert len(known) > 50
    accepted = {name for name in known if accepts(edge, client("TLSv1_2", f"{name}:@SECLEVEL=0"))}
    assert accepted == {f"ECDHE-{edge.key}-{suite}" for suite in SUITES}


def test_sessions_have_no_tickets(edge: Edge) -> None:
    with edge.shake(client("TLSv1_2")) as connection:
        assert connection.session is not None
        assert not connection.session.has_ticket


def test_http_2_is_offered(edge: Edge) -> None:
    context = client("TLSv1_3")
    context.set_alpn_protocols(["h2", "http/1.1"])
    with edge.shake(context) as connection:
        assert connection.selected_alpn_protocol() == "h2"


def ask(connection: socket.socket, host: str) -> str:
    """All that comes back."""
    head = f"GET /a?b HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    connection.sendall(head.encode())
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_answers_have_browsers_insist_on_https(edge: Edge) -> None:
    with edge.shake(client("TLSv1_3")) as connection:
        answer = ask(connection, NAME)
    assert "\r\nStrict-Transport-Security: max-age=63072000\r\n" in answer
    assert "\r\nX-Request-ID: " in answer


@pytest.mark.parametrize("host", [NAME, "evil.example"])
def test_the_way_to_https_leads_to_the_sites_own_name(edge: Edge, host: str) -> None:
    with socket.create_connection(edge.find(8088), 10) as connection:
        answer = ask(connection, host)
    assert answer.startswith("HTTP/1.1 308 ")
    assert f"\r\nLocation: https://{NAME}/a?b\r\n" in answer
