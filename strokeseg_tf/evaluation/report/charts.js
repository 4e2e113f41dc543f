// Plotly comes compressed and is inflated once, when first wanted.
let plotlyLoading = null;
const loadPlotly = () => (plotlyLoading ??= (async () => {
  const packed = new Blob([bytesOf(readBlock("plotly"))]).stream();
  const stream = packed.pipeThrough(new DecompressionStream("gzip"));
  document.head.append(make("script", {textContent: await new Response(stream).text()}));
  return window.Plotly;
})());

const darkScreen = matchMedia("(prefers-color-scheme: dark)");
const colourOf = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

function themed(layout) {
  const [ink, line] = [colourOf("--ink"), colourOf("--line")];
  const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true};
  const result = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: {color: ink, family: "system-ui, sans-serif", size: 12},
    margin: {l: 50, r: 12, t: 30, b: 48},
    modebar: {bgcolor: "rgba(0,0,0,0)", color: colourOf("--soft"), activecolor: ink}, ...layout,
  };
  for (const key of Object.keys(result).filter((name) => /^[xy]axis/.test(name))) {
    result[key] = {...axis, ...result[key]};
  }
  return result;
}

// Only these buttons: one of Plotly's own would send the data to a server.
const plotlyOptions = (...buttons) =>
  ({responsive: true, displaylogo: false, modeBarButtons: [["toImage", ...buttons]]});

async function drawChart(figure, {caption, panels}) {
  let plotly;
  try {
    plotly = await loadPlotly();
  } catch (error) {
    console.info("Charts stay pictures: this browser cannot inflate the chart library.", error);
    return;
  }
  const picture = figure.querySelector(".picture");
  const live = make("div", {className: "plot"});
  live.setAttribute("role", "group");
  live.setAttribute("aria-label", picture.querySelector("img").alt);
  let chosen = 0;
  const draw = () => {
    const {data, layout} = panels[chosen];
    return plotly.react(live, structuredClone(data), themed(layout),
      plotlyOptions("zoom2d", "pan2d", "resetScale2d"));
  };
  if (panels.length > 1) {
    const select = make("select", {}, ...panels.map(({name}) => make("option", {textContent: name})));
    select.addEventListener("change", () => { chosen = select.selectedIndex; draw(); });
    figure.prepend(make("div", {className: "tools"}, make("label", {}, "Show ", select)));
  }
  picture.after(make("div", {className: "live"}, live,
    make("p", {className: "note", textContent: caption})));
  picture.classList.add("replaced");
  figure.querySelector("figcaption").classList.add("replaced");
  await draw();
  live.on("plotly_click", ({points}) => showStudy(points[0].customdata));
  darkScreen.addEventListener("change", draw);
}

const charts = readBlock("charts") ?? {};
const onSight = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    onSight.unobserve(target);
    drawChart(target, charts[target.dataset.chart]);
  }
}, {rootMargin: "300px"});
for (const figure of document.querySelectorAll("figure[data-chart]")) {
  if (figure.dataset.chart in charts) onSight.observe(figure);
}
