"""One HTTP POST of JSON to somebody who wants to be told."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from nodeagent.errors import DeniedError, GoneError, HostError

MOST_TOKEN_BYTES = 16384


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry our token to somebody else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post(url: str, document: dict[str, Any], token: str = "", timeout_seconds: float = 5.0) -> None:
    """Returns when the other side has answered with 2xx.

    GoneError: it cannot be reached, or asks to try again later (429, 5xx). DeniedError: it refuses (other 4xx), which
    trying again would not change.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "nodeagent"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(document).encode(), headers, method="POST")  # noqa: S310 - the schema
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=timeout_seconds) as answer:
            answer.read(MOST_TOKEN_BYTES)
    except urllib.error.HTTPError as error:
        error.close()
        later = error.code == http.client.TOO_MANY_REQUESTS or error.code >= http.client.INTERNAL_SERVER_ERROR
        kind = GoneError if later else DeniedError
        raise kind("post to", url, f"the answer was {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise GoneError("post to", url, str(error) or type(error).__name__) from error


def read_token(path: str) -> str:
    """The token in a file, "" without one. HostError where it cannot be read."""
    if not path:
        return ""
    try:
        with open(path, encoding="ascii") as file:
            return file.read(MOST_TOKEN_BYTES).strip()
    except (OSError, ValueError) as error:
        raise HostError("read", path, str(error)) from error
