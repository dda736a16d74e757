
// What is wrong comes first: the state in header, title and icon, and below it a line for each thing that stands.

const HOST = document.documentElement.dataset.host;
const MARKS = { ready: "●", part: "◐", draining: "◐", degraded: "✕", lost: "✕", loading: "○" };
const COLOURS = { ready: "#0c6b7c", part: "#9a6400", draining: "#9a6400", degraded: "#b23a2e", lost: "#b23a2e", loading: "#77808a" };
const trouble = { samples: new Map(), notices: [], refusal: null, refusedSince: null, asked: 0 };

function tellState(state, text) {
  const marked = `${MARKS[state]} ${text}`, node = byId("state");
  if (node.dataset.state === state && node.textContent === text) return;
  node.dataset.state = state;
  node.dataset.mark = MARKS[state];
  set("state", text);
  document.title = [marked, HOST, "mailsluice"].filter(Boolean).join(" · ");
  const icon = document.querySelector("link[rel=icon]");
  icon.href = icon.href.replace(/fill='%23[0-9a-f]{6}'/, `fill='%23${COLOURS[state].slice(1)}'`);
}

const notAnswering = (stats) => Object.entries(stats).filter(([, route]) => route.breaker === "open" || route.breaker === "half_open");

// `stats`: the routes of /stats, which are there before /routes is.
async function showState(stats) {
  const { notices, not_ready, not_ready_since } = await askJson("/notices");
  Object.assign(trouble, { notices, refusal: not_ready, refusedSince: not_ready_since });
  const away = notAnswering(stats), all = Object.keys(stats).length;
  if (trouble.refusal !== null) tellState(...(trouble.refusal === "draining" ? ["draining", "Draining: no new mail"] : ["degraded", `Not taking mail: ${trouble.refusal.replace(/^degraded: /, "")}`]));
  else if (away.length) tellState("part", `${away.length} of ${all} ${all === 1 ? "route" : "routes"} not answering`);
  else if (trouble.notices.length) tellState("part", `Taking mail, but ${trouble.notices[0].brief}${trouble.notices.length > 1 ? `, and ${trouble.notices.length - 1} more` : ""}`);
  else tellState("ready", "Taking mail");
  showTrouble(away);
  // Reasons are asked for while there is something to say.
  if (away.length && (Date.now() - trouble.asked > 5_000 || away.some(([name]) => !trouble.samples.has(name)))) {
    trouble.asked = Date.now();
    trouble.samples = new Map(await Promise.all(away.slice(0, TROUBLE_ROWS).map(async ([name]) => [name, await lastDeferral(name)])));
    showTrouble(away);
  }
}

const TROUBLE_ROWS = 10;

async function lastDeferral(route) {
  const { records } = await askJson(`/records?${new URLSearchParams({ route, outcome: "deferred", limit: "1" })}`);
  return records[0] ?? null;
}

const MEND = {
  route: "Look with: mailsluice doctor.",
  draining: "It ends soon; senders keep their mail and come again.",
  store: "Senders are told \"later\" and keep their mail. Look with: mailsluice doctor; df -h; journalctl -u mailsluice.",
};

function showTrouble(away) {
  const rows = [
    ...(trouble.refusal === null ? [] : [element("li", {}, element("b", {}, "Not taking mail"), ...sinceOf(trouble.refusedSince), ": ", shown(trouble.refusal.replace(/^degraded: /, "")), ". ", MEND[trouble.refusal] ?? MEND.store)]),
    ...away.slice(0, TROUBLE_ROWS).map(([name, route]) => troubleOf(name, route)),
    ...(away.length > TROUBLE_ROWS ? [element("li", {}, `And ${number(away.length - TROUBLE_ROWS)} more routes.`)] : []),
    ...silentBoxes(),
    ...trouble.notices.map((notice) => element("li", {}, shown(notice.what), ...sinceOf(notice.since, " (since ", ")"))),
  ];
  const list = byId("trouble");
  list.hidden = !rows.length;
  // Replaced only when it says something else, so that a click on it is not lost.
  const text = rows.map((row) => row.textContent).join("\n");
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  list.replaceChildren(...rows);
}

// Of all boxes, while they are shown: as `mailsluice fleet` ends with 69 for them.
function silentBoxes() {
  const gone = fleet.all ? fleet.boxes.filter((box) => Math.max(box.silent_seconds, box.behind_seconds) >= 3600) : [];
  return gone.map((box) => element("li", {}, element("b", {}, "Box ", shown(box.name)), ` was heard of ${since(box.silent_seconds)} ago and is ${number(box.behind_records)} records behind. Look with: mailsluice fleet.`));
}

const sinceOf = (date, before = " since ", after = "") => (date ? [before, clock(date), after] : []);

// Since when, how many, why, where to, what comes next.
function troubleOf(name, route) {
  const sample = trouble.samples.get(name), known = routes.byName.get(name);
  const row = element("li", {}, element("b", {}, "Route ", shown(name)), " gets no answer");
  row.append(...sinceOf(known?.away_since));
  if (known) row.append(" from ", element("code", {}, shown(known.url)));
  if (sample) row.append(": ", element("a", { href: `#record=${sample.id}` }, shown(reasonOf(sample))), " (last at ", clock(sample.date), ")");
  row.append(`. ${number(route.deferred)} deferred since the start; ${route.breaker === "open" ? "its mail is told \"later\" without asking, but for a try now and then" : "it is being tried again"}. ${MEND.route} `);
  row.append(element("button", { type: "button", class: "quiet value", onclick: () => filterBy({ route: name, outcome: "deferred" }) }, "Its records"));
  return row;
}
