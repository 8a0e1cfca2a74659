"""Checks OpenAI's API with OpenAI's Python client, unmodified, on a language model that the gateway has.

    python scripts/check_openai.py http://127.0.0.1:8402 owner/model owner/embedding-model
"""

import argparse
import json
import urllib.request

import openai
from report import Report, equal, refused

# The test model ends an answer when it likes; answers that are compared shall be of full length.
ENDLESS = {"257": -100}
# Nor shall it fill forms with the blanks that JSON may have anywhere.
COMPACT = {**ENDLESS, "9": -100, "10": -100, "32": -100}


def ask(client, model, text="Hi", **options):
    options.setdefault("max_tokens", 24)
    options.setdefault("logit_bias", ENDLESS)
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


def check_models(report, client, model):
    with report.check("models are listed"):
        assert model in [entry.id for entry in client.models.list()]
    with report.check("a model is retrieved") as say:
        entry = client.models.retrieve(model)
        equal((entry.id, entry.object), (model, "model"))
        say(entry.owned_by)


def check_chat(report, client, model):
    with report.check("a chat is answered, with its receipt") as say:
        answer = ask(client, model, seed=7)
        choice = answer.choices[0]
        equal((choice.message.role, choice.finish_reason), ("assistant", "length"))
        equal(answer.usage.completion_tokens, 24)
        equal(answer.usage.total_tokens, answer.usage.prompt_tokens + 24)
        lemma = answer.model_extra["lemma"]
        equal(lemma["transcript"]["response"]["text"], choice.message.content)
        equal(lemma["transcript"]["request"]["sampling"]["seed"], "7")
        say(lemma["mode"], lemma["receipt_id"])
    with report.check("equal seeds give equal answers, others do not"):
        one, two, other = (ask(client, model, seed=seed).choices[0].message.content for seed in (7, 7, 8))
        equal(one, two)
        assert one != other
    with report.check("a stop text ends an answer before it"):
        whole = ask(client, model, seed=7).choices[0].message.content
        stop = whole[5:8]
        answer = ask(client, model, seed=7, stop=stop).choices[0]
        equal((answer.message.content, answer.finish_reason), (whole[: whole.find(stop)], "stop"))
    with report.check("a conversation goes on with the message that was answered"):
        first = ask(client, model, seed=7).choices[0].message
        messages = [{"role": "user", "content": "Hi"}, first, {"role": "user", "content": "And?"}]
        client.chat.completions.create(model=model, messages=messages, max_tokens=4)
    with report.check("a completion goes on from a text"):
        answer = client.completions.create(model=model, prompt="Once", max_tokens=8, logit_bias=ENDLESS)
        equal((answer.object, answer.usage.completion_tokens), ("text_completion", 8))


def check_streams(report, client, model):
    with report.check("a stream says the same piece by piece, with usage and receipt at its end") as say:
        whole = ask(client, model, seed=7)
        stream = ask(client, model, seed=7, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        equal(text, whole.choices[0].message.content)
        equal(chunks[-1].usage.total_tokens, whole.usage.total_tokens)
        equal([chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1], "length")
        assert "receipt" in chunks[-1].model_extra["lemma"]
        say(len(chunks), "chunks")
    with report.check("a client may go away in the middle; the next is served"):
        for _ in range(3):
            stream = ask(client, model, max_tokens=400, stream=True)
            next(iter(stream))
            stream.close()
        ask(client, model)


def check_refusals(report, client, model):
    with report.check("an unknown model"):
        equal(refused(lambda: ask(client, "nobody/nothing"), openai.NotFoundError).code, "model_not_found")
    for what, options, param in [
        ("a temperature that can not be", {"temperature": 1000}, "temperature"),
        ("several answers at once", {"n": 2}, "n"),
        ("a tool that is none", {"tools": [{"type": "web_search"}]}, "tools"),
        ("a parameter that there is not", {"extra_body": {"temprature": 1}}, "temprature"),
    ]:
        with report.check(f"{what}: refused by name"):
            error = refused(lambda options=options: ask(client, model, **options), openai.BadRequestError)
            equal(error.param, param)
    with report.check("a prompt longer than the context, whole and streamed"):
        for stream in (False, True):
            error = refused(lambda stream=stream: ask(client, model, "x" * 600, stream=stream), openai.BadRequestError)
            assert "context" in error.message, error.message

def check_embeddings(report, client, model, other):
    texts = ["the quick brown fox", "the dog"]
    with report.check("texts are embedded, with their receipt") as say:
        # The client asks for base64 unless it is told otherwise.
        answer = client.embeddings.create(model=model, input=texts)
        equal([entry.index for entry in answer.data], [0, 1])
        assert abs(sum(value * value for value in answer.data[0].embedding) - 1) < 1e-4
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(texts)
        say(answer.model_extra["lemma"]["receipt_id"])
    with report.check("numbers and base64 have the same bits, alone and together"):
        numbers = client.embeddings.create(model=model, input=texts, encoding_format="float")
        equal([entry.embedding for entry in numbers.data], [entry.embedding for entry in answer.data])
        alone = client.embeddings.create(model=model, input=texts[1])
        equal(alone.data[0].embedding, answer.data[1].embedding)
    with report.check("tokens are embedded as the text that they are of"):
        tokens = client.embeddings.create(model=model, input=[[2, 5, 9, 3]])
        equal(tokens.data[0].embedding, answer.data[1].embedding)
    for what, options, param in [
        ("an empty text", {"input": ""}, "input"),
        ("a text longer than the context", {"input": "the " * 100}, "input"),
        ("shorter vectors", {"input": "the", "dimensions": 8}, "dimensions"),
        ("a model that is none for embeddings", {"input": "the", "model": other}, "model"),
    ]:
        with report.check(f"{what}: refused by name"):
            asked = {"model": model, **options}
            error = refused(lambda asked=asked: client.embeddings.create(**asked), openai.BadRequestError)
            equal(error.param, param)


def weather():
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "sunny": {"type": "boolean"}},
        "required": ["city", "sunny"],
        "additionalProperties": False,
    }
    return {"name": "weather", "parameters": parameters}


def check_forms(report, client, model):
    tools = [{"type": "function", "function": weather()}]
    called = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 120, "seed": 7, "logit_bias": COMPACT}
    with report.check("a tool is called, and its result goes back") as say:
        answer = ask(client, model, **called).choices[0]
        equal(answer.finish_reason, "tool_calls")
        call = answer.message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        assert arguments["city"] in ("Oslo", "Rome") and isinstance(arguments["sunny"], bool)
        messages = [
            {"role": "user", "content": "Hi"},
            answer.message,
            {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"},
        ]
        client.chat.completions.create(model=model, messages=messages, tools=tools, max_tokens=4)
        say(call.function.arguments)
    with report.check("a call is streamed"):
        whole = ask(client, model, **called).choices[0].message.tool_calls[0]
        calls = [
            call
            for chunk in ask(client, model, **called, stream=True)
            for call in chunk.choices[0].delta.tool_calls or []
        ]
        equal([(call.index, call.function.arguments) for call in calls], [(0, whole.function.arguments)])
    with report.check("an answer keeps to a JSON schema"):
        schema = {"name": "weather", "strict": True, "schema": weather()["parameters"]}
        form = {"type": "json_schema", "json_schema": schema}
        answer = ask(client, model, response_format=form, max_tokens=120, logit_bias=COMPACT).choices[0]
        equal(list(json.loads(answer.message.content)), ["city", "sunny"])
    with report.check("tokens come with the logarithms of their probabilities"):
        answer = ask(client, model, seed=7, logprobs=True, top_logprobs=3).choices[0]
        equal([len(token.top_logprobs) for token in answer.logprobs.content], [3] * 24)
        assert all(token.logprob <= 0 for token in answer.logprobs.content)
        text = client.completions.create(model=model, prompt="Once", max_tokens=8, logprobs=2, logit_bias=ENDLESS)
        equal(len(text.choices[0].logprobs.token_logprobs), 8)


def check_responses(report, client, model):
    options = {"model": model, "input": "Hi", "max_output_tokens": 24, "extra_body": {"seed": 7, "logit_bias": ENDLESS}}
    with report.check("a response says what a chat says"):
        response = client.responses.create(**options)
        equal(response.output_text, ask(client, model, seed=7).choices[0].message.content)
        equal((response.status, response.usage.output_tokens), ("incomplete", 24))
    with report.check("a response is streamed, event by event"):
        whole = client.responses.create(**options).output_text
        with client.responses.stream(**options) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        equal(text, whole)
    with report.check("a response calls a function"):
        tool = {"type": "function", "strict": True, **weather()}
        response = client.responses.create(
            model=model,
            input="Hi",
            tools=[tool],
            tool_choice="required",
            parallel_tool_calls=False,
            max_output_tokens=120,
            extra_body={"logit_bias": COMPACT},
        )
        call = response.output[0]
        equal((call.type, call.name), ("function_call", "weather"))
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
        items = [{"role": "user", "content": "Hi"}, call, result]
        client.responses.create(model=model, input=items, tools=[tool], max_output_tokens=4)


def check_receipts(report, client, api, model):
    with report.check("the receipt of an answer is known at the gateway"):
        receipt = ask(client, model).model_extra["lemma"]["receipt_id"]
        with urllib.request.urlopen(f"{api}/v1/receipts/{receipt}") as response:
            assert json.load(response)["status"] in ("pending", "final")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("api", help="base URL of a gateway")
    parser.add_argument("model", help="name of a language model with a context of 512")
    parser.add_argument("embedding", help="name of the embedding model in crates/llm/tests/fixtures/bert")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=f"{arguments.api}/v1", api_key="none", max_retries=0, timeout=60)
    report = Report()
    check_models(report, client, arguments.model)
    check_chat(report, client, arguments.model)
    check_streams(report, client, arguments.model)
    check_forms(report, client, arguments.model)
    check_responses(report, client, arguments.model)
    check_refusals(report, client, arguments.model)
    check_embeddings(report, client, arguments.embedding, arguments.model)
    check_receipts(report, client, arguments.api, arguments.model)
    report.finish()


if __name__ == "__main__":
    main()
