// The samples: out of the page, and through a filter.

/** What holds for the whole run: categories, methods, backbones, rubrics, threshold. */
const run = JSON.parse(document.getElementById("run").textContent);

/** The samples, unpacked one chunk after another; `progress` is told how many there are so far. */
async function unpack(progress) {
  const samples = [];
  for (const chunk of document.querySelectorAll("script.samples")) {
    const plain = new Blob([bytesOf(chunk.textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
    samples.push(...(await new Response(plain).json()));
    chunk.remove();
    progress(samples.length);
  }
  return samples;
}

function bytesOf(base64) {
  const characters = atob(base64);
  const bytes = new Uint8Array(characters.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = characters.charCodeAt(place);
  return bytes;
}

/** A pattern that finds the words as they stand, in any case; `null` for none. */
function patternOf(words, flags = "iu") {
  const literal = words.trim().replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  return literal ? new RegExp(literal, flags) : null;
}

/** The samples that the filter leaves, each with those of its traces that match. */
function select(samples, filter) {
  const pattern = patternOf(filter.q);
  const found = [];
  for (const sample of samples) {
    if (filter.category && sample.category !== filter.category) continue;
    const anyTrace = !pattern || pattern.test(sample.prompt);
    const matching = sample.traces.filter((trace) => fits(trace, filter) && (anyTrace || says(trace, pattern)));
    if (matching.length) found.push({ sample, matching });
  }
  return found;
}

function fits(trace, { method, backbone, converged, unscored }) {
  return (
    (!method || trace.method === method) &&
    (!backbone || trace.backbone === backbone) &&
    (!converged || { true: "yes", false: "no", null: "none" }[trace.converged] === converged) &&
    (!unscored || trace.scores.some((score) => score.score === null))
  );
}

function says(trace, pattern) {
  return (
    pattern.test(trace.response) ||
    trace.steps.some((step) => pattern.test(step.prompt) || pattern.test(step.response))
  );
}
