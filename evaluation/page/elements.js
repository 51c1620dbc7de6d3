// What the page is made of. A string only ever becomes a text node: nothing in it is read as markup.

const FOLDED_CHARACTERS = 400;
const FOLDED_LINES = 4;

/** An element with its properties and children; children that are `null` are left out. */
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

/** A text, folded to a few lines with a button that opens it where it is long and the search finds nothing in it. */
function foldable(text, pattern) {
  const hits = pattern ? [...text.matchAll(pattern)] : [];
  const block = element("div", { className: "text", dir: "auto" }, marked(text, hits));
  const isShort = text.length <= FOLDED_CHARACTERS && text.split("\n").length <= FOLDED_LINES;
  if (isShort || hits.length) return block;
  const button = element("button", { type: "button", className: "fold" });
  const fold = (folded) => {
    block.classList.toggle("folded", folded);
    button.ariaExpanded = `${!folded}`;
    button.textContent = folded ? "Show all" : "Show less";
  };
  button.addEventListener("click", () => fold(!block.classList.contains("folded")));
  fold(true);
  return element("div", {}, block, button);
}

function marked(text, hits) {
  const parts = [];
  let end = 0;
  for (const hit of hits) {
    parts.push(text.slice(end, hit.index), element("mark", {}, hit[0]));
    end = hit.index + hit[0].length;
  }
  return [...parts, text.slice(end)];
}

function named(name, content) {
  return element("section", { className: "named" }, element("p", { className: "label" }, name), content);
}

function aside(text, tag = "p") {
  return element(tag, { className: "aside" }, text);
}

function badge(kind, text) {
  return element("span", { className: `badge ${kind}` }, text);
}

function label(key) {
  return run.labels[key] ?? key;
}

function capital(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}
