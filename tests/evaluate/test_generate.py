"""Answers in batches equal answers one by one, for every way in which models know positions."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    Lfm2Config,
    MambaConfig,
    MiniMaxConfig,
    MistralConfig,
    MptConfig,
    OpenAIGPTConfig,
    OPTConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from rankray.evaluate.generate import generate_texts
from rankray.model.resident import tokenizer_of

SMALL = {"vocab_size": 280, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": None}
MODELS = {
    "absolute": GPT2Config(vocab_size=280, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=None),
    "offset": OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=64),
    "alibi": BloomConfig(vocab_size=280, hidden_size=32, n_layer=2, n_head=2, bos_token_id=None),
    "alibi and new decoder": FalconConfig(**SMALL, alibi=True, max_position_embeddings=64),
    "partly rotary": GPTNeoXConfig(**SMALL, intermediate_size=48, max_position_embeddings=64),
    "sliding window": MistralConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=1, sliding_window=4, max_position_embeddings=64
    ),
    "no cache": OpenAIGPTConfig(vocab_size=280, n_embd=32, n_layer=2, n_head=2, n_positions=64),
    "recurrent": MambaConfig(vocab_size=280, hidden_size=32, num_hidden_layers=2, state_size=4),
}
LIMITED = {
    **{name: config for name, config in MODELS.items() if name != "recurrent"},
    "masks of its own": GPTNeoConfig(
        vocab_size=280, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]],
        window_size=8, max_position_embeddings=64, bos_token_id=None,
    ),
    "alibi of its own": MptConfig(vocab_size=280, d_model=32, n_layers=2, n_heads=2, max_seq_len=64),
    "convolutions": Lfm2Config(
        **SMALL, intermediate_size=48, num_key_value_heads=1, layer_types=["conv", "full_attention"],
        max_position_embeddings=64,
    ),
    "a cache of its own": RecurrentGemmaConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=1, attention_window_size=8, lru_width=32,
        block_types=["recurrent", "attention"], max_position_embeddings=64,
    ),
}  # fmt: skip
"""Models with room for 64 tokens; Bloom's is not limited."""
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]]


@pytest.fixture
def tokenizer(tree):
    from rankray.config import Config

    return tokenizer_of(Config.model_validate(tree()))


def model_of(config):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_answers_what_each_prompt_would(name, tokenizer):
    model = model_of(MODELS[name])
    options = {"max_new_tokens": 7}
    together = generate_texts(model, tokenizer, PROMPTS, batch_size=4, **options)
    alone = []
    for prompt in PROMPTS:
        ids = list(prompt)
        for _ in range(7):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        alone.append(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True))
    assert together == alone


def test_a_prompt_is_read_once_and_rows_that_ended_leave(tree, tokenizer, model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    read = []
    plain = model.forward

    def forward(*args, **kwargs):
        read.append(tuple(kwargs["input_ids"].shape))
        return plain(*args, **kwargs)

    model.forward = forward
    prompts, keys = [PROMPTS[0]] * 6 + [PROMPTS[1]] * 2, [(0, number // 6, number) for number in range(8)]
    texts = generate_texts(model, tokenizer, prompts, batch_size=8, max_new_tokens=25, logit_temperature=3.0, keys=keys)
    assert read[0] == (2, 7), "two prompts, though eight answers"
    assert read[1] == (8, 1)
    assert read[-1][0] < 8, "a temperature of 3 over 280 tokens draws the end of text within 200 draws"
    again = [
        generate_texts(model, tokenizer, [one], batch_size=1, max_new_tokens=25, logit_temperature=3.0, keys=[key])[0]
        for one, key in zip(prompts, keys, strict=True)
    ]
    assert again == texts, "neither the batch nor its order matters to what is drawn"
    assert len(set(texts)) == 8


@pytest.mark.parametrize("name", LIMITED)
def test_an_answer_has_the_room_that_its_own_prompt_leaves(name, tokenizer):
    model, numbers = model_of(LIMITED[name]), torch.Generator().manual_seed(2)
    lengths = (3, 57, 60, 62, 63, 64, 70, 7, 50, 63)
    prompts = [torch.randint(3, 280, (length,), generator=numbers).tolist() for length in lengths]
    together = generate_texts(model, tokenizer, prompts, batch_size=10, max_new_tokens=12)
    assert together == [generate_texts(model, tokenizer, [one], batch_size=1, max_new_tokens=12)[0] for one in prompts]
    assert all(together[:5]), "one prompt that leaves no room takes it from no other"
    if name != "alibi":
        assert together[5:7] == ["", ""]


@pytest.mark.parametrize("name", ["absolute", "convolutions", "sliding window"])
def test_sampled_answers_have_their_own_room_too(name, tokenizer):
    model, numbers = model_of(LIMITED[name]), torch.Generator().manual_seed(2)
    prompts = [torch.randint(3, 280, (length,), generator=numbers).tolist() for length in (3, 60, 60, 63, 64, 7, 7, 7)]
    keys = [(0, number) for number in range(8)]
    options = {"max_new_tokens": 12, "logit_temperature": 1.5}
    together = generate_texts(model, tokenizer, prompts, batch_size=8, keys=keys, **options)
    alone = [
        generate_texts(model, tokenizer, [one], batch_size=1, keys=[key], **options)[0]
        for one, key in zip(prompts, keys, strict=True)
    ]
    assert together == alone
    assert together[4] == ""


def test_rows_leave_a_model_that_holds_more_than_keys_and_values(tokenizer):
    """Layers of linear attention and convolutions know no `batch_select_indices`."""
    model = model_of(LIMITED["convolutions"])
    options = {"max_new_tokens": 7}
    first = generate_texts(model, tokenizer, PROMPTS, batch_size=4, **options)
    with torch.no_grad():
        drawn = [int(model(input_ids=torch.tensor([one])).logits[0, -1].argmax()) for one in PROMPTS]
    model.generation_config.eos_token_id = drawn[:2]
    ended = generate_texts(model, tokenizer, PROMPTS, batch_size=4, **options)
    assert ended[:2] == ["", ""]
    assert [whole.startswith(part) for whole, part in zip(first, ended, strict=True)] == [True] * 4
    assert generate_texts(model, tokenizer, [PROMPTS[0]] * 3, batch_size=3, **options) == [""] * 3


def minimax():
    config = MiniMaxConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=1, head_dim=16, num_local_experts=2, block_size=4,
        max_position_embeddings=64, layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    return sharpened(config)


def rwkv():
    return sharpened(RwkvConfig(vocab_size=280, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32))


def sharpened(config):
    """Return a model whose logits differ by much."""
    model = model_of(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    return model


@pytest.mark.parametrize("make", [minimax, rwkv])
def test_linear_attention_sees_padding(make):
    """transformers' own `generate` has this too: docs/traps.md. A test that fails here says that the trap has gone."""
    model, found = make(), []
    for padding in (0, 5):
        ids, mask = torch.tensor([[0] * padding + PROMPTS[0]]), torch.tensor([[0] * padding + [1] * len(PROMPTS[0])])
        settings = {"max_new_tokens": 2, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        found.append(model.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **settings).logits[1])
    assert not torch.allclose(*found, atol=1e-3)


def test_rows_of_rwkv_read_each_others_state():
    """docs/traps.md; a test that fails here says that transformers has mended it, and that MIX_ROWS can go."""
    model, rows = rwkv(), torch.tensor([[13, 14, 15], [13, 14, 16]])
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(rows)}
    together = model.generate(rows, **settings)[0, 3:].tolist()
    settings["attention_mask"] = torch.ones_like(rows[:1])
    assert together != model.generate(rows[:1], **settings)[0, 3:].tolist()


@pytest.mark.parametrize("make", [minimax, rwkv, lambda: model_of(MODELS["recurrent"])])
@pytest.mark.parametrize("temperature", [None, 1.5])
def test_with_a_cache_of_its_own_an_answer_is_of_its_prompt_and_key_alone(make, temperature, tokenizer):
    model = make()
    prompts = [*PROMPTS, *PROMPTS[2:], [13, 14, 16]]
    keys = [(0, number) for number in range(len(prompts))]
    options = {"max_new_tokens": 7, "logit_temperature": temperature}
    together = generate_texts(model, tokenizer, prompts, batch_size=7, keys=keys, **options)
    alone = [
        generate_texts(model, tokenizer, [one], batch_size=1, keys=[key], **options)[0]
        for one, key in zip(prompts, keys, strict=True)
    ]
    assert together == alone
    assert temperature is None or together[2] != together[4], "the same prompt with another key"
