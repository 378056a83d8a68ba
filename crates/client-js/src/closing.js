// What the end of a connection means.

import { Fail, SocketError } from './fail.js';

/** Authentication was refused; on a connection that was made, the token has expired. */
const UNAUTHENTICATED = 4401;

/** Close codes that one does not come back from. Any other is one to come back from. */
const FINAL = new Map([
  [1000, Fail.CLOSED],
  [1002, Fail.UNEXPECTED],
  [1007, Fail.UNEXPECTED],
  [1009, Fail.UNEXPECTED],
  [4400, Fail.UNEXPECTED],
  [UNAUTHENTICATED, Fail.REFUSED],
  [4403, Fail.REFUSED],
  [4409, Fail.CLOSED],
  [4410, Fail.CLOSED],
]);

/** The server heard nothing for too long. */
const SILENT = 4408;

/** The node drains. */
const DRAINS = 1012;

/** The reasons of `evicted`, as the close codes that follow them. */
const EVICTED = new Map([['replaced', 4409], ['kicked', 4410], ['expired', UNAUTHENTICATED]]);

/** The close code for a session that was told `evicted` with that reason. */
export function evictionCode(reason) {
  return EVICTED.get(reason) ?? 4410;
}

/** One of `Fail` if nobody may come back from `code`, else undefined. */
export function finalFail(code) {
  return FINAL.get(code);
}

/** Whether `code` ends a connection that was made because its token has expired. */
export function isExpiry(code) {
  return code === UNAUTHENTICATED;
}

/** Whether the two sides lost sight of each other, which is no fault of the way between them. */
export function isSilence(code) {
  return code === SILENT;
}

/** Whether a server of ours closed with that code, and nothing in between. */
export function isServers(code) {
  return code >= 4000 || code === DRAINS;
}

/** The error in a close frame's reason, `code: text for people` or only the code; undefined if there is none. */
export function errorIn(reason) {
  const found = /^([a-z_]{1,40})(?:: ?(.*))?$/s.exec(reason ?? '');
  return found === null ? undefined : new SocketError(found[1], found[2] || found[1]);
}

/** The error of a session whose token has expired, whatever that was called. */
export function expiryIn(reason) {
  const found = errorIn(reason);
  return found === undefined || found.code === 'expired' ? new SocketError('token_expired', 'the token has expired') : found;
}
