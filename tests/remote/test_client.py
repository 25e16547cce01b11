"""The client against a server with faults: what each costs and says."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from servers import Said, Script, Server, completion, question, refusal, serve

from wdl.errors import UserError
from wdl.remote.client import RECENT, Client, Unanswered
from wdl.remote.endpoint import Budget, Endpoint, Usage
from wdl.remote.replies import Reply

KEY = "sk-very-secret-0123"


def endpoint(server: Server, **settings: Any) -> Endpoint:
    return Endpoint(**{"url": server.url, "model": "m", "timeout": 5.0, **settings})


def bodies(end: Endpoint, names: Iterator[str] | list[str], **fields: Any) -> list:
    return [(name, end.body([{"role": "user", "content": name}], **fields)) for name in names]


def ask(end: Endpoint, names: list[str], whole: bool = True, **fields: Any) -> dict[Any, Reply]:
    batches = Client(end, whole).ask(bodies(end, names, **fields))
    return {reply.key: reply for batch in batches for reply in batch}


def first_time(fault: Said) -> Script:
    """The fault at first, an answer when the same request comes again."""
    return lambda body, n: fault if n == 0 else completion(question(body).upper())


def test_replies_are_those_to_their_requests() -> None:
    names = [f"q{n}" for n in range(100)]
    with serve(lambda body, n: completion(question(body).upper())) as server:
        found = ask(endpoint(server, in_flight=8, extra={"top_k": 3}), names, temperature=0.5)
    assert {name: reply.text for name, reply in found.items()} == {n: n.upper() for n in names}
    assert found["q1"].usage == Usage(5, 7)
    assert sorted(server.questions) == sorted(names)
    assert 1 < server.most <= 8
    one = next(body for body in server.bodies if question(body) == "q1")
    assert (one["model"], one["top_k"], one["temperature"]) == ("m", 3, 0.5)


@pytest.mark.parametrize(
    ("fault", "at_least"),
    [
        (refusal(429, retry_after="1"), 1.0),
        (refusal(500), 0.3),
        (refusal(408), 0.3),
        (refusal(409), 0.3),
        (completion("late", seconds=1.5), 0.5),
    ],
    ids=["429", "500", "408", "409", "hang"],
)
def test_what_passes_is_sent_again(fault: Said, at_least: float) -> None:
    start = time.monotonic()
    with serve(first_time(fault)) as server:
        found = ask(endpoint(server, timeout=0.5), ["a", "b"])
    assert {reply.text for reply in found.values()} == {"A", "B"}
    assert {reply.tries for reply in found.values()} == {2}
    assert time.monotonic() - start >= at_least
    assert len(server.bodies) == 4


def test_a_server_that_is_not_there() -> None:
    end = Endpoint(url="http://127.0.0.1:9/v1", model="m", retries=1)
    with pytest.raises(Unanswered, match=r"1 requests got no reply.*127\.0\.0\.1:9.*no connection"):
        ask(end, ["a"])


def test_a_server_that_speaks_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"SSH-2.0 hello\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        end = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", "m", retries=0)
        with pytest.raises(Unanswered, match="no connection"):
            ask(end, ["a"])
        thread.join()


def test_fewer_are_under_way_after_429() -> None:
    names = [f"q{n}" for n in range(64)]
    most: list[int] = []

    def script(body: dict, n: int) -> Said:
        if len(server.bodies) <= 16:
            return refusal(429, retry_after="0.2")
        most.append(server.under_way)
        return completion("x", seconds=0.3)

    with serve(script) as server:
        found = ask(endpoint(server, in_flight=16), names)
    assert len(found) == len(names)
    assert max(most[:16]) <= 10  # 8, and one more for each 8 that were answered
    assert max(most) > max(most[:16])


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_bad_request_fails_alone(status: int) -> None:
    def script(body: dict, n: int) -> Said:
        return refusal(status, "too long") if question(body) == "b" else completion("x")

    with serve(script) as server:
        found = ask(endpoint(server), ["a", "b", "c"])
    assert found["b"].refused == f"HTTP {status} (too long)"
    assert {name for name, reply in found.items() if not reply.refused} == {"a", "c"}
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses the key that MY_KEY holds"),
        (403, "refuses the key that MY_KEY holds"),
        (404, r"HTTP 404 \(no such model: m, .*\*\*\*.*\); check url and model \(m\)"),
    ],
)
def test_a_refused_key_or_model_ends_all(status: int, said: str) -> None:
    os.environ["MY_KEY"] = KEY
    with serve(lambda body, n: refusal(status, f"no such model: m, {KEY}")) as server:
        with pytest.raises(UserError, match=said) as error:
            ask(endpoint(server, key_variable="MY_KEY"), [f"q{n}" for n in range(200)])
        assert server.url in str(error.value)
    assert KEY not in str(error.value)
    assert server.keys == {f"Bearer {KEY}"}
    assert len(server.bodies) <= 64


def test_a_missing_key_is_named() -> None:
    with serve(lambda body, n: refusal(401)) as server:
        with pytest.raises(UserError, match="it wants a key; name its variable by key_variable"):
            ask(endpoint(server), ["a"])
        os.environ["OPENAI_API_KEY"] = KEY  # meant for another server, perhaps
        with pytest.raises(UserError):
            ask(endpoint(server), ["a"])
        with pytest.raises(UserError, match="NO_KEY is not set"):
            Client(endpoint(server, key_variable="NO_KEY"), whole=True)
    assert server.keys == {"Bearer none"}


@pytest.mark.parametrize("body", ["<html>", "{}", '{"choices": []}', "[]", "null"])
def test_a_reply_that_is_no_completion(body: str) -> None:
    def script(asked: dict, n: int) -> Said:
        return Said(body) if question(asked) == "b" else completion("x")

    found: list[Reply] = []
    with serve(script) as server, pytest.raises(Unanswered, match="is no chat completion"):
        end = endpoint(server)
        for batch in Client(end, whole=True).ask(bodies(end, ["a", "b", "c"])):
            found += batch
    assert {reply.key for reply in found} == {"a", "c"}


@pytest.mark.parametrize("fault", [refusal(500), completion("x", reason="length")])
def test_stops_when_most_fail(fault: Said) -> None:
    with serve(lambda body, n: fault) as server:
        end = endpoint(server, retries=0, in_flight=4)
        with pytest.raises(Unanswered, match=f"{RECENT} of the last {RECENT} requests failed"):
            ask(end, [f"q{n}" for n in range(500)])
        assert len(server.bodies) < RECENT + 16


def test_answers_may_be_cut_off_where_that_is_meant() -> None:
    with serve(lambda body, n: completion("x", reason="length")) as server:
        found = ask(endpoint(server), [f"q{n}" for n in range(100)], whole=False)
    assert {reply.finish_reason for reply in found.values()} == {"length"}


@pytest.mark.parametrize(
    "budget",
    [Budget(tokens=3000), Budget(cost=0.03, prompt_price=10.0, completion_price=10.0)],
    ids=["tokens", "cost"],
)
def test_the_budget_is_never_exceeded(budget: Budget) -> None:
    with serve(lambda body, n: completion("x", tokens=100)) as server:
        end = endpoint(server, budget=budget)
        client = Client(end, whole=True, spent=Usage(500, 0))
        names = [f"q{n}" for n in range(100)]
        with pytest.raises(UserError, match=r"budget: .* are spent .* the same command goes on"):
            list(client.ask(bodies(end, names, max_tokens=100)))
    assert 2500 < sum(client.spent) <= 3000
    assert sum(client.spent) == 500 + 105 * len(server.bodies)


def test_servers_share_the_load() -> None:
    def script(body: dict, n: int) -> Said:
        return completion("x", seconds=0.01)

    with serve(script) as one, serve(script) as two:
        end = Endpoint(url=f"{one.url}, {two.url}", model="m", in_flight=4)
        assert len(ask(end, [f"q{n}" for n in range(40)])) == 40
    assert min(len(one.bodies), len(two.bodies)) >= 12
    assert max(one.most, two.most) <= 4


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"url": ""}, "url: there is none"),
        ({"url": "localhost:8000/v1"}, "url localhost:8000/v1: give http://"),
        ({"url": "http://host:port/v1"}, "url http://host:port/v1: give http://"),
        ({"url": f"http://me:{KEY}@host/v1"}, "url host/v1: give http://"),
        ({"url": f"http://host/v1?key={KEY}"}, "url http://host/v1: give http://"),
        ({"in_flight": 0}, "in_flight is 0; it is at least 1"),
        ({"retries": -1}, "retries is -1; it is at least 0"),
        ({"budget": Budget(cost=1.0)}, "tokens have no price"),
        ({"budget": Budget(tokens=-1)}, "budget.tokens is -1; it is at least 0"),
        ({"timeout": 0.0}, "timeout is 0.0; give seconds"),
    ],
)
def test_mistakes(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault) as error:
        Endpoint(**{"url": "http://host/v1", "model": "m", **settings}).check()
    assert KEY not in str(error.value)
