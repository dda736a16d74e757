
// The page's clockwork: what is asked when, the connection's state, the numbers of /stats, sign-in and the address bar.

const STATS_EVERY = 2000, HISTOGRAMS_EVERY = 5000, SERIES_EVERY = 10_000, REFUSALS_EVERY = 5000, REPORT_EVERY = 60_000;
const live = { before: null, failures: 0, timers: [], follow: null };

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
  showFleet(stats.fleet);
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

async function readStats() {
  const stats = await askJson("/stats");
  showStats(stats);
  tellTimes();
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
  every(STATS_EVERY, loadRoutes);
  every(HISTOGRAMS_EVERY, showHistograms);
  every(SERIES_EVERY, loadSeries);
  every(REFUSALS_EVERY, loadRefusals);
  every(REPORT_EVERY, loadReport);
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
  byId("trouble").hidden = true;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  tellState("loading", "Token needed");
  // Of several questions that were refused at once only the first knows why.
  if (problem) set("sign-in-error", problem);
  byId("token").focus();
}

// The address bar: a search has one, and a record's detail has an address of its own.
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
    // What is typed is one search, not one for each letter.
    log.typing = true;
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
  // The address of a record is kept for whoever has to sign in first.
  byId("detail").addEventListener("close", () => byId("sign-in").hidden && location.hash.startsWith("#record=") && history.pushState(null, "", "#log"));
  byId("detail").addEventListener("click", (event) => event.target === byId("detail") && byId("detail").close());
  listenToSeries();
  listenToReport();
  listenToRefusals();
  listenToForget();
  byId("boxes-shown").addEventListener("change", (event) => chooseBoxes(event.target.value));
  for (const choice of document.querySelectorAll("[name=window], [name=scale], #latency-route")) choice.addEventListener("change", () => run(showHistograms));
  byId("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    session.token = byId("token").value.trim();
    byId("token").value = "";
    set("sign-in-error", "");
    start();
    followAddress();
  });
  byId("send-sample").addEventListener("click", () => run(sendSample));
  byId("next-answer").addEventListener("change", (event) => run(() => answerNext(event)));
  byId("sign-out").addEventListener("click", () => {
    session.token = null;
    signIn();
  });
  byId("hgrm").addEventListener("click", (event) => {
    // A plain link cannot send the token.
    if (!session.token) return;
    event.preventDefault();
    run(() => download(byId("hgrm").href, byId("hgrm").download));
  });
  addEventListener("hashchange", followAddress);
  addEventListener("popstate", () => {
    const before = filters().toString();
    readSearch();
    if (filters().toString() !== before) reload();
  });
  document.addEventListener("visibilitychange", () => !document.hidden && log.unseen && showLive());
}

for (const part of document.querySelectorAll("[data-needs=inspector]")) part.hidden = !inspector.open;
// In development the message comes first, and how often none came later.
if (inspector.open) byId("main").prepend(byId("inspector"), byId("log"));
readSearch();
tellTimes();
listen();
holdTheLog();
document.documentElement.dataset.token === "true" && !session.token ? signIn("") : start();
followAddress();
