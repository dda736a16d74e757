
// The record log: a page of records for the filters, live rows on top of it, and one record's detail.

const MAX_ROWS = 300;
// More than so many at once are a crowd: then the log is no longer than a page.
const CROWD = 10, CROWD_ROWS = 50;
const log = { records: [], cursor: null, waiting: [], unseen: 0, request: null, loaded: false, inView: true, detail: 0 };

function filters() {
  const chosen = new URLSearchParams();
  for (const [key, value] of new FormData(byId("filters"))) if (value.trim()) chosen.set(key, TIMES.includes(key) ? asMoment(value.trim()) : value.trim());
  return chosen;
}

// Times are written in the reader's own clock; a moment goes out with its zone, so that the address means the same to everybody.
const TIMES = ["since", "until"];

function asMoment(text) {
  if (/^(\d+(\.\d+)?\s*[a-z]+\s*)+$/i.test(text)) return text.replaceAll(" ", "");
  // What is no time at all is the daemon's to refuse; a browser would find some moment in it.
  if (!/^(\d|[a-z]{3,9}\.? \d)/i.test(text)) return text;
  const today = new Date().toLocaleDateString("en-CA");
  const moment = new Date(/^\d{1,2}:\d{2}/.test(text) ? `${today}T${text.padStart(5, "0")}` : /^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00` : /\d{4}/.test(text) ? text : `${text} ${today.slice(0, 4)}`);
  return Number.isNaN(moment.getTime()) ? text : moment.toISOString();
}

const asLocal = (moment) => (/^\d{4}-.*Z$/.test(moment) && !Number.isNaN(Date.parse(moment)) ? new Date(moment).toLocaleString("sv-SE") : moment);

// The search that is in the address.
function readSearch() {
  const chosen = new URLSearchParams(location.search);
  for (const field of byId("filters").elements) if (field.name) fillIn(field, chosen.get(field.name));
}

function fillIn(field, value) {
  if (field.type === "checkbox") field.checked = value === "true";
  else field.value = value === null ? "" : TIMES.includes(field.name) ? asLocal(value) : value;
}

async function loadRecords(older = false) {
  log.request?.abort();
  const request = (log.request = new AbortController());
  const wanted = filters();
  // The search is in the address: it can be sent to somebody, and is there again after a reload.
  const place = log.leaving ? "#log" : location.hash;
  log.leaving = false;
  const address = `${location.pathname}${[...wanted].length ? `?${wanted}` : ""}${place}`;
  if (address !== `${location.pathname}${location.search}${location.hash}`) history[log.typing ? "replaceState" : "pushState"](null, "", address);
  log.typing = false;
  wanted.set("limit", "50");
  if (older && log.cursor) wanted.set("cursor", log.cursor);
  byId("records").setAttribute("aria-busy", "true");
  try {
    let page = await askJson(ofAll(`/records?${wanted}`), request.signal);
    // A long search comes in steps, of which some find nothing.
    while (!page.records.length && page.cursor) {
      wanted.set("cursor", page.cursor);
      set("log-note", "Searching older records");
      page = await askJson(ofAll(`/records?${wanted}`), request.signal);
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
  const marked = few ? rows.filter((row) => !there.has(row.dataset.id)) : [];
  setTimeout(() => marked.forEach((row) => row.classList.remove("fresh")), 2500);
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
    status ? element("td", { class: "number" }, String(status)) : whole(reasonOf(record), absent(reasonOf(record).startsWith("the endpoint was not asked") ? "not asked" : "no answer")),
    element("td", { class: "number" }, duration(record.processing_time_us)),
    element("td", { class: "number" }, octets(record.size)));
}

// A cell that may be cut says all of it under the pointer.
const whole = (text, ...children) => element("td", { title: shown(text).textContent || false }, ...children);

// Why there was no answer, as the record has it: the endpoint was not reached, did not answer, or was not asked.
const reasonOf = (record) => record.server_response.body || record.reply.replace(/^\d{3} (\d\.\d+\.\d+ )?/, "");

const outcome = (name) => element("span", { class: `outcome ${name}` }, name);

// Whether a live record belongs to what is shown, as the store would say. The undelivered only the store can tell.
function matches(record, chosen) {
  const text = (name) => chosen.get(name), bare = (id) => foldText(id.replace(/^<|>$/g, ""));
  const outside = (name, before) => chosen.has(name) && !Number.isNaN(Date.parse(text(name))) && before(Date.parse(record.date), Date.parse(text(name)));
  return !outside("since", (date, since) => date < since) && !outside("until", (date, until) => date >= until)
    && (!chosen.has("outcome") || record.outcome === text("outcome"))
    && (!chosen.has("route") || record.route === text("route"))
    && (!chosen.has("status") || String(record.server_response.status) === text("status"))
    && (!chosen.has("ip") || record.sender_ip === text("ip"))
    && (!chosen.has("sender") || foldMailbox(record.sender) === foldMailbox(text("sender")))
    && (!chosen.has("recipient") || record.recipients.some((recipient) => foldMailbox(recipient) === foldMailbox(text("recipient"))))
    && (!chosen.has("message_id") || (record.message_id !== null && bare(record.message_id) === bare(text("message_id"))))
    && (!chosen.has("text") || says(record, text("text")));
}

function says(record, pasted) {
  const words = pasted.split(/[\s:=()<>[\]{},;"']+/).filter(Boolean), wanted = meant(pasted);
  if (words.some((word) => word.toUpperCase() === record.id || word.toLowerCase() === record.webhook_id) || ipOf(wanted) === record.sender_ip) return true;
  const folded = foldText(wanted), texts = [record.subject, record.message_id, record.sender, record.server_response.body, record.reply, record.webhook_id, record.sender_ip, ...record.recipients];
  return texts.some((text) => text !== null && foldText(text).includes(folded));
}

// What was pasted without what is around it, and an IP address with its brackets or port: as the daemon takes it.
const LABELS = /^(message[-_]id|subject|from|to|orig_to|mailto|sender|recipients?|sender_ip|ip|client|relay|greeting|reply|reason|response)\s*[:=]/i;

function meant(pasted) {
  const bare = (text) => text.replace(/^[\s"',;]+|[\s"',;]+$/g, "");
  const text = bare(pasted), value = bare(text.replace(LABELS, "")), inner = /^(?!\d)(.*?)<([^ <>]*@[^ <>]*)>$/.exec(value);
  return inner && (inner[1] || value !== text) ? inner[2] : value;
}

const ipOf = (text) => (/^[^\s[]*\[([^\]]+)\](:\d+)?$/.exec(text)?.[1] ?? text).replace(/^(\d+\.\d+\.\d+\.\d+):\d+$/, "$1").replace(/^::ffff:/i, "");

// Live records arrive in any number; rows change at most four times a second.
function takeLive(records) {
  // They are this box's alone.
  if (fleet.all) return;
  const chosen = filters();
  const fitting = records.filter((record) => matches(record, chosen));
  if (!fitting.length) return;
  log.waiting.push(...fitting);
  log.waiting.splice(0, log.waiting.length - MAX_ROWS);
  log.unseen += fitting.length;
  // So many that nobody reads them: the last ones, once a second.
  if (!log.timer) log.timer = setTimeout(showLive, fitting.length > CROWD ? 1000 : 250);
}

function showLive() {
  log.timer = null;
  if (!log.loaded || !log.unseen) return;
  const settled = filters().has("undelivered") || !byId("follow").checked || document.hidden;
  if (settled || isHeld()) return showNewer();
  const known = new Set(log.records.map((record) => record.id)), crowd = log.waiting.length > CROWD_ROWS;
  const fresh = log.waiting.slice(crowd ? -CROWD_ROWS : 0).filter((record) => !known.has(record.id));
  // An id is of a message's end of data: one whose endpoint is slow belongs below younger ones, where a new page would have it.
  log.records = [...fresh, ...log.records].sort((a, b) => (a.id < b.id ? 1 : -1));
  const most = crowd ? CROWD_ROWS : MAX_ROWS;
  if (log.records.length > most) {
    log.records.length = most;
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
  watchSight(rows.closest("table"), (seen) => {
    log.inView = seen;
    release();
  });
}

function showNewer() {
  byId("newer").hidden = log.unseen === 0;
  byId("newer").textContent = `Show ${number(log.unseen)} newer`;
}

// Server-sent events over fetch, which can send the token. Ends with the connection.
async function followRecords(signal) {
  // The log is asked for when the stream is open: what comes between the two is in one of them.
  const response = await ask("/records/live", { signal }).finally(() => { if (!signal.aborted) run(loadRecords); });
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

// A value that filters the log by itself.
function byValue(name, value, text = value) {
  return element("button", { type: "button", class: "quiet value", title: `Show the log of this ${name}`, onclick: () => {
    // One step back leads to the record again.
    log.leaving = byId("detail").open;
    byId("detail").close();
    filterBy({ [name]: value });
  } }, shown(text));
}

function filterBy(chosen) {
  for (const field of byId("filters").elements) if (field.name) fillIn(field, chosen[field.name] ?? null);
  byId("log").scrollIntoView();
  run(() => loadRecords());
}
