"use strict";
const TEXTS = {
  eu: { hint: "Aukeratu irudi bat, edo ekarri hona", ask: "Galdetu irudiari buruz", send: "Galdetu",
        clear: "Elkarrizketa berria", none: "(erantzun hutsa)", cut: "moztuta", image: "Aukeratu irudi bat lehenengo." },
  en: { hint: "Choose an image, or drop it here", ask: "Ask about the image", send: "Ask",
        clear: "New conversation", none: "(empty answer)", cut: "truncated", image: "Choose an image first." },
};
const at = (id) => document.getElementById(id);
let image = null, texts = TEXTS.en, talks = [], busy = false;

function setLanguage(code) {
  texts = TEXTS[code] || TEXTS.en;
  document.documentElement.lang = code in TEXTS ? code : "en";
  at("language").value = document.documentElement.lang;
  at("hint").textContent = texts.hint;
  at("text").placeholder = texts.ask;
  at("send").textContent = texts.send;
  at("clear").textContent = texts.clear;
}

function show(talk, role, text, note) {
  const turn = document.createElement("div");
  turn.className = `turn ${role}`;
  turn.textContent = text;
  turn.dir = "auto";
  if (note) {
    const small = document.createElement("div");
    small.className = "note";
    small.textContent = note;
    turn.append(small);
  }
  talk.box.append(turn);
  turn.scrollIntoView({ block: "nearest" });
}

function restart() {
  for (const talk of talks) {
    talk.turns = [];
    talk.box.querySelectorAll(".turn").forEach((turn) => turn.remove());
  }
  at("error").textContent = "";
}

function take(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => {
    image = reader.result.slice(reader.result.indexOf(",") + 1);
    at("image").src = reader.result;
    at("image").style.display = "block";
    at("hint").style.display = "none";
    restart();
    at("text").focus();
  };
  reader.readAsDataURL(file);
}

async function ask(talk, text) {
  const turns = [...talk.turns, { role: "user", content: text }];
  const response = await fetch("api/ask", {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ cell: talk.cell, image, turns }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || JSON.stringify(answer.detail));
  talk.turns = [...turns, { role: "assistant", content: answer.text || "-" }];
  const cut = answer.is_truncated ? `, ${texts.cut}` : "";
  show(talk, "user", text);
  show(talk, "assistant", answer.text || texts.none, `${answer.seconds.toFixed(2)} s${cut}`);
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || busy) return;
  if (!image) { at("error").textContent = texts.image; return; }
  busy = true;
  at("send").disabled = true;
  at("error").textContent = "";
  try {
    for (const talk of talks) await ask(talk, text);
    at("text").value = "";
  } catch (error) {
    at("error").textContent = error.message;
  }
  busy = false;
  at("send").disabled = false;
  at("text").focus();
});
at("file").addEventListener("change", () => take(at("file").files[0]));
at("drop").addEventListener("dragover", (event) => event.preventDefault());
at("drop").addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
at("clear").addEventListener("click", restart);
at("language").addEventListener("change", () => setLanguage(at("language").value));

fetch("api/cells").then((response) => response.json()).then((found) => {
  setLanguage(found.language);
  talks = found.cells.map((cell) => {
    const box = document.createElement("div");
    box.className = "talk";
    const title = document.createElement("h2");
    title.textContent = cell;
    box.append(title);
    at("talks").append(box);
    return { cell, box, turns: [] };
  });
});
