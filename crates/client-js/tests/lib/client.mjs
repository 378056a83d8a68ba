// Clients, each closed with its test.

import WebSocket from 'ws';
import { Socket } from '../../src/index.js';
import { Inbox } from './wait.mjs';

/** Tries that a test can wait for. */
export const QUICK = { attempts: 3, delayMs: 10, delayMaxMs: 10, jitter: 0 };

/** A client, and what it was told: `successes`, `failures`, `messages`, `statuses`, `lost`. */
export function client(t, url, options = {}, surroundings = undefined) {
  const told = { successes: new Inbox(), failures: new Inbox(), messages: new Inbox(), statuses: [], lost: new Inbox() };
  const { success, onStatus, ...rest } = options;
  told.socket = new Socket(url, {
    WebSocket,
    reconnect: QUICK,
    success(connected) {
      told.successes.push(connected);
      success?.(connected);
    },
    fail: (failure) => told.failures.push(failure),
    onMessage: (message, acknowledge) => told.messages.push({ message, acknowledge }),
    onStatus(status, detail) {
      told.statuses.push(detail === undefined ? [status] : [status, detail]);
      onStatus?.(status, detail);
    },
    onLost: (lost) => told.lost.push(lost),
    ...rest,
  }, surroundings);
  t.after(() => told.socket.close());
  return told;
}

/** The names of the statuses so far. */
export const names = (told) => told.statuses.map(([status]) => status);
