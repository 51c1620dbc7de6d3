import json
from itertools import count

import pytest
from datasets import Dataset
from transformers import AutoModel, AutoTokenizer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import train
from detector import ROOT, load_detector
from tests.out_of_sight import run_out_of_sight

PAIRS = [
    {"prompt": "the cat", "response": "sat on the mat"},
    {"prompt": "a dog"},
    {"prompt": "the mat sat on a cat and a dog on a mat", "response": None},
    {"prompt": "a dog", "response": " "},
    {"prompt": "dog", "response": "cat " * 300},
]
PROMPTS = [pair["prompt"] for pair in PAIRS]
RESPONSES = [pair.get("response") for pair in PAIRS]


@pytest.fixture(scope="module")
def folder(tiny_detector, tmp_path_factory):
    # As training leaves it.
    folder = tmp_path_factory.mktemp("models") / "tiny-lance"
    model = AutoModel.from_pretrained(tiny_detector, trust_remote_code=True)
    train.save(model, train.ModelArguments(), folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def detector(folder):
    return pipeline(model=str(folder), trust_remote_code=True, device="cpu")


@pytest.fixture
def batches(detector):
    # The size of each batch that the model sees.
    sizes = []
    handle = detector.model.register_forward_pre_hook(
        lambda _model, _args, inputs: sizes.append(len(inputs["input_ids"])), with_kwargs=True
    )
    yield sizes
    handle.remove()


def as_dictionaries(verdicts):
    return [
        {
            "risk": verdict.mean,
            "std": verdict.std,
            "effort": verdict.effort,
            "is_safe": verdict.is_safe,
            "max_risk": verdict.max_risk,
        }
        for verdict in verdicts
    ]


def test_a_trained_folder_names_its_task_and_its_results_are_assess_own(detector, model):
    assert detector.task == "risk-distribution"
    results = detector(PAIRS)
    assert results == as_dictionaries(model.assess(PROMPTS, RESPONSES))
    assert len({result["max_risk"] for result in results}) == 4  # a blank response is none
    assert json.loads(json.dumps(results)) == results


def test_one_input_gives_one_dictionary(detector):
    assert detector(PAIRS[0]) == detector(PAIRS[:1])[0]
    assert detector("a dog") == detector({"prompt": "a dog"}) == detector(["a dog"])[0]


def test_the_model_encodes_with_the_tokenizer_that_the_pipeline_was_given(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, do_lower_case=False)
    cased = pipeline(model=str(folder), tokenizer=tokenizer, trust_remote_code=True, device="cpu")
    assert cased.model.tokenizer is tokenizer
    assert cased(["the cat"])[0]["risk"] != cased(["THE CAT"])[0]["risk"]


def test_no_input_gives_no_result(detector):
    assert detector([]) == list(detector(iter([]))) == []


@pytest.mark.parametrize(
    "inputs",
    [
        lambda: (pair for pair in PAIRS),
        lambda: iter(PAIRS),
        lambda: Dataset.from_dict({"prompt": PROMPTS, "response": RESPONSES}),
        lambda: KeyDataset([{"pair": pair} for pair in PAIRS], "pair"),
        lambda: KeyDataset(Dataset.from_list([{"pair": {"response": None} | pair} for pair in PAIRS]), "pair"),
    ],
    ids=["generator", "iterator", "Dataset", "KeyDataset of a list", "KeyDataset of a Dataset"],
)
def test_what_is_no_list_gives_an_iterator_over_the_same_results(detector, inputs):
    results = detector(inputs())
    assert next(results) == detector(PAIRS)[0]
    assert list(results) == detector(PAIRS)[1:]


def test_a_key_dataset_of_prompts_is_judged_by_them_alone(detector):
    rows = Dataset.from_list([{"question": "the cat"}, {"question": "a dog"}])
    assert list(detector(KeyDataset(rows, "question"))) == detector(["the cat", "a dog"])


def test_a_stream_without_end_is_read_as_its_results_are(detector):
    results = detector(("cat " * (number % 3 + 1) for number in count()), batch_size=1)
    first, second, third, fourth = (next(results) for _ in range(4))
    assert first == fourth
    assert len({result["max_risk"] for result in (first, second, third)}) == 3


def test_batches_are_assess_own(detector, batches):
    detector(PAIRS[:4])
    detector(PAIRS[:4], batch_size=3)
    list(detector(iter(PAIRS[:4]), batch_size=2))
    assert batches == [4, 3, 1, 2, 2]


def test_options_are_assess_own(detector, model):
    for options in ({"risk_threshold": 0.9}, {"risk_threshold": {"self_harm": None}}, {"uncertainty": 0.8}):
        expected = as_dictionaries(model.assess(PROMPTS, RESPONSES, **options))
        assert detector(PAIRS, **options) == list(detector(iter(PAIRS), **options)) == expected
        assert expected != detector(PAIRS)


def test_a_call_goes_before_what_the_pipeline_was_made_with(folder, detector):
    made_with = {"risk_threshold": 0.6, "uncertainty": 0.8, "batch_size": 2}
    careful = pipeline(model=str(folder), trust_remote_code=True, device="cpu", **made_with)
    expected = detector(PAIRS, **made_with)
    assert careful(PAIRS) == expected
    plain = careful(PAIRS, uncertainty=None, batch_size=4)
    assert plain == detector(PAIRS, risk_threshold=0.6, batch_size=4)
    assert [result["is_safe"] for result in plain] != [result["is_safe"] for result in expected]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (" ", "prompt 1 is empty"),
        ({"prompt": "", "response": "a dog"}, "prompt 1 is empty"),
        ({"response": "a dog"}, r"input 1 must hold a 'prompt' and maybe a 'response', no more: got \['response'\]"),
        ({"prompt": "a dog", "reponse": "cat"}, r"got \['prompt', 'reponse'\]"),
        ({"role": "user", "content": "a dog"}, r"got \['role', 'content'\]"),
        ({"prompt": None}, "input 1: 'prompt' must be a string, got None"),
        ({"prompt": "a dog", "response": ["cat"]}, r"input 1: 'response' must be a string or None, got \['cat'\]"),
        (("a dog", "cat"), "input 1 must be a prompt or a dict .* got a tuple"),
    ],
)
def test_a_wrong_input_is_named_and_none_of_its_list_is_scored(detector, batches, wrong, message):
    with pytest.raises(ValueError, match=message):
        detector(["the cat", wrong])
    assert batches == []
    with pytest.raises(ValueError, match=message):
        list(detector(iter(["the cat", wrong])))


@pytest.mark.parametrize("inputs", [None, 5])
def test_what_holds_no_inputs_is_named(detector, inputs):
    with pytest.raises(ValueError, match=f"inputs must be a prompt, .* got {inputs}"):
        detector(inputs)


def test_wrong_options_are_named(detector, folder):
    with pytest.raises(ValueError, match="'top_k' is no option of this pipeline: use batch_size, risk_threshold, unc"):
        detector("the cat", top_k=1)
    with pytest.raises(ValueError, match="'truncation' is no option"):
        pipeline(model=str(folder), trust_remote_code=True, truncation=True)
    with pytest.raises(ValueError, match="uncertainty must lie between 0 and 1, got 2"):
        detector(iter(["the cat"]), uncertainty=2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        detector("the cat", batch_size=0)


def test_a_saved_pipeline_gives_the_same_results_where_the_repository_is_out_of_sight(detector, tmp_path):
    # Saved twice, the second time by a process that knows the first folder alone.
    detector.save_pretrained(tmp_path / "first")
    script = """
import json, sys
from transformers import pipeline
detector = pipeline(model=sys.argv[1], trust_remote_code=True, device="cpu")
detector.save_pretrained(sys.argv[2])
print(json.dumps(detector(json.loads(sys.argv[3]))))
"""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folders = (tmp_path / "first", tmp_path / "second")
    there = run_out_of_sight(script, *folders, json.dumps(PAIRS), cwd=elsewhere)
    again = pipeline(model=str(tmp_path / "second"), trust_remote_code=True, device="cpu")(PAIRS)
    for results in (there, again):
        for result, expected in zip(results, detector(PAIRS), strict=True):
            assert result["risk"] == pytest.approx(expected["risk"], abs=1e-6)
            assert result["effort"] == expected["effort"]


def test_a_model_saved_alone_names_no_pipeline_whose_file_is_not_there(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


def test_the_repository_is_a_pipelines_folder_as_training_writes_it(folder):
    trained, embedded = (json.loads((path / "config.json").read_text()) for path in (folder, ROOT))
    assert embedded["custom_pipelines"] == trained["custom_pipelines"]
    assert (folder / "pipeline_lance.py").read_text() == (ROOT / "pipeline_lance.py").read_text()
    result = pipeline(model=str(ROOT), trust_remote_code=True, device="cpu")("How do I bake bread?")
    assert [result] == as_dictionaries(load_detector().assess("How do I bake bread?"))
