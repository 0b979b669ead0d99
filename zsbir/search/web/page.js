"use strict";
const $ = id => document.getElementById(id);
const canvas = $("canvas"), pen = canvas.getContext("2d");
const { text: readsText, originals, matchers } = JSON.parse(document.body.dataset.can);
if (!readsText) for (const id of ["words", "weight"]) $(id).remove();
const STEP = 30, MOST = 1000, KINDS = { png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", webp: "image/webp", svg: "image/svg+xml" };

// What was done, oldest first: strokes, pictures that cover all before them, and clearings; and what was undone.
let done = [], undone = [], stroke = null, erasing = false, timer = 0, running = null, turn = 0;
let hits = [], last = null; // the last question, to ask it again for more
let cursor = null; // the keyboard's pen

function paint() {
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.lineCap = pen.lineJoin = "round";
  for (const step of stroke ? [...done, stroke] : done) {
    if (step.clear || step.picture) pen.fillRect(0, 0, canvas.width, canvas.height);
    if (step.picture) pen.drawImage(step.picture, 0, 0);
    if (!step.points) continue;
    pen.strokeStyle = step.erase ? "#fff" : "#000";
    pen.lineWidth = step.width;
    pen.beginPath();
    pen.moveTo(...step.points[0]);
    for (const point of step.points) pen.lineTo(...point);
    pen.stroke();
  }
  if (cursor) { pen.strokeStyle = "#0b5fd0"; pen.lineWidth = 1; pen.strokeRect(cursor[0] - 5, cursor[1] - 5, 10, 10); }
  $("undo").disabled = !done.length;
  $("redo").disabled = !undone.length;
  $("clear").disabled = blank();
  $("eraser").setAttribute("aria-pressed", erasing);
}

function blank() { return !stroke && (!done.length || Boolean(done.at(-1).clear)); }
function say(text, bad = false) { $("status").textContent = text; $("status").className = bad ? "bad" : ""; }

function add(step) { done.push(step); undone = []; changed(); }
function changed(wait = 0) { paint(); keep(); later(wait); }
function undo() { if (done.length) { undone.push(done.pop()); changed(); } }
function redo() { if (undone.length) { done.push(undone.pop()); changed(); } }
function clear() { if (!blank()) add({ clear: true }); }
function erase() { erasing = !erasing; paint(); }

// The drawing outlives a reload of this tab.
function keep() {
  const steps = done.map(({ points, width, erase, clear, address }) => ({ points, width, erase, clear, address }));
  try { sessionStorage.setItem("drawing", JSON.stringify(steps)); } catch { /* full or forbidden: it is then not kept */ }
}
async function restore() {
  let steps = [];
  try { steps = JSON.parse(sessionStorage.getItem("drawing")) ?? []; } catch { return; }
  for (const step of steps) if (step.address) step.picture = await load(step.address);
  done = steps.filter(step => step.points || step.clear || step.picture);
}
function load(address) {
  return new Promise(ready => {
    const picture = new Image();
    picture.onload = () => ready(picture);
    picture.onerror = () => ready(null);
    picture.src = address;
  });
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
}
function begin(point, pointer) {
  const width = Number($("width").value) * (erasing ? 3 : 1);
  stroke = { width, erase: erasing, points: [point.map(Math.round)], pointer };
  paint();
}
function end() { const { width, erase, points } = stroke; stroke = null; add({ width, erase, points }); }

canvas.addEventListener("pointerdown", event => {
  if (event.button !== 0 || stroke) return;
  canvas.setPointerCapture(event.pointerId);
  cursor = null;
  begin(place(event), event.pointerId);
});
canvas.addEventListener("pointermove", event => {
  if (!stroke || event.pointerId !== stroke.pointer) return;
  for (const part of event.getCoalescedEvents?.() ?? [event]) stroke.points.push(place(part).map(Math.round));
  paint();
  later(350);
});
for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, event => {
  if (stroke && event.pointerId === stroke.pointer) end();
});

const MOVES = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
canvas.addEventListener("keydown", event => {
  const move = MOVES[event.key];
  if (!move && event.key !== " ") return;
  event.preventDefault();
  cursor ??= [canvas.width / 2, canvas.height / 2];
  if (move) {
    cursor = cursor.map((value, axis) => Math.min(canvas.width, Math.max(0, value + move[axis])));
    stroke?.points.push([...cursor]);
    paint();
  } else if (stroke) end();
  else begin([...cursor], "keys");
});
canvas.addEventListener("blur", () => { if (stroke?.pointer === "keys") end(); cursor = null; paint(); });

for (const [id, act] of Object.entries({ undo, redo, clear, eraser: erase })) $(id).addEventListener("click", act);
document.addEventListener("keydown", event => {
  if (event.target.matches("input[type=text], select")) return;
  const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
  const act = control ? (key === "y" || (key === "z" && event.shiftKey) ? redo : key === "z" ? undo : null)
    : key === "escape" ? clear : key === "e" && !event.altKey ? erase : null;
  if (act) { event.preventDefault(); act(); }
});

// The file itself is searched with; the server says whether it is a drawing. The canvas shows it where it can.
async function take(file) {
  const kind = KINDS[file.name.split(".").pop().toLowerCase()] ?? (Object.values(KINDS).includes(file.type) ? file.type : "image/png");
  leave();
  if (!await ask({ body: file, type: kind })) return;
  const address = URL.createObjectURL(file), picture = await load(address);
  URL.revokeObjectURL(address);
  if (!picture) return;
  const square = document.createElement("canvas"), { width, height } = canvas, brush = square.getContext("2d");
  [square.width, square.height] = [width, height];
  brush.fillStyle = "#fff";
  brush.fillRect(0, 0, width, height);
  const scale = Math.min(width / picture.width, height / picture.height), w = picture.width * scale, h = picture.height * scale;
  brush.drawImage(picture, (width - w) / 2, (height - h) / 2, w, h);
  done.push({ picture: square, address: square.toDataURL("image/png") });
  undone = [];
  paint();
  keep();
}
$("upload").addEventListener("change", event => {
  const file = event.target.files[0];
  event.target.value = "";
  if (file) take(file);
});
document.addEventListener("paste", event => { const file = event.clipboardData?.files[0]; if (file) { event.preventDefault(); take(file); } });
for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, event => {
  event.preventDefault();
  $("pad").classList.toggle("over", kind === "dragover");
  const file = kind === "drop" && event.dataTransfer?.files[0];
  if (file) take(file);
});

if (readsText) for (const id of ["text", "mix"]) $(id).addEventListener("input", () => later(300));
for (const id of ["folder", "matcher"]) $(id).addEventListener("change", () => last && ask({ ...last, k: STEP }));

function later(wait) { clearTimeout(timer); timer = setTimeout(search, wait); }

async function search() {
  leave();
  const mine = ++turn, text = readsText ? $("text").value.trim() : "";
  if (blank()) {
    if (text) return ask({ values: { text } });
    running?.abort();
    last = null;
    show([]);
    return say("");
  }
  // The picture is made later: it counts only if nothing was drawn or undone since. The cursor is not part of it.
  const at = cursor; cursor = null; paint();
  canvas.toBlob(body => mine === turn && ask({ body, type: "image/png", text }));
  cursor = at; if (at) paint();
}

async function ask(question) {
  turn++;
  running?.abort();
  const mine = running = new AbortController(), k = question.k ?? STEP, options = { k };
  if ($("folder").value) options.folder = $("folder").value;
  if ($("matcher").value && !question.values?.like) options.matcher = $("matcher").value;
  let address = "search", body, type = "application/json";
  if (question.values) body = JSON.stringify({ ...question.values, ...options });
  else {
    const query = new URLSearchParams(options);
    if (question.text) { query.set("text", question.text); query.set("mix", $("mix").value / 100); }
    address += `?${query}`;
    ({ body, type } = question);
  }
  say("Searching …");
  $("results").setAttribute("aria-busy", true);
  try {
    const answer = await fetch(address, { method: "POST", body, headers: { "content-type": type }, signal: mine.signal });
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(answer.status === 401 ? "The server wants its token: open the address that it printed." : found.error || `The server answers with the error ${answer.status}.`);
    last = { ...question, k };
    show(found.hits);
    say(found.hits.length === 1 ? "1 photo" : `${found.hits.length} photos`);
    return true;
  } catch (error) {
    if (error.name !== "AbortError") say(error instanceof TypeError ? "The server does not answer: is it still running?" : error.message, true);
    return false;
  } finally {
    if (running === mine) $("results").setAttribute("aria-busy", false);
  }
}

// "More like this" is a place of its own: the browser's Back leads out of it.
function like(hit) { history.pushState({ like: hit }, ""); visit(hit); }
function visit(hit) {
  clearTimeout(timer);
  $("like").hidden = false;
  $("query").src = `photo/${hit.id}`;
  $("query").alt = $("queried").textContent = `Photos like ${hit.path}`;
  scrollTo({ top: innerWidth < 704 && innerHeight > innerWidth ? $("found").offsetTop : 0 });
  ask({ values: { like: hit.id } });
}
function leave() { $("like").hidden = true; if (history.state?.like) history.pushState(null, ""); }
$("back").addEventListener("click", () => history.back());
addEventListener("popstate", event => event.state?.like ? visit(event.state.like) : search());

function element(name, properties = {}, ...inside) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
}
function show(found) {
  hits = found;
  $("hint").hidden = hits.length > 0;
  $("hint").textContent = last ? "No photo is found there." : "Photos appear here as you draw.";
  $("more").hidden = hits.length < (last?.k ?? STEP) || hits.length >= MOST;
  $("list").hidden = !hits.length;
  $("results").replaceChildren(...hits.map(hit => {
    const picture = element("img", { src: `photo/${hit.id}`, alt: hit.path, loading: "lazy" });
    const link = element("a", { href: `photo/${hit.id}?size=large`, target: "_blank" }, picture);
    picture.onerror = async () => {
      const answer = await fetch(picture.src).catch(() => null), reason = (await answer?.json().catch(() => null))?.error;
      link.replaceWith(element("p", { className: "gone", textContent: reason ?? "The photo cannot be shown." }));
    };
    const more = element("button", { textContent: "More like this", ariaLabel: `More like ${hit.path}`, onclick: () => like(hit) });
    const links = element("p", { className: "links" }, element("span", { className: "score", textContent: hit.score.toFixed(3) }));
    if (originals) links.append(element("a", { href: `photo/${hit.id}?original=1`, target: "_blank", textContent: "Original" }));
    if (hit.link) links.append(element("a", { href: hit.link, target: "_blank", rel: "noreferrer", textContent: "Open in the manager" }));
    return element("li", {}, link, element("p", { textContent: hit.path }), links, more);
  }));
}
$("more").addEventListener("click", () => ask({ ...last, k: Math.min(MOST, hits.length + STEP) }));
$("list").addEventListener("click", () => {
  const quoted = value => `"${String(value).replaceAll('"', '""')}"`;
  const rows = ["path,score,id", ...hits.map(hit => [quoted(hit.path), hit.score, hit.id].join(","))];
  const address = URL.createObjectURL(new Blob([rows.join("\n") + "\n"], { type: "text/csv" }));
  element("a", { href: address, download: "photos.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
});

const choices = names => names.map(name => element("option", { value: name, textContent: name }));
async function folders() {
  const answer = await fetch("folders").catch(() => null), names = answer?.ok ? (await answer.json()).folders : [];
  $("where").hidden = names.length < 2;
  $("folder").append(...choices(names));
}

$("how-scored").hidden = !matchers.length;
$("matcher").append(...choices(matchers));
folders();
restore().then(() => { paint(); if (history.state?.like) visit(history.state.like); else if (!blank()) search(); });
