// The page's behaviour: ask, show the stream, show the passages.
// Everything that comes from the server is set as text, never as HTML.
"use strict";

const by = (id) => document.getElementById(id);
const page = {
  form: by("ask"), question: by("question"), send: by("send"), stop: by("stop"),
  topK: by("top-k"), policy: by("policy"), key: by("key"), status: by("status"),
  problem: by("problem"), result: by("result"), asked: by("asked"), answer: by("answer"),
  facts: by("facts"), passages: by("passages"), noPassages: by("no-passages"),
  noise: by("noise"), compare: by("compare"), sides: by("sides"),
  models: by("models"), model: by("model"),
};
const SLIDERS = ["distractor", "random"];
const KINDS = { distractor: "near miss", random: "random" };
const SYSTEMS = { base: "Before tuning", tuned: "Tuned" };
let running = null;
let postponed = null;  // what was asked of a server that still starts

page.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return;
  const question = page.question.value.trim();
  if (question) run(question, comparing() ? compare : ask);
});
page.compare.addEventListener("change", showSliders);
for (const name of SLIDERS) {
  by(name).addEventListener("input", () => { by(`${name}-value`).value = by(name).value; });
}
showSliders();
page.stop.addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
watchReadiness();

async function run(question, work) {
  begin(question);
  try {
    await work(question, performance.now());
  } catch (error) {
    if (error.name === "AbortError") addFact("stopped");
    else if (error.code === "not_ready" && page.status.dataset.state !== "ready") postpone(question, work);
    else showProblem(error.message || "The answer could not be read.");
  } finally {
    end();
  }
}

function postpone(question, work) {
  postponed = () => run(question, work);
  showProblem("The server is still starting. The question is asked as soon as it is ready.");
}

async function ask(question, started) {
  const response = await post("/v1/chat/completions", requestFor(question));
  for await (const chunk of events(response)) show(chunk, started);
}

async function compare(question) {
  const noise = Object.fromEntries(SLIDERS.map((name) => [name, Number(by(name).value)]));
  const request = { question, noise };
  if (page.topK.value !== "") request.top_k = Number(page.topK.value);
  if (page.model.selectedIndex > 0) request.model = page.model.value;
  const found = await (await post("/v1/rag/compare", request)).json();
  page.sides.replaceChildren(...found.systems.map(sideItem));
  page.sides.hidden = false;
  showPassages(found.passages);
  for (const [number, side] of found.systems.entries()) {
    markCited(side.cited, `cited: ${SYSTEMS[side.system].toLowerCase()}`);
    const shown = page.sides.children[number];
    linkCitations(shown.querySelector(".text"), side.cited);
    const links = numbersOf(side.cited).map(linkTo);
    if (links.length) shown.querySelector(".note").append(" · cites ", ...links);
  }
}

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
  });
  if (!response.ok) throw await refusal(response);
  return response;
}

function comparing() {
  return !page.noise.hidden && page.compare.checked;
}

function showSliders() {
  for (const name of SLIDERS) by(name).disabled = !page.compare.checked;
}

function requestFor(question) {
  const options = {};
  if (page.topK.value !== "") options.top_k = Number(page.topK.value);
  if (page.policy.value) options.policy = page.policy.value;
  const request = { messages: [{ role: "user", content: question }], stream: true, neurorit: options };
  if (page.model.selectedIndex > 0) request.model = page.model.value;
  return request;
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
    return new Error("This server asks for an API key: enter it in the settings.");
  }
  const { message, code } = (await response.json().catch(() => null))?.error ?? {};
  return Object.assign(new Error(message ?? `The server answered with status ${response.status}.`), { code });
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
  if (verdict.abstained) {
    addFact("no answer in the passages", "warn");
    addFact(verdict.reason === "model ended" ? "the model ended its answer at once" : verdict.reason);
    // What was found and not shown to the model, so that one sees why.
    if (!page.passages.children.length && verdict.nearest.length) {
      showPassages(verdict.nearest);
      for (const item of page.passages.children) addBadge(item, "not near enough", "warn");
    }
  }
  else addFact(verdict.grounded ? "from the passages" : "from the model's memory", verdict.grounded ? "good" : "warn");
  if (verdict.attempts > 1) addFact(`${verdict.attempts} attempts`);
  if (choice.finish_reason === "length") addFact("cut at the length limit", "warn");
  addFact(`${(milliseconds / 1000).toFixed(1)} s`);
  markCited(verdict.cited, "cited");
  linkCitations(page.answer, verdict.cited);
  const links = numbersOf(verdict.cited).map(linkTo);
  if (links.length) addFact("cites ", "good").append(...links);
}

function sideItem(side) {
  const item = document.createElement("section");
  const title = document.createElement("h3");
  const answer = document.createElement("p");
  const facts = document.createElement("p");
  item.className = "side";
  item.dataset.system = side.system;
  title.textContent = SYSTEMS[side.system];
  title.title = side.model;
  answer.className = "text";
  answer.classList.toggle("abstained", side.abstained);
  answer.textContent = side.answer;
  facts.className = "note";
  facts.textContent = `${side.model} · ${side.seconds.toFixed(1)} s`;
  item.append(title, answer, facts);
  return item;
}

// A passage's badges say in words what colours only repeat.
function addBadge(item, text, kind) {
  const badge = document.createElement("span");
  badge.className = "badge";
  badge.dataset.kind = kind;
  badge.textContent = text;
  item.querySelector(".badges").append(badge);
}

function markCited(ids, text) {
  for (const item of page.passages.children) {
    if (ids.includes(item.dataset.id)) addBadge(item, text, "good");
  }
}

function addFact(text, kind = "plain") {
  const item = document.createElement("li");
  item.textContent = text;
  item.dataset.kind = kind;
  page.facts.append(item);
  return item;
}

// Where a citation leads: the passage has the focus then, and a reader of screens goes on there.
function linkTo(number) {
  const link = document.createElement("a");
  link.href = `#passage-${number}`;
  link.textContent = number;
  link.setAttribute("aria-label", `passage ${number}`);
  return link;
}

function numbersOf(ids) {
  const cited = [...page.passages.children].filter((item) => ids.includes(item.dataset.id));
  return cited.map((item) => item.dataset.number);
}

// Numbers in brackets, as [1] or [1, 3], become links where the server read them as citations.
function linkCitations(element, ids) {
  const numbers = numbersOf(ids);
  const parts = element.textContent.split(/(?<!\w)(\[\s*\d+(?:\s*,\s*\d+)*\s*\])/);
  const linked = (part) => part.split(/(\d+)/).map((one) => (numbers.includes(one) ? linkTo(one) : one));
  element.replaceChildren(...parts.flatMap((part, at) => (at % 2 ? linked(part) : [part])));
}

function showPassages(passages) {
  page.noPassages.hidden = passages.length > 0;
  page.passages.replaceChildren(...passages.map((passage, at) => passageItem(passage, at + 1)));
}

function passageItem(passage, number) {
  const item = document.createElement("li");
  const head = document.createElement("div");
  const title = document.createElement("h3");
  const score = document.createElement("span");
  const bar = document.createElement("meter");
  const badges = document.createElement("div");
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
  badges.className = "badges";
  item.dataset.id = passage.id;
  item.dataset.number = number;
  item.id = `passage-${number}`;
  item.tabIndex = -1;
  head.append(title, bar, score);
  if (passage.kind === "random") head.replaceChildren(title);
  item.append(head, badges, text);
  if (KINDS[passage.kind]) addBadge(item, KINDS[passage.kind], "warn");
  return item;
}

function begin(question) {
  running = new AbortController();
  postponed = null;
  page.problem.hidden = true;
  page.result.hidden = false;
  page.result.setAttribute("aria-busy", "true");
  page.asked.textContent = question;
  page.answer.replaceChildren();
  page.answer.classList.remove("abstained");
  page.facts.replaceChildren();
  page.sides.replaceChildren();
  page.sides.hidden = true;
  page.answer.hidden = page.facts.hidden = comparing();
  page.passages.replaceChildren();
  page.noPassages.hidden = true;
  const asking = document.activeElement === page.send;
  page.stop.hidden = false;
  // A button that goes takes the focus with it: the other one of the two has it then.
  if (asking) page.stop.focus();
  page.send.disabled = true;
}

function end() {
  running = null;
  page.result.setAttribute("aria-busy", "false");
  const stopping = document.activeElement === page.stop;
  page.send.disabled = false;
  if (stopping) page.question.focus();
  page.stop.hidden = true;
}

function showProblem(message) {
  page.problem.textContent = message;
  page.problem.hidden = false;
  if (!page.passages.children.length) page.result.hidden = true;
}

// The model and its adapters; a choice stays while what was chosen is there.
function showModels(model, adapters) {
  page.models.hidden = !adapters.length;
  const names = [model, ...adapters];
  if (names.join("\n") === [...page.model.options].map((option) => option.value).join("\n")) return;
  const chosen = page.model.value;
  page.model.replaceChildren(...names.map((name) => new Option(name, name)));
  page.model.value = names.includes(chosen) ? chosen : model;
}

// Ask often while the server starts, seldom afterwards.
async function watchReadiness() {
  let state = { ready: false, phase: "not reachable" };
  try {
    state = await (await fetch("/ready", { cache: "no-store" })).json();
  } catch { /* the server is down or restarting: the status says so */ }
  if (state.model) showModels(state.model, state.adapters ?? []);
  page.noise.hidden = !state.base && !state.adapters?.length;
  page.status.dataset.state = state.ready ? "ready" : "waiting";
  const text = state.ready ? `${state.model} · ready` : state.phase;
  if (page.status.textContent !== text) page.status.textContent = text;
  if (state.ready && !running) postponed?.();
  setTimeout(watchReadiness, state.ready ? 15000 : 1500);
}
