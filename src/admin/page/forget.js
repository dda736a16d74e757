
// What may be done about an address in a record: take out all there is of it, or erase it. The second asks once more.

function addressActions(address) {
  return element("span", { class: "actions" },
    element("button", { type: "button", class: "quiet", "aria-label": `Export the records of ${address}`, onclick: () => run(() => exportAddress(address)) }, "export"),
    element("button", { type: "button", class: "quiet", "aria-label": `Forget ${address}`, onclick: () => askToForget(address) }, "forget"));
}

function exportAddress(address) {
  return download(`/export?${new URLSearchParams({ address })}`, "records.jsonl");
}

async function download(path, name) {
  const response = await ask(path);
  if (!response.ok) throw new Refused(response.status, (await response.json().catch(() => ({}))).error ?? `The daemon answered ${response.status}.`);
  const copy = element("a", { href: URL.createObjectURL(await response.blob()), download: name });
  copy.click();
  setTimeout(() => URL.revokeObjectURL(copy.href));
}

function askToForget(address) {
  byId("forget-address").replaceChildren(shown(address));
  byId("forget").dataset.address = address;
  set("forget-note", "");
  byId("forget-yes").disabled = false;
  byId("forget").showModal();
  byId("forget-no").focus();
}

async function forget() {
  const address = byId("forget").dataset.address;
  byId("forget-yes").disabled = true;
  set("forget-note", "Erasing. This takes as long as the files are large.");
  try {
    const { records } = await sendJson("/forget", { address });
    set("forget-note", `Erased from ${number(records)} ${records === 1 ? "record" : "records"}.`);
    if (byId("detail").open) byId("detail").close();
    run(() => loadRecords());
    if (late.loaded) run(() => loadLate());
  } catch (error) {
    byId("forget-yes").disabled = false;
    set("forget-note", error instanceof Refused ? error.message : "No connection to the daemon.");
  }
}

function listenToForget() {
  byId("forget-yes").addEventListener("click", () => run(forget));
}
