// One `tidegate` process: started on free ports, awaited until `ready`, stopped by SIGTERM with exit code 0.

import { spawn } from 'node:child_process';
import { access, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { once } from 'node:events';
import assert from 'node:assert/strict';
import { freePort } from './ports.mjs';
import { limited, until } from './wait.mjs';

/** The binary under judgement. */
export const BINARY = process.env.TIDEGATE_BIN ?? fileURLToPath(new URL('../../../../target/debug/tidegate', import.meta.url));

const READY_WITHIN_MS = 15_000;
const STOP_WITHIN_MS = 15_000;

/** A drain spreads over its whole timeout; tests that are not about draining keep it short. */
const DRAIN_TIMEOUT_MS = 1_000;

/** `{ engine: { ping_interval_ms: 300 } }` as `TIDEGATE_ENGINE__PING_INTERVAL_MS=300`. */
export function environment(settings, path = []) {
  const found = {};
  for (const [key, value] of Object.entries(settings)) {
    if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
      Object.assign(found, environment(value, [...path, key]));
    } else {
      found[`TIDEGATE_${[...path, key].join('__').toUpperCase()}`] = Array.isArray(value) ? value.join(',') : String(value);
    }
  }
  return found;
}

function cleanEnvironment() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('TIDEGATE_')));
}

/** Writes `text` as a configuration file that goes with the stage. */
export async function configFile(stage, text) {
  const dir = await mkdtemp(join(tmpdir(), 'tidegate-config-'));
  stage.defer(() => rm(dir, { recursive: true, force: true }));
  const path = join(dir, 'tidegate.toml');
  await writeFile(path, text);
  return path;
}

/** Runs the program to its end: `{ code, stdout, stderr }`. */
export async function run(args, { env = {}, within = STOP_WITHIN_MS } = {}) {
  const child = spawn(BINARY, args, { env: { ...cleanEnvironment(), ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  try {
    const [code] = await limited(`${args.join(' ')} ends`, once(child, 'close'), within);
    return { code, stdout, stderr };
  } finally {
    child.kill('SIGKILL');
  }
}

/** The fields of a JSON log line, wherever the subscriber put them. */
function record(line) {
  try {
    const parsed = JSON.parse(line);
    return { ...parsed, ...parsed.fields };
  } catch {
    return null;
  }
}

export class Tidegate {
  kind = 'tidegate';
  #child;
  #exit;
  #lines = [];
  #stopping = false;

  constructor(child, scheme, host, port, nodes) {
    this.#child = child;
    this.port = port;
    this.ports = Array.from({ length: nodes }, (_, node) => port + 10 * node);
    this.urls = this.ports.map((each) => `${scheme}://${host}:${each}`);
    this.admins = this.ports.map((each) => `http://${host}:${each + 1}`);
    [this.url] = this.urls;
    [this.admin] = this.admins;
    this.#exit = once(child, 'exit').then(([code, signal]) => ({ code, signal }));
    for (const stream of [child.stdout, child.stderr]) {
      let rest = '';
      stream.on('data', (chunk) => {
        const lines = (rest + chunk).split('\n');
        rest = lines.pop();
        this.#lines.push(...lines);
      });
    }
  }

  get pid() {
    return this.#child.pid;
  }

  get log() {
    return this.#lines.join('\n');
  }

  get running() {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** The `ready` records so far, one a node. */
  get ready() {
    return this.#lines.map(record).filter((line) => line?.message === 'ready');
  }

  async #untilReady(nodes) {
    await until(
      `${nodes} ready line(s)`,
      () => {
        if (!this.running) throw new Error(`tidegate ended before it was ready:\n${this.log}`);
        return this.ready.length >= nodes;
      },
      READY_WITHIN_MS,
    ).catch((failure) => {
      throw new Error(`${failure.message}\n${this.log}`);
    });
  }

  static async start(stage, { args, env, scheme, host, port, nodes, cell }) {
    await access(BINARY);
    // What enters the namespace becomes the program: the child's id is the program's.
    const [program, ...rest] = [...(cell ? ['nsenter', `--net=/run/netns/${cell.name}`, '--'] : []), BINARY, ...args];
    const child = spawn(program, rest, { env: { ...cleanEnvironment(), ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    const tidegate = new Tidegate(child, scheme, host, port, nodes);
    stage.defer(() => tidegate.stop());
    await tidegate.#untilReady(nodes);
    return tidegate;
  }

  signal(name) {
    this.#child.kill(name);
  }

  /** SIGSTOP; resolves when the process stands still. Its threads stop one after the other, a while after the signal. */
  async freeze(stage) {
    this.signal('SIGSTOP');
    stage.defer(() => this.thaw());
    const tasks = `/proc/${this.pid}/task`;
    const stands = async (task) => /\) T /.test(await readFile(`${tasks}/${task}/stat`, 'utf8').catch(() => ') T '));
    await until('every thread stands still', async () => (await Promise.all((await readdir(tasks)).map(stands))).every(Boolean));
  }

  /** SIGCONT. */
  thaw() {
    this.signal('SIGCONT');
  }

  /** `{ code, signal }` once the process is gone. */
  exited(within = STOP_WITHIN_MS) {
    this.#stopping = true;
    return limited('tidegate ends', this.#exit, within);
  }

  /** SIGTERM; the process must drain and exit 0. Also the check, at the end of every test, that it still lived. */
  async stop() {
    if (this.#stopping) {
      if (this.running) this.#child.kill('SIGKILL');
      return;
    }
    assert.ok(this.running, `tidegate died by itself:\n${this.log}`);
    this.signal('SIGTERM');
    const left = await this.exited().catch((failure) => {
      this.#child.kill('SIGKILL');
      throw failure;
    });
    assert.deepEqual(left, { code: 0, signal: null }, `exit after SIGTERM:\n${this.log}`);
    assert.doesNotMatch(this.log, /panicked at/);
  }

  /** SIGKILL: no goodbye to anyone. */
  async kill() {
    this.signal('SIGKILL');
    await this.exited();
  }

  async status(path, node = 0) {
    const answer = await fetch(this.admins[node] + path, { signal: AbortSignal.timeout(READY_WITHIN_MS) });
    return { status: answer.status, body: await answer.text() };
  }

  /** The sum of the samples of `name` whose labels include `labels`. */
  async metric(name, labels = {}, node = 0) {
    const { body } = await this.status('/metrics', node);
    let sum = 0;
    for (const line of body.split('\n')) {
      const sample = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
      if (sample === null || sample[1] !== name) continue;
      const found = Object.fromEntries([...(sample[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => [pair[1], pair[2]]));
      if (Object.entries(labels).every(([label, value]) => found[label] === value)) sum += Number(sample[3]);
    }
    return sum;
  }

  disconnects(reason) {
    return this.metric('tidegate_disconnects_total', { reason });
  }
}

/**
 * Starts `tidegate serve`.
 * `settings` become environment variables (with those of TLS, clients are told `https`), `config` (TOML text) a file; `dev` is on unless switched off. In a `cell`
 * it is reached, and reaches Redis, over the links of that.
 */
export async function startTidegate(stage, { settings = {}, config, dev = true, nodes = 1, redis, nodeId, port, cell } = {}) {
  const base = port ?? (await freePort(nodes));
  const host = cell?.address ?? '127.0.0.1';
  const args = ['serve', '--listen', `${host}:${base}`, '--admin-listen', `${host}:${base + 1}`];
  if (dev) args.push('--dev');
  if (nodes > 1) args.push('--nodes', String(nodes));
  if (redis) args.push('--redis', cell ? `redis://${cell.redisAddress}:${redis.port}` : (redis.url ?? redis));
  if (nodeId) args.push('--node-id', nodeId);
  if (config) args.push('--config', await configFile(stage, config));
  const env = { TIDEGATE_LOG__FORMAT: 'json', TIDEGATE_DRAIN__TIMEOUT_MS: String(DRAIN_TIMEOUT_MS), ...environment(settings) };
  const scheme = settings.server?.tls ? 'https' : 'http';
  return Tidegate.start(stage, { args, env, scheme, host, port: base, nodes, cell });
}
