"""README and docs say what is so: links, paths, commands, tables and the output shown for them."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from gateway import __version__
from gateway.commands.main import build_parser, main
from gateway.config.model import Config
from gateway.config.parse import parse_config
from gateway.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
DECISIONS = ROOT / "docs" / "decisions"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
PAGES = [README, CONTRIBUTING, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = [str(page.relative_to(ROOT)) for page in PAGES]
# what a page has its reader make, or shows as an example
NOT_HERE = {"apps/since.py"}
# what begins like a command
MESSAGES = {"gateway is not healthy"}
# where a container has what is in apps/ here
IN_CONTAINER = "/srv/apps"

FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# the command as it is typed in the stack, after `make run`, or spoken of
COMMAND = re.compile(
    r"(?:^|\.venv/bin/|(?:exec|run --rm(?: -T)?) gateway )gateway ([a-z]+(?: .*)?)$"
)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page, without the indentation of the list they may stand in."""
    found = FENCED.findall(page.read_text("utf-8"))
    return [
        re.sub(f"^{margin}", "", text, flags=re.MULTILINE)
        for margin, kind, text in found
        if kind == language
    ]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text("utf-8"))


def console() -> list[tuple[str, str]]:
    """Each command that the README shows with its output."""
    parts = re.split(r"^\$ (.+)\n", "".join(blocks(README, "console")), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    names = HEADING.findall(prose(page))
    return {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in names}


def read_table(text: str, directory: Path) -> Config:
    return parse_config(text, "apps/mounts.yaml", directory, {})


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    """The example apps beside the one that the README adds."""
    directory = tmp_path / "apps"
    shutil.copytree(ROOT / "apps", directory, ignore=shutil.ignore_patterns("__pycache__"))
    (app,) = blocks(README, "python")
    (directory / "since.py").write_text(app)
    return directory


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(prose(page)) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_paths_that_are_named_exist(page: Path) -> None:
    folders = {entry.name for entry in ROOT.iterdir() if entry.is_dir()} - {"var"}
    for word in " ".join(CODE.findall(prose(page))).split():
        path = word.removeprefix("./").rstrip(",;:")
        is_path = re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", path) and "/" in path
        if is_path and path.partition("/")[0] in folders and path not in NOT_HERE:
            # what commands make is not there yet
            assert (ROOT / path).exists() or path.startswith((".venv/", ".cache/")), path


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_commands_that_are_named_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    code = CODE.findall(prose(page))
    lines = "".join(blocks(page, "console")).splitlines()
    for typed in code + [line[2:] for line in lines if line.startswith(("$ ", "# "))]:
        if found := re.search(r"(?:^|\d )make ([a-z]+)", typed):
            assert found[1] in targets, typed
        if typed not in MESSAGES and (found := COMMAND.search(typed)):
            usage = re.sub(r"\[|\]", "", found[1])
            usage = usage.replace("ADDR", "127.0.0.1:8000").replace(" N", " 2")
            build_parser().parse_args(shlex.split(usage.replace("URL", "/").replace("…", "")))


def test_the_tour_is_short() -> None:
    assert len((ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines()) <= 200


def test_the_tour_has_every_module_in_its_room() -> None:
    """A room is a row of the table; it names its modules."""
    tour = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = [row for row in tour.splitlines() if row.startswith("| `gateway/")]
    for module in sorted((ROOT / "gateway").rglob("[a-z]*.py")):
        path, folder = (str(each.relative_to(ROOT)) for each in (module, module.parent))
        row = [row for row in rows if f"`{path}`" in row or f"`{folder}/`" in row.split("|")[1]]
        assert len(row) == 1, path
        assert re.search(rf"\b{module.stem}\b", row[0]), path


@pytest.mark.parametrize(("what", "most"), [("request", 12), ("reload", 10)])
def test_following_opens_few_files(what: str, most: int) -> None:
    text = CONTRIBUTING.read_text("utf-8")
    listed = r"^\*\*A %s: (\d+) files\b.*\n\n((?:\d+\. .*\n)+)" % what  # noqa: UP031
    counted = re.search(listed, text, re.MULTILINE)
    assert counted
    opened = re.findall(r"^\d+\. `(gateway/\S+\.py)` ", counted[2], re.MULTILINE)

    assert int(counted[1]) == len(opened) == len(counted[2].splitlines()) <= most
    assert all((ROOT / path).is_file() for path in opened)


def test_every_decision_is_in_the_index() -> None:
    index = (DECISIONS / "README.md").read_text("utf-8")
    listed = re.findall(r"^- \[(\d{4})\]\((.+?)\) (.+)$", index, re.MULTILINE)
    titles = [re.findall(r"\A# (\d{4})\. (.+)\n", record.read_text("utf-8")) for record in RECORDS]
    written = [
        (number, record.name, title)
        for record, ((number, title),) in zip(RECORDS, titles, strict=True)
    ]

    assert listed == written != []
    assert all(re.fullmatch(rf"{number}-[a-z0-9-]+\.md", name) for number, name, _ in written)
    assert len({number for number, _, _ in written}) == len(written)


@pytest.mark.parametrize("record", RECORDS, ids=[record.name for record in RECORDS])
def test_a_decision_has_date_context_choice_and_alternatives(record: Path) -> None:
    parts = re.split(r"^## (.+)\n", record.read_text("utf-8"), flags=re.MULTILINE)
    assert re.search(r"\n\nDate: \d{4}-\d\d-\d\d\n\n\Z", parts[0])
    assert parts[1::2] == ["Context", "Choice", "Alternatives"]
    assert all(part.strip() for part in parts[2::2])


def test_readme_and_changelog_know_the_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.findall(r"^## \[(\d.*?)\]", changes, re.MULTILINE)[0] == __version__
    assert f"Version {__version__}," in README.read_text("utf-8")


def test_readme_lists_the_commands_that_help_lists() -> None:
    listed = re.findall(r"^\| `gateway ([a-z]+)", README.read_text("utf-8"), re.MULTILINE)
    helped = re.findall(r"^    ([a-z]+) ", build_parser().format_help(), re.MULTILINE)
    assert listed == helped != []


def test_readme_shows_the_table_that_is_served(apps: Path) -> None:
    shown = read_table(blocks(README, "yaml")[0], apps)
    served = read_table((apps / "mounts.yaml").read_text("utf-8"), apps)

    assert shown.server == served.server
    assert [(m.name, m.target, m.limits) for m in shown.mounts] == [
        (m.name, m.target, m.limits) for m in served.mounts
    ]


def test_the_line_that_readme_adds_fits_at_the_end_of_the_table(apps: Path) -> None:
    table, line, _ = blocks(README, "yaml")
    for text in (table, (apps / "mounts.yaml").read_text("utf-8")):
        assert read_table(text + line, apps).mounts[-1].name == "/since"


def test_readme_shows_what_mistakes_are_answered(apps: Path) -> None:
    mistaken = blocks(README, "yaml")[2]
    with pytest.raises(ConfigError) as caught:
        read_table(mistaken, apps)
    (shown,) = [output for command, output in console() if command == ".venv/bin/gateway check"]
    assert caught.value.problems == shown.splitlines()


@pytest.mark.parametrize("command", ["routes", "match /notes/7"])
def test_readme_shows_what_commands_answer(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("GATEWAY_DATA", "POLLS_ADMIN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    shown = dict(console())[f"docker compose exec gateway gateway {command}"]

    assert main(command.split()) == 0
    assert capsys.readouterr().out.replace(str(ROOT / "apps"), IN_CONTAINER) == shown
