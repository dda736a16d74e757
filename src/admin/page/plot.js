
// Plots: drawn at the size they have on the screen, again when that changes.

const STAGES = ["total", "receive", "queue", "forward", "store", "tls_handshake", "session"];
const STAGE_NAMES = { total: "total", receive: "receive", queue: "queue", forward: "forward", store: "store", tls_handshake: "TLS handshake", session: "session" };

class Plot {
  constructor(id, draw) {
    this.box = byId(id);
    this.draw = draw;
    this.data = null;
    new ResizeObserver(() => this.show(this.data)).observe(this.box);
  }

  show(data) {
    this.data = data;
    const width = this.box.clientWidth, height = this.box.clientHeight;
    if (!data || !width) return;
    const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": data.label });
    this.draw(svg, data, { left: 70, right: width - 14, top: 8, bottom: height - 20, width, height });
    this.box.replaceChildren(svg);
  }
}

const line = (x1, y1, x2, y2, name = "grid") => drawing("line", { x1, y1, x2, y2, class: name });
const label = (x, y, anchor, text, name = "") => drawing("text", { x, y, "text-anchor": anchor, class: name }, text);

function nothing(svg, area, text) {
  svg.append(label((area.left + area.right) / 2, (area.top + area.bottom) / 2, "middle", text, "none"));
}

// Round steps, about `wanted` of them, from 0 to at least `top`.
function steps(top, wanted) {
  const rough = top / wanted, magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = magnitude * [1, 2, 5, 10].find((factor) => factor * magnitude >= rough);
  return Array.from({ length: Math.ceil(top / step - 1e-9) + 1 }, (_, i) => i * step);
}

// 1, 10, 100 …, with 2 and 5 between them when there is room.
function decades(lowest, highest) {
  const first = Math.floor(Math.log10(lowest)), last = Math.ceil(Math.log10(highest) + 1e-9);
  const between = last - first <= 2 ? [1, 2, 5] : [1];
  const marks = [];
  for (let exponent = first; exponent < last; exponent++) marks.push(...between.map((factor) => factor * 10 ** exponent));
  return [...marks, 10 ** last];
}

// A scale of durations, with its lines and labels drawn; gives back microseconds -> y.
function timeScale(svg, area, lowest, highest, logarithmic, wanted) {
  const marks = logarithmic ? decades(Math.max(lowest, 1), Math.max(highest, 2)) : steps(Math.max(highest, 1), wanted);
  const [from, to] = [marks[0], marks.at(-1)];
  const position = logarithmic ? (us) => Math.log(Math.max(us, from) / from) / Math.log(to / from) : (us) => us / to;
  const y = (us) => area.bottom - position(us) * (area.bottom - area.top);
  for (const mark of marks) {
    svg.append(line(area.left, y(mark), area.right, y(mark)), label(area.left - 8, y(mark) + 4, "end", roundDuration(mark)));
  }
  return y;
}

const trimmed = (value) => String(Number(value.toPrecision(3)));

function roundDuration(us) {
  if (us < 1e3) return `${trimmed(us)}\u202fµs`;
  return us < 1e6 ? `${trimmed(us / 1e3)}\u202fms` : `${trimmed(us / 1e6)}\u202fs`;
}

// HdrHistogram's plot: the axis of percentiles is logarithmic in 1/(1 - p), so that each step to the right is a ten times
// rarer message. The point at 100 % lies nowhere on it; each curve ends at its highest finite level, which is the maximum.
function drawPercentiles(svg, { curves, logarithmic }, whole) {
  const area = { ...whole, bottom: whole.bottom - 14 };
  const drawn = curves.filter((curve) => curve.points.length > 1);
  if (!drawn.length) return nothing(svg, area, "No durations in this window yet");
  const nines = (percentile) => -Math.log10(1 - percentile / 100);
  const all = drawn.flatMap((curve) => curve.points);
  const last = Math.max(2, Math.ceil(Math.max(...all.map((point) => nines(point.percentile)))));
  const y = timeScale(svg, area, Math.min(...all.map((p) => p.value_us)), Math.max(...all.map((p) => p.value_us)), logarithmic, 6);
  const x = (percentile) => area.left + (nines(percentile) / last) * (area.right - area.left);
  let free = Infinity;
  for (const mark of [99.9999, 99.999, 99.99, 99.9, 99, 90, 50, 0].filter((mark) => nines(mark) <= last + 1e-9)) {
    svg.append(line(x(mark), area.top, x(mark), area.bottom));
    const text = `${mark}\u202f%`, half = text.length * 3.4, atEnd = x(mark) + half > area.width;
    const [from, to] = atEnd ? [x(mark) - 2 * half, x(mark)] : [x(mark) - half, x(mark) + half];
    if (to > free - 6) continue;
    svg.append(label(x(mark), area.bottom + 15, atEnd ? "end" : "middle", text));
    free = from;
  }
  upright(svg, area, `duration${logarithmic ? ", log" : ""}`);
  svg.append(label((area.left + area.right) / 2, area.bottom + 29, "middle", "share of messages that took no longer", "axis"));
  for (const curve of drawn) {
    const points = curve.points.map((point) => `${x(point.percentile).toFixed(1)},${y(point.value_us).toFixed(1)}`).join(" ");
    svg.append(drawing("polyline", { points, class: `curve s${curve.index}` }));
  }
  readAtPointer(svg, drawn, area, last);
}

// The values under the pointer, in words below the plot. The table holds the same for whoever has no pointer.
function readAtPointer(svg, curves, area, last) {
  const cursor = line(0, area.top, 0, area.bottom, "cursor");
  const hide = () => {
    cursor.remove();
    set("readout", "Point at the plot to read it at any percentile.");
  };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    if (at < area.left || at > area.right) return hide();
    const percentile = 100 * (1 - 10 ** (-(at - area.left) / (area.right - area.left) * last));
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    svg.append(cursor);
    const values = curves.map((curve) => `${STAGE_NAMES[STAGES[curve.index]]} ${duration((curve.points.find((point) => point.percentile >= percentile) ?? curve.points.at(-1)).value_us)}`);
    set("readout", `${percentile.toFixed(percentile < 99 ? 1 : percentile < 99.9 ? 2 : 4)}\u202f%:  ${values.join("   ")}`);
  });
  hide();
}

// Steps of time up to the running one, at the right edge; the reader's clock below, and what it is of.
function stepScale(svg, area, series) {
  const slot = (area.right - area.left) / series.steps, every = series.steps / (area.width > 420 ? 4 : 2);
  for (let age = series.steps; age >= 0; age -= every) {
    const x = area.right - age * slot;
    const time = stepStart(series, age - 1).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
    svg.append(line(x, area.top, x, area.bottom), label(x, area.bottom + 15, age === 0 ? "end" : age === series.steps ? "start" : "middle", age ? time : "now"));
  }
  svg.append(label((area.left + area.right) / 2, area.bottom + 29, "middle", `time of day, ${zone()}`, "axis"));
  return { slot, left: (point) => area.right - (point.age + 1) * slot };
}

// What the vertical axis counts.
function upright(svg, area, text) {
  const y = (area.top + area.bottom) / 2;
  svg.append(drawing("text", { x: 10, y, "text-anchor": "middle", class: "axis", transform: `rotate(-90 10 ${y})` }, text));
}

function drawTraffic(svg, { series }, whole) {
  const area = { ...whole, bottom: whole.bottom - 14 }, { points } = series;
  const kinds = ["delivered", "deferred", "rejected", "refused"], count = (point, kind) => point[kind] ?? 0;
  const totals = points.map((point) => kinds.reduce((sum, kind) => sum + count(point, kind), 0));
  const { slot, left } = stepScale(svg, area, series);
  const marks = steps(Math.max(...totals, 1), 3).filter((mark) => Number.isInteger(mark));
  const top = marks.at(-1) || 1;
  const height = (number) => (number / top) * (area.bottom - area.top);
  upright(svg, area, `messages / ${series.span === "day" ? "15 min" : "min"}`);
  for (const mark of marks) {
    const y = area.bottom - height(mark);
    svg.append(line(area.left, y, area.right, y), label(area.left - 8, y + 4, "end", number(mark)));
  }
  if (!totals.some((total) => total)) return nothing(svg, area, `No mail in the last ${series.span}${series.complete ? "" : " as far as it has been read"}`);
  for (const point of points) {
    let y = area.bottom;
    for (const kind of kinds) {
      if (!count(point, kind)) continue;
      const tall = Math.max(height(count(point, kind)), 1);
      y -= tall;
      svg.append(drawing("rect", { x: left(point) + slot * 0.1, y, width: Math.max(slot * 0.8, 1), height: tall, class: `bar ${kind}${point.age ? "" : " running"}` }));
    }
  }
}

function drawDurations(svg, { series, stage }, whole) {
  const area = { ...whole, bottom: whole.bottom - 14 };
  const seen = series.points.filter((point) => point.latency[stage]?.p99_us > 0);
  const { slot, left } = stepScale(svg, area, series);
  upright(svg, area, "duration, log");
  if (!seen.length) return nothing(svg, area, `No durations of this stage in the last ${series.span}`);
  const y = timeScale(svg, area, Math.min(...seen.map((p) => p.latency[stage].p50_us)), Math.max(...seen.map((p) => p.latency[stage].p99_us)), true, 3);
  for (const [key, name] of [["p50_us", "curve time s3"], ["p99_us", "curve time s5"]]) {
    let path = "", before = null;
    for (const point of seen) {
      // A step without mail interrupts the line.
      const joined = before !== null && before - point.age === 1;
      path += `${joined ? "L" : "M"}${(left(point) + slot / 2).toFixed(1)} ${y(point.latency[stage][key]).toFixed(1)}h0.01`;
      before = point.age;
    }
    svg.append(drawing("path", { d: path, class: name, "stroke-linecap": "round" }));
  }
}
