"""A folder for a table to lie in, and an environment: what the example tables name is there."""

from pathlib import Path

ENVIRON = {
    "NAME": "value",
    "EMPTY": "",
    "TIMEOUT": "fast",
    "MINUTE": "1m",
    "WORKERS": "3",
    "PREFIX_LIKE": "a: b, [c]",
}


def make_site(folder: Path) -> Path:
    """Apps, directories and secrets as the tables in tests/configs expect them, in ``folder``."""
    for path in (
        "notes/__init__.py",
        "notes/wsgi.py",
        "shop/wsgi.py",
        "welcome.py",
        "legacy/app.py",
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    for path in ("public", "assets"):
        (folder / path).mkdir()
    (folder / "page.html").touch()
    (folder / "secret.txt").write_text("wombat-77\n")
    (folder / "minute.txt").write_text("1m\n")
    (folder / "nul.txt").write_bytes(b"a\0b")
    (folder / "latin1.txt").write_bytes(b"caf\xe9")
    (folder / "huge.txt").write_bytes(b"x" * (64 * 1024 + 1))
    return folder
