// The plain protocol of `/ws` by hand: a WebSocket of `ws`, JSON or MessagePack, and nothing that hides the wire.

import notepack from 'notepack.io';
import WebSocket from 'ws';
import { Inbox, limited, WITHIN_MS } from './wait.mjs';
import { handshake } from './wire.mjs';

export const JSON_FORMAT = 'tidegate.v1.json';
export const MSGPACK_FORMAT = 'tidegate.v1.msgpack';

/** Bytes as they stand in JSON. */
const packed = (key, value) => (Buffer.isBuffer(value) ? { $binary: value.toString('base64') } : value);
const isBinary = (value) => value !== null && typeof value === 'object' && Object.keys(value).join() === '$binary';
const unpacked = (key, value) => (isBinary(value) ? Buffer.from(value.$binary, 'base64') : value);

/** A buffer's own `toJSON` would run before the replacer sees it. */
function bare(value) {
  if (Buffer.isBuffer(value)) return packed('', value);
  if (Array.isArray(value)) return value.map(bare);
  if (value?.constructor === Object) return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, bare(each)]));
  return value;
}

export class Plain {
  #ended;
  #next = 0;
  #skipped = [];

  constructor(socket, isPacked) {
    this.socket = socket;
    this.isPacked = isPacked;
    this.inbox = new Inbox();
    /** WebSocket pings so far. */
    this.pings = 0;
    socket.on('ping', () => (this.pings += 1));
    socket.on('message', (data, isBinary) => this.inbox.push(this.#decode(data, isBinary)));
    this.#ended = new Promise((resolve) => {
      socket.on('close', (code, reason) => {
        this.inbox.end(`close ${code} ${reason}`);
        resolve({ code, reason: reason.toString() });
      });
    });
    socket.on('error', () => {});
  }

  #decode(data, isBinary) {
    if (isBinary !== this.isPacked) return data.toString();
    return isBinary ? notepack.decode(data) : data.toString() === 'pong' ? 'pong' : JSON.parse(data.toString(), unpacked);
  }

  /** Sends a message; a string is sent as the text it is. */
  send(message) {
    if (typeof message === 'string') this.socket.send(message);
    else this.socket.send(this.isPacked ? notepack.encode(message) : JSON.stringify(bare(message)));
  }

  next(what = 'a message', within = WITHIN_MS) {
    if (this.#skipped.length > 0) return Promise.resolve(this.#skipped.shift());
    return this.inbox.next(what, within);
  }

  /** The reply to a message with a fresh id. What else arrives meanwhile waits for `next`. */
  async ask(message, within = WITHIN_MS) {
    const id = message.id ?? (this.#next += 1);
    this.send({ ...message, id });
    const skipped = [];
    try {
      for (;;) {
        const answer = await this.inbox.next(`the reply to ${message.op}`, within);
        if (answer.op === 'reply' && answer.id === id) return answer;
        skipped.push(answer);
      }
    } finally {
      this.#skipped.push(...skipped);
    }
  }

  /** `{ code, reason }` of the close. */
  ended(within = WITHIN_MS) {
    return limited('the WebSocket is closed', this.#ended, within);
  }
}

/** Opens `/ws`, or gives the refusal: a Plain, or `{ status, headers, body }`. */
export function open(stage, url, { formats = [JSON_FORMAT], headers = {}, autoPong = true, ca } = {}) {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/ws`, formats, { headers, autoPong, ca, perMessageDeflate: false });
  stage.defer(() => socket.terminate());
  const plain = new Plain(socket, formats[0] === MSGPACK_FORMAT);
  return handshake(socket, plain);
}

/** A client that is connected as `auth` says; what it was told is in `connected`. */
export async function enter(stage, url, auth, { namespace, ...options } = {}) {
  const plain = await open(stage, url, options);
  plain.send({ op: 'connect', auth, ...(namespace ? { namespace } : {}) });
  plain.connected = await plain.next('connected');
  if (plain.connected.op !== 'connected') throw new Error(`told ${JSON.stringify(plain.connected)}`);
  return plain;
}
