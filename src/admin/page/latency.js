
// How long the stages take: by percentile, and as a table.

const latency = { drawn: new Set(["total", "forward", "store"]) };
const percentiles = new Plot("percentile-plot", drawPercentiles);
const windowChosen = () => document.querySelector("[name=window]:checked").value;

function showStages(latency) {
  const body = byId("stages");
  if (!body.rows.length) body.append(...STAGES.map(stageRow));
  STAGES.forEach((stage, i) => {
    const numbers = latency[stage][windowChosen()], cells = body.rows[i].cells;
    const texts = [number(numbers.count), ...["mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map((key) => (numbers.count ? duration(numbers[key]) : "–"))];
    texts.forEach((text, column) => {
      cells[column + 1].textContent = text;
      cells[column + 1].className = numbers.count ? "" : "zero";
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

async function showHistograms() {
  const window = windowChosen(), wanted = STAGES.filter((stage) => latency.drawn.has(stage));
  const histograms = await Promise.all(wanted.map((stage) => askJson(`/histograms/${stage}?window=${window}&counts=false`)));
  const curves = histograms.map((histogram) => ({ index: STAGES.indexOf(histogram.stage), points: histogram.percentiles.filter((point) => point.percentile < 100) }));
  const words = histograms.filter((h) => h.count).map((h) => `${STAGE_NAMES[h.stage]} median ${duration(h.p50_us)}, 99th percentile ${duration(h.p99_us)}`);
  percentiles.show({ curves, logarithmic: document.querySelector("[name=scale]:checked").value === "log", label: `Latency by percentile. ${words.join("; ") || "No durations yet"}` });
  byId("hgrm").href = `/histograms/total?window=${window}&format=hgrm`;
}
