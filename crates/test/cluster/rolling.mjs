// All gateways restarted one after the other, while clients of every kind are there and letters are written.

import assert from 'node:assert/strict';
import { client, connected, WEBSOCKET } from '../interop/lib/client.mjs';
import { Mail } from '../interop/lib/mail.mjs';
import { pause, until } from '../interop/lib/wait.mjs';
import { busiestSecond, Crowd } from './crowd.mjs';
import { gateways, rotation, URL } from './lab.mjs';

/** Clients of each way, and pairs of a sender and a recipient. */
const EACH = 24;
const PAIRS = 6;

/** drain.connections_per_second of compose.test.yml. */
const PACE = 10;

/** An answer that takes longer is taken for lost, and the letter is sent again under its name. */
const ANSWER_MS = 3_000;

/** Nobody is away for longer than this, which is twice a client's longest pause before it first comes back, and the rest. */
const ABSENCE_MS = 6_000;

/** Somebody who writes letters, the next one when the last one is promised. */
async function write(socket, mail, sender, recipient, isOver) {
  for (let number = 0; !isOver(); number += 1) {
    const name = Mail.name(sender, number);
    mail.write(sender, number, recipient);
    for (let promised = false; !promised;) {
      const answer = await socket.timeout(ANSWER_MS).emitWithAck('send', { to: recipient, event: 'letter', data: name, id: name }).catch(() => ({ ok: false }));
      promised = answer.ok;
      if (!promised) await pause(100);
    }
    mail.promise(name);
    await pause(20);
  }
}

/** Somebody who gets them, and is ready again whenever he comes back. */
function receive(socket, mail, recipient) {
  const take = (name, acknowledge) => {
    mail.receive(name, recipient);
    acknowledge();
  };
  socket.on('letter', (name, _, acknowledge) => take(name, acknowledge));
  socket.on('offline_message', ({ data }, acknowledge) => take(data, acknowledge));
  const online = () => socket.emit('online', {}, ({ ok }) => ok || setTimeout(online, 500));
  socket.on('connect', online);
}

/** Restarts one, and holds it to its pace: gives how many it sent away. */
async function restart(gateway, crowd) {
  const here = crowd.on(gateway.node);
  const { exitCode, said } = await gateway.stop();
  assert.equal(exitCode, 0, `${gateway.name} exits with 0`);
  assert.equal(said?.finished, true, `${gateway.name} finished its drain: ${JSON.stringify(said)}`);
  const gone = here.filter(({ leftFrom }) => leftFrom === gateway.node);
  assert.ok(gone.length >= EACH / 2, `only ${gone.length} were on ${gateway.name}`);
  // A poll that finds another node ends in an error; up to the end of the drain each of them finds its own.
  for (const { user, way, leftBy } of gone) assert.equal(leftBy, 'transport close', `how ${user}, ${way}, was sent away`);
  const closings = gone.map(({ leftAt }) => leftAt);
  // Whose turn it is when is up to the node, so the crowd's may all be early or late ones.
  const planned = (said.closed - 1) / PACE;
  assert.ok(said.elapsed_ms / 1_000 > 0.9 * planned, `${said.closed} closings took ${said.elapsed_ms} ms instead of ${planned} s`);
  const took = (Math.max(...closings) - Math.min(...closings)) / 1_000;
  assert.ok(took < 1.3 * planned + 1, `${said.closed} closings took ${took} s instead of ${planned} s`);
  const busiest = busiestSecond(closings);
  assert.ok(busiest <= 1.5 * PACE, `${busiest} closings in one second`);
  await gateway.start();
  await rotation(gateway.siblings);
  await crowd.complete();
  // Each comes back within a second or so of its closing, at its own random time, so that a second may have those of two.
  const returns = busiestSecond(gone.map(({ readyAt }) => readyAt));
  assert.ok(returns <= 2 * PACE, `${returns} came back in one second`);
  return { sent: said.closed, busiest, returns };
}

export async function rollingRestart(stage) {
  const crowd = new Crowd(stage, URL, 'rolling');
  await crowd.admit(EACH);
  const mail = new Mail();
  let isOver = false;
  const writers = [];
  for (let pair = 0; pair < PAIRS; pair += 1) {
    const [sender, recipient] = [`sender-${pair}`, `recipient-${pair}`];
    // Half of them use WebSocket only, half begin by polling.
    const options = pair % 2 === 0 ? WEBSOCKET : {};
    receive(client(stage, URL, { ...options, auth: { user: recipient } }), mail, recipient);
    const socket = await connected(client(stage, URL, { ...options, auth: { user: sender } }));
    writers.push(write(socket, mail, sender, recipient, () => isOver));
  }
  const all = await gateways();
  const drains = [];
  for (const gateway of all) {
    gateway.siblings = all.length;
    drains.push(await restart(gateway, crowd));
  }
  isOver = true;
  await Promise.all(writers);
  await until('every letter that was promised is there', () => mail.missing.length === 0, 20_000);
  assert.deepEqual(mail.violations, []);
  assert.ok(mail.promised > 1_000, `only ${mail.promised} letters were written`);
  await crowd.hearEachOther();
  const absences = crowd.members.flatMap((member) => member.absences);
  const longest = Math.max(...absences);
  assert.ok(longest < ABSENCE_MS, `somebody was away for ${longest} ms`);
  const sent = drains.map(({ sent: count, busiest, returns }) => `${count} (in the busiest second ${busiest}, and ${returns} back)`).join(', ');
  return `sent away ${sent}; away for ${longest} ms at the longest; ${mail.promised} letters promised, ${mail.received} received, ${mail.repeated} of them again`;
}
