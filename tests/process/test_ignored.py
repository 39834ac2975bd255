"""What is secret, or data, is not taken into the repository; what a deployment writes itself is."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT_OUT = [
    ".env",
    ".env.production",
    "docker-compose.override.yml",
    "certificates/fullchain.pem",
    "certificates/privkey.pem",
    "tls.conf",
    "privkey.pem",
    "nginx/server.key",
    "var/notes.db",
    "notes.backup.db",
    "apps/polls.db-wal",
    "data.tar",
]
TAKEN = ["apps/mounts.yaml", "apps/shop/wsgi.py", "apps/shop/requirements.txt", "nginx/server.conf"]


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_git_keeps_secrets_and_data_out_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    done = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", "--no-index", *KEPT_OUT, *TAKEN],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == KEPT_OUT


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_nothing_that_belongs_to_the_project_is_ignored() -> None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--ignored", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
