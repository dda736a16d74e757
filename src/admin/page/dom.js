
// Elements, text and numbers. Whatever comes from a message goes through shown(): always a text node, isolated from the
// direction of the text around it, with every invisible or control character written out.

const byId = (id) => document.getElementById(id);

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function drawing(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Tells whether an element is in the window, at each change. A busy page hears of several changes at once: the last one counts.
const watchSight = (target, tell) => new IntersectionObserver((changes) => tell(changes.at(-1).isIntersecting)).observe(target);

// C0 and C1 controls, soft hyphen, bidi and zero-width controls, line separators, tags.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/u;
const INVISIBLE_BUT_LINES = /(?![\n\t])(?:[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e007f}])/u;

function shown(text, lines = false) {
  const isolated = element("bdi", { dir: "auto" });
  let rest = lines ? text.replaceAll("\r\n", "\n") : text;
  const invisible = lines ? INVISIBLE_BUT_LINES : INVISIBLE;
  for (let found = invisible.exec(rest); found; found = invisible.exec(rest)) {
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    isolated.append(rest.slice(0, found.index), element("span", { class: "control" }, `U+${code}`));
    rest = rest.slice(found.index + found[0].length);
  }
  isolated.append(rest);
  return isolated;
}

const absent = (text) => element("span", { class: "absent" }, text);

function number(value) {
  return value.toLocaleString("en", { maximumFractionDigits: 0 }).replaceAll(",", "\u2009");
}

function threeDigits(value) {
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function duration(us) {
  if (us < 1000) return `${Math.round(us)}\u202fµs`;
  if (us < 1e6) return `${threeDigits(us / 1e3)}\u202fms`;
  if (us < 6e7) return `${threeDigits(us / 1e6)}\u202fs`;
  return `${threeDigits(us / 6e7)}\u202fmin`;
}

function octets(count) {
  if (count < 1024) return `${count}\u202fB`;
  for (const unit of ["KiB", "MiB", "GiB"]) {
    count /= 1024;
    if (count < 1024) return `${threeDigits(count)}\u202f${unit}`;
  }
  return `${threeDigits(count / 1024)}\u202fTiB`;
}

const perSecond = (rate) => (rate > 0 && rate < 100 ? rate.toFixed(1) : number(Math.round(rate)));

function since(seconds) {
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

// The clock that the page's times are of: summer ends, and readers travel.
const zone = () => `${Intl.DateTimeFormat().resolvedOptions().timeZone}, ${new Date().toLocaleTimeString("en-GB", { timeZoneName: "shortOffset" }).split(" ").pop()}`;

// When the zone or the day is another one, what is there is told anew.
const told = { zone: "", day: "" };

function tellTimes() {
  const now = { zone: zone(), day: new Date().toDateString() };
  if (now.zone === told.zone && now.day === told.day) return;
  Object.assign(told, now);
  set("zone", `· times are ${now.zone}`);
  for (const node of document.querySelectorAll("time:not(#detail *)")) node.textContent = clock(node.dateTime).textContent;
}

// A record's moment in the reader's own time; the day too when it is not today.
function clock(date) {
  const moment = new Date(date);
  const time = moment.toLocaleTimeString("en-GB");
  const text = moment.toDateString() === new Date().toDateString() ? time : `${moment.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time.slice(0, 5)}`;
  return element("time", { datetime: date, title: date }, text);
}

// As the store compares texts: each letter in lower case by itself.
function foldText(text) {
  return /^[\x00-\x7f]*$/.test(text) ? text.toLowerCase() : Array.from(text, (letter) => letter.toLowerCase()).join("");
}

// As the store compares local parts: by Unicode's case folding, composed or not.
function foldLocal(text) {
  return text.normalize("NFD").toUpperCase().toLowerCase().replaceAll("ς", "σ").normalize("NFC");
}

// As the store compares mailboxes: the domain as an A-label, the local part without quotes that it does not need.
function foldMailbox(text) {
  const at = text.lastIndexOf("@");
  const local = foldLocal(text.slice(0, at < 0 ? text.length : at)).replace(/^"([^"\\\s]+)"$/, "$1");
  return at < 0 ? local : `${local}@${foldDomain(text.slice(at + 1))}`;
}

function foldDomain(text) {
  const domain = text.replace(/\.$/, "");
  try {
    return /^[\w.-]+$/.test(domain) && !/xn--/i.test(domain) ? domain.toLowerCase() : new URL(`//${domain}/`, location.href).hostname;
  } catch {
    return domain.toLowerCase();
  }
}

function set(id, text) {
  const node = byId(id);
  if (node.textContent !== text) node.textContent = text;
}

// The rows of a table, or one sentence; on a narrow screen, where each is a card, a cell bears its column's name. What has not changed
// stays where it is, and so does the focus.
function fillTable(id, rows, none) {
  const body = byId(id), columns = [...body.closest("table").tHead.rows[0].cells].map((cell) => cell.textContent);
  for (const row of rows) [...row.cells].forEach((cell, i) => (cell.dataset.column = columns[i]));
  const wanted = rows.length ? rows : [element("tr", {}, element("td", { colspan: columns.length, class: "blank" }, none))];
  const parts = (row) => [...row.querySelectorAll("a, button")];
  wanted.forEach((row, i) => {
    const before = body.rows[i];
    if (!before) return body.append(row);
    if (before.isEqualNode(row)) return;
    const focused = parts(before).indexOf(document.activeElement);
    before.replaceWith(row);
    parts(row)[focused]?.focus({ preventScroll: true });
  });
  while (body.rows.length > wanted.length) body.rows[wanted.length].remove();
}

function announce(text) {
  byId("announce").textContent = text;
}

// Asks the daemon. Throws Refused with the daemon's own sentence, or a TypeError when there is no connection.
class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

const session = {
  get token() { return sessionStorage.getItem("token"); },
  set token(token) { token ? sessionStorage.setItem("token", token) : sessionStorage.removeItem("token"); },
};

async function ask(path, options = {}) {
  const token = session.token, authorization = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers: { ...options.headers, ...authorization }, credentials: "omit" });
  // An answer to a token that is another one by now concerns nobody: it must not sign out who has signed in meanwhile.
  if (response.status === 401 && token !== session.token) throw new DOMException("asked with another token", "AbortError");
  return response;
}

function askJson(path, signal) {
  return jsonOf(ask(path, { signal }));
}

function sendJson(path, body) {
  return jsonOf(ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }));
}

async function jsonOf(asked) {
  const response = await asked;
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, value.error ?? `The daemon answered ${response.status}.`);
  return value;
}
