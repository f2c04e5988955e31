// The page of the server: sends images to /v1/predict and shows the verdicts.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const t = data.texts;
const CONCURRENT = 3;  // requests at a time, one image each
const waiting = [];
let active = 0;
let done = 0;

const byId = (id) => document.getElementById(id);
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, key) => values[key]);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function add(files) {
  for (const file of files) {
    const item = element("li", {className: "result"});
    byId("results").prepend(item);
    byId("results-heading").hidden = false;
    const task = {file, item, model: byId("model").value, url: URL.createObjectURL(file)};
    if (file.size > data.max_bytes) {
      const limit = Math.round(data.max_bytes / 2 ** 20);
      showError(task, fill(t.too_large, {limit}), false);
      continue;
    }
    showProgress(task, t.waiting);
    waiting.push(task);
  }
  work();
}

function work() {
  while (active < CONCURRENT && waiting.length) {
    active += 1;
    analyze(waiting.shift()).finally(() => { active -= 1; work(); });
  }
}

// Sends a form; asks for the token where the server wants one, and waits while it is busy.
async function post(path, task, onBusy) {
  for (;;) {
    const body = new FormData();
    body.append("files", task.file, task.file.name || "image");
    const token = sessionStorage.getItem("token");
    const headers = token ? {Authorization: `Bearer ${token}`} : {};
    const answer = await fetch(path, {method: "POST", body, headers});
    if (answer.status === 401) {
      const given = prompt(token ? `${t.wrong_token} ${t.token}` : t.token);
      if (!given) throw new Error(t.wrong_token);
      sessionStorage.setItem("token", given);
    } else if (answer.status === 429) {
      onBusy();
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    } else if (!answer.ok) {
      const problem = await answer.json().catch(() => ({error: t.failed}));
      throw new Error(problem.error);
    } else {
      return answer;
    }
  }
}

async function analyze(task) {
  showProgress(task, t.working);
  const masks = data.models.find((model) => model.name === task.model).masks;
  const query = new URLSearchParams({model: task.model, masks});
  try {
    const answer = await post(`/v1/predict?${query}`, task, () => showProgress(task, t.busy));
    const [row] = (await answer.json()).predictions;
    if (row.error) showError(task, row.error, false);
    else showVerdict(task, row);
  } catch (error) {
    showError(task, error instanceof TypeError ? t.failed : error.message, true);
  }
  done += 1;
  byId("status").textContent = fill(t.done, {count: done});
}

function picture(task, mask) {
  const image = element("img", {src: task.url, alt: fill(t.image_alt, {name: task.file.name})});
  image.addEventListener("error", () => { image.hidden = true; });
  const zoom = element("button", {type: "button"}, image);
  zoom.setAttribute("aria-label", fill(t.zoom, {name: task.file.name}));
  zoom.addEventListener("click", () => {
    byId("zoomed").src = task.url;
    byId("zoomed").alt = image.alt;
    byId("zoom").showModal();
  });
  const box = element("div", {className: "picture"}, zoom);
  if (mask) {
    const canvas = element("canvas", {className: "mask"});
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", fill(t.mask_alt, {name: task.file.name}));
    drawMask(canvas, mask);
    zoom.append(canvas);
    const slider = element("input", {type: "range", min: 0, max: 100, value: 60});
    slider.title = t.mask_hint;
    canvas.style.opacity = 0.6;
    slider.addEventListener("input", () => { canvas.style.opacity = slider.value / 100; });
    box.append(element("label", {className: "small"}, t.mask, slider));
  }
  return box;
}

// Paints P(altered) in red, from transparent at 0 to opaque at 1.
function drawMask(canvas, png) {
  const image = new Image();
  image.addEventListener("load", () => {
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, image.width, image.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data[i + 3] = pixels.data[i];
      pixels.data[i] = 220;
      pixels.data[i + 1] = pixels.data[i + 2] = 0;
    }
    context.putImageData(pixels, 0, 0);
  });
  image.src = `data:image/png;base64,${png}`;
}

function show(task, tone, image, ...content) {
  task.item.className = `result ${tone}`;
  task.item.replaceChildren(image, element("div", {}, ...content));
}

function showProgress(task, text) {
  const bar = element("progress");
  bar.setAttribute("aria-label", text);
  show(task, "", picture(task), element("p", {className: "name", textContent: task.file.name}),
    element("p", {textContent: text}), bar);
}

function showError(task, text, again) {
  const actions = element("div", {className: "actions"}, removeButton(task));
  if (again) {
    const button = element("button", {type: "button", textContent: t.retry});
    button.addEventListener("click", () => { waiting.push(task); work(); });
    actions.prepend(button);
  }
  show(task, "caution", picture(task), element("h3", {textContent: t.unreadable}),
    element("p", {className: "name", textContent: task.file.name}),
    element("p", {textContent: text}), actions);
}

function removeButton(task) {
  const button = element("button", {type: "button", className: "quiet", textContent: t.remove});
  button.addEventListener("click", () => {
    URL.revokeObjectURL(task.url);
    task.item.remove();
    byId("files").focus();
  });
  return button;
}

function showVerdict(task, row) {
  const {headline, tone, lines} = row.words;
  const figures = Object.entries(row).filter(
    ([key, value]) => value !== null && !["path", "words", "mask_png", "error"].includes(key));
  const table = element("table", {}, element("tbody", {}, ...figures.map(([key, value]) =>
    element("tr", {}, element("th", {scope: "row", textContent: key.replaceAll("_", " ")}),
      element("td", {textContent: typeof value === "number" ? +value.toFixed(4) : value})))));
  show(task, tone, picture(task, row.mask_png), element("h3", {textContent: headline}),
    element("p", {className: "name", textContent: task.file.name}),
    ...lines.map((line) => element("p", {textContent: line})),
    element("details", {}, element("summary", {textContent: t.details}), table),
    element("div", {className: "actions"}, explainButton(task), removeButton(task)));
}

function explainButton(task) {
  const button = element("button", {type: "button", textContent: t.explain});
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.textContent = t.explaining;
    const query = new URLSearchParams({model: task.model});
    try {
      const answer = await post(`/v1/explain?${query}`, task, () => {});
      const url = URL.createObjectURL(new Blob([await answer.text()], {type: "text/html"}));
      const name = `${task.file.name}.html`;
      button.replaceWith(
        element("a", {className: "button", href: url, target: "_blank", textContent: t.open}),
        element("a", {className: "button quiet", href: url, download: name,
          textContent: t.download}),
        element("span", {className: "small", textContent: t.print_hint}));
    } catch (error) {
      button.replaceWith(element("p", {textContent: error.message}));
    }
  });
  return button;
}

byId("form").hidden = false;
byId("close").textContent = t.close;
for (const id of ["files", "camera"]) {
  byId(id).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = "";
  });
}
const drop = byId("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
document.addEventListener("drop", (event) => add(event.dataTransfer.files));
document.addEventListener("paste", (event) => add(event.clipboardData.files));
