// Whether the unit tests would notice: every alert is changed in small ways, and each time some test must fail.
//
//   node mutants.mjs DIR      DIR is for copies; whoever calls removes it
//
// A `for` that is left out or doubled, a threshold that is twice or half as much, a comparison that is always true or
// never, one word of a list left out.

import { execFile } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { stringify } from 'yaml';
import { alerts, cases, recordings } from './lib/files.mjs';
import { selectors } from './lib/promql.mjs';
import { Report } from './lib/report.mjs';

const run = promisify(execFile);
const [dir] = process.argv.slice(2);
const COMPARISON = /(?<![=!])(==|>=|<=|>|<)( on \([a-z, ]+\))? ([0-9.]+)/g;

/** `expr` with the text of one match replaced. */
const splice = (expr, { index, 0: text }, by) => expr.slice(0, index) + by + expr.slice(index + text.length);

function* changesOf({ expr, for: wait }) {
  if (wait) {
    const [, number, unit] = /^(\d+)([sm])$/.exec(wait);
    yield { what: 'without for', change: { for: '0s' } };
    yield { what: 'for twice as long', change: { for: `${2 * number}${unit}` } };
  }
  for (const match of expr.matchAll(COMPARISON)) {
    const [text, operator, on = '', number] = match;
    const values = Number(number) === 0 || operator === '==' ? [`>=${on} 0`, `>${on} 1e9`] : [2, 0.5].map((factor) => `${operator}${on} ${factor * number}`);
    for (const by of values) yield { what: `${by} for ${text}`, change: { expr: splice(expr, match, by) } };
  }
  for (const match of expr.matchAll(/=~"([^"]*\|[^"]*)"/g)) {
    const words = match[1].split('|');
    for (const word of words) {
      const rest = words.filter((each) => each !== word).join('|');
      yield { what: `without ${word}`, change: { expr: splice(expr, match, `=~"${rest}"`) } };
    }
  }
}

/** The recordings that `expr` takes, and those that these take, in their order. */
function needed(expr) {
  const names = new Set();
  const take = (each) =>
    selectors(each).forEach(({ name }) => {
      const recording = recordings().find(({ record }) => record === name);
      if (recording === undefined || names.has(name)) return;
      names.add(name);
      take(recording.expr);
    });
  take(expr);
  return recordings().filter(({ record }) => names.has(record));
}

/** The tests of one alert, alone with what they need: all of them together would take minutes. */
function testsOf(alert) {
  return cases().flatMap(({ name, interval, input_series, alert_rule_test: all = [] }) => {
    const mine = all.filter(({ alertname }) => alertname === alert);
    return mine.length > 0 ? [{ name, interval, input_series, alert_rule_test: mine }] : [];
  });
}

const report = new Report();
async function judge({ rule, tests, what, change }, number) {
  const file = (name) => join(dir, `${number}-${name}.yml`);
  const changed = { ...rule, ...change };
  const groups = [{ name: 'recording', rules: needed(changed.expr) }, { name: 'alert', rules: [changed] }];
  writeFileSync(file('rules'), stringify({ groups: groups.filter(({ rules }) => rules.length > 0) }));
  writeFileSync(
    file('test'),
    stringify({ rule_files: [file('rules')], evaluation_interval: '15s', group_eval_order: ['recording', 'alert'], tests }),
  );
  // A rule that does not parse would be no answer, and is none of the two.
  const outcome = await run('promtool', ['test', 'rules', file('test')]).then(
    () => 'passes',
    ({ stderr, stdout }) => (/^ +alertname: /m.test(stdout + stderr) ? 'fails' : `${stdout}${stderr}`),
  );
  const wanted = change ? 'fails' : 'passes';
  report.hold(outcome === wanted, `${rule.alert}, ${what}: ${outcome === 'passes' ? 'no test notices' : outcome}`);
}

const mutants = alerts().flatMap((rule) => {
  const tests = testsOf(rule.alert);
  // As it is it must pass, or failing would mean nothing.
  return [{ what: 'unchanged' }, ...changesOf(rule)].map((mutant) => ({ rule, tests, ...mutant }));
});
let next = 0;
const worker = async () => {
  while (next < mutants.length) {
    const number = next;
    next += 1;
    await judge(mutants[number], number);
  }
};
await Promise.all(Array.from({ length: availableParallelism() }, worker));
report.end('changed alerts that some test notices');
