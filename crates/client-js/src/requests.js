// What was asked and is not answered yet, in the order of the asking.

import { bytesIn } from './binary.js';
import { SocketError } from './fail.js';

export class Requests {
  #entries = new Map();
  #bytes = 0;
  #countMax;
  #bytesMax;
  #eachBytesMax;

  /** Holds at most `countMax` requests, `bytesMax` bytes of them as they are sent, and `eachBytesMax` of one. */
  constructor({ countMax, bytesMax, eachBytesMax }) {
    this.#countMax = countMax;
    this.#bytesMax = bytesMax;
    this.#eachBytesMax = eachBytesMax;
  }

  get size() {
    return this.#entries.size;
  }

  get(id) {
    return this.#entries.get(id);
  }

  /** Keeps `entry`, which has `id` and `text`. Throws `too_large`, `queue_full`, or `bad_request` if the id is taken. */
  add(entry) {
    if (this.#entries.has(entry.id)) throw new SocketError('bad_request', `a request with the id ${entry.id} is not answered yet`);
    entry.bytes = bytesIn(entry.text);
    if (entry.bytes > this.#eachBytesMax) throw new SocketError('too_large', `more than ${this.#eachBytesMax} bytes`);
    if (this.#entries.size >= this.#countMax) throw new SocketError('queue_full', `${this.#countMax} requests wait for an answer`);
    if (this.#bytes + entry.bytes > this.#bytesMax) throw new SocketError('queue_full', `what waits for an answer would exceed ${this.#bytesMax} bytes`);
    this.#entries.set(entry.id, entry);
    this.#bytes += entry.bytes;
  }

  /** Gives up the entry with that id, if there is one. */
  take(id) {
    const entry = this.#entries.get(id);
    if (entry === undefined) return undefined;
    this.#entries.delete(id);
    this.#bytes -= entry.bytes;
    return entry;
  }

  /** The oldest first. */
  all() {
    return [...this.#entries.values()];
  }
}
