"""The two stacks that tests use; `conftest.py` says which is for what."""

import secrets
import shutil
from pathlib import Path

from compose_stack import Stack, wait_for
from wire import Address

APPS = Path(__file__).resolve().parent / "apps"


class Example(Stack):
    """The stack as shipped. ``admin_password`` is that of the user admin of /polls."""

    def __init__(self) -> None:
        self.admin_password = secrets.token_urlsafe(12)
        super().__init__("example", "example.yml", TEST_ADMIN_PASSWORD=self.admin_password)

    def build_and_up(self) -> None:
        """The front workers do not wait for a pool's."""
        super().build_and_up()
        wait_for(self, "/polls/", lambda answer: answer.status == 200)


class Lab(Stack):
    """The stack with the test apps in ``folder``, a copy whose ``table`` may be edited; a save is
    served."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(APPS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        folder.chmod(0o755)  # the gateway's user is another
        self.folder = folder
        self._table = folder / "mounts.yaml"
        super().__init__("lab", "lab.yml", TEST_APPS=str(folder))

    @property
    def table(self) -> str:
        return self._table.read_text("utf-8")

    @table.setter
    def table(self, text: str) -> None:
        self._table.write_text(text, "utf-8")

    @property
    def direct(self) -> Address:
        """Where the gateway answers without nginx, and takes who asks for nginx."""
        return self.published("door", 8000)

    def restart_gateway(self) -> None:
        """`docker compose restart`, not awaited until it is ready."""
        done = self.compose("restart", "--timeout", "10", "gateway")
        assert done.returncode == 0, done.stderr
