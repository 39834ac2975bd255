"""A build back end that notes who runs it, and whether it sees another's secret."""

import os
import zipfile

INFO = "noting-1.0.dist-info"
FILES = {
    "noting.py": "",
    f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: noting\nVersion: 1.0\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


def build_wheel(directory, settings=None, metadata=None):
    with open("/tmp/noted", "a") as file:
        file.write(f"{os.geteuid()} {os.getegid()} {os.environ.get('OTHERS_SECRET', '-')}\n")
    record = "".join(f"{name},,\n" for name in [*FILES, f"{INFO}/RECORD"])
    with zipfile.ZipFile(f"{directory}/noting-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in {**FILES, f"{INFO}/RECORD": record}.items():
            wheel.writestr(name, text)
    return "noting-1.0-py3-none-any.whl"
