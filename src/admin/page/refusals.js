
// Who was refused before there was a record. From the daemon's memory: a restart begins anew.

const refusals = { rows: [], asked: false, seen: false };
const MAX_REFUSALS = 1000;

// The counts of all, by their reasons.
function showRefusals(messages, recipients, connections) {
  const names = { ...messages, ...recipients, ...connections };
  const seen = Object.entries(names).filter(([, count]) => count);
  const list = seen.length ? seen.map(([name, count]) => element("div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, number(count)))) : [element("div", {}, element("dt", {}, "none"))];
  byId("refusals").replaceChildren(element("div", {}, element("dt", {}, "Refused since the start:")), ...list);
}

async function loadRefusals() {
  // Once at the start, so that it is there in print; then while somebody looks.
  if (!refusals.seen && refusals.asked) return;
  refusals.asked = true;
  // Rows may also have gone (an address that was forgotten), so all are asked for; they are bounded.
  const rows = (await askJson("/refusals")).refusals;
  const before = refusals.rows.map((row) => row.number).join();
  refusals.rows = rows.slice(0, MAX_REFUSALS);
  if (rows.map((row) => row.number).join() !== before || !byId("refusal-rows").rows.length) drawRefusals();
}

function drawRefusals() {
  const body = byId("refusal-rows"), wanted = foldText(byId("refused-find").value.trim());
  // Under the pointer or the focus rows stay where they are.
  if (body.matches(":hover") && body.rows.length > 1) return;
  const texts = (row) => [row.address, row.greeting, row.sender, row.recipient, row.reply].filter((text) => text !== null);
  const found = refusals.rows.filter((row) => !wanted || texts(row).some((text) => foldText(text).includes(wanted)));
  const few = found.slice(0, 200);
  fillTable("refusal-rows", few.map(refusalRow), wanted ? "No refusal matches." : "Nobody was refused since the start.");
  const more = found.length - few.length, left = found.reduce((sum, row) => sum + (row.left_out ?? 0), 0);
  set("refused-note", [more && `${number(more)} older ones: search for an address.`, left && `${number(left)} more of the same clients are only counted.`].filter(Boolean).join(" "));
}

function refusalRow(row) {
  const text = (value, none) => (value === null ? absent("not known") : value === "" ? absent(none) : shown(value));
  return element("tr", {},
    element("td", {}, clock(row.time)),
    element("td", { class: "client" }, row.address === null ? absent("not kept") : byValue("ip", row.address), row.left_out ? element("span", { class: "under" }, `and ${number(row.left_out)} before`) : ""),
    whole(row.greeting ?? "", text(row.greeting, "none")),
    whole(row.sender ?? "", text(row.sender, "null sender")),
    whole(row.recipient ?? "", text(row.recipient, "none")),
    whole(row.reply, shown(row.reply)));
}

function listenToRefusals() {
  byId("refused-find").addEventListener("input", drawRefusals);
  byId("refusal-rows").addEventListener("pointerleave", () => setTimeout(drawRefusals));
  watchSight(byId("refused"), (seen) => {
    const news = seen && !refusals.seen;
    refusals.seen = seen;
    if (news && byId("sign-in").hidden) run(loadRefusals);
  });
}
