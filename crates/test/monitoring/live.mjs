// A real Prometheus beside a real cluster under load: every expression of the dashboard and of the rules is asked for and
// has to answer, what nodes expose has to pass promtool's lint, no alert may fire while all is well, and the right ones
// have to notice when a node is killed and when Redis stands still.
//
// Called by live.sh, which says what is needed.

import { execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { freePort } from '../interop/lib/ports.mjs';
import { startRedis } from '../interop/lib/redis.mjs';
import { Stage } from '../interop/lib/stage.mjs';
import { startTidegate } from '../interop/lib/tidegate.mjs';
import { pause, until } from '../interop/lib/wait.mjs';
import { alerts, dashboard, panels, PROMETHEUS, readText, readYaml, recordings, ROOT } from './lib/files.mjs';
import { selectors } from './lib/promql.mjs';
import { Report } from './lib/report.mjs';
import { load } from './load.mjs';

const SECONDS = Number(process.env.LIVE_SECONDS ?? 35);
const NODES = 3;
/** Long enough for a scrape and two evaluations on a busy machine. */
const ANSWER_WITHIN_MS = 15_000;
/** A lease of ten seconds, three until somebody looks, and some. */
const REAPED_WITHIN_MS = 40_000;

const report = new Report();
const stage = new Stage();
let closing;
const close = () => (closing ??= stage.close());
for (const [signal, number] of [['SIGINT', 2], ['SIGTERM', 15]]) {
  process.once(signal, () => close().finally(() => process.exit(128 + number)));
}

/** Starts a program that is killed with the stage, and whose words are shown only if it ends by itself. */
function run(program, args) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (said += chunk));
  const exited = once(child, 'exit');
  stage.defer(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  return { check: () => child.exitCode === null || Promise.reject(new Error(`${program} ended by itself:\n${said}`)) };
}

/** A balancer with the one part that matters here; deploy/haproxy finds its servers by the DNS of Docker. */
async function startBalancer(dir, nodes) {
  const [port, status] = [await freePort(), await freePort()];
  const servers = nodes.map((node, index) => `  server gateway-${index} 127.0.0.1:${node.port} check port ${node.port + 1}`);
  const config = [
    'defaults', '  mode http', '  timeout connect 2s', '  timeout client 60s', '  timeout server 60s', '  timeout tunnel 1h',
    'frontend clients', `  bind 127.0.0.1:${port}`, '  default_backend gateways',
    'backend gateways', '  balance leastconn', '  option httpchk GET /readyz', '  default-server inter 250ms',
    '  stick-table type string len 64 size 1k expire 1d', '  stick match urlp(sid),bytes(20)', '  stick store-response res.hdr(x-tidegate-node)',
    ...servers,
    'frontend status', `  bind 127.0.0.1:${status}`, '  http-request use-service prometheus-exporter if { path /metrics }', '',
  ];
  writeFileSync(join(dir, 'haproxy.cfg'), config.join('\n'));
  const balancer = run('haproxy', ['-db', '-f', join(dir, 'haproxy.cfg')]);
  await until('the balancer answers', async () => (await balancer.check()) && (await fetch(`http://127.0.0.1:${status}/metrics`).catch(() => null))?.ok);
  return { url: `http://127.0.0.1:${port}`, status: `127.0.0.1:${status}` };
}

/** prometheus.yml as it is, but for where the targets are and how often they are asked. */
async function startPrometheus(dir, targets) {
  const port = await freePort();
  const config = readYaml(join(PROMETHEUS, 'prometheus.yml'));
  const places = { ...targets, prometheus: [`127.0.0.1:${port}`] };
  config.global = { scrape_interval: '1s', evaluation_interval: '1s' };
  config.scrape_configs = config.scrape_configs.filter(({ job_name: job }) => places[job]).map((scrape) => {
    const { dns_sd_configs: _, scrape_interval: __, scrape_timeout: ___, ...rest } = scrape;
    return { ...rest, static_configs: [{ targets: places[scrape.job_name] }] };
  });
  for (const file of config.rule_files) cpSync(join(PROMETHEUS, file), join(dir, file));
  writeFileSync(join(dir, 'prometheus.yml'), stringify(config));
  const prometheus = run('prometheus', [
    `--config.file=${join(dir, 'prometheus.yml')}`, `--storage.tsdb.path=${join(dir, 'data')}`, `--web.listen-address=127.0.0.1:${port}`,
  ]);
  const api = `http://127.0.0.1:${port}/api/v1`;
  await until('Prometheus is ready', async () => (await prometheus.check()) && (await fetch(`http://127.0.0.1:${port}/-/ready`).catch(() => null))?.ok, 30_000);
  return {
    async get(path) {
      const { status, data, error } = await (await fetch(`${api}/${path}`)).json();
      if (status !== 'success') throw new Error(`${path}: ${error}`);
      return data;
    },
    /** The samples of `expr` that are numbers. */
    async ask(expr) {
      const { result } = await this.get(`query?query=${encodeURIComponent(expr)}`);
      return result.filter(({ value: [, value] }) => value !== 'NaN');
    },
    async answers(expr) {
      let fault = 'no number comes back';
      const found = await until(expr, () => this.ask(expr).catch((error) => ((fault = error.message), [])).then((all) => all.length > 0), ANSWER_WITHIN_MS).catch(() => false);
      return found ? null : fault;
    },
    /** The state of an alert whose labels include `labels`; undefined if there is none. */
    async state(alertname, labels = {}) {
      const all = (await this.get('alerts')).alerts.filter((alert) => Object.entries({ alertname, ...labels }).every(([label, value]) => alert.labels[label] === value));
      return all[0]?.state;
    },
  };
}

async function everythingAnswers(prometheus, targets, isBalanced) {
  const isExercised = (who, expr) => {
    const all = selectors(expr);
    if (isBalanced || !all.some(({ name }) => name.startsWith('haproxy_'))) return true;
    console.log(`NOT EXERCISED: ${who}: haproxy is not installed`);
    return false;
  };
  /** As Grafana puts them in. */
  const chosen = (expr) =>
    expr.replaceAll('$job', 'tidegate').replaceAll('$instance', targets.map((each) => each.replaceAll('.', '\\\\.')).join('|')).replaceAll('$__rate_interval', '20s');
  const asked = [];
  const holds = (who, expr) => {
    if (!isExercised(who, expr)) return;
    asked.push(prometheus.answers(expr).then((fault) => report.hold(fault === null, `${who}: ${fault}: ${expr}`)));
  };
  for (const { title, targets: all } of panels()) all.forEach(({ expr }) => holds(`panel ${title}`, chosen(expr)));
  for (const { record } of recordings()) holds('rules.yml', record);
  // That something is 0, or absent, looks the same as a name that was misspelt; so it is asked for what is compared. What
  // Prometheus writes of alerts itself is there when one fires.
  for (const { alert, expr } of alerts()) selectors(expr).forEach(({ name, text }) => name === 'ALERTS' || holds(alert, text));
  await Promise.all(asked);
  for (const { query, name } of dashboard().templating.list) {
    const [, expr, label] = /^label_values\((.*), (\w+)\)$/.exec(query?.query ?? '') ?? [];
    if (!expr) continue;
    const found = await prometheus.ask(chosen(expr));
    report.hold(found.length > 0 && found.every(({ metric }) => metric[label]), `variable ${name}: ${expr} gives no ${label}`);
  }
  // Without a fault many of these find nothing; they have to be expressions.
  for (const [, expr] of readText(join(ROOT, 'deploy/RUNBOOK.md')).matchAll(/`([^`]*(?:tidegate[_:]|process_)[^`]*)`/g)) {
    const fault = await prometheus.ask(expr).then(() => null, ({ message }) => message);
    report.hold(fault === null, `deploy/RUNBOOK.md: ${expr}: ${fault}`);
  }
  const { groups } = await prometheus.get('rules');
  const rules = groups.flatMap((group) => group.rules);
  report.hold(rules.length === recordings().length + alerts().length, `Prometheus has ${rules.length} rules`);
  for (const { name, health, lastError } of rules) report.hold(health === 'ok', `${name}: ${health}: ${lastError}`);
}

/** Most alerts wait for longer than this takes, so nothing may even begin to wait. */
async function nothingFires(prometheus) {
  const { alerts: active } = await prometheus.get('alerts');
  for (const { state, labels } of active) report.hold(false, `${state} although all is well: ${JSON.stringify(labels)}`);
  report.hold(true);
}

/** What promtool says of a node's metrics; null if nothing. */
async function lint(address) {
  const text = await (await fetch(`http://${address}/metrics`)).text();
  return new Promise((resolve, reject) => {
    const child = execFile('promtool', ['check', 'metrics'], (error, stdout, stderr) => resolve(error || stderr ? `${stdout}${stderr}${error?.message ?? ''}` : null));
    child.once('error', reject);
    child.stdin.end(text);
  });
}

const within = (what, condition, ms = ANSWER_WITHIN_MS) => until(what, condition, ms).then(() => true, () => false);

async function main() {
  const dir = mkdtempSync(join(tmpdir(), 'tidegate-monitoring-'));
  stage.defer(() => rmSync(dir, { recursive: true, force: true }));
  const redis = await startRedis(stage);
  const settings = {
    auth: { mode: 'none' },
    engine: { payload_bytes_max: 100_000 },
    limits: { outbox_bytes_max: 262_144, connections_per_ip_max: 0 },
    // Of the five inboxes the fullest reaches a good half.
    offline: { messages_max: 500, sender_per_minute_max: 0 },
  };
  const nodes = [];
  for (let index = 0; index < NODES; index += 1) {
    nodes.push(await startTidegate(stage, { dev: false, redis, nodeId: `monitored-${process.pid}-${index}`, settings }));
  }
  const targets = nodes.map((node) => `127.0.0.1:${node.port + 1}`);
  const isBalanced = spawnSync('haproxy', ['-v']).status === 0;
  const balancer = isBalanced ? await startBalancer(dir, nodes) : null;
  const prometheus = await startPrometheus(dir, { tidegate: targets, ...(balancer && { loadbalancer: [balancer.status] }) });

  const busy = load([...nodes.map((node) => node.url), ...(balancer ? [balancer.url] : [])]);
  let did;
  try {
    await pause(SECONDS * 1_000);
    for (const target of targets) {
      const fault = await lint(target);
      report.hold(fault === null, `promtool check metrics, ${target}:\n${fault}`);
    }
    await everythingAnswers(prometheus, targets, isBalanced);
    await nothingFires(prometheus);
  } finally {
    did = await busy.stop();
  }
  console.log(`load: ${JSON.stringify(did)}`);
  for (const what of ['received', 'stored', 'read', 'evicted', 'slept', 'turned away']) report.hold(did[what] > 0, `load: nothing was ${what}`);
  report.hold(!did['not stored'], `load: ${did['not stored']} messages were not stored`);

  await nodes[NODES - 1].kill();
  const instance = targets[NODES - 1];
  report.hold(await within('pending', () => prometheus.state('TidegateNodeDown', { instance })), `TidegateNodeDown: ${instance} was killed, and nothing is pending`);
  report.hold(await within('firing', async () => (await prometheus.state('TidegateNodeReaped')) === 'firing', REAPED_WITHIN_MS), 'TidegateNodeReaped: a node was killed, and it does not fire');

  redis.freeze();
  try {
    for (const each of targets.slice(0, NODES - 1)) {
      report.hold(await within('pending', () => prometheus.state('TidegateBrokerDown', { instance: each })), `TidegateBrokerDown: Redis is frozen, and nothing is pending for ${each}`);
    }
    if (balancer) report.hold(await within('pending', () => prometheus.state('TidegateLoadBalancerEmpty')), 'TidegateLoadBalancerEmpty: all nodes are deaf, and nothing is pending');
  } finally {
    redis.thaw();
  }
  report.hold(await within('over', async () => (await prometheus.state('TidegateBrokerDown')) === undefined), 'TidegateBrokerDown: Redis is back, and it is still there');
}

try {
  await main();
} catch (error) {
  report.hold(false, error.stack);
} finally {
  await close();
}
report.end('live');
