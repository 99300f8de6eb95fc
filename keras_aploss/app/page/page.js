// The page: what a person did, what is asked of the server, and the way back.
//
// A view is a query with its filters and the first rank that is shown. Each is an entry
// of the browser's history. The embedding of the query is part of it, so the server
// need not remember anybody's image.

import { Crop } from "./crop.js";
import {
  $,
  PAGE,
  showAbout,
  showBusy,
  showChosen,
  showEmpty,
  showError,
  showPlace,
  showResults,
  labelText,
} from "./view.js";

const files = new Map(); // what was dropped, by the address of its preview
const nothing = { query: null, labels: [], expand: 0, start: 0 };
let about = { count: 0, labels: [], limit: Infinity, examples: [] };
let view = nothing;
let turn = 0; // an answer to an earlier question is not shown
let leaving = new AbortController();

const crop = new Crop($("stage"), $("frame"), (box) => cropTo(box));

// Ask the server; an error is a sentence.
async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { ...options, signal: leaving.signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Does `keras-aploss app` still run?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server failed (${response.status}).`);
  return answer;
}

// Reasons begin in lower case and go on with what failed; sentences follow it.
function sentence(what, { message }) {
  const end = /[.?]$/.test(message) ? "" : ".";
  if (!what) return message[0].toUpperCase() + message.slice(1) + end;
  return what + (/^[a-z]/.test(message) ? ": " : ". ") + message + end;
}

// Do what a person wants, instead of what was wanted before.
async function attempt(work, what = "") {
  const mine = ++turn;
  leaving.abort();
  leaving = new AbortController();
  showError("");
  showBusy(true);
  try {
    await work(() => mine === turn);
  } catch (error) {
    if (mine === turn && error.name !== "AbortError") showError(sentence(what, error));
  } finally {
    if (mine === turn) showBusy(false);
  }
}

const inBox = (address, box) => (box ? `${address}?box=${box.join(",")}` : address);

// Search, show it, and note it in the history unless that is where it comes from.
async function search(next, isCurrent, isNew = true) {
  const { query, labels, expand, start } = next;
  const question = { query: query.vector, labels, expand, start, count: PAGE };
  const answer = await ask("search", { method: "POST", body: JSON.stringify(question) });
  if (!isCurrent()) return;
  if (isNew) history.pushState(next, "", query.key ? `#${query.key}` : location.pathname);
  const isOther = view.query?.source !== query.source;
  view = next;
  if (isOther) showQuery(query);
  else if (!isNew) crop.reset(crop.width, crop.height, query.box);
  $("uncrop").hidden = !query.box;
  showChosen(labels);
  $("expand").value = expand;
  $("empty").hidden = true;
  showResults(answer.results, start, query.key, labels);
  showPlace(start, answer.results.length, answer.total);
}

function showQuery(query) {
  const image = $("image");
  $("shown").hidden = false;
  $("shown").classList.remove("unseen");
  $("drop").classList.add("small");
  $("query-name").textContent = query.name;
  image.alt = `Query: ${query.name}`;
  image.src = query.source;
}

$("image").addEventListener("load", () => {
  crop.reset($("image").naturalWidth, $("image").naturalHeight, view.query?.box);
});
$("image").addEventListener("error", () => $("shown").classList.add("unseen"));

// Of WebP and AVIF, which the server does not read, the browser makes a PNG.
async function readable(file) {
  if (!["image/webp", "image/avif"].includes(file.type)) return file;
  try {
    const bitmap = await createImageBitmap(file);
    const { width, height } = bitmap;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    return png || file;
  } catch {
    return file;
  }
}

async function embedFile(file, box) {
  if (file.size > about.limit) {
    const [size, limit] = [file.size, about.limit].map((n) => (n / 2 ** 20).toFixed(1));
    throw new Error(`it is too large: ${size} MiB, and ${limit} MiB are taken`);
  }
  const type = { "Content-Type": "application/octet-stream" };
  const options = { method: "POST", body: file, headers: type };
  return (await ask(inBox("embed", box), options)).query;
}

function useFile(given) {
  const name = given.name || "image";
  attempt(async (isCurrent) => {
    const file = await readable(given);
    const vector = await embedFile(file, null);
    const source = URL.createObjectURL(file);
    files.set(source, file);
    const query = { vector, key: null, name, source, box: null };
    await search({ ...view, query, start: 0 }, isCurrent);
    scrollTo({ top: 0 });
  }, `${name} cannot be searched for`);
}

function useIndexed(key, isNew = true) {
  attempt(async (isCurrent) => {
    const { query: vector, name } = await ask(`images/${key}/query`);
    const query = { vector, key, name, source: `images/${key}/large`, box: null };
    await search({ ...view, query, start: 0 }, isCurrent, isNew);
    if (isNew) scrollTo({ top: 0 });
  });
}

function cropTo(box) {
  const { query } = view;
  if (!query || String(box) === String(query.box)) return;
  attempt(async (isCurrent) => {
    const vector = query.key
      ? (await ask(inBox(`images/${query.key}/query`, box))).query
      : await embedFile(files.get(query.source), box);
    await search({ ...view, query: { ...query, vector, box }, start: 0 }, isCurrent);
  });
}

// Change filters or the page; before there is a query they are only noted.
function change(changes, then = () => {}) {
  const next = { ...view, start: 0, ...changes };
  if (!view.query) {
    view = next;
    showChosen(view.labels);
    return;
  }
  attempt(async (isCurrent) => {
    await search(next, isCurrent);
    if (isCurrent()) then();
  });
}

const toggled = (label) =>
  view.labels.includes(label)
    ? view.labels.filter((other) => other !== label)
    : [...view.labels, label];

// Go where the history, or the address, says.
function restore(state) {
  const key = location.hash.slice(1);
  if (state?.query) attempt((isCurrent) => search(state, isCurrent, false));
  else if (key) useIndexed(key, false);
  else {
    turn += 1;
    leaving.abort();
    leaving = new AbortController();
    showBusy(false);
    view = nothing;
    showError("");
    showChosen([]);
    $("expand").value = 0;
    showEmpty(about.examples);
  }
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) useFile(file);
  $("file").value = ""; // or the same file could not be chosen again
});
$("results").addEventListener("click", (event) => {
  const link = event.target.closest("a[data-key]");
  const chip = event.target.closest("button[data-label]");
  const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey;
  if (link && !elsewhere) {
    event.preventDefault();
    useIndexed(link.dataset.key);
  } else if (chip) {
    change({ labels: toggled(chip.dataset.label) });
  }
});
$("chosen").addEventListener("click", (event) => {
  const chip = event.target.closest("button[data-label]");
  if (chip) change({ labels: toggled(chip.dataset.label) }, () => $("label").focus());
});
$("label").addEventListener("change", () => {
  const written = $("label").value.trim();
  if (!written) return;
  const found = about.labels.find(([label]) => labelText(label) === written);
  $("label").value = "";
  if (!found) showError(`No image of the index has the label “${written}”.`);
  else if (!view.labels.includes(found[0])) change({ labels: toggled(found[0]) });
});
$("expand").addEventListener("change", () => change({ expand: Number($("expand").value) }));
$("uncrop").addEventListener("click", () => {
  crop.reset($("image").naturalWidth, $("image").naturalHeight);
  cropTo(null);
});
for (const pager of document.querySelectorAll(".pager")) {
  const turnBy = (pages) => () =>
    change({ start: view.start + pages * PAGE }, () => {
      $("summary").focus({ preventScroll: true });
      $("found").scrollIntoView({ block: "start" });
    });
  pager.querySelector(".previous").addEventListener("click", turnBy(-1));
  pager.querySelector(".next").addEventListener("click", turnBy(1));
}

// An image may be dropped anywhere.
let depth = 0;
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
const dragged = (by) => (event) => {
  if (!hasFiles(event)) return;
  depth = Math.max(0, depth + by);
  $("curtain").hidden = depth === 0;
};
addEventListener("dragenter", dragged(1));
addEventListener("dragleave", dragged(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  $("curtain").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file) useFile(file);
  else showError("Drop a file: a link to an image is not followed.");
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) useFile(file);
});
addEventListener("popstate", (event) => restore(event.state));

attempt(async () => {
  about = await ask("about");
  showAbout(about);
  // What was dropped is gone after a reload.
  const isKept = history.state?.query?.key;
  setTimeout(() => restore(isKept ? history.state : null));
});
