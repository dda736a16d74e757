
// All boxes, where this one is in a fleet: the log and the undelivered come from the fleet's database then, with where each box stands.

const BOXES_EVERY = 10_000;
const fleet = { all: false, there: false, timer: 0, boxes: [] };

// What is asked of this box, or of all.
const ofAll = (path) => (fleet.all ? `${path}${path.includes("?") ? "&" : "?"}fleet=1` : path);

function showFleet(sinks) {
  const there = Boolean(sinks?.postgres);
  if (there === fleet.there) return;
  fleet.there = there;
  byId("scope").hidden = !there;
  if (!there && fleet.all) chooseBoxes("");
}

function chooseBoxes(chosen) {
  byId("boxes-shown").value = chosen;
  fleet.all = chosen === "all";
  byId("boxes").hidden = !fleet.all;
  clearInterval(fleet.timer);
  fleet.timer = fleet.all ? setInterval(() => document.hidden || run(refreshBoxes), BOXES_EVERY) : 0;
  log.records = [];
  run(loadRecords);
  run(loadLate);
  run(loadReport);
  if (fleet.all) run(loadBoxes);
}

// Nobody tells what comes on other boxes: it is asked for, unless somebody reads.
async function refreshBoxes() {
  await loadBoxes();
  if (!isHeld() && byId("follow").checked && log.records.length <= 50) await loadRecords();
  await loadLate();
}

async function loadBoxes() {
  const { boxes, undelivered } = await askJson("/fleet");
  fleet.boxes = boxes;
  fillTable("box-rows", boxes.map((box) => element("tr", {},
    element("th", { scope: "row" }, shown(box.name)),
    element("td", {}, `${since(box.silent_seconds)} ago`),
    element("td", { class: "number" }, number(box.behind_records)),
    element("td", { class: "number" }, box.behind_seconds ? since(box.behind_seconds) : "–"),
    element("td", { class: "number" }, number(box.lost_records)),
    element("td", {}, shown(box.version)))), "No box has been heard of.");
  const behind = boxes.filter((box) => box.behind_seconds > 0).length;
  set("boxes-note", `${undelivered === null ? "" : `${number(undelivered)} undelivered on all boxes; `}${behind ? `${behind} of ${boxes.length} behind: what they have not brought yet is missing here` : "all boxes have brought what they have"}`);
}
