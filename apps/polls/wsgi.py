"""The WSGI app, made ready before it is handed out: migrations, and the first admin user.

Several workers start at the same time; each does this in its turn, and the first finds work.
For Django's commands: ``PYTHONPATH=apps python -m django shell --settings polls.settings``.
"""

import fcntl
import logging
import os

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler

# Assigned, not a default: the environment may hold another Django's choice.
os.environ["DJANGO_SETTINGS_MODULE"] = "polls.settings"


def load():
    """Raises OSError when the folder of POLLS_DB cannot be written."""
    database = settings.DATABASE_FILE
    database.parent.mkdir(parents=True, exist_ok=True)
    django.setup()
    with open(f"{database}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        migrate()
        add_first_admin(os.environ.get("POLLS_ADMIN_PASSWORD"))
    logging.getLogger("django.request").setLevel(logging.ERROR)  # the access log has the 404s
    return WSGIHandler()


def migrate():
    # Django's modules need the settings of django.setup(), so these imports come late.
    from django.core.management import call_command
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", verbosity=0, interactive=False)


def add_first_admin(password):
    from django.contrib.auth import get_user_model
    from django.db import connection

    users = get_user_model().objects
    if password and not users.exists():
        users.create_superuser("admin", password=password)
    connection.close()


application = load()
