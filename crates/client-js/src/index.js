// What the package offers.

export { Socket } from './socket.js';
export { Fail, SocketError } from './fail.js';
