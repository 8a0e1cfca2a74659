"""Checks that `lemma verify` takes what OpenAI's Python client makes of an answer, and nothing that was edited.

    python scripts/check_answers.py http://127.0.0.1:8402 owner/model owner/embedding-model LEMMA TRUSTED-ROOT [FOLDER]

LEMMA is the program, TRUSTED-ROOT the network's. In FOLDER are answers that another client kept, as JSON.
"""

import argparse
import json
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Literal

import openai
from check_openai import COMPACT, ENDLESS, ask, weather
from pydantic import BaseModel
from report import Report, equal

# Everything but the settlement holds, and an answer has none.
HONEST, EDITED = 8, 7


class Choice(BaseModel):
    pick: Literal["a", "b"]


def kept(client, model, embedding):
    """Names and texts of answers, as users of the client keep them."""
    message = [{"role": "user", "content": "Hi"}]
    chat = ask(client, model, logprobs=True, top_logprobs=2)
    yield "a chat", chat.model_dump_json()
    yield "a chat without what is null", chat.model_dump_json(exclude_none=True)
    tools = [{"type": "function", "function": weather()}]
    called = ask(client, model, tools=tools, tool_choice="required", parallel_tool_calls=False, max_tokens=120, logit_bias=COMPACT)
    yield "a chat with calls of tools", called.model_dump_json()
    parsed = client.chat.completions.parse(
        model=model, messages=message, response_format=Choice, max_tokens=120, logit_bias=COMPACT
    )
    with warnings.catch_warnings():
        # The client warns of its own field `parsed`.
        warnings.simplefilter("ignore")
        yield "a parsed chat", parsed.model_dump_json()
    completion = {"model": model, "prompt": "Hi", "max_tokens": 8, "logprobs": 2, "logit_bias": ENDLESS}
    yield "a completion", client.completions.create(**completion).model_dump_json()
    response = {"model": model, "input": "Hi", "instructions": "Be brief", "max_output_tokens": 8}
    yield "a response", client.responses.create(**response).model_dump_json()
    events = list(client.responses.create(**response, stream=True))
    yield "a streamed response", events[-1].response.model_dump_json()
    for usage in (False, True):
        streamed = {"stream": True, "stream_options": {"include_usage": usage}}
        for name, chunks in [
            ("a chat", ask(client, model, **streamed)),
            ("a completion", client.completions.create(**completion, **streamed)),
        ]:
            last = list(chunks)[-1]
            yield f"the last chunk of {name}{', with usage' * usage}", last.model_dump_json()
    vectors = client.embeddings.create(model=embedding, input=["one text", "another"])
    yield "embeddings", vectors.model_dump_json()


def edit(answer):
    """Changes a word, a number or a reason that people read."""
    if answer["object"] == "list":
        answer["data"][0]["embedding"] = answer["data"][1]["embedding"]
    elif "output" in answer:
        answer["output"][0]["content"][0]["text"] += "!"
    elif not answer["choices"]:
        answer["usage"]["total_tokens"] += 1
    else:
        choice = answer["choices"][0]
        message = choice.get("message") or choice.get("delta") or choice
        field = "text" if "text" in choice else "content"
        message[field] = (message.get(field) or "") + "!"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("api", help="base URL of a gateway")
    parser.add_argument("model", help="name of a language model that calls tools")
    parser.add_argument("embedding", help="name of an embedding model")
    parser.add_argument("lemma", help="the program")
    parser.add_argument("root", help="the network's trusted root")
    parser.add_argument("folder", nargs="?", help="answers that another client kept")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=f"{arguments.api}/v1", api_key="none", max_retries=0, timeout=60)
    answers = list(kept(client, arguments.model, arguments.embedding))
    if arguments.folder:
        files = sorted(Path(arguments.folder).glob("*.json"))
        answers += [(f"{path.stem} of another client", path.read_text()) for path in files]

    def verify(text):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(text)
            file.flush()
            command = [arguments.lemma, "verify", file.name, "--trusted-root", arguments.root]
            return subprocess.run(command, capture_output=True, text=True, check=False)

    report = Report()
    for name, text in answers:
        with report.check(f"{name} is what its receipt is for, and edited it is not"):
            honest = verify(text)
            equal(honest.returncode, HONEST, honest.stderr or honest.stdout)
            edited = json.loads(text)
            edit(edited)
            forged = verify(json.dumps(edited))
            equal(forged.returncode, EDITED, forged.stderr or forged.stdout)
    report.finish()


if __name__ == "__main__":
    main()
