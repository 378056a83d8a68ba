// The plain protocol over a WebSocket: one connection, from its opening to its end.

import { parse } from './binary.js';

const SUBPROTOCOL = 'tidegate.v1.json';

/** For the closing handshake, in milliseconds, where the implementation lets us end it. */
const CLOSING_WITHIN_MS = 1_000;

const OPEN = 1;

function ignore() {}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What each message must have to be one. What is not listed here is free to come later. */
const SHAPES = {
  connected: ({ session }) => typeof session === 'string',
  reply: ({ ok, error }) => ok === true || (ok === false && typeof error?.code === 'string'),
  event: ({ event, args }) => ['string', 'number'].includes(typeof event) && Array.isArray(args),
  offline: ({ id }) => typeof id === 'string',
  offline_end: ({ count }) => Number.isInteger(count),
  evicted: ({ reason }) => typeof reason === 'string',
};

/** The message in a text frame. Throws SyntaxError if it is none. */
export function readMessage(text) {
  const message = parse(text);
  if (!isObject(message) || typeof message.op !== 'string') throw new SyntaxError('a message is an object with op');
  if (Object.hasOwn(SHAPES, message.op) && !SHAPES[message.op](message)) throw new SyntaxError(`a malformed ${message.op}`);
  return message;
}

/**
 * Calls `events`: `open()`; `heard()` for anything that comes; `message(message)`; and once `closed({ code, reason,
 * error?, local? })`, after which it is of no use any more. `local` says that the code is ours and not the server's.
 */
export class PlainTransport {
  #events;
  #socket = null;
  #error;

  constructor({ url, WebSocket }, events) {
    this.#events = events;
    try {
      this.#socket = new WebSocket(url, [SUBPROTOCOL]);
    } catch (error) {
      // As a page fetched over HTTPS is told that asks for ws://.
      queueMicrotask(() => this.#end({ code: 1006, reason: '', error, local: true }));
      return;
    }
    const socket = this.#socket;
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => this.#events?.open();
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onerror = (event) => (this.#error = event.error ?? this.#error);
    socket.onclose = ({ code, reason }) => this.#end({ code, reason: String(reason ?? ''), error: this.#error });
  }

  /** Bytes that were given to `send` and are not on the network yet. */
  get buffered() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** Sends a message, encoded. False if it cannot be sent. */
  send(text) {
    if (this.#socket?.readyState !== OPEN) return false;
    this.#socket.send(text);
    return true;
  }

  ping() {
    this.send('ping');
  }

  /** The answer to that question is of no interest any more. */
  forget() {}

  /** Ends it without a word to `events`: politely, or at once where the other side is not there. */
  close({ polite = false } = {}) {
    const socket = this.#release();
    if (socket === null) return;
    const isOpen = socket.readyState === OPEN;
    if (polite && isOpen) socket.send('{"op":"close"}');
    if (isOpen) socket.close(1000);
    else socket.close();
    // Browsers bound the closing handshake themselves. Where one can, nothing is left behind.
    if (typeof socket.terminate !== 'function') return;
    if (!polite || !isOpen) return socket.terminate();
    const timer = setTimeout(() => socket.terminate(), CLOSING_WITHIN_MS);
    socket.onclose = () => clearTimeout(timer);
  }

  #receive(data) {
    if (this.#events === null) return;
    this.#events.heard();
    if (data === 'pong') return;
    let message;
    try {
      if (typeof data !== 'string') throw new SyntaxError('a binary frame');
      message = readMessage(data);
    } catch (error) {
      const events = this.#events;
      this.close();
      events?.closed({ code: 1002, reason: 'not a message of the protocol', error, local: true });
      return;
    }
    this.#events?.message(message);
  }

  #end(end) {
    const events = this.#events;
    this.#release();
    events?.closed(end);
  }

  #release() {
    const socket = this.#socket;
    this.#socket = null;
    this.#events = null;
    if (socket === null) return null;
    socket.onopen = null;
    socket.onmessage = null;
    socket.onclose = null;
    // Not null: an implementation on Node's EventEmitter throws an error that nobody listens to.
    socket.onerror = ignore;
    return socket;
  }
}
