// The load tool as a program: run to its end, with the record it leaves.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import assert from 'node:assert/strict';
import { limited } from './wait.mjs';

/** The binary, and the scenarios as files that come with it. */
const BINARY = process.env.LOADTEST_BIN ?? fileURLToPath(new URL('../../../../target/debug/tidegate-loadtest', import.meta.url));
export const SCENARIOS = fileURLToPath(new URL('../../../../loadtest/scenarios/', import.meta.url));

/** Below what a test may take. */
const RUN_WITHIN_MS = 55_000;

/** A folder that goes with the stage. */
export async function folder(stage) {
  const path = await mkdtemp(join(tmpdir(), 'tidegate-loadtest-'));
  stage.defer(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** `{ 'in-flight': 4, url: [a, b], users: true }` as arguments. */
function flags(settings) {
  return Object.entries(settings).flatMap(([name, values]) => [values].flat().map((value) => `--${name}=${value}`));
}

/** Runs the tool: `{ code, stdout, stderr, record }`, with the line of JSON that it has left, if it has. */
export async function load(stage, command, settings = {}) {
  const json = join(await folder(stage), 'record.json');
  const recorded = settings.url === undefined || settings.json ? {} : { json };
  const child = spawn(BINARY, [...command, ...flags({ ...settings, ...recorded })], { stdio: ['ignore', 'pipe', 'pipe'] });
  stage.defer(() => child.kill('SIGKILL'));
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  const [code] = await limited(`the load tool ends: ${command.join(' ')}`, once(child, 'close'), RUN_WITHIN_MS).catch((failure) => {
    throw new Error(`${failure.message}\n${stdout}${stderr}`);
  });
  const line = await readFile(json, 'utf8').catch(() => undefined);
  return { code, stdout, stderr, record: line && JSON.parse(line) };
}

/** The figures of a run that must be sound. */
export async function sound(stage, command, settings) {
  const { code, stdout, stderr, record } = await load(stage, command, settings);
  assert.equal(code, 0, `${command.join(' ')} ${JSON.stringify(settings)}\n${stdout}${stderr}`);
  assert.match(stdout, /^ {2}sound: none /m);
  assert.ok(Object.values(record.faults).length > 0 && Object.values(record.faults).every((count) => count === 0));
  return record.figures;
}
