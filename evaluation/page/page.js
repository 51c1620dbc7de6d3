// The page: what is looked at stands in its address, after the #, and everything shown follows from that.

const PAGE_LENGTH = 50;
const TYPING_PAUSE = 200; // milliseconds
const FILTERS = ["q", "category", "method", "backbone", "converged", "unscored"];

const [form, list, pages, sight, status] = ["filter", "list", "pages", "sample", "status"].map((id) =>
  document.getElementById(id),
);
const [BACKBONES, METHODS] = [0, 1].map((place) => [...new Set(run.pairs.map((pair) => pair[place]))]);
let samples = [];
let found = []; // what the filter leaves of them
let filter = null; // as an address
let shown = null; // the number of the sample in sight

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries([...FILTERS, "page", "sample"].map((name) => [name, asked.get(name) ?? ""]));
}

function addressOf(view) {
  return `#${new URLSearchParams(Object.entries(view).filter(([, value]) => value !== ""))}`;
}

function filterOf(view) {
  return addressOf(Object.fromEntries(FILTERS.map((name) => [name, view[name]])));
}

function render() {
  const view = readAddress();
  const isNewFilter = filterOf(view) !== filter;
  if (isNewFilter) found = select(samples, view);
  filter = filterOf(view);
  const place = found.findIndex(({ sample }) => `${sample.sample}` === view.sample);
  renderList(view, place);
  if (isNewFilter || view.sample !== shown) renderSample(view, place);
  shown = view.sample;
}

function renderList(view, place) {
  const last = Math.max(Math.ceil(found.length / PAGE_LENGTH), 1);
  const wanted = view.page ? Number(view.page) || 1 : pageOf(place);
  const page = Math.min(Math.max(Math.trunc(wanted), 1), last);
  const all = samples.length.toLocaleString("en");
  status.textContent = filter === "#" ? `${all} samples` : `${found.length.toLocaleString("en")} of ${all} samples`;
  list.replaceChildren(
    ...found.slice((page - 1) * PAGE_LENGTH, page * PAGE_LENGTH).map(({ sample }) => entry(sample, { ...view, page })),
  );
  const turn = (name, to) => (to < 1 || to > last ? element("span", {}, name) : link(name, { ...view, page: to }));
  pages.replaceChildren(turn("Previous page", page - 1), `${page} of ${last}`, turn("Next page", page + 1));
  pages.hidden = last === 1;
}

function entry({ sample, category, prompt }, view) {
  const made = element("a", { href: addressOf({ ...view, sample }) });
  made.append(
    element("span", { className: "label" }, `${sample} · ${label(category)}`),
    element("span", { className: "excerpt", dir: "auto" }, prompt.slice(0, 300)),
  );
  made.dataset.sample = sample;
  if (made.dataset.sample === view.sample) made.ariaCurrent = "true";
  return element("li", {}, made);
}

function pageOf(place) {
  return Math.floor(Math.max(place, 0) / PAGE_LENGTH) + 1;
}

function link(name, view) {
  return element("a", { href: addressOf(view) }, name);
}

function renderSample(view, place) {
  document.body.classList.toggle("reading", view.sample !== "");
  const sample = samples.find((each) => `${each.sample}` === view.sample);
  if (!sample) {
    const help = view.sample ? `This run has no sample ${view.sample}.` : "Choose a sample from the list.";
    sight.replaceChildren(element("p", { className: "empty" }, help));
    return;
  }
  const hit = found[place] ?? { sample, matching: [] };
  sight.replaceChildren(
    element(
      "header",
      { className: "title" },
      element("h2", { tabIndex: -1 }, `Sample ${sample.sample} `, element("small", {}, label(sample.category))),
      neighbours(view, place),
    ),
    place < 0 ? aside("This sample is not among those that the filter leaves.") : "",
    sampleView(hit, patternOf(view.q, "giu")),
  );
  sight.scrollTop = 0;
  scrollTo(0, 0);
}

function neighbours(view, place) {
  const to = (name, other) => {
    const sample = place < 0 ? undefined : found[other]?.sample;
    return sample ? link(name, { ...view, sample: sample.sample, page: pageOf(other) }) : null;
  };
  const back = element("span", { className: "back" }, link("All samples", { ...view, sample: "" }));
  return element("nav", { ariaLabel: "Other samples" }, back, to("Previous", place - 1), to("Next", place + 1));
}

/** Show what the address says; the keyboard goes to the sample's heading or, back in the list, to the sample left. */
function follow() {
  const left = shown;
  fillForm();
  render();
  if (shown === left) return;
  const entries = [...list.querySelectorAll("a")];
  (shown ? sight.querySelector("h2") : entries.find((each) => each.dataset.sample === left))?.focus();
}

function fillForm() {
  for (const [name, value] of Object.entries(readAddress())) {
    const field = form.elements[name];
    if (field?.type === "checkbox") field.checked = value !== "";
    else if (field) field.value = value;
  }
}

function applyForm() {
  const asked = Object.fromEntries(FILTERS.map((name) => [name, new FormData(form).get(name) ?? ""]));
  if (filterOf(asked) === filter) return; // an entry drawn anew under the mouse would lose its click
  history.replaceState(null, "", addressOf({ ...asked, sample: readAddress().sample }));
  render();
}

function offer(name, keys, textOf) {
  form.elements[name].append(...keys.map((key) => element("option", { value: key }, textOf(key))));
}

function extent() {
  const counted = ([name, number]) => `${number.toLocaleString("en")} ${name}${number === 1 ? "" : "s"}`;
  const counts = { sample: samples.length, method: METHODS.length, backbone: BACKBONES.length };
  return Object.entries(counts).map(counted).join(" · ");
}

function start(unpacked) {
  samples = unpacked;
  offer("category", run.prompt_categories, label);
  offer("method", METHODS, label);
  offer("backbone", BACKBONES, (name) => name);
  document.getElementById("extent").textContent = extent();
  document.documentElement.style.setProperty("--threshold", run.threshold);
  let pause;
  form.elements.q.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(applyForm, TYPING_PAUSE);
  });
  form.addEventListener("change", applyForm);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(applyForm));
  addEventListener("hashchange", follow);
  fillForm();
  render();
}

function progress(count) {
  status.textContent = `Reading the samples: ${count.toLocaleString("en")} …`;
}

unpack(progress).then(start, ({ message }) => {
  status.textContent = `The samples can’t be read: ${message}. The page needs a browser of 2023 or later.`;
});
