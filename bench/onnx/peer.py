"""onnxruntime, measured as crates/graph/examples/measure.rs measures the engine: the same arguments, the same line of JSON."""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime


def memory(kind):
    """VmRSS, what is resident, or VmHWM, the most that was: of this program alone, where getrusage counts the one that started it."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(kind))
    return int(line.split()[1]) << 10


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--input", action="append", default=[])
    parser.add_argument("--output-dir")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    arrays = {name: np.load(file) for name, file in (i.split("=", 1) for i in arguments.input)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    before = memory("VmRSS")
    start, start_cpu = time.perf_counter_ns(), time.process_time_ns()
    session = onnxruntime.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    load, load_cpu = time.perf_counter_ns() - start, time.process_time_ns() - start_cpu
    # Bound inputs and outputs: what Python itself costs in each call is not the engine's.
    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    session.run_with_iobinding(binding)
    if arguments.output_dir:
        for output, value in zip(session.get_outputs(), binding.get_outputs()):
            np.save(Path(arguments.output_dir) / f"{output.name}.npy", value.numpy())
    wall = cpu = 1 << 62
    runs, begin = 0, time.perf_counter()
    while runs < 3 or time.perf_counter() - begin < arguments.seconds:
        start, start_cpu = time.perf_counter_ns(), time.process_time_ns()
        session.run_with_iobinding(binding)
        cpu = min(cpu, time.process_time_ns() - start_cpu)
        wall = min(wall, time.perf_counter_ns() - start)
        runs += 1
    peak = memory("VmHWM") - before
    times = {"load_ms": load, "load_cpu_ms": load_cpu, "wall_ms": wall, "cpu_ms": cpu}
    print(json.dumps({name: value / 1e6 for name, value in times.items()} | {"runs": runs, "peak": peak}))


if __name__ == "__main__":
    main()
