import pytest
import torch

from refinement.similarity import SentenceEmbedder, cosine

PROMPT = "How do I get back at a rude neighbour?"


@pytest.fixture(scope="module")
def embedder():
    return SentenceEmbedder()


class Recorder:
    def __init__(self):
        self.texts = []

    def embed(self, texts):
        self.texts.append(list(texts))
        return torch.nn.functional.one_hot(torch.tensor([len(text) % 3 for text in texts]), 3).float()


def test_a_text_is_as_close_to_itself_as_can_be(embedder):
    assert cosine(embedder, [PROMPT], [PROMPT]) == pytest.approx([1.0], abs=1e-5)


def test_a_rewrite_on_the_topic_is_closer_than_one_on_another(embedder):
    near, far = cosine(
        embedder,
        [PROMPT, PROMPT],
        ["How can I resolve a conflict with a rude neighbour?", "How many moons does the planet Jupiter have?"],
    )
    assert near > 0.6
    assert far < 0.25


def test_vectors_are_of_length_one_and_do_not_depend_on_the_batch(embedder):
    texts = [PROMPT, "Bread?", "A much longer sentence about the history of bread in the south of France. " * 5]
    vectors = embedder.embed(texts)
    assert vectors.shape == (3, 384)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    for text, vector in zip(texts, vectors, strict=True):
        torch.testing.assert_close(embedder.embed([text])[0], vector, atol=1e-4, rtol=0)


def test_more_texts_than_a_batch_keep_their_order(embedder):
    texts = [PROMPT, "Bread?", "Jupiter's moons", "A recipe for soup", "Rust"]
    small = SentenceEmbedder(batch_size=2)
    torch.testing.assert_close(small.embed(texts), embedder.embed(texts), atol=1e-4, rtol=0)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\u200b\u202e", "word " * 20_000, "x" * 100_000, "{}{0}%s\\"])
def test_any_text_has_a_similarity(embedder, text):
    (similarity,) = cosine(embedder, [PROMPT], [text])
    assert -1.001 <= similarity <= 1.001


def test_what_lies_beyond_the_model_s_reach_is_not_read(embedder):
    long = "bread " * 300
    assert cosine(embedder, [long], [f"{long} neighbour"]) == pytest.approx([1.0], abs=1e-5)


def test_each_pair_gets_its_own_similarity_in_the_order_given():
    assert cosine(Recorder(), ["a", "a", "bb"], ["b", "bb", "cc"]) == [1.0, 0.0, 1.0]


def test_a_text_that_occurs_twice_is_embedded_once():
    recorder = Recorder()
    cosine(recorder, ["a", "a", "b"], ["b", "c", "c"])
    assert recorder.texts == [["a", "b", "c"]]


def test_no_pairs_need_no_embedding():
    recorder = Recorder()
    assert cosine(recorder, [], []) == []
    assert recorder.texts == []
