
// One record, whole: what it has, the attempts at its message, and what may be done about an address in it.

async function showDetail(id) {
  const body = byId("detail-body"), asked = ++log.detail;
  body.replaceChildren(element("p", { class: "blank" }, "Loading"));
  if (!byId("detail").open) byId("detail").showModal();
  try {
    const [record, attempts] = await Promise.all([askJson(ofAll(`/records/${encodeURIComponent(id)}`)), askJson(ofAll(`/records/${encodeURIComponent(id)}/attempts`))]);
    // Another one has been opened meanwhile.
    if (asked === log.detail) body.replaceChildren(...detailOf(record, attempts.records));
  } catch (error) {
    if (error.name === "AbortError" || (error instanceof Refused && error.status === 401)) throw error;
    if (asked === log.detail) body.replaceChildren(element("p", { class: "problem" }, error instanceof Refused ? error.message : "No connection to the daemon."));
  }
}

function facts(pairs) {
  const list = element("dl", { class: "facts" });
  for (const [name, value] of pairs) list.append(element("dt", {}, name), element("dd", {}, value));
  return list;
}

function detailOf(record, attempts) {
  const response = record.server_response;
  byId("detail-title").replaceChildren(record.subject ? shown(record.subject) : "No subject");
  const recipients = element("span", {});
  for (const recipient of record.recipients) recipients.append(element("span", { class: "address" }, byValue("recipient", recipient), addressActions(recipient)));
  const more = [
    ["Answer", response.status ? byValue("status", String(response.status), `HTTP ${response.status}`) : element("span", {}, "none: ", shown(reasonOf(record)))],
    ["Type", response.content_type ? shown(response.content_type) : null],
    ["Retry after", response.retry_after ? shown(response.retry_after) : null],
  ].filter(([, value]) => value);
  return [
    facts([
      ["Outcome", outcome(record.outcome)],
      ["Received", element("time", { datetime: record.date, title: record.date }, `${new Date(record.date).toLocaleString("en-GB")} (${zone()})`)],
      ["Sender", record.sender ? element("span", { class: "address" }, byValue("sender", record.sender), addressActions(record.sender)) : absent("null reverse-path")],
      ["Recipients", recipients],
      ["Message-ID", record.message_id === null ? absent("none") : shown(record.message_id)],
      ["Client", byValue("ip", record.sender_ip)],
      ["TLS", record.tls ? shown(record.tls) : absent("none")],
      ["Size", octets(record.size)],
      ["Route", byValue("route", record.route)],
      ...(record.box ? [["Box", shown(record.box)]] : []),
      ["SMTP reply", element("code", {}, shown(record.reply))],
    ]),
    element("h3", {}, `Took ${duration(record.processing_time_us)}`), ...spans(record),
    element("h3", {}, "The endpoint"), facts(more),
    ...(response.body ? [element("pre", {}, shown(response.body, true))] : []),
    element("h3", {}, attempts.length > 1 ? `${attempts.length} attempts at this message` : "The only attempt at this message"),
    attemptTable(record, attempts),
    element("h3", {}, "Identifiers"),
    facts([["Record", element("code", {}, record.id)], ["Webhook-Id", element("code", {}, shown(record.webhook_id))]]),
  ];
}

function spans(record) {
  const bar = element("div", { class: "spans", "aria-hidden": "true" }), key = element("ul", { class: "spans-key note" });
  for (const name of ["queue", "forward", "store"]) {
    const us = record[`${name}_us`], part = element("i", { class: name });
    part.style.width = `${Math.min(100, (100 * us) / Math.max(record.processing_time_us, 1))}%`;
    bar.append(part);
    key.append(element("li", { class: name }, `${name} ${duration(us)}`));
  }
  return [bar, key];
}

function attemptTable(record, attempts) {
  const rows = attempts.map((attempt) => element("tr", { "aria-current": attempt.id === record.id && "true" },
    element("th", { scope: "row" }, attempt.id === record.id ? clock(attempt.date) : element("a", { href: `#record=${attempt.id}` }, clock(attempt.date))),
    element("td", {}, outcome(attempt.outcome)),
    element("td", {}, attempt.server_response.status ? String(attempt.server_response.status) : shown(reasonOf(attempt))),
    element("td", {}, duration(attempt.processing_time_us))));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of attempts" }, element("table", {},
    element("caption", { class: "unseen" }, "All attempts at this message, oldest first"),
    element("thead", {}, element("tr", {}, ...["Time", "Outcome", "Answer", "Took"].map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows)));
}
