"""Makes the package importable, and its command runnable, in the environment that runs this file.

``python deploy/link.py DIRECTORY``: the sources in DIRECTORY are used in place, so nothing is built
or downloaded, and edits take effect at once. Requirements are installed from the lock file. Source:
Python's ``site`` module (path configuration files).
"""

import sys
import sysconfig
from pathlib import Path

COMMAND = """#!{python}
import sys

from gateway.commands.main import main

sys.exit(main())
"""


def main() -> None:
    directory = Path(sys.argv[1]).resolve()
    Path(sysconfig.get_path("purelib"), "gateway.pth").write_text(f"{directory}\n")
    command = Path(sysconfig.get_path("scripts"), "gateway")
    command.write_text(COMMAND.format(python=sys.executable))
    command.chmod(0o755)


main()
