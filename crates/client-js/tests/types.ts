// Compiled and never run: what must type-check, and behind @ts-expect-error what must not.

import { Fail, Socket, SocketError } from 'tidegate-client';
import type { Connected, Failure, Lost, Message, Options, SendReply, Status, Waiting } from 'tidegate-client';

const options: Options = {
  success: ({ session, user, reconnected }: Connected) => [session.length, user?.length, reconnected === true],
  fail: ({ code, closeCode }: Failure) => (code === Fail.REFUSED ? closeCode : undefined),
  onMessage(message: Message, acknowledge) {
    if (message.op === 'offline') acknowledge(message.sent_at) === true;
    else if (message.op === 'event' && message.message !== undefined) acknowledge();
    else if (message.op === 'offline_end') message.count.toFixed();
    else if (message.op === 'evicted') message.by?.device?.length;
  },
  onStatus: (status: Status, detail?: Waiting | Failure) => [status, detail],
  onLost: (lost: Lost) => (lost.op === 'join' ? lost.room : lost.error.code),
  auth: async () => ({ token: 'fresh' }),
  reconnect: { attempts: Infinity },
  fallback: 'always',
  payloadBytesMax: 4_000_000,
};

export async function use(): Promise<void> {
  const socket = new Socket('/ws', options);
  await socket.join('lobby');
  const { status }: SendReply = await socket.send('bob', { bytes: new Uint8Array(2), at: new Date() }, { id: 'n1' });
  const stored: boolean = status === 'stored';
  const { users } = await socket.presence({ room: 'lobby' });
  users[0]?.devices.includes('phone');
  await socket.request('publish', { room: 'lobby', data: stored }, { timeoutMs: 100 }).catch((error: SocketError) => [error.code, error.fail]);
  new Socket({ href: 'wss://example.org' }, { reconnect: Socket.RECONNECT_PATIENT, auth: { user: 'ann' } });

  // @ts-expect-error There is no such status.
  socket.status === 'open';
  // @ts-expect-error Frozen.
  Fail.CLOSED = 6;
  // @ts-expect-error Only true, false and 'always'.
  options.fallback = 'never';
  // @ts-expect-error A room is a string.
  socket.join(7);
  // @ts-expect-error There is no such way to acknowledge.
  socket.online({ ack: 'all' });
}
