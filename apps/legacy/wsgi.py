"""An app that stayed with Flask 2.0, in a pool with packages of its own: see requirements.txt.

Knows nothing of the Flask that other apps use; both run at once, each in its own processes.
"""

import platform

import jinja2
import werkzeug
from flask import Flask, __version__, jsonify, render_template

app = Flask(__name__)
VERSIONS = {
    "Flask": __version__,
    "Werkzeug": werkzeug.__version__,
    "Jinja2": jinja2.__version__,
    "Python": platform.python_version(),
}


@app.route("/")
def page():
    return render_template("legacy.html", versions=VERSIONS)


@app.route("/versions")
def versions():
    return jsonify(VERSIONS)
