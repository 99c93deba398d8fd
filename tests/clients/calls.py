"""Calls every operation through the generated Python client, and checks a field of each answer.

Usage: calls.py URL SECRET. Prints the method and path of each request.
"""

from __future__ import annotations

import sys
import time
from io import BytesIO
from typing import TypeVar

import httpx
from generated_client import AuthenticatedClient
from generated_client.api.data import (
    delete_profile,
    get_cohorts,
    get_computations,
    get_profile,
    get_propensities,
    get_properties,
    get_recommendations,
    post_cohorts,
    post_computations,
    post_profile,
    post_propensities,
    post_properties,
    post_recommendations,
)
from generated_client.api.drop_in import get_userprofile, post_userprofile
from generated_client.api.operation import get_health, get_metrics, get_readiness, get_status
from generated_client.api.playground import render_message
from generated_client.api.snapshots import delete_snapshot, get_snapshots, put_snapshot
from generated_client.api.webhooks import post_amplitude_cohorts, post_amplitude_users, post_braze_currents
from generated_client.models import (
    CohortMessage,
    CohortsAnswer,
    CohortsRequest,
    CohortUser,
    ComputationsAnswer,
    ComputationsRequest,
    CurrentsEvent,
    CurrentsEventProperties,
    CurrentsMessage,
    CurrentsResult,
    CurrentsUser,
    ErrorWord,
    ForgetResult,
    Health,
    Message,
    NotSeenBefore,
    OnError,
    Problem,
    ProblemCode,
    ProfileAnswer,
    ProfileRequest,
    PropensitiesAnswer,
    PropensitiesRequest,
    PropensityType,
    PropertiesAnswer,
    PropertiesRequest,
    Readiness,
    ReadinessStatus,
    RecommendationsAnswer,
    RecommendationsRequest,
    Rendering,
    RenderingOutcome,
    Scope,
    Section,
    SnapshotList,
    SnapshotRemoval,
    SnapshotResult,
    Status,
    UserMessage,
    UserMessageUserProperties,
    UserProfile,
    UserprofileRequest,
    WebhookResult,
)
from generated_client.types import File

ITEMS = ["trail-shoe", "rain-shell", "head-torch"]
Answer = TypeVar("Answer")


def expect(kind: type[Answer], answer: object) -> Answer:
    assert isinstance(answer, kind), answer
    return answer


def print_operation(request: httpx.Request) -> None:
    print(request.method, request.url.path)


def call_data_routes(client: AuthenticatedClient) -> None:
    items = expect(
        RecommendationsAnswer,
        get_recommendations.sync(client=client, user_id="ava", rec_id=["homepage", "also-bought"]),
    )
    assert items.items == ITEMS
    assert [entry.rec_id for entry in items.recommendations] == ["homepage", "also-bought"]
    items = expect(
        RecommendationsAnswer,
        post_recommendations.sync(client=client, body=RecommendationsRequest(user_id="ava", rec_id=["homepage"])),
    )
    assert items.recommendations_by_id["homepage"].items == ITEMS

    properties = expect(PropertiesAnswer, get_properties.sync(client=client, user_id="ava", keys=["first_name"]))
    assert properties.properties["first_name"] == "Ava"
    properties = expect(
        PropertiesAnswer,
        post_properties.sync(client=client, body=PropertiesRequest(user_id="ava", keys=["loyalty_points", "a, b"])),
    )
    assert properties.properties_by_name.to_dict() == {"loyalty_points": 420, "a, b": None}

    cohorts = expect(
        CohortsAnswer,
        get_cohorts.sync(client=client, user_id="ava", on_error=OnError.RETRY, cohort_id=["vip", "newsletter"]),
    )
    assert cohorts.cohort_ids == ["vip"]
    assert cohorts.is_member is False
    cohorts = expect(
        CohortsAnswer, post_cohorts.sync(client=client, body=CohortsRequest(user_id="ava", cohort_id=["vip"]))
    )
    assert cohorts.member["vip"] is True

    computations = expect(
        ComputationsAnswer, get_computations.sync(client=client, user_id="ava", comp_id=["comp-orders"])
    )
    assert computations.computations["orders"] == 12
    computations = expect(
        ComputationsAnswer, post_computations.sync(client=client, body=ComputationsRequest(device_id="device-ava"))
    )
    assert computations.user_id == "ava"

    propensities = expect(
        PropensitiesAnswer, get_propensities.sync(client=client, user_id="ava", prediction_id=["pred-buy"])
    )
    assert propensities.propensity == 0.83
    propensities = expect(
        PropensitiesAnswer,
        post_propensities.sync(
            client=client,
            body=PropensitiesRequest(user_id="ava", prediction_id=["pred-buy"], propensity_type=PropensityType.PCT),
        ),
    )
    assert propensities.propensities[0].value == 97

    profile = expect(
        ProfileAnswer,
        get_profile.sync(
            client=client, user_id="ava", include=[Section.COHORTS, Section.PROPERTIES], keys=["first_name"]
        ),
    )
    assert profile.cohort_ids == ["vip", "c31"]
    profile = expect(
        ProfileAnswer,
        post_profile.sync(
            client=client,
            body=ProfileRequest(user_id="ava", include=[Section.RECOMMENDATIONS], rec_id=["homepage"]),
        ),
    )
    assert profile.items == ITEMS

    anonymous = expect(CohortsAnswer, get_cohorts.sync(client=client, user_id=""))
    assert anonymous.error is ErrorWord.BLANK_ID

    current = get_cohorts.sync_detailed(client=client, user_id="ava")
    unchanged = get_cohorts.sync_detailed(client=client, user_id="ava", if_none_match=current.headers["ETag"])
    assert unchanged.status_code == 304
    assert expect(ForgetResult, delete_profile.sync(client=client, user_id="ava")).records > 0


def call_drop_in(client: AuthenticatedClient) -> None:
    known = expect(
        UserProfile, get_userprofile.sync(client=client, user_id="ava", get_cohort_ids=True, get_amp_props=False)
    )
    assert known.user_data.cohort_ids == ["vip", "c31"]
    known = expect(
        UserProfile,
        post_userprofile.sync(
            client=client, body=UserprofileRequest(user_id="ava", get_recs=True, rec_id=["homepage"])
        ),
    )
    assert known.user_data.recommendations
    assert known.user_data.recommendations[0].items == ITEMS
    unknown = get_userprofile.sync(client=client, user_id="unknown-user", get_cohort_ids=True)
    expect(NotSeenBefore, unknown)
    problem = expect(Problem, get_userprofile.sync(client=client, user_id="ava", get_recs=True))
    assert problem.parameter == "rec_id"


def call_webhooks(client: AuthenticatedClient) -> None:
    message = CohortMessage(
        cohort_id="c9", in_cohort=True, computed_time=str(int(time.time())), users=[CohortUser(user_id="eve")]
    )
    assert expect(WebhookResult, post_amplitude_cohorts.sync(client=client, body=message)).applied == 1
    user = UserMessage(
        user_id="eve",
        user_properties=UserMessageUserProperties.from_dict({"plan": "gold"}),
        event_time=str(time.time()),
    )
    for body in (user, [user]):
        assert expect(WebhookResult, post_amplitude_users.sync(client=client, body=body)).applied == 1
    cohorts = expect(CohortsAnswer, get_cohorts.sync(client=client, user_id="eve", cohort_id=["c9"]))
    assert cohorts.is_member is True
    event = CurrentsEvent(
        event_type="users.messages.email.Open",
        id="1",
        time=1767225600,
        user=CurrentsUser(external_user_id="eve"),
        properties=CurrentsEventProperties.from_dict({"campaign_name": "Spring sale"}),
    )
    relayed = post_braze_currents.sync(client=client, body=CurrentsMessage(events=[event]))
    assert expect(CurrentsResult, relayed).accepted == 1


def call_snapshots(client: AuthenticatedClient) -> None:
    lines = File(payload=BytesIO(b'"fay"\n"eve"\n'))
    installed = put_snapshot.sync(client=client, cohort_id="c77", body=lines, as_of=str(int(time.time())))
    assert expect(SnapshotResult, installed).members == 2
    listed = expect(SnapshotList, get_snapshots.sync(client=client))
    assert [snapshot.cohort_id for snapshot in listed.snapshots] == ["c77"]
    assert listed.cache.records > 0
    assert listed.cache.evictions == 0
    cohorts = expect(CohortsAnswer, get_cohorts.sync(client=client, user_id="eve", cohort_id=["c77"]))
    assert cohorts.is_member is True
    older = put_snapshot.sync(client=client, cohort_id="c77", body=File(payload=BytesIO(b'"ava"')), as_of="1")
    assert expect(Problem, older).parameter == "as_of"
    assert expect(SnapshotRemoval, delete_snapshot.sync(client=client, cohort_id="c77")).removed
    assert expect(Problem, delete_snapshot.sync(client=client, cohort_id="c77")).code is ProblemCode.NOT_FOUND


def call_operation_and_playground(client: AuthenticatedClient) -> None:
    assert isinstance(expect(Health, get_health.sync(client=client)).version, str)
    assert expect(Readiness, get_readiness.sync(client=client)).status is ReadinessStatus.OK
    assert "proxy_build_info" in expect(str, get_metrics.sync(client=client))
    assert expect(Status, get_status.sync(client=client)).callers[0].scope is Scope.ADMIN
    message = Message(
        template="{% connected_content https://host/v1/cohorts?user_id={{${user_id}}} :save c %}{{ c.cohort_ids }}",
        user_id="ava",
    )
    rendering = expect(Rendering, render_message.sync(client=client, body=message))
    assert rendering.outcome is RenderingOutcome.SENT
    assert rendering.tags[0].called == "/v1/cohorts"


def get_errors(client: AuthenticatedClient, stranger: AuthenticatedClient) -> None:
    problem = expect(Problem, get_cohorts.sync(client=client))
    assert problem.code is ProblemCode.MISSING_PARAMETER
    problem = expect(Problem, post_cohorts.sync(client=client, body=CohortsRequest(user_id="u" * 513)))
    assert (problem.code, problem.parameter) == (ProblemCode.INVALID_PARAMETER, "user_id")
    refused = get_cohorts.sync_detailed(client=stranger, user_id="ava")
    assert refused.status_code == 401
    assert expect(Problem, refused.parsed).code is ProblemCode.UNAUTHORIZED


def main(url: str, secret: str) -> None:
    options = {"event_hooks": {"request": [print_operation]}}
    client = AuthenticatedClient(url, token=secret, raise_on_unexpected_status=True, httpx_args=options)
    call_data_routes(client)
    call_drop_in(client)
    call_webhooks(client)
    call_snapshots(client)
    call_operation_and_playground(client)
    get_errors(client, AuthenticatedClient(url, token="wrong", raise_on_unexpected_status=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
