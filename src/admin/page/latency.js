
// How long the stages take: by percentile, and as a table.

const latency = { drawn: new Set(["total", "forward", "store"]) };
const percentiles = new Plot("percentile-plot", drawPercentiles);
const windowChosen = () => document.querySelector("[name=window]:checked").value;

function showStages(histograms) {
  const body = byId("stages");
  if (!body.rows.length) body.append(...STAGES.map(stageRow));
  STAGES.forEach((stage, i) => {
    const numbers = histograms.find((histogram) => histogram.stage === stage), cells = body.rows[i].cells;
    const keys = ["mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
    const texts = [numbers ? number(numbers.count) : "–", ...keys.map((key) => (numbers?.count ? duration(numbers[key]) : "–"))];
    texts.forEach((text, column) => {
      cells[column + 1].textContent = text;
      cells[column + 1].className = numbers?.count ? "" : "zero";
    });
  });
}

function stageRow(stage, i) {
  const box = element("input", { type: "checkbox", checked: latency.drawn.has(stage), onchange: (event) => {
    event.target.checked ? latency.drawn.add(stage) : latency.drawn.delete(stage);
    run(showHistograms);
  } });
  const swatch = drawing("svg", { class: "swatch", viewBox: "0 0 22 10", "aria-hidden": "true" }, drawing("line", { x1: 0, x2: 22, y1: 5, y2: 5, class: `s${i}`, "stroke-width": 2 }));
  return element("tr", {}, element("th", { scope: "row" }, element("label", {}, box, swatch, STAGE_NAMES[stage])), ...Array.from({ length: 7 }, () => element("td", {})));
}

// Of one route there are two stages.
async function showHistograms() {
  const window = windowChosen(), route = byId("latency-route").value;
  const asked = (route ? ["total", "forward"] : STAGES).map((stage) => askJson(`/histograms/${stage}?${new URLSearchParams({ window, route, counts: false })}`));
  const histograms = await Promise.all(asked);
  showStages(histograms);
  const drawn = histograms.filter((histogram) => latency.drawn.has(histogram.stage));
  const curves = drawn.map((histogram) => ({ index: STAGES.indexOf(histogram.stage), points: histogram.percentiles.filter((point) => point.percentile < 100) }));
  const words = drawn.filter((h) => h.count).map((h) => `${STAGE_NAMES[h.stage]} median ${duration(h.p50_us)}, 99th percentile ${duration(h.p99_us)}`);
  const of = route ? ` of route ${route}` : "";
  percentiles.show({ curves, logarithmic: document.querySelector("[name=scale]:checked").value === "log", label: `Latency${of} by percentile. ${words.join("; ") || "No durations yet"}` });
  byId("hgrm").href = `/histograms/total?${new URLSearchParams({ window, route, format: "hgrm" })}`;
}
