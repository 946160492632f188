"""Many clients at once, bad requests among them, clients that leave, and the end of the server."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from PIL import Image

from manzano.answering import Message
from manzano.cli import main
from manzano.serve import gate
from manzano.serve.batching import Abandoned
from manzano.serve.engine import Engine
from tests.serve.conftest import FAST, running
from tests.serve.messages import encoded, user
from tests.tiny import drawing

CHAT = {"model": "tiny", "max_tokens": 12}
HUGE = encoded(Image.new("1", (10_000, 10_000)))


def image_url(url: str) -> list:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


BAD = [
    ({"messages": user("a" * 300)}, "more than the 256"),
    ({"messages": user("a <|end|> b")}, "special tokens"),
    ({"messages": user(encoded(drawing())[:100], "what?")}, "truncated or corrupt"),
    ({"messages": user(b"no picture", "what?")}, r"messages\[0\].content\[0\]: .* not an image"),
    ({"messages": user(HUGE, "what?")}, "100.* pixels, more than the limit of 50,000,000"),
    ({"messages": image_url("https://a.b/c.png")}, "this server fetches nothing"),
    ({"messages": image_url("data:image/png;base64,@@")}, "is no base64"),
    ({"messages": image_url("data:image/png,abc")}, "a data URL begins with"),
    ({"messages": []}, "messages: .*at least 1"),
    ({"messages": [{"role": "system", "content": "a"}]}, "the last message must be the user's"),
    ({"messages": [*user("a"), {"role": "assistant", "content": "b"}]}, "the last message"),
    ({"messages": [*user("a"), {"role": "system", "content": "b"}]}, "before all others"),
    ({"messages": [{"role": "assistant", "content": user(drawing())[0]["content"]}]}, "only the"),
    ({"messages": [{"role": "tool", "content": "a"}]}, r"messages\[0\].role: "),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
    ({"temperature": -1.0}, "temperature must be 0 or more"),
    ({"temperature": 1.0, "top_p": 2.0}, "top_p must be above 0"),
    ({"max_tokens": 0}, "max_new_tokens must be 1 or more"),
    ({"stop": ""}, "an empty text cannot stop"),
    ({"seed": -1}, "seed: "),
    ({"n": 0}, "n: "),
    ({"logprobs": True}, "logprobs is not supported here"),
    ({"tools": [{"type": "function"}]}, "tools is not supported here"),
    ({"response_format": {"type": "json_object"}}, "response_format is not supported here"),
    ({"extra_body": {"num_beams": 4}}, "num_beams is not supported here"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_told_why(client, wrong, message, stream):
    with pytest.raises(openai.BadRequestError, match=message) as raised:
        client.chat.completions.create(
            **({"messages": user("what?"), "stream": stream} | CHAT | wrong)
        )
    assert raised.value.type == "invalid_request_error"


def test_other_errors_have_their_status(served, client):
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here") as raised:
        client.chat.completions.create(model="other", messages=user("what?"))
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.images.generate(model="other", prompt="a hat")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="a")
    with pytest.raises(openai.BadRequestError, match="JSON decode error"):
        client.post("/chat/completions", cast_to=object, content=b"{", options={
            "headers": {"Content-Type": "application/json"}})  # fmt: skip


def test_a_key_is_asked_for(engine):
    with running(engine, api_key="secret") as served:
        with pytest.raises(openai.AuthenticationError, match="API key is wrong or missing"):
            served.client("guessed").models.list()
        assert len(served.client("secret").models.list().data) == 1
        assert health(served) == {"status": "ok", "waiting": 0}


def test_a_body_that_is_too_long_is_refused(client, monkeypatch):
    monkeypatch.setattr(gate, "MAX_BODY", 1_000_000)
    with pytest.raises(openai.APIStatusError, match="more than 1,000,000 bytes") as raised:
        client.chat.completions.create(messages=user("a" * 3_000_000), **CHAT)
    assert raised.value.status_code == 413
    with pytest.raises(openai.APIStatusError, match="more than 1,000,000 bytes"):
        client.images.edit(image=bytes(3_000_000), prompt="a hat")
    assert client.chat.completions.create(messages=user("what?"), **CHAT).choices


def health(served) -> dict:
    with urllib.request.urlopen(f"{served.url}/health", timeout=60) as response:
        return json.load(response)


def test_many_at_once_get_their_own_answers_and_the_bad_ones_their_errors(served, client):
    """Good and bad requests, whole and streamed, and drawings, in an order that mixes them."""
    pipeline = served.engine.pipeline
    expected = [
        pipeline.ask(drawing(i), "what is it?" + "?" * i, max_new_tokens=12) for i in range(16)
    ]
    picture = pipeline.draw("a hat", seed=1, settings=FAST).size

    def ask(i: int):
        request = {"messages": user(drawing(i), "what is it?" + "?" * i), **CHAT}
        if i % 2:
            return client.chat.completions.create(**request).choices[0].message.content
        chunks = client.chat.completions.create(stream=True, **request)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def fail(i: int):
        with pytest.raises(openai.BadRequestError, match=BAD[i][1]):
            client.chat.completions.create(**({"messages": user("what?")} | CHAT | BAD[i][0]))

    def draw(i: int):
        return client.images.generate(prompt="a hat", extra_body={"seed": i}).data[0].b64_json

    with ThreadPoolExecutor(16) as pool:
        jobs = [
            (pool.submit(ask, i), pool.submit(fail, i), pool.submit(draw, i)) for i in range(16)
        ]
        assert [asked.result() for asked, _, _ in jobs] == expected
        assert [failed.result() for _, failed, _ in jobs] == [None] * 16
        assert len({drawn.result() for _, _, drawn in jobs}) == 16
    assert picture == (48, 48)


class HeldEngine(Engine):
    """Begins a batch when it is let go."""

    def __init__(self, engine: Engine):
        super().__init__(engine.model, engine.processor, engine.pipeline, drawing=FAST)
        self.let_go = threading.Event()
        self.batches: list[int] = []

    def run(self, jobs):
        self.batches.append(len(jobs))
        assert self.let_go.wait(60)
        return super().run(jobs)


def leave(served, body: dict) -> http.client.HTTPConnection:
    """A request whose answer is not waited for; closing the connection is leaving."""
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=60)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection


def eventually(condition) -> None:
    """Waits until it holds; the test's time limit is that of pytest."""
    while not condition():
        time.sleep(0.01)


def test_a_full_queue_refuses_and_who_leaves_frees_a_place(engine):
    held = HeldEngine(engine)
    body = {"messages": user("what?"), **CHAT}
    with running(held, max_waiting=2) as served, ThreadPoolExecutor(4) as pool:
        client = served.client()
        first = pool.submit(client.chat.completions.create, **body)
        eventually(lambda: held.batches)
        second = pool.submit(client.chat.completions.create, **body)
        leaving = leave(served, body)
        eventually(lambda: health(served)["waiting"] == 2)
        with pytest.raises(openai.RateLimitError, match="too many requests wait") as raised:
            client.chat.completions.create(**body)
        assert raised.value.response.headers["retry-after"] == "1"
        leaving.close()
        eventually(lambda: health(served)["waiting"] == 1)
        third = pool.submit(client.images.generate, prompt="a hat")
        fourth = pool.submit(client.chat.completions.create, **body)
        eventually(lambda: health(served)["waiting"] == 2)
        held.let_go.set()
        answers = [first.result(), second.result()]
        assert len({answer.choices[0].message.content for answer in answers}) == 1
        outcomes = [job.exception() for job in (third, fourth)]
        assert sorted(type(outcome).__name__ for outcome in outcomes) == [
            "NoneType", "RateLimitError"
        ]  # fmt: skip
    assert held.batches == [1, 1, 1] or held.batches == [1, 2]


class LeftEngine(Engine):
    """Goes on when everybody has left: at once, or after the first piece."""

    def __init__(self, engine: Engine):
        super().__init__(engine.model, engine.processor, engine.pipeline, drawing=FAST)
        self.begun = threading.Event()
        self.outcomes: list[type] = []

    def run(self, jobs):
        job = jobs[0]
        self.begun.set()
        if job.listener is None:
            eventually(lambda: job.abandoned)
        else:
            hear = job.listener

            def hear_and_wait(piece):
                hear(piece)
                eventually(lambda: job.abandoned)

            job.listener = hear_and_wait
        try:
            return super().run(jobs)
        except Abandoned:
            self.outcomes.append(Abandoned)
            raise


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_nobody_waits_for_ends_early(engine, stream, caplog):
    left = LeftEngine(engine)
    with running(left) as served:
        leaving = leave(served, {"messages": user("what?"), "stream": stream, **CHAT})
        if stream:
            response = leaving.getresponse()
            while b'"content": ""' in (line := response.readline()) or line == b"\n":
                pass
            response.close()
        assert left.begun.wait(60)
        leaving.close()
        eventually(lambda: left.outcomes)
    assert left.outcomes == [Abandoned]
    assert caplog.text == ""


class BrokenEngine(Engine):
    """Fails as a GPU without memory would, for more than one at once or for "bad"."""

    def run(self, jobs):
        words = [part for job in jobs for m in job.task.conversation for part in m.content]
        if len(jobs) > 2 or "bad" in words:
            raise RuntimeError("out of memory")
        return super().run(jobs)


def test_a_failure_of_the_model_is_that_of_its_own_request(engine, caplog):
    broken = BrokenEngine(engine.model, engine.processor, engine.pipeline)
    expected = engine.pipeline.chat_batch([[Message("user", ("what?",))]])
    with running(broken) as served, ThreadPoolExecutor(8) as pool:
        client = served.client()
        words = ["what?", "bad", "what?", "what?", "bad", "what?", "what?", "what?"]
        jobs = [
            pool.submit(
                client.chat.completions.create, model="tiny", messages=user(w), max_tokens=64
            )
            for w in words
        ]
        for word, job in zip(words, jobs, strict=True):
            if word == "bad":
                with pytest.raises(openai.InternalServerError, match="its log says why"):
                    job.result()
            else:
                assert job.result().choices[0].message.content == expected[0]
    assert "out of memory" in caplog.text


class LateFailure(Engine):
    """Fails when a piece was sent already."""

    def run(self, jobs):
        hear = jobs[0].listener

        def hear_and_fail(piece):
            hear(piece)
            raise RuntimeError("out of memory")

        jobs[0].listener = hear_and_fail
        return super().run(jobs)


def test_a_stream_that_fails_midway_says_so(engine, caplog):
    broken = LateFailure(engine.model, engine.processor, engine.pipeline)
    heard = []
    with running(broken) as served:
        stream = served.client().chat.completions.create(
            messages=user(drawing(0), "what is it?"), stream=True, **CHAT
        )
        with pytest.raises(openai.APIError, match="the server failed; its log says why"):
            heard.extend(chunk.choices[0].delta.content for chunk in stream)
    assert len(heard) == 2  # the beginning, and one piece
    assert "out of memory" in caplog.text


def test_sigterm_lets_what_was_begun_end(pipeline_folder, monkeypatch):
    """The command itself, in this thread, since signals come to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MANZANO_API_KEY", "secret")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0, timeout=60)

    def waiting() -> int:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=60) as response:
                return json.load(response)["waiting"]
        except OSError:  # it has not begun
            return -1

    def draw_and_end():
        eventually(lambda: waiting() == 0)
        with ThreadPoolExecutor(1) as pool:
            drawn = pool.submit(client.images.generate, model="tiny", prompt="a hat", n=4)
            eventually(lambda: waiting() > 0)
            os.kill(os.getpid(), signal.SIGTERM)
            return drawn.result().data

    signals = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    command = ["serve", str(pipeline_folder), "--port", str(port), "--name", "tiny"]
    try:
        with ThreadPoolExecutor(1) as pool:
            drawn = pool.submit(draw_and_end)
            assert main([*command, "--max-batch", "1"]) == 0
            assert len(drawn.result()) == 4
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signals == [signal.SIGTERM]  # passed on at the end, as if nobody had caught it
    assert waiting() == -1


def test_what_cannot_be_served_says_why(capsys, tmp_path, pipeline_folder, monkeypatch):
    assert main(["serve", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["serve", str(pipeline_folder), "--max-batch", "0"]) == 2
    assert "--max-batch must be 1 or more" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(pipeline_folder)]) == 2
    assert "uvicorn, which is not installed: pip install manzano[serve]" in capsys.readouterr().err
