// Vercel's AI SDK, unchanged: node - URL KEY QUESTION MODEL... reads this; prints what each said.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";

const [baseURL, apiKey, prompt, ...models] = process.argv.slice(2);
const provider = createOpenAICompatible({
  name: "gateway",
  baseURL,
  apiKey,
  includeUsage: true,
  metadataExtractor: {
    extractMetadata: async ({ parsedBody }) => ({ gateway: parsedBody.neurorit }),
    createStreamExtractor: () => {
      let gateway = {};
      return {
        processChunk: (chunk) => (gateway = { ...gateway, ...chunk.neurorit }),
        buildMetadata: () => ({ gateway }),
      };
    },
  },
});
const ids = (metadata) => metadata.gateway.passages.map((passage) => passage.id);

async function asked(name) {
  const call = {
    model: provider(name),
    prompt,
    maxOutputTokens: 16,
    maxRetries: 0,
    providerOptions: { gateway: { neurorit: { top_k: 2 } } },
  };
  const whole = await generateText(call);
  const stream = streamText(call);
  const pieces = [];
  for await (const piece of stream.textStream) pieces.push(piece);
  return {
    whole: whole.text,
    reason: whole.finishReason,
    tokens: whole.usage.outputTokens,
    passages: ids(whole.providerMetadata),
    pieces,
    streamed_reason: await stream.finishReason,
    streamed_tokens: (await stream.usage).outputTokens,
    streamed_passages: ids(await stream.providerMetadata),
  };
}

async function refused() {
  try {
    return [(await generateText({ model: provider("absent"), prompt, maxRetries: 0 })).text];
  } catch (error) {
    return APICallError.isInstance(error) ? [error.statusCode, error.message] : [String(error)];
  }
}

const got = {};
for (const model of models) got[model] = await asked(model);
console.log(JSON.stringify({ ...got, absent: await refused() }));
