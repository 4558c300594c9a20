// Asks the server that it came from, as any client would: /models, /models/{name}, /predict, /feedback.

const AT_ONCE = 4;
const $ = (id) => document.getElementById(id);
// Cut off, not rounded: what is not certain must not read as 100 %.
const percent = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 3, roundingMode: "trunc" }).format;
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

let model = null;
let shown = null; // settled once the page says what its choices mean
const counts = { accepted: 0, rejected: 0, refused: 0 };

async function ask(path, options = {}) {
  // Keys are UTF-8, headers are bytes.
  const key = String.fromCharCode(...new TextEncoder().encode($("key").value));
  const response = await fetch(path, { ...options, headers: { ...options.headers, ...(key && { "X-API-Key": key }) } });
  // A gateway in between may answer with a page of its own.
  const body = await response.json().catch(() => null);
  if (response.ok && body) return { body, id: response.headers.get("X-Request-ID") };
  if (response.status === 401) $("key-field").hidden = false;
  const message = body?.detail ?? `answered with ${response.status} ${response.statusText}`;
  throw Object.assign(new Error(message), { retryAfter: Number(response.headers.get("Retry-After")) });
}

// While the server is busy or still loading it says when to come again.
async function askUntilAnswered(path, options) {
  for (;;) {
    try {
      const answer = await ask(path, options);
      notice("");
      return answer;
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

async function showModels() {
  const { models } = (await askUntilAnswered("models")).body;
  const options = models.map(({ name, version, default: chosen }) =>
    new Option(`${name} ${version}`, `models/${encodeURIComponent(name)}?version=${version}`, chosen, chosen));
  $("model").replaceChildren(...options);
  await showModel();
}

async function showModel() {
  const chosen = $("model").value;
  const { body } = await askUntilAnswered(chosen);
  if (chosen !== $("model").value) return; // another one was chosen meanwhile
  model = body;
  $("classes").replaceChildren(...model.manifest.classes.map((label) => make("option", { value: label })));
  fill($("postprocessor"), model.postprocessors, model.postprocessor);
  showAlphas(model.alpha);
}

function fill(select, values, chosen) {
  select.replaceChildren(...values.map((value) => new Option(value, value, false, value === chosen)));
}

function point() {
  const points = model.operating_points[$("postprocessor").value];
  return points.find((other) => other.alpha === Number($("alpha").value));
}

function showAlphas(chosen) {
  fill($("alpha"), model.operating_points[$("postprocessor").value].map((other) => other.alpha), chosen);
  showPromise();
}

function showPromise() {
  const { alpha, guarantee, expected_false_reject_ratio: expected, class_thresholds: own, ...measured } = point();
  const { delta, data } = model.manifest.calibration;
  const trust = guarantee === "pac" ? `with ${percent(Number((1 - delta).toFixed(6)))} confidence` : "on average";
  const promise = `${trust} at most ${percent(alpha)} of good pictures are rejected`;
  $("promise").textContent = Object.keys(own).length
    ? `Promised for each class with its own threshold, and for the others together: ${promise}.` +
      (guarantee === "pac" ? " Nothing is promised about all pictures at once." : "")
    : `Promised: ${promise}. Expected: ${percent(expected)}.`;
  $("good").textContent = `Good: like those that it was calibrated with (${data}). How many others are caught is measured, not promised.`;
  const rows = Object.entries(measured.ood_caught_ratio).map(([set, share]) => {
    const { images, expected: listed } = model.evaluation.ood_sets[set];
    return [set + (listed && images < listed ? ` (${images} of ${listed})` : ""), share];
  });
  if (measured.measured_false_reject_ratio !== null) rows.unshift(["good ones", measured.measured_false_reject_ratio]);
  $("sets").replaceChildren(...rows.map(([set, share]) => {
    const line = make("tr");
    line.append(make("td", { textContent: set }), make("td", { textContent: percent(share) }));
    return line;
  }));
  $("measured").hidden = rows.length === 0;
}

function open(file) {
  const card = $("answer").content.firstElementChild.cloneNode(true);
  const image = card.querySelector("img");
  image.src = URL.createObjectURL(file);
  image.onload = image.onerror = () => {
    URL.revokeObjectURL(image.src);
    image.classList.toggle("small", image.naturalWidth < 128);
  };
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

function show(card, answer, id, { images, limit, own }) {
  const { label, probability, top_k, ood } = answer.predictions[0];
  const by = `by ${answer.postprocessor} at alpha ${answer.alpha}`;
  if (ood.rejected) close(card, "rejected", "I don’t know", `Rejected ${by}. Made to choose: ${label}, ${percent(probability)}.`);
  else close(card, "accepted", label, `Accepted ${by}; ${percent(probability)} probable.`);
  const shared = Object.keys(own).length ? "calibration pictures of the classes that share a threshold" : "calibration pictures";
  const among = Object.hasOwn(own, label) ? `calibration pictures taken for ${label}` : shared;
  card.querySelector(".meaning").textContent = `p = ${ood.p_value.toPrecision(2)}: ${percent(ood.p_value)} of ${among} are at least as strange.`;
  // Logarithmic, from the smallest p-value there can be to 1: the rejecting ones are otherwise too few to see. With thresholds of
  // their own, classes have no common end.
  const place = (p) => `${100 * Math.max(0, 1 + Math.log(p) / Math.log(images + 1))}%`;
  card.querySelector(".scale").hidden = Object.keys(own).length > 0;
  card.querySelector(".rejecting").style.width = place(limit);
  card.querySelector(".mark").style.left = place(ood.p_value);
  for (const { label: name, probability: share } of top_k) {
    const bar = make("dd");
    bar.append(make("meter", { value: share, ariaHidden: "true" }));
    card.querySelector("dl").append(make("dt", { textContent: name }), make("dd", { textContent: percent(share) }), bar);
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

// What the page says now: all pictures that come together are judged by it.
function choice() {
  const { name, version, manifest } = model;
  const { expected_false_reject_ratio: limit, class_thresholds: own } = point();
  const query = new URLSearchParams({ model: name, version, postprocessor: $("postprocessor").value, alpha: $("alpha").value });
  return { query, images: manifest.calibration.n, limit, own };
}

async function judge(file, card, chosen) {
  try {
    // The server goes by the bytes, whatever the browser takes them for.
    const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
    const { body, id } = await askUntilAnswered(`predict?${chosen.query}`, options);
    show(card, body, id, chosen);
  } catch (problem) {
    const unsent = problem instanceof TypeError && "the server cannot be reached, or this is no file";
    close(card, "refused", "Not answered", unsent || problem.message);
  }
}

async function judgeAll(files) {
  const waiting = [...files].map((file) => [file, open(file)]);
  $("answers").prepend(...waiting.map(([, card]) => card));
  await shown;
  const chosen = model && choice();
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      if (chosen) await judge(...next, chosen);
      else close(next[1], "refused", "Not answered", "no model is known yet");
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

const begin = (showing) => {
  shown = showing().catch((problem) => notice(problem.message));
};
$("key").onchange = () => begin(showModels);
$("model").onchange = () => begin(showModel);
$("choice").onsubmit = (event) => event.preventDefault();
$("postprocessor").onchange = () => showAlphas(Number($("alpha").value));
$("alpha").onchange = showPromise;
$("files").onchange = (event) => {
  judgeAll(event.target.files);
  event.target.value = "";
};
document.onpaste = (event) => judgeAll(event.clipboardData.files);
const over = (event, entered) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  $("drop").classList.toggle("over", entered);
};
document.ondragover = (event) => over(event, true);
document.ondragleave = (event) => over(event, false);
document.ondrop = (event) => {
  over(event, false);
  judgeAll(event.dataTransfer.files);
};
begin(showModels);
