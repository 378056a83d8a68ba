// A stock Node server on the cluster's Redis, with clients of its own and a record of everything that went wrong.

import assert from 'node:assert/strict';
import { startStock } from './stock.mjs';

/** A peer; at the end of the stage its Redis clients and adapters must have raised no error. */
export async function startPeer(stage, redis, options = {}) {
  const peer = await startStock(stage, { redis, ...options });
  stage.defer(() => assert.deepEqual(peer.errors, [], 'errors raised on the Node peer'));
  return peer;
}
