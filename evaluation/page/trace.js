// A sample: its prompt, and each method's answer with what is said of it and how it came about.

const openSteps = new Set(); // methods whose steps stay open from sample to sample

/** The prompt, and a card for each trace; those that don't match the filter are shut. */
function sampleView({ sample, matching }, pattern) {
  const cards = run.pairs.map(([backbone, method], place) => {
    const heading = backbone === run.pairs[place - 1]?.[0] ? null : element("h3", {}, backbone);
    const trace = sample.traces.find((each) => each.backbone === backbone && each.method === method);
    if (!trace) return [heading, aside(`${label(method)}: no answer is stored.`)];
    return [heading, card(sample, trace, matching.includes(trace), pattern)];
  });
  return element("div", {}, named("The user’s prompt", foldable(sample.prompt, pattern)), ...cards);
}

function card(sample, trace, open, pattern) {
  const unscored = trace.scores.filter((score) => score.score === null);
  const fromStep = !trace.steps.length || trace.chosen !== null;
  return element(
    "details",
    { className: "card", open },
    element("summary", {}, element("h4", {}, label(trace.method)), verdict(trace), aside(costOf(trace), "span")),
    foldable(trace.response, pattern),
    fromStep ? null : aside("From none of the steps: the method’s own reply in their place."),
    figures(trace),
    unscored.map(unscoredView),
    askedOnce(sample, trace) ? null : stepsView(trace, pattern),
  );
}

function verdict({ converged }) {
  if (converged === null) return null;
  return converged ? badge("good", "✓ converged") : badge("bad", "not converged");
}

function costOf({ calls, tokens, seconds }) {
  const asked = Object.entries(calls).map(([role, count]) => `${role} × ${count}`);
  const volume = Object.values(tokens).reduce((sum, count) => sum + count, 0);
  return [...asked, `${volume.toLocaleString("en")} tokens`, `${seconds.toFixed(1)} s`].join(" · ");
}

/** Scores a judge, and what was measured without one. */
function figures(trace) {
  const groups = run.judges.map((judge) => {
    const scores = trace.scores.filter((score) => score.judge === judge);
    const tiles = run.rubrics.map((rubric) => {
      const found = scores.find((score) => score.rubric === rubric);
      return tile(capital(rubric), found ? (found.score ?? "unscored") : "not judged");
    });
    return named(`Judge ${judge}`, element("dl", {}, tiles));
  });
  if (trace.measures) {
    const { detector_risk, independent_risk, independent_risk_as_asked, answer_similarity, rigid_refusal } =
      trace.measures;
    const tiles = [
      tile("In-loop risk", detector_risk.toFixed(2)),
      tile("Independent risk", independent_risk.toFixed(2)),
      // An older run lacks it.
      tile("Independent risk, as asked", independent_risk_as_asked?.toFixed(2) ?? "not measured"),
      tile("Answer similarity", answer_similarity.toFixed(2)),
      tile("Rigid refusal", rigid_refusal ? "yes" : "no"),
    ];
    groups.push(named("Measured without a judge", element("dl", {}, tiles)));
  }
  return element("div", { className: "figures" }, groups);
}

function tile(name, value) {
  const isFigure = /\d/.test(value);
  return element("div", {}, element("dt", {}, name), element("dd", { className: isFigure ? "" : "word" }, `${value}`));
}

function unscoredView({ judge, rubric, reason, raw }) {
  const who = run.judges.length > 1 ? `${capital(rubric)} by ${judge}` : capital(rubric);
  return element(
    "div",
    { className: "unscored" },
    aside(`${who} is unscored: ${reason ?? "no reason was kept"}`),
    raw ? foldable(raw, null) : null,
  );
}

/** Whether the steps say nothing that the card doesn't. */
function askedOnce(sample, { steps, response }) {
  if (steps.length !== 1) return steps.length === 0;
  const [{ prompt, response: answer, risk, gradient, note }] = steps;
  return prompt === sample.prompt && answer === response && !risk && !gradient && !note;
}

function stepsView(trace, pattern) {
  const course = trace.steps.filter((step) => step.risk).map((step) => Math.max(...step.risk).toFixed(2));
  const summary = element(
    "summary",
    {},
    trace.steps.length === 1 ? "1 step " : `${trace.steps.length} steps `,
    course.length ? aside(`highest risk ${course.join(" → ")}`, "span") : null,
  );
  const steps = trace.steps.map((step, place) => stepView(step, place, trace, pattern));
  const open = openSteps.has(trace.method) || steps.some((step) => step.querySelector("mark"));
  const details = element("details", { className: "steps", open }, summary, steps);
  summary.addEventListener("click", () => {
    if (details.open) openSteps.delete(trace.method);
    else openSteps.add(trace.method);
  });
  return details;
}

function stepView(step, place, trace, pattern) {
  const before = trace.steps[place - 1];
  const promptName = !before ? "Prompt" : before.prompt === step.prompt ? "The prompt as before" : "Rewritten prompt";
  const isGiven = place === trace.chosen;
  return element(
    "section",
    { className: "step" },
    element("h5", {}, `Step ${place} `, isGiven ? badge("good", "the answer given") : null),
    step.note ? aside(`Note: ${step.note}`) : null,
    named(promptName, foldable(step.prompt, pattern)),
    named("Answer", foldable(step.response, pattern)),
    step.risk ? named(riskCaption(), riskBars(step)) : null,
    step.gradient ? named("Gradient", foldable(step.gradient, null)) : null,
  );
}

function riskCaption() {
  return run.threshold === null ? "Risk by category" : `Risk by category, with a mark at τ = ${run.threshold}`;
}

function riskBars({ risk, effort }) {
  const bars = risk.map((value, place) => {
    const category = run.categories[place];
    const degree = effort?.[category] ?? "";
    const bar = element("span", { className: run.threshold === null ? "bar" : "bar marked" }, element("i", {}));
    bar.style.setProperty("--risk", value);
    return element(
      "li",
      { className: degree.toLowerCase() },
      element("span", { className: "name" }, label(category)),
      bar,
      element("span", { className: "value" }, value.toFixed(2)),
      element("span", { className: "effort" }, degree),
    );
  });
  return element("ul", { className: "risks" }, bars);
}
