"""Measures llama.cpp and ours on the same files, one after the other, and prints the ratios.

    python bench/llm/run.py FOLDER_OF_MODELS [--threads 1] [--prompt 128] [--answer 64] [NAME ...]

Both are built for this machine: llama.cpp with native flags (requirements.txt says how), ours with
`cargo build --release -p lemma-llm --example llm_speed`. Figures are tokens per second,
best of several runs: by the clock, and (with one thread) by processor time, which a busy machine disturbs less and which
for decoding is the mean of all steps. Memory is what the process has in use after eight streams, with room for the same
number of positions in both.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def rss() -> float:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def peer(path: str, threads: int, prompt: int, answer: int) -> dict:
    """llama.cpp through its C interface, in this process."""
    import llama_cpp as ll
    import numpy as np

    quiet = ll.llama_log_callback(lambda *_: None)  # kept while the library may call it
    ll.llama_log_set(quiet, None)
    ll.llama_backend_init()
    before = rss()
    model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
    params = ll.llama_context_default_params()
    params.n_ctx = 8 * (prompt + answer + 64)
    params.n_batch = params.n_ubatch = 512
    params.n_seq_max = 8
    params.kv_unified = True
    params.n_threads = params.n_threads_batch = threads
    context = ll.llama_init_from_model(model, params)
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    memory = ll.llama_get_memory(context)

    def run(rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Rows of token, position, stream, and whether the next token is wanted."""
        batch = ll.llama_batch_init(len(rows), 0, 1)
        for i, (token, position, stream, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, stream, wanted
        batch.n_tokens = len(rows)
        if ll.llama_decode(context, batch):
            raise SystemExit("llama.cpp failed")
        out = []
        for i, row in enumerate(rows):
            if row[3]:
                logits = np.ctypeslib.as_array(ll.llama_get_logits_ith(context, i), shape=(vocab,))
                out.append(int(logits.argmax()))
        ll.llama_batch_free(batch)
        return out

    def clock() -> list[float]:
        return [time.perf_counter(), time.process_time()]

    def spent(start: list[float]) -> list[float]:
        return [b - a for a, b in zip(start, clock())]

    def tokens(stream: int) -> list[int]:
        return [300 + (i + 31 * stream) * 7919 % 7000 for i in range(prompt)]

    def read(stream: int) -> int:
        rows = [(t, i, stream, i + 1 == prompt) for i, t in enumerate(tokens(stream))]
        return run(rows)[0]

    def least(runs: list[list[float]]) -> list[float]:
        return [min(r[k] for r in runs) for k in (0, 1)]

    runs = []
    for _ in range(4):
        ll.llama_memory_clear(memory, True)
        start = clock()
        token = read(0)
        runs.append(spent(start))
    prefill = least(runs)
    first, runs = [token], []
    for i in range(answer):
        start = clock()
        token = run([(token, prompt + i, 0, True)])[0]
        runs.append(spent(start))
        first.append(token)
    decode = [least(runs)[0], sum(r[1] for r in runs) / len(runs)]
    ll.llama_memory_clear(memory, True)
    current = [read(stream) for stream in range(8)]
    start = clock()
    for i in range(answer - 1):
        current = run([(t, prompt + i, stream, True) for stream, t in enumerate(current)])
    eight = spent(start)
    used = rss() - before
    assert quiet
    return {
        "prefill": [prompt / t for t in prefill],
        "decode": [1 / t for t in decode],
        "streams8": [8 * (answer - 1) / t for t in eight],
        "rss_mib": used,
        "tokens": first[:8],
    }


def ours(path: str, threads: int, prompt: int, answer: int) -> dict:
    binary = ROOT / "target/release/examples/llm_speed"
    args = [str(binary), path, str(threads), str(prompt), str(answer)]
    return json.loads(subprocess.run(args, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("names", nargs="*")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--prompt", type=int, default=128)
    p.add_argument("--answer", type=int, default=64)
    p.add_argument("--peer", help=argparse.SUPPRESS)
    a = p.parse_args()
    size = (a.threads, a.prompt, a.answer)
    if a.peer:
        print(json.dumps(peer(a.peer, *size)))
        return
    files = [f for f in sorted(a.folder.glob("*.gguf")) if not a.names or f.stem in a.names]
    if not files:
        raise SystemExit(f"no models in {a.folder}: make them with models.py")
    print(
        f"{a.threads} threads, prompt {a.prompt}, answer {a.answer}; ours / llama.cpp (ratio) by the clock, by processor time"
    )
    for path in files:
        command = [sys.executable, __file__, str(a.folder), "--peer", str(path)]
        command += ["--threads", str(a.threads), "--prompt", str(a.prompt), "--answer", str(a.answer)]
        quiet = os.environ | {"GGML_LOG_LEVEL": "0"}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet
        )
        theirs, mine = json.loads(done.stdout.splitlines()[-1]), ours(str(path), *size)
        print(path.stem)
        for key in ("prefill", "decode", "streams8"):
            text = [f"{m:8.1f} / {t:8.1f} ({m / t:.2f})" for m, t in zip(mine[key], theirs[key])]
            print(f"  {key:9} " + "   ".join(text if a.threads == 1 else text[:1]))
        memory = (mine["rss_mib"], theirs["rss_mib"])
        print(f"  memory    {memory[0]:8.0f} / {memory[1]:8.0f} MiB ({memory[0] / memory[1]:.2f})")
        share = [r / g for r, g in zip(mine["replay_ms"], mine["generate_ms"])]
        print(f"  replay of {a.answer} tokens costs {share[0]:.2f} of generating them")


if __name__ == "__main__":
    main()
