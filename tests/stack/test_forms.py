"""Forms, redirects, sessions and logins under a prefix, as a browser lives them through nginx."""

import secrets
from urllib.parse import urlencode, urljoin, urlsplit

import pytest
from browser import Browser, Page
from stacks import Example

FORM = ("Content-Type", "application/x-www-form-urlencoded")


@pytest.fixture
def visitor(example: Example) -> Browser:
    return Browser(example.url)


@pytest.fixture
def text() -> str:
    return f"note {secrets.token_hex(8)}"


def test_a_form_redirects_below_its_prefix_on_the_same_host_and_port(example: Example, text):
    content = urlencode({"text": text}).encode()
    answer = example.fetch("/notes/", "POST", FORM, content=content)
    assert answer.status == 303
    assert urljoin(f"{example.url}/notes/", answer["Location"]) == f"{example.url}/notes/"


def test_a_note_is_added_and_deleted(visitor: Browser, text):
    board = visitor.post("/notes/", {"text": text})
    assert board.url.endswith("/notes/")
    assert text in board.text

    confirm = next(link for link in links_of(board, text) if link.endswith("/delete"))
    assert urlsplit(confirm).path.startswith("/notes/")
    assert text in visitor.get(confirm).text
    board = visitor.post(confirm, {})
    assert board.url.endswith("/notes/")
    assert text not in board.text


def links_of(page: Page, text: str) -> list[str]:
    """The links of the article that holds ``text``."""
    article = next(part for part in page.text.split("<article")[1:] if text in part)
    return Page(page.status, page.url, article.partition("</article>")[0]).links


def test_a_file_is_sent_with_a_form(visitor: Browser, text):
    assert text in visitor.post_file("/notes/", "file", "note.txt", text.encode()).text


def test_content_over_a_mounts_limit_is_413(visitor: Browser):
    small = visitor.post("/notes/", {"text": "x" * 5000})
    assert small.status == 200
    assert visitor.post("/notes/", {"text": "x" * 70_000}).status == 413


def test_a_session_belongs_to_one_visitor_and_one_prefix(example: Example, visitor, text):
    author = text.replace("note", "author")
    visitor.post("/notes/", {"text": text, "author": author})
    assert visitor.get("/notes/").inputs["author"] == author
    assert Browser(example.url).get("/notes/").inputs["author"] == ""
    [cookie] = visitor.cookies
    assert cookie.path == "/notes"
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert not cookie.secure


def test_a_form_of_another_site_is_refused(example: Example, visitor, text):
    assert visitor.post("/notes/", {"text": text}, Origin="http://evil.example").status == 403
    assert visitor.post("/notes/", {"text": text}, Origin=example.url).status == 200


def test_the_admin_lets_in_who_knows_the_password(example: Example, visitor):
    login = visitor.get("/polls/admin/")
    assert login.url == f"{example.url}/polls/admin/login/?next=/polls/admin/"
    form = {**login.inputs, "username": "admin", "password": example.admin_password}
    assert "csrfmiddlewaretoken" in form

    inside = visitor.post(login.url, form, Origin=example.url)
    assert (inside.status, inside.url) == (200, f"{example.url}/polls/admin/")
    assert "Log out" in inside.text
    assert {cookie.path for cookie in visitor.cookies} == {"/polls"}
    assert visitor.get("/polls/admin/polls/question/add/").status == 200


def test_the_admin_refuses_a_wrong_password_and_a_forged_form(example: Example, visitor):
    login = visitor.get("/polls/admin/login/")
    form = {**login.inputs, "username": "admin", "password": "wrong"}
    assert "Please enter the correct username" in visitor.post(login.url, form).text
    form["password"] = example.admin_password
    assert visitor.post(login.url, form, Origin="http://evil.example").status == 403
    form["csrfmiddlewaretoken"] = "0" * 64
    assert visitor.post(login.url, form).status == 403
    assert visitor.get("/polls/admin/").url.endswith("/polls/admin/login/?next=/polls/admin/")


def test_every_address_in_the_pages_answers_below_its_prefix(example: Example, visitor):
    for mount in ("notes", "polls", "polls/admin/login"):
        links = set(visitor.get(f"/{mount}/").links) - {f"{example.url}/"}
        assert links
        for link in links:
            if link.startswith(example.url):
                assert urlsplit(link).path.startswith(f"/{mount.partition('/')[0]}")
                assert example.fetch(urlsplit(link).path).status in (200, 302, 303), link


def test_the_admins_static_files_have_their_types(example: Example, visitor):
    links = [link for link in visitor.get("/polls/admin/login/").links if "/static/" in link]
    assert any(link.endswith(".css") for link in links)
    for link in links:
        answer = example.fetch(urlsplit(link).path)
        kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        assert answer.status == 200
        assert answer["Content-Type"].startswith(kind[link.rpartition(".")[2]])


def test_a_vote_counts_once_per_visitor(example: Example, visitor):
    question = next(link for link in visitor.get("/polls/").links if link.endswith("/1/"))
    form = visitor.get(question)
    assert "csrfmiddlewaretoken" in form.inputs
    results = visitor.post(question, {**form.inputs})
    assert results.url.endswith("/polls/1/results/")
    assert visitor.get(question).url.endswith("/polls/1/results/")
