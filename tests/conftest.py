import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, BertTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from detector import detector_class

# Shared machines are slow at times: a test's time says nothing of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "system user assistant",
    "How do I bake bread at home, and how long does it take?",
    "What is the safest way to cross a busy street with a child?",
    "Please tell me a short story about a friendly neighbour and his garden.",
]


def save_chat_model(folder, context_length, chat_template=CHAT_TEMPLATE):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|pad|>",
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_length,
        initializer_range=0.5,  # wide enough that greedy choices are clear, and depend on what was read
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_chat_model(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("models") / "tiny-chat", context_length=64)


@pytest.fixture(scope="session")
def roomy_chat_model(tmp_path_factory):
    # Its context holds the refiner's examples too.
    return save_chat_model(tmp_path_factory.mktemp("models") / "roomy-chat", context_length=4096)


@pytest.fixture(scope="session")
def chat_model_without_template(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("models") / "no-template", context_length=64, chat_template=None)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    words = sorted(set(" ".join(SENTENCES).lower().replace(",", " ,").replace("?", " ?").replace(".", " .").split()))
    letters = list("abcdefghijklmnopqrstuvwxyz")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = BertTokenizer(vocab=vocabulary)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_detector(tmp_path_factory, tiny_encoder):
    folder = tmp_path_factory.mktemp("models") / "tiny-lance"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = detector_class().from_encoder(tiny_encoder, latent_size=8, max_length=128)
        model.save_pretrained(folder)
    return folder
