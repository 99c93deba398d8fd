"""Uses the state that is shared through Redis only if it belongs to the same connection to Braze."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from proxy.storage.sent_values import Sent
from proxy.sync.state import AcceptedValues, SentState

_log = logging.getLogger(__name__)


class OwnedState:
    """Accepted values for an endpoint and a key. Uses `shared`, or `local` if `shared` has another owner.

    The first call of `digest`, `sent` or `record` makes the endpoint and the key the owner of a state without an owner.
    Methods raise the errors of `shared`.
    """

    def __init__(self, shared: SentState, local: AcceptedValues, endpoint: str, api_key: str) -> None:
        self._shared = shared
        self._local = local
        self._endpoint = endpoint
        self._api_key = api_key
        self._chosen: AcceptedValues | None = None

    def digest(self, value: object) -> bytes:
        """Return the keyed digest of a JSON value."""
        return self._state().digest(value)

    def sent(self, user_ids: Sequence[str]) -> list[Mapping[str, Sent]]:
        """Return the accepted attributes of each user."""
        return self._state().sent(user_ids)

    def record(self, accepted: Sequence[tuple[str, Mapping[str, Sent]]]) -> None:
        """Store accepted attributes."""
        self._state().record(accepted)

    def forget(self, user_ids: Sequence[str]) -> int:
        """Remove users from both states."""
        return self._local.forget(user_ids) + self._shared.forget(user_ids)

    def _state(self) -> AcceptedValues:
        if self._chosen is None:
            differing = self._shared.differing(self._endpoint, self._api_key)
            if differing:
                _log.warning("sync_state_of_another_connection", extra={"settings": ",".join(differing)})
                self._chosen = self._local
            else:
                self._shared.claim(self._endpoint, self._api_key, clear=False)
                self._chosen = self._shared
        return self._chosen
