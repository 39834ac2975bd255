"""``python -m gateway`` is the command ``gateway``."""

import sys

from gateway.commands.main import main

sys.exit(main())
