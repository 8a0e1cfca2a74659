"""Measures llama.cpp and ours on the same files, one after the other, and prints a table with ratios and goals.

    python bench/llm/run.py FOLDER_OF_MODELS [--threads 1] [--prompt 128] [--answer 64] [--without streams8,replay] [NAME ...]

Both are built for this machine: llama.cpp with native flags (requirements.txt says how), ours with
`cargo build --release -p lemma-llm --example llm_speed`. Speeds are tokens per second, best of several runs: by the
clock, and (with one thread) by processor time, which a busy machine disturbs less and which for decoding is the mean of
all steps. Both engines have room for the same number of positions and take the same number of tokens at a time. Memory
is what the process has in use at the end of all that was measured, with all that it holds still held; llama.cpp's is
less the interpreter that it runs in. The share of a replay is of the time for reading the prompt and writing the answer.

A file of the shape `small` takes under a minute on an idle machine; name one file, and leave out what is not wanted,
where time is short.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def positions(prompt: int, answer: int) -> int:
    """Room for eight streams, in whole pages of 16."""
    return 8 * ((prompt + answer + 64 + 15) // 16 * 16)


def rss() -> float:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def peer(path: str, threads: int, prompt: int, answer: int, without: str) -> dict:
    """llama.cpp through its C interface, in this process."""
    import llama_cpp as ll
    import numpy as np

    quiet = ll.llama_log_callback(lambda *_: None)  # kept while the library may call it
    ll.llama_log_set(quiet, None)
    ll.llama_backend_init()
    before = rss()
    model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
    params = ll.llama_context_default_params()
    params.n_ctx = positions(prompt, answer)
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
    eight = None
    if "streams8" not in without:
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
        "streams8": [8 * (answer - 1) / t for t in eight or []],
        "memory": [used],
        "tokens": first[:8],
    }


def ours(path: str, threads: int, prompt: int, answer: int, without: str) -> dict:
    binary = ROOT / "target/release/examples/llm_speed"
    args = [str(binary), path, str(threads), str(prompt), str(answer), str(positions(prompt, answer)), without]
    found = json.loads(subprocess.run(args, check=True, capture_output=True, text=True).stdout)
    if "replay" not in without:
        found["replay"] = [r / g for r, g in zip(found["replay_ms"], found["generate_ms"])]
    return found


def goals(name: str) -> dict:
    """The least ratio of speeds, the greatest of memory, the greatest share of a replay."""
    prefill = 1.5 if "q8_0" in name else 1.0
    return {"prefill": prefill, "decode": 1.0, "streams8": 1.2, "memory": 1.1, "replay": 0.2}


def table(name: str, mine: dict, theirs: dict, threads: int) -> None:
    ways = ("clock", "processor") if threads == 1 else ("clock",)
    for key, goal in goals(name).items():
        least = key in ("prefill", "decode", "streams8")
        for i, way in enumerate(ways):
            if i >= len(mine.get(key, [])):
                continue
            if key == "replay":
                ratio, numbers = mine[key][i], f"{'':>10}   {'':>10}"
            else:
                ratio = mine[key][i] / theirs[key][i]
                numbers = f"{mine[key][i]:10.1f}   {theirs[key][i]:10.1f}"
            met = ratio >= goal if least else ratio <= goal
            sign = ">=" if least else "<="
            way = "" if key == "memory" else way
            print(f"{name:14} {key:9} {way:9} {numbers}   {ratio:5.2f}   {sign} {goal:.2f}   {'met' if met else 'missed'}")
    print(f"{name:14} loading: {mine['load_ms']:.0f} ms, at most {mine['load_peak_mib']:.0f} MiB on the way, "
          f"weights {mine['weights_mib']:.0f} MiB", flush=True)


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("names", nargs="*")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--prompt", type=int, default=128)
    p.add_argument("--answer", type=int, default=64)
    p.add_argument("--without", default="", help="streams8, replay, or both with a comma")
    p.add_argument("--peer", help=argparse.SUPPRESS)
    a = p.parse_intermixed_args()
    size = (a.threads, a.prompt, a.answer, a.without)
    if a.peer:
        print(json.dumps(peer(a.peer, *size)))
        return
    files = [f for f in sorted(a.folder.glob("*.gguf")) if not a.names or f.stem in a.names]
    if not files:
        raise SystemExit(f"no models in {a.folder}: make them with models.py")
    print(f"{a.threads} threads, prompt {a.prompt}, answer {a.answer}; tokens per second, MiB, share")
    print(f"{'model':14} {'measure':9} {'time':9} {'ours':>10}   {'llama.cpp':>10}   ratio   goal")
    for path in files:
        command = [sys.executable, __file__, str(a.folder), "--peer", str(path), "--without", a.without]
        command += ["--threads", str(a.threads), "--prompt", str(a.prompt), "--answer", str(a.answer)]
        quiet = os.environ | {"GGML_LOG_LEVEL": "0"}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet
        )
        theirs, mine = json.loads(done.stdout.splitlines()[-1]), ours(str(path), *size)
        table(path.stem, mine, theirs, a.threads)


if __name__ == "__main__":
    main()
