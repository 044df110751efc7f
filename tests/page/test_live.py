"""The live report: a real browser follows a history that grows; nothing else is served, and to nobody else."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_featgeo.report import ReportError, __main__, page_of
from lightning_featgeo.report.live import ADDRESS, LiveReport, server
from tests._helpers.histories import record, write


@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """The port of a server over this folder."""
    report = LiveReport([str(tmp_path)], lambda paths: page_of(paths, quiet=True))
    with server(report) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield serving.server_port
        serving.shutdown()
        thread.join()


def get(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=60)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_follows_the_run_with_the_same_switches(browser: Any, served: int, tmp_path: Path) -> None:
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if ADDRESS not in request.url else None)
    page.goto(f"http://{ADDRESS}:{served}/")
    page.get_by_text("no history below this folder").wait_for()
    theme = "document.documentElement.dataset.theme"
    history = write(tmp_path / "a.jsonl", windows=3, name="mine", end=None)
    page.get_by_text("3 windows, up to epoch 3.").wait_for()
    page.locator(".chart[data-drawn]").first.wait_for()
    at_first = page.evaluate(theme)
    assert at_first == "light"
    page.locator("summary").first.click()
    page.get_by_label("steps").check()
    page.get_by_label("±1 standard error").uncheck()
    history.append(record(3))
    page.get_by_text("4 windows, up to epoch 4.").wait_for()
    page.locator(".chart[data-drawn]").first.wait_for()
    assert page.get_by_label("steps").is_checked()
    assert not page.get_by_label("±1 standard error").is_checked()
    assert page.locator("details[open]").count() == 1
    assert page.evaluate(theme) == at_first
    history.end("finished")
    page.get_by_text("The run finished.").wait_for()
    assert said == []
    context.close()


def test_nothing_but_the_page_is_served_and_only_under_this_machines_name(served: int, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="<script>alert(1)</script>")
    status, page = get(served, "/")
    assert status == 200
    assert "connect-src 'self'" in page
    assert "<script>alert(1)" not in page
    assert get(served, "/version")[0] == 200
    for path in ("/a.jsonl", "/../a.jsonl", "/%2e%2e/etc/passwd", "/?x", "/version/"):
        assert get(served, path)[0] == 404
    assert get(served, "/", host="evil.example")[0] == 403  # a name that was made to mean this machine
    assert get(served, "/", method="POST")[0] == 501


def test_a_run_that_is_deleted_leaves_its_last_page(served: int, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="mine")
    before = get(served, "/version")[1]
    assert "12 windows" in get(served, "/")[1]
    (tmp_path / "a.jsonl").unlink()
    assert get(served, "/version")[1] != before
    page = get(served, "/")[1]
    assert "12 windows" in page
    assert "This is the last page that could be made: " in page


def test_a_port_in_use_is_an_error_that_helps(served: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ReportError, match=f"port {served} can't be used .*: choose another with --port"):
        server(LiveReport([], lambda paths: ""), served)
    for port in (served, 70000):
        assert __main__.main([str(tmp_path), "--live", "--port", str(port)]) == 2
    assert "--port" in capsys.readouterr().err


def test_a_page_that_cannot_be_made_is_no_end_and_one_run_does_not_wait_for_another(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="mine")
    fails = [False]

    def make(paths: Any) -> str:
        if fails[0]:
            raise ValueError("a bug")
        return page_of(paths, quiet=True)

    report = LiveReport([str(tmp_path), str(tmp_path / "not yet")], make)
    assert "12 windows" in report.page()
    fails[0] = True
    write(tmp_path / "b.jsonl", name="another")
    assert "This is the last page that could be made: a bug" in report.page()
    fails[0] = False
    assert "another" in report.page()
