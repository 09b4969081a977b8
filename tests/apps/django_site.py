"""Django project with a form, uploads, cookies, a stream and a login, without a database."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from apps.checked import checked
from django.conf import settings  # type: ignore[import-untyped]
from django.core.wsgi import get_wsgi_application  # type: ignore[import-untyped]
from django.http import (  # type: ignore[import-untyped]
    HttpResponse,
    HttpResponseForbidden,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token  # type: ignore[import-untyped]
from django.urls import path, reverse  # type: ignore[import-untyped]

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="known to every reader of the tests",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    USE_TZ=True,
)


def token(request: Any) -> HttpResponse:
    """Give the token that every form has to have."""
    return HttpResponse(get_token(request))


def url(request: Any) -> HttpResponse:
    return HttpResponse(reverse("form"))


def form(request: Any) -> JsonResponse:
    fields = request.POST.dict()
    fields.pop("csrfmiddlewaretoken")
    return JsonResponse(fields)


def upload(request: Any) -> JsonResponse:
    found = {}
    for name, file in request.FILES.items():
        digest = hashlib.sha256()
        for chunk in file.chunks():
            digest.update(chunk)
        found[name] = {"filename": file.name, "length": file.size, "sha256": digest.hexdigest()}
    return JsonResponse({"files": found, "fields": {"note": request.POST["note"]}})


def cookie(request: Any) -> JsonResponse:
    response = JsonResponse(request.COOKIES)
    response.set_cookie("visited", "\u00e4; yes", httponly=True)
    response.set_cookie("second", "2")
    return response


def stream(request: Any) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        for number in range(20000):
            yield f"line {number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


def login(request: Any) -> HttpResponse:
    if request.POST["password"] != "right":
        return HttpResponseForbidden()
    request.session["user"] = request.POST["user"]
    return HttpResponseRedirect(reverse("private"))


def private(request: Any) -> HttpResponse:
    if "user" not in request.session:
        return HttpResponse(status=401)
    return HttpResponse(f"only for {request.session['user']}")


def logout(request: Any) -> HttpResponse:
    request.session.flush()
    return HttpResponse("gone")


def fail(request: Any) -> HttpResponse:
    raise RuntimeError("the view failed")


_VIEWS = (token, url, form, upload, cookie, stream, login, private, logout, fail)
urlpatterns = [path(view.__name__, view, name=view.__name__) for view in _VIEWS]

app = checked(get_wsgi_application())
