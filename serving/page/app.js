// The page's behaviour: ask, show the stream, show the passages.
// Everything that comes from the server is set as text, never as HTML.
"use strict";

const by = (id) => document.getElementById(id);
const page = {
  form: by("ask"), question: by("question"), send: by("send"), stop: by("stop"),
  topK: by("top-k"), policy: by("policy"), key: by("key"), status: by("status"),
  problem: by("problem"), result: by("result"), asked: by("asked"), answer: by("answer"),
  facts: by("facts"), passages: by("passages"), noPassages: by("no-passages"),
};
let running = null;

page.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) ask(page.question.value.trim());
});
page.stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    page.question.focus();
  }
});
watchReadiness();

async function ask(question) {
  if (!question) return;
  const started = performance.now();
  begin(question);
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers(),
      body: JSON.stringify(requestFor(question)),
      signal: running.signal,
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const chunk of events(response)) show(chunk, started);
  } catch (error) {
    if (error.name === "AbortError") addFact("stopped");
    else showProblem(error.message || "The answer could not be read.");
  } finally {
    end();
  }
}

function requestFor(question) {
  const options = {};
  if (page.topK.value !== "") options.top_k = Number(page.topK.value);
  if (page.policy.value) options.policy = page.policy.value;
  return { messages: [{ role: "user", content: question }], stream: true, neurorit: options };
}

function headers() {
  const sent = { "Content-Type": "application/json" };
  if (page.key.value) sent.Authorization = `Bearer ${page.key.value}`;
  return sent;
}

async function refusal(response) {
  if (response.status === 401) {
    page.key.closest("details").open = true;
    page.key.focus();
    return "This server asks for an API key: enter it in the settings.";
  }
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `The server answered with status ${response.status}.`;
}

// Server-sent events of a response, decoded; a chunk may end in the middle of an event.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    waiting += value;
    const whole = waiting.split("\n\n");
    waiting = whole.pop();
    for (const event of whole) {
      const data = event.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const record = JSON.parse(data);
      if (record.error) throw new Error(record.error.message);
      yield record;
    }
  }
  throw new Error("The connection broke off before the answer was complete.");
}

function show(chunk, started) {
  const choice = chunk.choices[0];
  if (chunk.neurorit?.passages) showPassages(chunk.neurorit.passages);
  if (choice?.delta.content) page.answer.append(choice.delta.content);
  if (choice?.finish_reason) showVerdict(chunk.neurorit, choice, performance.now() - started);
}

function showVerdict(verdict, choice, milliseconds) {
  page.answer.classList.toggle("abstained", verdict.abstained);
  if (verdict.abstained) addFact("no answer in the passages", "warn");
  else addFact(verdict.grounded ? "from the passages" : "from the model's memory", verdict.grounded ? "good" : "warn");
  if (verdict.attempts > 1) addFact(`${verdict.attempts} attempts`);
  if (choice.finish_reason === "length") addFact("cut at the length limit", "warn");
  addFact(`${(milliseconds / 1000).toFixed(1)} s`);
}

function addFact(text, kind = "plain") {
  const item = document.createElement("li");
  item.textContent = text;
  item.dataset.kind = kind;
  page.facts.append(item);
}

function showPassages(passages) {
  page.noPassages.hidden = passages.length > 0;
  page.passages.replaceChildren(...passages.map(passageItem));
}

function passageItem(passage) {
  const item = document.createElement("li");
  const head = document.createElement("div");
  const title = document.createElement("h3");
  const score = document.createElement("span");
  const bar = document.createElement("meter");
  const text = document.createElement("p");
  head.className = "passage-head";
  title.textContent = passage.title || passage.id;
  score.className = "score";
  score.textContent = passage.score.toFixed(3);
  score.title = "similarity of question and passage";
  bar.min = 0;
  bar.max = 1;
  bar.value = Math.max(0, Math.min(1, passage.score));
  bar.setAttribute("aria-label", `score ${passage.score.toFixed(3)}`);
  text.textContent = passage.text;
  head.append(title, bar, score);
  item.append(head, text);
  return item;
}

function begin(question) {
  running = new AbortController();
  page.problem.hidden = true;
  page.result.hidden = false;
  page.result.setAttribute("aria-busy", "true");
  page.asked.textContent = question;
  page.answer.replaceChildren();
  page.answer.classList.remove("abstained");
  page.facts.replaceChildren();
  page.passages.replaceChildren();
  page.noPassages.hidden = true;
  page.send.disabled = true;
  page.stop.hidden = false;
}

function end() {
  running = null;
  page.result.setAttribute("aria-busy", "false");
  page.send.disabled = false;
  page.stop.hidden = true;
}

function showProblem(message) {
  page.problem.textContent = message;
  page.problem.hidden = false;
  if (!page.answer.textContent && !page.passages.children.length) page.result.hidden = true;
}

// Ask often while the server starts, seldom afterwards.
async function watchReadiness() {
  let state = { ready: false, phase: "not reachable" };
  try {
    state = await (await fetch("/ready", { cache: "no-store" })).json();
  } catch { /* the server is down or restarting: the status says so */ }
  page.status.dataset.state = state.ready ? "ready" : "waiting";
  const text = state.ready ? `${state.model} · ready` : state.phase;
  if (page.status.textContent !== text) page.status.textContent = text;
  setTimeout(watchReadiness, state.ready ? 15000 : 1500);
}
