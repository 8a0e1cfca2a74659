"""Trains `nano`, a small language model that answers a few kinds of questions, and writes `model.gguf`.

    python -m models.nano.train [MINUTES]

The text that it learns from is made here. One question in ten is kept for the test; the accuracy is printed for those
and for the others.
"""

import pathlib
import random
import sys
import time
import zlib

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
END = 256 + ROLES.index("<|end|>")
VOCAB = 288
CONTEXT = 512
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

NAMES = [
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Ida",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Nils",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tara",
    "Uwe",
    "Vera",
    "Will",
    "Zoe",
]
CITIES = [
    "Oslo",
    "Paris",
    "Rome",
    "Berlin",
    "Madrid",
    "Lima",
    "Tokyo",
    "Cairo",
    "Delhi",
    "Quito",
    "Bern",
    "Sofia",
    "Riga",
    "Dublin",
    "Vienna",
    "Prague",
    "Athens",
]
THINGS = [
    "tea",
    "bread",
    "apples",
    "milk",
    "books",
    "chess",
    "music",
    "maps",
    "stones",
    "birds",
    "boats",
    "clocks",
    "lamps",
    "coins",
    "songs",
    "shells",
]
COLOURS = ["red", "blue", "green", "black", "white", "yellow", "brown", "grey"]


LARGEST = 30


def held_out(key: str) -> bool:
    return zlib.crc32(key.encode()) % 10 == 0


def arithmetic(r: random.Random) -> tuple[str, str, str]:
    a, b = r.randrange(LARGEST + 1), r.randrange(LARGEST + 1)
    if r.random() < 0.5:
        return f"What is {a} + {b}?", str(a + b), f"{a}+{b}"
    a, b = max(a, b), min(a, b)
    return f"What is {a} - {b}?", str(a - b), f"{a}-{b}"


def comparison(r: random.Random) -> tuple[str, str, str]:
    a, b = r.sample(range(LARGEST + 1), 2)
    larger = r.random() < 0.5
    answer = max(a, b) if larger else min(a, b)
    return f"Which is {'larger' if larger else 'smaller'}, {a} or {b}?", str(answer), f"{a}?{b}"


def slots(r: random.Random) -> tuple[str, str, str]:
    name, city, thing, colour = (r.choice(x) for x in (NAMES, CITIES, THINGS, COLOURS))
    facts = [f"My name is {name}.", f"I live in {city}.", f"I like {thing}.", f"My house is {colour}."]
    questions = [
        ("What is my name?", name),
        ("Where do I live?", city),
        ("What do I like?", thing),
        ("What colour is my house?", colour),
    ]
    which = r.randrange(4)
    others = r.sample([i for i in range(4) if i != which], r.randrange(1, 3))
    order = [which, *others]
    r.shuffle(order)
    question, answer = questions[which]
    return " ".join([facts[i] for i in order] + [question]), answer, f"{name}{city}{thing}{colour}"


KINDS = {"arithmetic": arithmetic, "comparison": comparison, "slots": slots}


def example(kind: str, r: random.Random, test: bool) -> tuple[list[int], list[int]]:
    while True:
        question, answer, key = KINDS[kind](r)
        if held_out(key) == test:
            break
    prompt = [256 + ROLES.index("<|user|>"), *question.encode(), END, 256 + ROLES.index("<|assistant|>")]
    return prompt, [*answer.encode(), END]


def batch(r: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    kind = r.choices(list(KINDS), weights=[6, 2, 2])[0]
    size = 28 if kind == "slots" else 80
    rows = [example(kind, r, test=False) for _ in range(size)]
    longest = max(len(p) + len(a) for p, a in rows)
    tokens = torch.full((size, longest), END)
    labels = torch.full((size, longest), -100)
    for i, (prompt, answer) in enumerate(rows):
        both = prompt + answer
        tokens[i, : len(both)] = torch.tensor(both)
        labels[i, len(prompt) : len(both)] = torch.tensor(answer)
    return tokens, labels


def train(minutes: float) -> LlamaForCausalLM:
    torch.manual_seed(1)
    r = random.Random(1)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    )
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    start, step, mean = time.time(), 0, 0.0
    while (share := (time.time() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100, 2.5 * (1 - share) + 0.01)
        tokens, labels = batch(r)
        loss = model(tokens, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        mean += (float(loss) - mean) / min(step, 50)
        if step % 100 == 0:
            print(f"step {step}, {100 * share:.0f} % of the time, loss {mean:.4f}", flush=True)
    return model.eval()


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, kind: str, count: int, test: bool) -> float:
    r = random.Random(2)
    right = 0
    for _ in range(count):
        prompt, answer = example(kind, r, test)
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        right += logits.argmax(-1).tolist() == answer
    return right / count


def byte_names() -> list[str]:
    """Names of the 256 bytes in byte-level vocabularies: printable characters stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names, next_free = {}, 256
    for byte in range(256):
        if byte in plain:
            names[byte] = chr(byte)
        else:
            names[byte] = chr(next_free)
            next_free += 1
    return [names[byte] for byte in range(256)]


def export(model: LlamaForCausalLM, path: pathlib.Path) -> None:
    c = model.config
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name("nano")
    w.add_license("MIT OR Apache-2.0")
    w.add_context_length(CONTEXT)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_vocab_size(VOCAB)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    unused = [f"<|unused{i}|>" for i in range(VOCAB - 256 - len(ROLES))]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(byte_names() + ROLES + unused)
    w.add_token_types([1] * 256 + [3] * len(ROLES) + [5] * len(unused))
    w.add_token_merges([])
    w.add_eos_token_id(END)
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)

    def interleaved(x: np.ndarray, heads: int) -> np.ndarray:
        half = x.shape[0] // heads // 2
        return x.reshape(heads, 2, half, x.shape[1]).swapaxes(1, 2).reshape(x.shape)

    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, value in model.state_dict().items():
        x = value.float().numpy()
        name = name.removesuffix(".weight").removeprefix("model.")
        if name == "lm_head":
            continue
        if name.startswith("layers."):
            _, index, part = name.split(".", 2)
            target = f"blk.{index}.{names[part]}"
            if target.endswith("attn_q"):
                x = interleaved(x, c.num_attention_heads)
            if target.endswith("attn_k"):
                x = interleaved(x, c.num_key_value_heads)
        else:
            target = {"embed_tokens": "token_embd", "norm": "output_norm"}[name]
        if x.ndim == 1:
            w.add_tensor(target + ".weight", x)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            w.add_tensor(target + ".weight", gguf.quants.quantize(x, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    model = train(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
    for kind in KINDS:
        seen, unseen = (100 * accuracy(model, kind, 300, test) for test in (False, True))
        print(f"{kind}: {unseen:.1f} % of questions it never saw, {seen:.1f} % of those it may have seen", flush=True)
    export(model, HERE / "model.gguf")
    print((HERE / "model.gguf").stat().st_size, "bytes")
