"""A secret key that is made once and kept in a file; knows nothing of Django."""

import os
import secrets


def kept_secret(path):
    """The file's text, made when missing: the same for workers that start together."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(50))
        try:
            os.link(draft, path)  # atomic, and fails where another worker was first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text()
