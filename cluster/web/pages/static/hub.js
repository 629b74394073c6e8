// Draws what v1/overview answers. Totals, shares and intervals come from the hub; only their text is made here.
"use strict";
const COLOURS = {
  cardboard: "#b98552", glass: "#4aa58c", metal: "#7d8a97", paper: "#e0b64a", plastic: "#4b86c6", trash: "#5b5560",
  organic: "#7fae3a", textile: "#b4679e", e_waste: "#39656b", hazardous: "#c8462b",
  packaging: "#4b86c6", bio: "#7fae3a", weee: "#39656b", residual: "#5b5560",
  known: "#1d7a5f", unsure: "#e0b64a", unknown: "#9aa7a3", hazard: "#c8462b", fault: "#000000",
};
const REFRESH_MS = 5000;
const GRID = { left: 8, right: 18, top: 28, bottom: 4, containLabel: true };
const $ = id => document.getElementById(id);
const percent = (share, digits = 1) => (100 * share).toFixed(digits) + " %";
const plain = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);  // charts take strings for HTML
const colour = name => ({ color: COLOURS[name] });

const charts = {};
const draw = (id, option) => {
  charts[id] ??= echarts.init($(id), null, { renderer: "svg" });
  charts[id].setOption({ animation: false, textStyle: { fontFamily: "system-ui, sans-serif" }, grid: GRID, tooltip: {}, ...option }, true);
};
addEventListener("resize", () => Object.values(charts).forEach(chart => chart.resize()));

function drawCards({ items, bins, missing, diverted, known }) {
  const note = s => `${s.count} of ${s.total} items · ${$("content").dataset.confidence} interval ${percent(s.low, 0)} to ${percent(s.high, 0)}`;
  $("items").textContent = items.toLocaleString();
  $("items-note").textContent = `from ${bins} bins`;
  $("diverted").textContent = diverted ? percent(diverted.share) : "–";
  $("diverted-note").textContent = diverted ? note(diverted) : "no item went to a stream called residual";
  $("known").textContent = percent(known.share);
  $("known-note").textContent = note(known);
  $("missing").textContent = missing.toLocaleString();
  $("missing").className = missing ? "figure bad" : "figure";
}

function drawLabels(labels) {
  if (!labels.length) return;
  draw("labels", {
    tooltip: { formatter: p => `${plain(p.name)}: ${p.data.value} items, ${percent(p.data.share)}` },
    xAxis: { type: "value", minInterval: 1, max: Math.ceil(labels.at(-1).items_high) },
    yAxis: { type: "category", data: labels.map(l => l.label) },
    series: [{
      type: "bar", barMaxWidth: 22,
      data: labels.map(l => ({ value: l.items, share: l.share, itemStyle: colour(l.label) })),
      markLine: {
        symbol: "none", silent: true, label: { show: false }, lineStyle: { type: "solid", color: "#1c2a28", width: 1.5 },
        data: labels.map((l, i) => [{ coord: [l.items_low, i] }, { coord: [l.items_high, i] }]),
      },
    }],
  });
}

function drawStreams(streams) {
  draw("streams", {
    tooltip: { formatter: p => `${plain(p.name)}: ${p.value} items, ${percent(p.data.share, 2)}` },
    series: [{
      type: "pie", radius: ["48%", "74%"], center: ["50%", "52%"],
      label: { formatter: p => `${p.name} ${percent(p.data.share, 0)}` },
      data: streams.map(s => ({ name: s.stream, value: s.items, share: s.share, itemStyle: colour(s.stream) })),
    }],
  });
}

function drawHours({ hour_utc_ms, series }) {
  const clock = ms => new Date(ms).toLocaleString([], { weekday: "short", hour: "2-digit", minute: "2-digit" });
  draw("hours", {
    legend: { top: 0, itemWidth: 12, itemGap: 8 }, grid: { ...GRID, top: 52 }, tooltip: { trigger: "axis" },
    xAxis: { type: "category", data: hour_utc_ms.map(clock) },
    yAxis: { type: "value", minInterval: 1 },
    series: series.map(({ stream, items }) => ({
      name: stream, type: "bar", stack: "all", barMaxWidth: 60, itemStyle: colour(stream), data: items,
    })),
  });
}

function drawDecisions({ labels, series }) {
  const whole = share => percent(share, 0);
  draw("decisions", {
    legend: { top: 0 }, tooltip: { trigger: "axis", valueFormatter: whole },
    xAxis: { type: "category", data: labels, axisLabel: { interval: 0, rotate: labels.length > 6 ? 30 : 0 } },
    yAxis: { type: "value", max: 1, axisLabel: { formatter: whole } },
    series: series.map(({ decision, shares }) => ({
      name: decision, type: "bar", stack: "all", barMaxWidth: 34, itemStyle: colour(decision), data: shares,
    })),
  });
}

function listBins(outboxes) {
  $("bins").tBodies[0].replaceChildren(...outboxes.map(box => {
    const row = document.createElement("tr");
    const cell = (text, bad) => Object.assign(row.insertCell(), { textContent: text, className: bad ? "bad" : "" });
    cell(box.bin_id);
    cell(box.events.toLocaleString());
    cell(box.missing.toLocaleString(), box.missing > 0);
    cell(box.dropped.toLocaleString(), box.dropped > 0);
    cell(new Date(box.last_received_utc_ms).toLocaleString());
    return row;
  }));
}

async function refresh() {
  const answer = await fetch("v1/overview");
  const overview = await answer.json();
  if (!answer.ok) throw new Error(overview.error || answer.statusText);
  const { items, events_behind: behind } = overview;
  $("empty").style.display = items ? "none" : "block";
  $("content").hidden = !items;
  const late = `${behind} event${behind > 1 ? "s" : ""} received and not yet counted`;
  $("asof").textContent = !items ? "" : behind > 0 ? late : "statistics hold every event received";
  if (!items) return;
  drawCards(overview);
  drawLabels(overview.labels);
  drawStreams(overview.streams);
  drawHours(overview.hours);
  drawDecisions(overview.decisions);
  listBins(overview.outboxes);
}

async function loop() {
  try {
    await refresh();
    $("trouble").style.display = "none";
  } catch (error) {
    $("trouble").style.display = "block";
    $("trouble").textContent = `The hub does not answer as it should: ${error.message}. Trying again.`;
  }
  setTimeout(loop, REFRESH_MS);
}
loop();
