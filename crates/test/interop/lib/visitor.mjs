// A bare client on one WebSocket: the default parser, and nothing that an official client does by itself. It is cheap,
// so that one process can be hundreds of them, and it has no manners: it goes on for as long as its connection lets it,
// whatever it was told.

import { EventEmitter } from 'node:events';
import { performance } from 'node:perf_hooks';
import WebSocket from 'ws';
import { address } from './wire.mjs';
import { limited, WITHIN_MS } from './wait.mjs';

/**
 * Emits `connecting` before its CONNECT is sent, `connect` when that is answered, `refused` with the error's payload,
 * `event` with name and arguments, behind them a function that acknowledges it if that is asked for, `disconnect` for a DISCONNECT packet and `close` when the transport is gone.
 */
export class Visitor extends EventEmitter {
  #socket;
  #front;
  #acks = new Map();
  #asked = 0;

  constructor(stage, url, auth, { namespace = '/' } = {}) {
    super();
    this.auth = auth;
    this.#front = namespace === '/' ? '' : `${namespace},`;
    this.#socket = new WebSocket(address(url.replace('http', 'ws'), { transport: 'websocket' }), { perMessageDeflate: false });
    stage.defer(() => this.end());
    this.#socket.on('message', (data, isBinary) => !isBinary && this.#read(data.toString()));
    this.#socket.on('error', () => {});
    this.#socket.on('close', () => this.emit('close'));
    this.connected = new Promise((resolve, reject) => {
      this.once('connect', () => resolve(this));
      this.once('refused', (payload) => reject(Object.assign(new Error(`refused: ${payload.message}`), payload)));
      this.once('close', () => reject(new Error('the transport was closed before CONNECT was answered')));
    });
    this.connected.catch(() => {});
  }

  /** Whether its transport is open. */
  get isOpen() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  #read(frame) {
    if (frame === '2') return this.send('3');
    if (frame.startsWith('0')) {
      this.emit('connecting');
      this.connectSentAt = performance.now();
      return this.send(`40${this.#front}${JSON.stringify(this.auth)}`);
    }
    const kind = frame.slice(0, 2);
    // What is of another namespace is not looked at.
    if (!frame.startsWith(this.#front, 2) || (this.#front === '' && frame[2] === '/')) return undefined;
    const rest = frame.slice(2 + this.#front.length);
    if (kind === '42') return this.#event(rest);
    if (kind === '43') return this.#acknowledged(rest);
    if (kind === '40') {
      this.id = JSON.parse(rest).sid;
      return this.emit('connect');
    }
    if (kind === '44') return this.emit('refused', JSON.parse(rest));
    if (kind === '41') return this.emit('disconnect');
    return undefined;
  }

  #event(rest) {
    const from = rest.indexOf('[');
    const id = rest.slice(0, from);
    const acknowledge = id === '' ? [] : [(...args) => this.send(`43${this.#front}${id}${JSON.stringify(args)}`)];
    return this.emit('event', ...JSON.parse(rest.slice(from)), ...acknowledge);
  }

  #acknowledged(rest) {
    const from = rest.indexOf('[');
    const id = rest.slice(0, from);
    const then = this.#acks.get(id);
    this.#acks.delete(id);
    then?.(...JSON.parse(rest.slice(from)));
  }

  /** Sends one frame, if there is anything left to send it on. */
  send(frame) {
    if (this.isOpen) this.#socket.send(frame);
  }

  /** Joins another namespace, which keeps the transport open when this one ends. */
  linger() {
    this.send('40/other,{}');
  }

  /** Emits without asking for an acknowledgement. */
  tell(event, argument) {
    this.send(`42${this.#front}${JSON.stringify([event, argument])}`);
  }

  /** Emits; `then` is called with the acknowledgement, if one ever comes. */
  request(event, argument, then) {
    const id = String(this.#asked);
    this.#asked += 1;
    this.#acks.set(id, then);
    this.send(`42${this.#front}${id}${JSON.stringify([event, argument])}`);
  }

  /** The acknowledgement of `event`. */
  ask(event, argument, within = WITHIN_MS) {
    return limited(`${event} is acknowledged`, new Promise((resolve) => this.request(event, argument, resolve)), within);
  }

  /** The connection is gone without a goodbye. */
  end() {
    this.#socket.terminate();
  }
}

/** A visitor whose CONNECT was answered. */
export async function visit(stage, url, auth, options = {}) {
  const visitor = new Visitor(stage, url, auth, options);
  return limited('CONNECT is answered', visitor.connected, options.within ?? WITHIN_MS);
}
