
// What is wrong comes first: the state in header, title and icon, and below it a line for each thing that stands.

const HOST = document.documentElement.dataset.host;
const MARKS = { ready: "●", part: "◐", draining: "◐", degraded: "✕", lost: "✕", loading: "○" };
const COLOURS = { ready: "#0c6b7c", part: "#9a6400", draining: "#9a6400", degraded: "#b23a2e", lost: "#b23a2e", loading: "#77808a" };
const trouble = { samples: new Map(), notices: [], asked: 0 };

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

const notAnswering = (routes) => Object.entries(routes).filter(([, route]) => route.breaker !== "closed");

async function showState(routes) {
  const away = notAnswering(routes), all = Object.keys(routes).length;
  if (live.refusal !== null) tellState(...(live.refusal === "draining" ? ["draining", "Draining: no new mail"] : ["degraded", `Not taking mail: ${live.refusal}`]));
  else if (away.length) tellState("part", `${away.length} of ${all} ${all === 1 ? "route" : "routes"} not answering`);
  else if (trouble.notices.length) tellState("part", "Taking mail, but look below");
  else tellState("ready", "Taking mail");
  showTrouble(away);
  // Reasons are asked for while there is something to say, and now and then to learn of it.
  if (Date.now() - trouble.asked > (away.length ? 5_000 : 20_000) || away.some(([name]) => !trouble.samples.has(name))) {
    trouble.asked = Date.now();
    trouble.notices = (await askJson("/notices")).notices;
    trouble.samples = new Map(await Promise.all(away.map(async ([name]) => [name, await lastDeferral(name)])));
  }
  showTrouble(away);
}

async function lastDeferral(route) {
  const { records } = await askJson(`/records?${new URLSearchParams({ route, outcome: "deferred", limit: "1" })}`);
  return records[0] ?? null;
}

function showTrouble(away) {
  const rows = [
    ...(live.refusal ? [element("li", {}, element("b", {}, "Not taking mail"), " ", shown(live.refusal))] : []),
    ...away.map(([name, route]) => troubleOf(name, route)),
    ...trouble.notices.map((notice) => element("li", {}, shown(notice))),
  ];
  const list = byId("trouble");
  list.hidden = !rows.length;
  // Replaced only when it says something else, so that a click on it is not lost.
  const text = rows.map((row) => row.textContent).join("\n");
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  list.replaceChildren(...rows);
}

function troubleOf(name, route) {
  const sample = trouble.samples.get(name), row = element("li", {}, element("b", {}, "Route ", shown(name)), ` ${route.breaker === "open" ? "is not asked" : "is tried again"}: its endpoint does not answer, its mail is told "later". ${number(route.deferred)} deferred. `);
  if (sample) row.append("Last at ", clock(sample.date), ": ", element("a", { href: `#record=${sample.id}` }, shown(reasonOf(sample))), ". ");
  row.append(element("button", { type: "button", class: "quiet value", onclick: () => filterBy({ route: name, outcome: "deferred" }) }, "Its records"));
  return row;
}
