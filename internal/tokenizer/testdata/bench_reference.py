"""Speed of Hugging Face's tokenizers on the texts of bench_texts.json, one text a call, one thread.

    pip install tokenizers==0.23.3
    python bench_reference.py
    go test -run - -bench Encode ..      # the same texts, same units
"""
import gzip
import json
import os
import pathlib
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers

HERE = pathlib.Path(__file__).parent
tok = tokenizers.Tokenizer.from_str(gzip.open(HERE / "minilm.json.gz").read().decode())
tok.no_padding()
tok.no_truncation()
for name, t in json.loads((HERE / "bench_texts.json").read_text()).items():
    text = t["Text"] * t["Repeat"]
    tokens = len(tok.encode(text).ids)
    times = []
    stop = time.perf_counter() + 1
    while time.perf_counter() < stop or len(times) < 3:
        start = time.perf_counter()
        tok.encode(text).ids
        times.append(time.perf_counter() - start)
        if sum(times) > 10:
            break
    mean = sum(times) / len(times)
    print(f"{name:14} {tokens:8d} tokens {mean * 1e6:12.1f} us {tokens / mean:12.0f} tokens/s {len(text.encode()) / mean / 1e6:8.2f} MB/s", flush=True)
