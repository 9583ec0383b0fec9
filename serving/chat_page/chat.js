"use strict";
const TEXTS = {
  eu: { hint: "Aukeratu irudi bat, edo ekarri hona", ask: "Galdetu irudiari buruz", send: "Galdetu",
        clear: "Elkarrizketa berria", none: "(erantzun hutsa)", cut: "moztuta", image: "Aukeratu irudi bat lehenengo.",
        remember: "Gogoratu elkarrizketa (eredua galdera solteekin ebaluatu da)", busy: "…",
        examples: "Adibideak", example: (number) => `${number}. adibidea`,
        long: (most, got) => `Galdera luzeegia da: ${got} karaktere, gehienez ${most}.`,
        big: (most, got) => `Irudia handiegia da: ${got} byte, gehienez ${most}.`,
        reduced: (width, height) => `Irudia txikitu egin da: ${width} x ${height} pixel.`,
        broken: "Fitxategi hau ez da nabigatzaileak ireki dezakeen irudia; aukeratu JPEG, PNG edo WebP bat.",
        full: "Elkarrizketa luzeegia da; hasi beste bat.",
        gone: "Zerbitzariak ez du erantzuten; martxan al dago komandoa?",
        failed: (status) => `Errorea zerbitzarian (${status}); begiratu komandoaren irteera.` },
  en: { hint: "Choose an image, or drop it here", ask: "Ask about the image", send: "Ask",
        clear: "New conversation", none: "(empty answer)", cut: "truncated", image: "Choose an image first.",
        remember: "Remember the conversation (models are evaluated on single questions)", busy: "…",
        examples: "Example images", example: (number) => `Example image ${number}`,
        long: (most, got) => `The question is too long: ${got} characters, at most ${most}.`,
        big: (most, got) => `The image is too large: ${got} bytes, at most ${most}.`,
        reduced: (width, height) => `The image was reduced to ${width} x ${height} pixels.`,
        broken: "This file is not an image that the browser can open; choose a JPEG, PNG or WebP.",
        full: "The conversation is too long; start a new one.",
        gone: "The server does not respond; is the command still running?",
        failed: (status) => `Error in the server (${status}); see the output of the command.` },
};
const MAX_CHARACTERS = 4000, MAX_IMAGE_BYTES = 12000000, MAX_TURNS = 41;  // as in server.py
const REDUCED_SIDE = 2048, REDUCED_QUALITY = 0.95;  // of images with more bytes; towers see at most a few hundred pixels
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
  at("remember_text").textContent = texts.remember;
  at("examples").setAttribute("aria-label", texts.examples);
  at("examples").querySelectorAll("img").forEach((one, index) => { one.alt = texts.example(index + 1); });
}

// Control characters are shown by their symbols, so that a reply of nothing else is not invisible.
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, (c) =>
    String.fromCodePoint(c === "\u007f" ? 0x2421 : 0x2400 + c.codePointAt(0)));
}

// Replies, questions and names are set as text, never as HTML.
function show(talk, role, text, note) {
  const turn = document.createElement("div");
  turn.className = `turn ${role}`;
  turn.textContent = visible(text);
  turn.dir = "auto";
  if (note) {
    const small = document.createElement("div");
    small.className = "note";
    small.textContent = note;
    turn.append(small);
  }
  talk.box.append(turn);
  turn.scrollIntoView({ block: "nearest" });
  return turn;
}

function restart() {
  for (const talk of talks) {
    talk.turns = [];
    talk.box.querySelectorAll(".turn").forEach((turn) => turn.remove());
  }
  at("error").textContent = "";
}

function forget(message) {
  image = null;
  at("image").style.display = "none";
  at("hint").style.display = "";
  at("reduced").textContent = "";
  restart();
  at("error").textContent = message;
}

// Photographs of phones may have more bytes than the server accepts.
async function reduce(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, REDUCED_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";  // as transparent pixels are decoded
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", REDUCED_QUALITY));
  return { blob, note: texts.reduced(canvas.width, canvas.height) };
}

function take(file) {
  if (!file || busy) return;
  if (file.size <= MAX_IMAGE_BYTES) { load(file, file.name, ""); return; }
  forget(texts.big(MAX_IMAGE_BYTES, file.size));  // unless the browser can open and reduce it
  reduce(file).then(({ blob, note }) => {
    if (blob && blob.size <= MAX_IMAGE_BYTES && !image && !busy) load(blob, file.name, note);
  }).catch(() => {});
}

function load(blob, name, note) {
  const reader = new FileReader();
  reader.onerror = () => forget(texts.broken);  // a folder, or a file that is gone
  reader.onload = () => use(reader.result, name, note);
  reader.readAsDataURL(blob);
}

function use(uri, name, note) {
  image = uri.slice(uri.indexOf(",") + 1);
  at("image").src = uri;
  at("image").alt = name;
  at("image").style.display = "block";
  at("hint").style.display = "none";
  at("reduced").textContent = note;
  restart();
  at("text").focus();
}

function offer(uri) {
  const button = document.createElement("button"), picture = document.createElement("img");
  button.type = "button";
  picture.src = uri;
  button.append(picture);
  button.addEventListener("click", () => { if (!busy) use(uri, picture.alt, ""); });
  at("examples").append(button);
}

// Earlier turns change the answer, and evaluations ask single questions, so they are sent on request.
async function ask(talk, text) {
  const turns = [...(at("remember").checked ? talk.turns : []), { role: "user", content: text }];
  if (turns.length > MAX_TURNS) throw new Error(texts.full);
  const response = await fetch("api/ask", {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ cell: talk.cell, image, turns }),
  }).catch(() => { throw new Error(texts.gone); });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || texts.failed(response.status));
  return { turns, answer };
}

function keep(talk, { turns, answer }) {
  talk.turns = [...turns, { role: "assistant", content: answer.text.trim() ? answer.text : "-" }];
  const cut = answer.is_truncated ? `, ${texts.cut}` : "";
  show(talk, "assistant", answer.text.trim() ? answer.text : texts.none, `${answer.seconds.toFixed(2)} s${cut}`);
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || busy) return;
  if (!image) { at("error").textContent = texts.image; return; }
  if (text.length > MAX_CHARACTERS) { at("error").textContent = texts.long(MAX_CHARACTERS, text.length); return; }
  busy = true;
  at("send").disabled = true;
  at("error").textContent = "";
  const shown = talks.flatMap((talk) => [show(talk, "user", text), show(talk, "assistant", texts.busy)]);
  try {
    // All cells or none: after an error, the question is asked again and no cell has it twice.
    const answers = [];
    for (const talk of talks) answers.push(await ask(talk, text));
    shown.forEach((turn, number) => { if (number % 2) turn.remove(); });
    talks.forEach((talk, number) => keep(talk, answers[number]));
    at("text").value = "";
  } catch (error) {
    shown.forEach((turn) => turn.remove());
    at("error").textContent = error.message;
  }
  busy = false;
  at("send").disabled = false;
  at("text").focus();
});
at("file").addEventListener("change", () => {
  take(at("file").files[0]);
  at("file").value = "";  // the same file can be chosen again
});
at("image").addEventListener("error", () => forget(texts.broken));
at("drop").addEventListener("dragover", (event) => event.preventDefault());
at("drop").addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
at("drop").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  at("file").click();
});
at("clear").addEventListener("click", () => { if (!busy) restart(); });
at("language").addEventListener("change", () => setLanguage(at("language").value));

fetch("api/cells").then((response) => response.json()).then((found) => {
  found.examples.forEach(offer);
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
