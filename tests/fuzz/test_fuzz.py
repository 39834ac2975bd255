"""Every fuzz target, briefly: on the raw requests, on random changes of them, and with atheris.

``FUZZ_SECONDS`` is how long atheris takes for each target (10); a longer run is ``make fuzz``.
"""

import os
import random
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fuzz import WORDS, seeds
from targets import TARGETS

HERE = Path(__file__).parent
SECONDS = int(os.environ.get("FUZZ_SECONDS", "10"))


def run(target: str, data: bytes) -> None:
    print(f"{target} of {data!r}")  # shown where it fails
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_raw_requests_mean_the_same_to_the_reference(target: str) -> None:
    for seed in seeds(target):
        run(target, seed)


@pytest.mark.parametrize("target", TARGETS)
def test_changed_requests_mean_the_same_to_the_reference(target: str) -> None:
    generator = random.Random(target)
    words = [word.encode() for word in WORDS] + [bytes([byte]) for byte in range(256)]
    for seed in seeds(target):
        for _ in range(3):
            data = bytearray(seed)
            for _ in range(generator.randint(1, 4)):
                start = generator.randint(0, len(data))
                end = min(len(data), start + generator.choice([0, 0, 1, 1, 2, 10]))
                data[start:end] = generator.choice(words)
            run(target, bytes(data))


@pytest.mark.skipif(find_spec("atheris") is None, reason="NOT FUZZED: atheris is not installed")
@pytest.mark.parametrize("target", TARGETS)
def test_no_input_is_found_that_means_something_else(target: str, tmp_path: Path) -> None:
    options = ["-seed=1", f"-max_total_time={SECONDS}"]
    command = [sys.executable, HERE / "fuzz.py", target, tmp_path / "corpus", *options]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS + 60, check=False)
    output = done.stderr.decode(errors="replace")
    assert done.returncode == 0, output[-4000:]
    runs = re.search(r"Done ([0-9]+) runs", output)
    assert runs is not None, output[-4000:]
    assert int(runs[1]) > 1000
