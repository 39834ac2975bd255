"""Changes the code a little, at random, and counts the changes that no unit test notices.

``mutants.py PYTHON SECONDS SEED``: ``PYTHON`` has what tests need. Works in a copy of the tree, for
so many seconds, and prints each change that survives. A change first meets the tests that name its
module, and then all unit tests, which have to pass without it. Runs in an environment of its own,
with cosmic-ray.
"""

import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from os import chdir
from pathlib import Path

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkResult

ROOT = Path(__file__).resolve().parents[2]
TREE = ROOT / ".venv" / "mutants" / "tree"
ROOMS = ("gateway/protocol", "gateway/config", "gateway/states.py")
# most of these are in types, which no test reads
LEFT_OUT = re.compile("core/ReplaceBinaryOperator_BitOr_|core/RemoveDecorator")
# a change may have a loop go on for ever
NEAR_SECONDS, ALL_SECONDS = 300.0, 900.0
ALL_TESTS = "-n 3 --dist loadfile tests/unit"


def copy_tree() -> None:
    shutil.rmtree(TREE, ignore_errors=True)
    listed = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = subprocess.run(listed, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, TREE / name)


def find_modules() -> Iterator[Path]:
    for room in map(Path, ROOMS):
        yield from [room] if room.suffix else sorted(room.rglob("*.py"))


def find_tests(module: Path) -> str:
    """Those that import it, by file; else those that import another of its package."""
    *package, name = module.with_suffix("").parts
    dotted = re.escape(".".join(package))
    texts = {path: path.read_text() for path in sorted(Path("tests/unit").glob("test_*.py"))}
    for pattern in (rf"{dotted}\.{name}\b|from {dotted} import .*\b{name}\b", rf"\b{dotted}\b"):
        if found := [str(path) for path, text in texts.items() if re.search(pattern, text)]:
            return " ".join(found)
    return ALL_TESTS


def test(python: str, mutation: MutationSpec) -> WorkResult:
    command = f"{python} -m pytest -x -q -p no:cacheprovider "
    near = mutate_and_test([mutation], command + find_tests(mutation.module_path), NEAR_SECONDS)
    if near.test_outcome is not TestOutcome.SURVIVED:
        return near
    return mutate_and_test([mutation], command + ALL_TESTS, ALL_SECONDS)


def main(python: str, seconds: float, seed: int) -> None:
    copy_tree()
    chdir(TREE)
    found, output = run_tests(f"{python} -m pytest -x -q {ALL_TESTS}", ALL_SECONDS)
    if found is not TestOutcome.SURVIVED:
        sys.exit(f"the tests fail without any change:\n{output}")
    items = [item.mutations[0] for item in _all_work_items(find_modules(), {})]
    mutations = [each for each in items if not LEFT_OUT.match(each.operator_name)]
    random.Random(seed).shuffle(mutations)
    deadline = time.monotonic() + seconds
    outcomes = Counter[str]()
    for mutation in mutations:
        if time.monotonic() > deadline:
            break
        result = test(python, mutation)
        if result.worker_outcome is not WorkerOutcome.NORMAL:
            outcomes["not possible"] += 1
            continue
        outcomes[result.test_outcome.value] += 1
        if result.test_outcome is TestOutcome.SURVIVED:
            print(f"{mutation.definition_name}:\n{result.diff}\n", flush=True)
    tried = outcomes["killed"] + outcomes["survived"]
    print(f"{tried} of {len(mutations)} changes were tried (seed {seed}): {dict(outcomes)}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
