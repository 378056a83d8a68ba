// What `side-by-side.sh` has recorded, held against what Tidegate is to reach.
//
// node bars.mjs DIRECTORY
//
// A figure is the median over the rounds, a ratio the quotient of two medians. The floor is the C program that sends
// each message by itself. A bar of bytes is in thousands of them.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const delivery = "server CPU, us per delivery";
const connection = "server CPU, us per connection";
const resident = "resident bytes per connection";

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
  ["crossnode-1000x4", "node B CPU, us per delivery", "us per delivery, B", { absolute: 1.8 }],
  ["crossnode-10x500", "all together CPU, us per publish", "us per publish, all", { absolute: 160 }],
];

const directory = process.argv[2];
if (!directory) {
  console.error("usage: node bars.mjs DIRECTORY");
  process.exit(64);
}

/** The records of a row, by label. */
function recorded(row) {
  const file = join(directory, `${row}.jsonl`);
  const byLabel = new Map();
  if (!existsSync(file)) return byLabel;
  for (const line of readFileSync(file, "utf8").split("\n").filter(Boolean)) {
    const record = JSON.parse(line);
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
  return values.length ? median(values) : undefined;
}

const shown = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(value < 10 ? 2 : 1));

const times = (ratio) => ratio.toFixed(ratio < 1 ? 3 : 2);

const table = [["row", "figure", "bar", "", "tidegate"]];
const labels = new Set();
const faults = [];
for (const [row] of bars) for (const label of recorded(row).keys()) labels.add(label);
labels.delete("tidegate");
table[0].push(...labels);

for (const [row, figure, name, { ratio, absolute }] of bars) {
  const records = recorded(row);
  if (!records.size) continue;
  const floor = measured(records.get("floor"), figure);
  const ours = measured(records.get("tidegate"), figure);
  const cell = (label) => {
    const value = measured(records.get(label), figure);
    if (value === undefined) return "-";
    // A ratio to a floor of a few bytes says nothing.
    const isHeld = floor > 0 && label !== "floor" && figure !== resident;
    return isHeld ? `${shown(value)} (${times(value / floor)})` : shown(value);
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
  const isKnown = outcomes.length > 0 && !outcomes.includes(undefined);
  const outcome = isKnown ? (outcomes.every(Boolean) ? "met" : "NOT MET") : "";
  table.push([row, name, wanted.join(", ") || "-", outcome, cell("tidegate"), ...[...labels].map(cell)]);
}

for (const row of new Set(bars.map(([row]) => row))) {
  for (const [label, records] of recorded(row)) {
    const sums = {};
    for (const { faults } of records) {
      for (const [name, count] of Object.entries(faults)) if (count) sums[name] = (sums[name] ?? 0) + count;
    }
    const told = Object.entries(sums).map(([name, count]) => `${count.toLocaleString("en")} ${name}`);
    if (told.length) faults.push(`  ${row}, ${label}: ${told.join(", ")} in ${records.length} runs`);
  }
}

const widths = table[0].map((_, column) => Math.max(...table.map((line) => line[column].length)));
for (const line of table) {
  console.log(line.map((cell, column) => cell.padEnd(widths[column])).join("  ").trimEnd());
}
console.log("(n): times the floor's. A figure is the median of the rounds.");
console.log(faults.length ? `\nLost, repeated or out of order:\n${faults.join("\n")}` : "\nNothing was lost, repeated or out of order.");
