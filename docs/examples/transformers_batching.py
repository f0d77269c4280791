"""``generate_batch`` on nbkv: install it, generate as before, look at what was saved."""

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from nbkv.integrations.transformers import installed

# Any model whose layers are all full attention. This one needs no download and knows nothing.
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    eos_token_id=None,
)
model = LlamaForCausalLM(config).eval()

instructions = list(range(100, 200))  # what all prompts begin with
prompts = [[*instructions, question, question + 1] for question in range(24)]

with installed() as batching:
    outputs = model.generate_batch(
        prompts,
        generation_config=GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0),
        # Say all three: what is left out is chosen to fill the memory.
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=16, num_blocks=256, max_batch_tokens=256
        ),
    )

for name, output in list(outputs.items())[:2]:
    print(name, output.generated_tokens)
stats = batching.stats
print(f"{stats.hit_tokens} of {stats.prompt_tokens} prompt tokens were cached")
print(f"{stats.free_blocks} blocks free, {stats.evictable_blocks} evictable")
