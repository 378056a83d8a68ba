// The files under judgement, read and parsed.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

export const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
export const PROMETHEUS = join(ROOT, 'deploy/prometheus');
const DASHBOARD = join(ROOT, 'deploy/grafana/dashboards/tidegate.json');

export const readText = (path) => readFileSync(path, 'utf8');

/** Anchors and merge keys (`<<`) included, as Prometheus reads them. */
export const readYaml = (path) => parse(readText(path), { merge: true });

const rulesOf = (file) => readYaml(join(PROMETHEUS, file)).groups.flatMap((group) => group.rules);

export const groups = () => ['rules.yml', 'alerts.yml'].flatMap((file) => readYaml(join(PROMETHEUS, file)).groups.map(({ name }) => name));
export const recordings = () => rulesOf('rules.yml');
export const alerts = () => rulesOf('alerts.yml');

/** Every file of unit tests, parsed, with its name in `file`. */
export function suites() {
  const dir = join(PROMETHEUS, 'tests');
  const files = readdirSync(dir).filter((name) => name.endsWith('.yml'));
  return files.map((file) => ({ file, ...readYaml(join(dir, file)) }));
}

/** Every case of them: `{ file, name, alert_rule_test, promql_expr_test }`. */
export const cases = () => suites().flatMap(({ file, tests }) => tests.map((test) => ({ file, ...test })));

export const dashboard = () => JSON.parse(readText(DASHBOARD));

/** The panels that ask for something; rows do not. */
export const panels = () => dashboard().panels.filter((panel) => panel.type !== 'row');
