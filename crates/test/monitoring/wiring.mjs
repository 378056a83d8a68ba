// Whether rules, tests, runbook, dashboard and program fit each other: what promtool and a type checker cannot see.

import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Stage } from '../interop/lib/stage.mjs';
import { startTidegate } from '../interop/lib/tidegate.mjs';
import { alerts, cases, dashboard, groups, panels, PROMETHEUS, readText, readYaml, recordings, ROOT, suites } from './lib/files.mjs';
import { selectors } from './lib/promql.mjs';
import { Report } from './lib/report.mjs';

const report = new Report();
/** What Prometheus makes itself, and what HAProxy's exporter gives; `live.sh` asks for both. */
const FOREIGN = /^(up|ALERTS|haproxy_\w+)$/;
/** The parts of a section of the runbook. */
const PARTS = ['**Means** ', '**Users** ', '- Look', '- Wake somebody: '];

const records = new Set(recordings().map(({ record }) => record));
const exprs = [
  ...recordings().map(({ record, expr }) => ({ who: record, expr })),
  ...alerts().map(({ alert, expr }) => ({ who: alert, expr })),
  ...panels().flatMap(({ title, targets }) => targets.map(({ expr }) => ({ who: `panel ${title}`, expr }))),
];
const series = exprs.flatMap(({ who, expr }) => selectors(expr).map((each) => ({ who, ...each })));

function everyAlertIsTested() {
  const tests = cases();
  for (const { alert, for: wait } of alerts()) {
    const at = tests.map(({ alert_rule_test: all = [] }) => all.filter(({ alertname }) => alertname === alert));
    const fires = (each) => (each.exp_alerts ?? []).length > 0;
    const firing = at.filter((each) => each.some(fires));
    report.hold(firing.length > 0, `${alert}: no test expects it to fire`);
    report.hold(
      firing.some((each) => !fires(each[0])),
      `${alert}: no test sees that it does not fire before${wait ? ` its ${wait}` : ''}`,
    );
    report.hold(
      at.some((each) => each.length > 0 && !each.some(fires)),
      `${alert}: no case is like a fault and is none`,
    );
  }
  const known = new Set(alerts().map(({ alert }) => alert));
  for (const { file, rule_files: files, group_eval_order: order } of suites()) {
    // promtool takes groups that are not listed in any order, and with it now one result and now another.
    const isOrdered = files.length === 1 || groups().every((name, at) => order?.[at] === name);
    report.hold(isOrdered, `tests/${file}: its group_eval_order is not ${groups()}`);
  }
  for (const { file, alert_rule_test: all = [] } of tests) {
    for (const { alertname } of all) report.hold(known.has(alertname), `tests/${file}: there is no alert ${alertname}`);
  }
}

function everyRecordingIsTestedAndUsed() {
  const tested = cases().flatMap(({ promql_expr_test: all = [] }) => all.filter(({ exp_samples: some = [] }) => some.length > 0));
  const names = new Set(tested.flatMap(({ expr }) => selectors(expr).map(({ name }) => name)));
  for (const record of records) {
    report.hold(names.has(record), `${record}: no test expects a value of it`);
    report.hold(series.some(({ name }) => name === record), `${record}: nobody uses it`);
  }
}

function everyAlertHasItsSection() {
  const sections = new Map(readText(join(ROOT, 'deploy/RUNBOOK.md')).split(/^## /m).slice(1).map((section) => {
    const end = section.indexOf('\n');
    return [section.slice(0, end), section.slice(end)];
  }));
  sections.delete('How to look');
  for (const { alert, labels, annotations } of alerts()) {
    report.hold(['critical', 'warning'].includes(labels?.severity), `${alert}: no severity, or an unknown one`);
    for (const text of ['summary', 'description']) report.hold(annotations?.[text], `${alert}: no ${text}`);
    const url = `deploy/RUNBOOK.md#${alert.toLowerCase()}`;
    report.hold(annotations?.runbook_url === url, `${alert}: its runbook_url is not ${url}`);
    const section = sections.get(alert);
    if (!report.hold(section, `deploy/RUNBOOK.md: no section ${alert}`)) continue;
    for (const part of PARTS) report.hold(section.includes(`\n${part}`), `deploy/RUNBOOK.md: ${alert} has no "${part}"`);
    sections.delete(alert);
  }
  for (const name of sections.keys()) report.hold(false, `deploy/RUNBOOK.md: there is no alert ${name}`);
}

function isSeries(name, known) {
  const family = name.replace(/_(bucket|count|sum)$/, '');
  const isHistogram = known.get(family) === 'histogram';
  return records.has(name) || (family === name ? known.has(name) && !isHistogram : isHistogram);
}

/** What the runbook names: metrics, settings, and what the program says in its log. */
function theRunbookIsTrue(known) {
  const text = readText(join(ROOT, 'deploy/RUNBOOK.md'));
  for (const [name] of text.matchAll(/\b(?:tidegate[_:]|process_)[\w:]+/g)) {
    report.hold(isSeries(name, known), `deploy/RUNBOOK.md: neither a node nor rules.yml has ${name}`);
  }
  const settings = new Set();
  let section;
  for (const line of readText(join(ROOT, 'crates/tidegate/config.default.toml')).split('\n')) {
    section = /^(?:# )?\[(.*)\]$/.exec(line)?.[1] ?? section;
    const [, key] = /^(?:# )?([a-z_.]+) = /.exec(line) ?? [];
    // Those of a namespace are called by their own names.
    if (key) settings.add(section.startsWith('namespaces') ? key : `${section}.${key}`);
  }
  const sections = [...new Set([...settings].map((setting) => setting.split('.')[0]))].filter((name) => name !== 'auth');
  for (const [, name] of text.matchAll(new RegExp(`\`((?:${sections.join('|')})\\.[a-z_.]+)`, 'g'))) {
    report.hold(settings.has(name), `deploy/RUNBOOK.md: there is no setting ${name}`);
  }
  const source = sourceFiles().map(readText).join('\n');
  for (const [, words] of text.matchAll(/`(?!docker |kubectl )([a-z']+(?: [a-z']+){2,})`/g)) {
    report.hold(source.includes(words), `deploy/RUNBOOK.md: the program never says "${words}"`);
  }
}

/** A node's own words, from one that has just started: every family, and each label value known beforehand. */
async function families() {
  const stage = new Stage();
  try {
    const node = await startTidegate(stage);
    const { body } = await node.status('/metrics');
    return new Map([...body.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, kind]) => [name, kind]));
  } finally {
    await stage.close();
  }
}

function everyNameExists(known) {
  report.hold(known.size > 20, `a node tells of ${known.size} families only`);
  for (const { who, name } of series) {
    if (FOREIGN.test(name)) continue;
    report.hold(isSeries(name, known), `${who}: neither a node nor rules.yml has ${name}`);
  }
  const jobs = readYaml(join(PROMETHEUS, 'prometheus.yml')).scrape_configs.map(({ job_name: job }) => job);
  const words = sourceWords();
  for (const { who, name, matchers } of series) {
    for (const { label, op, value } of matchers) {
      if (label === 'job' && !op.includes('~')) report.hold(jobs.includes(value), `${who}: prometheus.yml has no job ${value}`);
      if (!name.startsWith('tidegate_') || ['job', 'instance', 'le'].includes(label) || value === '') continue;
      for (const word of op.includes('~') ? value.split('|') : [value]) {
        const pattern = new RegExp(`^${word}$`);
        report.hold(words.some((each) => pattern.test(each)), `${who}: the program has no ${label} ${word}`);
      }
    }
  }
}

function sourceFiles() {
  return ['core', 'redis', 'gateway', 'tidegate'].flatMap((name) => {
    const dir = join(ROOT, 'crates', name, 'src');
    return readdirSync(dir, { recursive: true }).filter((file) => file.endsWith('.rs')).map((file) => join(dir, file));
  });
}

/** Every string in the program's source that could be the value of a label. */
function sourceWords() {
  return [...new Set(sourceFiles().flatMap((file) => [...readText(file).matchAll(/"([a-z][a-z_ ]*)"/g)].map(([, word]) => word)))];
}

function theDashboardIsWhole() {
  const { uid, panels: all, templating } = dashboard();
  report.hold(uid === 'tidegate', 'dashboard: its uid is not tidegate');
  const variables = new Map(templating.list.map((variable) => [variable.name, variable]));
  report.hold(variables.get('datasource')?.type === 'datasource', 'dashboard: no variable for the datasource');
  for (const name of ['job', 'instance']) {
    const { multi, includeAll } = variables.get(name) ?? {};
    report.hold(multi && includeAll, `dashboard: the variable ${name} does not take several, or all`);
  }
  report.hold(new Set(all.map(({ id }) => id)).size === all.length, 'dashboard: two panels have the same id');
  const taken = new Map();
  for (const { title, gridPos: { x, y, w, h } } of all) {
    report.hold(w > 0 && h > 0 && x >= 0 && x + w <= 24, `panel ${title}: is outside of the grid`);
    const cells = Array.from({ length: w * h }, (_, cell) => `${x + (cell % w)},${y + Math.floor(cell / w)}`);
    const under = cells.map((cell) => taken.get(cell)).find(Boolean);
    report.hold(under === undefined, `panel ${title}: lies over ${under}`);
    cells.forEach((cell) => taken.set(cell, title));
  }
  for (const panel of panels()) {
    const { title, description, fieldConfig, options, targets, type } = panel;
    report.hold(title, `panel ${panel.id}: no title`);
    report.hold(description, `panel ${title}: no description`);
    report.hold(fieldConfig?.defaults?.unit, `panel ${title}: no unit`);
    if (type === 'timeseries') report.hold(options?.legend?.showLegend, `panel ${title}: shows no legend`);
    report.hold(new Set(targets.map(({ refId }) => refId)).size === targets.length, `panel ${title}: two targets of one refId`);
    for (const { expr, legendFormat, datasource } of targets) {
      report.hold(legendFormat, `panel ${title}: a target without a legend`);
      report.hold(datasource?.uid === '${datasource}', `panel ${title}: does not ask the chosen datasource`);
      for (const { name, matchers } of selectors(expr).filter(({ name: each }) => !FOREIGN.test(each))) {
        const chosen = (label) => matchers.some(({ op, value, ...matcher }) => matcher.label === label && op === '=~' && value === `$${label}`);
        report.hold(chosen('job'), `panel ${title}: ${name} is not of the chosen $job`);
        const perNode = !name.startsWith('tidegate:job');
        report.hold(!perNode || chosen('instance'), `panel ${title}: ${name} is not of the chosen $instance`);
      }
    }
  }
}

everyAlertIsTested();
everyRecordingIsTestedAndUsed();
everyAlertHasItsSection();
theDashboardIsWhole();
const known = await families();
everyNameExists(known);
theRunbookIsTrue(known);
report.end('rules, tests, runbook, dashboard and program fit each other');
