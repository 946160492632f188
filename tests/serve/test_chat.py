"""Chat by OpenAI's client: the answers are those of the pipeline, whole or in pieces."""

import json
import urllib.request

import pytest

from manzano.answering import AnswerSettings, Message
from tests.serve.messages import data_url, encoded, user
from tests.tiny import drawing

CHAT = {"model": "tiny", "max_tokens": 12}


def direct(served, *turns: Message, **settings) -> str:
    settings = AnswerSettings(**({"max_new_tokens": 12} | settings))
    return served.engine.pipeline.chat_batch([list(turns)], settings)[0]


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


@pytest.mark.parametrize(
    "contents",
    [
        ("what is it?",),
        (drawing(0), "what is it?"),
        (drawing(1), drawing(2), drawing(3), "which one is red?"),
        ("look: ", drawing(1), " and ", drawing(2), " differ?"),
    ],
)
def test_an_answer_is_that_of_the_pipeline(served, client, contents):
    completion = client.chat.completions.create(messages=user(*contents), **CHAT)
    assert completion.choices[0].message.content == direct(served, Message("user", contents))
    assert completion.model == "tiny"


def test_a_plain_question_is_answered_as_by_ask(served, client):
    said = client.chat.completions.create(messages=user(drawing(4), "what?"), **CHAT)
    asked = served.engine.pipeline.ask(drawing(4), "what?", max_new_tokens=12)
    assert said.choices[0].message.content == asked


def test_earlier_turns_and_the_system_are_read(served, client):
    messages = [
        {"role": "system", "content": "be brief"},
        *user("red?", drawing(0)),
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "why?"},
    ]
    said = client.chat.completions.create(messages=messages, **CHAT).choices[0].message.content
    turns = (
        Message("user", ("be brief\n", "red?", drawing(0))),
        Message("assistant", ("no",)),
        Message("user", ("why?",)),
    )
    assert said == direct(served, *turns) != direct(served, turns[-1])


def test_tokens_are_counted_and_the_end_has_its_reason(client):
    asked = [user(drawing(i), "abc") for i in range(12)]
    said = [client.chat.completions.create(messages=messages, **CHAT) for messages in asked]
    for completion in said:
        # <|user|>, <img_start>, 4 tokens, <img_end>, 3 bytes, <|assistant|>
        assert completion.usage.prompt_tokens == 11
        assert completion.usage.total_tokens == 11 + completion.usage.completion_tokens
        cut = completion.choices[0].finish_reason == "length"
        assert cut == (completion.usage.completion_tokens == 12)
    messages, text = next(
        (messages, completion.choices[0].message.content)
        for messages, completion in zip(asked, said, strict=True)
        if completion.choices[0].finish_reason == "length"
    )
    stop = next(letter for letter in text[1:] if letter.isascii())
    ended = client.chat.completions.create(messages=messages, stop=stop, **CHAT)
    assert ended.choices[0].finish_reason == "stop"
    assert ended.choices[0].message.content == text[: text.index(stop)].strip()
    assert ended.usage.completion_tokens <= 12


def test_without_a_limit_an_answer_takes_the_room_there_is(served, client):
    said = client.chat.completions.create(model="tiny", messages=user("a" * 200))
    room = served.engine.processor.max_length - said.usage.prompt_tokens
    assert said.choices[0].finish_reason == "stop" or said.usage.completion_tokens == room
    limit = {"max_completion_tokens": 3}
    short = client.chat.completions.create(model="tiny", messages=user("a" * 200), **limit)
    assert short.usage.completion_tokens == 3


def test_seeds_sample_what_the_pipeline_samples(served, client):
    asked = Message("user", (drawing(0), "what?"))
    sampled = {"temperature": 1.5, "top_p": 0.9}
    said = client.chat.completions.create(
        messages=user(*asked.content), seed=5, n=3, **sampled, **CHAT
    )
    expected = [direct(served, asked, seed=seed, **sampled) for seed in (5, 6, 7)]
    assert [choice.message.content for choice in said.choices] == expected
    assert len(set(expected)) == 3
    assert [choice.index for choice in said.choices] == [0, 1, 2]


@pytest.mark.parametrize("options", [{}, {"stop": ["e", ">"]}, {"temperature": 2.0, "seed": 1}])
def test_a_stream_joined_is_the_whole_answer(client, options):
    lengths = []
    for picture in range(4):
        request = {"messages": user(drawing(picture), "what?"), "n": 2, **options, **CHAT}
        whole = client.chat.completions.create(**request)
        said, reasons, counts = ["", ""], [None, None], []
        with client.chat.completions.create(
            stream=True, stream_options={"include_usage": True}, **request
        ) as stream:
            for chunk in stream:
                counts.append(chunk.usage)
                for choice in chunk.choices:
                    said[choice.index] += choice.delta.content or ""
                    reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        assert said == [choice.message.content for choice in whole.choices]
        assert reasons == [choice.finish_reason for choice in whole.choices]
        assert counts[-1] == whole.usage
        assert set(counts[:-1]) == {None}
        lengths.append(len(counts))
    assert max(lengths) > 8  # two beginnings, two ends, the usage, and pieces


def test_the_way_of_vlmevalkit(served):
    """A plain POST with JPEGs and `detail`, and no client."""
    picture = {"url": data_url(encoded(drawing(2), "JPEG"), "jpeg"), "detail": "low"}
    content = [{"type": "image_url", "image_url": picture}, {"type": "text", "text": "what?"}]
    payload = {
        "model": "tiny", "messages": [{"role": "user", "content": content}], "n": 1,
        "temperature": 0, "max_tokens": 2048,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{served.url}/v1/chat/completions",
        json.dumps(payload).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer sk-none"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        said = json.load(response)["choices"][0]["message"]["content"]
    pipeline = served.engine.pipeline
    assert said == pipeline.ask(encoded(drawing(2), "JPEG"), "what?", max_new_tokens=2048)


def test_fields_that_ask_for_nothing_are_let_through(client):
    harmless = {
        "user": "me", "metadata": {"a": "b"}, "frequency_penalty": 0, "logprobs": False,
        "response_format": {"type": "text"}, "tools": [],
    }  # fmt: skip
    asked = {"messages": user("what?"), **CHAT}
    plain = client.chat.completions.create(**asked).choices
    assert client.chat.completions.create(**asked, **harmless).choices == plain
