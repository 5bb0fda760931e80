"""What services are sent: the caller's bytes wherever they say what was admitted, else the same in other words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from valid_bodies import CHAT, COMPLETION, EMBEDDING, RESPONSES, VALID, written
from yarl import URL

from limiter_node.http.requests.limited_routes import LIMITED_ROUTES
from limiter_node.upstream.errors import NotServed
from limiter_node.upstream.gateway.asking.admitted_request import PATHS, AdmittedRequest, outline_of
from limiter_node.upstream.gateway.asking.outgoing_body import OutgoingBody, outgoing_parts
from limiter_node.upstream.gateway.asking.outgoing_headers import outgoing_headers
from limiter_node.upstream.gateway.service import CAP_FIELDS, Service
from limiter_node.upstream.requests import LimitedRequest

RESERVE = 77
"""Output tokens that are reserved for each choice of a request without a cap."""
MESSAGES = [{"role": "user", "content": "Hi"}]


def service_of(**values: Any) -> Service:
    return Service(**{"name": "s", "urls": (URL("http://127.0.0.1:1/v1"),)} | values)


SERVICE = service_of()


def request_of(body: bytes, route: str = CHAT) -> LimitedRequest:
    request: LimitedRequest = LIMITED_ROUTES[route].parse(body)
    return request


def admitted_of(body: bytes, route: str = CHAT, headers: dict[str, str] | None = None) -> AdmittedRequest:
    request = request_of(body, route)
    need = LIMITED_ROUTES[route].need_of(request)
    reserved = need.output_tokens + need.default_choices * RESERVE
    return AdmittedRequest(
        outline_of(request, SERVICE), reserved, "req-1", CIMultiDictProxy(CIMultiDict(headers or {}))
    )


def sent(body: bytes, route: str = CHAT, service: Service = SERVICE, model: str = "m") -> bytes:
    parts = outgoing_parts(request_of(body, route), body, service, model)
    return OutgoingBody(*parts).with_cap(admitted_of(body, route).cap_per_choice)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    assert len(fields) == len(pairs), f"a field comes twice: {pairs}"
    return fields


def read(body: bytes) -> Any:
    """What a reader reads that takes no field twice."""
    return json.loads(body, object_pairs_hook=once)


# Passed as they came

ODD = (
    ' \r\n\t{ "model" :"m",\n\t"messages":[{"role":"user","content":"Straße \\u00fc \\ud83d\\ude00 日本"}] , '
    '"x_unknown" : {"a":[1,2.50,1e2,null, true]},"temperature":1.0, "seed": 12345678901234567890,"max_tokens":9 } \n'
).encode()


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (CHAT, ODD),
        (CHAT, written(max_tokens=5)),
        (CHAT, written(max_tokens=5, max_completion_tokens=5)),
        (CHAT, written(max_tokens=5, n=3, stream=False, stream_options=None)),
        (CHAT, written(max_tokens=5, stream=True, stream_options={"include_usage": True, "other": 1})),
        (CHAT, written(max_tokens=5, max_completion_tokens=None)),
        (CHAT, written(max_tokens=5, messages=[{"role": "user", "content": 'the "model": of "max_tokens": 9'}])),
        (CHAT, written(max_tokens=5, messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])),
        (CHAT, written(max_tokens=5, user="model", stop=["model", "messages"])),
        (COMPLETION, written(COMPLETION, max_tokens=5, best_of=2, echo=True)),
        (RESPONSES, written(RESPONSES, max_output_tokens=5, stream=True)),
        (EMBEDDING, written(EMBEDDING, dimensions=3, max_tokens=None, stream=True)),
    ],
)
def test_a_body_that_says_what_was_admitted_passes_as_it_came(route: str, body: bytes) -> None:
    for service in (SERVICE, service_of(enforces_cap=False), service_of(cap_field=CAP_FIELDS[1])):
        assert sent(body, route, service) == body


def test_a_body_without_a_cap_passes_as_it_came_where_none_is_enforced() -> None:
    for route in LIMITED_ROUTES:
        body = b" " + written(route) + b"\r\n"
        assert sent(body, route, service_of(enforces_cap=False)) == body


def test_no_usage_is_asked_where_the_service_does_not_know_it() -> None:
    body = written(max_tokens=5, stream=True)
    assert sent(body, service=service_of(asks_usage=False)) == body


# Fields put behind the last


@pytest.mark.parametrize(
    ("route", "service", "added"),
    [
        (CHAT, SERVICE, {"max_tokens": RESERVE}),
        (CHAT, service_of(cap_field="max_completion_tokens"), {"max_completion_tokens": RESERVE}),
        (COMPLETION, SERVICE, {"max_tokens": RESERVE}),
        (COMPLETION, service_of(cap_field="max_completion_tokens"), {"max_tokens": RESERVE}),
        (RESPONSES, SERVICE, {"max_output_tokens": RESERVE}),
        (RESPONSES, service_of(cap_field="max_completion_tokens"), {"max_output_tokens": RESERVE}),
        (EMBEDDING, SERVICE, {}),
    ],
)
@pytest.mark.parametrize("end", [b"}", b" \r\n\t} \n"])
def test_the_reserved_cap_is_put_behind_the_last_field(
    route: str, service: Service, added: dict[str, Any], end: bytes
) -> None:
    body = written(route, x_unknown=1.50)[:-1] + end
    assert sent(body, route, service) == spliced(body, added)


def spliced(body: bytes, added: dict[str, Any]) -> bytes:
    if not added:
        return body
    return body.rstrip()[:-1] + b"," + json.dumps(added, separators=(",", ":")).encode()[1:]


def test_each_choice_has_its_part_of_what_is_reserved() -> None:
    assert read(sent(written(n=3)))["max_tokens"] == RESERVE
    body = written(COMPLETION, prompt=["a", "b"], n=2, best_of=3)
    assert admitted_of(body, COMPLETION).reserved_tokens == 6 * RESERVE
    assert read(sent(body, COMPLETION))["max_tokens"] == RESERVE


@pytest.mark.parametrize("route", [CHAT, COMPLETION])
def test_streams_are_asked_to_tell_their_usage(route: str) -> None:
    body = written(route, max_tokens=5, stream=True)
    assert sent(body, route) == spliced(body, {"stream_options": {"include_usage": True}})
    body = written(route, stream=True)
    assert sent(body, route) == spliced(body, {"stream_options": {"include_usage": True}, "max_tokens": RESERVE})


def test_responses_tell_their_usage_unasked() -> None:
    body = written(RESPONSES, max_output_tokens=5, stream=True)
    assert sent(body, RESPONSES) == body


def test_a_cap_under_the_newer_name_is_said_under_the_older_too() -> None:
    body = written(max_completion_tokens=5)
    assert sent(body) == spliced(body, {"max_tokens": 5})
    assert sent(body, service=service_of(cap_field="max_completion_tokens")) == body
    # The other way round it is the service that knows what it takes.
    assert sent(written(max_tokens=5), service=service_of(cap_field="max_completion_tokens")) == written(max_tokens=5)


# Written anew


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (written(max_tokens=None), {"max_tokens": RESERVE}),
        (written(max_completion_tokens=None), {"max_completion_tokens": None, "max_tokens": RESERVE}),
        (written(max_tokens=9, max_completion_tokens=5), {"max_tokens": 5, "max_completion_tokens": 5}),
        (written(max_tokens=None, max_completion_tokens=5), {"max_tokens": 5, "max_completion_tokens": 5}),
        (b'{"max_tokens":9,"model":"m","messages":[],' + written(max_tokens=5)[1:], {"max_tokens": 5}),
        (written(max_tokens=5)[:-1] + b', "max_tokens" : 6}', {"max_tokens": 6}),
        (written(max_tokens=5)[:-1] + b', "max\\u005ftokens" : 6}', {"max_tokens": 6}),
        (written(max_tokens=5)[:-1] + b', "n": 100, "n": 2}', {"max_tokens": 5, "n": 2}),
        (b'{"model":"other",' + written(max_tokens=5)[1:], {"max_tokens": 5}),
        (b'{"messages":[{"role":"user","content":"long"}],' + written(max_tokens=5)[1:], {"max_tokens": 5}),
        (
            written(max_tokens=5, stream=True, stream_options=None),
            {"max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}},
        ),
        (
            written(max_tokens=5, stream=True, stream_options={"include_usage": False, "include_obfuscation": False}),
            {
                "max_tokens": 5,
                "stream": True,
                "stream_options": {"include_usage": True, "include_obfuscation": False},
            },
        ),
    ],
)
def test_a_body_that_says_something_else_is_written_anew(body: bytes, expected: dict[str, Any]) -> None:
    assert read(sent(body)) == {**VALID[CHAT], **expected}


@pytest.mark.parametrize("route", list(LIMITED_ROUTES))
def test_a_model_of_another_name_is_renamed(route: str) -> None:
    expected = {CHAT: {"max_tokens": RESERVE}, COMPLETION: {"max_tokens": RESERVE}, EMBEDDING: {}}
    added = expected.get(route, {"max_output_tokens": RESERVE})
    assert read(sent(written(route, x=1), route, model="ns/other")) == {
        **VALID[route],
        "x": 1,
        "model": "ns/other",
        **added,
    }


@pytest.mark.parametrize(
    ("route", "name"), [(COMPLETION, "max_tokens"), (RESPONSES, "max_output_tokens"), (CHAT, "max_tokens")]
)
def test_a_cap_of_null_is_replaced(route: str, name: str) -> None:
    body = written(route, **{name: None})
    assert read(sent(body, route)) == {**VALID[route], name: RESERVE}
    assert sent(body, route, service_of(enforces_cap=False)) == body


def test_caps_that_contradict_each_other_are_mended_where_none_is_enforced() -> None:
    body = written(max_tokens=9, max_completion_tokens=5)
    assert read(sent(body, service=service_of(enforces_cap=False)))["max_tokens"] == 5


def test_a_body_too_deep_to_be_written_anew_is_refused() -> None:
    deep = b"[" * 600 + b"]" * 600
    body = written(max_tokens=5)[:-1] + b', "audio": {"x": ' + deep + b"}}"
    assert sent(body) == body
    with pytest.raises(NotServed, match=r"The JSON body of your request is nested too deeply\.") as error:
        sent(body, model="other")
    assert error.value.status == 400


# Any request

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(["model", "max_tokens", '"model": 1', "\\u0061"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts | st.sampled_from(["model", "max_tokens", "messages", "stream"]), inner, max_size=3)
    ),
    max_leaves=6,
)
caps = st.none() | st.integers(1, 50)
messages = st.lists(st.builds(lambda text: {"role": "user", "content": text}, texts), min_size=1, max_size=2)
shared: dict[str, st.SearchStrategy[Any]] = {
    "x_unknown": values,
    "x": values,
    "temperature": st.none() | st.floats(0, 2),
    "user": texts,
}
streams: dict[str, st.SearchStrategy[Any]] = {
    "stream": st.none() | st.booleans(),
    "stream_options": st.none() | st.fixed_dictionaries({}, optional={"include_usage": st.booleans(), "x": values}),
    "n": st.none() | st.integers(1, 4),
}
FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    CHAT: {"messages": messages, "max_tokens": caps, "max_completion_tokens": caps, **streams, **shared},
    COMPLETION: {"prompt": texts, "max_tokens": caps, "best_of": st.none() | st.integers(4, 5), **streams, **shared},
    RESPONSES: {"input": texts, "max_output_tokens": caps, "stream": st.booleans(), **shared},
    EMBEDDING: {"input": texts.filter(bool), "dimensions": caps, **shared},
}
COUNTING = {"model", "messages", "prompt", "input", "n", "best_of", "stream", "stream_options", "max_output_tokens"}
gaps = st.sampled_from(["", "", " ", "\n", "\t\r\n "])


@st.composite
def bodies(draw: st.DrawFn, route: str) -> bytes:
    """A body with any fields in any order, some twice, with white space and escapes here and there."""
    strategies = FIELDS[route]
    pairs = [("model", "m"), *[(name, draw(strategies[name])) for name in strategies if name in VALID[route]]]
    names = [*strategies, "model"]
    others = draw(st.lists(st.sampled_from(names), max_size=8))
    pairs += [(name, draw(strategies.get(name, st.sampled_from(["m", "other"])))) for name in others]
    pairs = draw(st.permutations(pairs))
    if not draw(st.booleans()):
        pairs = list(dict(pairs).items())
    fields = dict(pairs)
    if fields.get("stream") is not True and fields.get("stream_options") is not None:
        pairs = [pair for pair in pairs if pair[0] != "stream_options"]
    members = []
    for name, value in pairs:
        spelled = json.dumps(name)
        if draw(st.integers(0, 9)) == 0:
            spelled = f'"\\u{ord(name[0]):04x}{name[1:]}"'
        said = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1])))
        members.append(f"{draw(gaps)}{spelled}{draw(gaps)}:{draw(gaps)}{said}{draw(gaps)}")
    return f"{draw(gaps)}{{{','.join(members)}}}{draw(gaps)}".encode()


services = st.builds(
    service_of, enforces_cap=st.booleans(), asks_usage=st.booleans(), cap_field=st.sampled_from(CAP_FIELDS)
)


def no_counting_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if "model" in names:  # the request itself, among whose fields it has to be
        for name in COUNTING | set(CAP_FIELDS):
            assert names.count(name) <= 1, name
    return dict(pairs)


@settings(max_examples=200)
@given(st.sampled_from(list(LIMITED_ROUTES)).flatmap(lambda route: st.tuples(st.just(route), bodies(route))), services)
@example((CHAT, written(stream=True)), SERVICE)
@example((CHAT, b'{"model":"m","messages":[],"max_tokens":1,"messages":[{"role":"user","content":"Hi"}]}'), SERVICE)
def test_what_is_sent_is_what_was_admitted(sample: tuple[str, bytes], service: Service) -> None:
    route, body = sample
    admitted, request = admitted_of(body, route), LIMITED_ROUTES[route].parse(body)
    for model in (request.model, "ns/other"):
        meant = json.loads(body)
        result = sent(body, route, service, model)
        said = json.loads(result, object_pairs_hook=no_counting_twice)
        assert said.pop("model") == model
        said_caps = {name: said.pop(name) for name in (*CAP_FIELDS, "max_output_tokens") if name in said}
        given_caps = [value for value in said_caps.values() if value is not None]
        if route == EMBEDDING or (request.cap is None and not service.enforces_cap):
            assert not given_caps
        else:
            assert given_caps
            assert set(given_caps) == {admitted.cap_per_choice}
            assert admitted.cap_per_choice == (RESERVE if request.cap is None else request.cap)
        if route in (CHAT, COMPLETION) and request.stream and (service.asks_usage or request.include_usage):
            assert said["stream_options"].pop("include_usage") is True
            options = meant.get("stream_options") or {}
            options.pop("include_usage", None)
            assert said.pop("stream_options") == options
            meant.pop("stream_options", None)
        for name in ("model", *CAP_FIELDS, "max_output_tokens"):
            meant.pop(name, None)
        assert said == meant
        if has_nothing_to_change(body, result):
            assert result == body or result.startswith(body.rstrip()[:-1] + b",")


def has_nothing_to_change(body: bytes, result: bytes) -> bool:
    """Whether all that `body` says stands in `result`, and no name in it may come twice."""
    said, meant = json.loads(result), json.loads(body)
    is_plain = b"\\u00" not in body and all(body.count(f'"{name}"'.encode()) == 1 for name in meant)
    return is_plain and all(said[name] == value for name, value in meant.items())


# Headers


def headers_of(given_: dict[str, str], **values: Any) -> dict[str, str]:
    return outgoing_headers(admitted_of(written(), headers=given_), service_of(**values), "agent/1")


OWN = {
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "agent/1",
    "x-request-id": "req-1",
}


def test_few_headers_are_sent() -> None:
    given_ = {
        "Host": "internal",
        "Authorization": "Bearer sk-callers",
        "Content-Type": "text/plain",
        "Content-Length": "7",
        "Content-Encoding": "gzip",
        "Accept-Encoding": "gzip",
        "User-Agent": "curl",
        "Cookie": "a=b",
        "X-Request-Id": "other",
        "X-Forwarded-For": "10.0.0.1",
        "Forwarded": "for=10.0.0.1",
        "OpenAI-Organization": "org-1",
        "OpenAI-Project": "proj-1",
        "Idempotency-Key": "1",
        "X-Stainless-Lang": "python",
        "Transfer-Encoding": "chunked",
        "Connection": "close",
        "api-key": "k",
        "x-api-key": "k",
    }
    assert headers_of(given_) == OWN
    assert headers_of(given_, key="sk-ours") == {**OWN, "Authorization": "Bearer sk-ours"}
    assert headers_of(given_, forwards_key=True) == {**OWN, "Authorization": "Bearer sk-callers"}


def test_the_services_key_is_sent_whatever_the_caller_has() -> None:
    assert headers_of({}, key="sk-ours")["Authorization"] == "Bearer sk-ours"
    assert headers_of({"authorization": "Bearer sk-callers"}, forwards_key=True)["Authorization"] == "Bearer sk-callers"


@pytest.mark.parametrize(
    "given_",
    [{"Authorization": "bearer   sk-callers"}, {"x-api-key": "sk-callers"}, {"api-key": "sk-callers"}],
)
def test_the_callers_key_is_sent_in_one_form_whatever_its_own(given_: dict[str, str]) -> None:
    assert headers_of(given_, forwards_key=True)["Authorization"] == "Bearer sk-callers"


def test_what_says_something_about_the_request_passes() -> None:
    given_ = {"OpenAI-Beta": "assistants=v2", "TraceParent": "00-ab-cd-01", "tracestate": "a=1,b=2"}
    assert headers_of(given_) == {**OWN, "openai-beta": "assistants=v2", "traceparent": "00-ab-cd-01"} | {
        "tracestate": "a=1,b=2"
    }


@pytest.mark.parametrize("name", ["openai-beta", "traceparent", "tracestate"])
@pytest.mark.parametrize(
    "value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "a\tb", "a\x7f", "ü", "\udcff", "x" * 1_025]
)
def test_values_that_are_not_plain_do_not_pass(name: str, value: str) -> None:
    assert headers_of({name: value}) == OWN
    assert headers_of({name: "x" * 1_024}) == {**OWN, name: "x" * 1_024}


header_names = st.sampled_from(
    ["openai-beta", "Traceparent", "TRACESTATE", "x-request-id", "host", "authorization", "content-type", "x-a"]
) | st.text("abc-XYZ", min_size=1, max_size=8)


@given(st.dictionaries(header_names, st.text(max_size=10)), st.sampled_from(["", "sk-ours"]))
def test_no_other_header_passes(given_: dict[str, str], key: str) -> None:
    result = headers_of(given_, key=key)
    passed = {name: result.pop(name) for name in ("openai-beta", "traceparent", "tracestate") if name in result}
    assert result == ({**OWN, "Authorization": f"Bearer {key}"} if key else OWN)
    assert all(value.isascii() and value.isprintable() for value in passed.values())


def test_each_route_has_a_path() -> None:
    for route, fields in VALID.items():
        request = LIMITED_ROUTES[route].parse(json.dumps(fields).encode())
        assert route == f"/v1/{PATHS[type(request)]}"
