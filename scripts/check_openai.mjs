// Checks OpenAI's API with OpenAI's JavaScript client, unmodified.
//
//     node scripts/check_openai.mjs MODULES http://127.0.0.1:8402 owner/model owner/embedding-model [FOLDER]
//
// MODULES is the folder into which `npm install openai` was done. Into FOLDER answers are put for check_answers.py.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, api, model, embedding, folder] = process.argv.slice(2);
const { default: OpenAI } = await import(
  pathToFileURL(createRequire(`${modules}/`).resolve("openai")).href
);
const client = new OpenAI({ baseURL: `${api}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000 });

let checked = 0;
let failed = 0;
async function check(what, work) {
  checked += 1;
  try {
    await work();
    console.log(`ok    ${what}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${what}: ${error.stack}`);
  }
}

const keep = (name, answer) => {
  if (folder) writeFileSync(`${folder}/${name}.json`, JSON.stringify(answer));
};

// The test model ends an answer when it likes; answers that are compared shall be of full length.
const ask = (options = {}, text = "Hi", request = {}) =>
  client.chat.completions.create(
    {
      model,
      messages: [{ role: "user", content: text }],
      max_tokens: 24,
      logit_bias: { 257: -100 },
      ...options,
    },
    request,
  );

await check("models are listed", async () => {
  const list = await client.models.list();
  assert(list.data.some((entry) => entry.id === model));
});

await check("a chat is answered, with its receipt", async () => {
  const answer = await ask({ seed: 7 });
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 24);
  assert.equal(answer.lemma.transcript.response.text, answer.choices[0].message.content);
  keep("a chat", answer);
});

await check("a stream says the same piece by piece, with usage and receipt at its end", async () => {
  const whole = await ask({ seed: 7 });
  const stream = await ask({ seed: 7, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let last;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    last = chunk;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(last.usage, whole.usage);
  assert(last.lemma.receipt);
});

await check("the client's own helper collects a stream", async () => {
  const whole = await ask({ seed: 7 });
  const runner = client.chat.completions.stream({
    model,
    messages: [{ role: "user", content: "Hi" }],
    max_tokens: 24,
    logit_bias: { 257: -100 },
    seed: 7,
  });
  assert.equal(await runner.finalContent(), whole.choices[0].message.content);
});

await check("a client may abort in the middle; the next is served", async () => {
  for (let i = 0; i < 3; i += 1) {
    const stream = await ask({ max_tokens: 400, stream: true });
    for await (const _ of stream) {
      stream.controller.abort();
      break;
    }
  }
  await ask();
});

const parameters = {
  type: "object",
  properties: { city: { enum: ["Oslo", "Rome"] }, sunny: { type: "boolean" } },
  required: ["city", "sunny"],
  additionalProperties: false,
};
// Nor shall it fill forms with the blanks that JSON may have anywhere.
const compact = { 257: -100, 9: -100, 10: -100, 32: -100 };
const called = {
  logit_bias: compact,
  tools: [{ type: "function", function: { name: "weather", parameters } }],
  tool_choice: "required",
  parallel_tool_calls: false,
  max_tokens: 120,
  seed: 7,
};

await check("a tool is called, whole and streamed", async () => {
  const whole = await ask(called);
  assert.equal(whole.choices[0].finish_reason, "tool_calls");
  const call = whole.choices[0].message.tool_calls[0];
  assert(["Oslo", "Rome"].includes(JSON.parse(call.function.arguments).city));
  const runner = client.chat.completions.stream({
    model,
    messages: [{ role: "user", content: "Hi" }],
    ...called,
  });
  const message = await runner.finalMessage();
  assert.equal(message.tool_calls[0].function.arguments, call.function.arguments);
});

await check("an answer keeps to a JSON schema", async () => {
  const answer = await ask({
    response_format: { type: "json_schema", json_schema: { name: "weather", strict: true, schema: parameters } },
    max_tokens: 120,
    logit_bias: compact,
  });
  assert.deepEqual(Object.keys(JSON.parse(answer.choices[0].message.content)), ["city", "sunny"]);
});

await check("tokens come with the logarithms of their probabilities", async () => {
  const answer = await ask({ logprobs: true, top_logprobs: 3 });
  assert.equal(answer.choices[0].logprobs.content.length, 24);
});

await check("a response says what a chat says, whole and streamed", async () => {
  const options = { model, input: "Hi", max_output_tokens: 24, seed: 7, logit_bias: { 257: -100 } };
  const whole = await client.responses.create(options);
  const chat = await ask({ seed: 7 });
  assert.equal(whole.output_text, chat.choices[0].message.content);
  keep("a response", whole);
  let text = "";
  for await (const event of await client.responses.create({ ...options, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, whole.output_text);
});

await check("texts are embedded, in base64 and in numbers", async () => {
  const options = { model: embedding, input: ["the quick brown fox", "the dog"] };
  // The client asks for base64 unless it is told otherwise.
  const answer = await client.embeddings.create(options);
  assert.equal(answer.data.length, 2);
  keep("embeddings", answer);
  const square = answer.data[0].embedding.reduce((sum, value) => sum + value * value, 0);
  assert(Math.abs(square - 1) < 1e-4);
  const numbers = await client.embeddings.create({ ...options, encoding_format: "float" });
  assert.deepEqual(numbers.data[1].embedding, Array.from(answer.data[1].embedding));
  await assert.rejects(client.embeddings.create({ model, input: "the" }), OpenAI.BadRequestError);
});

await check("refusals are raised as what they are", async () => {
  await assert.rejects(ask({ model: "nobody/nothing" }), OpenAI.NotFoundError);
  await assert.rejects(ask({ temperature: 1000 }), (error) => {
    assert(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(ask({}, "x".repeat(600)), OpenAI.BadRequestError);
  await assert.rejects(ask({ stream: true }, "x".repeat(600)), OpenAI.BadRequestError);
});

console.log(`${checked - failed} of ${checked} checks passed`);
process.exit(failed === 0 ? 0 : 1);
