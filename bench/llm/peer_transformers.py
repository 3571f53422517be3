"""transformers' generate on a static batch: FOLDER PROMPT OUTPUT CONCURRENCY… The floor that everybody has."""

import json
import resource
import sys
import time

import torch
import transformers

folder, prompt, output, *levels = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(2)
begin = time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
result = {"load_s": time.perf_counter() - begin, "levels": {}}


@torch.inference_mode()
def run(concurrency: int) -> dict:
    ids = torch.randint(1000, 30000, (concurrency, prompt))
    options = dict(attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=None, pad_token_id=0)
    start = time.perf_counter()
    model.generate(ids, max_new_tokens=1, min_new_tokens=1, **options)
    first = time.perf_counter() - start
    start = time.perf_counter()
    model.generate(ids, max_new_tokens=output, min_new_tokens=output, **options)
    wall = time.perf_counter() - start
    decode = max(wall - first, 1e-9)
    count = concurrency * output
    return {
        "tok_s": count / wall,
        "decode_tok_s": (count - concurrency) / decode,
        "tokens": count,
        "ttft_p50_ms": 1000 * first,
        "tpot_ms": 1000 * decode / (output - 1),
    }


for level in levels:
    result["levels"][level] = run(level)
result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(result))
