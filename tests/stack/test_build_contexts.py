"""What the images are made of: what `docker build` is sent, base images and packages by hash."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from compose_stack import ROOT

SECRETS = [
    ".env",
    "certificates/privkey.pem",
    "tls.conf",
    "data.tar",
    "gateway/.env",
    "gateway/privkey.pem",
    "gateway/__pycache__/cli.cpython-313.pyc",
    "nginx/privkey.pem",
    "nginx/.env",
    "var/notes.db",
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what is built from, with secrets and data in it."""
    for name in ("gateway", "deploy", "nginx"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.pem")
        )
    (tmp_path / "apps").mkdir()
    for name in ("Dockerfile", ".dockerignore", "requirements.lock", "apps/requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in SECRETS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    return tmp_path


def sent(context: Path, output: Path) -> set[str]:
    """The files that a build in ``context`` has."""
    subprocess.run(
        ["docker", "build", "--quiet", "--output", str(output), "--file", "-", str(context)],
        input="FROM scratch\nCOPY . /\n",
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        text=True,
        check=True,
        capture_output=True,
        timeout=240,
    )
    return {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}


def test_secrets_and_data_are_not_sent_to_the_engine(clone: Path, tmp_path: Path) -> None:
    code = {str(path.relative_to(clone)) for path in (clone / "gateway").rglob("*.py")}
    copied = {"requirements.lock", "apps/requirements.txt", "deploy/link.py"}
    assert sent(clone, tmp_path / "sent") == code | copied
    pages = {"nginx.conf", "server.conf", "away.html"}
    assert sent(clone / "nginx", tmp_path / "sent-nginx") == pages


LOCK = (ROOT / "requirements-dev.lock").read_text("utf-8")
# a package of the tests, which the image does not have
[PINNED] = re.findall(r"^iniconfig==\S+", LOCK, re.MULTILINE)
HASHES = re.findall(r"--hash=\S+", LOCK.partition(PINNED)[2].partition("#")[0])


def build(clone: Path, requirements: str) -> subprocess.CompletedProcess[str]:
    """The gateway's image with these packages of the apps, which nothing keeps."""
    (clone / "apps/requirements.txt").write_text(requirements)
    arguments = ["--build-arg", "PYTHON_IMAGE", "--progress", "plain", "--output", "type=cacheonly"]
    return subprocess.run(
        ["docker", "buildx", "build", *arguments, str(clone)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_hashes_of_the_apps_packages_are_checked(clone: Path) -> None:
    hashed = f"{PINNED} {' '.join(HASHES)}\n"
    assert build(clone, hashed).returncode == 0
    assert build(clone, f"{PINNED}\n").returncode == 0
    wrong = build(clone, f"{PINNED} --hash=sha256:{'0' * 64}\n")
    assert wrong.returncode != 0
    assert "DO NOT MATCH THE HASHES" in wrong.stderr
    one_without = build(clone, f"{hashed}humanize\n")
    assert one_without.returncode != 0
    assert "--require-hashes mode" in one_without.stderr


@pytest.mark.parametrize(
    ("context", "argument", "command"),
    [
        (".", "PYTHON_IMAGE", ["gateway", "--version"]),
        ("nginx", "NGINX_IMAGE", ["nginx", "-e", "stderr", "-t", "-c", "/etc/nginx/nginx.conf"]),
    ],
)
def test_a_clone_made_with_umask_077_gives_an_image_that_runs(
    clone: Path, context: str, argument: str, command: list[str]
) -> None:
    subprocess.run(["chmod", "-R", "go=", str(clone)], check=True)
    build = ["docker", "build", "--quiet", "--build-arg", argument, str(clone / context)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    image = built.stdout.strip()
    try:
        run = ["docker", "run", "--rm", image, *command]
        ran = subprocess.run(run, capture_output=True, text=True, timeout=60)
    finally:
        subprocess.run(["docker", "rmi", image], capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
