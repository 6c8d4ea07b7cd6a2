"""The real server on loopback: the pipeline's answers, shared batches, one sentence for what is wrong, an orderly end."""

import base64
import contextlib
import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from hf_bert4rec import Bert4RecConfig, Bert4RecForMaskedLM, Bert4RecTokenizer
from hf_bert4rec.serving import create_app, listen, serve
from hf_bert4rec.serving_requests import ServingLimits
from hf_bert4rec.token_gate import CHALLENGES

for name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(name, reason=f"serving needs {name}: pip install 'hf_bert4rec[serve]'")

ROOT = Path(__file__).resolve().parent.parent
LIMITS = ServingLimits(max_body_bytes=20_000, max_list_length=50, max_histories=4, max_top_k=10, max_waiting=6)


def recommender_of(item_ids, **titles):
    torch.manual_seed(0)
    config = Bert4RecConfig(vocab_size=len(item_ids) + 3, hidden_size=16, intermediate_size=32, initializer_range=0.5)
    tokenizer = Bert4RecTokenizer.from_items(item_ids, **titles)
    return pipeline("next-item-recommendation", model=Bert4RecForMaskedLM(config).eval(), tokenizer=tokenizer)


class Client:
    """Asks a server of this machine."""

    def __init__(self, port):
        self.port = port

    def ask(self, method, path, body=None, headers=None):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers

    def post(self, body, **headers):
        """Status and JSON of `POST /recommend`."""
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, text, _ = self.ask("POST", "/recommend", body, {"Content-Type": "application/json"} | headers)
        return status, json.loads(text)

    def metrics(self):
        text = self.ask("GET", "/metrics")[1].decode()
        return {name: float(value) for name, value in re.findall(r"^([^# ]\S*) (\S+)$", text, re.MULTILINE)}


@contextlib.contextmanager
def served(recommender, **options):
    """A server in a thread, asked to stop at the end as a signal asks it."""
    import uvicorn

    app = create_app(recommender, **options)
    with listen("127.0.0.1", 0, None) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        client = Client(listener.getsockname()[1])
        client.server, client.thread = server, thread
        try:
            yield client
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


class Held:
    """A recommender whose model thread waits until it is let go."""

    def __init__(self, recommender, monkeypatch):
        self.sizes, self.let_go, answer = [], threading.Event(), recommender.answer

        def held(queries):
            self.sizes.append(len(queries))
            assert self.let_go.wait(30)
            return answer(queries)

        monkeypatch.setattr(recommender, "answer", held)

    def until(self, condition):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)


@pytest.fixture(scope="module")
def recommender():
    return recommender_of([f"item {number}" for number in range(12)], titles={"item 3": "Three"})


@pytest.fixture(scope="module")
def client(recommender):
    with served(recommender, limits=LIMITS) as client:
        yield client


def close(found, expected):
    """Equal but for the rounding that another batch size brings."""
    for one, other in zip(found["recommendations"], expected["recommendations"], strict=True):
        assert one == other | {"score": pytest.approx(other["score"], abs=1e-5)}
    assert found | {"recommendations": []} == expected | {"recommendations": []}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3},
        {"filter_seen": False},
        {"allowed_items": ["item 2", "item 9", "not in stock"]},
        {"denied_items": ["item 2", "item 9"], "allowed_items": None},
        {"unknown_items": "skip"},
    ],
)
def test_the_answer_is_the_pipelines(client, recommender, options):
    histories = [["item 1", "item 5", "who"], [], ["item 11"] * 3]
    asked = {"top_k": 10} | options
    expected = recommender(histories, **asked)
    for history, answer in zip(histories, expected, strict=True):
        status, found = client.post({"history": history} | options)
        assert status == 200
        close(found, answer)
    status, found = client.post({"histories": histories} | options)
    assert status == 200
    for one, answer in zip(found, expected, strict=True):
        close(one, answer)
    assert client.post({"histories": []} | options) == (200, [])


def test_integer_ids_come_back_as_integers_and_may_be_asked_for_as_text():
    with served(recommender_of(list(range(100, 105)))) as client:
        answers = [client.post({"history": history, "top_k": 2})[1] for history in ([101], ["101"], [101.0])]
        assert answers[0] == answers[1] == answers[2]
        assert {type(entry["item_id"]) for entry in answers[0]["recommendations"]} == {int}
        assert len(client.post({"history": [101]})[1]["recommendations"]) == 4  # as many as there are


def test_requests_that_wait_are_scored_in_one_batch_each_by_its_own_rules(recommender, monkeypatch):
    held = Held(recommender, monkeypatch)
    bodies = [
        {"history": [f"item {place}"], "top_k": 1 + place, "denied_items": [f"item {place + 1}"]} for place in range(8)
    ]
    expected = [
        recommender(body["history"], top_k=body["top_k"], denied_items=body["denied_items"]) for body in bodies
    ]
    with served(recommender) as client, ThreadPoolExecutor(9) as threads:
        first = threads.submit(client.post, {"history": []})
        held.until(lambda: held.sizes)
        answers = [threads.submit(client.post, body) for body in bodies]
        held.until(lambda: client.metrics()["hf_bert4rec_waiting_histories"] == 8)
        assert client.metrics()["hf_bert4rec_requests_in_flight"] == 10  # with the one that asks
        held.let_go.set()
        assert first.result()[0] == 200
        for answer, wanted in zip(answers, expected, strict=True):
            close(answer.result()[1], wanted)
        assert held.sizes == [1, 8]
        metrics = client.metrics()
    assert metrics["hf_bert4rec_batch_histories_count"] == 2
    assert metrics["hf_bert4rec_batch_histories_sum"] == 9
    assert metrics['hf_bert4rec_batch_histories_bucket{le="4.0"}'] == 1
    assert metrics['hf_bert4rec_requests_total{path="/recommend",status="200"}'] == 9


def test_what_may_not_wait_any_more_is_refused(recommender, monkeypatch):
    held = Held(recommender, monkeypatch)
    with served(recommender, limits=LIMITS) as client, ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(client.post, {"history": []})]
        held.until(lambda: held.sizes)
        answers.append(threads.submit(client.post, {"histories": [[]] * 4}))
        held.until(lambda: client.metrics()["hf_bert4rec_waiting_histories"] == 4)
        body, json_type = json.dumps({"histories": [[]] * 3}), {"Content-Type": "application/json"}
        status, text, headers = client.ask("POST", "/recommend", body, json_type)
        assert (status, json.loads(text)) == (503, {"detail": "Too much waits for the model; try again."})
        assert headers["Retry-After"] == "1"
        answers.append(threads.submit(client.post, {"histories": [[]] * 2}))
        held.until(lambda: client.metrics()["hf_bert4rec_waiting_histories"] == 6)
        held.let_go.set()
        assert [answer.result()[0] for answer in answers] == [200, 200, 200]


def test_requests_under_way_are_answered_after_the_signal_to_stop(recommender, monkeypatch):
    held = Held(recommender, monkeypatch)
    with served(recommender) as client, ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(client.post, {"history": [f"item {place}"]}) for place in range(5)]
        held.until(lambda: client.metrics()["hf_bert4rec_requests_in_flight"] == 6)
        client.server.should_exit = True
        held.until(lambda: not client.server.servers or not client.server.servers[0].is_serving())
        held.let_go.set()
        assert [answer.result()[0] for answer in answers] == [200] * 5
        client.thread.join(30)
        assert not client.thread.is_alive()


# Text that is no JSON or no request, and the sentence for it.
WRONG = {
    b"": (400, "The body is no JSON: Expecting value at character 0."),
    b'{"history": [1]} x': (400, "The body is no JSON: Extra data at character 17."),
    b'{"history": [NaN]}': (400, "The body is no JSON: it holds NaN."),
    b'{"top_k": -Infinity}': (400, "The body is no JSON: it holds -Infinity."),
    b'{"history": ["\xff"]}': (400, "The body is not UTF-8: invalid start byte at byte 14."),
    b'{"history": ["\\ud800"]}': (400, "The body holds half of a surrogate pair, which is no Unicode."),
    b'{"\\udfff": 1}': (400, "The body holds half of a surrogate pair, which is no Unicode."),
    b'{"history": [' + b"9" * 5000 + b"]}": (400, "The body holds a number with too many digits; write such an id as"),
    b'{"history": ' + b"[" * 9000 + b"]" * 9000 + b"}": (400, "The body is nested too deeply; a request needs three"),
    b'{"history": [1], "history": [2]}': (400, "The body has 'history' twice; give it once."),
    b"[1]": (422, "The body must be a JSON object with 'history' or 'histories'."),
    b"{}": (422, "Give either 'history', a list of item ids, or 'histories', a list of such lists."),
    b'{"history": [], "histories": []}': (422, "Give either 'history', a list of item ids, or 'histories'"),
    b'{"history": [], "topk": 1}': (422, "There is no parameter 'topk'; there are history, histories, top_k, "),
    b'{"history": "abc"}': (422, "history should be a valid list, found 'abc'."),
    b'{"history": {"a": 1}}': (422, "history should be a valid list."),
    b'{"history": null}': (422, "history should be a valid list, found None."),
    b'{"histories": [[], [true]]}': (422, "histories[1]: ids are text or integers, found bool at position 0."),
    b'{"history": ["a", 1.5]}': (422, "history: ids are text or integers, found float at position 1."),
    b'{"history": [[[[[]]]]]}': (422, "history: ids are text or integers, found list at position 0."),
    b'{"history": [], "denied_items": [null]}': (422, "denied_items: ids are text or integers, found NoneType at"),
    b'{"history": [], "top_k": 0}': (422, "top_k should be greater than or equal to 1, found 0."),
    b'{"history": [], "top_k": -3}': (422, "top_k should be greater than or equal to 1, found -3."),
    b'{"history": [], "top_k": 11}': (422, "top_k should be less than or equal to 10, found 11."),
    b'{"history": [], "top_k": ' + b"9" * 400 + b"}": (422, "top_k should be less than or equal to 10, found 99999"),
    b'{"history": [], "top_k": 1e999}': (422, "top_k should be a valid integer, found inf."),
    b'{"history": [], "top_k": "3"}': (422, "top_k should be a valid integer, found '3'."),
    b'{"history": [], "filter_seen": 1}': (422, "filter_seen should be a valid boolean, found 1."),
    b'{"history": [], "unknown_items": "?"}': (422, "unknown_items should be 'skip' or 'error', found '?'."),
    b'{"history": ["who"], "unknown_items": "error"}': (
        404,
        "a history must hold items of the vocabulary only, found",
    ),
    b'{"history": [], "allowed_items": ["who"]}': (404, "None of the 1 allowed_items is in the catalogue; give ids"),
    b'{"history": [], "allowed_items": []}': (404, "None of the 0 allowed_items is in the catalogue; give ids"),
    json.dumps({"history": ["a"] * 51}).encode(): (422, "history: List should have at most 50 items, not 51."),
    json.dumps({"histories": [["a"] * 51]}).encode(): (
        422,
        "histories[0]: List should have at most 50 items, not 51.",
    ),
    json.dumps({"histories": [[]] * 5}).encode(): (422, "histories: List should have at most 4 items, not 5."),
    b'{"history": ["' + b"a" * 20_000 + b'"]}': (413, "The body is larger than 20000 bytes; send less at once."),
    b"a" * 1_000_000: (413, "The body is larger than 20000 bytes; send less at once."),
}


@pytest.mark.parametrize("body", WRONG, ids=lambda body: body[:40].decode("latin-1"))
def test_a_wrong_body_is_refused_in_a_sentence(client, body):
    status, sentence = WRONG[body]
    found, answer = client.post(body)
    assert (found, list(answer)) == (status, ["detail"])
    assert answer["detail"].startswith(sentence)
    assert len(answer["detail"]) <= 500


@pytest.mark.parametrize(
    "body",
    [
        b'{"history": ["\\u0000", "", -0, ' + b"9" * 400 + b"]}",
        b'{"history": ["\\ud83d\\ude00"], "allowed_items": ["item 1", 1e300]}',
        b'{"history": [], "denied_items": [], "top_k": 2.0}',
        b'\n{"histories": [[], ["item 1"]], "allowed_items": null, "denied_items": null}\r\n',
    ],
)
def test_an_unusual_body_is_answered(client, body):
    assert client.post(body)[0] == 200


def test_a_body_without_a_length_is_held_to_the_limit_too(client):
    for count, status in ((1, 200), (30, 413), (300, 413)):
        parts = (b'{"history": []' if place == 0 else b" " * 1000 for place in range(count))
        body = [*parts, b"}"]
        found, _, _ = client.ask("POST", "/recommend", iter(body), {"Content-Type": "application/json"})
        assert found == status


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_what_is_not_sent_as_json_is_refused(client, content_type):
    status, text, _ = client.ask("POST", "/recommend", b'{"history": []}', {"Content-Type": content_type})
    assert status == 415
    assert json.loads(text)["detail"].startswith("The body must be JSON: send the header")
    assert client.ask("POST", "/recommend", b"{}", {"Content-Type": "Application/JSON; charset=utf-8"})[0] == 422


def test_other_paths_and_methods_are_refused_in_json(client):
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/recommend", 405), ("DELETE", "/health", 405)):
        found, text, _ = client.ask(method, path)
        assert found == status
        assert list(json.loads(text)) == ["detail"]
    assert client.metrics()['hf_bert4rec_requests_total{path="other",status="404"}'] == 1


def test_an_error_of_the_model_is_no_stack_trace(recommender, monkeypatch):
    monkeypatch.setattr(recommender, "answer", lambda _: 1 / 0)
    with served(recommender) as client:
        assert client.post({"history": []}) == (500, {"detail": "The server failed; its log says why."})
        assert client.metrics()['hf_bert4rec_requests_total{path="/recommend",status="500"}'] == 1


def basic(text):
    """The header with which a browser sends a name and a password."""
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_health_and_the_page_need_no_token_all_else_does(recommender):
    with served(recommender, token="secret") as client:
        assert json.loads(client.ask("GET", "/health")[1]) == {"status": "ok", "num_items": 12}
        assert client.ask("GET", "/docs")[0] == 200
        wrong = ("Bearer wrong", "secret", "\xff", basic("any:wrong"), basic("secret"), "Basic ?", "Digest secret")
        for headers in ({}, *({"Authorization": text} for text in wrong)):
            for method, path in (("POST", "/recommend"), ("GET", "/metrics"), ("GET", "/mounted/later")):
                status, text, found = client.ask(method, path, headers=headers)
                assert (status, found.get_all("WWW-Authenticate")) == (401, list(CHALLENGES))
                assert json.loads(text)["detail"].startswith("A token is needed")
        for right in ("Bearer secret", "bearer secret", basic("any:secret")):
            assert client.post({"history": []}, Authorization=right)[0] == 200
        assert client.ask("GET", "/metrics", headers={"Authorization": "Bearer secret"})[0] == 200


def test_the_examples_of_the_page_are_ids_of_the_model_and_are_answered(client):
    schema = json.loads(client.ask("GET", "/openapi.json")[1])
    body = schema["paths"]["/recommend"]["post"]["requestBody"]["content"]["application/json"]
    assert body["examples"]["one history"]["value"]["history"] == ["item 0", "item 1", "item 2", "item 3"]
    for example in body["examples"].values():
        assert client.post(example["value"] | {"unknown_items": "error"})[0] == 200
    assert body["schema"]["properties"]["top_k"]["maximum"] == 10


def test_latency_is_counted_by_path(client):
    before = client.metrics().get('hf_bert4rec_request_seconds_count{path="/health"}', 0)
    client.ask("GET", "/health")
    assert client.metrics()['hf_bert4rec_request_seconds_count{path="/health"}'] == before + 1


@pytest.mark.parametrize("token", ["", "two words", "naïve", "line\n"])
def test_a_token_that_no_header_can_bear_is_refused(recommender, token):
    with pytest.raises(ValueError, match="must be ASCII text without spaces"):
        create_app(recommender, token=token)


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"max_top_k": 0}, "max_top_k is 0; give at least 1"), ({"max_waiting": 5}, "less than the 128 histories")],
)
def test_limits_that_cannot_be_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        ServingLimits(**limits)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serving_ends_with_a_signal_and_leaves_the_handlers_as_they_were(recommender, stop):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def ask_and_stop(port):
        found = Client(port).post({"history": ["item 1"]})[0]
        os.kill(os.getpid(), stop)
        return found

    with listen("127.0.0.1", 0, None) as listener, ThreadPoolExecutor(1) as threads:
        status = threads.submit(ask_and_stop, listener.getsockname()[1])
        serve(create_app(recommender), listener)
        assert status.result() == 200
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.skipif(
    importlib.util.find_spec("schemathesis") is None, reason="schemathesis is missing: pip install schemathesis"
)
def test_schemathesis_finds_nothing(recommender, tmp_path):
    with served(recommender) as client:
        command = Path(sys.executable).with_name("schemathesis")
        options = ["--max-examples", "20", "--generation-deterministic", "--no-color"]
        url = f"http://127.0.0.1:{client.port}/openapi.json"
        done = subprocess.run([command, "run", url, *options], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "No issues found" in done.stdout
