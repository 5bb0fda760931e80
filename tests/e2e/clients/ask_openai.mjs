// OpenAI's client for Node.js. See `tests/e2e/test_other_clients.py`.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, baseURL, given] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/`));
const { default: OpenAI } = await import(pathToFileURL(require.resolve("openai")));
const keys = JSON.parse(given);
const chat = { model: "gpt-4o", messages: [{ role: "user", content: "hello world" }] };

const client = (apiKey, maxRetries) => new OpenAI({ baseURL, apiKey, maxRetries });

async function failure(apiKey, fields, maxRetries = 0) {
  try {
    await client(apiKey, maxRetries).chat.completions.create({ ...chat, ...fields });
  } catch (error) {
    return {
      name: error.constructor.name,
      status: error.status,
      code: error.code,
      type: error.type,
      message: error.message,
      limit: error.headers.get("x-limiter-limit"),
      retry_after_ms: error.headers.get("retry-after-ms"),
    };
  }
}

const { data: answer, response } = await client(keys.roomy, 0)
  .chat.completions.create({ ...chat, max_tokens: 5 })
  .withResponse();
const streamed = { text: "", pieces: 0 };
const stream = await client(keys.roomy, 0).chat.completions.create({
  ...chat,
  max_tokens: 7,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  streamed.text += chunk.choices[0]?.delta.content ?? "";
  streamed.pieces += 1;
  streamed.tokens = chunk.usage?.completion_tokens ?? streamed.tokens;
}
const started = performance.now();
for (let each = 0; each < 3; each += 1) {
  await client(keys.second, 2).chat.completions.create({ ...chat, max_tokens: 1 });
}
const waited_ms = performance.now() - started;
const found = {
  chat: { text: answer.choices[0].message.content, tokens: answer.usage.completion_tokens },
  headers: [...response.headers.keys()],
  stream: streamed,
  responses: (await client(keys.roomy, 0).responses.create({ model: "gpt-4o", input: "hello world", max_output_tokens: 16 }))
    .output_text,
  waited_ms,
  day: await failure(keys.day, { max_tokens: 1 }),
  day_streamed: await failure(keys.day, { max_tokens: 1, stream: true }),
  never: await failure(keys.never, { max_tokens: 2000 }, 2),
  day_retried: await Promise.race([
    failure(keys.day, { max_tokens: 1 }, 1),
    new Promise((resolve) => setTimeout(resolve, 1000, "waits")),
  ]),
};
console.log(JSON.stringify(found));
process.exit(0); // it would go on when the day has passed
