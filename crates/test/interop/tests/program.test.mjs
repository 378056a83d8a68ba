// The program itself: exit codes, the ready line, check, token, healthcheck, the admin port.

import assert from 'node:assert/strict';
import { describe, test } from '../lib/test.mjs';
import { stageOf } from '../lib/stage.mjs';
import { TIDEGATE_ONLY } from '../lib/subject.mjs';
import { configFile, run, startTidegate } from '../lib/tidegate.mjs';
import { startRedis } from '../lib/redis.mjs';
import { freePort } from '../lib/ports.mjs';
import { ask, connect, WEBSOCKET } from '../lib/client.mjs';

const SECRET = 'a-secret-of-at-least-thirty-two-bytes';

describe('program', { skip: TIDEGATE_ONLY, concurrency: 2 }, () => {
  test('one ready line a node, with its id and both addresses', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { nodes: 3 });
    assert.equal(subject.ready.length, 3);
    const lines = subject.ready.map(({ listen, admin }) => ({ listen, admin }));
    const expected = subject.ports.map((port) => ({ listen: `127.0.0.1:${port}`, admin: `127.0.0.1:${port + 1}` }));
    for (const line of expected) assert.ok(lines.some((found) => found.listen === line.listen && found.admin === line.admin), JSON.stringify(lines));
    assert.equal(new Set(subject.ready.map(({ node }) => node)).size, 3);
    for (const [node] of subject.urls.entries()) {
      assert.equal((await subject.status('/healthz', node)).status, 200);
      assert.equal((await subject.status('/readyz', node)).status, 200);
    }
  });

  test('--node-id is the node in meta and in the ready line', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { nodeId: 'eu-1.a_b' });
    assert.equal(subject.ready[0].node, 'eu-1.a_b');
    const socket = await connect(stage, subject.url, WEBSOCKET);
    const meta = new Promise((resolve) => socket.once('message', (_, about) => resolve(about)));
    await ask(socket, 'broadcast', { data: 1, echo: true });
    assert.equal((await meta).node, 'eu-1.a_b');
  });

  test('admin port: metrics, health, and problem documents', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, {});
    const metrics = await fetch(`${subject.admin}/metrics`);
    assert.equal(metrics.status, 200);
    assert.match(metrics.headers.get('content-type'), /^text\/plain; version=0\.0\.4/);
    const body = await metrics.text();
    for (const name of ['tidegate_connections', 'tidegate_broker_up', 'tidegate_pulse_seconds_count', 'tidegate_build_info', 'process_open_fds']) {
      assert.match(body, new RegExp(`^${name}[{ ]`, 'm'), name);
    }
    const nothing = await fetch(`${subject.admin}/nothing/here`);
    assert.equal(nothing.status, 404);
    assert.match(nothing.headers.get('content-type'), /^application\/problem\+json/);
    assert.equal((await nothing.json()).code, 'not_found');
    assert.equal((await fetch(`${subject.url}/metrics`)).status, 404, 'not on the client port');
  });

  test('healthcheck: 0 when ready, else not', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, {});
    assert.equal((await run(['healthcheck', '--admin-url', subject.admin])).code, 0);
    assert.equal((await run(['healthcheck', '--live', '--admin-url', subject.admin])).code, 0);
    const nobody = await run(['healthcheck', '--admin-url', `http://127.0.0.1:${await freePort()}`]);
    assert.notEqual(nobody.code, 0);
    assert.match(nobody.stderr, /\S/);
  });

  test('exit 64: usage and configuration', async (t) => {
    const stage = stageOf(t);
    const port = await freePort();
    const listen = ['--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${port + 1}`];
    const faulty = await configFile(stage, '[server]\nlisten = 7\nno_such_key = 1\n[engine]\nping_interval_ms = "soon"\n[auth]\nmode = "none"\n');
    const cases = [
      [['no-such-command'], {}],
      [['serve', '--no-such-flag'], {}],
      [['serve', ...listen], {}],
      [['serve', '--dev', ...listen], { TIDEGATE_ENGINE__NO_SUCH_KEY: '1' }],
      [['serve', '--dev', ...listen], { TIDEGATE_ENGINE__PING_INTERVAL_MS: 'soon' }],
      [['serve', '--dev', ...listen, '--node-id', 'not a node id'], {}],
      [['serve', '--dev', ...listen], { TIDEGATE_CLUSTER__PULSE_INTERVAL_MS: '900' }],
      [['serve', '--dev', '--config', '/no/such/file.toml', ...listen], {}],
      [['serve', '--config', faulty, ...listen], {}],
      [['check', '--config', faulty], {}],
    ];
    for (const [args, env] of cases) {
      const { code, stdout, stderr } = await run(args, { env });
      assert.equal(code, 64, `${args.join(' ')} ${JSON.stringify(env)}\n${stdout}${stderr}`);
      assert.match(stdout + stderr, /\S/);
    }
    const { stdout, stderr } = await run(['check', '--config', faulty]);
    for (const key of ['server.listen', 'server.no_such_key', 'engine.ping_interval_ms']) assert.ok((stdout + stderr).includes(key), `every fault at once: ${key}`);
    const env = await run(['serve', '--dev', ...listen], { env: { TIDEGATE_ENGINE__PING_INTERVAL_MS: 'soon' } });
    assert.match(env.stdout + env.stderr, /engine\.ping_interval_ms/);
    assert.match(env.stdout + env.stderr, /soon/);
  });

  test('other TIDEGATE_ variables are ignored', async (t) => {
    const { code } = await run(['check'], { env: { TIDEGATE_AUTH__MODE: 'none', TIDEGATE_TOKEN: 'x', TIDEGATE_PORT: 'tcp://10.0.0.1:80' } });
    assert.equal(code, 0);
  });

  test('exit 69: Redis is not there', async () => {
    const port = await freePort();
    const nobody = `redis://127.0.0.1:${await freePort()}`;
    const args = ['serve', '--dev', '--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${port + 1}`, '--redis', nobody];
    const { code, stdout, stderr } = await run(args, { env: { TIDEGATE_REDIS__CONNECT_TIMEOUT_MS: '1000' } });
    assert.equal(code, 69, stdout + stderr);
  });

  test('a port that is taken is said so, and no panic', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, {});
    const { code, stderr, stdout } = await run(['serve', '--dev', '--listen', `127.0.0.1:${subject.port}`, '--admin-listen', `127.0.0.1:${await freePort()}`]);
    assert.notEqual(code, 0);
    assert.notEqual(code, 70);
    assert.ok((stdout + stderr).includes(String(subject.port)));
    assert.doesNotMatch(stderr, /panicked/);
  });

  test('a second live node of the same id on one Redis exits 64', async (t) => {
    const stage = stageOf(t);
    const redis = await startRedis(stage);
    await startTidegate(stage, { redis, nodeId: 'twin' });
    const port = await freePort();
    const { code } = await run(['serve', '--dev', '--node-id', 'twin', '--redis', redis.url, '--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${port + 1}`]);
    assert.equal(code, 64);
  });

  test('check prints the effective configuration without secrets', async (t) => {
    const stage = stageOf(t);
    const config = await configFile(stage, `[redis]\nurl = "redis://user:hunter2@redis.example:6379"\n[auth]\n[auth.jwt]\nsecret = "${SECRET}"\n[engine]\nping_interval_ms = 11000\n`);
    const { code, stdout } = await run(['check', '--config', config], { env: { TIDEGATE_ENGINE__PING_TIMEOUT_MS: '9000', TIDEGATE_ENGINE__PING_INTERVAL_MS: '12000' } });
    assert.equal(code, 0, stdout);
    assert.match(stdout, /ping_interval_ms\s*=\s*12_?000/, 'environment over file');
    assert.match(stdout, /ping_timeout_ms\s*=\s*9_?000/);
    assert.doesNotMatch(stdout, /hunter2/);
    assert.ok(!stdout.includes(SECRET));
  });

  test('without --dev a node wants auth or its absence in writing', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, { dev: false, config: '[auth]\nmode = "none"\n' });
    const socket = await connect(stage, subject.url, { ...WEBSOCKET, auth: { user: 'ann' } });
    assert.equal((await ask(socket, 'join', 'anything')).ok, true);
  });

  test('--dev limits nothing by rate or address', async (t) => {
    const stage = stageOf(t);
    const subject = await startTidegate(stage, {});
    const socket = await connect(stage, subject.url, WEBSOCKET);
    const acks = await Promise.all(Array.from({ length: 2_000 }, (_, i) => ask(socket, 'publish', { room: 'r', data: i })));
    assert.ok(acks.every(({ ok }) => ok));
  });

  test('--help and --version end well', async () => {
    for (const args of [['--help'], ['--version'], ['serve', '--help']]) assert.equal((await run(args)).code, 0);
  });
});
