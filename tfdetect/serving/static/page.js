// The page on which people drop images and read verdicts: of the server, and of the folder that
// works without one. Where the verdicts come from is given to `startPage`.

const data = JSON.parse(document.getElementById("data").textContent);
const MAX_SIDE = 2048;  // pixels of a drawn mask and of the picture in a saved result
const ALTERED = 128;  // gray of P(altered) from one half, from which a pixel counts as altered
const NONE = "None found.";  // the finding of evidence that was looked for and is not there

export const settings = data;
export const t = data.texts;
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, key) => values[key]);

const byId = (id) => document.getElementById(id);
const waiting = [];
let backend = null;
let active = 0;
let done = 0;

/**
 * Show the page's form and answer for the files that are given to it.
 *
 * from.analyze(task, report) returns a promise of {row, mask}: row as /v1/predict has it, mask an
 * image whose gray is P(altered), or null. It may call report(text, fraction). An error's message
 * is shown; it has retry = true where trying again may help.
 * from.evidence(task), where there is one, returns a promise of what /v1/evidence says of the file.
 * from.stability(task), where there is one, returns a promise of what /v1/stability says of the file.
 * from.explain(task), where there is one, returns a promise of an HTML page about the image.
 * from.concurrent is the number of files that are analyzed at a time.
 */
export function startPage(from) {
  backend = from;
  byId("form").hidden = false;
  byId("close").textContent = t.close;
  byId("zoom").addEventListener("click", (event) => {
    if (event.target === byId("zoom")) byId("zoom").close();
  });
  for (const id of ["files", "camera"]) {
    byId(id).addEventListener("change", (event) => {
      add(event.target.files);
      event.target.value = "";
    });
    byId(id).addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;  // some browsers have the space bar for it alone
      event.preventDefault();  // in the others a second click would cancel the first one
      byId(id).click();
    });
  }
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  const drop = byId("drop");
  const mark = (event, over) => {
    event.preventDefault();
    drop.classList.toggle("over", over);
  };
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => mark(event, true));
  }
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, (event) => mark(event, false));
  }
  document.addEventListener("drop", (event) => add(event.dataTransfer.files));
  document.addEventListener("paste", (event) => add(event.clipboardData.files));
  window.addEventListener("beforeunload", (event) => {
    if (active) event.preventDefault();
  });
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const button = (text, onClick, className = "") => {
  const made = element("button", {type: "button", className, textContent: text});
  made.addEventListener("click", () => onClick(made));
  return made;
};

function add(files) {
  const items = [];
  for (const file of files) {
    const item = element("li", {className: "result"});
    items.push(item);
    const task = {file, item, model: byId("model").value, url: URL.createObjectURL(file)};
    if (file.size > data.max_bytes) {
      const limit = Math.round(data.max_bytes / 2 ** 20);
      showError(task, new Error(fill(t.too_large, {limit})));
      continue;
    }
    showProgress(task, t.waiting);
    waiting.push(task);
  }
  if (!items.length) return;
  byId("results").prepend(...items);
  byId("results-heading").hidden = false;
  byId("status").textContent = fill(t.added, {count: items.length});
  work();
}

function work() {
  while (active < backend.concurrent && waiting.length) {
    active += 1;
    analyze(waiting.shift()).finally(() => {
      active -= 1;
      done += 1;
      byId("status").textContent = fill(t.done, {count: done});
      work();
    });
  }
}

async function analyze(task) {
  try {
    const report = (text, fraction) => showProgress(task, text, fraction);
    report(t.working);
    const {row, mask} = await backend.analyze(task, report);
    if (row.error) showError(task, new Error(row.error), fill(t.unreadable_hint, {megapixels: +(data.max_pixels / 1e6).toPrecision(3)}));
    else showVerdict(task, row, mask);
  } catch (error) {
    showError(task, error);
  }
}

function picture(task, mask, words) {
  const name = task.file.name;
  const image = element("img", {src: task.url, alt: fill(t.image_alt, {name})});
  const zoom = button("", () => {
    byId("zoomed").src = task.url;
    byId("zoomed").alt = image.alt;
    byId("zoom").showModal();
  });
  zoom.setAttribute("aria-label", fill(t.zoom, {name}));
  zoom.append(image);
  const box = element("div", {className: "picture"}, zoom);
  image.addEventListener("error", () => { box.hidden = true; });
  if (mask) {
    const canvas = element("canvas", {className: "mask"});
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", fill(t.mask_alt, {name}));
    drawMask(canvas, mask);
    zoom.append(canvas);
    const slider = element("input", {type: "range", min: 0, max: 100, value: 60});
    const fade = () => { canvas.style.opacity = slider.value / 100; };
    slider.addEventListener("input", fade);
    fade();
    box.append(element("label", {className: "slider small"}, t.mask, slider),
      element("p", {className: "small", textContent: words}));
  }
  return box;
}

// Paint where P(altered), the gray of an image, is at least one half in red, and nothing elsewhere.
function drawMask(canvas, image) {
  const scale = Math.min(1, MAX_SIDE / Math.max(image.width, image.height));
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data[i + 3] = pixels.data[i] >= ALTERED ? 255 : 0;
    pixels.data[i] = 220;
    pixels.data[i + 1] = pixels.data[i + 2] = 0;
  }
  context.putImageData(pixels, 0, 0);
}

function show(task, tone, image, ...content) {
  task.item.className = `result ${tone}`;
  task.item.replaceChildren(image, element("div", {}, ...content));
}

const nameOf = (task, by = "") =>
  element("p", {className: "name", textContent: `${task.file.name}${by}`});

function showProgress(task, text, fraction = null) {
  const shown = task.item.querySelector("progress");
  if (shown) {  // the picture is not drawn anew
    shown.previousSibling.textContent = text;
    if (fraction === null) shown.removeAttribute("value");
    else shown.value = fraction;
    return;
  }
  const bar = element("progress", {max: 1});
  bar.setAttribute("aria-label", task.file.name);
  show(task, "", picture(task), nameOf(task), element("p", {textContent: text}), bar);
}

function showError(task, error, hint = "") {
  const actions = element("div", {className: "actions"}, removeButton(task));
  if (error.retry) actions.prepend(button(t.retry, () => { waiting.push(task); work(); }));
  const text = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  show(task, "caution", picture(task), element("h3", {textContent: t.unreadable}), nameOf(task),
    element("p", {textContent: /[.!?]$/.test(text) ? text : `${text}.`}),
    hint ? element("p", {className: "small", textContent: hint}) : "", actions);
}

function removeButton(task) {
  return button(t.remove, () => {
    const next = (task.item.nextElementSibling ?? task.item.previousElementSibling)
      ?.querySelector(".actions button");
    URL.revokeObjectURL(task.url);
    task.item.remove();
    byId("results-heading").hidden = !byId("results").children.length;
    (next ?? byId("files")).focus();
  }, "quiet");
}

function showVerdict(task, row, mask) {
  const {headline, tone, lines} = row.words;
  const model = data.models.find((each) => each.name === task.model);
  const more = limits(model, row).map((text) => element("li", {textContent: text}));
  const by = data.models.length > 1 ? ` ${fill(t.by, {model: task.model})}` : "";
  const content = element("div", {}, element("h3", {textContent: headline}), nameOf(task, by),
    ...lines.map((line) => element("p", {textContent: line})),
    more.length ? element("ul", {className: "limits"}, ...more) : null,
    element("div", {className: "evidence"}),
    details(t.trained, element("p", {textContent: model.about.join(" ")})),
    details(t.details, figures(row, model.calibrated)));
  const actions = element("div", {className: "actions"});
  if (backend.stability) actions.append(stabilityButton(task));
  if (backend.explain) actions.append(explainButton(task));
  actions.append(button(t.save, () => save(task), "quiet"),
    button(t.print, () => print(task), "quiet"), removeButton(task));
  content.append(actions);
  task.item.className = `result ${tone}`;
  task.item.replaceChildren(picture(task, mask, mask && maskWords(model, row)), content);
  if (backend.evidence) gather(task);
}

let gathering = Promise.resolve();  // one file at a time, after its verdict

function gather(task) {
  const box = task.item.querySelector(".evidence");
  box.append(element("h4", {textContent: t.evidence_title}),
    element("p", {className: "small", textContent: t.evidence_wait}));
  gathering = gathering.then(async () => {
    if (!box.isConnected) return;
    try {
      showEvidence(task, box, await backend.evidence(task));
    } catch (error) {
      box.lastChild.textContent = fill(t.evidence_failed, {reason: error.message});
    }
    const {textContent: headline} = task.item.querySelector("h3");
    byId("status").textContent = fill(t.evidence_done, {name: task.file.name, headline});
  });
}

function showEvidence(task, box, {headline, tone, reasons, lines, pictures = []}) {
  const title = task.item.querySelector("h3");
  const shown = task.item.textContent;
  const before = title.textContent;
  const others = lines.filter(({name}) => name !== "detector");  // its verdict is above
  const below = others.flatMap(({title: name, finding, reliability}) => [
    `${name}: ${finding}`, reliability ?? ""]);
  const said = (each) => [shown, ...below].some((text) => text.includes(each));
  const added = reasons.filter((each) => !said(each));
  const repeated = added.some((each) => each.startsWith(before));
  const more = before === headline ? []
    : [...(repeated ? [] : [fill(t.evidence_changed, {headline: before})]), ...added];
  title.textContent = headline;
  task.item.className = `result ${tone}`;
  const listed = (some) => element("dl", {}, ...some.flatMap((line) => [
    element("dt", {textContent: line.title}),
    element("dd", {}, line.finding, element("span", {className: "small", textContent: line.reliability})),
  ]));
  const nothing = others.filter(({finding}) => finding === NONE);
  const findings = others.filter(({finding}) => finding !== NONE);
  box.lastChild.remove();
  if (more.length) box.append(element("p", {textContent: more.join(" ")}));
  if (others.every(({says}) => says === "nothing")) box.append(element("p", {textContent: t.evidence_none}));
  if (findings.length) box.append(listed(findings));
  box.append(...pictures.map(({png, alt, title: name, caption}) => element("figure", {},
    element("img", {src: `data:image/png;base64,${png}`, alt}),
    element("figcaption", {className: "small"}, element("b", {textContent: name}), caption ? `. ${caption}` : ""))));
  if (nothing.length) box.append(details(fill(t.evidence_nothing, {count: nothing.length}), listed(nothing)));
}

const details = (title, content) =>
  element("details", {}, element("summary", {textContent: title}), content);

// Return in what the image differs from those that the detector was made for.
function limits(model, row) {
  const reasons = row.domain_reasons ? row.domain_reasons.split(", ") : [];
  return reasons.map((reason) => fill(t.unlike[reason], model));
}

function maskWords(model, row) {
  const percent = (100 * row.altered_fraction).toFixed(1).replace(/\.0$/, "");
  const authentic = row.inconclusive || row.verdict === model.authentic;
  if (row.altered_fraction === 0) return authentic ? t.mask_none : fill(t.mask_missing, row);
  return fill(authentic ? t.mask_doubtful : t.mask_found, {percent: percent === "0" ? "< 0.1" : percent});
}

function figures(row, calibrated) {
  const shown = {...row, verdict: row.inconclusive ? t.inconclusive : row.verdict};
  const known = Object.entries(shown).filter(
    ([key, value]) => value !== null && value !== ""
      && !["path", "detector", "words", "mask_png", "error", "inconclusive"].includes(key));
  const value = (each) => (typeof each === "number" ? +each.toFixed(4)
    : typeof each === "boolean" ? (each ? t.yes : t.no) : each);
  return table(t.details, element("tbody", {}, ...known.map(([key, each]) =>
    element("tr", {}, element("th", {scope: "row", textContent: figureName(key, calibrated)}),
      element("td", {textContent: value(each)})))));
}

// Return a table that scrolls sideways where the page is too narrow for its words.
function table(name, ...parts) {
  const box = element("div", {className: "scroll", tabIndex: 0}, element("table", {}, ...parts));
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", name);
  return box;
}

function figureName(key, calibrated) {
  const score = calibrated ? "" : "_score";
  const name = key.startsWith("probability_") ? key.slice("probability_".length) : null;
  if (name) return fill(t.figures[`probability${score}`], {name});
  return t.figures[key + score] ?? t.figures[key] ?? key.replaceAll("_", " ");
}

function stabilityButton(task) {
  return button(t.stability, async (pressed) => {
    pressed.disabled = true;
    pressed.textContent = t.stability_wait;
    const box = task.item.querySelector(".evidence");
    try {
      const {sentence, copies} = await backend.stability(task);
      const heads = t.stability_columns.map((name) => element("th", {scope: "col", textContent: name}));
      const rows = copies.map(({words, p_fake, verdict, inconclusive}) => element("tr", {},
        element("th", {scope: "row", textContent: words}), element("td", {textContent: p_fake.toFixed(3)}),
        element("td", {textContent: inconclusive ? t.inconclusive : verdict})));
      const shown = details(t.stability_copies, table(t.stability_copies,
        element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows)));
      box.before(element("h4", {textContent: t.stability_title}),
        element("p", {textContent: `${sentence} ${t.stability_meaning}`}), shown);
      pressed.remove();
      shown.querySelector("summary").focus();
    } catch (error) {
      pressed.replaceWith(element("p", {className: "small", textContent: error.message}));
    }
  }, "quiet");
}

function explainButton(task) {
  return button(t.explain, async (pressed) => {
    pressed.disabled = true;
    pressed.textContent = t.explaining;
    try {
      const page = await backend.explain(task);
      const url = URL.createObjectURL(new Blob([page], {type: "text/html"}));
      const open = element("a", {className: "button", href: url, target: "_blank", textContent: t.open});
      pressed.replaceWith(open,
        element("a", {className: "button quiet", href: url, download: `${task.file.name}.html`,
          textContent: t.download}),
        element("span", {className: "small", textContent: t.print_hint}));
      open.focus();
    } catch (error) {
      pressed.replaceWith(element("p", {className: "small", textContent: error.message}));
    }
  });
}

const TIME = {year: "numeric", month: "long", day: "numeric", hour: "2-digit", minute: "2-digit",
  timeZoneName: "short"};
const savedBy = (task) => fill(t.saved_by, {model: task.model, version: data.version,
  when: new Date().toLocaleString(document.documentElement.lang, TIME)});

// Print one result with all its details; browsers print into a PDF, too.
function print(task) {
  const closed = [...task.item.querySelectorAll("details:not([open])")];
  const note = element("p", {className: "small", textContent: `${savedBy(task)} ${t.evidence}`});
  const change = (printing) => {
    closed.forEach((each) => { each.open = printing; });
    task.item.classList.toggle("printed", printing);
    byId("results").classList.toggle("one", printing);
  };
  task.item.lastChild.append(note);
  change(true);
  window.addEventListener("afterprint", () => { change(false); note.remove(); }, {once: true});
  window.print();
}

// Save one result as an HTML file that needs nothing else.
async function save(task) {
  const copy = task.item.cloneNode(true);
  copy.querySelectorAll(".actions, .slider").forEach((each) => each.remove());
  copy.querySelectorAll("details").forEach((each) => { each.open = true; });
  const box = copy.querySelector(".picture");
  const image = task.item.querySelector(".picture img");
  const mask = task.item.querySelector(".picture canvas");
  const pictures = image?.naturalWidth ? [drawn(image)] : [];
  if (mask && pictures.length) pictures.push(drawn(image, mask));
  box.querySelector("button").replaceWith(...pictures.map(
    (src, index) => element("img", {src, alt: index ? t.mask : image.alt})));
  const style = await (await fetch(document.querySelector("link[rel=stylesheet]").href)).text();
  const page = document.implementation.createHTMLDocument(`${task.file.name}: ${t.results}`);
  page.documentElement.lang = document.documentElement.lang;
  page.head.append(element("meta", {name: "viewport", content: "width=device-width"}));
  page.body.append(element("main", {}, element("h1", {textContent: document.title}),
    element("p", {textContent: savedBy(task)}),
    element("ol", {id: "results"}, copy), element("p", {className: "small", textContent: t.evidence})));
  // The style is added to the text, since this page's policy allows no style inside of a page.
  const text = `<!doctype html>\n${page.documentElement.outerHTML}`.replace(
    "<head>", () => `<head><meta charset="utf-8"><style>${style}</style>`);
  const url = URL.createObjectURL(new Blob([text], {type: "text/html"}));
  element("a", {href: url, download: `${task.file.name}.html`}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function drawn(image, mask) {
  const scale = Math.min(1, MAX_SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = element("canvas", {
    width: Math.max(1, image.naturalWidth * scale), height: Math.max(1, image.naturalHeight * scale)});
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 0.6;
  if (mask) context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.9);
}
