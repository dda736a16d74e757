
// What went wrong, by route and cause: many messages, few causes. Asked for while it is seen.

const report = { seen: false };

async function loadReport() {
  if (!report.seen) return;
  const asked = byId("report-since").value, { causes, left_out, complete, rule, slow } = await askJson(ofAll(`/report?since=${asked}`));
  if (asked !== byId("report-since").value) return;
  fillTable("causes", causes.map(causeRow), "Nothing: all that came was taken.");
  const notes = [complete || "Not all records could be looked at in time: there is more.", left_out && `${number(left_out)} messages of rarer causes are left out.`, causes.some((cause) => cause.given_up) && `${rule}.`];
  set("report-note", notes.filter((note) => typeof note === "string").join(" "));
  const slowest = slow.map((route) => `${route.route || "other routes"} (median ${duration(route.p50_us)}, 99th percentile ${duration(route.p99_us)}, longest ${duration(route.max_us)})`);
  set("report-slow", slowest.length ? `Slowest endpoints since the start: ${slowest.join("; ")}.` : "");
}

function causeRow({ route, outcome: kind, cause, count, first_seen, last_seen, still_tried, given_up, sample }) {
  const senders = kind !== "deferred" ? "" : [still_tried && `${number(still_tried)} try again`, given_up && `${number(given_up)} gave up`].filter(Boolean).join(", ");
  return element("tr", {},
    element("td", { class: "cause", title: shown(cause).textContent }, shown(cause)),
    element("td", {}, route === null ? absent("none") : byValue("route", route)),
    element("td", {}, kind === "refused" ? element("span", { class: "outcome refused" }, kind) : outcome(kind)),
    element("td", { class: "number" }, number(count)),
    element("td", {}, senders),
    element("td", {}, clock(first_seen)),
    element("td", {}, clock(last_seen)),
    element("td", { class: "cause" }, kind === "refused" ? element("a", { href: "#refused" }, shown([sample.address, sample.recipient].filter(Boolean).join(", ") || "one of them")) : element("a", { href: `#record=${sample.id}` }, subjectOf(sample))));
}

function listenToReport() {
  byId("report-since").addEventListener("change", () => run(loadReport));
  byId("report-again").addEventListener("click", () => run(loadReport));
  watchSight(byId("report"), (seen) => {
    const news = seen && !report.seen;
    report.seen = seen;
    if (news && byId("sign-in").hidden) run(loadReport);
  });
}
