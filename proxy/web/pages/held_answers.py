"""Answers that the playground stores, so that it can render without a call while the user types."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from proxy.api.errors import BadRequest
from proxy.liquid.types import Answer, AskForTag, HeldAnswer, Request

MAX_ANSWERS = 20
"""Twice the number of tags in a message, because findings may need further answers."""
_Answers = Annotated[list[HeldAnswer], msgspec.Meta(max_length=MAX_ANSWERS)]


def held_asker(answers: Any) -> AskForTag:
    """Return a function that answers from `answers`, the answers of earlier renderings. Makes no call.

    The answers come from a browser, so they are not trusted: a tag gets only the answer to the same request. Raises
    BadRequest.
    """
    try:
        held = msgspec.convert(answers, _Answers)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"answers is invalid ({error}); send answers of earlier renderings unchanged, at most {MAX_ANSWERS}",
            code="invalid_parameter",
            parameter="answers",
        ) from None

    def ask(request: Request) -> Answer | None:
        for answer in held:
            if answer.request == request:
                return Answer(answer.status, {}, answer.body, 0)
        return None

    return ask
