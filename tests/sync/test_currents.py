"""The conversion of Braze's events. The examples have the form of Braze's samples for the custom HTTP connector."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.sync.currents import event_name, to_amplitude
from tests.support.batch_upstream import braze_event

NAMES = {
    "agentconsole.AgentExecuted": "Agent Console Agent Executed",
    "agentconsole.ToolInvocation": "Agent Console Tool Invocation",
    "users.RandomBucketNumberUpdate": "Users Random Bucket Number Update",
    "users.UserOrphan": "Users User Orphan",
    "users.behaviors.InstallAttribution": "Behaviors Install Attribution",
    "users.behaviors.Location": "Behaviors Location",
    "users.behaviors.Uninstall": "Behaviors Uninstall",
    "users.behaviors.app.FirstSession": "App First Session",
    "users.behaviors.app.SessionEnd": "App Session End",
    "users.behaviors.liveactivity.PushToStartTokenChange": "Live Activity Push To Start Token Change",
    "users.behaviors.pushnotification.TokenStateChange": "Push Notification Token State Change",
    "users.behaviors.subscription.GlobalStateChange": "Subscription Global State Change",
    "users.behaviors.subscriptiongroup.StateChange": "Subscription Group State Change",
    "users.campaigns.EnrollInControl": "Campaigns Enroll In Control",
    "users.canvas.Entry": "Canvas Entry",
    "users.canvas.costep.Send": "Content Optimizer Step Send",
    "users.canvas.exit.MatchedAudience": "Exit Matched Audience",
    "users.canvas.experimentstep.SplitEntry": "Experiment Step Split Entry",
    "users.canvas.sendtodestination.NotSent": "Send To Destination Not Sent",
    "users.canvasstep.Progression": "Canvas Step Progression",
    "users.contentoptimizer.ComponentStore": "Content Optimizer Component Store",
    "users.messages.banner.Dismiss": "Banner Dismiss",
    "users.messages.contentcard.Impression": "Content Card Impression",
    "users.messages.email.MarkAsSpam": "Email Mark As Spam",
    "users.messages.email.Open": "Email Open",
    "users.messages.featureflag.Impression": "Feature Flag Impression",
    "users.messages.inappmessage.Click": "In-App Message Click",
    "users.messages.landingpage.FormSubmission": "Landing Page Form Submission",
    "users.messages.line.InboundReceive": "LINE Inbound Receive",
    "users.messages.liveactivity.Outcome": "Live Activity Outcome",
    "users.messages.newsfeedcard.Click": "News Feed Card Click",
    "users.messages.pushnotification.IosForeground": "Push Notification iOS Foreground",
    "users.messages.pushnotification.Send": "Push Notification Send",
    "users.messages.rcs.Read": "RCS Read",
    "users.messages.sms.ShortLinkClick": "SMS Short Link Click",
    "users.messages.survey.Response": "Survey Response",
    "users.messages.webhook.Failure": "Webhook Failure",
    "users.messages.whatsapp.InboundReceive": "WhatsApp Inbound Receive",
    "users.messages.hologram.WaveHand": "Hologram Wave Hand",
    "single": "Single",
}


@pytest.mark.contract("8 names")
@pytest.mark.parametrize(("event_type", "name"), NAMES.items())
def test_event_name__documented_event_type__words_of_the_last_two_parts(event_type: str, name: str) -> None:
    assert event_name(event_type) == name
    converted = to_amplitude(braze_event("1", event_type))
    assert isinstance(converted, dict)
    assert converted["event_type"] == f"[Braze] {name}"


@pytest.mark.parametrize("field", ["id", "external_user_id", "device_id"])
def test_to_amplitude__half_of_a_surrogate_pair_in_an_id__unreadable(field: str) -> None:
    event = braze_event("1")
    (event if field == "id" else event["user"])[field] = "a\ud800"
    assert to_amplitude(event) == "unreadable"


@pytest.mark.contract("8 events")
def test_to_amplitude__message_event__every_field_of_the_contract() -> None:
    assert to_amplitude(braze_event("f47ac10b", properties={"send_id": "s", "machine_open": "true"})) == {
        "user_id": "user-of-f47ac10b",
        "device_id": "device-of-f47ac10b",
        "event_type": "[Braze] Email Open",
        "time": 1_700_000_000_000,
        "insert_id": "f47ac10b",
        "event_properties": {"send_id": "s", "machine_open": "true"},
        "user_properties": {},
    }


@pytest.mark.contract("8 events")
def test_to_amplitude__custom_event__named_by_its_name_with_custom_properties_as_they_are() -> None:
    custom = {"list": ["a"], "number": 1, "name": "of the property", "nested": {"a": [1]}, "app_id": "own"}
    converted = to_amplitude(
        braze_event(
            "1",
            "users.behaviors.CustomEvent",
            properties={"name": "Order rated", "app_id": "app", "platform": "ios", "custom_properties": custom},
        )
    )
    assert isinstance(converted, dict)
    assert converted["event_type"] == "[Braze] Custom Event: Order rated"
    assert converted["event_properties"] == custom | {"platform": "ios"}


@pytest.mark.contract("8 events")
def test_to_amplitude__purchase__product_price_and_custom_properties() -> None:
    bought = {"product_id": "shoe", "price": 3.14, "currency": "USD"}
    converted = to_amplitude(
        braze_event(
            "1",
            "users.behaviors.Purchase",
            properties=bought | {"purchase_properties": {"colour": "red", "price": "custom"}},
        )
    )
    assert isinstance(converted, dict)
    assert converted["event_type"] == "[Braze] Purchase"
    assert converted["event_properties"] == bought | {"colour": "red"}
    assert "price" not in converted, "Amplitude would count the purchase as revenue a second time"


@pytest.mark.contract("8 events")
@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ({"external_user_id": "u", "device_id": None}, {"user_id": "u"}),
        ({"device_id": "d"}, {"device_id": "d"}),
        ({"external_user_id": " ", "device_id": "d"}, {"device_id": "d"}),
    ],
)
def test_to_amplitude__one_id__only_this_id(user: dict[str, Any], ids: dict[str, str]) -> None:
    converted = to_amplitude(braze_event("1", user=user))
    assert isinstance(converted, dict)
    assert {name: value for name, value in converted.items() if name in ("user_id", "device_id")} == ids


@pytest.mark.contract("8 events")
@pytest.mark.parametrize("user", [None, {}, {"user_id": "of Braze"}, {"external_user_id": "", "device_id": "\n"}])
def test_to_amplitude__neither_id__no_id(user: Any) -> None:
    assert to_amplitude(braze_event("1", user=user)) == "no_id"


@pytest.mark.contract("8 events")
@pytest.mark.parametrize(
    "event",
    [
        None,
        "text",
        [],
        {},
        braze_event(""),
        braze_event("1", ""),
        braze_event("1", "..."),
        braze_event("1", time=None),
        braze_event("1", time=True),
        braze_event("1", time="2026-11-28"),
        braze_event("1", time=-1),
        braze_event("1", user=["u"]),
        braze_event("1", user={"external_user_id": 3}),
        braze_event("1", properties=[1]),
        braze_event("1", "users.behaviors.CustomEvent", properties={"custom_properties": {}}),
        {name: value for name, value in braze_event("1").items() if name != "id"},
    ],
)
def test_to_amplitude__invalid_event__unreadable(event: Any) -> None:
    assert to_amplitude(event) == "unreadable"


def test_to_amplitude__unknown_fields_and_fraction_of_a_second__read() -> None:
    converted = to_amplitude(braze_event("1", time=1_700_000_000.25, properties=None, new_field={"a": 1}))
    assert isinstance(converted, dict)
    assert (converted["time"], converted["event_properties"]) == (1_700_000_000_250, {})
