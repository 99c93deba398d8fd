"""Uses the state that is shared through Redis only if it belongs to the same connection to Braze."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from proxy.storage.accepted_values import AcceptedValue
from proxy.sync.state import AcceptedValues

if TYPE_CHECKING:
    from proxy.storage.redis.sync_state import RedisSyncState

_log = logging.getLogger(__name__)


class OwnedState:
    """Accepted values for an endpoint and a key. Uses `shared`, or `local` if `shared` has another owner.

    The first recorded value makes the endpoint and the key the owner of a state without an owner. Methods raise the
    errors of `shared`.
    """

    def __init__(self, shared: RedisSyncState, local: AcceptedValues, endpoint: str, api_key: str) -> None:
        self._shared = shared
        self._local = local
        self._endpoint = endpoint
        self._api_key = api_key
        self._uses_shared = True

    def digest(self, value: object) -> bytes:
        """Return the keyed digest of a JSON value."""
        return self._shared.digest(value) if self._uses_shared else self._local.digest(value)

    def read(self, user_ids: Sequence[str]) -> list[Mapping[str, AcceptedValue]]:
        """Return the accepted attributes of each user."""
        # Each time, because a run of sync can take over the state for another key.
        differing_names = self._shared.compare_owner(self._endpoint, self._api_key)
        if differing_names and self._uses_shared:
            _log.warning("sync_state_of_another_connection", extra={"settings": ",".join(differing_names)})
        self._uses_shared = not differing_names
        return self._local.read(user_ids) if differing_names else self._shared.read(user_ids)

    def record(self, accepted: Sequence[tuple[str, Mapping[str, AcceptedValue]]]) -> None:
        """Store accepted attributes."""
        if not (self._uses_shared and self._shared.record_as_owner(accepted, self._endpoint, self._api_key)):
            self._local.record(accepted)

    def forget(self, user_ids: Sequence[str]) -> int:
        """Remove users from both states."""
        return self._local.forget(user_ids) + self._shared.forget(user_ids)
