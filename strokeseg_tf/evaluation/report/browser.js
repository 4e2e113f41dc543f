const {drawers, studies} = readBlock("browsed") ?? {drawers: [], studies: []};
const browser = {open: null, at: 0, sheets: {}, masks: [], hidden: new Set()};

function maskOf(text, size) {
  const mask = new Uint8Array(size);
  let at = 0, value = 0, run = 0, shift = 0;
  for (const byte of bytesOf(text)) {
    run |= (byte & 127) << shift;
    shift += 7;
    if (byte & 128) continue;
    if (value) mask.fill(1, at, at + run);
    at += run;
    value ^= 1;
    run = shift = 0;
  }
  return mask;
}

// Closed loops along the edges of the voxels of one slice, the mask on the right hand.
function outlineOf(mask, slice, height, width) {
  const inside = (y, x) =>
    y >= 0 && x >= 0 && y < height && x < width && mask[(slice * height + y) * width + x];
  const across = width + 1, leaving = new Map();
  const edge = (y0, x0, y1, x1) => {
    const from = y0 * across + x0;
    if (!leaving.has(from)) leaving.set(from, []);
    leaving.get(from).push(y1 * across + x1);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside(y, x)) continue;
      if (!inside(y - 1, x)) edge(y, x, y, x + 1);
      if (!inside(y, x + 1)) edge(y, x + 1, y + 1, x + 1);
      if (!inside(y + 1, x)) edge(y + 1, x + 1, y + 1, x);
      if (!inside(y, x - 1)) edge(y + 1, x, y, x);
    }
  }
  const path = new Path2D();
  for (const [start, ends] of leaving) {
    while (ends.length) {
      path.moveTo(start % across, Math.floor(start / across));
      for (let place = ends.pop(); place !== start; place = leaving.get(place).pop()) {
        path.lineTo(place % across, Math.floor(place / across));
      }
      path.closePath();
    }
  }
  return path;
}

// So large that the slider below is seen as well.
function fitSlices() {
  const [width, height] = browser.open.tile, count = Object.keys(browser.sheets).length;
  byId("slices").style.maxWidth = `${Math.round(count * 0.6 * innerHeight * width / height)}px`;
}

function drawSlices() {
  const {open, at} = browser;
  fitSlices();
  const [count, height, width] = open.shape;
  for (const [modality, sheet] of Object.entries(browser.sheets)) {
    const canvas = byId(`canvas-${modality}`), pen = canvas.getContext("2d");
    const [tileWidth, tileHeight] = open.tile;
    const sharp = Math.min(devicePixelRatio || 1, 2);
    canvas.width = Math.round(canvas.clientWidth * sharp);
    canvas.height = Math.round(canvas.width * tileHeight / tileWidth);
    pen.imageSmoothingQuality = "high";
    const left = (at % open.across) * tileWidth, top = Math.floor(at / open.across) * tileHeight;
    pen.drawImage(sheet, left, top, tileWidth, tileHeight, 0, 0, canvas.width, canvas.height);
    const [x, y] = [canvas.width / width, canvas.height / height];
    const seen = [];
    for (const {drawer, modality: own, mask} of browser.masks) {
      if (own !== modality || browser.hidden.has(drawer)) continue;
      const look = drawers[drawer], path = new Path2D();
      path.addPath(outlineOf(mask, at, height, width), new DOMMatrix([x, 0, 0, y, 0, 0]));
      pen.lineJoin = "round";
      pen.setLineDash(look.dash.map((length) => length * sharp));
      pen.lineWidth = 1.6 * sharp;
      pen.strokeStyle = look.colour;
      pen.stroke(path);
      if (mask.subarray(at * height * width, (at + 1) * height * width).includes(1)) {
        seen.push(look.label);
      }
    }
    const said = seen.length ? `contours of ${seen.join(", ")}` : "no contours";
    canvas.setAttribute("aria-label",
      `Study ${open.study}, ${modality.toUpperCase()}, slice ${at + 1} of ${count}: ${said}`);
  }
  byId("slice").value = at + 1;
  byId("where").textContent = `${at + 1} of ${count}`;
}

function moveTo(slice) {
  browser.at = Math.max(0, Math.min(browser.open.shape[0] - 1, slice));
  drawSlices();
}

const drawerAt = (kind, name) =>
  drawers.findIndex((drawer) => drawer.kind === kind && drawer.name === name);

async function openStudy(index) {
  const open = readBlock(`study-${index}`);
  const sheets = {};
  await Promise.all(Object.entries(open.sheets).map(async ([modality, data]) => {
    sheets[modality] = make("img", {src: `data:image/webp;base64,${data}`});
    await sheets[modality].decode();
  }));
  if (Number(byId("study").value) !== index) return;  // another was chosen meanwhile
  const size = open.shape.reduce((a, b) => a * b);
  const masks = open.masks.map(([kind, name, modality, data]) =>
    ({drawer: drawerAt(kind, name), modality, mask: maskOf(data, size)}));
  Object.assign(browser, {open, sheets, masks, at: open.start});
  const ends = open.directions[2] === "L" ? ["R", "L"] : ["A", "P"];
  byId("slices").replaceChildren(...Object.keys(sheets).map((modality) => {
    const canvas = make("canvas", {id: `canvas-${modality}`});
    canvas.setAttribute("role", "img");
    const sides = ends.map((text) => make("span", {className: "side", textContent: text}));
    const frame = make("div", {className: "frame"}, canvas, ...sides);
    return make("figure", {}, frame, make("figcaption", {textContent: modality.toUpperCase()}));
  }));
  byId("slice").max = open.shape[0];
  const empty = masks.filter(({mask}) => !mask.includes(1)).map(({drawer, modality}) =>
    `${drawers[drawer].label} on ${modality.toUpperCase()}`);
  byId("told").textContent = `${open.study} (${open.group}). ` +
    (empty.length ? `Nothing marked by: ${empty.join(", ")}.` : "");
  showScores(open.scores);
  const modalities = [...new Set(masks.map(({modality}) => modality))];
  const chosen = byId("space-modality").value;
  byId("space-modality").replaceChildren(...modalities.map((modality) =>
    make("option", {value: modality, textContent: modality.toUpperCase(),
      selected: modality === chosen})));
  drawSlices();
  drawSpace();
}

function showScores(rows) {
  const titles = ["Run", "Modality", "Rater", "Dice", "Precision", "Sensitivity",
    "Reference (ml)", "Predicted (ml)", "HD95 (mm)"];
  const head = make("tr", {}, ...titles.map((title) =>
    make("th", {scope: "col", textContent: title})));
  const body = rows.map((row) => make("tr", {}, ...row.map((textContent) =>
    make("td", {textContent}))));
  byId("of-study").replaceChildren(make("table", {}, make("thead", {}, head),
    make("tbody", {}, ...body)));
  byId("of-study").hidden = !rows.length;
}

async function drawSpace() {
  if (!byId("space").open || !browser.open) return;
  const plotly = await loadPlotly();
  const {open, masks, hidden} = browser, modality = byId("space-modality").value;
  const head = open.brainShape, size = head.reduce((a, b) => a * b);
  const spacing = open.spacing.map((step, at) => step * open.shape[at] / head[at]);
  const soft = {ambient: 0.55, diffuse: 0.6, specular: 0.1};
  const inside = maskOf(open.brain, size), traces = [];
  if (inside.includes(1)) {
    traces.push(meshOf(inside, head, spacing, open.directions, 6,
      {name: "head", color: "#9aa7b5", opacity: 0.14, hoverinfo: "skip", lighting: soft}));
  }
  for (const {drawer, modality: own, mask} of masks) {
    if (own !== modality || hidden.has(drawer) || !mask.includes(1)) continue;
    const {label, colour} = drawers[drawer];
    traces.push(meshOf(mask, open.shape, open.spacing, open.directions, 3,
      {name: label, color: colour, opacity: 0.5, hoverinfo: "name", lighting: soft}));
  }
  const axis = {showticklabels: false, showbackground: false, showspikes: false, zeroline: false,
    gridcolor: colourOf("--line"), color: colourOf("--soft")};
  const scene = {
    aspectmode: "data", camera: {eye: {x: -1.05, y: 1.5, z: 0.9}}, dragmode: "turntable",
    xaxis: {...axis, title: {text: "left – right"}},
    yaxis: {...axis, title: {text: "back – front"}},
    zaxis: {...axis, title: {text: "down – up"}},
  };
  byId("surfaces").setAttribute("aria-label", `Head of study ${open.study} with the lesions on ` +
    `${modality.toUpperCase()} of ${traces.map(({name}) => name).filter((name) => name !== "head").join(", ") || "nobody"}`);
  const layout = themed({scene, margin: {l: 0, r: 0, t: 0, b: 0}, uirevision: "kept"});
  await plotly.react(byId("surfaces"), traces, layout, plotlyOptions("resetCameraDefault3d"));
}

function listStudies() {
  const wanted = byId("find").value.trim().toLowerCase();
  const kept = byId("study").value;
  let entries = studies.map((entry, at) => ({...entry, at})).filter(
    ({study}) => study.toLowerCase().includes(wanted));
  if (byId("order").value) {
    const worst = ({dice}) => dice ?? Infinity;
    entries = [...entries].sort((a, b) => worst(a) - worst(b) || a.at - b.at);
  }
  byId("study").replaceChildren(...entries.map(({study, dice, at}) => make("option", {
    value: at, textContent: study + (dice === null ? "" : ` · Dice ${dice.toFixed(2)}`),
    selected: String(at) === kept,
  })));
  byId("told").textContent = entries.length ? "" : "No study's id has that part.";
  if (entries.length && byId("study").value !== kept) openStudy(Number(byId("study").value));
}

function stepStudy(step) {
  const select = byId("study"), count = select.options.length;
  if (!count) return;
  select.selectedIndex = (select.selectedIndex + step + count) % count;
  openStudy(Number(select.value));
}

// Opens the study of a point that was pressed in a chart, if it is one that can be browsed.
function showStudy(id) {
  const at = studies.findIndex(({study}) => study === id);
  if (at < 0) return;
  byId("find").value = "";
  listStudies();
  byId("study").value = at;
  openStudy(at);
  byId("study-browser").scrollIntoView();
  byId("slices").focus({preventScroll: true});
}

function startBrowser() {
  byId("browser").hidden = false;
  byId("drawers").append(...drawers.map(({label, colour, dash}, at) => {
    const box = make("input", {type: "checkbox", checked: true});
    box.addEventListener("change", () => {
      browser.hidden[box.checked ? "delete" : "add"](at);
      drawSlices();
      drawSpace();
    });
    const line = make("i");
    line.style.borderTop = `3px ${dash.length ? "dashed" : "solid"} ${colour}`;
    const swatch = make("span", {className: "swatch"}, line);
    return make("label", {}, box, swatch, label);
  }));
  const steps = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1};
  byId("slices").addEventListener("keydown", (event) => {
    if (event.key in steps) moveTo(browser.at + steps[event.key]);
    else if (event.key === "PageDown") stepStudy(1);
    else if (event.key === "PageUp") stepStudy(-1);
    else return;
    event.preventDefault();
  });
  byId("slice").addEventListener("input", () => moveTo(byId("slice").value - 1));
  byId("study").addEventListener("change", () => openStudy(Number(byId("study").value)));
  byId("previous").addEventListener("click", () => stepStudy(-1));
  byId("next").addEventListener("click", () => stepStudy(1));
  byId("find").addEventListener("input", listStudies);
  byId("order").addEventListener("change", listStudies);
  byId("space").addEventListener("toggle", drawSpace);
  byId("space-modality").addEventListener("change", drawSpace);
  darkScreen.addEventListener("change", drawSpace);
  addEventListener("resize", () => browser.open && drawSlices());
  listStudies();
}

if (studies.length) startBrowser();
