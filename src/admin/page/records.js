
// The record log: a page of records for the filters, live rows on top of it, and one record's detail.

const MAX_ROWS = 300;
const log = { records: [], cursor: null, waiting: [], unseen: 0, request: null, loaded: false, inView: true, detail: 0 };

function filters() {
  const chosen = new URLSearchParams();
  for (const [key, value] of new FormData(byId("filters"))) if (value.trim()) chosen.set(key, value.trim());
  return chosen;
}

async function loadRecords(older = false) {
  log.request?.abort();
  const request = (log.request = new AbortController());
  const wanted = filters();
  // The search is in the address: it can be sent to somebody, and is there again after a reload.
  const address = `${location.pathname}${[...wanted].length ? `?${wanted}` : ""}${location.hash}`;
  if (address !== `${location.pathname}${location.search}${location.hash}`) history.replaceState(null, "", address);
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
  // A row is made once and stays: what is under the pointer or selected is not taken away.
  const body = byId("records"), there = new Map([...body.rows].map((row) => [row.dataset.id, row]));
  const few = fresh.size <= 20;
  const rows = log.records.map((record) => there.get(record.id) ?? recordRow(record, few && fresh.has(record)));
  const kept = new Set(rows);
  for (const row of [...body.rows]) if (!kept.has(row)) row.remove();
  let place = body.firstChild;
  for (const row of rows) {
    if (row === place) place = place.nextSibling;
    else body.insertBefore(row, place);
  }
  byId("more").hidden = !log.cursor;
}

const subjectOf = ({ subject }) => (subject === null ? absent("no subject") : subject === "" ? absent("empty subject") : shown(subject));

function recordRow(record, fresh) {
  const [first = "", ...others] = record.recipients;
  const recipients = element("span", {}, shown(first), others.length ? ` +${others.length}` : "");
  const status = record.server_response.status;
  return element("tr", { class: fresh && "fresh", "data-id": record.id },
    element("td", {}, clock(record.date)),
    element("td", {}, outcome(record.outcome)),
    whole(record.subject ?? "", element("a", { href: `#record=${record.id}` }, subjectOf(record))),
    whole(record.sender, record.sender ? shown(record.sender) : absent("null sender")),
    whole(record.recipients.join(", "), recipients),
    whole(record.route, shown(record.route)),
    status ? element("td", { class: "number" }, String(status)) : whole(reasonOf(record), absent("no answer")),
    element("td", { class: "number" }, duration(record.processing_time_us)),
    element("td", { class: "number" }, octets(record.size)));
}

// A cell that may be cut says all of it under the pointer.
const whole = (text, ...children) => element("td", { title: shown(text).textContent || false }, ...children);

// Why there was no answer, as the record has it: the endpoint was not reached, did not answer, or was not asked.
const reasonOf = (record) => record.server_response.body || record.reply.replace(/^\d{3} (\d\.\d+\.\d+ )?/, "");

const outcome = (name) => element("span", { class: `outcome ${name}` }, name);

// Whether a live record belongs to what is shown. Times and the undelivered only the store can tell.
function matches(record, chosen) {
  const has = (value, wanted) => (value ?? "").toLowerCase().includes(wanted.toLowerCase());
  const is = (value, wanted) => (value ?? "").toLowerCase() === wanted.toLowerCase();
  const bare = (id) => (id ?? "").replace(/^<|>$/g, "");
  const text = chosen.get("text");
  return (!chosen.has("undelivered") || record.outcome === "deferred")
    && (!chosen.get("outcome") || record.outcome === chosen.get("outcome"))
    && (!chosen.get("route") || record.route === chosen.get("route"))
    && (!chosen.get("status") || record.server_response.status === Number(chosen.get("status")))
    && (!chosen.get("ip") || record.sender_ip === chosen.get("ip"))
    && (!chosen.get("sender") || is(record.sender, chosen.get("sender")))
    && (!chosen.get("recipient") || record.recipients.some((recipient) => is(recipient, chosen.get("recipient"))))
    && (!chosen.get("message_id") || is(bare(record.message_id), bare(chosen.get("message_id"))))
    && (!text || [record.subject, record.sender, ...record.recipients, record.message_id, record.server_response.body].some((value) => has(value, text)) || [record.id, record.webhook_id, record.reply, record.sender_ip].some((value) => has(value, text)));
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
  if (settled || isHeld()) return showNewer();
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

// Under the pointer, with the focus or a selection in it the log stands still: what is aimed at stays where it is. Out of view nothing is
// done. Whatever ends that shows what has come meanwhile.
function isHeld() {
  const rows = byId("records"), selected = getSelection();
  return !log.inView || rows.matches(":hover") || rows.contains(document.activeElement) || (!selected.isCollapsed && rows.contains(selected.anchorNode));
}

function holdTheLog() {
  const rows = byId("records"), release = () => setTimeout(() => log.unseen && !log.timer && showLive());
  rows.addEventListener("pointerleave", release);
  rows.addEventListener("focusout", release);
  document.addEventListener("selectionchange", release);
  new IntersectionObserver(([seen]) => {
    log.inView = seen.isIntersecting;
    release();
  }).observe(rows.closest("table"));
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
      // Fields of the event, by their names at the start of a line: what a message has in it is data and nothing else.
      const lines = event.split("\n"), field = (name) => lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2)).join("\n");
      const data = field("data");
      if (data && field("event") === "skipped") log.unseen += JSON.parse(data).records ?? 1;
      else if (data) records.push(JSON.parse(data));
    }
    if (records.length) takeLive(records);
    recordsCame(records);
  }
}

async function showDetail(id) {
  const body = byId("detail-body"), asked = ++log.detail;
  body.replaceChildren(element("p", { class: "blank" }, "Loading"));
  if (!byId("detail").open) byId("detail").showModal();
  try {
    const [record, attempts] = await Promise.all([askJson(`/records/${encodeURIComponent(id)}`), askJson(`/records/${encodeURIComponent(id)}/attempts`)]);
    // Another one has been opened meanwhile.
    if (asked === log.detail) body.replaceChildren(...detailOf(record, attempts.records));
  } catch (error) {
    if (asked === log.detail) body.replaceChildren(element("p", { class: "problem" }, error instanceof Refused ? error.message : "No connection to the daemon."));
  }
}

// A value that filters the log by itself.
function byValue(name, value, text = value) {
  return element("button", { type: "button", class: "quiet value", title: `Show the log of this ${name}`, onclick: () => {
    byId("detail").close();
    byId("filters").reset();
    setTimeout(() => filterBy({ [name]: value }));
  } }, shown(text));
}

function filterBy(chosen) {
  for (const field of byId("filters").elements) if (field.name) field.type === "checkbox" ? (field.checked = field.name in chosen) : (field.value = chosen[field.name] ?? "");
  byId("log").scrollIntoView();
  run(() => loadRecords());
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
  record.recipients.forEach((recipient, i) => recipients.append(i ? ", " : "", byValue("recipient", recipient)));
  const more = [
    ["Answer", response.status ? byValue("status", String(response.status), `HTTP ${response.status}`) : element("span", {}, "none: ", shown(reasonOf(record)))],
    ["Type", response.content_type ? shown(response.content_type) : null],
    ["Retry after", response.retry_after ? shown(response.retry_after) : null],
  ].filter(([, value]) => value);
  return [
    facts([
      ["Outcome", outcome(record.outcome)],
      ["Received", element("time", { datetime: record.date, title: record.date }, `${new Date(record.date).toLocaleString("en-GB")} (${ZONE})`)],
      ["Sender", record.sender ? byValue("sender", record.sender) : absent("null reverse-path")],
      ["Recipients", recipients],
      ["Message-ID", record.message_id === null ? absent("none") : shown(record.message_id)],
      ["Client", byValue("ip", record.sender_ip)],
      ["TLS", record.tls ? shown(record.tls) : absent("none")],
      ["Size", octets(record.size)],
      ["Route", byValue("route", record.route)],
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
