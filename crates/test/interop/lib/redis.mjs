// A real redis-server on a free loopback port, which can be killed and come back: with nothing, or with all it confirmed.

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { createClient } from 'redis';
import { freePort } from './ports.mjs';
import { until } from './wait.mjs';
import net from 'node:net';

function accepts(port) {
  return new Promise((resolve) => {
    const probe = net.connect(port, '127.0.0.1');
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}

export class Redis {
  #dir;
  #addresses;
  #more;
  #process = null;

  constructor(port, dir, addresses, more) {
    this.port = port;
    this.#dir = dir;
    this.#addresses = addresses;
    this.#more = more;
    this.url = `redis://127.0.0.1:${port}`;
  }

  async start() {
    const options = ['--port', this.port, '--bind', '127.0.0.1', ...this.#addresses, '--protected-mode', 'no', '--save', '', '--appendonly', 'no', '--dir', this.#dir, ...this.#more];
    this.#process = spawn('redis-server', options.map(String), { stdio: 'ignore' });
    this.#process.on('error', () => {});
    await until('redis-server accepts connections', () => accepts(this.port));
  }

  /** SIGKILL: no goodbye to any client. */
  async kill() {
    const running = this.#process;
    this.#process = null;
    if (running === null || running.exitCode !== null || running.signalCode !== null) return;
    const exited = once(running, 'exit');
    running.kill('SIGKILL');
    await exited;
  }

  /** A frozen server keeps its connections and answers nobody. */
  freeze() {
    this.#process.kill('SIGSTOP');
  }

  thaw() {
    this.#process.kill('SIGCONT');
  }

  /** A plain client for looking at the server and for publishing by hand. */
  async client(stage) {
    const client = createClient({ url: this.url });
    client.on('error', () => {});
    await client.connect();
    stage.defer(() => client.destroy());
    return client;
  }
}

/** What makes a server confirm nothing before it is on disk. */
const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always'];

/**
 * Starts a server of its own for the stage, on loopback and on `addresses` of this host. A `durable` one has everything
 * again when it comes back; one with a `master` is its replica.
 */
export async function startRedis(stage, { addresses = [], durable = false, master } = {}) {
  const dir = await mkdtemp(join(tmpdir(), 'tidegate-redis-'));
  const replica = master ? ['--replicaof', '127.0.0.1', master.port, '--repl-diskless-sync-delay', '0'] : [];
  const redis = new Redis(await freePort(), dir, addresses, [...(durable ? DURABLE : []), ...replica]);
  stage.defer(async () => {
    await redis.kill();
    await rm(dir, { recursive: true, force: true });
  });
  await redis.start();
  return redis;
}
