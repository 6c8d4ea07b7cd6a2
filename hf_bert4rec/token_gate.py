"""
Who may ask a server: those who send its token, as `Authorization: Bearer TOKEN` or, from a browser, as a password.

*Source:* RFC 6750 (Bearer) and RFC 7617 (Basic).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Collection
from typing import Any

# A browser takes the one that it knows, and asks for the password.
CHALLENGES = ("Bearer", 'Basic realm="hf_bert4rec: the token is the password", charset="UTF-8"')


class TokenGate:
    r"""
    ASGI middleware in front of everything, what is mounted later included.

    Args:
        app: The application behind it.
        token (`str`, *optional*): What requests must bear; without one everybody may ask.
        open_paths (collection of `str`, *optional*): What may be asked without it.
    """

    def __init__(self, app: Any, token: str | None, open_paths: Collection[str] = ()):
        self.app, self.open_paths = app, open_paths
        self.token = None if token is None else token.encode()

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        await self._passed(scope)(scope, receive, send)

    def _passed(self, scope: dict[str, Any]) -> Any:
        """The application, or a refusal."""
        from starlette.responses import JSONResponse

        if scope["type"] == "lifespan" or self.token is None or scope["path"] in self.open_paths:
            return self.app
        given = _token_of(dict(scope["headers"]).get(b"authorization", b""))
        if hmac.compare_digest(given, self.token):
            return self.app
        detail = "A token is needed: send the header 'Authorization: Bearer TOKEN'."
        refusal = JSONResponse({"detail": detail}, 401)
        for challenge in CHALLENGES:
            refusal.headers.append("WWW-Authenticate", challenge)
        return refusal


def check_token(token: str | None) -> None:
    r"""
    Raises:
        ValueError: If the token cannot be sent in a header.

    Example:
        >>> check_token("secret")
    """
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise ValueError("The token must be ASCII text without spaces, and not empty; give another.")


def _token_of(authorization: bytes) -> bytes:
    """What a header bears; nothing where it is of another kind."""
    scheme, _, given = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return given
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
