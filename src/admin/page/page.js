
// The page's clockwork: what is asked when, the connection's state, the numbers of /stats, sign-in and the address bar.

const STATS_EVERY = 2000, HISTOGRAMS_EVERY = 5000, SERIES_EVERY = 20_000;
const live = { refusal: "", before: null, failures: 0, timers: [], follow: null, drawn: new Set(["total", "forward", "store"]), series: null, stale: false };

const traffic = new Plot("hour-plot", drawTraffic), hourLatency = new Plot("hour-latency", drawHourLatency), percentiles = new Plot("percentile-plot", drawPercentiles);
const windowChosen = () => document.querySelector("[name=window]:checked").value;

function showStats(stats) {
  const { messages, connections, recipients, forwarders, memory } = stats;
  const now = performance.now(), answered = messages.delivered + messages.rejected + messages.deferred;
  const current = { now, answered, delivered: messages.delivered, accepted: connections.accepted, bytes: stats.bytes_received, uptime: stats.uptime_seconds };
  const before = live.before && current.uptime >= live.before.uptime ? live.before : null;
  live.before = current;
  if (before) {
    const rate = (key) => ((current[key] - before[key]) * 1000) / (now - before.now);
    set("rate", perSecond(rate("answered")));
    set("rate-note", `${number(answered)} since the start, ${octets(Math.round(rate("bytes")))}/s`);
    set("connections-note", `${perSecond(rate("accepted"))} new a second`);
  } else {
    set("rate-note", `${number(answered)} since the start`);
  }
  const minute = stats.latency.total["1m"];
  set("p99", minute.count ? duration(minute.p99_us) : "–");
  set("p99-note", minute.count ? `half within ${duration(minute.p50_us)}, last minute` : "no mail in the last minute");
  set("connections", number(connections.open));
  set("undelivered-count", number(messages.undelivered));
  if (messages.undelivered !== late.count) lateChanged(messages.undelivered);
  set("undelivered-note", `${number(messages.deferred)} deferred, ${number(messages.replies_lost)} replies lost`);
  gauge("busy", number(forwarders.busy), forwarders.busy, forwarders.workers, `of ${number(forwarders.workers)}`);
  set("busy-note", `${number(forwarders.queued)} queued, ${number(forwarders.started)} started`);
  gauge("memory", octets(memory.body_bytes), memory.body_bytes, memory.body_budget_bytes, `of ${octets(memory.body_budget_bytes)}`);
  set("memory-note", `${number(stats.store.records)} records, ${octets(stats.store.file_bytes)} on disk`);
  set("uptime", `up ${since(stats.uptime_seconds)},`);
  showStages(stats.latency);
  showRoutes(stats.routes);
  showRefusals(messages.refused, recipients.refused, connections.refused);
  byId("main").setAttribute("aria-busy", "false");
}

function gauge(id, text, value, limit, of) {
  const share = limit ? Math.min(1, value / limit) : 0, bar = byId(`${id}-gauge`);
  set(id, text);
  set(`${id}-of`, of);
  bar.firstElementChild.style.width = `${100 * share}%`;
  bar.classList.toggle("high", share > 0.8);
  for (const [key, given] of [["valuemax", limit], ["valuenow", value], ["valuetext", `${text} ${of}`]]) bar.setAttribute(`aria-${key}`, given);
}

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
  const box = element("input", { type: "checkbox", checked: live.drawn.has(stage), onchange: (event) => {
    event.target.checked ? live.drawn.add(stage) : live.drawn.delete(stage);
    run(showHistograms);
  } });
  const swatch = drawing("svg", { class: "swatch", viewBox: "0 0 22 10", "aria-hidden": "true" }, drawing("line", { x1: 0, x2: 22, y1: 5, y2: 5, class: `s${i}`, "stroke-width": 2 }));
  return element("tr", {}, element("th", { scope: "row" }, element("label", {}, box, swatch, STAGE_NAMES[stage])), ...Array.from({ length: 7 }, () => element("td", {})));
}

const BREAKERS = { closed: "closed", half_open: "half-open, probing", open: "open" };

function showRoutes(routes) {
  const rows = Object.entries(routes).map(([name, route]) => element("tr", {},
    element("th", { scope: "row" }, shown(name)),
    element("td", {}, element("span", { class: `breaker ${route.breaker}` }, BREAKERS[route.breaker] ?? route.breaker)),
    ...["busy", "queued", "delivered", "deferred", "rejected"].map((key) => element("td", { class: route[key] ? "" : "zero" }, number(route[key]))),
    ...["p50_us", "p99_us"].map((key) => element("td", { class: route.forward[key] ? "" : "zero" }, route.forward[key] ? duration(route.forward[key]) : "–"))));
  byId("route-rows").replaceChildren(...(rows.length ? rows : [element("tr", {}, element("td", { colspan: 9, class: "blank" }, "No routes."))]));
}

function showRefusals(messages, recipients, connections) {
  const names = { ...messages, ...recipients, ...connections };
  const seen = Object.entries(names).filter(([, count]) => count);
  const list = seen.length ? seen.map(([name, count]) => element("div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, number(count)))) : [element("div", {}, element("dt", {}, "none"))];
  byId("refusals").replaceChildren(element("div", {}, element("dt", {}, "Refused since the start:")), ...list);
}

async function showHistograms() {
  const window = windowChosen(), wanted = STAGES.filter((stage) => live.drawn.has(stage));
  const histograms = await Promise.all(wanted.map((stage) => askJson(`/histograms/${stage}?window=${window}&counts=false`)));
  const curves = histograms.map((histogram) => ({ index: STAGES.indexOf(histogram.stage), points: histogram.percentiles.filter((point) => point.percentile < 100) }));
  const words = histograms.filter((h) => h.count).map((h) => `${STAGE_NAMES[h.stage]} median ${duration(h.p50_us)}, 99th percentile ${duration(h.p99_us)}`);
  percentiles.show({ curves, logarithmic: document.querySelector("[name=scale]:checked").value === "log", label: `Latency by percentile. ${words.join("; ") || "No durations yet"}` });
  byId("hgrm").href = `/histograms/total?window=${window}&format=hgrm`;
}

async function loadSeries() {
  live.series = await askJson("/series");
  showSeries();
}

function showSeries() {
  if (!live.series) return;
  const { points } = live.series, stage = byId("hour-stage").value, sum = points.reduce((total, point) => total + point.delivered, 0);
  traffic.show({ points, label: `Messages a minute over the last hour: ${number(sum)} delivered` });
  const newest = points.at(-1)?.latency[stage];
  hourLatency.show({ points, stage, label: `Median and 99th percentile of ${STAGE_NAMES[stage]} over the last hour${newest ? `; in the last minute ${duration(newest.p50_us)} and ${duration(newest.p99_us)}` : ""}` });
  byId("hour-table").replaceChildren(...[...points].reverse().map((point) => element("tr", {},
    element("th", { scope: "row" }, String(point.age_minutes)),
    ...["delivered", "deferred", "rejected", "refused"].map((key) => element("td", {}, number(point[key]))),
    element("td", {}, octets(point.bytes)),
    element("td", {}, duration(point.latency[stage].p50_us)),
    element("td", {}, duration(point.latency[stage].p99_us)))));
}

async function askReadiness() {
  // A daemon that does not take mail answers 503 here, and that is what is asked.
  const response = await ask("/readyz"), reason = (await response.text()).trim();
  live.refusal = response.ok ? null : reason;
}

async function readStats() {
  const stats = await askJson("/stats");
  showStats(stats);
  // Asked only when something says so, or at the start and after an interruption.
  if (live.stale || stats.store.degraded || live.refusal !== null) await askReadiness();
  live.stale = false;
  connectionBack();
  await showState(stats.routes);
}

// Everything that asks goes through here: one place decides what a failure means.
async function run(task) {
  try {
    await task();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof Refused && error.status === 401) return signIn();
    if (error instanceof TypeError) return connectionLost();
    announce(error.message);
    console.error(error);
  }
}

function connectionLost() {
  if (live.retry) return;
  live.failures += 1;
  live.stale = true;
  const seconds = Math.min(15, 2 ** Math.min(live.failures, 4) - 1);
  document.body.classList.add("lost");
  tellState("lost", "No connection");
  byId("banner").hidden = false;
  byId("banner").textContent = `No connection to the daemon. What you see is from ${new Date(live.seen ?? Date.now()).toLocaleTimeString("en-GB")}; trying again every ${seconds} s.`;
  stop();
  live.retry = setTimeout(() => {
    live.retry = null;
    start();
  }, seconds * 1000);
}

function connectionBack() {
  live.seen = Date.now();
  if (!live.failures) return;
  live.failures = 0;
  document.body.classList.remove("lost");
  byId("banner").hidden = true;
  announce("Connected again");
}

function recordsCame(records) {
  if (records.some(concernsLate)) lateChanged(late.count);
  if (records.length && inspector.open && !live.inspectorTimer) {
    live.inspectorTimer = setTimeout(() => {
      live.inspectorTimer = null;
      run(loadRequests);
    }, 400);
  }
}

// What recurs waits for its answer before it asks again, and rests while the page is hidden.
function every(milliseconds, task) {
  const timer = { id: 0, ended: false };
  const turn = async () => {
    if (!document.hidden) await run(task);
    if (!timer.ended) timer.id = setTimeout(turn, milliseconds);
  };
  turn();
  live.timers.push(timer);
}

function start() {
  showParts(true);
  byId("sign-out").hidden = !session.token;
  stop();
  live.follow = new AbortController();
  late.count = null;
  every(STATS_EVERY, readStats);
  every(HISTOGRAMS_EVERY, showHistograms);
  every(SERIES_EVERY, loadSeries);
  if (inspector.open) every(STATS_EVERY * 2, loadRequests);
  run(() => followRecords(live.follow.signal));
}

function stop() {
  for (const timer of live.timers) {
    timer.ended = true;
    clearTimeout(timer.id);
  }
  live.timers = [];
  live.follow?.abort();
}

function showParts(open) {
  byId("sign-in").hidden = open;
  byId("main").hidden = !open;
  document.querySelector("nav").hidden = !open;
  if (!open) byId("sign-out").hidden = true;
}

// `problem`: what to say beside the form.
function signIn(problem = session.token ? "That is not the token." : "") {
  stop();
  session.token = null;
  showParts(false);
  tellState("loading", "Token needed");
  // Of several questions that were refused at once only the first knows why.
  if (problem) set("sign-in-error", problem);
  byId("token").focus();
}

async function download(link) {
  const response = await ask(link.href);
  if (!response.ok) throw new Refused(response.status, "The histogram is not available.");
  const copy = element("a", { href: URL.createObjectURL(await response.blob()), download: link.download });
  copy.click();
  setTimeout(() => URL.revokeObjectURL(copy.href));
}

// The address bar: a record's detail has an address of its own.
function followAddress() {
  const wanted = location.hash.slice(1);
  if (wanted.startsWith("record=") && byId("sign-in").hidden) return run(() => showDetail(decodeURIComponent(wanted.slice(7))));
  if (byId("detail").open) byId("detail").close();
}

function listen() {
  const form = byId("filters");
  let typing = 0;
  const reload = () => run(() => loadRecords());
  form.addEventListener("input", (event) => {
    if (event.target.id === "follow") return event.target.checked && showLive();
    clearTimeout(typing);
    typing = setTimeout(reload, event.target.type === "search" || event.target.type === "text" ? 250 : 0);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    reload();
  });
  form.addEventListener("reset", () => setTimeout(reload));
  byId("more").addEventListener("click", () => run(() => loadRecords(true)));
  byId("newer").addEventListener("click", reload);
  byId("late-more").addEventListener("click", () => run(() => loadLate(true)));
  byId("detail").addEventListener("close", () => location.hash.startsWith("#record=") && history.pushState(null, "", "#log"));
  byId("detail").addEventListener("click", (event) => event.target === byId("detail") && byId("detail").close());
  byId("hour-stage").append(...STAGES.map((stage) => element("option", { value: stage }, STAGE_NAMES[stage])));
  byId("hour-stage").addEventListener("change", showSeries);
  for (const choice of document.querySelectorAll("[name=window], [name=scale]")) choice.addEventListener("change", () => run(async () => { await showHistograms(); await readStats(); }));
  byId("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    session.token = byId("token").value.trim();
    byId("token").value = "";
    set("sign-in-error", "");
    start();
    followAddress();
  });
  byId("next-answer").addEventListener("change", (event) => run(() => answerNext(event)));
  byId("sign-out").addEventListener("click", () => {
    session.token = null;
    signIn();
  });
  byId("hgrm").addEventListener("click", (event) => {
    // A plain link cannot send the token.
    if (!session.token) return;
    event.preventDefault();
    run(() => download(byId("hgrm")));
  });
  addEventListener("hashchange", followAddress);
  document.addEventListener("visibilitychange", () => !document.hidden && log.unseen && showLive());
}

for (const part of document.querySelectorAll("[data-needs=inspector]")) part.hidden = !inspector.open;
// In development the message comes first, and how often none came later.
if (inspector.open) byId("main").prepend(byId("inspector"), byId("log"));
for (const [key, value] of new URLSearchParams(location.search)) {
  const field = byId("filters").elements[key];
  if (field) field.type === "checkbox" ? (field.checked = true) : (field.value = value);
}
set("zone", `times are ${ZONE}`);
listen();
holdTheLog();
document.documentElement.dataset.token === "true" && !session.token ? signIn("") : start();
followAddress();
