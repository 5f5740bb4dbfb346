// Shows the images of the page: which, in what order, how large, and what is pointed at.

const index = JSON.parse(byId("index").textContent);
const titles = new Map(index.panes);
const list = byId("images"), tip = byId("tip"), large = byId("large"), stage = byId("stage");
const fields = { text: byId("text"), class: byId("class"), sort: byId("sort"), cuts: byId("cuts") };

const cards = [...list.children].map((element, rank) => ({
  element, rank, ...index.images[rank], text: element.textContent.toLowerCase(), view: null,
}));
const cardOf = new Map(cards.map((card) => [card.element, card]));

// ---- what is in sight

function addPhotograph(holder, view, key) {
  const image = document.createElement("img");
  image.alt = "";
  image.decoding = "async";
  image.src = view.strengths[key] ?? view.photograph;
  image.className = view.panes.has(key) ? "under" : "";
  holder.querySelector("img")?.remove();
  holder.prepend(image);
  return image;
}

let firstPicture = null;

async function draw(card) {
  if (card.view || card.failed) return;
  const view = card.view = { loading: true };
  try {
    Object.assign(view, await load(card));
  } catch (error) {
    card.element.append(`These pictures cannot be shown by this browser: ${error}`);
    return;
  }
  if (card.view !== view) return;  // out of sight meanwhile
  view.loading = false;
  for (const button of card.element.querySelectorAll("[data-pane]")) {
    const key = button.dataset.pane, canvas = button.querySelector("canvas");
    const image = view.panes.has(key) ? null : addPhotograph(button, view, key);
    if (canvas) paint(canvas, view, key);
    firstPicture ??= (image ? image.decode() : Promise.resolve()).then(
      () => performance.mark("first picture"));
  }
}

function release(card) {
  card.view = null;
  for (const button of card.element.querySelectorAll("[data-pane]")) {
    button.querySelector("img")?.remove();
    const canvas = button.querySelector("canvas");
    canvas?.replaceWith(canvas.cloneNode());  // lets its memory go
  }
}

// One after the other, what is in sight first.
const waiting = new Set();
let isDrawing = false;

async function drawWaiting() {
  if (isDrawing) return;
  isDrawing = true;
  list.ariaBusy = "true";
  while (waiting.size) {
    let next = null, least = Infinity;
    for (const card of waiting) {
      const { top, bottom } = card.element.getBoundingClientRect();
      const away = Math.max(0, -bottom, top - innerHeight) + Math.max(0, top) / 1e6;
      if (away < least) [next, least] = [card, away];
    }
    waiting.delete(next);
    await draw(next);
  }
  isDrawing = false;
  list.ariaBusy = "false";
}

const near = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    const card = cardOf.get(target);
    if (isIntersecting) {
      waiting.add(card);
    } else {
      waiting.delete(card);
      if (card.view && card !== open?.card) release(card);
    }
  }
  drawWaiting();
}, { rootMargin: "500px 0px" });

// ---- sorting and filtering

function order() {
  const { value } = fields.sort, collator = new Intl.Collator("en", { numeric: true });
  const name = (card) => card.element.querySelector("h3").firstChild.data;
  const by = {
    "": (a, b) => a.rank - b.rank,
    name: (a, b) => collator.compare(name(a), name(b)),
  }[value] ?? ((a, b) => (b.values[value] ?? -1) - (a.values[value] ?? -1) || a.rank - b.rank);
  cards.sort(by);
  list.append(...cards.map((card) => card.element));
}

function filter() {
  const words = fields.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = fields.class?.value ?? "";
  let count = 0;
  for (const card of cards) {
    const fits = (wanted === "" || card.classes.includes(Number(wanted)))
      && words.every((word) => card.text.includes(word));
    card.element.hidden = !fits;
    count += fits;
  }
  byId("none").hidden = count > 0;
  byId("count").textContent = `${count} of ${cards.length} images`;
}

function choose(name) {
  const option = [...fields.class.options].find((o, rank) => rank && index.classes[rank - 1] === name);
  if (!option) return;
  fields.class.value = fields.class.value === option.value ? "" : option.value;
  filter();
}

fields.text.addEventListener("input", filter);
fields.class?.addEventListener("change", filter);
fields.sort.addEventListener("change", order);
fields.cuts?.addEventListener("change", () => {
  for (const card of cards) repaint(card);
});

// ---- pointing: what lies there is shown in every pane

function canvasesOf(card) {
  const found = [...card.element.querySelectorAll("[data-pane]")].map(
    (button) => [button.dataset.pane, button.querySelector("canvas")]);
  if (open?.card === card) found.push([open.key, stage.querySelector("canvas")]);
  return found.filter(([, canvas]) => canvas);
}

function repaint(card, pointed) {
  if (!card.view || card.view.loading) return;
  for (const [key, canvas] of canvasesOf(card)) paint(canvas, card.view, key, pointed);
}

let lit = null, litBy = "";

function light(card, pointed, id) {
  if (lit === card && litBy === id) return;
  if (lit && lit !== card) repaint(lit);
  lit = card;
  litBy = id;
  repaint(card, pointed);
}

function unlight() {
  tip.hidden = true;
  if (lit) repaint(lit);
  lit = null;
}

function strengthNear(view, x, y) {
  const cut = view.panes.get(view.cutsOf), reach = 2;
  if (!cut) return undefined;
  const seen = new Set();
  for (let row = Math.max(0, y - reach); row <= Math.min(view.height - 1, y + reach); row++) {
    for (let column = Math.max(0, x - reach); column <= Math.min(view.width - 1, x + reach); column++) {
      seen.add(cut.numbers[row * view.width + column]);
    }
  }
  const numbers = [...seen].sort((a, b) => a - b);
  for (const one of numbers) for (const other of numbers) {
    const strength = view.cuts.get(one * 65536 + other);
    if (strength !== undefined) return strength;
  }
  return undefined;
}

function point(card, canvas, event) {
  const { view } = card;
  if (!view || view.loading || !view.width) return;
  const box = canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * view.width);
  const y = Math.floor((event.clientY - box.top) / box.height * view.height);
  if (x < 0 || y < 0 || x >= view.width || y >= view.height) return;
  const lines = [], pointed = new Map(), under = [];
  for (const [key, title] of titles) {
    const pane = view.panes.get(key);
    if (!pane) continue;
    const number = pane.numbers[y * view.width + x], mark = pane.marks.get(number);
    under.push(number);
    if (!mark) continue;
    pointed.set(key, (other) => other === number);
    const line = document.createElement("div"), chip = document.createElement("i");
    chip.style.background = chipColor(mark);
    line.append(chip, `${title}: ${mark.name}, ${mark.text}`);
    lines.push(line);
  }
  const strength = strengthNear(view, x, y);
  if (strength !== undefined) {
    const line = document.createElement("div"), chip = document.createElement("i");
    chip.style.background = strengthColor(strength);
    line.append(chip, `cut border, strength ${strength.toFixed(2)}`);
    lines.push(line);
  }
  light(card, pointed.size ? pointed : null, under.join());
  (open ? large : document.body).append(tip);
  tip.replaceChildren(...lines);
  tip.hidden = !lines.length;
  placeTip(box, event.clientX, event.clientY);
}

// Beside the pane, that it covers nothing of what is pointed at; where there is no room, the pointer.
function placeTip(box, x, y) {
  const wide = tip.offsetWidth, high = tip.offsetHeight, gap = 5;
  const [below, above] = [box.bottom + gap, box.top - gap - high];
  const [right, before] = [box.right + gap, box.left - gap - wide];
  let left = x > innerWidth / 2 ? x - wide - 16 : x + 16, top = y + 18;
  if (below + high <= innerHeight) [left, top] = [box.left, below];
  else if (above >= 0) [left, top] = [box.left, above];
  else if (right + wide <= innerWidth) left = right;
  else if (before >= 0) left = before;
  const inside = (place, most) => Math.max(4, Math.min(place, most - 4));
  tip.style.transform = `translate(${inside(left, innerWidth - wide)}px, ${inside(top, innerHeight - high)}px)`;
}

function pointClass(card, name) {
  if (!card.view || card.view.loading) return;
  const pointed = new Map();
  for (const [key, { marks }] of card.view.panes) {
    pointed.set(key, (number) => marks.get(number)?.name === name);
  }
  light(card, pointed, `class ${name}`);
}

function listen(root, cardAt) {
  root.addEventListener("pointermove", (event) => {
    const canvas = event.target.closest("[data-pane], .frame")?.querySelector("canvas");
    const card = cardAt(event.target), named = event.target.closest("[data-class]");
    if (canvas && (event.pointerType !== "touch" || root === large)) point(card, canvas, event);
    else if (named) pointClass(card, named.dataset.class);
    else if (lit) unlight();
  });
  root.addEventListener("pointerleave", unlight);
  root.addEventListener("click", (event) => {
    const named = event.target.closest("[data-class]");
    const pane = event.target.closest("[data-pane]");
    if (named) {
      if (root === large) close();
      choose(named.dataset.class);
    } else if (pane) enlarge(cardAt(pane), pane.dataset.pane);
  });
}

listen(list, (element) => cardOf.get(element.closest(".image")));
listen(large, () => open.card);

// ---- enlarging

let open = null;

const keysOf = (card) => [...card.element.querySelectorAll("[data-pane]")].map((b) => b.dataset.pane);

function fit(frame, width, height) {
  const wide = Math.min(stage.clientWidth, stage.clientHeight * width / height);
  frame.style.width = `${Math.floor(wide)}px`;
  return wide;
}

async function enlarge(card, key) {
  unlight();
  open = { card, key };
  if (!large.open) large.showModal();
  if (!card.view) await draw(card);
  while (card.view?.loading) await new Promise((resume) => setTimeout(resume, 10));
  if (open?.card !== card || open.key !== key || !card.view) return;
  const keys = keysOf(card), { view } = card;
  byId("large-name").textContent = card.element.querySelector("h3").firstChild.data;
  byId("large-pane").textContent = `${titles.get(key)} (${keys.indexOf(key) + 1} of ${keys.length})`;
  const legend = card.element.querySelector(".legend");
  byId("large-legend").replaceChildren(...(legend ? [legend.cloneNode(true)] : []));
  const frame = document.createElement("div");
  frame.className = "frame";
  const image = addPhotograph(frame, view, key);
  stage.replaceChildren(frame);
  if (!view.width) {
    await image.decode().catch(() => {});
    fit(frame, image.naturalWidth || 1, image.naturalHeight || 1);
    return;
  }
  const wide = fit(frame, view.width, view.height);
  const canvas = document.createElement("canvas");
  const scale = Math.min(4, Math.max(1, Math.ceil(wide * devicePixelRatio / view.width)));
  canvas.width = view.width * scale;
  canvas.height = view.height * scale;
  frame.append(canvas);
  paint(canvas, view, key);
}

function close() {
  if (large.open) large.close();
}

large.addEventListener("close", () => {
  const { card, key } = open;
  open = null;
  unlight();
  stage.replaceChildren();
  const button = [...card.element.querySelectorAll("[data-pane]")].find((b) => b.dataset.pane === key);
  card.element.scrollIntoView({ block: "nearest" });
  button?.focus({ preventScroll: true });
});

function step(way) {
  if (way === "close") return close();
  const keys = keysOf(open.card);
  if (way === "left" || way === "right") {
    const rank = keys.indexOf(open.key) + (way === "right" ? 1 : -1);
    return enlarge(open.card, keys[(rank + keys.length) % keys.length]);
  }
  const shown = cards.filter((card) => !card.element.hidden && keysOf(card).length);
  const next = shown[shown.indexOf(open.card) + (way === "down" ? 1 : -1)];
  if (!next) return undefined;
  const before = open.card;
  const key = keysOf(next).includes(open.key) ? open.key : keysOf(next)[0];
  const done = enlarge(next, key);
  near.unobserve(before.element);  // looks anew whether it is still in sight
  near.observe(before.element);
  return done;
}

large.querySelector("nav").addEventListener("click", (event) => {
  const way = event.target.closest("button")?.dataset.step;
  if (way) step(way);
});
large.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" }[event.key];
  if (!way) return;
  event.preventDefault();
  step(way);
});
addEventListener("resize", () => {
  if (open) enlarge(open.card, open.key);
});

list.ariaBusy = "true";  // until the first are painted
filter();
for (const card of cards) near.observe(card.element);
