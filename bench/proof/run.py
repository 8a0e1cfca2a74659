"""Compares proofs with EZKL's on the same ONNX models, in one run.

usage: run.py [--ezkl MODEL,MODEL,...] [--memory GIB]

Needs Python with venv; everything it makes is under target/bench-proof. By default EZKL proves what it does in a few minutes
and 16 GiB; the other models are proved by ours alone, and the table says so. EZKL's SRS is made locally: for measurement only.
Times are CPU seconds of `prove`: EZKL's of a child process that reads its keys as its command line would, ours of a warm process.
"""

import argparse
import asyncio
import inspect
import json
import os
import pathlib
import resource
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "bench-proof"
MODELS = ["mlp109k", "dense1m", "block50k", "cnn264k", "dense4m"]
PACKAGES = ["ezkl==23.0.5", "numpy", "onnx"]


def python():
    """The interpreter of an environment with the packages."""
    exe = WORK / "venv" / "bin" / "python"
    if not exe.exists():
        venv.create(WORK / "venv", with_pip=True)
        subprocess.run([exe, "-m", "pip", "-q", "install", *PACKAGES], check=True)
    return exe


def ours(names):
    environment = dict(os.environ, RUSTFLAGS="-C target-cpu=native", CARGO_TARGET_DIR=str(WORK / "build"))
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "lemma-proof-bench"], cwd=ROOT, env=environment, check=True)
    binary, results = WORK / "build" / "release" / "proof", {}
    for name in names:
        out = subprocess.run(
            [binary, WORK / "models" / name / "network.onnx"],
            env=dict(os.environ, RAYON_NUM_THREADS="1"), capture_output=True, text=True, check=True,
        ).stdout
        results[name] = json.loads(out)
    return results


def stage(folder, what, memory):
    """Runs one stage of EZKL in a child: CPU seconds and peak MiB, or None if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([python(), __file__, "--stage", what, str(folder), str(memory)])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return None
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, json.loads((folder / "peak.json").read_text())


def ezkl_stage(what, folder, memory):
    import ezkl

    limit = int(memory) << 30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    path = lambda name: str(folder / name)

    async def call(function, *arguments, **named):
        result = function(*arguments, **named)
        return await result if inspect.isawaitable(result) else result

    def run(*arguments, **named):
        return asyncio.run(call(*arguments, **named))

    model, settings, circuit = path("network.onnx"), path("settings.json"), path("network.ezkl")
    if what == "compile":
        import numpy as np
        import onnx

        shape = [d.dim_value for d in onnx.load(model).graph.input[0].type.tensor_type.shape.dim]
        data = np.random.default_rng(3).uniform(-1, 1, int(np.prod(shape))).tolist()
        (folder / "input.json").write_text(json.dumps({"input_data": [data]}))
        arguments = ezkl.PyRunArgs()
        arguments.param_visibility, arguments.input_visibility, arguments.output_visibility = "fixed", "public", "public"
        run(ezkl.gen_settings, model, settings, py_run_args=arguments)
        run(ezkl.calibrate_settings, path("input.json"), model, settings, "resources")
        run(ezkl.compile_circuit, model, circuit, settings)
    elif what == "srs":
        run(ezkl.gen_srs, path("srs"), json.loads(open(settings).read())["run_args"]["logrows"])
    elif what == "setup":
        run(ezkl.gen_witness, path("input.json"), circuit, path("witness.json"))
        run(ezkl.setup, circuit, path("vk.key"), path("pk.key"), path("srs"))
    elif what == "prove":
        run(ezkl.prove, path("witness.json"), circuit, path("pk.key"), path("proof.json"), path("srs"))
    elif what == "verify":
        assert run(ezkl.verify, path("proof.json"), settings, path("vk.key"), path("srs"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (folder / "peak.json").write_text(json.dumps(peak))


def theirs(names, memory):
    results = {}
    for name in names:
        folder, result = WORK / "models" / name, {}
        for what in ("compile", "srs", "setup", "prove", "verify"):
            measured = stage(folder, what, memory)
            if measured is None:
                break
            result[what], result[f"{what}_mib"] = measured
        for key in ("pk.key", "srs"):
            (folder / key).unlink(missing_ok=True)
        if "prove" in result:
            proof = json.loads((folder / "proof.json").read_text())["proof"]
            result["bytes"] = len(proof) if isinstance(proof, list) else len(proof) // 2 - 1
        results[name] = result
    return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ezkl", default="mlp109k,dense1m,block50k")
    parser.add_argument("--memory", type=int, default=16)
    parser.add_argument("--stage", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        return ezkl_stage(options.stage[0], pathlib.Path(options.stage[1]), options.stage[2])
    WORK.mkdir(parents=True, exist_ok=True)
    subprocess.run([python(), ROOT / "bench/proof/models.py", WORK / "models"], check=True)
    mine = ours(MODELS)
    other = theirs([n for n in options.ezkl.split(",") if n], options.memory)
    print("| model | ours: prove, verify | peak | proof | EZKL: prove, verify | peak | proof | ratio of CPU to prove | register : setup |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in MODELS:
        m, o = mine[name], other.get(name, {})
        left = f"{m['prove_ms']:.1f} ms, {m['verify_ms']:.1f} ms | {m['peak_mib']} MiB | {m['proof_bytes'] / 1024:.0f} KiB"
        if "verify" not in o:
            why = "did not finish in the memory given" if name in other else "not run"
            print(f"| {name} | {left} | {why} | | | | |")
            continue
        right = f"{o['prove']:.1f} s, {o['verify']:.2f} s | {o['prove_mib']:.0f} MiB | {o['bytes'] / 1024:.1f} KiB"
        ratio = o["prove"] * 1e3 / m["prove_ms"]
        setup = (o["setup"] + o["srs"]) * 1e3 / m["register_ms"]
        print(f"| {name} | {left} | {right} | {ratio:,.0f} | {setup:,.0f} |")


if __name__ == "__main__":
    main()
