// A little of everything that a cluster does, by the official client, so that every metric moves: rooms, durable messages
// with and without their recipients, users who are there twice, readers that do not read, and what is refused.

import { ask, connect, connected, client, MESSAGE_PACK, POLLING, WEBSOCKET } from '../interop/lib/client.mjs';
import { Stage } from '../interop/lib/stage.mjs';
import { pause } from '../interop/lib/wait.mjs';
import { connectFrames, upgrade } from '../interop/lib/wire.mjs';

const MEMBERS = 24;
const ROOMS = 4;
/** Fewer than an alert wants. */
const SLEEPERS = 3;
const KINDS = [WEBSOCKET, { ...WEBSOCKET, ...MESSAGE_PACK }, POLLING];

/** Begins; `stop()` ends it and tells how often what was done. Whatever fails is thrown there. */
export function load(urls) {
  const stage = new Stage();
  const done = {};
  let stopping = false;
  const did = (what) => (done[what] = (done[what] ?? 0) + 1);
  const url = (index) => urls[index % urls.length];
  /** `step` again and again, `every` milliseconds. */
  async function repeat(every, step) {
    for (let round = 0; !stopping; round += 1) {
      await step(round);
      await pause(every);
    }
  }

  async function rooms() {
    const members = await Promise.all(
      Array.from({ length: MEMBERS }, (_, index) => connect(stage, url(index), { ...KINDS[index % KINDS.length], auth: { user: `member-${index}` } })),
    );
    members.forEach((member) => member.on('message', () => did('received')));
    await Promise.all(members.map((member, index) => ask(member, 'join', `room-${index % ROOMS}`)));
    await repeat(20, async (round) => {
      const member = members[round % MEMBERS];
      await ask(member, 'publish', { room: `room-${round % ROOMS}`, data: { round } });
      did('published');
      if (round % 10 === 0) await ask(member, 'broadcast', { data: 'to all', volatile: true });
      if (round % 10 === 1) await ask(member, 'heartbeat', null);
      if (round % 10 === 2) {
        await ask(member, 'join', 'elsewhere');
        await ask(member, 'leave', 'elsewhere');
      }
      // Refused: there is no room without a name, and no backend.
      if (round % 10 === 3) await ask(member, 'join', '');
      if (round % 10 === 4) await ask(member, 'something else');
    });
  }

  /** Five users for whom messages wait, of whom one comes at a time and acknowledges all. */
  async function mail() {
    const sender = await connect(stage, url(0), { ...WEBSOCKET, auth: { user: 'sender' } });
    await repeat(200, async (round) => {
      for (let user = 0; user < 5; user += 1) {
        const { ok } = await ask(sender, 'send', { to: `reader-${user}`, data: { round } });
        did(ok ? 'stored' : 'not stored');
      }
      if (round % 10 !== 9) return;
      const reader = client(stage, url(round), { ...WEBSOCKET, auth: { user: `reader-${Math.floor(round / 10) % 5}` } });
      reader.on('offline_message', (_, acknowledge) => acknowledge());
      const all = new Promise((resolve) => reader.once('offline_message_ack', resolve));
      await connected(reader);
      await ask(reader, 'online', {});
      await all;
      await ask(reader, 'heartbeat', null);
      did('read');
      reader.disconnect();
    });
  }

  /** One user on one device, who connects anew on the next node without having left the last. */
  const twins = () =>
    repeat(700, async (round) => {
      const twin = await connect(stage, url(round), { ...WEBSOCKET, auth: { user: 'twin' } });
      twin.once('evicted', () => did('evicted'));
    });

  async function sleepers() {
    const waker = await connect(stage, url(1), WEBSOCKET);
    const data = 'x'.repeat(50_000);
    for (let each = 0; each < SLEEPERS && !stopping; each += 1) {
      const sleeper = await connectFrames(stage, url(each));
      sleeper.send('421["join","much"]');
      await sleeper.startingWith('431');
      sleeper.socket.pause();
      for (let message = 0; message < 100 && !stopping; message += 1) {
        await ask(waker, 'publish', { room: 'much', data });
        await pause(10);
      }
      did('slept');
    }
  }

  /** A page of another origin, which no node lets in. */
  const strangers = () =>
    repeat(2_000, async (round) => {
      await upgrade(stage, url(round), {}, { headers: { origin: 'http://elsewhere.example' } });
      did('turned away');
    });

  const parts = [rooms(), mail(), twins(), sleepers(), strangers()];
  const ended = Promise.all(parts);
  // It is thrown when somebody asks.
  ended.catch(() => {});
  return {
    async stop() {
      stopping = true;
      try {
        await ended;
      } finally {
        await stage.close();
      }
      return done;
    },
  };
}
