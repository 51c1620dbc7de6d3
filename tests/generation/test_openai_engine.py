import asyncio
import json
import logging
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from detector import ROOT
from generation.base import Completion, GenerationError, SamplingParameters
from generation.openai_engine import OpenAIEngine
from tests.generation.faulty_server import (
    PATIENCE,
    FaultyServer,
    Reply,
    answer,
    body,
    completion,
    failure,
    garbage,
    half_a_body,
    no_choices,
    silence,
)

GREEDY = SamplingParameters(max_new_tokens=8)
SHORT = 3  # seconds; enough for a reply that comes at once, on a busy machine too
KEY = "sk-nobody-may-see-this"

# A fault that passes, and what its record has to say.
PASSING = {
    "429": (failure(429, "slow down"), "429 - slow down"),
    "408": (failure(408, "too slow"), "408 - too slow"),
    "500": (failure(500, "boom"), "500 - boom"),
    "502 with a page": (body(b"<html>\n<h1>Bad Gateway", status=502, content_type="text/html"), "502"),
    "no HTTP status": (Reply(status=999), "999"),
    "bytes": (garbage(), "holds no completion"),
    "a page": (body(b"<html>", content_type="text/html"), "'<html>'"),
    "nothing": (body(b""), "holds no completion"),
    "half a JSON": (body(b'{"choices": [{"mess'), "holds no completion"),
    "no UTF-8": (body(b'{"choices": "\xff\xfe"}'), "holds no completion"),
    "deeper than JSON goes": (body(b"[" * 100_000), "holds no completion"),
    "infinitely many tokens": (body(completion("x") | {"usage": {"prompt_tokens": float("inf")}}), "no completion"),
    "no gzip": (body(b"no gzip at all", headers=(("Content-Encoding", "gzip"),)), "broken"),
    "no choices": (no_choices(), "holds no completion"),
    "an error with status 200": (body({"error": {"message": "overloaded"}}), "overloaded"),
    "half a body": (half_a_body(), "closed connection"),
    "silence": (silence(), "no reply within 3 s"),
    **{
        f"JSON {content!r}": (body(content), "holds no completion")
        for content in (
            None,
            3,
            {"choices": None},
            {"choices": {"a": 1}},
            {"choices": [None]},
            {"choices": [{"message": "hi"}]},
            {"choices": [{"message": {}}]},
            {"choices": [{"message": {"content": [{"type": "text", "text": "x"}]}}]},
            {"choices": [{"message": {"content": "x"}}], "usage": "many"},
        )
    },
}
LASTING = {status: failure(status, f"no, says {status}") for status in (400, 401, 403, 404, 422)}


def user(text):
    return [{"role": "user", "content": text}]


def time_for(fault):
    return SHORT if fault.silent else PATIENCE


def echo(asked):
    return answer(f"re: {asked.prompt}")


def engine_at(server, **options):
    return OpenAIEngine("m", server.url, **{"timeout": PATIENCE, "attempts": 2, "back_off": 0.0} | options)


def ask(engine, *prompts, sampling=GREEDY):
    return engine.generate([user(prompt) for prompt in prompts], sampling)


def failures(engine, *prompts):
    with pytest.raises(GenerationError) as raised:
        ask(engine, *prompts)
    return raised.value


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


def test_a_completion_is_read_with_its_tokens():
    with FaultyServer(lambda _: answer("  Bread.\n")) as server:
        assert ask(engine_at(server), "Hi") == [Completion("Bread.", 7, 3, "stop")]


def test_an_answer_that_a_limit_ended_says_so():
    with FaultyServer(lambda _: body(completion("Bre", finish_reason="length"))) as server:
        (cut,) = ask(engine_at(server), "Hi")
    assert cut.finish_reason == "length"


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 3}, {"prompt_tokens": None, "completion_tokens": None}])
def test_tokens_that_a_server_does_not_count_are_none(usage):
    with FaultyServer(lambda _: body(completion("x") | {"usage": usage})) as server:
        assert ask(engine_at(server), "Hi") == [Completion("x", 0, 0, "stop")]


def test_an_answer_of_nothing_is_an_empty_text():
    with FaultyServer(lambda _: answer(None)) as server:
        assert ask(engine_at(server), "Hi") == [Completion("", 7, 3, "stop")]


def test_half_a_surrogate_pair_does_not_come_through():
    with FaultyServer(lambda _: answer("\ud83d bread")) as server:
        (completion,) = ask(engine_at(server), "Hi")
    assert completion.text == "? bread"


def test_answers_keep_the_order_of_the_chats_whatever_order_they_come_in():
    served = threading.Event()

    def script(asked):
        if asked.prompt == "first":
            return answer("1", wait=lambda: served.wait(PATIENCE))
        served.set()
        return answer("2")

    with FaultyServer(script) as server:
        assert [reply.text for reply in ask(engine_at(server), "first", "second")] == ["1", "2"]


def test_no_chats_ask_nothing():
    with FaultyServer(echo) as server:
        assert engine_at(server).generate([], GREEDY) == []
        assert server.asked == []


def test_what_is_asked_is_the_chat_and_every_sampling_parameter():
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Grüße\n🍞"}]
    sampling = SamplingParameters(max_new_tokens=5, temperature=0.7, top_p=0.9, seed=40)
    with FaultyServer(echo) as server:
        engine_at(server).generate([chat], sampling)
    assert server.asked[0].body == {
        "model": "m",
        "messages": chat,
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 40,
    }


def test_a_greedy_request_names_nothing_that_only_draws_need():
    with FaultyServer(echo) as server:
        ask(engine_at(server), "Hi")
    assert server.asked[0].body.keys() == {"model", "messages", "max_tokens", "temperature"}


def test_a_reasoning_model_is_given_a_limit_by_its_other_name_and_no_word_on_decoding():
    with FaultyServer(echo) as server:
        ask(engine_at(server, reasoning=True), "Hi", sampling=SamplingParameters(max_new_tokens=5, temperature=0.7))
    assert server.asked[0].body == {"model": "m", "messages": user("Hi"), "max_completion_tokens": 5}


def test_without_a_system_role_the_user_s_message_begins_with_what_the_system_says():
    chat = [{"role": "system", "content": "Be kind."}, *user("Hi")]
    with FaultyServer(echo) as server:
        engine = engine_at(server, system_role=False)
        engine.generate([chat], GREEDY)
        assert engine.name != engine_at(server).name  # another question, so another place in a cache
    assert server.asked[0].body["messages"] == user("Be kind.\n\nHi")


def test_a_thought_is_no_part_of_the_answer():
    with FaultyServer(lambda _: answer("<think>\nBread?\n</think>\n\nYes.")) as server:
        assert ask(engine_at(server), "Hi") == [Completion("Yes.", 7, 3, "stop")]


@pytest.mark.parametrize("thought", ["<think>\nBread", None, ""], ids=["in the text", "kept back", "empty"])
def test_a_thought_that_took_all_tokens_is_recorded_and_loses_no_other_prompt(thought):
    def script(asked):
        return body(completion(thought, "length")) if asked.prompt == "Hi" else echo(asked)

    with FaultyServer(script) as server:
        error = failures(engine_at(server), "Hi", "Bread?")
        assert server.asks() == {"Hi": 1, "Bread?": 1}
    assert "3 tokens ended before an answer began" in error.failures[0]
    assert error.completions[1].text == "re: Bread?"
    assert not error.too_long


@pytest.mark.parametrize("message", [None, {}, {"role": "assistant", "tool_calls": []}])
def test_a_choice_that_ended_without_a_text_is_an_empty_answer(message):
    reply = completion("x")
    reply["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
    with FaultyServer(lambda _: body(reply)) as server:
        assert ask(engine_at(server), "Hi") == [Completion("", 7, 3, "stop")]
        assert len(server.asked) == 1


def test_a_marker_of_a_chat_template_arrives_broken_up():
    with FaultyServer(echo) as server:
        ask(engine_at(server), "Hi<|im_end|>")
    assert server.asked[0].body["messages"] == [{"role": "user", "content": "Hi< |im_end|>"}]


def test_equal_chats_of_a_batch_are_drawn_from_different_seeds():
    with FaultyServer(echo) as server:
        ask(engine_at(server), *["Hi"] * 5, sampling=SamplingParameters(temperature=1.0))
    assert sorted(asked.body["seed"] for asked in server.asked) == [0, 1, 2, 3, 4]


def test_a_json_schema_goes_out_as_the_response_format():
    schema = {"type": "object", "properties": {"risk": {"type": "number"}}}
    with FaultyServer(echo) as server:
        ask(engine_at(server), "Hi", sampling=SamplingParameters(json_schema=json.dumps(schema)))
    asked = server.asked[0].body["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["schema"] == schema


def test_a_json_schema_that_is_no_json_is_refused_before_anything_is_asked():
    with FaultyServer(echo) as server:
        with pytest.raises(json.JSONDecodeError):
            ask(engine_at(server), "Hi", sampling=SamplingParameters(json_schema="{"))
        assert server.asked == []


def test_a_json_schema_is_refused_where_the_server_takes_none():
    with FaultyServer(echo) as server:
        with pytest.raises(ValueError, match="follows_schema is false"):
            ask(engine_at(server, follows_schema=False), "Hi", sampling=SamplingParameters(json_schema="{}"))
        assert server.asked == []


@pytest.mark.parametrize("fault", [fault for fault, _ in PASSING.values()], ids=PASSING)
def test_a_fault_that_passes_is_retried_and_costs_nothing(fault):
    prompts = ["one", "two", "three"]
    with FaultyServer(lambda asked: fault if asked.prompt == "two" and not asked.earlier else echo(asked)) as server:
        replies = ask(engine_at(server, timeout=time_for(fault)), *prompts)
    assert [reply.text for reply in replies] == ["re: one", "re: two", "re: three"]
    assert server.asks() == {"one": 1, "two": 2, "three": 1}


@pytest.mark.parametrize("fault, reason", PASSING.values(), ids=PASSING)
def test_a_fault_that_stays_is_recorded_with_its_reason_and_loses_no_other_prompt(fault, reason):
    with FaultyServer(lambda asked: fault if asked.prompt == "two" else echo(asked)) as server:
        error = failures(engine_at(server, attempts=3, timeout=time_for(fault)), "one", "two", "three")
    assert list(error.failures) == [1]
    assert reason in error.failures[1]
    assert "\n" not in error.failures[1]
    assert {index: reply.text for index, reply in error.completions.items()} == {0: "re: one", 2: "re: three"}
    assert error.too_long == frozenset()
    assert str(error).startswith(f"1 of 3 requests to {server.url} failed; the first: ")
    assert server.asks() == {"one": 1, "two": 3, "three": 1}


@pytest.mark.parametrize("status", LASTING)
def test_a_request_that_the_server_refuses_is_asked_once_and_recorded(status):
    with FaultyServer(lambda asked: LASTING[status] if asked.prompt == "two" else echo(asked)) as server:
        error = failures(engine_at(server, attempts=3), "one", "two", "three")
    assert list(error.failures) == [1]
    assert f"no, says {status}" in error.failures[1]
    assert set(error.completions) == {0, 2}
    assert server.asks() == {"one": 1, "two": 1, "three": 1}


@pytest.mark.parametrize("message", ["Content Exists Risk", "filtered by the content management policy"])
def test_a_chat_that_the_servers_filter_refuses_is_answered_by_nothing_and_asked_once(message):
    with FaultyServer(lambda asked: failure(400, message) if asked.prompt == "two" else echo(asked)) as server:
        one, two = ask(engine_at(server, attempts=3), "one", "two")
    assert (one.text, one.finish_reason) == ("re: one", "stop")
    assert two == Completion("", 0, 0, "content_filter")
    assert server.asks() == {"one": 1, "two": 1}


def test_every_prompt_has_its_own_reason():
    faults = {"busy": failure(429, "slow down"), "locked": failure(401, "no such key"), "torn": half_a_body()}
    with FaultyServer(lambda asked: faults.get(asked.prompt) or echo(asked)) as server:
        error = failures(engine_at(server), "busy", "good", "locked", "torn")
    assert {index: next(word for word in ("429", "401", "closed") if word in reason) for index, reason in
            error.failures.items()} == {0: "429", 2: "401", 3: "closed"}  # fmt: skip
    assert error.completions == {1: Completion("re: good", 7, 3, "stop")}


def test_a_server_that_is_not_there_is_recorded_for_every_prompt():
    with FaultyServer(echo) as server:
        engine = engine_at(server)
    error = failures(engine, "one", "two")
    assert set(error.failures) == {0, 1}
    assert "no connection" in error.failures[0]
    assert error.completions == {}


def test_a_reply_that_drips_is_cut_off_by_the_time_limit():
    dripping = threading.Event()

    class Dripping(FaultyServer):
        def finish_request(self, request, client_address):
            request.recv(65536)
            request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
            while not self.closing.wait(0.1):
                request.sendall(b" ")
                dripping.set()

    with Dripping(echo) as server:
        error = failures(engine_at(server, attempts=1, timeout=SHORT), "Hi")
        assert dripping.is_set()
    assert error.failures == {0: "no reply within 3 s"}


@pytest.mark.parametrize(
    "message, fields",
    [
        ("This model's maximum context length is 4096 tokens. However, you requested 5000.", {}),
        ("too many tokens", {"code": "context_length_exceeded"}),
        ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", {}),
        ("the request exceeds the available context size, try increasing it", {}),
    ],
)
def test_a_chat_that_the_context_cannot_hold_is_marked_as_too_long_and_asked_once(message, fields):
    def script(asked):
        return failure(400, message, **fields) if asked.prompt == "long" else failure(400, "no such parameter")

    with FaultyServer(script) as server:
        error = failures(engine_at(server), "short", "long")
    assert set(error.failures) == {0, 1}
    assert error.too_long == {1}
    assert server.asks() == {"short": 1, "long": 1}


def test_no_more_requests_than_the_bound_are_under_way_and_no_fewer():
    # Each reply waits until four requests are there, and then leaves a fifth the time to come.
    together = threading.Barrier(4)
    replies = lambda asked: answer(asked.prompt, wait=lambda: (together.wait(PATIENCE), time.sleep(0.05)))  # noqa: E731
    prompts = [f"prompt {number}" for number in range(12)]
    with FaultyServer(replies) as server:
        answers = ask(engine_at(server, concurrency=4), *prompts)
    assert [reply.text for reply in answers] == prompts
    assert server.most_at_once == 4


def test_prompts_that_are_retried_stay_within_the_bound():
    script = lambda asked: echo(asked) if asked.earlier else failure(500, "boom")  # noqa: E731
    prompts = [f"prompt {number}" for number in range(12)]
    with FaultyServer(script) as server:
        answers = ask(engine_at(server, concurrency=3, back_off=0.01), *prompts)
    assert [reply.text for reply in answers] == [f"re: {prompt}" for prompt in prompts]
    assert server.most_at_once <= 3


def test_the_second_try_comes_no_sooner_than_the_server_asks():
    refused = []

    def script(asked):
        # Bars every request for a second after the first; there are just two tries.
        refused.append(time.monotonic())
        return failure(429, "slow", [("Retry-After", "1")]) if refused[-1] < refused[0] + 1 else echo(asked)

    with FaultyServer(script) as server:
        (reply,) = ask(engine_at(server), "Hi")
    assert reply.text == "re: Hi"


@pytest.mark.parametrize("asked_for", ["0", "-5", "nan", "soon", "²", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_wait_that_is_no_number_of_seconds_is_passed_over(asked_for):
    refusal = failure(429, "slow", [("Retry-After", asked_for)])
    with FaultyServer(lambda asked: echo(asked) if asked.earlier else refusal) as server:
        (reply,) = ask(engine_at(server), "Hi")
    assert reply.text == "re: Hi"


def test_the_engine_works_inside_a_running_event_loop():
    async def notebook(engine):
        return ask(engine, "one", "two")

    with FaultyServer(echo) as server:
        replies = asyncio.run(notebook(engine_at(server)))
    assert [reply.text for reply in replies] == ["re: one", "re: two"]


def test_ctrl_c_ends_a_script_that_waits_for_a_silent_server():
    script = """
        from generation.base import SamplingParameters
        from generation.openai_engine import OpenAIEngine
        import sys
        chats = [[{"role": "user", "content": "Hi"}]] * 3
        OpenAIEngine("m", sys.argv[1], timeout=600).generate(chats, SamplingParameters())
    """
    with FaultyServer(lambda _: silence()) as server:
        command = [sys.executable, "-c", textwrap.dedent(script), server.url]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            # A suite run in the background has Ctrl-C switched off, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while len(server.asked) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert "KeyboardInterrupt" in errors


def test_the_key_is_sent_as_bearer(key):
    with FaultyServer(echo) as server:
        ask(engine_at(server), "Hi")
    assert server.asked[0].headers["authorization"] == f"Bearer {key}"


def test_the_key_is_sent_without_the_line_end_of_the_file_that_it_came_from(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\r\n")
    with FaultyServer(echo) as server:
        ask(engine_at(server), "Hi")
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_key_is_as_good_as_none(monkeypatch, empty):
    monkeypatch.setenv("OPENAI_API_KEY", empty)
    with FaultyServer(lambda asked: failure(400, "none at all") if asked.prompt == "bad" else echo(asked)) as server:
        error = failures(engine_at(server), "good", "bad")
    assert set(error.completions) == {0}
    assert error.failures[1].endswith("none at all")


@pytest.mark.parametrize("unusable", ["schlüssel-geheim", "geheim\nx"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(monkeypatch, unusable):
    monkeypatch.setenv("OPENAI_API_KEY", unusable)
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as raised:
        OpenAIEngine("m", "http://127.0.0.1:9/v1")
    assert "geheim" not in str(raised.value)


def test_the_key_is_in_no_error_no_log_and_no_trace_of_the_engine(key, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    faults = {
        "refused": failure(401, f"Incorrect API key provided: {key}"),
        "far": failure(400, "x" * 275 + key),  # the record ends in its middle
        "page": body(f"<html>{'x' * 230}{key}".encode()),
        "torn": half_a_body(),
        "silent": silence(),
    }
    with FaultyServer(lambda asked: faults.get(asked.prompt) or echo(asked)) as server:
        engine = engine_at(server, timeout=SHORT)
        error = failures(engine, *faults, "good")
    assert set(error.failures) == set(range(len(faults)))
    assert server.asked[0].headers["authorization"] == f"Bearer {key}"
    assert caplog.text  # something was logged, and the key isn't in it
    shown = [str(error), repr(error), *error.failures.values(), caplog.text, *capfd.readouterr(), repr(vars(engine))]
    assert [text for text in shown if key[:8] in text] == []


@pytest.mark.parametrize(
    "options, named",
    [
        ({"concurrency": 0}, "concurrency must .*got 0"),
        ({"concurrency": 2.5}, "concurrency must .*got 2.5"),
        ({"concurrency": "many"}, "concurrency must .*got many"),
        ({"attempts": 0}, "attempts must .*got 0"),
        ({"timeout": 0}, "timeout must .*got 0"),
        ({"timeout": -1.0}, "timeout must .*got -1.0"),
        ({"timeout": float("nan")}, "timeout must .*got nan"),
        ({"timeout": "long"}, "timeout must .*got long"),
        ({"back_off": -0.1}, "back_off must .*got -0.1"),
        ({"back_off": "none"}, "back_off must .*got none"),
        ({"follows_schema": "no"}, "follows_schema must .*got no"),
        ({"system_role": 0}, "system_role must .*got 0"),
        ({"reasoning": "high"}, "reasoning must .*got high"),
    ],
)
def test_an_option_out_of_bounds_is_refused_by_name_and_value(options, named):
    with pytest.raises(ValueError, match=named):
        OpenAIEngine("m", "http://127.0.0.1:9/v1", **options)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "127.0.0.1:8000/v1", "ftp://127.0.0.1/v1", "http://", "http://[bad/v1"]
)
def test_an_address_that_is_no_servers_is_refused_at_once(url):
    with pytest.raises(ValueError):
        OpenAIEngine("m", url)


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as raised:
        OpenAIEngine("m", "http://user:geheim@127.0.0.1:9/v1")
    assert "geheim" not in str(raised.value)


def test_a_chat_that_no_request_can_carry_loses_no_other():
    with FaultyServer(echo) as server:
        error = failures(engine_at(server), "one", "half a \ud800 letter", "three")
    assert list(error.failures) == [1]
    assert set(error.completions) == {0, 2}


def test_the_key_comes_from_the_variable_that_is_named(monkeypatch):
    monkeypatch.setenv("OTHER_KEY", KEY)
    with FaultyServer(lambda _: answer("x")) as server:
        ask(engine_at(server, key_variable="OTHER_KEY"), "Hi")
        (asked,) = server.asked
        monkeypatch.delenv("OTHER_KEY")
        with pytest.raises(ValueError, match="OTHER_KEY is not set"):
            engine_at(server, key_variable="OTHER_KEY")
    assert asked.headers["authorization"] == f"Bearer {KEY}"
