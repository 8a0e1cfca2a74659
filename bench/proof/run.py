"""Compares proofs with EZKL's on the same ONNX models, in one run, and prints goals beside what was measured.

usage: run.py [--models MODEL,...] [--ezkl MODEL,...] [--memory GIB]

Needs Python with venv; everything it makes is under target/bench-proof. By default EZKL proves mlp109k, dense1m and block50k, one
after the other; `--ezkl mlp109k` is one of them, `--ezkl ""` none. The other models are proved by ours alone, and the table says
why. EZKL's SRS is made locally: for measurement only. Times are CPU seconds of `prove`: EZKL's of a child process that reads its
keys as its command line would, ours of a warm process on one core.
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

# Goals: times less CPU than EZKL, and milliseconds on one core.
GOALS = {"mlp109k": (500, 25), "dense1m": (1500, 150), "block50k": (5000, 70), "cnn264k": (None, 150), "dense4m": (None, 700), "gpt2": (None, None)}
# By their rows EZKL needs about 50 GiB for these; 0.7, 13.5 and 19.5 GiB for the others.
TOO_LARGE = {"cnn264k", "dense4m", "gpt2"}
# Only if it is asked for: its file has 500 MB. Wall time on two cores in seconds, memory in GiB.
GPT2 = (30, 10)
VERIFY_MS, PROOF_KIB, PEAK_MIB, REGISTER, SECOND_CORE, EACH_OF_64_MS = 10, 300, 1024, 1000, 1.7, 20


def python():
    """The interpreter of an environment with the packages."""
    exe = WORK / "venv" / "bin" / "python"
    if not exe.exists():
        venv.create(WORK / "venv", with_pip=True)
        subprocess.run([exe, "-m", "pip", "-q", "install", *PACKAGES], check=True)
    return exe


def build():
    environment = dict(os.environ, RUSTFLAGS="-C target-cpu=native", CARGO_TARGET_DIR=str(WORK / "build"))
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "lemma-proof-bench"], cwd=ROOT, env=environment, check=True)


def ours(name, threads=1, samples=1):
    done = subprocess.run(
        [WORK / "build" / "release" / "proof", "--samples", str(samples), WORK / "models" / name / "network.onnx"],
        env=dict(os.environ, RAYON_NUM_THREADS=str(threads)), capture_output=True, text=True, check=True,
    )
    return json.loads(done.stdout)


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


def judged(value, goal, unit="", digits=1, least=False):
    """A figure with its goal, and whether it was reached."""
    reached = value >= goal if least else value < goal
    sign = "≥" if least else "<"
    return f"{value:,.{digits}f}{unit} ({'reached' if reached else 'MISSED'}: {sign} {goal:,}{unit})"


def alone(names):
    mine = {name: ours(name) for name in names if name != "gpt2"}
    if "gpt2" in names:
        two = ours("gpt2", threads=2)
        print("gpt2 on two cores:", judged(two["prove_wall_ms"] / 1e3, GPT2[0], " s to prove"),
              judged(two["peak_mib"] / 1024, GPT2[1], " GiB at the peak"),
              f"{two['prove_ms'] / 1e3:.1f} s of CPU, {two['verify_ms']:.1f} ms to verify, {two['proof_bytes'] / 1024:.0f} KiB,",
              f"registered in {two['register_ms'] / 1e3:.1f} s of CPU, {two['parameters']:,} parameters\n")
    if not mine:
        return mine
    print("| model | prove, one core | verify | proof | peak memory | register |")
    print("|---|---|---|---|---|---|")
    for name, m in mine.items():
        print(
            f"| {name} | {judged(m['prove_ms'], GOALS[name][1], ' ms')} | {judged(m['verify_ms'], VERIFY_MS, ' ms')} "
            f"| {judged(m['proof_bytes'] / 1024, PROOF_KIB, ' KiB', 0)} | {judged(m['peak_mib'], PEAK_MIB, ' MiB', 0)} "
            f"| {m['register_ms']:.1f} ms |"
        )
    if "dense4m" in names:
        many, two = ours("dense4m", samples=64), ours("dense4m", threads=2)
        print("\ndense4m, 64 inputs in one proof:", judged(many["prove_ms"] / 64, EACH_OF_64_MS, " ms each"),
              judged(many["proof_bytes"] / 1024, PROOF_KIB, " KiB", 0), judged(many["verify_ms"], VERIFY_MS, " ms"))
        ratio = mine["dense4m"]["prove_wall_ms"] / two["prove_wall_ms"]
        print("dense4m, wall time on one core ÷ on two:", judged(ratio, SECOND_CORE, "", 2, least=True))
    return mine


def beside(mine, names, memory):
    other = theirs([n for n in names if n in mine], memory)
    print("\n| model | EZKL: prove | verify | proof | peak memory | setup | ours: CPU to prove less by | register less by |")
    print("|---|---|---|---|---|---|---|---|")
    for name, m in mine.items():
        o = other.get(name, {})
        if "verify" not in o:
            why = f"did not finish in {memory} GiB" if name in other else "not run"
            if name in TOO_LARGE:
                why = "does not fit: by its rows it needs about 50 GiB"
            print(f"| {name} | {why} | | | | | | |")
            continue
        setup = o["setup"] + o["srs"]
        ratio = judged(o["prove"] * 1e3 / m["prove_ms"], GOALS[name][0], "×", 0, least=True)
        print(
            f"| {name} | {o['prove']:.1f} s | {o['verify']:.2f} s | {o['bytes'] / 1024:.1f} KiB | {o['prove_mib']:.0f} MiB "
            f"| {setup:.1f} s | {ratio} | {judged(setup * 1e3 / m['register_ms'], REGISTER, '×', 0, least=True)} |"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--ezkl", default="mlp109k,dense1m,block50k")
    parser.add_argument("--memory", type=int, default=21)
    parser.add_argument("--stage", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        return ezkl_stage(options.stage[0], pathlib.Path(options.stage[1]), options.stage[2])
    WORK.mkdir(parents=True, exist_ok=True)
    names = [n for n in options.models.split(",") if n]
    subprocess.run([python(), ROOT / "bench/proof/models.py", WORK / "models", *names], check=True)
    build()
    mine = alone(names)
    if mine:
        beside(mine, options.ezkl.split(","), options.memory)


if __name__ == "__main__":
    main()
