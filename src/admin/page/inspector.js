
// The inspector of the development configuration: the last requests, one of them readably.

const inspector = { open: document.documentElement.dataset.inspector === "true", shown: null, newest: 0, raw: false, request: null };

async function loadRequests() {
  if (!inspector.open) return;
  const { requests } = await askJson("/inspector/requests");
  const list = byId("requests");
  if (!requests.length) {
    list.replaceChildren(element("li", { class: "blank" }, "No request yet."));
    byId("request").replaceChildren(element("p", { class: "blank" }, "Send a message with ", element("code", {}, "mailsluice send"), " and read here what an endpoint gets."));
    return;
  }
  // The newest is shown until the reader chooses another.
  const follow = inspector.shown === null || inspector.shown === inspector.newest;
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.number : null;
  inspector.newest = requests[0].number;
  if (follow && inspector.shown !== inspector.newest) await showRequest(inspector.newest);
  list.replaceChildren(...requests.map(requestItem));
  if (focused) list.querySelector(`[data-number="${focused}"]`)?.focus({ preventScroll: true });
}

function requestItem(request) {
  const button = element("button", { type: "button", "data-number": request.number, "aria-current": request.number === inspector.shown && "true", onclick: () => showRequest(request.number) },
    element("span", {}, clock(request.date)),
    element("span", { class: "what" }, request.subject === null || request.subject === undefined ? shown((request.content_type ?? "no type").split(";")[0]) : shown(request.subject), ...(request.recipient ? [" to ", shown(request.recipient)] : [])),
    element("span", { class: "status" }, `${request.status}  ${octets(request.size)}`));
  return element("li", {}, button);
}

// What the next messages are answered: a status, or a pause before the 200.
async function answerNext(event) {
  const [status, delay] = event.target.value.split(" after ");
  await sendJson("/inspector/next", { status: Number(status), delay_ms: Number(delay ?? 0) });
  announce(`The next messages are answered ${event.target.selectedOptions[0].textContent}`);
}

// By the daemon's own SMTP door, as any mail.
async function sendSample() {
  byId("send-sample").disabled = true;
  set("sample-note", "Sending");
  try {
    const { reply } = await sendJson("/inspector/sample", {});
    byId("sample-note").replaceChildren("The sender was told: ", shown(reply));
    await loadRequests();
  } catch (error) {
    if (!(error instanceof Refused) || error.status === 401) throw error;
    set("sample-note", error.message);
  } finally {
    byId("send-sample").disabled = false;
  }
}

async function showRequest(wanted) {
  inspector.shown = wanted;
  for (const button of byId("requests").querySelectorAll("button")) {
    button.dataset.number === String(wanted) ? button.setAttribute("aria-current", "true") : button.removeAttribute("aria-current");
  }
  try {
    const request = await askJson(`/inspector/requests/${wanted}`);
    // Another one has been chosen meanwhile.
    if (inspector.shown !== wanted) return;
    inspector.request = request;
    byId("request").replaceChildren(...requestOf(request));
  } catch (error) {
    if (inspector.shown === wanted) byId("request").replaceChildren(element("p", { class: "problem" }, error instanceof Refused ? error.message : "No connection to the daemon."));
  }
}

function requestOf(request) {
  const copy = element("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => copyText(request.curl, copy));
  const nodes = [
    element("h3", {}, "Send it again"),
    element("div", { class: "curl" }, element("pre", { tabindex: 0, "aria-label": "curl line" }, shown(request.curl)), copy),
  ];
  if (request.truncated) nodes.push(element("p", { class: "note" }, `The inspector kept the first ${octets(1024 * 1024)} of ${octets(request.size)}.`));
  for (const part of request.parts) nodes.push(...partOf(part, request.parts.length === 1));
  nodes.push(element("h3", {}, `POST ${request.path}, answered ${request.status}`), facts(request.headers.map(([name, value]) => [name, shown(value)])));
  return nodes;
}

function partOf(part, only) {
  const json = only ? parsed(part) : null;
  if (json) return [forms(), ...(inspector.raw ? [element("pre", { tabindex: 0, class: "sent", "aria-label": "The body as it was sent" }, shown(part.text, true))] : jsonParts(json))];
  const title = element("h3", {}, only ? "Body" : shown(part.name ?? "unnamed"));
  const about = [part.file_name && shown(part.file_name), part.content_type && shown(part.content_type), octets(part.size)].filter(Boolean);
  const note = element("p", { class: "note" });
  about.forEach((node, i) => note.append(i ? ", " : "", node));
  if (part.text === null) return [title, note];
  const short = !only && part.size < 200 && !part.content_type;
  return short ? [title, element("p", {}, shown(part.text))] : [title, note, element("pre", { tabindex: 0 }, shown(part.text, true)), ...(part.cut ? [element("p", { class: "note" }, "Cut here.")] : [])];
}

// Field by field, or as it was sent.
function forms() {
  const choice = (raw, name) => element("label", {}, element("input", { type: "radio", name: "form", checked: inspector.raw === raw, onchange: () => {
    inspector.raw = raw;
    byId("request").replaceChildren(...requestOf(inspector.request));
    byId("request").querySelector("[name=form]:checked").focus();
  } }), ` ${name}`);
  return element("fieldset", { class: "choice forms" }, element("legend", { class: "unseen" }, "The body"), choice(false, "by fields"), choice(true, "as it was sent"));
}

function parsed(part) {
  if (!part.text || part.cut || !/json/i.test(part.content_type ?? "")) return null;
  try {
    const value = JSON.parse(part.text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

// A message as JSON, field by field: tables for what has names, the texts as texts.
function jsonParts(value) {
  const nodes = [];
  for (const [name, field] of Object.entries(value)) {
    nodes.push(element("h3", {}, shown(name)));
    if (typeof field === "string") nodes.push(field ? element("pre", { tabindex: 0 }, shown(field, true)) : element("p", {}, absent("empty")));
    else if (Array.isArray(field)) nodes.push(...(field.length ? field.map((item) => (typeof item === "object" && item ? facts(fields(item)) : element("p", {}, shown(String(item))))) : [element("p", {}, absent("none"))]));
    else if (typeof field === "object" && field) nodes.push(facts(fields(field)));
    else nodes.push(element("p", {}, String(field)));
  }
  return nodes;
}

function fields(item) {
  return Object.entries(item).map(([name, value]) => {
    const values = Array.isArray(value) ? value : [value];
    const cell = element("span", { class: "lines" });
    for (const one of values) {
      const text = typeof one === "string" ? one : JSON.stringify(one);
      cell.append(element("span", {}, text === "" ? absent("empty") : shown(text.length > 2000 ? `${text.slice(0, 120)} … ${number(text.length)} characters` : text)));
    }
    return [shown(name), values.length ? cell : absent("none")];
  });
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure context there is no clipboard: select it, so that one key copies it.
    const range = document.createRange();
    range.selectNodeContents(button.previousElementSibling);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return announce("Selected: copy it with your keyboard.");
  }
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => (button.textContent = "Copy"), 2000);
}
