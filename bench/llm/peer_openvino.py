"""OpenVINO GenAI's continuous batching, driven step by step. Runs in the peers' environment: FOLDER PROMPT OUTPUT CONCURRENCY…"""

import json
import random
import resource
import sys
import time

import numpy as np
import openvino
import openvino_genai as genai

folder, prompt, output, *levels = sys.argv[1], *map(int, sys.argv[2:])
begin = time.perf_counter()
scheduler = genai.SchedulerConfig()
scheduler.cache_size, scheduler.max_num_batched_tokens, scheduler.max_num_seqs, scheduler.enable_prefix_caching = (
    4,
    256,
    64,
    False,
)
pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": 2})
config = genai.GenerationConfig(max_new_tokens=output, ignore_eos=True, do_sample=False)
result = {"load_s": time.perf_counter() - begin, "levels": {}}
number = 0


def run(concurrency: int) -> dict:
    global number
    sent = time.perf_counter()
    handles = []
    for _ in range(concurrency):
        ids = np.array([[random.randrange(1000, 30000) for _ in range(prompt)]], dtype=np.int64)
        handles.append(pipeline.add_request(number, openvino.Tensor(ids), config))
        number += 1
    counts, first, last = [0] * concurrency, [0.0] * concurrency, [0.0] * concurrency
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.perf_counter()
        for i, handle in enumerate(handles):
            while handle.can_read():
                for made in handle.read().values():
                    counts[i] += len(made.generated_ids)
                first[i] = first[i] or now
                last[i] = now
    wall = max(last) - sent
    decode = max(last) - max(first)
    return {
        "tok_s": sum(counts) / wall, "decode_tok_s": (sum(counts) - concurrency) / decode, "tokens": sum(counts),
        "ttft_p50_ms": 1000 * (sorted(first)[concurrency // 2] - sent), "tpot_ms": 1000 * float(np.median([(b - a) / max(1, n - 1) for a, b, n in zip(first, last, counts)])),
    }  # fmt: skip


run(1)
for level in levels:
    result["levels"][level] = run(level)
result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps(result))
