import json
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from detector import ROOT
from generation.base import GenerationError, SamplingParameters
from generation.cache import CachedEngine, CacheError
from generation.openai_engine import OpenAIEngine
from tests.generation.faulty_server import FaultyServer, answer, failure

GREEDY = SamplingParameters(max_new_tokens=8)
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bread?"},
]


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def server():
    """Numbers its answers: an answer that comes again was not asked for again."""
    with FaultyServer(lambda _: answer(f"{len(server.asked)}: answer")) as server:
        yield server


@pytest.fixture
def cached(server, tmp_path):
    return CachedEngine(OpenAIEngine("m", server.url), tmp_path / "cache")


def texts(engine, *chats, sampling=GREEDY):
    return [completion.text for completion in engine.generate(chats, sampling)]


def test_the_same_chat_is_asked_once_and_answered_alike(cached, server):
    first = cached.generate([CHAT], GREEDY)
    assert cached.generate([CHAT], GREEDY) == first
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "chat",
    [
        [CHAT[0] | {"content": "Be brief."}, *CHAT[1:]],
        [CHAT[0], CHAT[1] | {"content": "hi"}, *CHAT[2:]],
        [*CHAT[:2], CHAT[2] | {"content": "Hello. "}, CHAT[3]],
        [*CHAT[:3], CHAT[3] | {"content": "Bread? "}],
        [*CHAT[:3], CHAT[3] | {"role": "assistant"}],
        CHAT[1:],
        CHAT[:3],
        [CHAT[0], CHAT[3], CHAT[2], CHAT[1]],
        [*CHAT, CHAT[3]],
    ],
)
def test_a_chat_that_differs_anywhere_is_asked(cached, server, chat):
    before = texts(cached, CHAT)
    assert texts(cached, chat) != before
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 9}, {"top_p": 0.9}, {"seed": 1}, {"json_schema": "{}"}, {"json_schema": "true"}]
)
def test_another_sampling_parameter_is_asked(cached, server, change):
    before = texts(cached, CHAT)
    assert texts(cached, CHAT, sampling=replace(GREEDY, **change)) != before
    assert texts(cached, CHAT) == before
    assert len(server.asked) == 2


def test_another_engine_on_the_same_folder_is_asked(server, tmp_path):
    one, other = (CachedEngine(OpenAIEngine(name, server.url), tmp_path) for name in ("one", "other"))
    assert texts(one, CHAT) != texts(other, CHAT)
    assert [asked.model for asked in server.asked] == ["one", "other"]


def test_the_engine_behind_shows_through(cached, server):
    assert cached.name == f"openai:m@{server.url}"
    assert cached.batch_size == 16


def test_another_process_finds_what_was_kept(cached, server, tmp_path):
    script = """
        import json, sys
        from generation.base import SamplingParameters
        from generation.cache import CachedEngine, CacheError
        from generation.openai_engine import OpenAIEngine
        url, folder, chat = sys.argv[1:]
        engine = CachedEngine(OpenAIEngine("m", url), folder)
        print(engine.generate([json.loads(chat)], SamplingParameters(max_new_tokens=8))[0].text)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), server.url, str(tmp_path / "cache"), json.dumps(CHAT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1: answer\n", done.stderr
    assert texts(cached, CHAT) == ["1: answer"]
    assert len(server.asked) == 1


def test_what_is_sampled_is_not_kept(cached, server):
    warm = replace(GREEDY, temperature=0.7)
    assert texts(cached, CHAT, sampling=warm) != texts(cached, CHAT, sampling=warm)
    assert len(server.asked) == 2


def test_equal_chats_of_a_batch_are_asked_once_and_each_has_its_place(cached, server):
    one, two = user("one"), user("two")
    answers = texts(cached, one, two, one, one)
    assert answers[0] == answers[2] == answers[3] != answers[1]
    assert server.asks() == {"one": 1, "two": 1}


def test_the_order_is_kept_among_old_and_new(server, tmp_path):
    server.script = lambda asked: answer(f"re: {asked.prompt}")
    cached = CachedEngine(OpenAIEngine("m", server.url), tmp_path / "cache")
    texts(cached, user("c"), user("a"))
    assert texts(cached, *map(user, "abcd")) == ["re: a", "re: b", "re: c", "re: d"]
    assert server.asks() == dict.fromkeys("abcd", 1)


def test_a_failure_is_not_kept_and_what_the_others_got_is(server, tmp_path):
    ill = True
    server.script = lambda asked: failure(400, "no") if ill and asked.prompt == "b" else answer(f"re: {asked.prompt}")
    cached = CachedEngine(OpenAIEngine("m", server.url), tmp_path / "cache")
    texts(cached, user("c"))
    with pytest.raises(GenerationError) as raised:
        cached.generate([*map(user, "abcb")], GREEDY)
    assert raised.value.failures == dict.fromkeys([1, 3], "Error code: 400 - no")
    assert {place: reply.text for place, reply in raised.value.completions.items()} == {0: "re: a", 2: "re: c"}
    assert raised.value.too_long == frozenset()

    ill = False
    assert texts(cached, *map(user, "abcb")) == ["re: a", "re: b", "re: c", "re: b"]
    assert server.asks() == {"a": 1, "b": 2, "c": 1}


def test_a_chat_that_is_too_long_is_marked_at_its_own_place(server, tmp_path):
    long = failure(400, "This model's maximum context length is 5 tokens.")
    server.script = lambda asked: long if asked.prompt == "long" else answer("x")
    cached = CachedEngine(OpenAIEngine("m", server.url), tmp_path / "cache")
    texts(cached, user("a"))
    with pytest.raises(GenerationError) as raised:
        cached.generate([user("a"), user("b"), user("long")], GREEDY)
    assert raised.value.too_long == {2}


def test_an_answer_of_many_megabytes_is_kept_whole(server, tmp_path):
    server.script = lambda _: answer("bread " * 1_000_000 + "end")
    cached = CachedEngine(OpenAIEngine("m", server.url), tmp_path / "cache")
    first = texts(cached, CHAT)
    assert first[0].endswith("end")
    assert texts(cached, CHAT) == first
    assert len(server.asked) == 1


def test_an_answer_whose_file_was_lost_is_asked_again(server, tmp_path):
    server.script = lambda _: answer("bread " * 100_000)  # too long for the table: in a file beside it
    cached = CachedEngine(OpenAIEngine("m", server.url), tmp_path / "cache")
    first = texts(cached, CHAT)
    (file,) = (tmp_path / "cache").rglob("*.val")
    file.unlink()
    assert texts(cached, CHAT) == first
    assert len(server.asked) == 2


@pytest.mark.parametrize("kind", ["a file", "another database"])
def test_a_folder_that_can_hold_no_cache_is_refused(server, tmp_path, kind):
    folder = tmp_path / "cache"
    if kind == "a file":
        folder.write_text("notes")
    else:
        folder.mkdir()
        (folder / "cache.db").write_text("notes " * 1000)
    with pytest.raises(CacheError) as raised:
        CachedEngine(OpenAIEngine("m", server.url), folder)
    assert str(raised.value).startswith(f"{folder}: no cache can be kept there (")
