// Reads the data of an image from the page and paints its panes. report.js follows in one script.

const byId = (id) => document.getElementById(id);
const RAMP = [[56, 189, 248], [253, 224, 71], [239, 68, 68]];  // as in the style of .tools i
const FILL = 0.6, PALE = 0.35;  // how opaque things and stuff are; as in the style of .legend
const FAINT = 0.15, STRONG = 0.85;
const MIDDLE = 140;  // what paleGrey makes of mid grey
const WHITE = 0xffffffff;

// ---- what an image's block of data holds

// The parser may not be there yet, or within the block: then whoever asks waits.
async function blockOf(card) {
  for (;;) {
    const block = byId(`data-${card.rank}`);
    if (block && (block.nextElementSibling || document.readyState !== "loading")) return block;
    if (document.readyState !== "loading" && !block) throw new Error("no data");
    await new Promise((resume) => setTimeout(resume, 20));
  }
}

async function unpack(packed, pixels) {
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const numbers = new Uint16Array(pixels);
  for (let i = 0; i < pixels; i++) numbers[i] = planes[i] | (planes[pixels + i] << 8);
  return numbers;
}

async function load(card) {
  const data = JSON.parse((await blockOf(card)).textContent);
  const [width, height] = data.size ?? [0, 0];
  const panes = new Map(), pale = new Set(data.pale);
  for (const [key, pane] of Object.entries(data.regions ?? {})) {
    const marks = new Map(pane.marks.map(([number, name, color, text]) => [
      number, { name, color, text, share: pale.has(name) ? PALE : FILL }]));
    panes.set(key, { marks, numbers: await unpack(pane.numbers, width * height) });
  }
  const cuts = new Map((data.cuts ?? []).map(([one, other, s]) => [one * 65536 + other, s]));
  const { cuts_of: cutsOf, photograph, strengths = {} } = data;
  const grey = panes.size ? await paleGrey(photograph, width, height) : null;
  return { width, height, panes, cuts, cutsOf, photograph, strengths, grey };
}

// The photograph as it lies under regions: a brightness for each pixel.
async function paleGrey(address, width, height) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let i = 0, j = 0; i < grey.length; i++, j += 4) {
    grey[i] = Math.min(255, 28 + 0.26 * data[j] + 0.52 * data[j + 1] + 0.1 * data[j + 2]);
  }
  return grey;
}

// ---- painting

// Lines along the sides of pixels where two numbers differ, by the pairs that they part.
function borders(numbers, width, height, isWanted) {
  const runs = new Map();
  const add = (one, other, ax, ay, bx, by) => {
    const pair = one < other ? one * 65536 + other : other * 65536 + one;
    if (isWanted && !isWanted(pair)) return;
    let own = runs.get(pair);
    if (!own) runs.set(pair, own = new Path2D());
    own.moveTo(ax, ay);
    own.lineTo(bx, by);
  };
  const walk = (outer, inner, at, across, emit) => {
    for (let o = 0; o < outer; o++) {
      let start = 0, one = 0, other = 0;
      for (let i = 0; i <= inner; i++) {
        const a = i < inner ? numbers[at(o, i)] : 0;
        const b = i < inner ? numbers[at(o, i) + across] : 0;
        if (a === one && b === other) continue;
        if (one !== other) emit(one, other, o + 1, start, i);
        start = i; one = a; other = b;
      }
    }
  };
  walk(height - 1, width, (y, x) => y * width + x, width,
    (one, other, y, from, to) => add(one, other, from, y, to, y));
  walk(width - 1, height, (x, y) => y * width + x, 1,
    (one, other, x, from, to) => add(one, other, x, from, x, to));
  return runs;
}

function strengthColor(strength) {
  const place = Math.min(1, Math.max(0, strength)) * 2, low = Math.min(1, Math.floor(place));
  const mix = RAMP[low].map((c, i) => Math.round(c + (place - low) * (RAMP[low + 1][i] - c)));
  return `rgb(${mix.join()})`;
}

// A colour as it looks in a pane.
function chipColor({ color, share }) {
  return `rgb(${color.map((channel) => Math.round(share * channel + (1 - share) * MIDDLE)).join()})`;
}

const scratch = document.createElement("canvas");
const table = new Float32Array(4 * 65536);  // of each number: its colour's part, what is below

// Regions over the pale photograph, outlined; without it they are as opaque as they cover.
function fill({ numbers, marks }, width, height, isPointed, grey) {
  table.fill(0);
  for (let i = 3; i < table.length; i += 4) table[i] = 1;
  for (const [number, { color, share: own }] of marks) {
    const share = isPointed ? (isPointed(number) ? STRONG : FAINT) : own;
    color.forEach((channel, i) => { table[4 * number + i] = grey ? channel * share : channel; });
    table[4 * number + 3] = 1 - share;
  }
  const image = new ImageData(width, height), { data } = image;
  for (let i = 0, j = 0; i < numbers.length; i++, j += 4) {
    const place = 4 * numbers[i], below = grey ? table[place + 3] * grey[i] : 0;
    data[j] = table[place] + below;
    data[j + 1] = table[place + 1] + below;
    data[j + 2] = table[place + 2] + below;
    data[j + 3] = grey ? 255 : 255 * (1 - table[place + 3]);
  }
  if (grey) {
    const pixels = new Uint32Array(data.buffer);
    for (let y = 0, i = 0; y < height; y++) for (let x = 0; x < width; x++, i++) {
      const below = y < height - 1 && numbers[i] !== numbers[i + width];
      if (below || (x < width - 1 && numbers[i] !== numbers[i + 1])) pixels[i] = WHITE;
    }
  }
  scratch.width = width;
  scratch.height = height;
  scratch.getContext("2d").putImageData(image, 0, 0);
}

// pointed: pane's key -> a function of numbers, or nothing
function paint(canvas, view, key, pointed) {
  const { width, height, cuts } = view;
  const context = canvas.getContext("2d");
  const scale = canvas.width / width, isLarge = canvas.parentElement.className === "frame";
  const regions = view.panes.get(key);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  context.lineCap = "round";
  if (regions) {
    fill(regions, width, height, pointed?.get(key), isLarge ? null : view.grey);
    context.drawImage(scratch, 0, 0, canvas.width, canvas.height);
    if (!isLarge) return;
    regions.borders ??= borders(regions.numbers, width, height);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.lineWidth = 2 * width / canvas.clientWidth;
    context.strokeStyle = "#fffd";
    for (const run of regions.borders.values()) context.stroke(run);
    return;
  }
  const cut = view.panes.get(view.cutsOf);
  if (key !== "image" || !cut || !fields.cuts?.checked) return;
  view.cutLines ??= borders(cut.numbers, width, height, (pair) => cuts.has(pair));
  const own = [...view.cutLines], unit = width / canvas.clientWidth;  // a pixel of the screen
  if (!own.length) return;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.lineWidth = (isLarge ? 9 : 4) * unit;
  context.strokeStyle = "#000a";
  for (const [, run] of own) context.stroke(run);
  context.lineWidth = (isLarge ? 6 : 2) * unit;
  for (const [pair, run] of own) {
    context.strokeStyle = strengthColor(cuts.get(pair));
    context.stroke(run);
  }
}

