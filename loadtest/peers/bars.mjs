// What `side-by-side.sh` has recorded, held against what Tidegate is to reach.
//
// node bars.mjs DIRECTORY [CORES]
//
// A figure is the median over the rounds, a ratio the quotient of two medians. The floor is the C program that sends
// each message by itself. CORES is on how many the server ran: bars are for one. With more it is not judged, and told
// instead how its threads have shared the work.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const delivery = "server CPU, us per delivery";
const connection = "server CPU, us per connection";
const resident = "resident bytes per connection";
// No figure of the tool's, but the sum of a record's faults.
const losses = "losses";

// Tidegate over TLS is told apart: what it is compared with is Tidegate without.
const secure = "tidegate-tls";

// The row, the figure in its records, how it is called here, and the bars: in multiples of the floor, or as it is.
const bars = [
  ["fanout-1000x1", delivery, "us per delivery", { ratio: 1.2 }],
  ["fanout-5000x1", delivery, "us per delivery", { ratio: 1.5 }],
  ["fanout-1000x8", delivery, "us per delivery", { ratio: 0.22 }],
  ["fanout-5000x8", delivery, "us per delivery", { ratio: 0.22 }],
  ["rooms", delivery, "us per delivery", { ratio: 0.35 }],
  ["acks", "server CPU, us per round trip", "us per round trip", { absolute: 9, ratio: 1.6 }],
  ["idle", connection, "us per connect", { absolute: 80 }],
  ["idle", resident, "bytes each", { absolute: 2000 }],
  ["idle", resident, "bytes each, then", { absolute: 1200 }],
  ["idle-polling", resident, "bytes each", { absolute: 12000 }],
  ["churn", "server CPU, us per connect", "us per connection, ended", {}],
  ["slow", "latency, all read p99, us", "us p99, all read", {}],
  ["slow", "latency, some stalled p99, us", "us p99 of the others", {}],
  ["slow", "server memory before, MiB", "MiB before", {}],
  ["slow", "server memory peak, MiB", "MiB at most", {}],
  ["slow", "stalled, closed by the server", "stalled, closed", {}],
  ["slow", "stalled, still open", "stalled, still open", {}],
  ["slow", losses, "lost of the others", { absolute: 0 }],
  ["crossnode-1000x4", "node B CPU, us per delivery", "us per delivery, B", { absolute: 1.8 }],
  ["crossnode-10x500", "all together CPU, us per publish", "us per publish, all", { absolute: 160 }],
];

const directory = process.argv[2];
const cores = Number(process.argv[3] ?? 1);
if (!directory || !(cores >= 1)) {
  console.error("usage: node bars.mjs DIRECTORY [CORES]");
  process.exit(64);
}

/** The records of a row, by label. */
function recorded(row) {
  const file = join(directory, `${row}.jsonl`);
  const byLabel = new Map();
  if (!existsSync(file)) return byLabel;
  for (const line of readFileSync(file, "utf8").split("\n").filter(Boolean)) {
    const record = JSON.parse(line);
    record.figures[losses] = Object.values(record.faults).reduce((sum, count) => sum + count, 0);
    byLabel.set(record.label, [...(byLabel.get(record.label) ?? []), record]);
  }
  return byLabel;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function measured(records, figure) {
  const values = (records ?? []).map(({ figures }) => figures[figure]).filter(Number.isFinite);
  if (!values.length) return undefined;
  // What was lost once was lost.
  return figure === losses ? Math.max(...values) : median(values);
}

function shown(value) {
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toFixed(value < 10 ? 2 : 1);
}

const times = (ratio) => ratio.toFixed(ratio < 1 ? 3 : 2);

// A ratio to a floor of a few bytes says nothing.
const isHeld = (floor, figure) => floor > 0 && figure !== resident;

function print(table) {
  const widths = table[0].map((_, column) => Math.max(...table.map((line) => line[column].length)));
  for (const line of table) {
    console.log(line.map((cell, column) => cell.padEnd(widths[column])).join("  ").trimEnd());
  }
}

const table = [["row", "figure", "bar", "", "tidegate"]];
const overTls = [["over TLS", "figure", "tidegate", secure, "x floor", "x tidegate"]];
const labels = new Set();
const faults = [];
for (const [row] of bars) for (const label of recorded(row).keys()) labels.add(label);
labels.delete("tidegate");
labels.delete(secure);
table[0].push(...labels);

for (const [row, figure, name, { ratio, absolute }] of bars) {
  const records = recorded(row);
  if (![...records.keys()].some((label) => label !== secure)) continue;
  const floor = measured(records.get("floor"), figure);
  const ours = measured(records.get("tidegate"), figure);
  const cell = (label) => {
    const value = measured(records.get(label), figure);
    if (value === undefined) return "-";
    return isHeld(floor, figure) && label !== "floor" ? `${shown(value)} (${times(value / floor)})` : shown(value);
  };
  const wanted = [];
  const outcomes = [];
  if (absolute !== undefined) {
    wanted.push(`<= ${absolute}`);
    outcomes.push(ours === undefined ? undefined : ours <= absolute);
  }
  if (ratio !== undefined) {
    wanted.push(`<= ${ratio.toFixed(2)} x floor`);
    outcomes.push(ours === undefined || !(floor > 0) ? undefined : ours / floor <= ratio);
  }
  const isKnown = cores === 1 && outcomes.length > 0 && !outcomes.includes(undefined);
  const outcome = isKnown ? (outcomes.every(Boolean) ? "met" : "NOT MET") : "";
  table.push([row, name, wanted.join(", ") || "-", outcome, cell("tidegate"), ...[...labels].map(cell)]);
}

const seen = new Set();
for (const [row, figure, name] of bars) {
  const records = recorded(row);
  const value = measured(records.get(secure), figure);
  if (value === undefined || seen.has(row + figure)) continue;
  seen.add(row + figure);
  const floor = measured(records.get("floor"), figure);
  const without = measured(records.get("tidegate"), figure);
  const toFloor = isHeld(floor, figure) ? times(value / floor) : "-";
  const toWithout = without > 0 && figure !== losses ? times(value / without) : "-";
  overTls.push([row, name, without === undefined ? "-" : shown(without), shown(value), toFloor, toWithout]);
}

const rows = [...new Set(bars.map(([row]) => row))];

/** What each thread of the server has carried, the busiest first; a share of one is not in the records. */
function shares(records) {
  if (!records) return "-";
  const all = [];
  for (;;) {
    const share = measured(records, `server thread ${all.length + 1}, share of its CPU`);
    if (share === undefined) break;
    all.push(share.toFixed(2));
  }
  return all.join(" + ") || "1";
}

const everyone = ["tidegate", secure, ...labels].filter((label) => rows.some((row) => recorded(row).has(label)));
const byThread = [[`threads on ${cores} cores`, ...everyone]];
// On one core there is nothing to share.
for (const row of cores > 1 ? rows : []) {
  const records = recorded(row);
  const line = everyone.map((label) => shares(records.get(label)));
  if (line.some((cell) => cell.includes("+"))) byThread.push([row, ...line]);
}

for (const row of rows) {
  for (const [label, records] of recorded(row)) {
    const sums = {};
    for (const { faults } of records) {
      for (const [name, count] of Object.entries(faults)) if (count) sums[name] = (sums[name] ?? 0) + count;
    }
    const told = Object.entries(sums).map(([name, count]) => `${count.toLocaleString("en")} ${name}`);
    if (told.length) faults.push(`  ${row}, ${label}: ${told.join(", ")} in ${records.length} runs`);
  }
}

if (table.length > 1) {
  print(table);
  console.log("(n): times the floor's. A figure is the median of the rounds; of what was lost it is the most.");
}
if (overTls.length > 1) {
  if (table.length > 1) console.log();
  print(overTls);
  console.log("x: times the floor's, and those of Tidegate without TLS. There are no bars for it.");
}
if (byThread.length > 1) {
  console.log();
  print(byThread);
  console.log("Shares of the server's CPU, the busiest thread first; 1 is a single thread.");
}
if (cores > 1) console.log("\nBars are for one core, and were not judged.");
console.log(faults.length ? `\nLost, repeated or out of order:\n${faults.join("\n")}` : "\nNothing was lost, repeated or out of order.");
