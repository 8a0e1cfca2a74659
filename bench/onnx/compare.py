"""Runs onnxruntime and the engine in turn on the same models and inputs, and prints a table.

    compare.py --models FOLDER --engine BINARY [--batches 1,8] [--threads 1,2] [--seconds S] [NAME ...]

Ratios are onnxruntime's time (or memory) divided by the engine's: above 1 the engine is better. Times are the shortest
of all runs of one configuration; processor time counts all threads. Memory is what loading and running add to the
process at its peak.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from export import MODELS, PRODUCTS, feed

HERE = Path(__file__).parent
HEAD = "| model | batch | threads | onnxruntime ms | engine ms | ratio, wall | ratio, CPU | ratio, load | ratio, memory | largest difference |"


def signature(model):
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return [(i.name, i.type, i.shape) for i in session.get_inputs()]


def measure(command, model, files, threads, seconds, folder):
    inputs = [word for name, file in files.items() for word in ("--input", f"{name}={file}")]
    options = ["--threads", str(threads), "--seconds", str(seconds), "--output-dir", str(folder)]
    done = subprocess.run([*command, str(model), *inputs, *options], capture_output=True, text=True)
    if done.returncode != 0:
        return None, (done.stderr.strip().splitlines() or ["failed"])[-1]
    return json.loads(done.stdout), None


def difference(ours, peers):
    largest = 0.0
    for path in sorted(peers.glob("*.npy")):
        a, b = np.load(ours / path.name), np.load(path)
        if a.shape != b.shape:
            return f"shape {a.shape} for {b.shape}"
        if a.size:
            largest = max(largest, float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)))))
    return f"{largest:.1e}"


def row(name, batch, threads, arguments, work):
    model = Path(arguments.models) / f"{name}.onnx"
    files = {}
    for key, array in feed(signature(model), batch).items():
        files[key] = work / f"{key}.npy"
        np.save(files[key], array)
    folders = [work / "peer", work / "engine"]
    for folder in folders:
        folder.mkdir()
    commands = [[sys.executable, str(HERE / "peer.py")], [arguments.engine]]
    results = [measure(c, model, files, threads, arguments.seconds, f) for c, f in zip(commands, folders)]
    for result, error in results:
        if error:
            return f"| {name} | {batch} | {threads} | {error} |", False
    peer, ours = (result for result, _ in results)
    ratio = [peer[key] / max(ours[key], 1e-9) for key in ("wall_ms", "cpu_ms", "load_ms", "peak")]
    cells = [name, batch, threads, f"{peer['wall_ms']:.3f}", f"{ours['wall_ms']:.3f}", *(f"{r:.2f}" for r in ratio)]
    cells.append(difference(folders[1], folders[0]))
    return "| " + " | ".join(str(cell) for cell in cells) + " |", True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    print(HEAD)
    print("|" + "---|" * (HEAD.count("|") - 1))
    good = True
    for name in arguments.names or [*MODELS, *PRODUCTS]:
        batches = [1] if name in PRODUCTS else [int(b) for b in arguments.batches.split(",")]
        for batch in batches:
            for threads in (int(t) for t in arguments.threads.split(",")):
                with tempfile.TemporaryDirectory() as work:
                    line, done = row(name, batch, threads, arguments, Path(work))
                good &= done
                print(line, flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
