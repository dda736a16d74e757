
// Mail over the last hour or day: how much, what became of it, how long it took. It is in the records, so a restart takes nothing away.

const overTime = { series: null };
const trafficPlot = new Plot("traffic-plot", drawTraffic), durationPlot = new Plot("duration-plot", drawDurations);
// What the records have of a message; the rest the daemon has counted, over an hour, for all routes together.
const RECORDED = ["total", "queue", "forward", "store"];

async function loadSeries() {
  const span = document.querySelector("[name=span]:checked").value, route = byId("series-route").value;
  const series = await askJson(`/series?${new URLSearchParams({ span, route })}`);
  series.last = Math.floor(Date.parse(series.now) / 1000 / series.step_seconds);
  addCounted(series);
  overTime.series = series;
  showSeries();
}

// Refusals and the stages that no record has: by minutes of the daemon's own, put to those of the clock.
function addCounted(series) {
  const byAge = new Map(series.points.map((point) => [point.age, point]));
  for (const counted of series.counted?.points ?? []) {
    const point = byAge.get(counted.age_minutes);
    if (point) Object.assign(point, { refused: counted.refused, latency: { ...counted.latency, ...point.latency } });
    else if (counted.refused) series.points.push({ age: counted.age_minutes, delivered: 0, deferred: 0, rejected: 0, refused: counted.refused, bytes: 0, latency: counted.latency });
  }
  series.points = series.points.filter((point) => point.age < series.steps).sort((a, b) => b.age - a.age);
}

const stepStart = (series, age) => new Date((series.last - age) * series.step_seconds * 1000);
const stepName = (series) => (series.span === "day" ? "quarter of an hour" : "minute");

function showSeries() {
  const series = overTime.series;
  if (!series) return;
  const stage = byId("series-stage").value, { points } = series;
  const sum = points.reduce((total, point) => total + point.delivered, 0), of = series.route ? ` of route ${series.route}` : "";
  trafficPlot.show({ series, label: `Messages a ${stepName(series)} over the last ${series.span}${of}: ${number(sum)} delivered` });
  const newest = points.filter((point) => point.latency[stage]?.p99_us).at(-1)?.latency[stage];
  durationPlot.show({ series, stage, label: `Median and 99th percentile of stage ${STAGE_NAMES[stage]} over the last ${series.span}${of}${newest ? `; last ${duration(newest.p50_us)} and ${duration(newest.p99_us)}` : ""}` });
  byId("series-table").replaceChildren(...[...points].reverse().map((point) => {
    const durations = point.latency[stage];
    return element("tr", {},
      element("th", { scope: "row" }, clock(stepStart(series, point.age)), point.age ? "" : " (running)"),
      ...["delivered", "deferred", "rejected"].map((key) => element("td", {}, number(point[key]))),
      element("td", {}, point.refused === undefined ? "–" : number(point.refused)),
      element("td", {}, octets(point.bytes)),
      ...["p50_us", "p99_us"].map((key) => element("td", {}, durations?.[key] ? duration(durations[key]) : "–")));
  }));
  const notes = [
    !series.complete && "Older records are still being read.",
    !RECORDED.includes(stage) && (series.span !== "hour" || series.route) && `Stage ${STAGE_NAMES[stage]} is not in the records: it is known of the last hour, of all routes together.`,
  ];
  set("series-note", notes.filter(Boolean).join(" "));
}

function offerRoutes(names) {
  for (const select of [byId("series-route"), byId("latency-route")]) offer(select, names);
}

function offer(select, names) {
  const there = [...select.options].slice(1).map((option) => option.value);
  if (there.join("\n") === names.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...names.map((name) => element("option", { value: name }, name)));
  select.value = names.includes(chosen) ? chosen : "";
}

function listenToSeries() {
  byId("series-stage").append(...STAGES.map((stage) => element("option", { value: stage }, STAGE_NAMES[stage])));
  byId("series-stage").addEventListener("change", showSeries);
  for (const choice of [byId("series-route"), ...document.querySelectorAll("[name=span]")]) choice.addEventListener("change", () => run(loadSeries));
}
