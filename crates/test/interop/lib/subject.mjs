// Who is judged: the Tidegate binary, or with SUBJECT=stock the stock server, which proves the test itself.

import { startTidegate } from './tidegate.mjs';
import { startStock } from './stock.mjs';

export const IS_STOCK = process.env.SUBJECT === 'stock';

/** For `{ skip }` of tests about what only Tidegate promises. */
export const TIDEGATE_ONLY = IS_STOCK ? 'stock Socket.IO does not do this' : false;

/** Starts the subject with settings that both understand. `redis` joins several of them. */
export function startSubject(stage, given = {}) {
  return IS_STOCK ? startStock(stage, given) : startTidegate(stage, given);
}
