
// The record log: a page of records for the filters, live rows on top of it, and one record's detail.

const MAX_ROWS = 300;
const log = { records: [], cursor: null, waiting: [], unseen: 0, request: null, loaded: false };

function filters() {
  const chosen = new URLSearchParams();
  for (const [key, value] of new FormData(byId("filters"))) if (value.trim()) chosen.set(key, value.trim());
  return chosen;
}

async function loadRecords(older = false) {
  log.request?.abort();
  const request = (log.request = new AbortController());
  const wanted = filters();
  wanted.set("limit", "50");
  if (older && log.cursor) wanted.set("cursor", log.cursor);
  byId("records").setAttribute("aria-busy", "true");
  try {
    let page = await askJson(`/records?${wanted}`, request.signal);
    // A long search comes in steps, of which some find nothing.
    while (!page.records.length && page.cursor) {
      wanted.set("cursor", page.cursor);
      set("log-note", "Searching older records");
      page = await askJson(`/records?${wanted}`, request.signal);
    }
    set("log-note", "");
    log.records = older ? [...log.records, ...page.records] : page.records;
    log.cursor = page.cursor;
    log.loaded = true;
    if (!older) keepWaiting();
    showRecords();
    if (log.unseen) showLive();
    if (older) byId("records").rows[log.records.length - page.records.length]?.querySelector("a")?.focus();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refused)) return connectionLost();
    if (error.status === 401) return signIn();
    blankLog(element("p", { class: "problem" }, error.message), element("button", { type: "button", onclick: () => loadRecords() }, "Try again"));
  } finally {
    if (log.request === request) byId("records").removeAttribute("aria-busy");
  }
}

// What came live while the page was under way, and is not on it, is still to be shown.
function keepWaiting() {
  const known = new Set(log.records.map((record) => record.id)), chosen = filters();
  log.waiting = log.waiting.filter((record) => !known.has(record.id) && matches(record, chosen));
  log.unseen = log.waiting.length;
}

function blankLog(...children) {
  byId("records").replaceChildren(element("tr", {}, element("td", { colspan: 9, class: "blank" }, ...children)));
  byId("more").hidden = true;
}

function showRecords(fresh = new Set()) {
  showNewer();
  if (!log.records.length) {
    if ([...filters()].length) return blankLog("No record matches.");
    const development = document.documentElement.dataset.inspector === "true";
    return blankLog(element("p", {}, "No mail yet."), element("p", {}, development ? "Send the first: " : "The first message appears here as soon as it is answered.", development ? element("code", {}, "mailsluice send") : ""));
  }
  const rows = log.records.map((record) => recordRow(record, fresh.has(record)));
  const body = byId("records"), focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  body.replaceChildren(...rows);
  if (focused) body.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  byId("more").hidden = !log.cursor;
}

const subjectOf = ({ subject }) => (subject === null ? absent("no subject") : subject === "" ? absent("empty subject") : shown(subject));

function recordRow(record, fresh) {
  const [first = "", ...others] = record.recipients;
  const recipients = element("span", {}, shown(first), others.length ? ` +${others.length}` : "");
  const status = record.server_response.status;
  return element("tr", { class: fresh && "fresh" },
    element("td", {}, clock(record.date)),
    element("td", {}, outcome(record.outcome)),
    element("td", {}, element("a", { href: `#record=${record.id}` }, subjectOf(record))),
    element("td", {}, record.sender ? shown(record.sender) : absent("null sender")),
    element("td", {}, recipients),
    element("td", {}, shown(record.route)),
    element("td", { class: "number" }, status ? String(status) : "none"),
    element("td", { class: "number" }, duration(record.processing_time_us)),
    element("td", { class: "number" }, octets(record.size)));
}

const outcome = (name) => element("span", { class: `outcome ${name}` }, name);

// Whether a live record belongs to what is shown. Times and the undelivered only the store can tell.
function matches(record, chosen) {
  const has = (value, wanted) => (value ?? "").toLowerCase().includes(wanted.toLowerCase());
  const is = (value, wanted) => (value ?? "").toLowerCase() === wanted.toLowerCase();
  const bare = (id) => (id ?? "").replace(/^<|>$/g, "");
  const text = chosen.get("text");
  return (!chosen.has("undelivered") || record.outcome === "deferred")
    && (!chosen.get("outcome") || record.outcome === chosen.get("outcome"))
    && (!chosen.get("sender") || is(record.sender, chosen.get("sender")))
    && (!chosen.get("recipient") || record.recipients.some((recipient) => is(recipient, chosen.get("recipient"))))
    && (!chosen.get("message_id") || is(bare(record.message_id), bare(chosen.get("message_id"))))
    && (!text || [record.subject, record.sender, ...record.recipients, record.message_id, record.server_response.body].some((value) => has(value, text)));
}

// Live records arrive in any number; rows change at most four times a second.
function takeLive(records) {
  const chosen = filters();
  const fitting = records.filter((record) => matches(record, chosen));
  if (!fitting.length) return;
  log.waiting.push(...fitting);
  log.waiting.splice(0, log.waiting.length - MAX_ROWS);
  log.unseen += fitting.length;
  if (!log.timer) log.timer = setTimeout(showLive, 250);
}

function showLive() {
  log.timer = null;
  if (!log.loaded || !log.unseen) return;
  const settled = filters().has("undelivered") || !byId("follow").checked || document.hidden;
  if (settled) return showNewer();
  const known = new Set(log.records.map((record) => record.id));
  const fresh = log.waiting.filter((record) => !known.has(record.id));
  // An id is of a message's end of data: one whose endpoint is slow belongs below younger ones, where a new page would have it.
  log.records = [...fresh, ...log.records].sort((a, b) => (a.id < b.id ? 1 : -1));
  if (log.records.length > MAX_ROWS) {
    log.records.length = MAX_ROWS;
    log.cursor = log.records.at(-1).id;
  }
  if (Date.now() - (log.announced ?? 0) > 10_000) {
    log.announced = Date.now();
    announce(`${number(log.unseen)} new records`);
  }
  [log.waiting, log.unseen] = [[], 0];
  showRecords(new Set(fresh));
}

function showNewer() {
  byId("newer").hidden = log.unseen === 0;
  byId("newer").textContent = `Show ${number(log.unseen)} newer`;
}

// Server-sent events over fetch, which can send the token. Ends with the connection.
async function followRecords(signal) {
  // The log is asked for when the stream is open: what comes between the two is in one of them.
  const response = await ask("/records/live", signal).finally(() => { if (!signal.aborted) run(loadRecords); });
  if (!response.ok) throw new Refused(response.status, "The live view is not available.");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new TypeError("the stream ended");
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    const records = [];
    for (const event of events) {
      const data = event.split("\n").filter((text) => text.startsWith("data: ")).map((text) => text.slice(6)).join("\n");
      if (data && event.includes("event: skipped")) log.unseen += JSON.parse(data).records ?? 1;
      else if (data) records.push(JSON.parse(data));
    }
    if (records.length) takeLive(records);
    recordsCame(records);
  }
}

async function showDetail(id) {
  const body = byId("detail-body");
  body.replaceChildren(element("p", { class: "blank" }, "Loading"));
  if (!byId("detail").open) byId("detail").showModal();
  try {
    const [record, attempts] = await Promise.all([askJson(`/records/${encodeURIComponent(id)}`), askJson(`/records/${encodeURIComponent(id)}/attempts`)]);
    body.replaceChildren(...detailOf(record, attempts.records));
  } catch (error) {
    body.replaceChildren(element("p", { class: "problem" }, error instanceof Refused ? error.message : "No connection to the daemon."));
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
  record.recipients.forEach((recipient, i) => recipients.append(i ? ", " : "", shown(recipient)));
  const more = [
    ["Answer", response.status ? `HTTP ${response.status}` : "none: the endpoint was not reached or did not answer"],
    ["Type", response.content_type ? shown(response.content_type) : null],
    ["Retry after", response.retry_after ? shown(response.retry_after) : null],
  ].filter(([, value]) => value);
  return [
    facts([
      ["Outcome", outcome(record.outcome)],
      ["Received", element("time", { datetime: record.date }, record.date)],
      ["Sender", record.sender ? shown(record.sender) : absent("null reverse-path")],
      ["Recipients", recipients],
      ["Message-ID", record.message_id === null ? absent("none") : shown(record.message_id)],
      ["Client", shown(record.sender_ip)],
      ["TLS", record.tls ? shown(record.tls) : absent("none")],
      ["Size", octets(record.size)],
      ["Route", shown(record.route)],
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
    element("td", {}, attempt.server_response.status ? String(attempt.server_response.status) : "none"),
    element("td", {}, duration(attempt.processing_time_us))));
  return element("div", { class: "scroll" }, element("table", {},
    element("caption", { class: "unseen" }, "All attempts at this message, oldest first"),
    element("thead", {}, element("tr", {}, ...["Time", "Outcome", "Answer", "Took"].map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows)));
}
