
// Routes in the file's order: where their mail goes, what became of it lately, how their endpoints stand.

const routes = { rows: [], byName: new Map() };
const BREAKERS = { half_open: "asked again now", open: "not asked", paused: "asks to be left alone" };

async function loadRoutes() {
  const answer = await askJson("/routes");
  routes.rows = answer.routes;
  routes.byName = new Map(routes.rows.map((route) => [route.name, route]));
  fillTable("route-rows", routes.rows.map(routeRow), "No routes.");
  const notes = [answer.left_out && `${number(answer.left_out)} more routes, whose endpoints answer, are not shown.`, !answer.complete && "The records of the last hour are still being read."];
  set("routes-note", notes.filter(Boolean).join(" "));
  offerRoutes(routes.rows.map((route) => route.name));
}

function routeRow(route) {
  const globs = route.recipients.join(", ") + (route.more_recipients ? ` +${route.more_recipients}` : "");
  return element("tr", { class: route.breaker },
    element("th", { scope: "row" }, byValue("route", route.name), element("span", { class: "under" }, shown(globs))),
    element("td", { class: "where" }, shown(route.url), ...(route.breaker === "closed" ? [] : [element("strong", { class: `under breaker ${route.breaker}` }, standing(route))])),
    share(route.minute), share(route.hour),
    element("td", {}, `${number(route.busy)} of ${number(route.limit)}`),
    element("td", { class: route.queued ? "" : "zero" }, number(route.queued)),
    ...["p50_us", "p99_us"].map((key) => element("td", { class: route[key] ? "" : "zero" }, route[key] ? duration(route[key]) : "–")));
}

// The breaker, in words: since when, and when it is tried again.
function standing(route) {
  const away = route.away_since ? ` for ${since(Math.max(0, (Date.now() - Date.parse(route.away_since)) / 1000))}` : "";
  const next = route.next_try_seconds === null ? "" : route.next_try_seconds > 0 ? `, next try in ${since(route.next_try_seconds)}` : ", the next message tries it";
  return `${BREAKERS[route.breaker] ?? route.breaker}${away}${next}`;
}

// What became of some messages: how many, which share of them was taken, and a bar of it.
function share(counts) {
  if (!counts) return element("td", { class: "zero" }, "–");
  const kinds = ["delivered", "deferred", "rejected"], total = kinds.reduce((sum, kind) => sum + counts[kind], 0);
  if (!total) return element("td", { class: "zero" }, "no mail");
  const bar = element("span", { class: "share", "aria-hidden": "true" });
  for (const kind of kinds) {
    const part = element("i", { class: kind });
    part.style.width = `${(100 * counts[kind]) / total}%`;
    bar.append(part);
  }
  const words = kinds.filter((kind) => counts[kind]).map((kind) => `${number(counts[kind])} ${kind}`).join(", ");
  return element("td", { title: words }, `${percent(counts.delivered, total)} of ${number(total)}`, element("span", { class: "unseen" }, ` delivered: ${words}`), bar);
}

// Never 100 % of what was not all, nor 0 % of what was not nothing.
function percent(part, total) {
  const exact = (100 * part) / total;
  if (part === total || part === 0) return `${exact}\u202f%`;
  return `${exact > 99.9 ? 99.9 : exact < 0.1 ? 0.1 : Number(exact.toFixed(exact > 99 || exact < 1 ? 1 : 0))}\u202f%`;
}
