// The page of the server: verdicts come from /v1/predict, pages about images from /v1/explain.

import {fill, settings, startPage, t} from "./page.js";

const RETRY = Object.assign(new Error(t.failed), {retry: true});

// Send a file; ask for the token where the server wants one, and wait while it is busy.
async function post(path, task, onProgress, onBusy) {
  for (;;) {
    const answer = await send(path, task, onProgress);
    if (answer.status === 401) {
      const given = prompt(sessionStorage.getItem("token") ? `${t.wrong_token} ${t.token}` : t.token);
      if (!given) throw Object.assign(new Error(t.wrong_token), {retry: true});
      sessionStorage.setItem("token", given);
    } else if (answer.status === 429) {
      onBusy();
      const seconds = Number(answer.getResponseHeader("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    } else if (answer.status !== 200) {
      throw Object.assign(new Error(problemOf(answer)), {retry: answer.status >= 500});
    } else {
      return answer.responseText;
    }
  }
}

function problemOf(answer) {
  try {
    return JSON.parse(answer.responseText).error;
  } catch {
    return t.failed;
  }
}

function send(path, task, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();  // unlike fetch, it says how much is sent
    request.open("POST", path);
    const token = sessionStorage.getItem("token");
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.upload.addEventListener("progress", ({loaded, total}) => onProgress(loaded / total));
    request.addEventListener("load", () => resolve(request));
    request.addEventListener("error", () => reject(RETRY));
    const body = new FormData();
    body.append("files", task.file, task.file.name || "image");
    request.send(body);
  });
}

async function analyze(task, report) {
  const chosen = settings.models.find((model) => model.name === task.model);
  const query = new URLSearchParams(chosen ? {model: chosen.name, masks: chosen.masks} : {});
  const onProgress = (part) => (part < 1
    ? report(fill(t.sending, {percent: Math.round(100 * part)}), part) : report(t.working));
  const answer = await post(`/v1/predict?${query}`, task, onProgress, () => report(t.busy));
  const [row] = JSON.parse(answer).predictions;
  task.model = row.detector;
  if (!row.mask_png) return {row, mask: null};
  const mask = new Image();
  mask.src = `data:image/png;base64,${row.mask_png}`;
  await mask.decode();
  return {row, mask};
}

async function evidence(task) {
  const query = new URLSearchParams({model: task.model, pictures: true});
  const [found] = JSON.parse(await post(`/v1/evidence?${query}`, task, () => {}, () => {})).evidence;
  if (found.error) throw new Error(found.error);
  return found;
}

async function stability(task) {
  const query = new URLSearchParams({model: task.model});
  const found = JSON.parse(await post(`/v1/stability?${query}`, task, () => {}, () => {}));
  if (found.error) throw new Error(found.error);
  return found;
}

function explain(task) {
  const query = new URLSearchParams({model: task.model});
  return post(`/v1/explain?${query}`, task, () => {}, () => {});
}

startPage({analyze, evidence, stability, explain: settings.explains ? explain : null, concurrent: 3});
