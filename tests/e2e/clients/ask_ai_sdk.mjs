// Vercel's AI SDK, by OpenAI's Chat Completions and Responses API. See `tests/e2e/test_other_clients.py`.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, baseURL, given] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${modules}/`));
const { generateText, streamText } = await import(pathToFileURL(require.resolve("ai")));
const { createOpenAI } = await import(pathToFileURL(require.resolve("@ai-sdk/openai")));
const keys = JSON.parse(given);

const ask = (apiKey, maxOutputTokens, maxRetries = 0) => ({
  model: createOpenAI({ baseURL, apiKey }).chat("gpt-4o"),
  prompt: "hello world",
  maxOutputTokens,
  maxRetries,
});

function described(error) {
  const cause = error.lastError ?? error; // a RetryError has its last one
  const body = JSON.parse(cause.responseBody).error;
  return {
    name: cause.name,
    status: cause.statusCode,
    code: body.code,
    type: body.type,
    message: cause.message,
    limit: cause.responseHeaders["x-limiter-limit"],
    retry_after_ms: cause.responseHeaders["retry-after-ms"] ?? null,
  };
}

async function failure(...of) {
  try {
    await generateText(ask(...of));
  } catch (error) {
    return described(error);
  }
}

async function streamedFailure(...of) {
  let failed;
  const { textStream } = streamText({ ...ask(...of), onError: ({ error }) => (failed = error) });
  for await (const _ of textStream);
  return described(failed);
}

const answer = await generateText(ask(keys.roomy, 5));
const streamed = { text: "", pieces: 0 };
const stream = streamText(ask(keys.roomy, 7));
for await (const text of stream.textStream) {
  streamed.text += text;
  streamed.pieces += 1;
}
streamed.tokens = (await stream.usage).outputTokens;
const started = performance.now();
for (let each = 0; each < 3; each += 1) await generateText(ask(keys.second, 1, 2));
const waited_ms = performance.now() - started;
const found = {
  chat: { text: answer.text, tokens: answer.usage.outputTokens },
  headers: Object.keys(answer.response.headers),
  stream: streamed,
  responses: (await generateText({ ...ask(keys.roomy, 16), model: createOpenAI({ baseURL, apiKey: keys.roomy })("gpt-4o") }))
    .text,
  waited_ms,
  day: await failure(keys.day, 1),
  day_streamed: await streamedFailure(keys.day, 1),
  never: await failure(keys.never, 2000, 1),
};
console.log(JSON.stringify(found));
