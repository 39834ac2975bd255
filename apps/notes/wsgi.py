"""The Flask app: pages, forms, and the session that remembers a writer's name.

Owns the HTTP side and knows no SQL. Every address is made by ``url_for``, so it works under any
prefix. Set by the environment: NOTES_DB, the SQLite file; NOTES_SECRET_KEY, which signs the session
(left empty, one is made and kept).
"""

import os
from datetime import datetime
from urllib.parse import urlsplit

from flask import (
    Flask,
    Response,
    abort,
    flash,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.sessions import SecureCookieSessionInterface
from werkzeug.exceptions import HTTPException

from notes.store import Store

MAX_TEXT = 4000  # characters
MAX_AUTHOR = 40
NOTE = "<int(max=999999999):note_id>"  # SQLite cannot look up a number of any size


class Session(SecureCookieSessionInterface):
    """A session cookie that is Secure whenever the request was."""

    def get_cookie_secure(self, app):
        return request.is_secure


def create_app():
    store = Store(os.environ.get("NOTES_DB", "var/notes.db"))
    app = Flask(__name__)
    app.secret_key = os.environ.get("NOTES_SECRET_KEY") or store.secret_key()
    app.config.update(SESSION_COOKIE_NAME="notes", SESSION_COOKIE_SAMESITE="Lax")
    app.session_interface = Session()
    app.before_request(refuse_foreign_forms)
    app.register_error_handler(HTTPException, explain)
    app.add_template_filter(readable_time)
    add_pages(app, store)
    return app


def refuse_foreign_forms():
    # Browsers send Origin with every POST; a form on another site names that site.
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin and urlsplit(origin).netloc != request.host:
        abort(403, "This form was sent from another site.")


def explain(error):
    response = error.get_response()  # with its own header fields, such as Allow
    response.set_data(render_template("error.html", error=error))
    return response


def readable_time(written):
    return f"{datetime.fromisoformat(written):%d %b %Y, %H:%M} UTC"


def add_pages(app, store):
    @app.get("/")
    def board():
        return render_template("board.html", notes=store.notes(), max_text=MAX_TEXT)

    @app.post("/")
    def add():
        text, problem = submitted_text()
        session["author"] = request.form.get("author", "").strip()[:MAX_AUTHOR]
        if problem:
            flash(problem, "problem")
        else:
            store.add(text, session["author"])
            flash("Noted.")
        return to_board()

    @app.post(f"/{NOTE}/pin")
    def pin(note_id):
        if not store.toggle_pin(note_id):
            abort(404)
        return to_board()

    @app.get(f"/{NOTE}/delete")
    def confirm(note_id):
        return render_template("confirm.html", note=store.note(note_id) or abort(404))

    @app.post(f"/{NOTE}/delete")
    def delete(note_id):
        if not store.delete(note_id):
            abort(404)
        flash("Deleted.")
        return to_board()

    @app.get("/notes.txt")
    def download():
        text = "\n\n".join(
            f"{note['written']} {note['author']}\n{note['text']}" for note in store.notes()
        )
        headers = {"Content-Disposition": 'attachment; filename="notes.txt"'}
        return Response(text + "\n", mimetype="text/plain", headers=headers)


def submitted_text():
    """What to note, and what is wrong with it or None."""
    text = request.form.get("text", "").strip()
    upload = request.files.get("file")
    if upload:
        try:
            text = f"{text}\n{upload.read().decode('utf-8-sig')}".strip()
        except UnicodeDecodeError:
            return text, f"{upload.filename} is not a text file."
    text = text.replace("\r\n", "\n")  # forms send CRLF; maxlength counts it as one
    if not text:
        return text, "A note needs some text."
    if len(text) > MAX_TEXT:
        return text, f"A note has {MAX_TEXT} characters at most; this one has {len(text)}."
    return text, None


def to_board():
    return redirect(url_for("board"), 303)
