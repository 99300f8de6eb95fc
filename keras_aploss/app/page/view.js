// What is shown: results, labels, pages, errors. Texts go in as texts, never as HTML.

export const $ = (id) => document.getElementById(id);
export const PAGE = 24;

const number = (value) => value.toLocaleString("en");

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const labelText = (label) => label || "(no label)";

export function showAbout(about) {
  const labels = about.labels.filter(([label]) => label).length;
  const of = labels ? ` of ${number(labels)} label${labels > 1 ? "s" : ""}` : "";
  const images = about.count === 1 ? "image" : "images";
  $("about").textContent = `${number(about.count)} ${images}${of}`;
  const options = about.labels.map(([label, count]) =>
    element("option", { value: labelText(label), label: `${number(count)} images` }),
  );
  $("labels").replaceChildren(...options);
}

// An image of the index as a link, so that it opens in another tab as well.
function cell(result, rank, isQuery, labels) {
  const name = `${labelText(result.label)}: ${result.name}`;
  const image = element("img", {
    src: `images/${result.key}`,
    alt: name,
    loading: rank < PAGE / 2 ? "eager" : "lazy",
    draggable: false,
  });
  const link = element("a", { className: "picture", href: `#${result.key}` }, image);
  link.dataset.key = result.key;
  link.title = `Search from ${result.name}`;
  image.addEventListener("error", () => replaceLost(image, result.key), { once: true });
  const chip = element("button", {
    type: "button",
    className: "chip",
    textContent: labelText(result.label),
    title: `Only ${labelText(result.label)}`,
  });
  chip.dataset.label = result.label;
  chip.setAttribute("aria-pressed", labels.includes(result.label));
  const parts = [link];
  if (result.similarity !== null) {
    const bar = element("span", { className: "level" });
    bar.style.width = `${100 * Math.min(1, Math.max(0, result.similarity))}%`;
    const rail = element("span", { className: "rail" }, bar);
    rail.setAttribute("aria-hidden", "true");
    const value = element("span", {
      className: "similarity",
      textContent: result.similarity.toFixed(3),
      title: `Similarity ${result.similarity} (1 at most)`,
    });
    parts.push(element("div", { className: "measure" }, value, rail));
    link.setAttribute("aria-label", `Result ${rank + 1}, ${name}. Search from it.`);
  } else {
    link.setAttribute("aria-label", `${name}. Search from it.`);
  }
  parts.push(chip);
  parts.push(element("span", { className: "name soft", title: result.name }, result.name));
  return element("li", { className: isQuery ? "cell same" : "cell" }, ...parts);
}

// A file that is gone or has changed cannot be shown, but still be searched from.
async function replaceLost(image, key) {
  const note = element("span", { className: "lost" }, "This image cannot be shown.");
  note.setAttribute("role", "img");
  note.setAttribute("aria-label", image.alt);
  image.replaceWith(note);
  const response = await fetch(`images/${key}`).catch(() => null);
  if (!response || response.ok) return;
  const { error } = await response.json().catch(() => ({}));
  if (error) note.textContent = `Not shown: ${error}.`;
}

export function showResults(results, start, key, labels) {
  const cells = results.map((result, place) =>
    cell(result, start + place, result.key === key, labels),
  );
  $("results").start = start + 1;
  $("results").replaceChildren(...cells);
}

export function showPlace(start, shown, total) {
  const pages = Math.max(1, Math.ceil(total / PAGE));
  const page = Math.floor(start / PAGE);
  const range = `Results ${number(start + 1)} to ${number(start + shown)}`;
  $("summary").textContent = shown
    ? `${range} of ${number(total)}`
    : "No image of the index has such a label";
  for (const pager of document.querySelectorAll(".pager")) {
    pager.hidden = pages < 2;
    pager.querySelector(".place").textContent = `${number(page + 1)} / ${number(pages)}`;
    pager.querySelector(".previous").disabled = page === 0;
    pager.querySelector(".next").disabled = page + 1 >= pages;
  }
}

export function showEmpty(examples) {
  $("empty").hidden = false;
  $("shown").hidden = true;
  $("drop").classList.remove("small");
  $("summary").textContent = "Nothing searched for yet";
  for (const pager of document.querySelectorAll(".pager")) pager.hidden = true;
  showResults(examples, 0, null, []);
}

export function showChosen(labels) {
  const chips = labels.map((label) => {
    const chip = element("button", { type: "button", className: "chip chosen" });
    chip.append(labelText(label), element("span", { className: "cross" }, "×"));
    chip.dataset.label = label;
    chip.setAttribute("aria-label", `Do not restrict to ${labelText(label)}`);
    return element("li", {}, chip);
  });
  $("chosen").replaceChildren(...chips);
  $("label").placeholder = labels.length ? "and the label" : "all labels";
}

export function showError(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = !sentence;
}

export function showBusy(isBusy) {
  document.body.classList.toggle("busy", isBusy);
  $("found").setAttribute("aria-busy", isBusy);
}
