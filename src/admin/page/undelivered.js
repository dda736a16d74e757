
// Messages that no endpoint has taken or refused: how often each was tried, since when, and what was answered last.

const late = { count: null, messages: [], cursor: null, pages: 1, timer: 0 };

// A live record that puts a message on the list, or takes one from it.
const concernsLate = (record) => record.outcome === "deferred" || late.messages.some((message) => message.record.webhook_id === record.webhook_id);

// However fast they come, the list is asked for once a second at the most.
function lateChanged(count) {
  late.count = count;
  if (late.timer) return;
  late.timer = setTimeout(() => {
    late.timer = 0;
    run(loadLate);
  }, late.loaded ? 1000 : 0);
}

async function loadLate(more = false) {
  const messages = [], wanted = late.pages + (more ? 1 : 0);
  let cursor = null, pages = 0;
  do {
    const page = await askJson(ofAll(`/undelivered?limit=20${cursor ? `&cursor=${cursor}` : ""}`));
    messages.push(...page.undelivered);
    cursor = page.cursor;
    pages += 1;
  } while (cursor && pages < wanted);
  const before = late.messages.length;
  Object.assign(late, { messages, cursor, pages, loaded: true });
  showLate();
  if (more) byId("late").rows[before]?.querySelector("a")?.focus();
}

function showLate() {
  const body = byId("late"), focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const rows = late.messages.map(lateRow);
  body.replaceChildren(...(rows.length ? rows : [element("tr", {}, element("td", { colspan: 8, class: "blank" }, "None: every message was taken or refused."))]));
  if (focused) body.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  set("late-note", late.cursor ? `${number(late.messages.length)} of ${number(late.count ?? 0)}` : "");
  byId("late-more").hidden = !late.cursor;
}

function lateRow({ attempts, first_seen, last_seen, record }) {
  const status = record.server_response.status, [first = "", ...others] = record.recipients;
  const answer = status ? `${status} ${record.server_response.body}`.trim() : reasonOf(record);
  return element("tr", {},
    element("td", {}, clock(last_seen)),
    element("td", {}, clock(first_seen)),
    element("td", { class: "number" }, number(attempts), element("span", { class: "unit" }, attempts === 1 ? " attempt" : " attempts")),
    whole(record.subject ?? "", element("a", { href: `#record=${record.id}` }, subjectOf(record))),
    whole(record.sender, record.sender ? shown(record.sender) : absent("null sender")),
    whole(record.recipients.join(", "), element("span", {}, shown(first), others.length ? ` +${others.length}` : "")),
    whole(record.route, shown(record.route)),
    whole(answer, shown(answer.slice(0, 200))));
}
