// The cluster as its operator sees it: containers, the load balancer's view of them, Prometheus.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { request } from '../interop/lib/wire.mjs';
import { until } from '../interop/lib/wait.mjs';

const run = promisify(execFile);

/** Where clients go: the load balancer. */
export const URL = 'http://127.0.0.1:8080';

const PROMETHEUS = 'http://127.0.0.1:9090';

/** Far above what a step takes on a busy machine. */
export const PATIENCE_MS = 60_000;

async function output(program, args, input) {
  const running = run(program, args, { maxBuffer: 64 << 20 });
  if (input !== undefined) running.child.stdin.end(input);
  return (await running).stdout.trim();
}

export const docker = (...args) => output('docker', args);
export const compose = (...args) => docker('compose', ...args);

/** What `program` in the container of `service` says to `input`. */
export const tell = (input, service, ...program) => output('docker', ['compose', 'exec', '-T', service, ...program], input);

/** What `docker inspect` knows of a service's containers, also of those that do not run. */
async function inspect(service) {
  const ids = (await compose('ps', '--all', '--quiet', service)).split('\n').filter(Boolean);
  return ids.length === 0 ? [] : JSON.parse(await docker('inspect', ...ids));
}

const addressOf = ({ NetworkSettings }) => Object.values(NetworkSettings.Networks)[0].IPAddress;

/** The address of the only container of a service. */
export async function address(service) {
  const [container] = await inspect(service);
  return addressOf(container);
}

/** One gateway, as it runs now: started again, it is another node. */
class Gateway {
  constructor(container, node) {
    this.id = container.Id;
    this.name = container.Name.slice(1);
    this.pid = container.State.Pid;
    this.node = node;
    this.url = `http://${addressOf(container)}:8080`;
    this.admin = `http://${addressOf(container)}:8081`;
  }

  kill = () => docker('kill', this.id);
  pause = () => docker('pause', this.id);
  unpause = () => docker('unpause', this.id);
  start = () => docker('start', this.id);

  /** Stops it as `docker stop` does, with time to drain, and gives its exit code and what it said about its drain. */
  async stop() {
    await docker('stop', '-t', '40', this.id);
    const [{ State }] = JSON.parse(await docker('inspect', this.id));
    const [said] = (await logged(this.id)).filter(({ message }) => message === 'drained').slice(-1);
    return { exitCode: State.ExitCode, said };
  }

  async readiness() {
    const { status } = await request(`${this.admin}/readyz`);
    return status;
  }

  metrics = async () => (await request(`${this.admin}/metrics`)).body;

  /** Drops, or no longer drops, whatever it sends to `peer`. */
  cut = (peer) => this.#filter('-I', peer);
  heal = (peer) => this.#filter('-D', peer);

  #filter(verb, peer) {
    return output('nsenter', ['--target', String(this.pid), '--net', 'iptables', '--wait', verb, 'OUTPUT', '--destination', peer, '--jump', 'DROP']);
  }
}

/** The lines of a container's log, the fields of each beside one another. */
async function logged(id) {
  const { stdout, stderr } = await run('docker', ['logs', id], { maxBuffer: 64 << 20 });
  return `${stdout}\n${stderr}`.split('\n').filter((line) => line.startsWith('{')).map((line) => {
    const { fields, ...rest } = JSON.parse(line);
    return { ...rest, ...fields };
  });
}

/** The gateways that run; the node's id stands in the line that says that it is ready. */
export async function gateways(service = 'gateway') {
  const running = (await inspect(service)).filter(({ State }) => State.Running);
  const nodes = await Promise.all(running.map(async (container) => {
    const [ready] = (await logged(container.Id)).filter(({ message }) => message === 'ready').slice(-1);
    return new Gateway(container, ready.node);
  }));
  return nodes.sort((one, other) => one.name.localeCompare(other.name, 'en', { numeric: true }));
}

/** How many gateways the load balancer gives newcomers to. */
export async function inRotation() {
  const { body } = await request(`http://${await address('loadbalancer')}:8405/metrics`);
  return Number(/^haproxy_backend_active_servers{proxy="gateways"} (\d+)$/m.exec(body)[1]);
}

/** Waits until that many are, and gives the milliseconds that it took. */
export async function rotation(count, within = PATIENCE_MS) {
  const from = Date.now();
  await until(`the load balancer counts ${count} gateways`, async () => (await inRotation()) === count, within);
  return Date.now() - from;
}

/** The value that Prometheus computes, 0 where there is none. */
export async function query(expression) {
  const { body } = await request(`${PROMETHEUS}/api/v1/query?query=${encodeURIComponent(expression)}`);
  const { data } = JSON.parse(body);
  return Number(data.result[0]?.value[1] ?? 0);
}
