// Asks the server that it came from, as any client would: /models, /models/{name}, /predict, /feedback.

const AT_ONCE = 4;
const $ = (id) => document.getElementById(id);
const percent = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 3 }).format;

let model = null;
const counts = { accepted: 0, rejected: 0, refused: 0 };

async function ask(path, options = {}) {
  const key = $("key").value;
  const response = await fetch(path, { ...options, headers: { ...options.headers, ...(key && { "X-API-Key": key }) } });
  const body = await response.json();
  if (response.ok) return { body, id: response.headers.get("X-Request-ID") };
  if (response.status === 401) $("key-field").hidden = false;
  throw Object.assign(new Error(body.detail), { status: response.status, retryAfter: Number(response.headers.get("Retry-After")) });
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// While the server is busy or still loading it says when to come again.
async function askUntilAnswered(path, options) {
  for (;;) {
    try {
      return await ask(path, options);
    } catch (problem) {
      if (!problem.retryAfter) throw problem;
      notice(problem.message);
      await pause(problem.retryAfter);
    }
  }
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function fill(select, values, chosen) {
  select.replaceChildren(...values.map((value) => new Option(value, value, false, value === chosen)));
}

function point() {
  const points = model.operating_points[$("postprocessor").value];
  return points.find((other) => other.alpha === Number($("alpha").value));
}

const address = (name, version) => `models/${encodeURIComponent(name)}?version=${version}`;

async function showModels() {
  try {
    const { models } = (await askUntilAnswered("models")).body;
    $("model").replaceChildren(...models.map(({ name, version, default: chosen }) => new Option(`${name} ${version}`, address(name, version), chosen, chosen)));
    await showModel();
    notice("");
  } catch (problem) {
    notice(problem.message);
  }
}

async function showModel() {
  model = (await askUntilAnswered($("model").value)).body;
  $("classes").replaceChildren(...model.manifest.classes.map((label) => new Option(label)));
  fill($("postprocessor"), model.postprocessors, model.postprocessor);
  showAlphas(model.alpha);
}

function showAlphas(chosen) {
  fill($("alpha"), model.operating_points[$("postprocessor").value].map((other) => other.alpha), chosen);
  showPromise();
}

function showPromise() {
  const { alpha, guarantee, expected_false_reject_ratio: expected, measured_false_reject_ratio: measured, ood_caught_ratio: caught } = point();
  const confidence = percent(1 - model.manifest.calibration.delta);
  $("promise").textContent =
    guarantee === "pac"
      ? `With ${confidence} confidence at most ${percent(alpha)} of good pictures are rejected, ${percent(expected)} on average.`
      : `On average at most ${percent(alpha)} of good pictures are rejected.`;
  const rows = Object.entries({ ...(measured !== null && { "good ones": measured }), ...caught });
  $("sets").replaceChildren(...rows.map(([set, share]) => row(set, share)));
  $("measured").hidden = rows.length === 0;
}

function row(set, share) {
  const cells = [set, percent(share)].map((text) => Object.assign(document.createElement("td"), { textContent: text }));
  const line = document.createElement("tr");
  line.append(...cells);
  return line;
}

function open(file) {
  const card = $("answer").content.firstElementChild.cloneNode(true);
  const image = card.querySelector("img");
  image.src = URL.createObjectURL(file);
  image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
  card.querySelector("figcaption").textContent = file.name;
  card.querySelector("h2").textContent = "…";
  for (const part of card.querySelectorAll(".scale, .truth")) part.hidden = true;
  return card;
}

function close(card, outcome, title, verdict) {
  card.className = outcome;
  card.querySelector("h2").textContent = title;
  card.querySelector(".verdict").textContent = verdict;
  counts[outcome] += 1;
  $("tally").textContent = Object.entries(counts).filter(([, count]) => count).map(([what, count]) => `${count} ${what}`).join(", ");
}

function show(card, answer, id, { expected_false_reject_ratio: limit, class_thresholds: own }) {
  const { label, probability, top_k, ood } = answer.predictions[0];
  if (ood.rejected) close(card, "rejected", "I don’t know", `Rejected by ${answer.postprocessor}. Made to choose: ${label}, ${percent(probability)}.`);
  else close(card, "accepted", label, `Accepted by ${answer.postprocessor}; ${percent(probability)} probable.`);
  card.querySelector(".meaning").textContent = `p = ${ood.p_value.toPrecision(2)}: ${percent(ood.p_value)} of good pictures are at least as strange.`;
  // Logarithmic, from the smallest p-value there can be to 1: the rejecting ones are otherwise too few to see.
  const least = Math.log(model.manifest.calibration.n + 1);
  const place = (p) => `${100 * Math.max(0, 1 + Math.log(p) / least)}%`;
  card.querySelector(".scale").hidden = false;
  card.querySelector(".rejecting").style.width = label in own ? 0 : place(limit);
  card.querySelector(".mark").style.left = place(ood.p_value);
  for (const { label: name, probability: share } of top_k) {
    const [term, value, bar] = ["dt", "dd", "dd"].map((tag) => document.createElement(tag));
    term.textContent = name;
    value.textContent = percent(share);
    bar.append(Object.assign(document.createElement("meter"), { value: share }));
    card.querySelector("dl").append(term, value, bar);
  }
  const form = card.querySelector(".truth");
  form.hidden = false;
  form.onsubmit = (event) => {
    event.preventDefault();
    tell(form, { request_id: id, label: form.querySelector("input").value });
  };
  form.querySelector("button[type=button]").onclick = () => tell(form, { request_id: id, was_ood: true });
}

async function tell(form, truth) {
  const said = form.querySelector("output");
  try {
    await ask("feedback", { method: "POST", body: JSON.stringify(truth), headers: { "Content-Type": "application/json" } });
    said.textContent = "counted";
  } catch (problem) {
    said.textContent = problem.message;
  }
}

async function judge(file, card) {
  const query = new URLSearchParams({ model: model.name, version: model.version, postprocessor: $("postprocessor").value, alpha: $("alpha").value });
  const chosen = point();
  try {
    // The server goes by the bytes, whatever the browser takes them for.
    const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
    const { body, id } = await askUntilAnswered(`predict?${query}`, options);
    show(card, body, id, chosen);
  } catch (problem) {
    close(card, "refused", "Not answered", problem.message);
    // A reload may have put another version in its place.
    if (problem.status === 404) await showModels();
  }
}

async function judgeAll(files) {
  if (model === null) return;
  const waiting = [...files].map((file) => [file, open(file)]);
  $("answers").prepend(...waiting.map(([, card]) => card));
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await judge(...next);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  notice("");
}

$("key").onchange = showModels;
$("choice").onsubmit = (event) => event.preventDefault();
$("model").onchange = showModel;
$("postprocessor").onchange = () => showAlphas(Number($("alpha").value));
$("alpha").onchange = showPromise;
$("files").onchange = (event) => {
  judgeAll(event.target.files);
  event.target.value = "";
};
document.onpaste = (event) => judgeAll(event.clipboardData.files);
const drop = $("drop");
document.ondragover = (event) => {
  event.preventDefault();
  drop.classList.add("over");
};
document.ondragleave = () => drop.classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  judgeAll(event.dataTransfer.files);
};
showModels();
