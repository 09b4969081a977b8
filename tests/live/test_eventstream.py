"""Test django-eventstream, unchanged, with worker threads: a page that reconnects loses nothing."""

from __future__ import annotations

import os
import signal

import pytest
from support.chrome import Chrome, chrome
from support.django_project import DjangoProject
from support.front_ends.servers import AppServer, Lighttpd, Nginx, WebServer
from support.http import request
from support.processes import ProcessGroup, free_port, wait_until

SETTINGS = """
import os
INSTALLED_APPS += ["django_eventstream"]
MIDDLEWARE.insert(0, "django_grip.GripMiddleware")
MIDDLEWARE.insert(0, "django.middleware.gzip.GZipMiddleware")
GRIP_URL = os.environ.get("GRIP_URL", "")
EVENTSTREAM_STORAGE_CLASS = "django_eventstream.storage.DjangoModelStorage"
"""

URLS = """
from django.http import HttpResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from django_eventstream import send_event


@csrf_exempt
def send(request):
    send_event("test", "message", {"number": int(request.GET["number"])})
    return HttpResponse(status=204)


def page(request):
    return HttpResponse(
        '<!doctype html><link rel="icon" href="data:,"><script>'
        "var seen = [], source = new EventSource('/events/');"
        "source.addEventListener('stream-reset', () => seen.push('reset'));"
        "source.onmessage = event => seen.push(JSON.parse(event.data).number);"
        "</script>"
    )


urlpatterns = [
    path("", page),
    path("send", send),
    path("events/", include("django_eventstream.urls"), {"channels": ["test"]}),
]
"""

OPTIONS = ("--threads", "2", "--processes", "1", "--push-stop-spread", "0.2")


@pytest.fixture
def project(processes: ProcessGroup) -> DjangoProject:
    project = DjangoProject(processes)
    project.add(SETTINGS)
    project.views.write_text(URLS)
    made = project.run("migrate", "--verbosity", "0")
    assert made.returncode == 0, made.stderr
    return project


def send(web: WebServer, *numbers: int) -> None:
    for number in numbers:
        assert request(web.port, f"/send?number={number}", method="POST", body=b"").status == 204


def see(page: Chrome, numbers: list[int]) -> None:
    """Wait until a page has got these numbers, in order and each once."""
    wait_until(lambda: len(page.evaluate("seen")) >= len(numbers), f"event {numbers[-1]}")
    assert page.evaluate("seen") == numbers


def check(web: WebServer, supervisor: int, browser: Chrome) -> None:
    """Send events, and reload the server in between."""
    browser.open(f"http://127.0.0.1:{web.port}/")
    wait_until(lambda: browser.evaluate("source.readyState") == 1, "the stream to open")
    send(web, 0, 1, 2)
    see(browser, [0, 1, 2])
    os.kill(supervisor, signal.SIGHUP)
    wait_until(lambda: browser.evaluate("source.readyState") == 0, "the end of the stream")
    send(web, 3, 4)
    see(browser, [0, 1, 2, 3, 4])
    send(web, *range(5, 15))
    see(browser, list(range(15)))
    assert not browser.complaints


def test_behind_nginx(processes: ProcessGroup, project: DjangoProject) -> None:
    bind = f"127.0.0.1:{free_port()}"
    server = AppServer(
        processes, "mysite.wsgi", *OPTIONS, "--push-bind", bind, folder=project.folder
    )
    nginx = Nginx(processes, server)
    with chrome(processes) as browser:
        check(nginx, server.pid, browser)
    assert server.process.stop() == 0
    assert "Traceback" not in server.process.log()


def test_behind_lighttpd(processes: ProcessGroup, project: DjangoProject) -> None:
    options = " ".join((*OPTIONS, "--push-bind", f"127.0.0.1:{free_port()}"))
    lighttpd = Lighttpd(processes, f"{options} mysite.wsgi", folder=project.folder)
    with chrome(processes) as browser:
        check(lighttpd, lighttpd.server_pid, browser)
