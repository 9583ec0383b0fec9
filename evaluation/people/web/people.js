"use strict";
const WORDS = {
  eu: { name: "Zure izena", begin: "Hasi", send: "Gorde", skip: "Utzi", undo: "Aurrekoa aldatu", done: "Eginda. Eskerrik asko!",
        content: "Edukia", language: "Hizkuntza", overall: "Oro har", left: "Ezkerrekoa", right: "Eskuinekoa", tie: "Berdin",
        accept: "Ontzat eman", fix: "Zuzendu", reject: "Baztertu", source: "Jatorrizkoa", translation: "Itzulpena", all: "Erantzun guztiei mesedez.",
        count: (d, l) => `${d} eginda, ${l} egiteko`, keysCompare: "Teklak: 1 ezkerrekoa, 2 eskuinekoa, 0 berdin; Enter gorde; s utzi; u aurrekoa",
        keysValidate: "Teklak: a ontzat eman, f zuzendu, r baztertu; Enter gorde; s utzi; u aurrekoa" },
  en: { name: "Your name", begin: "Begin", send: "Save", skip: "Skip", undo: "Change the last one", done: "All done. Thank you!",
        content: "Content", language: "Language", overall: "Overall", left: "Left", right: "Right", tie: "Tie",
        accept: "Accept", fix: "Fix", reject: "Reject", source: "Original", translation: "Translation", all: "Please answer everything.",
        count: (d, l) => `${d} done, ${l} to do`, keysCompare: "Keys: 1 left, 2 right, 0 tie; Enter saves; s skips; u goes back",
        keysValidate: "Keys: a accept, f fix, r reject; Enter saves; s skips; u goes back" },
};
const ASKED = { compare: ["content", "language", "overall"], validate: ["verdict"] };
const OFFERED = { compare: ["left", "tie", "right"], validate: ["accept", "fix", "reject"] };
const at = (id) => document.getElementById(id);
let words = WORDS.en, kind = "compare", annotator = "", task = null, answers = {}, state = null, busy = false;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  made.dir = "auto";
  return made;
}

function setLanguage(code) {
  document.documentElement.lang = code in WORDS ? code : "en";
  words = WORDS[document.documentElement.lang];
  at("language").value = document.documentElement.lang;
  for (const [id, word] of [["ask-name", "name"], ["begin", "begin"], ["send", "send"], ["skip", "skip"], ["undo", "undo"], ["done", "done"]]) at(id).textContent = words[word];
  at("keys").textContent = kind === "compare" ? words.keysCompare : words.keysValidate;
  if (state) show(state);
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ annotator, ...body }) });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error || JSON.stringify(found.detail));
  return found;
}

function show(found) {
  const isSame = task && found.task && task.task_id === found.task.task_id;
  state = found;
  task = found.task;
  at("progress").textContent = words.count(found.done, found.left);
  at("task").hidden = !task;
  at("done").hidden = !!task;
  if (!task) return;
  if (!isSame) { answers = {}; at("text").value = task.translation || ""; }
  at("question").textContent = task.question;
  at("question").lang = task.language;
  at("image").parentElement.hidden = !task.has_image;
  if (task.has_image && !isSame) at("image").src = `api/image?task=${encodeURIComponent(task.task_id)}`;
  const sides = kind === "compare" ? ["left", "right"] : ["source", "translation"];
  at("sides").replaceChildren(...sides.map((side) => {
    const box = element("div", undefined, "side");
    box.append(element("h2", words[side]), element("div", task[side]));
    return box;
  }));
  drawAnswers();
}

function drawAnswers() {
  const asked = ASKED[kind], active = asked.find((name) => !(name in answers));
  at("answers").replaceChildren(...asked.map((name) => {
    const row = element("fieldset", undefined, name === active ? "active" : "");
    if (kind === "compare") row.append(element("legend", words[name]));
    for (const offer of OFFERED[kind]) {
      const button = element("button", words[offer]);
      button.type = "button";
      button.dataset.name = name;
      button.dataset.offer = offer;
      button.setAttribute("aria-pressed", String(answers[name] === offer));
      button.addEventListener("click", () => choose(name, offer));
      row.append(button);
    }
    return row;
  }));
  at("text").hidden = answers.verdict !== "fix";
}

function choose(name, offer) {
  answers[name] = offer;
  drawAnswers();
  if (offer === "fix") at("text").focus();
}

async function act(what) {
  if (busy) return;
  busy = true;
  at("error").textContent = "";
  try { show(await what()); } catch (error) { at("error").textContent = error.message; }
  busy = false;
}

function save() {
  if (ASKED[kind].some((name) => !(name in answers))) { at("error").textContent = words.all; return; }
  const given = { ...answers };
  if (given.verdict === "fix") given.text = at("text").value;
  act(() => post("api/judge", { task_id: task.task_id, answers: given }));
}

function skip() {
  const given = Object.fromEntries(ASKED[kind].map((name) => [name, "skip"]));
  act(() => post("api/judge", { task_id: task.task_id, answers: given }));
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  annotator = at("name").value.trim();
  act(async () => { const found = await post("api/next", {}); at("login").hidden = true; return found; });
});
at("send").addEventListener("click", save);
at("skip").addEventListener("click", skip);
at("undo").addEventListener("click", () => act(() => post("api/undo", {})));
at("language").addEventListener("change", () => setLanguage(at("language").value));
document.addEventListener("keydown", (event) => {
  if (at("login").hidden === false || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.id === "text" && !(event.key === "Enter" && !event.shiftKey)) return;
  if (event.key === "u") { act(() => post("api/undo", {})); return; }
  if (!task) return;
  const picks = kind === "compare" ? { 1: "left", 2: "right", 0: "tie" } : { a: "accept", f: "fix", r: "reject" };
  if (event.key in picks) {
    event.preventDefault();
    choose(ASKED[kind].find((name) => !(name in answers)) || ASKED[kind].at(-1), picks[event.key]);
  } else if (event.key === "Enter") { event.preventDefault(); save(); } else if (event.key === "s") skip();
});

fetch("api/about").then((response) => response.json()).then((about) => {
  kind = about.kind;
  setLanguage(about.language);
  at("name").focus();
});
