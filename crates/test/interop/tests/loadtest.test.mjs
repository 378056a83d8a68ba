// The load tool as users run it, end to end and small: every scenario from its file, with the server's own counters held
// against the tool's figures; and runs that are not sound, which end with the reason. Nobody asks how fast anything is.

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from '../lib/test.mjs';
import { folder, load, SCENARIOS, sound } from '../lib/loadtest.mjs';
import { startRedis } from '../lib/redis.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { startTidegate } from '../lib/tidegate.mjs';
import { until } from '../lib/wait.mjs';

const file = (scenario) => ['run', join(SCENARIOS, `${scenario}.toml`)];

/** What the tool is told of a server. */
const at = ({ url, pid }) => ({ url, pid });

/** What takeovers and durable messages need: two namespaces, and senders that nothing holds up. */
const OPEN = `
[auth]
mode = "none"
[limits]
connections_per_ip_max = 0
events_per_second_max = 0
[namespaces."/"]
[namespaces."/takeover"]
[offline]
sender_per_minute_max = 0
messages_max = 1000
`;

/** Two nodes on a Redis, and what the tool is told of them. */
async function overRedis(stage) {
  const redis = await startRedis(stage);
  const start = () => startTidegate(stage, { redis, dev: false, config: OPEN });
  const nodes = await Promise.all([start(), start()]);
  const both = { url: nodes.map(({ url }) => url), pid: nodes.map(({ pid }) => pid), redis: redis.url };
  const counted = async (name, labels) => {
    const [a, b] = await Promise.all(nodes.map((node) => node.metric(name, labels)));
    return a + b;
  };
  return { nodes, both, counted };
}

/** Each scenario from its file, with what makes it small. */
const FROM_FILES = {
  async idle(stage) {
    const node = await startTidegate(stage);
    const figures = await sound(stage, file('idle'), { ...at(node), connections: 200, hold: 1 });
    // A first two hundred, and then those that are measured.
    await until('all have been there, and left', async () => (await node.metric('tidegate_disconnects_total')) === 400);
    assert.ok('resident bytes per connection' in figures);
    await sound(stage, file('idle'), { ...at(node), connections: 100, hold: 0, transport: 'polling' });
  },

  async fanout(stage) {
    const node = await startTidegate(stage);
    const figures = await sound(stage, file('fanout'), { ...at(node), subscribers: 50, messages: 100, 'warm-up': 0 });
    assert.equal(figures.deliveries, 50 * 100);
    assert.equal(await node.metric('tidegate_deliveries_total'), 50 * 100);
    assert.ok(figures['server CPU, us per delivery'] > 0 && figures['latency p50, us'] > 0);
  },

  async rooms(stage) {
    const node = await startTidegate(stage);
    const figures = await sound(stage, file('rooms'), { ...at(node), rooms: 20, members: 5, seconds: 1, 'warm-up': 0 });
    assert.ok(figures.deliveries > 0 && figures.deliveries % 4 === 0, 'a publish reaches the other four');
    const published = await node.metric('tidegate_operations_total', { operation: 'publish' });
    assert.equal(await node.metric('tidegate_deliveries_total'), published * 4);
    // Those that everyone begins with belong to the warm-up, however short it is.
    assert.ok(figures.deliveries <= published * 4, `${figures.deliveries} of ${published} publishes`);
  },

  async acks(stage) {
    const node = await startTidegate(stage);
    const figures = await sound(stage, file('acks'), { ...at(node), connections: 20, seconds: 1, 'warm-up': 0 });
    assert.ok(figures['round trips'] > 0);
    const answered = await node.metric('tidegate_operations_total', { operation: 'heartbeat', code: 'ok' });
    assert.ok(figures['round trips'] <= answered, `${figures['round trips']} of ${answered}`);
  },

  async churn(stage) {
    const node = await startTidegate(stage);
    const churn = { ...at(node), 'at-once': 10, room: 'a', stay: 5, seconds: 1, 'warm-up': 0 };
    const figures = await sound(stage, file('churn'), churn);
    const joined = await node.metric('tidegate_operations_total', { operation: 'join', code: 'ok' });
    assert.ok(figures.connects > 0 && figures.connects <= joined, `${figures.connects} of ${joined}`);
    assert.equal(await node.metric('tidegate_disconnects_total'), joined, 'whoever came has left');
    assert.equal(await node.metric('tidegate_sessions'), 0);
  },

  async slow(stage) {
    // Less than the file asks for is enough where less is kept; those who read may be half a second behind.
    const settings = { limits: { outbox_bytes_max: 1 << 20 }, engine: { payload_bytes_max: 1 << 19 } };
    const node = await startTidegate(stage, { settings });
    const slow = { ...at(node), subscribers: 30, stalled: 10, bytes: 16_384, rate: 100, seconds: 6 };
    const figures = await sound(stage, file('slow'), slow);
    assert.equal(figures['stalled, closed by the server'], 10);
    assert.equal(figures['stalled, still open'], 0);
    assert.equal(figures.deliveries, 600 * 20);
    assert.equal(await node.disconnects('slow consumer'), 10);
    assert.equal(await node.metric('tidegate_outbox_bytes'), 0);
  },

  async crossnode(stage) {
    const { nodes, both } = await overRedis(stage);
    const small = { ...both, subscribers: 50, messages: 200, 'warm-up': 0 };
    const figures = await sound(stage, file('crossnode'), small);
    assert.equal(figures.deliveries, 50 * 200);
    assert.equal(await nodes[1].metric('tidegate_deliveries_total'), 50 * 200);
    assert.equal(await nodes[0].metric('tidegate_deliveries_total'), 0, 'all subscribers are on the other node');
    // A pulse of either node may be among them.
    const commands = figures['Redis publish per publish'];
    assert.ok(commands >= 1 && commands < 1.5, `${commands} PUBLISH for each`);
    const paced = await sound(stage, file('crossnode'), { ...small, rate: 200 });
    assert.equal(paced.deliveries, 50 * 200);
    assert.ok('publisher behind, max, ms' in paced);
  },

  async takeover(stage) {
    const { both, counted } = await overRedis(stage);
    const figures = await sound(stage, file('takeover'), { ...both, sessions: 50, rounds: 2 });
    // To the other node and back, twice, and each time the session's end is made sure of.
    assert.equal(await counted('tidegate_evictions_total'), 50 * 4);
    assert.equal(await counted('tidegate_takeovers_total', { outcome: 'confirmed' }), 50 * 4);
    assert.ok(figures['takeover: per second'] > 0 && figures['takeover: Redis commands'] > 0);
  },

  async offline(stage) {
    const { both, counted } = await overRedis(stage);
    const small = { ...both, users: 50, messages: 5, senders: 8, live: 200 };
    const figures = await sound(stage, file('offline'), small);
    assert.equal(figures['store: Redis xadd'], 1);
    assert.equal(await counted('tidegate_offline_stored_total'), 50 * 5 + 200);
    assert.equal(await counted('tidegate_offline_acknowledged_total'), 50 * 5 + 200);
  },
};

describe('the load tool', { skip: TIDEGATE_ONLY, concurrency: 4 }, () => {
  test('every scenario has a file, and every file is tried', async (t) => {
    const files = readdirSync(SCENARIOS).map((name) => name.replace(/\.toml$/, ''));
    assert.deepEqual(files.sort(), Object.keys(FROM_FILES).sort());
    const { stdout } = await load(stageOf(t), ['--help']);
    const commands = [...stdout.slice(stdout.indexOf('Commands:')).matchAll(/^ {2}([a-z]+) /gm)].map(([, name]) => name);
    assert.deepEqual(commands.filter((name) => !['run', 'compare', 'help'].includes(name)).sort(), files);
  });

  for (const [scenario, run] of Object.entries(FROM_FILES)) test(scenario, (t) => run(stageOf(t)));

  for (const protocol of ['json', 'msgpack']) {
    test(`the plain protocol in ${protocol}`, async (t) => {
      const stage = stageOf(t);
      const node = await startTidegate(stage);
      const plain = { ...at(node), protocol };
      const figures = await sound(stage, ['fanout'], { ...plain, subscribers: 20, messages: 50, 'in-flight': 4 });
      assert.equal(figures.deliveries, 20 * 50);
      await sound(stage, ['rooms'], { ...plain, rooms: 5, members: 4, seconds: 0.5, 'warm-up': 0 });
      await sound(stage, ['churn'], { ...plain, 'at-once': 5, room: 'a', seconds: 0.5, 'warm-up': 0 });
      await sound(stage, ['idle'], { ...plain, connections: 20, hold: 0 });
    });
  }

  test('several processes, several addresses, several nodes', async (t) => {
    const stage = stageOf(t);
    const cluster = await startTidegate(stage, { nodes: 2 });
    const several = { url: cluster.urls, pid: cluster.pid, processes: 2, 'source-addresses': 3 };
    const figures = await sound(stage, ['fanout'], { ...several, subscribers: 50, messages: 100, 'in-flight': 4, 'warm-up': 0 });
    assert.equal(figures.deliveries, 50 * 100);
    for (const node of [0, 1]) assert.equal(await cluster.metric('tidegate_deliveries_total', {}, node), 25 * 100);
    await sound(stage, ['rooms'], { ...several, rooms: 10, members: 4, seconds: 0.5, 'warm-up': 0 });
  });

  test('a report is one file, with the figures in it', async (t) => {
    const stage = stageOf(t);
    const node = await startTidegate(stage);
    const report = join(await folder(stage), 'report.html');
    await sound(stage, ['fanout'], { ...at(node), subscribers: 30, messages: 70, label: 'a <b> server', report });
    const page = await readFile(report, 'utf8');
    assert.doesNotMatch(page, /\b(?:src|href|action)\s*=|@import|\burl\(|<link|<base|\bimport\b|fetch\(|XMLHttpRequest|WebSocket\(/);
    assert.match(page, /<td>deliveries<\/td>\s*<td[^>]*>2,100<\/td>/);
    assert.match(page, /Sound: none lost connections/);
    assert.ok(page.includes('a &lt;b&gt; server') && !page.includes('a <b> server'));
  });

  test('a node that is killed meanwhile makes the run fail, with what was lost', async (t) => {
    const stage = stageOf(t);
    const { nodes, both } = await overRedis(stage);
    const report = join(await folder(stage), 'report.html');
    const running = load(stage, ['crossnode'], { url: both.url, subscribers: 30, rate: 200, messages: 600, 'warm-up': 0, report });
    await until('messages are delivered', async () => (await nodes[1].metric('tidegate_deliveries_total')) > 1_000);
    await nodes[1].kill();
    const { code, stdout, stderr, record } = await running;
    assert.equal(code, 1, stdout + stderr);
    assert.match(stdout, /^ {2}NOT SOUND: 30 lost connections, [1-9]\d* missing$/m);
    assert.equal(record.figures.deliveries + record.faults.missing, 30 * 600);
    assert.match(await readFile(report, 'utf8'), /Not sound: 30 lost connections, [1-9]\d* missing\./);
  });

  for (const [scenario, settings, reason] of [
    ['fanout', { subscribers: 30, messages: 1_000_000 }, /the publisher was disconnected: transport (close|error)/],
    ['acks', { connections: 30, seconds: 5 }, /NOT SOUND: 30 lost connections/],
  ]) {
    test(`${scenario}: the only server is killed`, async (t) => {
      const stage = stageOf(t);
      const node = await startTidegate(stage);
      const running = load(stage, [scenario], { url: node.url, 'warm-up': 0, ...settings });
      const done = scenario === 'fanout' ? 'tidegate_deliveries_total' : 'tidegate_operations_total';
      await until('it goes on', async () => (await node.metric(done)) > 1_000);
      await node.kill();
      const { code, stdout, stderr } = await running;
      assert.equal(code, 1, stdout + stderr);
      assert.match(stdout + stderr, reason);
    });
  }

  test('nobody there is an error that says so', async (t) => {
    const { code, stderr } = await load(stageOf(t), ['acks'], { url: 'http://127.0.0.1:1', connections: 2 });
    assert.equal(code, 1);
    assert.match(stderr, /127\.0\.0\.1:1|refused/);
  });
});
