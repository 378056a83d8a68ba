// A real redis-server on a free loopback port with nothing persisted, which can be killed and come back.

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
  #process = null;

  constructor(port, dir, addresses) {
    this.port = port;
    this.#dir = dir;
    this.#addresses = addresses;
    this.url = `redis://127.0.0.1:${port}`;
  }

  async start() {
    const options = ['--port', this.port, '--bind', '127.0.0.1', ...this.#addresses, '--protected-mode', 'no', '--save', '', '--appendonly', 'no', '--dir', this.#dir];
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

/** Starts a server of its own for the stage, on loopback and on `addresses` of this host. */
export async function startRedis(stage, { addresses = [] } = {}) {
  const dir = await mkdtemp(join(tmpdir(), 'tidegate-redis-'));
  const redis = new Redis(await freePort(), dir, addresses);
  stage.defer(async () => {
    await redis.kill();
    await rm(dir, { recursive: true, force: true });
  });
  await redis.start();
  return redis;
}
