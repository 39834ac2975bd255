"""The notes in SQLite, safe for several worker processes at once.

Owns the file and its tables; knows no HTTP. Each call opens the file, says one statement and
closes it: nothing is held while a request waits. Source: https://sqlite.org/wal.html
"""

import fcntl
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS note (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    author TEXT NOT NULL,
    written TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    pinned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS secret (key TEXT NOT NULL);
"""
FIRST_NOTE = "Everything you write here stays in one SQLite file in the data volume."


class Store:
    """Opens the file at ``path``, making it and its folder when missing. Raises OSError."""

    def __init__(self, path):
        self._path = path
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Workers start together, and the switch to WAL does not wait for its turn: take turns here.
        with open(f"{path}.lock", "w") as lock, closing(self._open()) as db:
            fcntl.flock(lock, fcntl.LOCK_EX)
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)
            if not db.execute("SELECT 1 FROM secret").fetchone():
                db.execute("INSERT INTO secret VALUES (?)", (secrets.token_hex(32),))
                db.execute("INSERT INTO note (text, author) VALUES (?, 'notes')", (FIRST_NOTE,))

    def _open(self):
        # isolation_level None: every statement is its own transaction, so a writer waits
        # (up to 5 s) for another process's one statement and never for a request.
        db = sqlite3.connect(self._path, timeout=5, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA synchronous = NORMAL")
        return db

    def _read(self, query, *values):
        with closing(self._open()) as db:
            return db.execute(query, values).fetchall()

    def _write(self, statement, *values):
        with closing(self._open()) as db:
            return db.execute(statement, values).rowcount > 0

    def secret_key(self):
        return self._read("SELECT key FROM secret")[0]["key"]

    def notes(self):
        """The newest 200, pinned ones first."""
        return self._read("SELECT * FROM note ORDER BY pinned DESC, id DESC LIMIT 200")

    def note(self, note_id):
        rows = self._read("SELECT * FROM note WHERE id = ?", note_id)
        return rows[0] if rows else None

    def add(self, text, author):
        self._write("INSERT INTO note (text, author) VALUES (?, ?)", text, author)

    def toggle_pin(self, note_id):
        """False when there is no such note; so for ``delete``."""
        return self._write("UPDATE note SET pinned = 1 - pinned WHERE id = ?", note_id)

    def delete(self, note_id):
        return self._write("DELETE FROM note WHERE id = ?", note_id)
