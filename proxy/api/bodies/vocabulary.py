"""Types and words that several bodies share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from proxy.api.errors import BLANK_ID
from proxy.profile.errors import NotAvailable, UpstreamError


def about(description: str) -> Meta:
    """Describe a key in the OpenAPI document."""
    return Meta(description=description)


MISSING_WORDS = [kind.word for kind in UpstreamError.__subclasses__()]
"""The error words for missing data."""
RETRY_WORDS = [word for word in MISSING_WORDS if word != NotAvailable.word]
"""The error words that cause a 500 with `on_error=retry`. A retry cannot bring data that is not available."""
MissingWord = Annotated[str, Meta(extra_json_schema={"enum": MISSING_WORDS})]
RetryWord = Annotated[str, Meta(extra_json_schema={"enum": RETRY_WORDS})]
ErrorWord = Annotated[str, Meta(extra_json_schema={"enum": [BLANK_ID, *MISSING_WORDS]})]
Count = Annotated[int, Meta(ge=0)]
LiquidName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_-]*$")]
