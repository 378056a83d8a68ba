// A cell: a network namespace for one node, with a link to its clients and another to Redis, which can be cut.
//
//   this host ── link 0 ── cell            clients and the admin port
//   this host ── switch ── cell            Redis; a cut takes the cell's port out of the switch
//
// The switch is a bridge in a namespace of its own, so that a cut shows on neither side: no interface goes down, no
// address becomes unreachable, packets are just lost. Needs root, iproute2 and nsenter; `MISSING` says what of it is
// not there.

import { execFile, spawnSync } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const ip = (line) => run('ip', line.split(' '));

/** Why no cell can be had here; undefined if one can. */
export const MISSING = (() => {
  if (process.getuid() !== 0) return 'network namespaces need root';
  const tools = [['ip', '-V'], ['nsenter', '-V']];
  const absent = tools.filter(([tool, flag]) => spawnSync(tool, [flag]).status !== 0);
  return absent.length > 0 ? `network namespaces need ${absent.map(([tool]) => tool).join(' and ')}` : undefined;
})();

/** 198.18.0.0/15, kept for measuring networks, in nets of four addresses. */
const NETS = 1 << 15;
let opened = 0;

/** The namespaces to remove, also when this process is told to go, or goes, before their stage closes. */
const spaces = new Set();

function trap() {
  process.once('exit', () => spaces.forEach((space) => spawnSync('ip', ['netns', 'del', space])));
  for (const [signal, number] of [['SIGINT', 2], ['SIGTERM', 15]]) process.once(signal, () => process.exit(128 + number));
}

function net() {
  const number = (process.pid * 16 + opened) % NETS;
  opened += 1;
  const at = (host) => {
    const value = ((198 << 24) | (18 << 16)) + number * 4 + host;
    return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
  };
  return { here: at(1), there: at(2) };
}

export class Cell {
  constructor(name) {
    this.name = name;
    this.switch = `${name}s`;
    this.clients = net();
    this.redis = net();
  }

  static async open(stage) {
    if (opened === 0) trap();
    const cell = new Cell(`tg${process.pid}n${opened}`);
    const { name } = cell;
    for (const space of [cell.name, cell.switch]) {
      await ip(`netns add ${space}`);
      spaces.add(space);
      // Its interfaces, and with them their other ends, go with it.
      stage.defer(async () => {
        await ip(`netns del ${space}`);
        spaces.delete(space);
      });
      await ip(`-n ${space} link set lo up`);
    }
    // Interfaces that this host keeps an end of.
    for (const [link, space, { here, there }] of [['c', name, cell.clients], ['r', cell.switch, cell.redis]]) {
      await ip(`link add ${name}${link} type veth peer name host netns ${space}`);
      await ip(`addr add ${here}/30 dev ${name}${link}`);
      await ip(`link set ${name}${link} up`);
      if (space === name) await ip(`-n ${space} addr add ${there}/30 dev host`);
      await ip(`-n ${space} link set host up`);
    }
    await ip(`-n ${cell.switch} link add bridge type bridge`);
    await ip(`-n ${cell.switch} link add cell type veth peer name redis netns ${name}`);
    for (const port of ['host', 'cell']) await ip(`-n ${cell.switch} link set ${port} master bridge`);
    for (const port of ['bridge', 'cell']) await ip(`-n ${cell.switch} link set ${port} up`);
    await ip(`-n ${name} addr add ${cell.redis.there}/30 dev redis`);
    await ip(`-n ${name} link set redis up`);
    return cell;
  }

  /** Where a program in the cell listens for clients. */
  get address() {
    return this.clients.there;
  }

  /** Where Redis on this host must listen for the cell. */
  get redisAddress() {
    return this.redis.here;
  }

  /** Every packet between the cell and Redis is lost from now on. */
  async cut() {
    await ip(`-n ${this.switch} link set cell nomaster`);
  }

  async heal() {
    await ip(`-n ${this.switch} link set cell master bridge`);
  }
}
