"use strict";
const STRINGS = {
  eu: { name: "Zure izena", begin: "Hasi", send: "Gorde", skip: "Saltatu", undo: "Aurrekoa aldatu", done: "Eginda. Eskerrik asko!",
        content: "Edukia", language: "Hizkuntza", overall: "Oro har", left: "Ezkerrekoa", right: "Eskuinekoa", tie: "Berdin",
        accept: "Ontzat eman", fix: "Zuzendu", reject: "Baztertu", source: "Jatorrizkoa", translation: "Itzulpena", all: "Erantzun guztiei, mesedez.",
        count: (d, l) => `${d} eginda, ${l} egiteko`, keysCompare: "Teklak: 1 ezkerrekoa, 2 eskuinekoa, 0 berdin; Enter gorde; s saltatu; u aurrekoa",
        meaning: "Edukia: zein erantzun da zuzenagoa? Hizkuntza: zein dago hobeto idatzita? Oro har: zein nahiago duzu?",
        keysValidate: "Teklak: a ontzat eman, f zuzendu, r baztertu; Enter gorde; s saltatu; u aurrekoa" },
  en: { name: "Your name", begin: "Start", send: "Save", skip: "Skip", undo: "Undo last answer", done: "All done. Thank you!",
        content: "Content", language: "Language", overall: "Overall", left: "Left", right: "Right", tie: "Tie",
        accept: "Accept", fix: "Fix", reject: "Reject", source: "Original", translation: "Translation", all: "Please answer all questions.",
        count: (d, l) => `${d} done, ${l} remaining`, keysCompare: "Keys: 1 left, 2 right, 0 tie; Enter save, s skip, u undo",
        meaning: "Content: which reply is more correct? Language: which is written better? Overall: which do you prefer?",
        keysValidate: "Keys: a accept, f fix, r reject; Enter save, s skip, u undo" },
};
const QUESTIONS = { compare: ["content", "language", "overall"], validate: ["verdict"] };
const OPTIONS = { compare: ["left", "tie", "right"], validate: ["accept", "fix", "reject"] };
const byId = (id) => document.getElementById(id);
let strings = STRINGS.en, kind = "compare", annotator = "", task = null, answers = {}, state = null, busy = false;

// The name, the language of the page and a started answer outlive a reload. A browser that stores nothing forgets them.
function remembered(key) {
  try { return localStorage.getItem(`irudimen.people.${key}`) || ""; } catch { return ""; }
}
function remember(key, value) {
  try { localStorage.setItem(`irudimen.people.${key}`, value); } catch { /* private window */ }
}
function startedAnswers() {
  try {
    const found = JSON.parse(remembered("started") || "{}");
    return found.annotator === annotator && found.task === task.task_id ? found : {};
  } catch { return {}; }
}
function rememberAnswers() {
  remember("started", JSON.stringify({ annotator, task: task.task_id, answers, text: byId("text").value }));
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  made.dir = "auto";
  return made;
}

function setLanguage(code) {
  document.documentElement.lang = code in STRINGS ? code : "en";
  strings = STRINGS[document.documentElement.lang];
  byId("language").value = document.documentElement.lang;
  for (const [id, word] of [["ask-name", "name"], ["begin", "begin"], ["send", "send"], ["skip", "skip"], ["undo", "undo"], ["done", "done"]]) byId(id).textContent = strings[word];
  byId("meaning").textContent = kind === "compare" ? strings.meaning : "";
  byId("keys").textContent = kind === "compare" ? strings.keysCompare : strings.keysValidate;
  if (state) show(state);
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ annotator, ...body }) });
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.error || `HTTP ${response.status}`);
  return found;
}

function show(found) {
  const isSame = task && found.task && task.task_id === found.task.task_id;
  state = found;
  task = found.task;
  byId("progress").textContent = strings.count(found.done, found.left);
  byId("task").hidden = !task;
  byId("done").hidden = !!task;
  if (!task) return;
  if (!isSame) {
    const started = startedAnswers();
    answers = started.answers || {};
    byId("text").value = started.text || task.translation || "";
  }
  byId("question").textContent = task.question;
  byId("question").lang = task.language;
  byId("image").parentElement.hidden = !task.has_image;
  if (task.has_image && !isSame) byId("image").src = `api/image?task=${encodeURIComponent(task.task_id)}`;
  const sides = kind === "compare" ? ["left", "right"] : ["source", "translation"];
  byId("sides").replaceChildren(...sides.map((side) => {
    const box = element("div", undefined, "side");
    box.append(element("h2", strings[side]), element("div", task[side]));
    return box;
  }));
  drawAnswers();
}

function drawAnswers() {
  const asked = QUESTIONS[kind], active = asked.find((name) => !(name in answers));
  byId("answers").replaceChildren(...asked.map((name) => {
    const row = element("fieldset", undefined, name === active ? "active" : "");
    if (kind === "compare") row.append(element("legend", strings[name]));
    for (const offer of OPTIONS[kind]) {
      const button = element("button", strings[offer]);
      button.type = "button";
      button.dataset.name = name;
      button.dataset.offer = offer;
      button.setAttribute("aria-pressed", String(answers[name] === offer));
      button.addEventListener("click", () => choose(name, offer));
      row.append(button);
    }
    return row;
  }));
  byId("text").hidden = answers.verdict !== "fix";
}

function choose(name, offer) {
  const focused = document.activeElement.dataset;
  answers[name] = offer;
  drawAnswers();
  rememberAnswers();
  if (offer === "fix") byId("text").focus();
  else if (focused.offer) document.querySelector(`[data-name="${focused.name}"][data-offer="${focused.offer}"]`).focus();
}

async function act(request) {
  if (busy) return;
  busy = true;
  byId("error").textContent = "";
  try { show(await request()); } catch (error) { byId("error").textContent = error.message; }
  busy = false;
}

function save() {
  if (QUESTIONS[kind].some((name) => !(name in answers))) { byId("error").textContent = strings.all; return; }
  const given = { ...answers };
  if (given.verdict === "fix") given.text = byId("text").value;
  act(() => post("api/judge", { task_id: task.task_id, answers: given }));
}

function skip() {
  const given = Object.fromEntries(QUESTIONS[kind].map((name) => [name, "skip"]));
  act(() => post("api/judge", { task_id: task.task_id, answers: given }));
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  annotator = byId("name").value.trim();
  act(async () => {
    const found = await post("api/next", {});
    byId("login").hidden = true;
    remember("name", annotator);
    return found;
  });
});
byId("send").addEventListener("click", save);
byId("skip").addEventListener("click", skip);
byId("undo").addEventListener("click", () => act(() => post("api/undo", {})));
byId("text").addEventListener("input", rememberAnswers);
byId("language").addEventListener("change", () => { setLanguage(byId("language").value); remember("language", byId("language").value); });
document.addEventListener("keydown", (event) => {
  if (byId("login").hidden === false || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.id === "text" && !(event.key === "Enter" && !event.shiftKey)) return;
  if (event.target.tagName === "SELECT") return;  // letters choose a language there
  // Enter presses a focused button; only on an answer that is given already does it save.
  if (event.target.tagName === "BUTTON" && event.key === "Enter" && event.target.getAttribute("aria-pressed") !== "true") return;
  if (event.key === "u") { act(() => post("api/undo", {})); return; }
  if (!task) return;
  const picks = kind === "compare" ? { 1: "left", 2: "right", 0: "tie" } : { a: "accept", f: "fix", r: "reject" };
  if (event.key in picks) {
    event.preventDefault();
    choose(QUESTIONS[kind].find((name) => !(name in answers)) || QUESTIONS[kind].at(-1), picks[event.key]);
  } else if (event.key === "Enter") { event.preventDefault(); save(); } else if (event.key === "s") skip();
});

fetch("api/about").then((response) => response.json()).then((about) => {
  kind = about.kind;
  setLanguage(remembered("language") || about.language);
  byId("name").value = remembered("name");
  byId("name").focus();
});
