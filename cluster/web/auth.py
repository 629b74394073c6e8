"""Who may send batches: whoever brings the hub's token."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cluster.web.state import HubPart

_SCHEME = HTTPBearer(auto_error=False, description="The token in the hub's settings, if any.")


async def require_token(
    hub: HubPart, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_SCHEME)]
) -> None:
    """Let a request pass that brings the hub's token; a hub without a token lets all pass.

    Raises:
        HTTPException: 401. The comparison takes the same time wherever the texts differ.
    """
    if hub.token is None:
        return
    brought = given.credentials if given else ""
    if not hmac.compare_digest(brought.encode(), hub.token.encode()):
        raise HTTPException(
            401, "this hub asks for a token", headers={"WWW-Authenticate": "Bearer"}
        )
