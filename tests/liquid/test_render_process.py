"""Rendering in child processes: the protocol, the limits, and the end of every child."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from proxy.liquid import render
from proxy.liquid.render_process import AT_ONCE, Child, Renderer
from proxy.liquid.report import report
from proxy.liquid.types import OUR_LIMIT, Answer, Request, User
from proxy.web.pages import playground
from tests.conftest import ROOT
from tests.support.wait import until

USER = User("ä b", "device")
ENDLESS = (
    "{% for i in (1..100) %}{% for j in (1..100) %}" + "{% assign x = i | plus: j %}" * 500 + "{% endfor %}{% endfor %}"
)
MESSAGE = (
    "{% connected_content https://h/v1/cohorts?user_id={{${user_id} | url_param_escape}} :save a %}"
    '{% connected_content https://h/v1/profile :method post :content_type application/json :headers {"Cache-Control": '
    '"no-cache"} :body {"user_id":"{{${user_id}}}"} :save b %}{{ a.name }} {{ b.target }} {{ p.gp:x }}'
)
CALL = "{% connected_content https://h/v1/cohorts :save c %}"


def answer(request: Request) -> Answer:
    return Answer(200, {"age": "3"}, json.dumps({"name": "Zoë", "target": request.target, "body": request.body}), 1.5)


unrelated_pids: set[int] = set()


@pytest.fixture(autouse=True)
def _other_processes() -> None:
    """Note the child processes of other tests, after ending the spare child of the playground."""
    playground.RENDERER.close()
    unrelated_pids.clear()
    unrelated_pids.update(process.pid for process in psutil.Process().children())


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    renderer = Renderer()
    yield renderer
    renderer.close()


def rendered(renderer: Renderer, template: str, ask: Callable[[Request], Answer] = answer) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(renderer.render(template, USER, ask))
    return result


def children() -> list[psutil.Process]:
    """Return the rendering children of this process, including zombies."""
    own = [process for process in psutil.Process().children() if process.pid not in unrelated_pids]
    return [process for process in own if process.status() == psutil.STATUS_ZOMBIE or is_child(process)]


def is_child(process: psutil.Process) -> bool:
    return "proxy.liquid.render_child" in process.cmdline()


def test_child__message_with_calls__same_report_as_in_this_process() -> None:
    requests_seen: list[Request] = []

    def ask(request: Request) -> Answer:
        requests_seen.append(request)
        return answer(request)

    expected = report(render.render(MESSAGE, USER, ask))
    with Child() as child:
        received = json.loads(child.render(MESSAGE, USER, ask))
    assert [Request(**held["request"]) for held in received["answers"]] == requests_seen[2:]
    assert received | {"answers": []} == expected
    assert requests_seen[:2] == requests_seen[2:]
    assert expected["message"] == "Zoë /v1/profile "
    assert expected["findings"]


def test_child__lone_surrogates__rendered_as_in_this_process() -> None:
    template = "\ud800 {{${user_id}}}" + CALL
    with Child() as child:
        result = json.loads(child.render(template, User("\udfff"), answer))
    assert result["message"] == render.render(template, User("\udfff"), answer).message


def test_child__time_limit_exceeded__report_names_the_limit() -> None:
    with Child() as child:
        result = json.loads(child.render(ENDLESS, USER, answer, seconds=0.2))
    assert result["outcome"] == "refused"
    assert "rendering takes longer than 0.2 s" in result["reason"]


@pytest.mark.contract("3 playground process")
def test_child__does_not_end_after_the_time_limit__killed() -> None:
    with Child() as child:
        os.kill(child.process.pid, signal.SIGSTOP)
        result = json.loads(child.render("a", USER, answer, seconds=0.1, grace_seconds=0.1))
        until(lambda: child.process.poll() is not None)
    assert result == {
        **result,
        "outcome": "refused",
        "reason": "rendering takes longer than 0.1 s; simplify the message; " + OUR_LIMIT,
    }


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit the address space")
def test_child__exceeds_the_memory_limit__refused() -> None:
    with Child() as child:
        result = json.loads(child.render("{% for i in (1..1000000000) reversed %}{% endfor %}", USER, answer))
    assert result == {
        **result,
        "outcome": "refused",
        "reason": "rendering takes too much memory; " + OUR_LIMIT,
    }


def test_child__killed_by_the_system__refused() -> None:
    with Child() as child:

        def ask(request: Request) -> Answer:
            os.kill(child.process.pid, signal.SIGKILL)
            return answer(request)

        result = json.loads(child.render(CALL, USER, ask))
    assert result == {
        **result,
        "outcome": "refused",
        "reason": "rendering takes too much memory or time; simplify the message; " + OUR_LIMIT,
    }


def test_child__internal_error__refused() -> None:
    no_text: Any = 5
    with Child() as child:
        result = json.loads(child.render(no_text, USER, answer))
    assert result["outcome"] == "refused"
    assert "an internal error" in result["reason"]


def test_child__call_raises__exception_propagates_and_process_ends() -> None:
    class CallError(Exception):
        pass

    def ask(request: Request) -> Answer:
        raise CallError

    with pytest.raises(CallError), Child() as child:
        child.render(CALL, USER, ask)
    assert child.process.poll() is not None


def test_child__call_with_a_huge_body__refused_without_a_call() -> None:
    requests_seen: list[Request] = []

    def ask(request: Request) -> Answer:
        requests_seen.append(request)
        return answer(request)

    body = "{% capture x %}{% for i in (1..9999) %}aaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endcapture %}"
    template = body + "{% connected_content https://h/v1/cohorts :method post :body {{x}}{{x}} :save c %}"
    with Child() as child:
        result = json.loads(child.render(template, USER, ask))
    assert result["outcome"] == "refused"
    assert not requests_seen


def test_child__secrets_in_the_environment__not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AMPLITUDE_SECRET_KEY", "PROXY_API_KEYS", "REDIS_URL", "BRAZE_SECRET"):
        monkeypatch.setenv(name, "hidden-value")
    with Child() as child:
        environment = psutil.Process(child.process.pid).environ()
    assert "hidden-value" not in environment.values()
    assert set(environment) <= {
        *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH"),
        *("DYLD_LIBRARY_PATH", "__CF_USER_TEXT_ENCODING"),  # macOS
    }


def test_child__sockets_of_clients__not_inherited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Child() as child:
        listener.set_inheritable(True)
        with socket.create_connection(listener.getsockname()) as client:
            client.set_inheritable(True)
            with Child() as second:
                assert not psutil.Process(child.process.pid).net_connections()
                assert not psutil.Process(second.process.pid).net_connections()


@pytest.mark.slow
def test_child__parent_is_killed_during_a_rendering__ends() -> None:
    program = (
        "from proxy.liquid.render_process import Child\nfrom proxy.liquid.types import Answer, User\n"
        "child = Child()\n"
        "def ask(request):\n    print(child.process.pid, flush=True)\n    return Answer(200, {}, '{}', 1.0)\n"
        f"child.render({CALL + ENDLESS!r}, User(), ask, seconds=60.0)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))  # the child is rendering
        parent.kill()
        parent.wait()
    assert child.wait(5) is None  # not a child of this process, so without a status


def test_renderer__second_message__rendered_by_the_spare_child(renderer: Renderer) -> None:
    assert not children()
    template = "{% increment x %}{{ secret }}{% assign secret = 'a' %}"
    assert [rendered(renderer, template)["message"] for _ in range(3)] == ["0", "0", "0"]
    (ready,) = children()
    assert rendered(renderer, "b")["message"] == "b"
    assert not ready.is_running()
    assert len(children()) == 1


def test_renderer__no_message_for_a_while__spare_child_ended_and_reaped() -> None:
    renderer = Renderer(idle_seconds=0.1)
    rendered(renderer, "a")
    until(lambda: not children())
    assert rendered(renderer, "b")["message"] == "b"
    renderer.close()
    assert not children()


def test_renderer__spare_child_was_killed__next_message_rendered(renderer: Renderer) -> None:
    rendered(renderer, "a")
    (ready,) = children()
    ready.kill()
    until(lambda: ready.status() == psutil.STATUS_ZOMBIE)
    assert rendered(renderer, "b")["message"] == "b"


def test_renderer__too_many_messages__refused_at_once(renderer: Renderer) -> None:
    reached, resume = threading.Semaphore(0), threading.Event()

    def ask(request: Request) -> Answer:
        reached.release()
        assert resume.wait(10)
        return answer(request)

    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(rendered(renderer, CALL, ask)["outcome"]))
        for _ in range(AT_ONCE)
    ]
    for thread in threads:
        thread.start()
        assert reached.acquire(timeout=10)
    refused = rendered(renderer, "a")
    resume.set()
    for thread in threads:
        thread.join(10)
    assert refused["reason"] == "the preview is busy with other messages; try again in a moment"
    assert outcomes == ["sent"] * AT_ONCE
    assert rendered(renderer, "a")["outcome"] == "sent"
